package replica

import (
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// TestLatency shows how long one small file takes to another host. presto costs
// nothing here, so this is what the daemons and the stage take.
func TestLatency(t *testing.T) {
	r := newRig(t)
	c, d := r.startClient(2), r.startClient(3)
	r.quiet(c, d)
	var up, down time.Duration
	const n = 100
	for range n {
		began := time.Now()
		r.presto.Write("f", random(4000))
		end := r.presto.State().Order.Seq
		if err := c.presto.Wait(t.Context(), func(s channel.Fileset) bool { return s.Applied.Seq >= end }); err != nil {
			t.Fatal(err)
		}
		down += time.Since(began)
		began = time.Now()
		c.presto.Write("g", random(40000))
		own := c.presto.State().Own.Seq
		if err := c.presto.Wait(t.Context(), func(s channel.Fileset) bool { return s.Confirmed.Seq >= own }); err != nil {
			t.Fatal(err)
		}
		end = r.presto.State().Order.Seq
		if err := d.presto.Wait(t.Context(), func(s channel.Fileset) bool { return s.Applied.Seq >= end }); err != nil {
			t.Fatal(err)
		}
		up += time.Since(began)
	}
	t.Logf("server to client %v, client to server to client %v", down/n, up/n)
}
