package detach

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the process that it starts.
func TestMain(m *testing.M) {
	if os.Args[0] != "@child" {
		os.Exit(m.Run())
	}
	fs := flag.NewFlagSet("child", flag.ExitOnError)
	ready, lifeline := fs.Int(ReadyFlag, -1, ""), fs.Int(LifelineFlag, -1, "")
	mode := os.Args[1]
	fs.Parse(os.Args[2:])
	s, err := Inherit(*ready, *lifeline)
	if err != nil {
		fmt.Println(err)
		os.Exit(9)
	}
	dir, _ := os.Getwd()
	fmt.Println("in", dir)
	switch mode {
	case "fail":
		s.Report(errors.New("no such thing"), 7)
	case "good":
		s.Report(nil, 0)
		s.WaitReleased(context.Background())
	case "hang":
		s.WaitReleased(context.Background())
	}
	os.Exit(0)
}

func start(t *testing.T, ctx context.Context, mode string) (*Child, string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	c, err := Start(ctx, Command{Path: exe, Args: []string{"@child", mode}, Log: log})
	return c, log, err
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, syscall.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Errorf("process %d lives on: %v", pid, err)
	}
}

func TestStart_Ready(t *testing.T) {
	c, log, err := start(t, t.Context(), "good")
	if err != nil {
		t.Fatal(err)
	}
	if sid, err := unix.Getsid(c.PID); err != nil || sid != c.PID {
		t.Errorf("session %d, %v", sid, err)
	}
	c.Release()
	waitGone(t, c.PID)
	if text, err := os.ReadFile(log); err != nil || string(text) != "in /\n" {
		t.Errorf("log: %q, %v", text, err)
	}
}

func TestStart_Reports(t *testing.T) {
	_, _, err := start(t, t.Context(), "fail")
	if e, ok := errors.AsType[*StartError](err); !ok || e.Code != 7 || e.Text != "no such thing" {
		t.Errorf("got %v", err)
	}
	_, log, err := start(t, t.Context(), "crash")
	if e, ok := errors.AsType[*StartError](err); !ok || e.Code != 0 || !strings.Contains(e.Text, log) {
		t.Errorf("got %v", err)
	}
}

func TestStart_GivenUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c, _, err := start(t, ctx, "hang")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	waitGone(t, c.PID)
}

func TestOpenLog_PutsLargeOneAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, make([]byte, maxLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("new log: %v, %v", st, err)
	}
	if st, err := os.Stat(path + ".old"); err != nil || st.Size() != maxLog+1 {
		t.Errorf("old log: %v, %v", st, err)
	}
}

func TestInherit_RefusesOther(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Inherit(int(f.Fd()), -1); err == nil {
		t.Error("took a descriptor that is not a pipe")
	}
}
