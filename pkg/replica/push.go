package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// pusher sends own changes over one conn.
type pusher struct {
	*conn
	pending *pending
	ready   []outgoing // to be pushed
	tries   int        // in a row that the server found fault with what was sent
	waits   int        // in a row for a writer on the server
}

// push sends what is changed here, as soon as it can go, until something breaks.
func (c *conn) push(ctx context.Context) error {
	if c.rights == string(config.ReadOnly) {
		return c.mayNotPush(ctx)
	}
	p := &pusher{conn: c}
	if err := p.restart(c.from); err != nil {
		return err
	}
	for {
		ends, moved := c.l.port.Ends.Get()
		if ends.Gone {
			return ship.ErrPrestoGone
		}
		if len(p.ready) == 0 {
			var err error
			if p.ready, err = p.pending.next(ctx); err != nil {
				if err = p.unready(ctx, err, moved); err != nil {
					return err
				}
				continue
			}
		}
		if len(p.ready) == 0 {
			select {
			case <-moved:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := p.pushReady(ctx); err != nil {
			return err
		}
	}
}

// mayNotPush is the pusher of a replicator that may only read.
func (c *conn) mayNotPush(ctx context.Context) error {
	for {
		ends, moved := c.l.port.Ends.Get()
		text := ""
		if ends.Own.Seq > c.from.Seq {
			text = fmt.Sprintf("%d changes made here can't be sent: server %s grants this host fileset %s for reading only",
				ends.Own.Seq-c.from.Seq, c.l.r.opts.Server.Name, c.l.r.opts.Fileset)
		}
		if err := c.stuck(ofPusher, text, false); err != nil {
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// restart begins anew with what follows from in the own log.
func (p *pusher) restart(from kml.Pos) error {
	pending, err := newPending(p.l.port, p.l.source, from.Seq)
	if err != nil {
		return err
	}
	pending.upload = p.upload
	p.pending, p.ready = pending, nil
	p.setFrom(from)
	return nil
}

func (p *pusher) setFrom(at kml.Pos) {
	p.from = at
	p.l.r.update(func(s *Status) { s.Pushed = at })
}

// unready is for an error of making groups ready.
func (p *pusher) unready(ctx context.Context, err error, moved <-chan struct{}) error {
	if !errors.Is(err, errTooLong) {
		return err
	}
	if err := p.stuck(ofPusher, err.Error(), false); err != nil {
		return err
	}
	if err := p.restart(p.from); err != nil {
		return err
	}
	return pause(ctx, retryHard, moved)
}

// pushReady pushes the groups that are ready, once, on top of what is applied.
func (p *pusher) pushReady(ctx context.Context) error {
	last := p.ready[len(p.ready)-1].last
	if err := p.l.port.SyncOwn(ctx, last.Seq); err != nil {
		return err
	}
	var frames []byte
	for _, g := range p.ready {
		frames = append(frames, g.frames...)
	}
	base, _ := p.l.applied.Get()
	res, err := p.client.Push(ctx, wire.PushHead{Base: base, After: p.from}, frames)
	if err != nil {
		return p.refused(ctx, err)
	}
	if res.Accepted < 0 || res.Accepted > len(p.ready) {
		return p.broken("%d of %d groups accepted", res.Accepted, len(p.ready))
	}
	if n := res.Accepted; n > 0 {
		p.tries, p.waits = 0, 0
		p.setFrom(p.ready[n-1].last)
		p.ready = p.ready[n:]
	}
	p.mu.Lock()
	p.serverEnd = later(p.serverEnd, kml.Pos(res.End))
	p.mu.Unlock()
	switch {
	case res.Refused != "":
		return p.cannotBe(ctx, fmt.Sprintf("server %s can't take change %d made here: %s", p.l.r.opts.Server.Name, p.ready[0].first.Seq, res.Refused))
	case res.OverlapAt > base.Seq:
		return p.catchUp(ctx, res.OverlapAt)
	case len(p.ready) > 0:
		return p.waitForWriter(ctx)
	}
	return p.stuck(ofPusher, "", false)
}

// Times between attempts to push a change that waits for nothing in the order.
const (
	writerRetryMin = 50 * time.Millisecond
	writerRetryMax = 5 * time.Second
	writerPatience = 8 // attempts, before it is worth a word
)

// waitForWriter is for a change that overlaps with nothing in the order, but
// with a file that is being written on the server at this moment.
func (p *pusher) waitForWriter(ctx context.Context) error {
	wait := min(writerRetryMin<<min(p.waits, 10), writerRetryMax)
	p.waits++
	if p.waits > writerPatience {
		text := fmt.Sprintf("change %d made here waits for a file that is being written on server %s", p.ready[0].first.Seq, p.l.r.opts.Server.Name)
		if err := p.stuck(ofPusher, text, false); err != nil {
			return err
		}
	}
	return pause(ctx, wait, nil)
}

// catchUp waits until the order is applied here up to position, where something
// met our change: then it either goes on top of that, or it must be merged.
func (p *pusher) catchUp(ctx context.Context, position uint64) error {
	for {
		at, moved := p.l.applied.Get()
		if at.Seq >= position {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// cannotBe is for changes that the server will not take whatever happens here.
func (p *pusher) cannotBe(ctx context.Context, text string) error {
	if err := p.stuck(ofPusher, text, false); err != nil {
		return err
	}
	return pause(ctx, retryHard, nil)
}

// refused is for a push that the server did not even consider.
func (p *pusher) refused(ctx context.Context, err error) error {
	e, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return fmt.Errorf("push: %w", err)
	}
	p.tries++
	switch e.Code {
	case wire.CodeBehind:
		if e.Yours == nil || p.tries > 3 {
			return err
		}
		// An answer was lost: go on after what the server has.
		yours, cerr := p.l.checkYours(kml.Pos(*e.Yours))
		if cerr != nil {
			return wire.Errorf(wire.CodeForked, "%v (%v)", err, cerr)
		}
		return p.restart(yours)
	case wire.CodeNotWhole, wire.CodeMismatch:
		// What was staged there is lost, or a file changed under our hands.
		if p.tries > 3 {
			return err
		}
		return p.restart(p.from)
	case wire.CodeRefused, wire.CodeReadOnly, wire.CodeOrigin, wire.CodeTooLarge:
		return p.cannotBe(ctx, e.Text)
	}
	return err
}

// upload sends a large content to the server's stage, from where an earlier
// attempt was broken off.
func (p *pusher) upload(ctx context.Context, id wire.ContentID, v ship.Version) (gone bool, err error) {
	o, err := p.l.source.Open(ctx, v, nil)
	if errors.Is(err, ship.ErrGone) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer o.File.Close()
	req := wire.ContentRequest{ID: id, Object: v.Object, Root: v.Root, Size: v.Size}
	st, err := p.client.Staged(ctx, req)
	if err != nil || st.Complete {
		return false, err
	}
	req.Offset = st.Have
	// It must be durable here before anybody else has it.
	if err := p.l.port.SyncOwn(ctx, id.Seq); err != nil {
		return false, err
	}
	t := p.begin(v, true, st.Have)
	defer p.finish(t)
	_, err = p.client.Upload(ctx, req, func(w io.Writer) error {
		if err := ship.SendFile(ctx, o.File, req, w, func(at int64) { p.progress(t, at) }); err != nil {
			return err
		}
		if still, err := o.Still(); err != nil || !still {
			return errors.Join(err, ship.ErrGone)
		}
		_, err := w.Write(wire.AppendEnd(nil, id, v.Size))
		return err
	})
	switch {
	case errors.Is(err, ship.ErrGone), errors.Is(err, content.ErrShort):
		return true, nil
	case wire.CodeOf(err) == wire.CodeMismatch:
		// Not our bytes as they are now, so either they changed, or what the server
		// had of them was bad; it has dropped that, and the next attempt tells.
		return false, fmt.Errorf("upload content: %w", err)
	case err != nil:
		return false, fmt.Errorf("upload content: %w", err)
	}
	return false, nil
}
