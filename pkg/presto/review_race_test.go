package presto

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// For the race detector: daemons attach and ask while applications work.
func TestReview_AttachUnderLoad(t *testing.T) {
	for _, role := range []channel.Role{channel.RoleServer, channel.RoleClient} {
		s, a := newHost(t, "s", ""), newHost(t, "a", "")
		s.attach(channel.RoleServer)
		sh(t, s.mnt, "mkdir x; echo y >x/y")
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					dir := a.path(fmt.Sprintf("w%d", w))
					os.Mkdir(dir, 0o755)
					os.WriteFile(fmt.Sprintf("%s/f%d", dir, n%10), make([]byte, 20000), 0o644)
					os.Remove(fmt.Sprintf("%s/f%d", dir, n%7))
				}
			})
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					a.info()
				}
			}
		})
		time.Sleep(50 * time.Millisecond)
		a.attach(role)
		if role == channel.RoleClient {
			ends, groups := rUnit(s, a)
			a.ch.Apply(t.Context(), testFileset, ends, groups)
		}
		a.ch.Barrier(t.Context(), testFileset)
		time.Sleep(50 * time.Millisecond)
		close(stop)
		wg.Wait()
	}
}
