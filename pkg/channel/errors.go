package channel

import "strconv"

// Code is the kind of an Error: what the caller may branch on.
type Code string

const (
	ErrNoFileset    Code = "no such fileset"
	ErrRole         Code = "role"          // the cache has another role for this fileset
	ErrWrongFileset Code = "wrong fileset" // same name, another uuid
	ErrPosition     Code = "position"      // base or positions do not follow ours: history forked, or a bug
	ErrDamaged      Code = "damaged"       // a log or index can't be read
	ErrNoSpace      Code = "no space"
	ErrBusy         Code = "busy"
	ErrInvalid      Code = "invalid" // the request makes no sense
	ErrInternal     Code = "internal"
)

// Error is what a call to presto fails with.
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return e.Text }

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }
