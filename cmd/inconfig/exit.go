package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

// Exit statuses, documented in the help text and the manual page.
const (
	exitOK      = 0
	exitRefused = 1 // the answer is no: what is there, or the server, forbids it
	exitMisuse  = 2 // wrong command line
	exitFailed  = 3 // it could not be done: faulty files, disk, network
)

// misuseError is a command line that makes no sense.
type misuseError struct{ err error }

func (e *misuseError) Error() string { return e.err.Error() }

func (e *misuseError) Unwrap() error { return e.err }

func misuse(err error) error { return &misuseError{err} }

// exitStatus is the one table from errors to exit statuses.
func exitStatus(err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[*misuseError](err); ok {
		return exitMisuse
	}
	for _, row := range []struct {
		kind   error
		status int
	}{
		{config.ErrNotInvitation, exitMisuse},
		{config.ErrGarbledInvitation, exitMisuse},
		{config.ErrJoinRefused, exitRefused},
		{config.ErrNewerInvitation, exitRefused},
		{config.ErrNoFileset, exitRefused},
		{config.ErrNotServer, exitRefused},
		{config.ErrWrongKey, exitRefused},
		{config.ErrOtherFileset, exitRefused},
		{config.ErrConflict, exitRefused},
		{config.ErrInvalidEdit, exitRefused},
		{config.ErrValue, exitMisuse},
	} {
		if errors.Is(err, row.kind) {
			return row.status
		}
	}
	return exitFailed
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
