package replica

import (
	"context"
	"fmt"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// queueBytes is how much may wait to be applied, as long as any of it can be:
// then the server waits, not our memory grows.
const queueBytes = 64 << 20

// receive takes what the server streams.
func (c *conn) receive(ctx context.Context, stream *wire.Stream) error {
	var in *ship.Incoming
	var root [32]byte
	defer func() { in.Abort() }()
	for {
		f, err := stream.Next()
		if err != nil {
			return fmt.Errorf("follow %s: %w", c.l.r.opts.Server.Name, err)
		}
		if in != nil && f.Type != wire.FrameExtent && f.Type != wire.FrameEnd {
			return c.broken("a %v within content %v", f.Type, in.ID)
		}
		switch f.Type {
		case wire.FrameGroup:
			err = c.addGroup(ctx, f)
		case wire.FrameExtent, wire.FrameEnd:
			in, root, err = c.addContent(ctx, f, in, root)
		case wire.FrameGone:
			err = c.addGone(f)
		case wire.FrameHeartbeat:
			err = c.heartbeat(f)
		default:
			err = c.broken("a %v has no place here", f.Type)
		}
		if err != nil {
			return err
		}
	}
}

// broken is for a server that keeps no rules.
func (c *conn) broken(format string, args ...any) error {
	return wire.Errorf(wire.CodeInvalid, "server %s breaks the protocol: %s", c.l.r.opts.Server.Name, fmt.Sprintf(format, args...))
}

func (c *conn) heartbeat(f wire.Frame) error {
	end, err := f.Heartbeat()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serverEnd = later(c.serverEnd, end)
	return nil
}

// addGroup puts a group into the queue.
func (c *conn) addGroup(ctx context.Context, f wire.Frame) error {
	end, body, err := f.Group()
	if err != nil {
		return err
	}
	if end.Seq != c.end.Seq+1 {
		return c.broken("group %v follows %v", end, c.end)
	}
	g, err := kml.DecodeGroup(body)
	if err != nil {
		return c.broken("group %v: %v", end, err)
	}
	if err := c.makeRoom(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	c.end = end
	c.queue = append(c.queue, received{end, g, int64(len(body))})
	c.bytes += int64(len(body))
	c.serverEnd = later(c.serverEnd, end)
	c.former.Add(&g)
	c.contentsOf(&g)
	c.mu.Unlock()
	signal(c.arrived)
	return nil
}

// contentsOf notes what the contents of a group are, and asks for those that do
// not come by themselves. Called with mu held.
func (c *conn) contentsOf(g *kml.Group) {
	c.endSuperseded(g)
	own := g.Origin == c.l.port.Cache
	for _, b := range ship.BoundIn(g) {
		switch {
		case own: // it is in the tree
			c.former.Have(b.ID.Origin, b.ID.Seq)
			c.contents[b.ID] = contentStaged
		case b.Version.Size > wire.MaxInlineContent:
			f := &fetch{id: b.ID, v: b.Version}
			c.fetching[b.Version.Object] = f
			c.waiting = append(c.waiting, f)
			signal(c.toFetch)
		default:
			c.expected[b.ID] = b.Version
		}
	}
}

// makeRoom waits while there is enough to apply.
func (c *conn) makeRoom(ctx context.Context) error {
	for {
		c.mu.Lock()
		full := c.bytes > queueBytes && c.former.Cut() > 0
		c.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-c.taken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// addContent takes a part of a small content.
func (c *conn) addContent(ctx context.Context, f wire.Frame, in *ship.Incoming, root [32]byte) (*ship.Incoming, [32]byte, error) {
	if in == nil {
		id, err := ship.ContentOf(f)
		if err != nil {
			return nil, root, err
		}
		c.mu.Lock()
		v, ok := c.expected[id]
		delete(c.expected, id)
		c.mu.Unlock()
		if !ok {
			return nil, root, c.broken("content %v was not to be sent", id)
		}
		root = v.Root
		if in, err = ship.Receive(c.l.port.Stage, id, v.Size); err != nil {
			return nil, root, err
		}
	}
	done, err := in.Take(ctx, f, root)
	if err != nil || !done {
		return in, root, err
	}
	c.have(in.ID)
	return nil, root, nil
}

// have notes that a content is staged.
func (c *conn) have(id wire.ContentID) {
	c.mu.Lock()
	c.former.Have(id.Origin, id.Seq)
	c.contents[id] = contentStaged
	c.unsynced = true
	c.used(id)
	c.mu.Unlock()
	signal(c.arrived)
}

func (c *conn) addGone(f wire.Frame) error {
	id, err := f.Gone()
	if err != nil {
		return err
	}
	c.gone(id)
	return nil
}

// gone notes that a content will not come.
func (c *conn) gone(id wire.ContentID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.former.Gone(id.Origin, id.Seq)
	delete(c.expected, id)
	if c.contents[id] != contentStaged {
		c.contents[id] = contentGone
	}
	for object, f := range c.fetching {
		if f.id == id {
			c.endFetch(object)
		}
	}
}
