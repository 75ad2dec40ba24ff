package mount

import (
	"context"
	"errors"
	"fmt"
)

// Class is the kind of a failure: the exit status that mount(8) documents for it.
type Class int

// The classes that mount(8) and umount(8) know.
const (
	Usage       Class = 1  // wrong invocation or permissions
	System      Class = 2  // out of memory, can't start a process
	Internal    Class = 4  // a fault of ours
	Interrupted Class = 8  // the user stopped it
	Failed      Class = 32 // the mount or unmount did not happen
)

// Failure is an error with its class.
type Failure struct {
	Class Class
	Err   error
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap gives the error inside.
func (f *Failure) Unwrap() error { return f.Err }

func failure(c Class, format string, args ...any) error {
	return &Failure{Class: c, Err: fmt.Errorf(format, args...)}
}

// ExitCode is the exit status for err by the table of mount(8): 0 for nil, the
// class of a Failure, and Failed for any other error.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		return int(f.Class)
	}
	if errors.Is(err, context.Canceled) {
		return int(Interrupted)
	}
	return int(Failed)
}
