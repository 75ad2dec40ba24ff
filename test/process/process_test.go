package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

func anyone(int) bool { return true }

// sleeper starts a process that is reaped when it ends.
func sleeper(t *testing.T, script string) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "MARK=this one")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	return cmd.Process.Pid
}

func TestOpen_TakesOnlyWhoIsMeant(t *testing.T) {
	script := "echo ready; sleep 1 & wait"
	pid := sleeper(t, script)
	if _, err := Open(pid, func(int) bool { return false }); !errors.Is(err, ErrNone) {
		t.Errorf("a stranger was taken: %v", err)
	}
	for _, bad := range []int{-1, 0, 1, 1 << 30} {
		if _, err := Open(bad, anyone); !errors.Is(err, ErrNone) {
			t.Errorf("pid %d: %v", bad, err)
		}
	}
	p, err := Open(pid, anyone)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got := Arguments(pid); len(got) != 3 || got[2] != script {
		t.Errorf("arguments %q", got)
	}
	if self, err := os.Executable(); err != nil || Executable(os.Getpid()) != filepath.Base(self) {
		t.Errorf("this program is %q, not %s (%v)", Executable(os.Getpid()), self, err)
	}
	found, err := All(func(pid int) bool {
		for _, e := range Environment(pid) {
			if e == "MARK=this one" {
				return true
			}
		}
		return false
	})
	if err != nil || !slices.Contains(found, pid) || slices.Contains(found, os.Getpid()) {
		t.Errorf("found %v, %v; want %d", found, err, pid)
	}
	byItself, err := p.End(t.Context(), 10*time.Second)
	if err != nil || !byItself {
		t.Errorf("End: %v, %v", byItself, err)
	}
}

func TestEnd_KillsWhoDoesNotListen(t *testing.T) {
	pid := sleeper(t, "trap '' TERM; echo ready; while :; do sleep 1; done")
	path := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(path, []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := OpenFile(path, anyone)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	byItself, err := p.End(t.Context(), 100*time.Millisecond)
	if err != nil || byItself {
		t.Errorf("End: %v, %v", byItself, err)
	}
	if err := p.Signal(9); err != nil {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestWait_EndsWithItsContext(t *testing.T) {
	p, err := Open(sleeper(t, "echo ready; sleep 1 & wait"), anyone)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
}

func TestReadPID_NothingInIt(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "text": "abc", "zero": "0", "negative": "-5"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPID(path); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadPID(filepath.Join(dir, "absent")); !errors.Is(err, ErrNone) {
		t.Errorf("absent: %v", err)
	}
}

func TestAncestors_HaveThisProcessAndTheFirst(t *testing.T) {
	a := Ancestors()
	if !a[os.Getpid()] || !a[os.Getppid()] {
		t.Errorf("ancestors %v", a)
	}
}
