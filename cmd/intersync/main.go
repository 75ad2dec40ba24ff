// Command intersync looks after one mounted cache: as its server, or as a client
// of the server that --server names.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses, documented in the manual page.
const (
	exitOK     = 0
	exitNo     = 1 // a file to be hoarded is missing, or it runs already
	exitMisuse = 2 // the command line or the docroot makes no sense
	exitFailed = 3
)

// statusError is an error with the exit status it leads to.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }

func (e *statusError) Unwrap() error { return e.err }

func misuse(format string, args ...any) error {
	return &statusError{exitMisuse, fmt.Errorf(format, args...)}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run does one command line and gives its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newRoot()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "intersync: %v\n", err)
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return exitFailed
}
