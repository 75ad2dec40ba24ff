package channeltest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

// unit knows, of the CLOSEs in a run of groups, which one each object ends with.
type unit struct {
	p    *Presto
	last map[kml.ObjectID]closeName
	root map[closeName]kml.Content
	used []string
}

type closeName struct {
	origin kml.UUID
	seq    uint64
}

func (p *Presto) newUnit(groups []kml.Group) *unit {
	u := &unit{p: p, last: make(map[kml.ObjectID]closeName), root: make(map[closeName]kml.Content)}
	for i := range groups {
		for j := range groups[i].Records {
			r := &groups[i].Records[j]
			switch {
			case r.Op == kml.OpClose:
				u.last[r.Object] = closeName{groups[i].Origin, r.Seq}
				u.root[closeName{groups[i].Origin, r.Seq}] = r.Content
			case r.Op == kml.OpManifest:
				u.root[closeName{groups[i].Origin, r.CloseSeq}] = r.Content
			case r.Op == kml.OpUnlink && r.Last:
				delete(u.last, r.Object)
			case r.ReplacedLast:
				delete(u.last, r.Replaced)
			}
		}
	}
	return u
}

// bytes gives what the CLOSE r means: nil if a later one counts.
func (u *unit) bytes(origin kml.UUID, r *kml.Record) ([]byte, error) {
	name := closeName{origin, r.Seq}
	if u.last[r.Object] != name {
		return nil, nil
	}
	if r.After.Size == 0 {
		return []byte{}, nil
	}
	file := channel.StageName(origin, r.Seq)
	data, err := os.ReadFile(filepath.Join(u.p.dir, "stage", file))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errNoContent, err)
	}
	if int64(len(data)) != r.After.Size || content.SumBytes(data) != u.root[name].Root {
		return nil, fmt.Errorf("staged content of CLOSE %d is another one", r.Seq)
	}
	u.used = append(u.used, file)
	return data, nil
}

// apply applies a group, and stops the test if the tree contradicts it: presto
// checks before, so this would be damage.
func (u *unit) apply(g *kml.Group) error {
	for i := range g.Records {
		r := &g.Records[i]
		if err := u.p.tree.apply(r, func() ([]byte, error) { return u.bytes(g.Origin, r) }); err != nil {
			return fmt.Errorf("record %d of %v (%v): %w", r.Seq, g.Origin, r.Op, err)
		}
	}
	return nil
}

func (u *unit) drop() {
	for _, file := range u.used {
		if err := os.Remove(filepath.Join(u.p.dir, "stage", file)); err != nil {
			u.p.t.Error(err)
		}
	}
}

// Accept implements channel.Presto.
func (p *Presto) Accept(_ context.Context, fileset string, peer kml.UUID, base kml.Pos, groups []kml.Group) (channel.AcceptResult, error) {
	if err := p.check(fileset); err != nil {
		return channel.AcceptResult{}, err
	}
	if p.BeforeAccept != nil {
		if err := p.BeforeAccept(groups); err != nil {
			return channel.AcceptResult{}, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Accepts++
	if p.role != channel.RoleServer {
		return channel.AcceptResult{}, &channel.Error{Code: channel.ErrRole, Text: "not the server"}
	}
	if err := p.order.Check(base); err != nil {
		return channel.AcceptResult{}, &channel.Error{Code: channel.ErrPosition, Text: err.Error()}
	}
	since, err := p.touchesSince(base, peer)
	if err != nil {
		return channel.AcceptResult{}, err
	}
	var res channel.AcceptResult
	for i := range groups {
		g := &groups[i]
		if o, yes := since.Overlaps(g); yes {
			res.OverlapAt = o.Held.Seq
			break
		}
		u := p.newUnit(groups[i : i+1])
		if err := u.apply(g); err != nil {
			res.Refused = err.Error()
			break
		}
		body, err := g.AppendTo(nil)
		if err != nil {
			return res, err
		}
		if _, err := p.order.Append(kml.FrameGroup, 0, p.tick(), body); err != nil {
			return res, err
		}
		u.drop()
		res.Accepted++
	}
	p.applied = p.order.End()
	res.End = p.applied
	p.announce()
	return res, nil
}

func (p *Presto) touchesSince(base kml.Pos, peer kml.UUID) (*merge.TouchSet, error) {
	set := merge.NewTouchSet()
	r, err := p.order.ReadFrom(base.Seq)
	if err != nil {
		return nil, err
	}
	for {
		f, err := r.Next()
		if err == io.EOF {
			return set, nil
		}
		if err != nil {
			return nil, err
		}
		g, err := f.Group()
		if err != nil {
			return nil, err
		}
		if g.Origin != peer {
			set.Add(f.Pos.Seq, &g)
		}
	}
}

// Apply implements channel.Presto.
func (p *Presto) Apply(_ context.Context, fileset string, ends []kml.Pos, groups []kml.Group) (channel.ApplyResult, error) {
	if err := p.check(fileset); err != nil {
		return channel.ApplyResult{}, err
	}
	if p.BeforeApply != nil {
		if err := p.BeforeApply(ends, groups); err != nil {
			return channel.ApplyResult{}, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Applies++
	if err := p.readyToApply(ends, groups); err != nil {
		return channel.ApplyResult{}, err
	}
	if b := p.meets(ends, groups); b != nil {
		return channel.ApplyResult{Applied: p.applied, Confirmed: p.confirmed, Blocked: b}, nil
	}
	if err := p.logUnit(ends, groups); err != nil {
		return channel.ApplyResult{}, err
	}
	u := p.newUnit(groups)
	for i := range groups {
		g := &groups[i]
		if g.Origin == p.cache {
			p.confirmed = kml.Pos{Epoch: g.OriginEpoch, Seq: g.Last, Chain: g.Chain}
			p.pending.Forget(g.Last)
		} else if err := u.apply(g); err != nil {
			p.t.Errorf("apply position %v: %v", ends[i], err)
			return channel.ApplyResult{}, &channel.Error{Code: channel.ErrDamaged, Text: err.Error()}
		}
		p.applied = ends[i]
	}
	u.drop()
	p.announce()
	return channel.ApplyResult{Applied: p.applied, Confirmed: p.confirmed}, nil
}

func (p *Presto) readyToApply(ends []kml.Pos, groups []kml.Group) (err error) {
	if p.role != channel.RoleClient {
		return &channel.Error{Code: channel.ErrRole, Text: "not a client"}
	}
	if len(groups) == 0 || len(ends) != len(groups) {
		return &channel.Error{Code: channel.ErrInvalid, Text: "a unit has groups"}
	}
	if p.order == nil {
		if p.order, err = p.makeLog("order", kml.KindOrder, ends[0].Epoch); err != nil {
			return err
		}
	}
	if ends[0].Seq != p.applied.Seq+1 {
		return &channel.Error{Code: channel.ErrPosition, Text: fmt.Sprintf("unit begins at %v, we are at %v", ends[0], p.applied)}
	}
	return nil
}

// meets finds a foreign group that overlaps with a pending change of ours.
func (p *Presto) meets(ends []kml.Pos, groups []kml.Group) *channel.Blocked {
	confirmed := p.confirmed.Seq
	for i := range groups {
		g := &groups[i]
		if g.Origin == p.cache {
			if at, err := p.kml.PosAt(g.Last); err != nil || at.Chain != g.Chain {
				p.t.Errorf("groups %d..%d of ours came back changed", g.First, g.Last)
			}
			if g.First != confirmed+1 {
				p.t.Errorf("own records %d..%d came back after %d: repeated or lost", g.First, g.Last, confirmed)
			}
			confirmed = g.Last
			continue
		}
		for j := range g.Records {
			r := &g.Records[j]
			if o, yes := p.pending.OverlapsAfter(confirmed, r); yes {
				return &channel.Blocked{Position: ends[i].Seq, OwnSeq: o.Held.Seq, Path: r.Where.Name, Detail: o.String()}
			}
			if own := p.tree[r.Object]; own != nil && own.dirty && r.Op == kml.OpClose {
				return &channel.Blocked{Position: ends[i].Seq, Path: r.Where.Name, Detail: "a file being written"}
			}
		}
	}
	return nil
}

// logUnit appends the unit, if the positions are those that follow here.
func (p *Presto) logUnit(ends []kml.Pos, groups []kml.Group) error {
	bodies := make([][]byte, len(groups))
	for i := range groups {
		var err error
		if bodies[i], err = groups[i].AppendTo(nil); err != nil {
			return &channel.Error{Code: channel.ErrInvalid, Text: err.Error()}
		}
	}
	for i, at := range p.order.After(bodies) {
		if at != ends[i] {
			return &channel.Error{Code: channel.ErrPosition, Text: fmt.Sprintf("position %v does not follow: forked", ends[i])}
		}
	}
	_, err := p.order.AppendMany(kml.FrameGroup, nil, p.tick(), bodies)
	return err
}
