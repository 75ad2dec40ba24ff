package server

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// What one segment holds, at most; a single group may exceed it.
const (
	segmentBytes  = 512 << 10
	segmentGroups = 1024
	aheadGroups   = 64 << 10 // how far ahead superseded content is looked for
	cacheBytes    = 32 << 20
)

// segment is a run of the order as frames, with the small contents that belong
// to it. It is made once for all who follow, and never changed.
type segment struct {
	to       kml.Pos
	frames   []byte
	contents []span // of frames: where contents are
	pack     sync.Once
	packed   []byte
}

// span is where in the frames of a segment the contents of one group are.
type span struct {
	origin   kml.UUID
	from, to int
}

// bytesFor gives what is sent to a peer. Contents that it made itself it has.
func (s *segment) bytesFor(peer wire.Peer, p *wire.Packer) []byte {
	frames, whole := s.without(peer.Cache)
	switch {
	case !peer.Pack:
		return frames
	case !whole:
		return p.AppendPacked(nil, frames)
	}
	s.pack.Do(func() { s.packed = p.AppendPacked(nil, frames) })
	return s.packed
}

// without gives the frames, but for the contents of groups of one cache.
func (s *segment) without(cache kml.UUID) (frames []byte, whole bool) {
	whole = true
	at := 0
	for _, c := range s.contents {
		if c.origin != cache {
			continue
		}
		whole = false
		frames = append(frames, s.frames[at:c.from]...)
		at = c.to
	}
	if whole {
		return s.frames, true
	}
	return append(frames, s.frames[at:]...), false
}

// place is where a record is in the order: number of the group, index in it.
type place struct {
	seq   uint64
	index int
}

func (p place) before(q place) bool { return p.seq < q.seq || p.seq == q.seq && p.index < q.index }

// ahead knows, for a stretch of the order, where each object was last closed or
// lost its last name: content that an earlier CLOSE means is not needed.
type ahead struct {
	from, to uint64 // groups after from, up to to
	last     map[kml.ObjectID]place
}

func (a *ahead) covers(from, to uint64) bool { return a.last != nil && a.from <= from && a.to >= to }

func (a *ahead) note(seq uint64, g *kml.Group) {
	for i := range g.Records {
		r := &g.Records[i]
		at := place{seq, i}
		switch {
		case r.Op == kml.OpClose, r.Op == kml.OpUnlink && r.Last:
			a.last[r.Object] = at
		case r.ReplacedLast:
			a.last[r.Replaced] = at
		}
	}
}

// superseded reports whether something after the record at p ends the life of
// the content that it gives the object.
func (a *ahead) superseded(id kml.ObjectID, p place) bool {
	last, ok := a.last[id]
	return ok && p.before(last)
}

// look reads the order from after on, as far ahead as it looks or to end.
func (c *session) look(after, end uint64) (ahead, error) {
	a := ahead{from: after, to: min(end, after+aheadGroups), last: make(map[kml.ObjectID]place)}
	r, err := c.port.Order.ReadFrom(after)
	if err != nil {
		return a, err
	}
	for at := after; at < a.to; at++ {
		f, err := r.Next()
		if err != nil {
			return a, fmt.Errorf("look ahead in the order: %w", err)
		}
		g, err := f.Group()
		if err != nil {
			return a, fmt.Errorf("look ahead in the order: %w", err)
		}
		a.note(f.Pos.Seq, &g)
	}
	return a, nil
}

// run is a run of groups while a segment is made of it.
type run struct {
	groups []kml.Group
	bodies [][]byte
	ends   []kml.Pos
	bytes  int64
}

// readRun reads groups after from, up to end at most, that make a segment of
// good size with their contents. If own is not zero, it stops before the first
// group that another cache made.
func (c *session) readRun(from, end kml.Pos, own kml.UUID) (*run, error) {
	r, err := c.port.Order.ReadFrom(from.Seq)
	if err != nil {
		return nil, err
	}
	n := &run{}
	for at := from.Seq; at < end.Seq && len(n.groups) < segmentGroups && n.bytes < segmentBytes; at++ {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read order: %w", err)
		}
		g, err := f.Group()
		if err != nil {
			return nil, fmt.Errorf("read order at %v: %w", f.Pos, err)
		}
		if !own.IsZero() && g.Origin != own {
			break
		}
		n.groups = append(n.groups, g)
		n.bodies = append(n.bodies, append([]byte(nil), f.Body...))
		n.ends = append(n.ends, f.Pos)
		n.bytes += int64(len(f.Body))
		for _, b := range ship.BoundIn(&g) {
			if b.Version.Size <= wire.MaxInlineContent {
				n.bytes += b.Version.Size
			}
		}
	}
	return n, nil
}

// buildOwn makes a segment of groups that the peer itself has made, which has
// their contents. It is nil if the next group is another's.
func (c *session) buildOwn(from, end kml.Pos, own kml.UUID) (*segment, error) {
	if own.IsZero() {
		return nil, nil
	}
	n, err := c.readRun(from, end, own)
	if err != nil || len(n.groups) == 0 {
		return nil, err
	}
	seg := &segment{to: n.ends[len(n.ends)-1]}
	for i := range n.groups {
		seg.frames = wire.AppendGroup(seg.frames, n.ends[i], n.bodies[i])
	}
	return seg, nil
}

// build makes the segment of the order after from. a is the follower's own look
// ahead, which is renewed where it does not reach.
func (c *session) build(ctx context.Context, from, end kml.Pos, a *ahead) (*segment, error) {
	n, err := c.readRun(from, end, kml.UUID{})
	if err != nil {
		return nil, err
	}
	to := n.ends[len(n.ends)-1]
	if to.Seq == end.Seq {
		// The run is all there is: no need to read it twice.
		*a = ahead{from: from.Seq, to: to.Seq, last: make(map[kml.ObjectID]place)}
		for i := range n.groups {
			a.note(n.ends[i].Seq, &n.groups[i])
		}
	} else if !a.covers(from.Seq, min(end.Seq, to.Seq+aheadGroups/2)) {
		if *a, err = c.look(from.Seq, end.Seq); err != nil {
			return nil, err
		}
	}
	bodies, err := c.contentsOf(ctx, n, a)
	if err != nil {
		return nil, err
	}
	seg := &segment{to: to, frames: make([]byte, 0, n.bytes+int64(len(n.groups)*128))}
	for i := range n.groups {
		seg.frames = wire.AppendGroup(seg.frames, n.ends[i], n.bodies[i])
		at := span{origin: n.groups[i].Origin, from: len(seg.frames)}
		for _, b := range ship.BoundIn(&n.groups[i]) {
			if body, known := bodies[b.ID]; known {
				seg.frames = appendBody(seg.frames, b, body)
			}
		}
		if at.to = len(seg.frames); at.to > at.from {
			seg.contents = append(seg.contents, at)
		}
	}
	return seg, nil
}

// contentsOf reads the small contents that a run binds. One that is not needed
// or not there any more is nil; a large one is not in the map, because the
// replica asks for it.
func (c *session) contentsOf(ctx context.Context, n *run, a *ahead) (map[wire.ContentID]*ship.Body, error) {
	out := make(map[wire.ContentID]*ship.Body)
	var ids []wire.ContentID
	var want []ship.Version
	for i := range n.groups {
		for _, b := range ship.BoundIn(&n.groups[i]) {
			switch {
			case a.superseded(b.Version.Object, place{n.ends[i].Seq, b.Index}):
				out[b.ID] = nil
			case b.Version.Size <= wire.MaxInlineContent:
				ids, want = append(ids, b.ID), append(want, b.Version)
			}
		}
	}
	for len(want) > 0 {
		part := min(len(want), channel.MaxContents)
		bodies, ok, err := c.source.Small(ctx, want[:part])
		if err != nil {
			return nil, err
		}
		for i := range bodies {
			out[ids[i]] = nil
			if ok[i] {
				out[ids[i]] = &bodies[i]
			}
		}
		ids, want = ids[part:], want[part:]
	}
	return out, nil
}

func appendBody(b []byte, of ship.Bound, body *ship.Body) []byte {
	if body == nil {
		return wire.AppendGone(b, of.ID)
	}
	for _, e := range body.Extents {
		b = wire.AppendExtent(b, of.ID, e.Off, body.Data[e.Off:e.End()])
	}
	return wire.AppendEnd(b, of.ID, of.Version.Size)
}

// segmentCache shares segments between those who follow: whoever comes first
// makes one, the others wait for it. A slow peer finds its segment gone and
// makes it anew, which costs the others nothing.
type segmentCache struct {
	mu    sync.Mutex
	all   map[kml.Pos]*cached
	order []kml.Pos // oldest first
	bytes int
}

type cached struct {
	done chan struct{}
	seg  *segment
	err  error
}

func newSegmentCache() *segmentCache { return &segmentCache{all: make(map[kml.Pos]*cached)} }

func (sc *segmentCache) get(ctx context.Context, from kml.Pos, build func() (*segment, error)) (*segment, error) {
	for {
		sc.mu.Lock()
		e, ok := sc.all[from]
		if !ok {
			e = &cached{done: make(chan struct{})}
			sc.all[from] = e
		}
		sc.mu.Unlock()
		if !ok {
			e.seg, e.err = build()
			close(e.done)
			sc.keep(from, e)
			return e.seg, e.err
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if e.err == nil {
			return e.seg, nil
		}
		// Whoever made it failed, perhaps because its peer left: try ourselves.
	}
}

// keep holds on to a segment that was made, and drops old ones for it.
func (sc *segmentCache) keep(from kml.Pos, e *cached) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if e.err != nil {
		delete(sc.all, from)
		return
	}
	sc.order = append(sc.order, from)
	sc.bytes += len(e.seg.frames)
	for sc.bytes > cacheBytes && len(sc.order) > 1 {
		old := sc.order[0]
		sc.order = sc.order[1:]
		sc.bytes -= len(sc.all[old].seg.frames)
		delete(sc.all, old)
	}
}
