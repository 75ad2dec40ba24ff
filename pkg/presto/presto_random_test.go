package presto

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// randomOps does random operations below root until stop is set.
// With oneDir set nothing moves to another directory: all such moves meet.
func randomOps(root string, seed uint64, oneDir bool, pause *sync.RWMutex, stop *atomic.Bool, n *atomic.Int64) {
	r := rand.New(rand.NewPCG(seed, 1))
	name := func() string {
		p := root
		for range r.IntN(3) {
			p = filepath.Join(p, fmt.Sprintf("d%d", r.IntN(4)))
		}
		return filepath.Join(p, fmt.Sprintf("%c%d", "dfl"[r.IntN(3)], r.IntN(5)))
	}
	var open []*os.File
	for !stop.Load() {
		a, b := name(), name()
		if oneDir {
			b = filepath.Join(filepath.Dir(a), filepath.Base(b))
		}
		n.Add(1)
		pause.RLock()
		switch r.IntN(22) {
		case 0, 1, 2:
			os.MkdirAll(a, 0o755)
		case 3, 4, 5:
			os.WriteFile(a, make([]byte, r.IntN(1<<(4+r.IntN(13)))), os.FileMode(0o600+r.IntN(0o200)))
		case 6, 7, 8:
			os.Rename(a, b)
		case 9:
			if os.Getenv("INTERMEZZO_TEST_NOEXCHANGE") == "" {
				unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		case 10:
			unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE)
		case 11, 12:
			os.Link(a, b)
		case 13:
			os.Symlink(b, a)
		case 14:
			unix.Lsetxattr(a, fmt.Sprintf("user.x%d", r.IntN(3)), make([]byte, r.IntN(100)), 0)
		case 15:
			unix.Lremovexattr(a, fmt.Sprintf("user.x%d", r.IntN(3)))
		case 16:
			os.Chmod(a, os.FileMode(r.IntN(0o1000)))
		case 17:
			os.Chtimes(a, time.Unix(r.Int64N(2e9), 5), time.Unix(r.Int64N(2e9)-1e9, 7))
		case 18:
			os.Truncate(a, r.Int64N(30000))
		case 19:
			os.Lchown(a, r.IntN(3), r.IntN(3))
		case 20:
			os.Remove(a)
			if r.IntN(20) == 0 {
				os.RemoveAll(b)
			}
		case 21:
			if f, err := os.OpenFile(a, os.O_RDWR|os.O_APPEND, 0); err == nil {
				f.Write([]byte("more"))
				open = append(open, f)
			}
			if len(open) > 5 {
				i := r.IntN(len(open))
				if r.IntN(2) == 0 {
					open[i].Write([]byte("late"))
				}
				open[i].Close()
				open = append(open[:i], open[i+1:]...)
			}
		}
		pause.RUnlock()
	}
	for _, f := range open {
		f.Write([]byte("end"))
		f.Close()
	}
}

// looker looks at everything below root, so that the kernel's caches are full.
func looker(root string, stop *atomic.Bool) {
	for !stop.Load() {
		filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				os.Lstat(p)
				if d.Type().IsRegular() {
					os.ReadFile(p)
				}
			}
			return nil
		})
	}
}

func seconds(t *testing.T) time.Duration {
	d, err := time.ParseDuration(os.Getenv("INTERMEZZO_TEST_TIME"))
	if err != nil {
		d = 4 * time.Second
	}
	return d
}

func TestPresto_RandomOneWay(t *testing.T) {
	a, b := newHost(t, "a", fsFolder(t, "INTERMEZZO_TEST_FS_A")), newHost(t, "b", fsFolder(t, "INTERMEZZO_TEST_FS_B"))
	a.attach(channel.RoleServer)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var stop, stopLook atomic.Bool
	var n atomic.Int64
	var wg, look sync.WaitGroup
	var pause sync.RWMutex
	for i := range 4 {
		wg.Go(func() { randomOps(a.mnt, seed+uint64(i), false, &pause, &stop, &n) })
	}
	look.Go(func() { looker(b.mnt, &stopLook) })
	end := time.Now().Add(seconds(t))
	pulls := 0
	for time.Now().Before(end) && !t.Failed() {
		pause.Lock()
		ends, groups := rUnit(a, b)
		pause.Unlock()
		if len(groups) == 0 {
			continue
		}
		if _, err := b.ch.Apply(t.Context(), testFileset, ends, groups); err != nil {
			t.Error(err)
		}
		pulls++
	}
	stop.Store(true)
	wg.Wait()
	if !t.Failed() {
		rPull(a, b)
	}
	stopLook.Store(true)
	look.Wait()
	t.Logf("%d operations, %d pulls, %d records", n.Load(), pulls, a.info().Own.Seq)
	rSame(t, a, b)
	rBottom(t, a)
	rBottom(t, b)
	if d := a.info().Damage + b.info().Damage; d != "" {
		t.Errorf("damage: %s", d)
	}
}

func TestPresto_RandomTwoWays(t *testing.T) {
	a, b := newHost(t, "a", fsFolder(t, "INTERMEZZO_TEST_FS_A")), newHost(t, "b", fsFolder(t, "INTERMEZZO_TEST_FS_B"))
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "mkdir A B")
	rPull(a, b)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	end := time.Now().Add(seconds(t))
	var n atomic.Int64
	rounds, accepted := 0, 0
	for time.Now().Before(end) && !t.Failed() {
		var stop, stopLook atomic.Bool
		var wg, look sync.WaitGroup
		var pause sync.RWMutex
		wg.Go(func() { randomOps(a.path("A"), seed+uint64(rounds), true, &pause, &stop, &n) })
		wg.Go(func() { randomOps(b.path("B"), seed+uint64(rounds)+1e9, true, &pause, &stop, &n) })
		look.Go(func() { looker(b.mnt, &stopLook) })
		look.Go(func() { looker(a.mnt, &stopLook) })
		timer := time.NewTimer(150 * time.Millisecond)
		<-timer.C
		stop.Store(true)
		wg.Wait()
		for try := 0; ; try++ {
			if res := rPull(a, b); res.Blocked != nil {
				// moves of directories on both sides: as a merge would find, no conflict
				t.Logf("blocked: %+v", res.Blocked)
			}
			if b.info().PendingRecords == 0 {
				break
			}
			if res := rPush(b, a); res.Accepted == 1 {
				accepted++
			} else if res.Refused != "" || try > 3 {
				t.Logf("push: %+v", res)
				stopLook.Store(true)
				look.Wait()
				t.FailNow()
			}
		}
		stopLook.Store(true)
		look.Wait()
		rSame(t, a, b)
		rBottom(t, a)
		rBottom(t, b)
		if d := a.info().Damage + b.info().Damage; d != "" {
			t.Errorf("damage: %s", d)
		}
		rounds++
	}
	t.Logf("%d operations, %d rounds, %d pushes accepted", n.Load(), rounds, accepted)
}
