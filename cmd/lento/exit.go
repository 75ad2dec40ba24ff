package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

// Exit statuses of lento, documented in its manual page.
const (
	exitOK     = 0
	exitNo     = 1 // it works, but the answer is no, or something is wrong with what was asked about
	exitMisuse = 2 // the command line or the configuration makes no sense
	exitFailed = 3 // it could not be done
)

// statusError is an error with the exit status it leads to. One without a text
// is not printed: the output has said it.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

func misuse(err error) error { return &statusError{exitMisuse, err} }

// no is the answer no, which was printed already.
func no() error { return &statusError{status: exitNo} }

// exitStatus is the exit status of lento for err.
func exitStatus(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	if e, ok := errors.AsType[*mount.Failure](err); ok {
		if e.Class == mount.Usage {
			return exitMisuse
		}
		return int(e.Class)
	}
	return exitFailed
}

// helperStatus is the exit status of the helpers of mount(8) for err.
func helperStatus(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok && e.status == exitMisuse {
		return int(mount.Usage)
	}
	return mount.ExitCode(err)
}

// positional makes an error about the arguments of a command misuse, and tells
// how it is called.
func positional(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return misuse(errors.New(err.Error() + "; usage: " + cmd.UseLine()))
		}
		return nil
	}
}
