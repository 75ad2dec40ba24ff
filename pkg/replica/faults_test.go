package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/channel/channeltest"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
)

func TestReplica_LargeFilesOverBrokenConnections(t *testing.T) {
	r := newRig(t)
	c := r.newClient(2, config.ReadWrite)
	const size = 24 << 20
	r.presto.Write("down", random(size))
	c.presto.Write("up", random(size))
	r.gate.cutAfter.Store(5 << 20)
	r.gate.again = 5 << 20
	c.start()
	r.quiet(c)
	st := c.rep.Status()
	if cuts := r.gate.cuts.Load(); cuts < 3 {
		t.Errorf("only %d cuts", cuts)
	}
	if st.In > size*3/2 || st.Out > size*2 {
		t.Errorf("%d bytes in and %d out for files of %d: not resumed", st.In, st.Out, size)
	}
}

// The answer to a push is lost, again and again: nothing may be done twice. That
// own records come back once and in order is what the fake presto checks.
func TestReplica_LostAnswersRepeatNothing(t *testing.T) {
	var lost atomic.Int64
	r := newRig(t, func(r *rig) {
		r.presto.BeforeAccept = func(groups []kml.Group) error {
			if lost.Add(1)%2 == 1 {
				r.gate.deaf.Store(true) // from here on the client hears nothing
			}
			return nil
		}
		r.presto.BeforeSync = func() error {
			if r.gate.deaf.Load() {
				r.gate.cut()
				r.gate.deaf.Store(false)
			}
			return nil
		}
	})
	c := r.newClient(2, config.ReadWrite)
	c.start()
	for i := range 8 {
		fill(c.presto, fmt.Sprint("dir", i), 20)
		c.presto.Write("same", random(100+i))
		own := c.presto.State().Own.Seq
		if err := c.presto.Wait(t.Context(), func(s channel.Fileset) bool { return s.Confirmed.Seq >= own }); err != nil {
			t.Fatal(err)
		}
	}
	r.quiet(c)
	if lost.Load() < 8 {
		t.Errorf("%d answers could be lost", lost.Load())
	}
}

func TestReplica_RestartsOfEverybody(t *testing.T) {
	r := newRig(t)
	c, d := r.startClient(2), r.startClient(3)
	for i := range 5 {
		fill(r.presto, fmt.Sprint("s", i), 100)
		fill(c.presto, fmt.Sprint("c", i), 100)
		fill(d.presto, fmt.Sprint("d", i), 100)
		c.presto.Write(fmt.Sprint("c", i, "/large"), random(3<<20))
		switch i {
		case 0:
			c.stop()
			c.start()
		case 1:
			r.stopServer()
			r.startServer()
		case 2:
			r.gate.cut()
		case 3:
			d.stop()
			r.stopServer()
			r.startServer()
			d.start()
		}
	}
	r.quiet(c, d)
}

func TestReplica_WorkOffline(t *testing.T) {
	r := newRig(t)
	fill(r.presto, "a", 50)
	c := r.startClient(2)
	r.quiet(c)
	r.gate.setShut(true)
	fill(r.presto, "b", 200)
	fill(c.presto, "c", 200)
	for i := range 100 {
		// Content that is superseded before anybody saw it.
		c.presto.Write("c/often", random(20<<10+i))
		r.presto.Write("b/often", random(100+i))
	}
	c.presto.Rename("a/1", "c/moved")
	r.presto.Remove("a/2")
	c.presto.Write("c/gone", random(50<<10))
	c.presto.Remove("c/gone")
	r.gate.setShut(false)
	r.quiet(c)
}

func TestReplica_SlowPeerDoesNotSlowOthers(t *testing.T) {
	r := newRig(t)
	slow, fast := r.newClient(2, config.ReadWrite), r.startClient(3)
	release := make(chan struct{})
	slow.presto.BeforeApply = func([]kml.Pos, []kml.Group) error { <-release; return nil }
	slow.start()
	fill(r.presto, "a", 500)
	r.quiet(fast)
	close(release)
	r.quiet(slow, fast)
}

func TestReplica_NothingLeavesBeforeItIsDurable(t *testing.T) {
	var origins sync.Map // cache to *channeltest.Presto
	r := newRig(t, func(r *rig) {
		r.presto.BeforeAccept = func(groups []kml.Group) error {
			last := groups[len(groups)-1]
			p, _ := origins.Load(last.Origin)
			if at := p.(*channeltest.Presto).Durable().Own.Seq; at < last.Last {
				t.Errorf("own record %d was pushed and the log is durable to %d", last.Last, at)
			}
			return nil
		}
	})
	c, d := r.newClient(2, config.ReadWrite), r.newClient(3, config.ReadWrite)
	origins.Store(c.presto.Cache(), c.presto)
	origins.Store(d.presto.Cache(), d.presto)
	for _, x := range []*client{c, d} {
		x.presto.BeforeApply = func(ends []kml.Pos, groups []kml.Group) error {
			if at := r.presto.Durable().Order.Seq; at < ends[len(ends)-1].Seq {
				t.Errorf("position %v is here and the server's log is durable to %d", ends[len(ends)-1], at)
			}
			return nil
		}
		x.start()
	}
	fill(r.presto, "s", 100)
	fill(c.presto, "c", 100)
	fill(d.presto, "d", 100)
	r.quiet(c, d)
}

// errorOf waits for an error in the status that has some words in it.
func (c *client) errorOf(t *testing.T, words string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		if st := c.rep.Status(); strings.Contains(st.Error, words) {
			return st.Error
		}
	}
	t.Fatalf("no error says %q: %+v", words, c.rep.Status())
	return ""
}

func TestReplica_UnknownKey(t *testing.T) {
	r := newRig(t)
	r.presto.Write("secret", []byte("x"))
	c := r.newClient(2, config.ReadWrite)
	r.grants.mu.Lock()
	clear(r.grants.m)
	r.grants.mu.Unlock()
	c.start()
	c.errorOf(t, "invitation")
	if tree := c.presto.Tree(); len(tree) != 1 {
		t.Errorf("something came through: %v", tree)
	}
	once := c.make()
	if err := once.RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "invitation") {
		t.Errorf("RunOnce: %v", err)
	}
}

func TestReplica_ReadOnlySaysSo(t *testing.T) {
	r := newRig(t)
	c := r.newClient(2, config.ReadOnly)
	c.presto.Write("mine", []byte("x"))
	c.start()
	c.errorOf(t, "reading only")
	r.presto.Write("theirs", []byte("y"))
	end := r.presto.State().Order.Seq
	if err := c.presto.Wait(t.Context(), func(s channel.Fileset) bool { return s.Applied.Seq >= end }); err != nil {
		t.Errorf("it does not follow: %v", err)
	}
}

func TestReplica_MeetingStopsAndLosesNothing(t *testing.T) {
	r := newRig(t)
	r.presto.Write("f", []byte("base"))
	r.presto.Write("g", []byte("base"))
	c, d := r.startClient(2), r.startClient(3)
	r.quiet(c, d)
	r.gate.setShut(true)
	r.presto.Write("g", []byte("first: this goes through"))
	r.presto.Write("f", []byte("the server's"))
	c.presto.Write("f", []byte("the client's"))
	r.gate.setShut(false)
	if text := c.errorOf(t, "merge"); !strings.Contains(text, "at f ") || !c.rep.Status().Blocked {
		t.Errorf("the error does not say what met: %s", text)
	}
	if got, _ := c.presto.Read("f"); string(got) != "the client's" {
		t.Errorf("ours is %q", got)
	}
	if got, _ := r.presto.Read("f"); string(got) != "the server's" {
		t.Errorf("theirs is %q", got)
	}
	if err := c.presto.Wait(t.Context(), func(channel.Fileset) bool {
		got, _ := c.presto.Read("g")
		return bytes.HasPrefix(got, []byte("first"))
	}); err != nil {
		t.Errorf("what came before the meeting: %v", err)
	}
	// One conflict does not stop the others.
	fill(d.presto, "d", 10)
	r.quiet(d)
	once := c.make()
	c.stop()
	if err := once.RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "merge") {
		t.Errorf("RunOnce: %v", err)
	}
}

func TestReplica_ServerWithAnotherHistory(t *testing.T) {
	r := newRig(t)
	fill(r.presto, "a", 20)
	c := r.startClient(2)
	r.quiet(c)
	before := c.presto.Tree()
	uuid := r.presto.State().UUID
	r.stopServer()
	// Restored from an old image, and changed since.
	r.presto = channeltest.New(t, "shared", 1)
	if a, err := r.presto.Attach(t.Context(), "shared", channel.RoleServer, uuid); err != nil {
		t.Fatal(err)
	} else {
		a.KML.Close()
		a.Order.Close()
		a.Stage.Close()
	}
	fill(r.presto, "b", 100)
	r.startServer()
	c.errorOf(t, "history")
	if got := c.presto.Tree(); !slices.Equal(before, got) {
		t.Errorf("something was applied across the fork: %v", got)
	}
}

func TestReplica_RolledBack(t *testing.T) {
	r := newRig(t)
	c := r.startClient(2)
	fill(c.presto, "a", 20)
	r.quiet(c)
	c.stop()
	before := r.presto.Tree()
	c.presto = channeltest.New(t, "shared", 2) // the same cache, as it was in the beginning
	fill(c.presto, "b", 5)
	c.start()
	c.errorOf(t, "rolled back")
	fill(c.presto, "c", 100) // now its log is longer than what the server has
	c.stop()
	c.start()
	c.errorOf(t, "rolled back")
	if !slices.Equal(before, r.presto.Tree()) {
		t.Error("something was accepted across the fork")
	}
}

func TestReplica_OtherFilesetOfTheName(t *testing.T) {
	r := newRig(t)
	c := r.newClient(2, config.ReadWrite)
	a, err := c.presto.Attach(t.Context(), "shared", channel.RoleClient, kml.UUID{77})
	if err != nil {
		t.Fatal(err)
	}
	a.KML.Close()
	a.Stage.Close()
	c.start()
	c.errorOf(t, "two filesets of one name")
}

func TestReplica_WrongRoleEndsRun(t *testing.T) {
	r := newRig(t)
	c := r.newClient(2, config.ReadWrite)
	a, err := c.presto.Attach(t.Context(), "shared", channel.RoleServer, kml.UUID{77})
	if err != nil {
		t.Fatal(err)
	}
	a.KML.Close()
	a.Order.Close()
	a.Stage.Close()
	err = c.make().Run(t.Context())
	if e, ok := errors.AsType[*channel.Error](err); !ok || e.Code != channel.ErrRole {
		t.Errorf("Run = %v", err)
	}
}

func TestReplica_UnmountedAndMountedAgain(t *testing.T) {
	r := newRig(t)
	c := r.newClient(2, config.ReadWrite)
	link := dialer(t, c.presto)
	var stops []context.CancelFunc
	rep := New(Options{Fileset: "shared", Key: c.key, Log: r.log, Dial: r.gate.dial,
		Server: config.Server{Name: "server", Addresses: []string{r.addr}, Fingerprint: r.key.Fingerprint()},
		Presto: func(ctx context.Context) (l ship.Link, err error) {
			l, err = link(ctx)
			if err == nil {
				stops = append(stops, func() { l.Close() })
			}
			return l, err
		}})
	c.rep = rep
	c.daemon = start(rep.Run)
	fill(r.presto, "a", 10)
	r.quiet(c)
	stops[0]()
	fill(r.presto, "b", 10)
	fill(c.presto, "c", 10)
	r.quiet(c)
}

// A file that a program writes all the time, and never closes for long, must not
// hold up anything.
func TestReplica_FileThatIsAlwaysWritten(t *testing.T) {
	for _, size := range []int{100, 100 << 10, 2 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newRig(t)
			c := r.startClient(2)
			r.quiet(c)
			for _, p := range []*channeltest.Presto{r.presto, c.presto} {
				name := fmt.Sprint("log of ", p.Cache())
				p.Write(name, random(size))
				p.WriteOpen(name, random(size)) // and stays so
				p.Write(name+" and more", []byte("x"))
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			end, own := r.presto.State().Order.Seq, c.presto.State().Own.Seq
			if err := c.presto.Wait(ctx, func(s channel.Fileset) bool { return s.Applied.Seq >= end && s.Confirmed.Seq >= own }); err != nil {
				t.Errorf("held up: %v\n%+v", err, c.rep.Status())
			}
		})
	}
}
