package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// push takes groups of the peer's own cache. Each is part of the order exactly
// once, however often it is pushed.
func (c *session) push(ctx context.Context, peer wire.Peer, head wire.PushHead, r *wire.Reader) (wire.PushResult, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	if err := c.claim(peer); err != nil {
		return wire.PushResult{}, err
	}
	release, err := c.turn(ctx, peer.Cache)
	if err != nil {
		return wire.PushResult{}, err
	}
	defer release()
	b, err := c.newBatch(ctx, peer, head)
	if err != nil {
		return wire.PushResult{}, err
	}
	if err := b.read(ctx, r); err != nil {
		return wire.PushResult{}, ended(ctx, err)
	}
	if err := b.checkWhole(ctx); err != nil {
		return wire.PushResult{}, err
	}
	return b.accept(ctx)
}

// claim makes sure that the peer pushes for its own cache.
func (c *session) claim(peer wire.Peer) error {
	changed, err := c.origins.claim(peer, c.granted)
	if err != nil {
		c.log.Warn("push refused", "peer", peer.Name, "address", peer.Address, "error", err)
		return err
	}
	if changed {
		return c.origins.save(c.port)
	}
	return nil
}

// turn waits for an earlier push of the same cache, whose connection may have
// broken meanwhile, to end.
func (c *session) turn(ctx context.Context, cache kml.UUID) (release func(), err error) {
	c.staging.Lock()
	token, ok := c.pushing[cache]
	if !ok {
		token = make(chan struct{}, 1)
		c.pushing[cache] = token
	}
	c.staging.Unlock()
	select {
	case token <- struct{}{}:
		return func() { <-token }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// batch is one push while it is read.
type batch struct {
	c      *session
	peer   wire.Peer
	head   wire.PushHead
	yours  origin // At: how far the pusher's log is part of the order already
	groups []kml.Group
	known  int // of groups: the first ones, that the order has already
	last   uint64
	bytes  int
	needs  map[wire.ContentID]ship.Version // contents that the last group names
	in     *ship.Incoming
}

// newBatch checks what the pusher takes for confirmed against what is.
func (c *session) newBatch(ctx context.Context, peer wire.Peer, head wire.PushHead) (*batch, error) {
	if _, _, err := c.port.Refresh(ctx); err != nil {
		return nil, err
	}
	if err := c.origins.follow(c.port); err != nil {
		return nil, err
	}
	o, _ := c.origins.get(peer.Cache)
	if err := c.checkPosition(head.Base); err != nil {
		return nil, err
	}
	if head.After.Seq > o.At.Seq || head.After.Seq == o.At.Seq && head.After.Seq > 0 && !o.fits(head.After) {
		e := wire.Errorf(wire.CodeForked, "the server has changes of cache %v up to %d, and they are not those that it was told of as %d: one of the two was restored, rolled back or cloned",
			peer.Cache, o.At.Seq, head.After.Seq)
		e.Yours = (*wire.Pos)(&o.At)
		return nil, e
	}
	return &batch{c: c, peer: peer, head: head, yours: o, last: head.After.Seq}, nil
}

// read takes groups and contents to the end of the request.
func (b *batch) read(ctx context.Context, r *wire.Reader) error {
	defer func() { b.in.Abort() }()
	for {
		f, err := r.Next()
		if err == io.EOF {
			if b.in != nil {
				return wire.Errorf(wire.CodeInvalid, "the push ends within content %v", b.in.ID)
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch f.Type {
		case wire.FrameGroup:
			err = b.group(f)
		case wire.FrameExtent, wire.FrameEnd:
			err = b.contents(ctx, f)
		default:
			err = wire.Errorf(wire.CodeInvalid, "a %v has no place in a push", f.Type)
		}
		if err != nil {
			return err
		}
	}
}

func (b *batch) group(f wire.Frame) error {
	_, body, err := f.Group()
	if err != nil {
		return err
	}
	if b.bytes += len(body); b.bytes > wire.MaxPushBytes || len(b.groups) >= wire.MaxPushGroups {
		return wire.Errorf(wire.CodeTooLarge, "more than %d groups or %d bytes in one push", wire.MaxPushGroups, wire.MaxPushBytes)
	}
	if b.in != nil {
		return wire.Errorf(wire.CodeInvalid, "a group within content %v", b.in.ID)
	}
	g, err := kml.DecodeGroup(body)
	if err != nil {
		return err
	}
	if err := merge.CheckGroup(&g, b.peer.Cache); err != nil {
		b.c.log.Warn("push refused", "peer", b.peer.Name, "address", b.peer.Address, "error", err)
		return wire.Errorf(wire.CodeRefused, "%v", err)
	}
	if g.First != b.last+1 {
		return b.behind("group %d-%d does not follow %d", g.First, g.Last, b.last)
	}
	switch at := b.yours.At; {
	case g.Last < at.Seq:
		b.known++
	case g.Last == at.Seq:
		if !b.yours.fits(kml.Pos{Epoch: g.OriginEpoch, Seq: g.Last, Chain: g.Chain}) {
			e := wire.Errorf(wire.CodeForked, "change %d of cache %v is not the one that the server has: one of the two was restored, rolled back or cloned", g.Last, b.peer.Cache)
			e.Yours = (*wire.Pos)(&at)
			return e
		}
		b.known++
	case g.First <= at.Seq:
		return b.behind("the server has changes up to %d, within group %d-%d", at.Seq, g.First, g.Last)
	}
	b.last = g.Last
	b.groups = append(b.groups, g)
	b.needs = needsOf(&g)
	return nil
}

func (b *batch) behind(format string, args ...any) error {
	e := wire.Errorf(wire.CodeBehind, format, args...)
	e.Yours = (*wire.Pos)(&b.yours.At)
	return e
}

// needsOf lists the contents that a group names.
func needsOf(g *kml.Group) map[wire.ContentID]ship.Version {
	needs := make(map[wire.ContentID]ship.Version)
	for _, c := range ship.BoundIn(g) {
		needs[c.ID] = c.Version
	}
	return needs
}

// contents takes a frame of a small content of the last group.
func (b *batch) contents(ctx context.Context, f wire.Frame) (err error) {
	if b.in == nil {
		id, err := ship.ContentOf(f)
		if err != nil {
			return err
		}
		want, ok := b.needs[id]
		if !ok {
			return wire.Errorf(wire.CodeInvalid, "content %v belongs to no change of the group before it", id)
		}
		if want.Size > wire.MaxInlineContent {
			return wire.Errorf(wire.CodeTooLarge, "content %v has %d bytes: it must be uploaded by itself", id, want.Size)
		}
		if b.in, err = ship.Receive(b.c.port.Stage, id, want.Size); err != nil {
			return err
		}
	}
	done, err := b.in.Take(ctx, f, b.needs[b.in.ID].Root)
	if err != nil || !done {
		return err
	}
	b.c.verified(b.in.ID, b.needs[b.in.ID].Root)
	b.in = nil
	return nil
}

// checkWhole reports which group can't be taken for want of content.
func (b *batch) checkWhole(ctx context.Context) error {
	for i := b.known; i < len(b.groups); i++ {
		g := &b.groups[i]
		former := merge.NewFormer()
		former.Add(g)
		for _, w := range former.Missing() {
			ok, err := b.c.isStaged(ctx, wire.ContentID{Origin: w.Origin, Seq: w.CloseSeq}, w.Content.Root, w.Size)
			if err != nil {
				return err
			}
			if ok && !w.Content.IsZero() {
				former.Have(w.Origin, w.CloseSeq)
			}
		}
		if former.Whole() {
			continue
		}
		w := former.Missing()[0]
		return wire.Errorf(wire.CodeNotWhole, "group %d-%d needs the content of CLOSE %d, which is not here", g.First, g.Last, w.CloseSeq)
	}
	return nil
}

// accept hands the groups that are new to presto and makes what it took durable.
func (b *batch) accept(ctx context.Context) (wire.PushResult, error) {
	c := b.c
	res := wire.PushResult{Accepted: b.known, Yours: wire.Pos(b.yours.At), End: wire.Pos(c.port.Ends.Now().Order)}
	fresh := b.groups[b.known:]
	if len(fresh) == 0 {
		end, err := c.durableEnd(ctx)
		res.End = wire.Pos(end)
		return res, err
	}
	if slices.ContainsFunc(fresh, func(g kml.Group) bool { return len(ship.BoundIn(&g)) > 0 }) {
		// A group that presto applies must find its content after any crash.
		if err := c.port.Sync(ctx, c.port.Name); err != nil {
			return res, err
		}
	}
	got, err := c.acceptInTurn(ctx, b.peer.Cache, b.head.Base, fresh)
	if err != nil {
		return res, fmt.Errorf("accept: %w", err)
	}
	if err := c.port.SyncOrder(ctx, got.End.Seq); err != nil {
		return res, err
	}
	res.Accepted += got.Accepted
	res.End, res.OverlapAt, res.Refused = wire.Pos(got.End), got.OverlapAt, got.Refused
	if got.Refused != "" {
		c.log.Warn("change refused", "peer", b.peer.Name, "change", fresh[got.Accepted].First, "reason", got.Refused)
	}
	at, _ := c.origins.get(b.peer.Cache)
	res.Yours = wire.Pos(at.At)
	return res, nil
}

// acceptInTurn is presto's Accept, one at a time. It is seen through even if the
// peer leaves: what became of it must be known here.
func (c *session) acceptInTurn(ctx context.Context, peer kml.UUID, base kml.Pos, groups []kml.Group) (channel.AcceptResult, error) {
	c.accepting.Lock()
	defer c.accepting.Unlock()
	if err := context.Cause(ctx); err != nil {
		return channel.AcceptResult{}, err
	}
	res, err := c.port.Accept(c.ctx, c.port.Name, peer, base, groups)
	if err != nil {
		if e, ok := errors.AsType[*channel.Error](err); !ok || e.Code == channel.ErrClosed || e.Code == channel.ErrInternal || e.Code == channel.ErrDamaged {
			// Some groups may have been taken: only the order log knows.
			c.end(fmt.Errorf("what became of a push is not known: %w", err))
		}
		return res, err
	}
	for i := range groups[:res.Accepted] {
		c.forget(&groups[i])
	}
	c.port.Order.SetEnd(res.End)
	return res, c.origins.follow(c.port)
}

// forget drops the notes about contents that presto owns now.
func (c *session) forget(g *kml.Group) {
	c.staging.Lock()
	defer c.staging.Unlock()
	for _, b := range ship.BoundIn(g) {
		delete(c.staged, b.ID)
	}
}

// isStaged reports whether a content is in the stage, whole and verified.
func (c *session) isStaged(ctx context.Context, id wire.ContentID, root [32]byte, size int64) (bool, error) {
	c.staging.Lock()
	have, ok := c.staged[id]
	c.staging.Unlock()
	if ok {
		return have == root, nil
	}
	ok, err := ship.IsStaged(ctx, c.port.Stage, id, root, size)
	if ok {
		c.verified(id, root)
	}
	return ok, err
}

func (c *session) verified(id wire.ContentID, root [32]byte) {
	c.staging.Lock()
	defer c.staging.Unlock()
	c.staged[id] = root
}
