package config

import (
	"errors"
	"fmt"
)

// What an error of this package can be, for errors.Is, besides those named
// where they arise.
var (
	// ErrValue: a name, address, path or number that can't be one.
	ErrValue = errors.New("not a possible value")
	// ErrConflict: it contradicts what is configured already.
	ErrConflict = errors.New("conflicts with the configuration")
	// ErrNoFileset: fsetdb has no fileset of that name.
	ErrNoFileset = errors.New("no such fileset")
	// ErrNotServer: only the server of the fileset can do that.
	ErrNotServer = errors.New("this host does not serve the fileset")
	// ErrOtherFileset: there is another fileset of the same name.
	ErrOtherFileset = errors.New("this is another fileset of the same name")
	// ErrWrongKey: the key is not the one that is pinned.
	ErrWrongKey = errors.New("the key is not the one that is pinned")
)

// kindError is a text that is of a kind, without saying the kind again.
type kindError struct {
	kind error
	text string
}

func (e *kindError) Error() string { return e.text }

func (e *kindError) Is(target error) bool { return target == e.kind }

func valueError(format string, args ...any) error {
	return &kindError{ErrValue, fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &kindError{ErrConflict, fmt.Sprintf(format, args...)}
}
