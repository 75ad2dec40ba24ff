package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// backend answers every call in a way that shows what arrived. Its functions
// replace the answers where a test wants others.
type backend struct {
	dir      string
	sync     func(ctx context.Context) error
	contents func(ids []kml.ObjectID) ([]Opened, error)
	control  func(verb string, args json.RawMessage, files []*os.File) (json.RawMessage, error)
	bound    chan []Binding
	accepted chan []kml.Group
}

func (b *backend) Info(context.Context) (Info, error) {
	return Info{PID: 7, Version: "v1", Cache: kml.UUID{1}, Filesets: []Fileset{{Name: "shared", Role: RoleClient, Own: kml.Pos{Epoch: 1, Seq: 9}}}}, nil
}

func (b *backend) Attach(_ context.Context, fileset string, role Role, uuid kml.UUID) (*Attachment, error) {
	if fileset != "shared" {
		return nil, fmt.Errorf("attach %s: %w", fileset, &Error{ErrNoFileset, "there is none"})
	}
	a := &Attachment{Fileset: Fileset{Name: fileset, Role: role, UUID: uuid}, Cache: kml.UUID{1}}
	var err error
	for _, f := range []struct {
		name string
		to   **os.File
	}{{"kml", &a.KML}, {"order", &a.Order}, {"stage", &a.Stage}} {
		if *f.to, err = os.Open(filepath.Join(b.dir, f.name)); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (b *backend) Sync(ctx context.Context, _ string) error {
	if b.sync != nil {
		return b.sync(ctx)
	}
	return nil
}

func (b *backend) Contents(_ context.Context, _ string, ids []kml.ObjectID, _ bool) ([]Opened, error) {
	return b.contents(ids)
}

func (b *backend) Bind(_ context.Context, _ string, list []Binding) ([]bool, error) {
	b.bound <- list
	held := make([]bool, len(list))
	for i := range held {
		held[i] = i%2 == 0
	}
	return held, nil
}

func (b *backend) Barrier(context.Context, string) (kml.Pos, error) {
	return kml.Pos{Epoch: 2, Seq: 1 << 40, Chain: kml.Chain{3}}, nil
}

func (b *backend) Accept(_ context.Context, _ string, peer kml.UUID, base kml.Pos, groups []kml.Group) (AcceptResult, error) {
	b.accepted <- groups
	return AcceptResult{Accepted: len(groups), End: base, OverlapAt: uint64(peer[0])}, nil
}

func (b *backend) Apply(_ context.Context, _ string, ends []kml.Pos, groups []kml.Group) (ApplyResult, error) {
	return ApplyResult{Applied: ends[len(ends)-1], Blocked: &Blocked{Position: 4, Path: "a/b", Detail: groups[0].Origin.String()}}, nil
}

func (b *backend) Path(_ context.Context, _ string, id kml.ObjectID) (string, error) {
	return "path of " + id.String(), nil
}

func (b *backend) Control(_ context.Context, verb string, args json.RawMessage, files []*os.File) (json.RawMessage, error) {
	return b.control(verb, args, files)
}

// serve starts a Server on a new socket and returns a client of it.
func serve(t *testing.T, b *backend) (*Server, *Client, string) {
	t.Helper()
	b.dir = t.TempDir()
	for _, name := range []string{"kml", "order"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(b.dir, "stage"), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "0")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l, b) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	c := dial(t, path)
	if _, err := c.Info(t.Context()); err != nil { // the connection is accepted by now
		t.Fatal(err)
	}
	return s, c, path
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestCalls_RoundTrip(t *testing.T) {
	b := &backend{bound: make(chan []Binding, 1)}
	_, c, _ := serve(t, b)
	ctx := t.Context()

	info, err := c.Info(ctx)
	want, _ := b.Info(ctx)
	if err != nil || !cmp.Equal(info, want) {
		t.Errorf("Info = %+v, %v", info, err)
	}
	a, err := c.Attach(ctx, "shared", RoleServer, kml.UUID{5})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles([]*os.File{a.KML, a.Order, a.Stage})
	if a.Fileset.Role != RoleServer || a.Fileset.UUID != (kml.UUID{5}) || a.Cache != (kml.UUID{1}) {
		t.Errorf("Attach = %+v", a)
	}
	if got, err := io.ReadAll(a.Order); err != nil || string(got) != "order" {
		t.Errorf("order log reads %q, %v", got, err)
	}
	if p, err := c.Barrier(ctx, "shared"); err != nil || p != (kml.Pos{Epoch: 2, Seq: 1 << 40, Chain: kml.Chain{3}}) {
		t.Errorf("Barrier = %v, %v", p, err)
	}
	id := kml.ObjectID{Space: kml.UUID{9}, Ino: 77, Gen: 3, Birth: -5}
	if p, err := c.Path(ctx, "shared", id); err != nil || p != "path of "+id.String() {
		t.Errorf("Path = %q, %v", p, err)
	}
	bindings := []Binding{
		{Object: id, CloseSeq: 4, Token: Token{Ino: 1, Size: 2, Mtime: -3, Ctime: 4}, Content: kml.Content{Root: [32]byte{8}, Inexact: true}},
		{Object: kml.RootID, CloseSeq: 5},
	}
	held, err := c.Bind(ctx, "shared", bindings)
	if saw := <-b.bound; err != nil || !cmp.Equal(held, []bool{true, false}) || !cmp.Equal(saw, bindings) {
		t.Errorf("Bind = %v, %v; presto saw %+v", held, err, saw)
	}
}

func testGroups(n int) []kml.Group {
	groups := make([]kml.Group, n)
	for i := range groups {
		seq := uint64(i + 1)
		groups[i] = kml.Group{Origin: kml.UUID{6}, OriginEpoch: 1, First: seq, Last: seq, Chain: kml.Chain{byte(i)}, Records: []kml.Record{{
			Seq: seq, Op: kml.OpMkdir, Time: 5, Object: kml.ObjectID{Space: kml.UUID{6}, Ino: seq + 100, Gen: 1, Birth: 9},
			Where: kml.Name{Parent: kml.RootID, Name: fmt.Sprint("d", i)}, Attr: kml.Attr{Mode: 0o040755},
		}}}
	}
	return groups
}

func TestGroups_ThousandsInOneCall(t *testing.T) {
	b := &backend{accepted: make(chan []kml.Group, 1)}
	_, c, _ := serve(t, b)
	groups := testGroups(5000)
	base := kml.Pos{Epoch: 1, Seq: 3}
	res, err := c.Accept(t.Context(), "shared", kml.UUID{200}, base, groups)
	if err != nil || res != (AcceptResult{Accepted: 5000, End: base, OverlapAt: 200}) {
		t.Fatalf("Accept = %+v, %v", res, err)
	}
	if !reflect.DeepEqual(groups, <-b.accepted) {
		t.Error("groups changed on the way")
	}
	ends := make([]kml.Pos, len(groups))
	ends[len(ends)-1] = kml.Pos{Epoch: 1, Seq: 5003}
	ares, err := c.Apply(t.Context(), "shared", ends, groups)
	if err != nil || ares.Applied.Seq != 5003 || ares.Blocked == nil || ares.Blocked.Path != "a/b" {
		t.Errorf("Apply = %+v, %v", ares, err)
	}
	if _, err := c.Apply(t.Context(), "shared", ends[1:], groups); code(err) != ErrInvalid {
		t.Errorf("Apply with too few positions: %v", err)
	}
}

func code(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

func TestErrors_KeepCodeAndText(t *testing.T) {
	b := &backend{sync: func(context.Context) error { return errors.New("disk is on fire") }}
	_, c, _ := serve(t, b)
	_, err := c.Attach(t.Context(), "other", RoleServer, kml.UUID{})
	if code(err) != ErrNoFileset || err.Error() != "attach other: there is none" {
		t.Errorf("Attach = %q, %v", code(err), err)
	}
	if err := c.Sync(t.Context(), "shared"); code(err) != ErrInternal || err.Error() != "disk is on fire" {
		t.Errorf("Sync = %q, %v", code(err), err)
	}
}

func TestContents_DescriptorsArriveAndNoneLeak(t *testing.T) {
	b := &backend{}
	b.contents = func(ids []kml.ObjectID) ([]Opened, error) {
		list := make([]Opened, len(ids))
		for i, id := range ids {
			if id.Ino%3 == 0 {
				list[i].Errno = int(syscall.ENOENT)
				continue
			}
			f, err := os.Open(filepath.Join(b.dir, fmt.Sprint("file", id.Ino)))
			if err != nil {
				return nil, err
			}
			list[i] = Opened{File: f, Token: Token{Ino: id.Ino}, CloseSeq: id.Ino + 1}
		}
		return list, nil
	}
	_, c, _ := serve(t, b)
	for i := range MaxContents {
		if err := os.WriteFile(filepath.Join(b.dir, fmt.Sprint("file", i)), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := openFDs(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ids := make([]kml.ObjectID, MaxContents)
			for i := range ids {
				ids[i].Ino = uint64(i)
			}
			list, err := c.Contents(t.Context(), "shared", ids, false)
			if err != nil {
				t.Error(err)
				return
			}
			for i, o := range list {
				if i%3 == 0 {
					if o.File != nil || o.Errno != int(syscall.ENOENT) {
						t.Errorf("object %d: %+v", i, o)
					}
					continue
				}
				got, err := io.ReadAll(o.File)
				o.File.Close()
				if err != nil || string(got) != fmt.Sprint(i) || o.Token.Ino != uint64(i) || o.CloseSeq != uint64(i)+1 {
					t.Errorf("object %d reads %q, %v", i, got, err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := c.Contents(t.Context(), "shared", make([]kml.ObjectID, MaxContents+1), false); code(err) != ErrInvalid {
		t.Errorf("too many objects: %v", err)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestControl_FilesBelongToBackendUnlessError(t *testing.T) {
	taken := make(chan []*os.File, 1)
	b := &backend{control: func(verb string, args json.RawMessage, files []*os.File) (json.RawMessage, error) {
		if verb != "mount" {
			return nil, &Error{ErrInvalid, "unknown verb " + verb}
		}
		taken <- files
		return json.RawMessage(`{"saw":` + string(args) + `}`), nil
	}}
	_, c, _ := serve(t, b)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	before := openFDs(t)
	res, err := c.Control(t.Context(), "mount", json.RawMessage(`[1,2]`), []*os.File{w})
	if err != nil || string(res) != `{"saw":[1,2]}` {
		t.Fatalf("Control = %s, %v", res, err)
	}
	got := <-taken
	if len(got) != 1 {
		t.Fatalf("%d files came", len(got))
	}
	if _, err := got[0].WriteString("hello"); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "hello" {
		t.Errorf("read %q, %v", buf, err)
	}
	got[0].Close()
	if _, err := c.Control(t.Context(), "eat", nil, []*os.File{w, r}); code(err) != ErrInvalid {
		t.Errorf("unknown verb: %v", err)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestCall_CancelReachesPrestoAndOthersGoOn(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	b := &backend{sync: func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}}
	_, c, _ := serve(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if err := c.Sync(ctx, "shared"); !errors.Is(err, context.Canceled) {
		t.Errorf("Sync = %v", err)
	}
	<-ended
	if _, err := c.Info(t.Context()); err != nil {
		t.Errorf("the call after: %v", err)
	}
}

func TestCall_PanicIsAnAnswer(t *testing.T) {
	b := &backend{sync: func(context.Context) error { panic("oops") }}
	_, c, _ := serve(t, b)
	if err := c.Sync(t.Context(), "shared"); code(err) != ErrInternal || !strings.Contains(err.Error(), "oops") {
		t.Errorf("Sync = %v", err)
	}
	if _, err := c.Info(t.Context()); err != nil {
		t.Errorf("the call after: %v", err)
	}
}

func TestEvents_OnlyOfAttachedAndMerged(t *testing.T) {
	b := &backend{}
	s, c, path := serve(t, b)
	other := dial(t, path)
	a, err := c.Attach(t.Context(), "shared", RoleServer, kml.UUID{})
	if err != nil {
		t.Fatal(err)
	}
	closeFiles([]*os.File{a.KML, a.Order, a.Stage})
	s.Notify(Event{Fileset: "elsewhere"})
	// Nobody reads: no number of events may block, and none may be lost.
	for i := range uint64(20000) {
		s.Notify(Event{Fileset: "shared", Own: kml.Pos{Epoch: 1, Seq: i + 1}, Order: kml.Pos{Epoch: 1, Seq: 20000 - i}})
	}
	n := 0
	for e := range c.Events() {
		n++
		if e.Fileset != "shared" {
			t.Fatalf("event of %q", e.Fileset)
		}
		if e.Own.Seq == 20000 {
			break
		}
	}
	if n > 5000 {
		t.Errorf("%d events came, merged they should be far fewer", n)
	}
	select {
	case e := <-other.Events():
		t.Errorf("a client that attached to nothing got %+v", e)
	default:
	}
}

func TestServe_FarewellThenClosed(t *testing.T) {
	b := &backend{dir: t.TempDir()}
	path := filepath.Join(b.dir, "0")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l, b) }()
	c := dial(t, path)
	if _, err := c.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Notify(Event{Closing: true})
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if e, ok := <-c.Events(); !ok || !e.Closing {
		t.Errorf("farewell = %+v, %v", e, ok)
	}
	if _, ok := <-c.Events(); ok {
		t.Error("an event after the farewell")
	}
	if _, err := c.Info(t.Context()); code(err) != ErrClosed {
		t.Errorf("a call after the end: %v", err)
	}
	if _, err := Dial(t.Context(), path); code(err) != ErrClosed || !strings.Contains(err.Error(), "mount the cache") {
		t.Errorf("Dial after the end: %v", err)
	}
}

func TestCall_ConnectionLostMeanwhile(t *testing.T) {
	started := make(chan struct{})
	b := &backend{sync: func(ctx context.Context) error { close(started); <-ctx.Done(); return ctx.Err() }}
	_, c, _ := serve(t, b)
	go func() { <-started; c.Close() }()
	if err := c.Sync(t.Context(), "shared"); code(err) != ErrClosed {
		t.Errorf("Sync = %v", err)
	}
}

func TestListen_StaleReplacedLiveRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "3")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := Listen(path)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); code(err) != ErrBusy {
		t.Errorf("over a live socket: %v", err)
	}
}

func TestServe_TurnsAwayOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	if path := os.Getenv("CHANNEL_TEST_DIAL"); path != "" {
		return
	}
	_, _, path := serve(t, &backend{})
	// The mode of the socket alone must not be what protects.
	for _, p := range []string{path, filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	exe := filepath.Join(filepath.Dir(path), "test")
	if data, err := os.ReadFile("/proc/self/exe"); err != nil || os.WriteFile(exe, data, 0o755) != nil {
		t.Fatal("copy test binary")
	}
	cmd := exec.Command(exe, "-test.run=TestDialHelper", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "CHANNEL_TEST_DIAL="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "turned away") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestDialHelper is the other user of TestServe_TurnsAwayOtherUsers.
func TestDialHelper(t *testing.T) {
	path := os.Getenv("CHANNEL_TEST_DIAL")
	if path == "" {
		t.Skip("run by another test")
	}
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Info(t.Context()); code(err) != ErrClosed {
		t.Fatalf("Info = %v", err)
	}
	t.Log("turned away")
}

func TestServe_HostileFrames(t *testing.T) {
	_, c, path := serve(t, &backend{})
	before := openFDs(t)
	for name, raw := range map[string][]byte{
		"huge header":      {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0},
		"huge blob":        {2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, '{', '}'},
		"no descriptors":   {2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, '{', '}'},
		"many descriptors": {2, 0, 0, 0, 0, 0, 0, 0, 251, 0, 0, 0, '{', '}'},
		"not JSON":         {2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '{', '{'},
		"cut":              {2, 0, 0},
	} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		// A descriptor comes along that no frame claims.
		if _, _, err := conn.WriteMsgUnix(raw, syscall.UnixRights(1), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil && !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
			t.Errorf("%s: answered %q, %v", name, got, err)
		}
		conn.Close()
	}
	if _, err := c.Info(t.Context()); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestCall_TooLarge(t *testing.T) {
	_, c, _ := serve(t, &backend{control: func(string, json.RawMessage, []*os.File) (json.RawMessage, error) {
		return json.RawMessage(`"` + strings.Repeat("x", MaxHeaderBytes) + `"`), nil
	}})
	if _, err := c.Control(t.Context(), "big", nil, nil); code(err) != ErrInvalid {
		t.Errorf("answer beyond the limit: %v", err)
	}
	big := json.RawMessage(`"` + strings.Repeat("x", MaxHeaderBytes) + `"`)
	if _, err := c.Control(t.Context(), "big", big, nil); code(err) != ErrInvalid {
		t.Errorf("call beyond the limit: %v", err)
	}
	if _, err := c.Info(t.Context()); err != nil {
		t.Errorf("the call after: %v", err)
	}
}

func FuzzBlobDecoders(f *testing.F) {
	f.Add(encodeObjects([]kml.ObjectID{{Ino: 4}}))
	f.Add(encodeOpened([]Opened{{Errno: 2}}))
	f.Add(encodeBindings([]Binding{{CloseSeq: 4}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if ids, err := decodeObjects(b); err == nil && string(encodeObjects(ids)) != string(b) {
			t.Error("objects do not come back")
		}
		decodeOpened(b)
		decodeBindings(b)
		decodeBools(b)
		decodeGroups(b)
	})
}

func BenchmarkContents(b *testing.B) {
	dir := b.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, make([]byte, 100), 0o600); err != nil {
		b.Fatal(err)
	}
	back := &backend{contents: func(ids []kml.ObjectID) ([]Opened, error) {
		list := make([]Opened, len(ids))
		for i := range list {
			f, err := os.Open(file)
			if err != nil {
				return nil, err
			}
			list[i].File = f
		}
		return list, nil
	}}
	l, err := Listen(filepath.Join(dir, "0"))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go NewServer(slog.New(slog.DiscardHandler)).Serve(ctx, l, back)
	c, err := Dial(ctx, filepath.Join(dir, "0"))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	ids := make([]kml.ObjectID, MaxContents)
	for b.Loop() {
		list, err := c.Contents(ctx, "shared", ids, false)
		if err != nil {
			b.Fatal(err)
		}
		for _, o := range list {
			o.File.Close()
		}
	}
}
