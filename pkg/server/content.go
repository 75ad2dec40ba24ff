package server

import (
	"context"
	"errors"

	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// content sends a content from an offset on. While its hash is still being made
// the peer gets heartbeats.
func (c *session) content(ctx context.Context, req wire.ContentRequest, w wire.FrameWriter) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	beat := func() error {
		if _, err := w.Write(wire.AppendHeartbeat(nil, c.port.Ends.Now().Order)); err != nil {
			return err
		}
		return w.Flush()
	}
	v := ship.Version{Object: req.Object, Root: req.Root, Size: req.Size}
	o, err := c.source.Open(ctx, v, beat)
	if errors.Is(err, ship.ErrGone) {
		return wire.Errorf(wire.CodeGone, "content %v was replaced meanwhile", req.ID)
	}
	if err != nil {
		return err
	}
	defer o.File.Close()
	if err := ship.SendFile(ctx, o.File, req, w, nil); err != nil {
		if errors.Is(err, content.ErrShort) {
			return wire.Errorf(wire.CodeGone, "content %v was replaced meanwhile", req.ID)
		}
		return ended(ctx, err)
	}
	still, err := o.Still()
	if err != nil {
		return err
	}
	last := wire.AppendEnd(nil, req.ID, req.Size)
	if !still {
		last = wire.AppendGone(nil, req.ID)
	}
	if _, err := w.Write(last); err != nil {
		return err
	}
	return w.Flush()
}
