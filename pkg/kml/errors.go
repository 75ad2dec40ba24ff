package kml

import (
	"errors"
	"fmt"
)

// Errors that callers branch on, with errors.Is.
var (
	// ErrCorrupt is what every *CorruptError is.
	ErrCorrupt = errors.New("corrupt log")
	// ErrTorn says that a log ends in an incomplete frame (*TornError).
	ErrTorn = errors.New("torn tail")
	// ErrBeyond says that a position is past the valid end (*PosError).
	ErrBeyond = errors.New("position is beyond the end of the log")
	// ErrCut says that a position is before the first frame kept (*PosError).
	ErrCut = errors.New("position is before the first frame that the log still has")
	// ErrForked says that a position belongs to another history (*PosError).
	ErrForked = errors.New("position belongs to a history that forked from this log")
	// ErrVersion says that a log has a format that this program does not know.
	ErrVersion = errors.New("unknown format version")
	// ErrInvalid is what every *InvalidError is.
	ErrInvalid = errors.New("invalid record")
)

// CorruptError says that bytes are not what the format allows. Offset counts
// from the start of File, or of the slice that was decoded where File is empty.
// Seq is the number of the frame where it is known, else 0.
type CorruptError struct {
	File   string
	What   string
	Seq    uint64
	Offset int64

	whole bool // the frame is intact in itself, but does not belong here
}

func (e *CorruptError) Error() string {
	switch {
	case e.File == "":
		return fmt.Sprintf("corrupt record: %s at byte %d", e.What, e.Offset)
	case e.Seq == 0:
		return fmt.Sprintf("corrupt log %s: %s at offset %d", e.File, e.What, e.Offset)
	}
	return fmt.Sprintf("corrupt log %s: frame %d at offset %d: %s", e.File, e.Seq, e.Offset, e.What)
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// TornError says that File has Length bytes after its last complete frame that
// are the beginning of a frame, as a crash leaves them. They were never part of
// the log.
type TornError struct {
	File           string
	Seq            uint64 // of the last complete frame
	Offset, Length int64
}

func (e *TornError) Error() string {
	return fmt.Sprintf("torn tail in log %s: %d bytes at offset %d, after frame %d", e.File, e.Length, e.Offset, e.Seq)
}

// Is makes errors.Is(err, ErrTorn) true.
func (e *TornError) Is(target error) bool { return target == ErrTorn }

// PosError says why the position Seq can't be used in a log that has the frames
// after Base up to End. Err is ErrBeyond, ErrCut or ErrForked.
type PosError struct {
	File      string
	Seq       uint64
	Base, End uint64
	Err       error
}

func (e *PosError) Error() string {
	return fmt.Sprintf("log %s: position %d: %v (it has frames %d to %d)", e.File, e.Seq, e.Err, e.Base+1, e.End)
}

func (e *PosError) Unwrap() error { return e.Err }

// InvalidError says why a record or group can't be encoded: it is the fault of
// whoever made it.
type InvalidError struct {
	Op    Op
	Field string
	What  string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("invalid %v record: %s: %s", e.Op, e.Field, e.What)
}

// Is makes errors.Is(err, ErrInvalid) true.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }
