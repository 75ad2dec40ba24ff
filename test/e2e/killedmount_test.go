package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// After the death of presto, too, one line makes the cache free: not busy, though
// a daemon had its logs open, and clean, because the kernel has unmounted it.
func TestMount_KilledThenUnmountedIsFreeAndClean(t *testing.T) {
	p := configured(t).started()
	rounds := 8
	if testing.Short() {
		rounds = 4
	}
	bad := 0
	for round := range rounds {
		h := []*host{p.server, p.client}[round%2]
		h.write(fmt.Sprint("file", round), strings.Repeat("content ", 100))
		h.end(readPID(h.path("run/0.pid")), syscall.SIGKILL)
		r := h.run("sh", "-c", "lento umount mnt && e2fsck -fn img && lento mount img mnt -o fileset=shared")
		if r.code != 0 {
			if bad++; bad == 1 {
				t.Errorf("round %d: exit status %d\n%s%s", round, r.code, r.out, r.err)
			}
			h.mountedSoon()
		}
		p.inStep()
	}
	if bad > 0 {
		t.Errorf("the cache was not free and clean in %d of %d rounds", bad, rounds)
	}
	p.same()
	p.finish()
}
