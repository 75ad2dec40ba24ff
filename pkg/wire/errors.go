package wire

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Code is the kind of an Error: what the other end may branch on.
type Code string

const (
	CodeForbidden    Code = "forbidden"     // the key was not granted that; says nothing of whether it exists
	CodeReadOnly     Code = "read-only"     // the key may follow, not push
	CodeOrigin       Code = "origin"        // the cache belongs to another key
	CodeForked       Code = "forked"        // positions belong to another history
	CodeCut          Code = "cut"           // the log no longer reaches back to the position
	CodeBehind       Code = "behind"        // a push does not continue at Yours
	CodeGone         Code = "gone"          // the content can't be had any more
	CodeMismatch     Code = "mismatch"      // content is not what its hash says
	CodeNotWhole     Code = "not whole"     // a push lacks content that it needs
	CodeRefused      Code = "refused"       // a group that no peer may push
	CodeOffset       Code = "offset"        // an upload does not go on where the last one ended
	CodeInvalid      Code = "invalid"       // the request makes no sense
	CodeTooLarge     Code = "too large"     // beyond a limit
	CodeVersion      Code = "version"       // the two ends have no version in common
	CodeInvitation   Code = "invitation"    // unknown, expired or used
	CodeTooMany      Code = "too many"      // requests: try later
	CodeUnavailable  Code = "unavailable"   // the cache of the server is not mounted, or in trouble
	CodeWrongFileset Code = "wrong fileset" // same name, another uuid
	CodeInternal     Code = "internal"
)

// status is the one table from codes to HTTP.
var status = map[Code]int{
	CodeForbidden:    http.StatusForbidden,
	CodeReadOnly:     http.StatusForbidden,
	CodeOrigin:       http.StatusForbidden,
	CodeForked:       http.StatusConflict,
	CodeCut:          http.StatusGone,
	CodeBehind:       http.StatusConflict,
	CodeGone:         http.StatusGone,
	CodeMismatch:     http.StatusUnprocessableEntity,
	CodeNotWhole:     http.StatusUnprocessableEntity,
	CodeRefused:      http.StatusUnprocessableEntity,
	CodeOffset:       http.StatusRequestedRangeNotSatisfiable,
	CodeInvalid:      http.StatusBadRequest,
	CodeTooLarge:     http.StatusRequestEntityTooLarge,
	CodeVersion:      http.StatusUpgradeRequired,
	CodeInvitation:   http.StatusForbidden,
	CodeTooMany:      http.StatusTooManyRequests,
	CodeUnavailable:  http.StatusServiceUnavailable,
	CodeWrongFileset: http.StatusConflict,
	CodeInternal:     http.StatusInternalServerError,
}

// Error is what a request is refused with, and what a Client then returns. Its
// text tells a person what to do.
type Error struct {
	Code  Code   `json:"code"`
	Text  string `json:"text"`
	End   *Pos   `json:"end,omitempty"`   // forked, cut: where the server's log ends
	Yours *Pos   `json:"yours,omitempty"` // behind, forked: how far the pusher's own log is part of the order
	Have  int64  `json:"have,omitempty"`  // offset: where to go on
}

func (e *Error) Error() string { return e.Text }

// HTTPStatus is the status that goes with the code.
func (e *Error) HTTPStatus() int {
	if s, ok := status[e.Code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// CodeOf gives the code of err, "" if there is no Error in it.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// Pos is a kml.Pos in the text form EPOCH/NUMBER/CHAIN, for JSON and URLs.
type Pos kml.Pos

func (p Pos) String() string { return fmt.Sprintf("%d/%d/%v", p.Epoch, p.Seq, p.Chain) }

// MarshalText gives the text form.
func (p Pos) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the text form, and no other.
func (p *Pos) UnmarshalText(text []byte) error {
	q, err := ParsePos(string(text))
	if err == nil {
		*p = q
	}
	return err
}
