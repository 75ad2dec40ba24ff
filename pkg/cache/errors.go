package cache

import "errors"

// What can be wrong with a cache, for errors.Is. The error that carries one is
// an *Error, whose text names the cache and the next step.
var (
	ErrNotCache  = errors.New("not a cache")
	ErrInUse     = errors.New("in use")
	ErrNewer     = errors.New("of a newer format")
	ErrCopied    = errors.New("a copy of another cache")
	ErrNoFileset = errors.New("no such fileset")
	ErrBottom    = errors.New("unsuitable bottom file system")
	ErrDamaged   = errors.New("damaged")
)

// Error says what is wrong with one cache.
type Error struct {
	Source string // device, file or folder
	Kind   error  // one of the Err values above
	PID    int    // ErrInUse: the process that has it, 0 if that is not known
	Detail string // a sentence without the source: the fault, and what to do
}

// Error gives "SOURCE: detail".
func (e *Error) Error() string { return e.Source + ": " + e.Detail }

// Unwrap gives the kind, so that errors.Is(err, ErrInUse) works.
func (e *Error) Unwrap() error { return e.Kind }
