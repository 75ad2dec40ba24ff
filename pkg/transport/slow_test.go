package transport

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onCPU runs f in a thread tied to a CPU: its requests go to that CPU's queue.
func onCPU(t testing.TB, cpu int, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			t.Error(err)
		}
		f()
	}()
	<-done
}

// lookUp asks for a name that is not there. The server may take its time.
func lookUp(t testing.TB, name string) {
	t.Helper()
	var st unix.Stat_t
	err := unix.Lstat(name, &st)
	for err == unix.EINTR {
		err = unix.Lstat(name, &st)
	}
	if err != unix.ENOENT {
		t.Errorf("%s: %v", name, err)
	}
}

// waitDir makes a directory for requests that wait: the kernel locks it for as long.
func waitDir(t testing.TB, m *mounted, name string) string {
	t.Helper()
	dir := filepath.Join(m.dir, name)
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(m.dir, "known"), nil, 0o644)) // for worker.kick
	m.do("mark " + map[bool]string{true: name, false: "none"}[name == "marked"])
	return dir
}

// waiters start look-ups that wait at the gates, from one CPU.
func waiters(t testing.TB, n, cpu int, dir string) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { onCPU(t, cpu, func() { lookUp(t, fmt.Sprintf("%s/gate-%d-%d", dir, cpu, i)) }) })
	}
	return &wg
}

// work has requests of all kinds answered on every CPU.
func work(t testing.TB, dir string) {
	t.Helper()
	for cpu := range runtime.NumCPU() {
		onCPU(t, cpu, func() {
			for i := range 20 {
				f := fmt.Sprintf("%s/work%d-%d", dir, cpu, i)
				if err := os.WriteFile(f, []byte(f), 0o644); err != nil {
					t.Error(err)
				}
				if err := os.Remove(f); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestSlow_UnknownDoesNotStallOthers: nobody told the transport that these requests
// wait. The test would not end if they held up the others.
func TestSlow_UnknownDoesNotStallOthers(t *testing.T) {
	for _, procs := range []string{"", "1"} {
		t.Run("GOMAXPROCS="+procs, func(t *testing.T) {
			c := serveConfig{}
			if procs != "" {
				c.env = []string{"GOMAXPROCS=" + procs}
			}
			overBoth(t, c, func(t *testing.T, m *mounted) {
				dir := waitDir(t, m, "wait")
				var all []*sync.WaitGroup
				for cpu := range runtime.NumCPU() {
					all = append(all, waiters(t, 6, cpu, dir))
					work(t, m.dir)
				}
				v := m.until("all to wait", func(v served) bool { return v.Waiting == int64(6*len(all)) })
				work(t, m.dir)
				t.Logf("%+v", v.Stats)
				m.do("open")
				for _, wg := range all {
					wg.Wait()
				}
				work(t, m.dir)
				m.unmount()
			})
		})
	}
}

// TestSlow_SystemCallsDoNotStallOthers: like a disk that takes its time.
func TestSlow_SystemCallsDoNotStallOthers(t *testing.T) {
	overBoth(t, serveConfig{}, func(t *testing.T, m *mounted) {
		dir := waitDir(t, m, "wait")
		var slow sync.WaitGroup
		begin := time.Now()
		for i := range 4 {
			slow.Go(func() { onCPU(t, 0, func() { lookUp(t, fmt.Sprintf("%s/slow-%d", dir, 1000+i)) }) })
		}
		work(t, m.dir)
		if d := time.Since(begin); d > 800*time.Millisecond {
			t.Errorf("others took %v", d)
		}
		slow.Wait()
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("the slow ones waited for each other: %v", d)
		}
		m.unmount()
	})
}

// TestBlocked_ManyDoNotStallOthers has more requests that block, as the transport
// knows, than there can be threads.
func TestBlocked_ManyDoNotStallOthers(t *testing.T) {
	const n = 150
	overBoth(t, serveConfig{Threads: 4}, func(t *testing.T, m *mounted) {
		marked := waitDir(t, m, "marked")
		for round := range 2 {
			var all []*sync.WaitGroup
			for cpu := range runtime.NumCPU() {
				all = append(all, waiters(t, n, cpu, marked))
			}
			v := m.until("all to wait", func(v served) bool { return v.Waiting == int64(n*len(all)) })
			work(t, m.dir)
			if v.Stats.Threads > 4*len(all) {
				t.Errorf("%d threads", v.Stats.Threads)
			}
			t.Logf("round %d: %+v", round, v.Stats)
			m.do("open")
			for _, wg := range all {
				wg.Wait()
			}
			work(t, m.dir)
		}
		m.unmount()
	})
}

// TestBlocked_WaitingInKernelIsFetched: requests of one CPU that arrived while its
// only thread was busy, all of which then block. Nothing else happens on the mount
// that could fetch them.
func TestBlocked_WaitingInKernelIsFetched(t *testing.T) {
	const n = 20
	overBoth(t, serveConfig{First: 1, Threads: 1}, func(t *testing.T, m *mounted) {
		must(t, os.WriteFile(filepath.Join(m.dir, "file"), []byte("x"), 0o644))
		marked := waitDir(t, m, "marked")
		var slow sync.WaitGroup
		slow.Go(func() { onCPU(t, 0, func() { lookUp(t, m.dir+"/slow-300") }) })
		wg := waiters(t, n, 0, marked)
		m.until("all to wait", func(v served) bool { return v.Waiting == n })
		m.do("open")
		wg.Wait()
		slow.Wait()
		m.unmount()
	})
}

// TestLocks_UnlockIsSeen: all wait for one lock, from one CPU, and its owner gives
// it back from the same.
func TestLocks_UnlockIsSeen(t *testing.T) {
	const n = 40
	overBoth(t, serveConfig{Locks: true, First: 1, Threads: 2}, func(t *testing.T, m *mounted) {
		name := filepath.Join(m.dir, "file")
		must(t, os.WriteFile(name, nil, 0o644))
		open := func() *os.File {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			must(t, err)
			return f
		}
		lock := func(f *os.File, typ int16, cmd int) {
			lk := syscall.Flock_t{Type: typ}
			err := syscall.FcntlFlock(f.Fd(), cmd, &lk)
			for err == unix.EINTR {
				err = syscall.FcntlFlock(f.Fd(), cmd, &lk)
			}
			if err != nil {
				t.Error(err)
			}
		}
		owner := open()
		defer owner.Close()
		onCPU(t, 0, func() { lock(owner, unix.F_WRLCK, unix.F_OFD_SETLK) })
		var wg sync.WaitGroup
		for range n {
			f := open()
			defer f.Close()
			wg.Go(func() {
				onCPU(t, 0, func() {
					lock(f, unix.F_WRLCK, unix.F_OFD_SETLKW)
					lock(f, unix.F_UNLCK, unix.F_OFD_SETLK)
				})
			})
		}
		m.until("all to wait", func(v served) bool { return v.Waiting == n })
		onCPU(t, 0, func() { lock(owner, unix.F_UNLCK, unix.F_OFD_SETLK) })
		wg.Wait()
	})
}

// TestInterrupt_Killed: a process that is killed while it waits is told to the file
// system, and is gone.
func TestInterrupt_Killed(t *testing.T) {
	overBoth(t, serveConfig{}, func(t *testing.T, m *mounted) {
		dirs := []string{waitDir(t, m, "wait"), waitDir(t, m, "marked")}
		const n = 12
		var procs []*exec.Cmd
		for i := range n {
			cmd := exec.Command("stat", fmt.Sprintf("%s/gate-%d", dirs[i%2], i))
			must(t, cmd.Start())
			procs = append(procs, cmd)
		}
		before := m.until("all to wait", func(v served) bool { return v.Waiting == n })
		for _, cmd := range procs {
			must(t, cmd.Process.Kill())
		}
		for _, cmd := range procs {
			cmd.Wait()
		}
		v := m.until("all to be interrupted", func(v served) bool { return v.Waiting == 0 })
		if v.Interrupted-before.Interrupted != n {
			t.Errorf("%d interrupted", v.Interrupted)
		}
		m.unmount()
	})
}

// TestInterrupt_BeforeItIsFetched: over io_uring an interrupt can overtake its
// request, here one that waits behind a slow one for the only thread.
func TestInterrupt_BeforeItIsFetched(t *testing.T) {
	overBoth(t, serveConfig{First: 1, Threads: 1}, func(t *testing.T, m *mounted) {
		var slow sync.WaitGroup
		slow.Go(func() { onCPU(t, 0, func() { lookUp(t, m.dir+"/slow-300") }) })
		slow.Go(func() { onCPU(t, 0, func() { lookUp(t, m.dir+"/slow-301") }) })
		cmd := exec.Command("taskset", "1", "stat", m.dir+"/gate-x")
		must(t, cmd.Start())
		for state(cmd.Process.Pid) != 'D' && state(cmd.Process.Pid) != 'S' {
			runtime.Gosched()
		}
		must(t, cmd.Process.Kill())
		cmd.Wait()
		slow.Wait()
		m.until("nobody to wait", func(v served) bool { return v.Waiting == 0 })
		m.unmount()
	})
}

func state(pid int) byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return 'D'
	}
	for i := range b {
		if b[i] == ')' && i+2 < len(b) {
			return b[i+2]
		}
	}
	return 0
}
