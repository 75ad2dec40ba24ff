package server

import (
	"context"
	"errors"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// follow sends the order after from, as far as it is durable, and then what
// comes, until the peer is gone.
func (c *session) follow(ctx context.Context, peer wire.Peer, from kml.Pos, w wire.FrameWriter) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	if err := c.checkPosition(from); err != nil {
		return err
	}
	c.followers.Add(1)
	defer c.followers.Add(-1)
	c.log.Info("peer follows", "peer", peer.Name, "address", peer.Address, "from", from.String())
	f := &follower{c: c, peer: peer, at: from, w: w}
	err := f.run(ctx)
	c.log.Info("peer left", "peer", peer.Name, "address", peer.Address, "at", f.at.String(), "reason", err)
	return err
}

// checkPosition reports why the order can't go on from there.
func (c *session) checkPosition(from kml.Pos) error {
	end := c.port.Ends.Now().Order
	err := c.port.Order.Check(from)
	var e *wire.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kml.ErrForked):
		e = wire.Errorf(wire.CodeForked, "position %v is of another history than this server's, which ends at %v: one of the two was restored, rolled back or cloned; nothing is applied across that", from, end)
	case errors.Is(err, kml.ErrCut):
		e = wire.Errorf(wire.CodeCut, "the log of the server no longer reaches back to position %v: the replica must be made anew", from)
	default:
		return err
	}
	e.End = (*wire.Pos)(&end)
	return e
}

// follower is one peer that follows.
type follower struct {
	c     *session
	peer  wire.Peer
	at    kml.Pos
	w     wire.FrameWriter
	ahead ahead
}

func (f *follower) run(ctx context.Context) error {
	beat := time.NewTicker(wire.Heartbeat)
	defer beat.Stop()
	if err := f.heartbeat(); err != nil {
		return err
	}
	for {
		ends, moved := f.c.port.Ends.Get()
		if ends.Order.Seq > f.at.Seq {
			if err := f.c.port.SyncOrder(ctx, ends.Order.Seq); err != nil {
				return ended(ctx, err)
			}
			if err := f.sendTo(ctx, ends.Order); err != nil {
				return ended(ctx, err)
			}
			continue
		}
		select {
		case <-moved:
		case <-beat.C:
			if err := f.heartbeat(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ended prefers why ctx was ended to what came of it.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (f *follower) heartbeat() error {
	if _, err := f.w.Write(wire.AppendHeartbeat(nil, f.c.port.Ends.Now().Order)); err != nil {
		return err
	}
	return f.w.Flush()
}

// sendTo sends the order up to end, which is durable.
func (f *follower) sendTo(ctx context.Context, end kml.Pos) error {
	told := time.Now()
	for f.at.Seq < end.Seq {
		seg, err := f.c.buildOwn(f.at, end, f.peer.Cache)
		if err == nil && seg == nil {
			seg, err = f.c.segments.get(ctx, f.at, func() (*segment, error) { return f.c.build(ctx, f.at, end, &f.ahead) })
		}
		if err != nil {
			return err
		}
		if _, err := f.w.Write(seg.bytesFor(f.peer, &f.c.pack)); err != nil {
			return err
		}
		if err := f.w.Flush(); err != nil {
			return err
		}
		f.at = seg.to
		if time.Since(told) > wire.Heartbeat { // the peer shows how far it is behind
			told = time.Now()
			if err := f.heartbeat(); err != nil {
				return err
			}
		}
	}
	return nil
}
