package replica

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// Limits of what is made ready to be pushed at a time.
const (
	pushGroups  = 512
	pushBytes   = 4 << 20  // of frames; one group may exceed it
	feedRecords = 256      // looked at at a time, until something whole is found
	bodyBytes   = 32 << 20 // of small contents kept for one group; what is more is uploaded
)

// pending makes groups of the own records that the server has not taken: one
// for each record, but records that are joined by content which nobody has any
// more make one together.
type pending struct {
	origin kml.UUID
	source *ship.Source
	// upload sends a large content to the server. gone: it can't be had any more.
	upload func(ctx context.Context, id wire.ContentID, v ship.Version) (gone bool, err error)

	reader *kml.Reader
	recs   []ownRecord // read, not yet in a group
	fed    int         // of recs: known to former
	former *merge.Former
	bodies map[uint64]ship.Body // by number of the CLOSE: small contents of recs
	held   int                  // bytes of bodies
	done   map[uint64]bool      // CLOSEs of recs whose content was looked for
}

type ownRecord struct {
	pos kml.Pos
	rec kml.Record
}

// outgoing is a group that is ready to be pushed.
type outgoing struct {
	first, last kml.Pos
	frames      []byte
}

func newPending(p *ship.Port, s *ship.Source, from uint64) (*pending, error) {
	r, err := p.Own.ReadFrom(from)
	if err != nil {
		return nil, fmt.Errorf("read own log: %w", err)
	}
	return &pending{origin: p.Cache, source: s, reader: r, former: merge.NewFormer(),
		bodies: make(map[uint64]ship.Body), done: make(map[uint64]bool)}, nil
}

// next returns groups that can go now, none if there are none yet.
func (p *pending) next(ctx context.Context) ([]outgoing, error) {
	for {
		more, err := p.feed()
		if err != nil {
			return nil, err
		}
		large, err := p.find(ctx)
		if err != nil {
			return nil, err
		}
		// What can go before a long upload goes before it.
		for cut := p.former.Cut(); cut == 0 && len(large) > 0; cut = p.former.Cut() {
			if err := p.send(ctx, large[0]); err != nil {
				return nil, err
			}
			large = large[1:]
		}
		if cut := p.former.Cut(); cut > 0 {
			return p.carve(cut)
		}
		if !more {
			return nil, nil
		}
	}
}

// feed reads on, and reports whether it found anything.
func (p *pending) feed() (more bool, err error) {
	for range feedRecords {
		f, err := p.reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return more, fmt.Errorf("read own log: %w", err)
		}
		r, err := f.Record()
		if err != nil {
			return more, fmt.Errorf("read own log at %v: %w", f.Pos, err)
		}
		p.recs = append(p.recs, ownRecord{f.Pos, r})
		p.former.Add(&kml.Group{Origin: p.origin, First: r.Seq, Last: r.Seq, Records: []kml.Record{r}})
		more = true
	}
	return more, nil
}

// find looks for the small contents that stand in the way, and returns what must
// be uploaded.
func (p *pending) find(ctx context.Context) (large []merge.Want, err error) {
	var small []merge.Want
	room := bodyBytes - p.held
	for _, w := range p.former.Missing() {
		switch {
		case w.Content.IsZero() || p.done[w.CloseSeq]:
		case w.Size > wire.MaxInlineContent || int(w.Size) > room:
			large = append(large, w)
		default:
			small = append(small, w)
			room -= int(w.Size)
		}
	}
	if len(small) > 0 {
		err = p.keep(ctx, small)
	}
	return large, err
}

// keep reads small contents and keeps them until their groups are made.
func (p *pending) keep(ctx context.Context, small []merge.Want) error {
	want := make([]ship.Version, len(small))
	for i, w := range small {
		want[i] = versionOf(w)
	}
	bodies, ok, err := p.source.Small(ctx, want)
	if err != nil {
		return err
	}
	for i, w := range small {
		p.done[w.CloseSeq] = true
		if !ok[i] {
			p.former.Gone(w.Origin, w.CloseSeq)
			continue
		}
		p.bodies[w.CloseSeq] = bodies[i]
		p.held += len(bodies[i].Data)
		p.former.Have(w.Origin, w.CloseSeq)
	}
	return nil
}

func versionOf(w merge.Want) ship.Version {
	return ship.Version{Object: w.Object, Root: w.Content.Root, Size: w.Size}
}

// send uploads a content that does not travel with its group.
func (p *pending) send(ctx context.Context, w merge.Want) error {
	p.done[w.CloseSeq] = true
	gone, err := p.upload(ctx, wire.ContentID{Origin: w.Origin, Seq: w.CloseSeq}, versionOf(w))
	if err != nil {
		return err
	}
	if gone {
		p.former.Gone(w.Origin, w.CloseSeq)
	} else {
		p.former.Have(w.Origin, w.CloseSeq)
	}
	return nil
}

// carve makes groups of the first cut records, each as short as can be.
func (p *pending) carve(cut int) ([]outgoing, error) {
	var out []outgoing
	bytes := 0
	for cut > 0 && len(out) < pushGroups && bytes < pushBytes {
		n := 1
		for !p.former.Take(n) {
			n++
		}
		g, err := p.group(n)
		if err != nil {
			if len(out) > 0 {
				break // these first; the error comes again
			}
			return nil, err
		}
		p.forget(n)
		cut -= n
		out = append(out, g)
		bytes += len(g.frames)
	}
	return out, nil
}

// errTooLong is for a run that no group can hold.
var errTooLong = errors.New("too many changes depend on each other")

// group makes one group of the first n records, with its small contents.
func (p *pending) group(n int) (outgoing, error) {
	first, last := p.recs[0].pos, p.recs[n-1].pos
	g := kml.Group{Origin: p.origin, OriginEpoch: last.Epoch, First: first.Seq, Last: last.Seq, Chain: last.Chain, Records: make([]kml.Record, n)}
	for i := range g.Records {
		g.Records[i] = p.recs[i].rec
	}
	body, err := g.AppendTo(nil)
	if err != nil {
		return outgoing{}, fmt.Errorf("%w: changes %d to %d made here can only go together, and a group can't hold them: %v", errTooLong, first.Seq, last.Seq, err)
	}
	frames := wire.AppendGroup(nil, kml.Pos{}, body)
	current := lastCloses(&g)
	for _, b := range ship.BoundIn(&g) {
		content, ok := p.bodies[b.ID.Seq]
		if !ok || current[b.Version.Object] != b.ID.Seq {
			continue
		}
		for _, e := range content.Extents {
			frames = wire.AppendExtent(frames, b.ID, e.Off, content.Data[e.Off:e.End()])
		}
		frames = wire.AppendEnd(frames, b.ID, b.Version.Size)
	}
	return outgoing{first: first, last: last, frames: frames}, nil
}

// lastCloses gives the CLOSE that counts for each object of a group.
func lastCloses(g *kml.Group) map[kml.ObjectID]uint64 {
	last := make(map[kml.ObjectID]uint64)
	for i := range g.Records {
		r := &g.Records[i]
		switch {
		case r.Op == kml.OpClose:
			last[r.Object] = r.Seq
		case r.Op == kml.OpUnlink && r.Last:
			delete(last, r.Object)
		case r.ReplacedLast:
			delete(last, r.Replaced)
		}
	}
	return last
}

// forget drops the first n records and their contents.
func (p *pending) forget(n int) {
	for _, r := range p.recs[:n] {
		if b, ok := p.bodies[r.rec.Seq]; ok {
			p.held -= len(b.Data)
			delete(p.bodies, r.rec.Seq)
		}
		delete(p.done, r.rec.Seq)
	}
	p.recs = p.recs[n:]
}
