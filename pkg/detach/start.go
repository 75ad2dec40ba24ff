package detach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// maxLog is the size at which a log is put aside when a process starts.
const maxLog = 4 << 20

// Descriptors that the process inherits, and the flags that tell it so.
const (
	readyFD    = 3
	lifelineFD = 4
)

// ReadyFlag and LifelineFlag are the names of the flags with the numbers of the
// descriptors; Start adds them to the arguments.
const (
	ReadyFlag    = "ready-fd"
	LifelineFlag = "lifeline-fd"
)

// Command says what to start.
type Command struct {
	Path string   // of the program
	Args []string // with the name of the program first
	Log  string   // file for its output, appended to; a large one becomes Log.old
}

// report is what a starting process says on its ready descriptor.
type report struct {
	Error string `json:"error,omitempty"`
	Code  int    `json:"code,omitempty"`
}

// StartError is why a process did not get ready, in its own words.
type StartError struct {
	Code int // exit status that belongs to it; 0: it ended without a word
	Text string
}

func (e *StartError) Error() string { return e.Text }

// Child is a process that is ready.
type Child struct {
	PID      int
	lifeline *os.File
}

// Start starts a process and waits until it is ready. A *StartError is what the
// process had to say; after any error it has ended or will find its lifeline
// closed.
func Start(ctx context.Context, c Command) (*Child, error) {
	log, err := openLog(c.Log)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	ready, readyW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer ready.Close()
	defer readyW.Close()
	lifelineR, lifeline, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer lifelineR.Close()

	cmd := &exec.Cmd{
		Path: c.Path, Dir: "/", Stdout: log, Stderr: log, ExtraFiles: []*os.File{readyW, lifelineR},
		Args:        append(c.Args, "--"+ReadyFlag+"="+strconv.Itoa(readyFD), "--"+LifelineFlag+"="+strconv.Itoa(lifelineFD)),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		lifeline.Close()
		return nil, fmt.Errorf("start process: %w", err)
	}
	readyW.Close()
	go cmd.Wait() // so that it is no zombie if it ends while we live
	child := &Child{PID: cmd.Process.Pid, lifeline: lifeline}
	if err := waitReady(ctx, ready, c.Log); err != nil {
		child.Release()
		return child, err
	}
	return child, nil
}

// waitReady reads the report of a process.
func waitReady(ctx context.Context, ready *os.File, log string) error {
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Now()) })
	defer stop()
	text, err := io.ReadAll(ready)
	if ctx.Err() != nil {
		return fmt.Errorf("wait until it is ready: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("wait until it is ready: %w", err)
	}
	var rep report
	if err := json.Unmarshal(text, &rep); err != nil {
		return &StartError{Text: "the process ended while it was starting; see " + log}
	}
	if rep.Error != "" {
		return &StartError{Code: rep.Code, Text: rep.Error}
	}
	return nil
}

// Release closes the lifeline: from now on the process decides by itself how long
// it lives. It may be called more than once.
func (c *Child) Release() { c.lifeline.Close() }

// openLog opens a log for appending.
func openLog(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}
