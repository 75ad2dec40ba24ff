package wire

import (
	"context"
	"io"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Version is the version of the protocol. Both ends state theirs in the header
// Intermezzo-Version, and a server refuses one that it does not speak.
const Version = 1

// Names of headers.
const (
	headerVersion  = "Intermezzo-Version"
	headerFeatures = "Intermezzo-Features" // what the sender can take, separated by commas
	headerCache    = "Intermezzo-Cache"    // uuid of the caller's cache
	headerFileset  = "Intermezzo-Fileset"  // uuid of the fileset, as the caller knows it
)

// featureZstd: packed frames.
const featureZstd = "zstd"

// typeFrames is the media type of a body of frames.
const typeFrames = "application/vnd.intermezzo.frames"

// Limits of one request, in bytes of body unless said otherwise.
const (
	MaxPushGroups    = 4096
	MaxPushBytes     = 160 << 20 // two of the largest groups and their small contents
	MaxJoinBytes     = 4 << 10
	MaxAnswerBytes   = 1 << 20 // JSON that a client accepts
	MaxInlineContent = 1 << 20 // a longer content is not sent with its group
	maxHeaderBytes   = 16 << 10
)

// Status is what a server says about a fileset to those it is granted to.
type Status struct {
	Fileset  string        `json:"fileset"`
	UUID     string        `json:"uuid"`
	Server   string        `json:"server"` // name of the host
	Version  int           `json:"version"`
	Features []string      `json:"features"`
	Rights   config.Rights `json:"rights"`
	End      Pos           `json:"end"`             // of the order, as far as it is durable
	Groups   uint64        `json:"groups"`          // in the order
	Yours    *Pos          `json:"yours,omitempty"` // how far the log of the calling cache is part of the order
}

// Peer is who makes a request: proved by its key, granted by the fileset.
type Peer struct {
	config.Replicator
	Address string   // of the network, for logs
	Cache   kml.UUID // what it says the uuid of its cache is; zero if it does not say
	Pack    bool     // it can take packed frames, and they are worth the work
}

// PushHead is what comes with a push besides the groups.
type PushHead struct {
	Base  kml.Pos // in the order: what the groups were made on top of
	After kml.Pos // in the pusher's own log: the last that it knows to be part of the order
}

// PushResult is the answer to a push. Accepted groups are a prefix, and are
// durable on the server. Of the others, the first met the group at OverlapAt, or
// can never be taken, for the reason in Refused.
type PushResult struct {
	Accepted  int    `json:"accepted"`
	End       Pos    `json:"end"`
	OverlapAt uint64 `json:"overlap_at,omitempty"`
	Refused   string `json:"refused,omitempty"`
	Yours     Pos    `json:"yours"`
}

// ContentRequest names content to be sent or staged.
type ContentRequest struct {
	ID     ContentID
	Object kml.ObjectID
	Root   [32]byte
	Size   int64
	Offset int64 // where to begin
}

// StagedResult says how much of a content the server has.
type StagedResult struct {
	Have     int64 `json:"have"`     // bytes from the beginning
	Complete bool  `json:"complete"` // and verified
}

// FrameWriter takes frames for the other end. Errors mean that it is gone.
type FrameWriter interface {
	// Write takes whole frames, as the Append functions make them.
	io.Writer
	// Flush sends what was written on its way.
	Flush() error
}

// Backend serves one fileset: pkg/server. Errors should be *Error; others are
// logged, and told the peer as CodeInternal without their text. Every method is
// called from many goroutines.
type Backend interface {
	// UUID is the fileset's; zero while it is not known: then it is not served.
	UUID() kml.UUID

	Status(ctx context.Context, peer Peer) (Status, error)

	// Follow writes groups after from, their small contents and heartbeats until
	// ctx ends or the peer is gone. An error before the first Write is the answer
	// to the request, later it is the last frame.
	Follow(ctx context.Context, peer Peer, from kml.Pos, w FrameWriter) error

	// Push reads groups and their small contents to the end of r.
	Push(ctx context.Context, peer Peer, head PushHead, r *Reader) (PushResult, error)

	// Content writes the content from the offset on, and FrameEnd or FrameGone.
	Content(ctx context.Context, peer Peer, req ContentRequest, w FrameWriter) error

	// Staged tells how much of an upload has arrived.
	Staged(ctx context.Context, peer Peer, req ContentRequest) (StagedResult, error)

	// Upload reads extents from the offset on, and FrameEnd, into the stage.
	Upload(ctx context.Context, peer Peer, req ContentRequest, r *Reader) (StagedResult, error)
}
