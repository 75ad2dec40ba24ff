package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

const (
	maxFetches    = 4 // large contents at a time
	fetchRetryMin = 100 * time.Millisecond
	fetchRetryMax = 5 * time.Second
)

// fetch is a large content to be asked for. What changes is under conn.mu.
type fetch struct {
	id     wire.ContentID
	v      ship.Version
	over   bool               // not needed any more
	cancel context.CancelFunc // of the attempt under way
}

// endFetch ends the fetch of an object's content. Called with mu held.
func (c *conn) endFetch(object kml.ObjectID) {
	f := c.fetching[object]
	if f == nil {
		return
	}
	delete(c.fetching, object)
	f.over = true
	if f.cancel != nil {
		f.cancel()
	}
}

// endSuperseded ends fetches of contents that g makes needless: their objects
// were closed again, or lost their last names. Called with mu held.
func (c *conn) endSuperseded(g *kml.Group) {
	if len(c.fetching) == 0 {
		return
	}
	for i := range g.Records {
		r := &g.Records[i]
		switch {
		case r.Op == kml.OpClose, r.Op == kml.OpUnlink && r.Last:
			c.endFetch(r.Object)
		case r.ReplacedLast:
			c.endFetch(r.Replaced)
		}
	}
}

// nextFetch returns what to fetch next, nil if there is nothing.
func (c *conn) nextFetch(ctx context.Context) (*fetch, context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) > 0 {
		f := c.waiting[0]
		c.waiting = c.waiting[1:]
		if len(c.waiting) > 0 {
			signal(c.toFetch) // for another fetcher
		}
		if !f.over {
			ctx, f.cancel = context.WithCancel(ctx)
			return f, ctx
		}
	}
	return nil, nil
}

// fetchLoop fetches large contents, one after the other.
func (c *conn) fetchLoop(ctx context.Context) error {
	for {
		f, fctx := c.nextFetch(ctx)
		if f == nil {
			select {
			case <-c.toFetch:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		err := c.fetchPatiently(fctx, f)
		f.cancel()
		c.mu.Lock()
		over := f.over
		if c.fetching[f.v.Object] == f {
			delete(c.fetching, f.v.Object)
		}
		c.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			c.have(f.id)
		case over:
			if err := c.l.port.Stage.Remove(channel.StageName(f.id.Origin, f.id.Seq)); err != nil {
				return err
			}
		case wire.CodeOf(err) == wire.CodeGone:
			c.gone(f.id)
		default:
			return err
		}
	}
}

// fetchPatiently tries again whatever the network does, from where it was
// broken off.
func (c *conn) fetchPatiently(ctx context.Context, f *fetch) error {
	t := c.begin(f.v, false, 0)
	defer c.finish(t)
	staged, err := ship.IsStaged(ctx, c.l.port.Stage, f.id, f.v.Root, f.v.Size)
	if err != nil || staged {
		return err
	}
	c.mu.Lock()
	c.used(f.id)
	c.mu.Unlock()
	wait := fetchRetryMin
	for {
		before := t.done
		err := c.fetchOnce(ctx, f, t)
		switch code := wire.CodeOf(err); {
		case err == nil, ctx.Err() != nil, code == wire.CodeGone, isDisk(err):
			return err
		case code != "" && code != wire.CodeTooMany && code != wire.CodeUnavailable && code != wire.CodeMismatch:
			return err
		}
		if t.done > before {
			wait = fetchRetryMin
		}
		c.l.r.opts.Log.Info("transfer broken off", "path", t.path, "at", t.done, "of", t.size, "error", err)
		if err := pause(ctx, wait/2+rand.N(wait), nil); err != nil {
			return err
		}
		wait = min(2*wait, fetchRetryMax)
	}
}

// diskError is trouble with our own stage: no network is to blame.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

func isDisk(err error) bool {
	_, ok := errors.AsType[diskError](err)
	return ok
}

// fetchOnce makes one attempt, and keeps what has come for the next.
func (c *conn) fetchOnce(ctx context.Context, f *fetch, t *transfer) error {
	in, err := ship.ReceiveMore(ctx, c.l.port.Stage, f.id, f.v.Size)
	if err != nil {
		return diskError{fmt.Errorf("stage content: %w", err)}
	}
	defer in.Pause()
	c.mu.Lock()
	t.start, t.done, t.began = in.Next, in.Next, time.Now()
	c.mu.Unlock()
	s, err := c.client.Content(ctx, wire.ContentRequest{ID: f.id, Object: f.v.Object, Root: f.v.Root, Size: f.v.Size, Offset: in.Next})
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		frame, err := s.Next()
		if err != nil {
			return fmt.Errorf("fetch content: %w", err)
		}
		switch frame.Type {
		case wire.FrameHeartbeat:
		case wire.FrameGone:
			return wire.Errorf(wire.CodeGone, "content %v was replaced meanwhile", f.id)
		case wire.FrameExtent, wire.FrameEnd:
			done, err := in.Take(ctx, frame, f.v.Root)
			if err != nil && wire.CodeOf(err) == "" && !errors.Is(err, wire.ErrFrame) {
				err = diskError{err}
			}
			if done || err != nil {
				return err
			}
			c.progress(t, in.Next)
		default:
			return c.broken("a %v has no place in a content", frame.Type)
		}
	}
}
