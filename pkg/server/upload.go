package server

import (
	"context"
	"io"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// mayStage reports why the peer can't stage that content.
func (c *session) mayStage(peer wire.Peer, req wire.ContentRequest) error {
	if err := c.claim(peer); err != nil {
		return err
	}
	at, _ := c.origins.get(peer.Cache)
	switch {
	case req.ID.Origin != peer.Cache:
		return wire.Errorf(wire.CodeOrigin, "content %v is of another cache", req.ID)
	case req.ID.Seq <= at.At.Seq:
		e := wire.Errorf(wire.CodeBehind, "change %d is part of the order already", req.ID.Seq)
		e.Yours = (*wire.Pos)(&at.At)
		return e
	}
	return nil
}

// stagedSoFar tells how much of an upload is here.
func (c *session) stagedSoFar(ctx context.Context, peer wire.Peer, req wire.ContentRequest) (wire.StagedResult, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	var res wire.StagedResult
	if err := c.mayStage(peer, req); err != nil {
		return res, err
	}
	whole, err := c.isStaged(ctx, req.ID, req.Root, req.Size)
	if err != nil {
		return res, ended(ctx, err)
	}
	if whole {
		return wire.StagedResult{Have: req.Size, Complete: true}, nil
	}
	res.Have, err = c.port.Stage.Partial(channel.StageName(req.ID.Origin, req.ID.Seq))
	return res, err
}

// upload takes a content, from where an earlier upload of it was broken off.
func (c *session) upload(ctx context.Context, peer wire.Peer, req wire.ContentRequest, r *wire.Reader) (wire.StagedResult, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	var res wire.StagedResult
	if err := c.mayStage(peer, req); err != nil {
		return res, err
	}
	in, err := c.resume(ctx, req)
	if err != nil {
		return res, err
	}
	// What has come stays, to go on from there the next time.
	defer in.Pause()
	for {
		f, err := r.Next()
		if err == io.EOF {
			return res, wire.Errorf(wire.CodeInvalid, "the upload of content %v ends early", req.ID)
		}
		if err != nil {
			return res, ended(ctx, err)
		}
		if f.Type != wire.FrameExtent && f.Type != wire.FrameEnd {
			return res, wire.Errorf(wire.CodeInvalid, "a %v has no place in an upload", f.Type)
		}
		done, err := in.Take(ctx, f, req.Root)
		if err != nil {
			return res, ended(ctx, err)
		}
		if done {
			c.verified(req.ID, req.Root)
			return wire.StagedResult{Have: req.Size, Complete: true}, nil
		}
	}
}

// resume opens the stage for an upload that begins at req.Offset.
func (c *session) resume(ctx context.Context, req wire.ContentRequest) (*ship.Incoming, error) {
	if req.Offset == 0 {
		return ship.Receive(c.port.Stage, req.ID, req.Size)
	}
	in, err := ship.ReceiveMore(ctx, c.port.Stage, req.ID, req.Size)
	if err != nil {
		return nil, ended(ctx, err)
	}
	if in.Next != req.Offset {
		in.Pause() // nothing was written: what is there stays
		e := wire.Errorf(wire.CodeOffset, "content %v: %d bytes are here, the upload begins at %d", req.ID, in.Next, req.Offset)
		e.Have = in.Next
		return nil, e
	}
	return in, nil
}
