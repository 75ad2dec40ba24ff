package channel

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// header is the JSON part of every frame. A call has Call and a fresh ID; its
// reply has the ID and no Call; cancel withdraws interest in a call, which is
// answered all the same. An event has neither ID nor Call.
type header struct {
	ID      uint64          `json:"id,omitempty"`
	Call    string          `json:"call,omitempty"`
	Cancel  bool            `json:"cancel,omitempty"`
	Fileset string          `json:"fileset,omitempty"`
	Args    json.RawMessage `json:"args,omitempty"` // of the call, or its result
	Error   *wireError      `json:"error,omitempty"`
	Event   *Event          `json:"event,omitempty"`
}

type wireError struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

// The calls, one for each method of Presto, and control for the rest.
const (
	callInfo     = "info"
	callAttach   = "attach"
	callSync     = "sync"
	callContents = "contents"
	callBind     = "bind"
	callBarrier  = "barrier"
	callAccept   = "accept"
	callApply    = "apply"
	callPath     = "path"
	callControl  = "control"
)

type attachArgs struct {
	Role Role     `json:"role"`
	UUID kml.UUID `json:"uuid"`
}

type attachReply struct {
	Fileset Fileset  `json:"fileset"`
	Cache   kml.UUID `json:"cache"`
	Files   []string `json:"files"` // which the descriptors are, in order
}

// Names of the files of an Attachment.
const (
	fileKML   = "kml"
	fileOrder = "order"
	fileStage = "stage"
)

type contentsArgs struct {
	Capture bool `json:"capture"`
}

type acceptArgs struct {
	Peer kml.UUID `json:"peer"`
	Base kml.Pos  `json:"base"`
}

type controlArgs struct {
	Verb string          `json:"verb"`
	Args json.RawMessage `json:"args,omitempty"`
}

// marshal is for types of this package, which always can be.
func marshal(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("channel: marshal %T: %v", v, err))
	}
	return b
}

func toWire(err error) *wireError {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		// The text of the whole chain says more than that of its core.
		return &wireError{Code: e.Code, Text: err.Error()}
	}
	return &wireError{Code: ErrInternal, Text: err.Error()}
}

func invalid(call string, err error) *Error {
	return &Error{ErrInvalid, fmt.Sprintf("%s: %v", call, err)}
}
