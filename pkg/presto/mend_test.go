package presto

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// A power loss can take the end of the KML and leave what says that it was
// confirmed: the cache mounts, and its numbers go on where they were.
func TestMend_NumbersGoOnAfterALostTail(t *testing.T) {
	a, b := newHost(t, "a", ""), newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, b.mnt, "mkdir d; echo 1 >d/f")
	push(b, a)
	pull(a, b)
	was := b.info().Own
	for _, h := range []*host{a, b} {
		h.stop()
		log := filepath.Join(h.source, cache.ControlDir, testFileset, cache.KMLFile)
		must(t, os.Truncate(log, 4096))
		h.start()
	}
	if now := b.info(); now.Own.Seq != was.Seq || now.PendingRecords != 0 {
		t.Fatalf("log ends at %v with %d pending, was %v", now.Own, now.PendingRecords, was)
	}
	sh(t, b.mnt, "mv d e; echo 2 >>e/f")
	sh(t, a.mnt, "echo x >y")
	if res := push(b, a); res.Accepted != 1 {
		t.Fatalf("push: %+v", res)
	}
	pull(a, b)
	same(t, a, b)
}
