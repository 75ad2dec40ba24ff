package ship

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Link is a connection to a presto, for one fileset: channel.Client is one.
type Link interface {
	channel.Presto
	Events() <-chan channel.Event
	Close() error
}

// Ends are the positions that presto reported last.
type Ends struct {
	Own, Order, Confirmed kml.Pos
	Gone                  bool // presto is going or gone: there will be no more
}

// Port is a fileset of a presto to which this daemon is attached.
type Port struct {
	Link
	Name    string
	Cache   kml.UUID
	Fileset channel.Fileset // as it was at the time of attaching
	Own     *kml.View       // of the KML; its end follows presto's
	Order   *kml.View       // nil on a client
	Stage   *content.Stage

	Ends Watch[Ends]

	stage *os.File
	files []*os.File
	sync  syncer
}

// Attach attaches to a fileset in a role. uuid is zero if it is not known. The
// Port owns link and closes it, if Attach succeeds or not.
func Attach(ctx context.Context, link Link, fileset string, role channel.Role, uuid kml.UUID) (*Port, error) {
	p := &Port{Link: link, Name: fileset}
	att, err := link.Attach(ctx, fileset, role, uuid)
	if err == nil {
		err = p.open(att, role)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("attach to fileset %s: %w", fileset, err)
	}
	p.Ends.Update(func(e *Ends) {
		*e = Ends{Own: att.Fileset.Own, Order: att.Fileset.Order, Confirmed: att.Fileset.Confirmed}
	})
	p.sync = syncer{do: func(ctx context.Context) error { return link.Sync(ctx, fileset) }}
	return p, nil
}

func (p *Port) open(att *channel.Attachment, role channel.Role) (err error) {
	p.Cache, p.Fileset, p.stage = att.Cache, att.Fileset, att.Stage
	for _, f := range []*os.File{att.KML, att.Order, att.Stage} {
		if f != nil {
			p.files = append(p.files, f)
		}
	}
	if att.KML == nil || att.Stage == nil || role == channel.RoleServer && att.Order == nil {
		return errors.New("presto gave no descriptors of the logs and the stage")
	}
	if p.Own, err = kml.NewView(att.KML); err != nil {
		return err
	}
	p.Own.SetEnd(att.Fileset.Own)
	if role == channel.RoleServer {
		if p.Order, err = kml.NewView(att.Order); err != nil {
			return err
		}
		p.Order.SetEnd(att.Fileset.Order)
	}
	p.Stage, err = content.OpenStage(att.Stage)
	return err
}

// Close ends the attachment and the connection. Readers of the logs fail from
// then on.
func (p *Port) Close() error {
	err := p.Link.Close()
	if p.Stage != nil {
		p.Stage.Close()
	}
	for _, f := range p.files {
		f.Close()
	}
	return err
}

// ErrPrestoGone is why Run ended where presto ended.
var ErrPrestoGone = errors.New("presto ended: the cache was unmounted")

// Run follows presto's events until ctx ends or presto does (ErrPrestoGone).
func (p *Port) Run(ctx context.Context) error {
	defer p.Ends.Update(func(e *Ends) { e.Gone = true })
	for {
		select {
		case e, ok := <-p.Events():
			if !ok || e.Closing {
				return ErrPrestoGone
			}
			p.note(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Refresh asks presto where the logs end, because events may be on their way,
// and how far the order is applied.
func (p *Port) Refresh(ctx context.Context) (ends Ends, applied kml.Pos, err error) {
	info, err := p.Info(ctx)
	if err != nil {
		return ends, applied, fmt.Errorf("ask presto: %w", err)
	}
	for _, f := range info.Filesets {
		if f.Name == p.Name {
			p.note(channel.Event{Fileset: f.Name, Own: f.Own, Order: f.Order, Confirmed: f.Confirmed})
			return p.Ends.Now(), f.Applied, nil
		}
	}
	return ends, applied, &channel.Error{Code: channel.ErrNoFileset, Text: "presto has lost fileset " + p.Name}
}

func (p *Port) note(e channel.Event) {
	if e.Fileset != p.Name {
		return
	}
	p.Own.SetEnd(e.Own)
	if p.Order != nil {
		p.Order.SetEnd(e.Order)
	}
	p.Ends.Update(func(now *Ends) {
		now.Own, now.Order, now.Confirmed = later(now.Own, e.Own), later(now.Order, e.Order), later(now.Confirmed, e.Confirmed)
	})
}

func later(a, b kml.Pos) kml.Pos {
	if b.Seq > a.Seq {
		return b
	}
	return a
}

// SyncOwn returns when the own log up to seq, which must exist, is durable with
// the tree and the contents that belong to it. Callers at one time share the
// work.
func (p *Port) SyncOwn(ctx context.Context, seq uint64) error {
	return p.sync.to(ctx, mark{own: seq}, p.present)
}

// SyncOrder is SyncOwn for the order log.
func (p *Port) SyncOrder(ctx context.Context, seq uint64) error {
	return p.sync.to(ctx, mark{order: seq}, p.present)
}

func (p *Port) present() mark {
	e := p.Ends.Now()
	return mark{own: e.Own.Seq, order: e.Order.Seq}
}

// mark says how far both logs reach.
type mark struct{ own, order uint64 }

func (m mark) covers(n mark) bool { return m.own >= n.own && m.order >= n.order }

func (m mark) max(n mark) mark { return mark{max(m.own, n.own), max(m.order, n.order)} }

// syncer is group commit: one sync at a time, and whoever comes while it runs
// shares the next.
type syncer struct {
	do func(ctx context.Context) error

	mu      sync.Mutex
	durable mark
	running chan struct{} // closed when the sync under way has ended
}

func (s *syncer) to(ctx context.Context, want mark, present func() mark) error {
	s.mu.Lock()
	for !s.durable.covers(want) {
		if running := s.running; running != nil {
			s.mu.Unlock()
			select {
			case <-running:
			case <-ctx.Done():
				return ctx.Err()
			}
			s.mu.Lock()
			continue
		}
		s.running = make(chan struct{})
		s.mu.Unlock()
		// Taken before: what is appended meanwhile may or may not be covered.
		reached := present().max(want)
		err := s.do(ctx)
		s.mu.Lock()
		close(s.running)
		s.running = nil
		if err != nil {
			s.mu.Unlock()
			return fmt.Errorf("make durable: %w", err)
		}
		s.durable = s.durable.max(reached)
	}
	s.mu.Unlock()
	return nil
}
