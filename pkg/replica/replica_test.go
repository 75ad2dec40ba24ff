package replica

import (
	"fmt"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func TestReplica_FillThenBothWays(t *testing.T) {
	r := newRig(t)
	s := r.presto
	s.Mkdir("src")
	s.Write("src/small", []byte("hello"))
	s.Write("src/middle", random(200<<10))
	s.Write("src/empty", nil)
	s.Write("src/large", random(3<<20))
	s.Write("src/sparse", append(make([]byte, 900<<10), 'x'))
	s.Link("src/small", "src/again")
	s.Symlink("src/link", "small")
	c := r.startClient(2)
	r.quiet(c)

	c.presto.Mkdir("src/sub")
	c.presto.Write("src/sub/a", random(100))
	c.presto.Write("src/sub/b", random(100<<10))
	c.presto.Write("src/sub/c", random(5<<20))
	c.presto.Write("src/small", []byte("changed by the client"))
	c.presto.Rename("src/sub/a", "src/sub/d")
	c.presto.Setxattr("src/sub/d", "user.x", "y")
	r.quiet(c)

	s.Chmod("src/sub/d", 0o600)
	s.Remove("src/again")
	s.Rename("src", "dst")
	r.quiet(c)
	st := c.rep.Status()
	for st.Behind != 0 { // presto has done it, and its answer is on its way
		<-time.After(time.Millisecond)
		st = c.rep.Status()
	}
	if !st.Connected || st.Error != "" || st.In == 0 || st.Out == 0 {
		t.Errorf("status: %+v", st)
	}
	if left := append(s.StageNames(), c.presto.StageNames()...); len(left) > 1 { // "origins" of the server
		t.Errorf("left in the stages: %v", left)
	}
}

func TestReplica_ThousandsOfSmallFiles(t *testing.T) {
	r := newRig(t)
	fill(r.presto, "a", 2000)
	c, d := r.startClient(2), r.startClient(3)
	r.quiet(c, d)
	fill(c.presto, "b", 1000)
	fill(d.presto, "c", 500)
	fill(r.presto, "d", 500)
	r.quiet(c, d)
}

type writer interface {
	Mkdir(path string)
	Write(path string, data []byte)
}

func fill(p writer, dir string, n int) {
	p.Mkdir(dir)
	for i := range n {
		p.Write(fmt.Sprintf("%s/%d", dir, i), random(1+i*17%5000))
	}
}

func TestReplica_RunOnce(t *testing.T) {
	r := newRig(t)
	fill(r.presto, "a", 300)
	r.presto.Write("large", random(2<<20))
	c := r.newClient(2, config.ReadWrite)
	c.presto.Write("mine", random(300<<10))
	c.presto.WriteOpen("open", random(3<<20))
	c.rep = c.make()
	if err := c.rep.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := r.presto.Read("open"); err != nil || len(got) != 3<<20 {
		t.Errorf("the open file: %d bytes, %v", len(got), err)
	}
	r.quiet(c)
}
