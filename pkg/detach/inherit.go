package detach

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Starting is the started process's end. The zero value is a process that was
// started by hand: nobody waits for it.
type Starting struct {
	ready, lifeline *os.File
}

// Inherit takes the descriptors with these numbers; negative: there is none.
func Inherit(readyFD, lifelineFD int) (Starting, error) {
	ready, err := inherited(readyFD, ReadyFlag)
	if err != nil {
		return Starting{}, err
	}
	lifeline, err := inherited(lifelineFD, LifelineFlag)
	if err != nil {
		return Starting{}, err
	}
	return Starting{ready: ready, lifeline: lifeline}, nil
}

// inherited makes a file of a descriptor that must be a pipe.
func inherited(fd int, flag string) (*os.File, error) {
	if fd < 0 {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, fmt.Errorf("--%s=%d is not a pipe; it is for our own use", flag, fd)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil { // so that a read can be given up
		return nil, fmt.Errorf("--%s=%d: %w", flag, fd, err)
	}
	return os.NewFile(uintptr(fd), flag), nil
}

// Report tells who started us that we are ready, or err and the exit status that
// belongs to it. Only the first call says anything.
func (s *Starting) Report(err error, code int) error {
	if s.ready == nil {
		return nil
	}
	ready := s.ready
	s.ready = nil
	defer ready.Close()
	var rep report
	if err != nil {
		rep = report{Error: err.Error(), Code: code}
	}
	if err := json.NewEncoder(ready).Encode(rep); err != nil {
		return fmt.Errorf("report to the starting command: %w", err)
	}
	return nil
}

// WaitReleased blocks until who started us has gone or let us go. Without a
// lifeline it blocks until ctx is done.
func (s *Starting) WaitReleased(ctx context.Context) {
	if s.lifeline == nil {
		<-ctx.Done()
		return
	}
	stop := context.AfterFunc(ctx, func() { s.lifeline.SetReadDeadline(time.Now()) })
	defer stop()
	io.Copy(io.Discard, s.lifeline)
}
