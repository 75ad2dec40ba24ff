package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// local is a Replica while it is attached to presto.
type local struct {
	r         *Replica
	port      *ship.Port
	source    *ship.Source
	binder    *ship.Binder
	connected atomic.Bool
	ctx       context.Context // ends with the local

	applied ship.Watch[kml.Pos] // of the order, in the tree
	goal    goal                // RunOnce
}

// goal is what RunOnce waits for.
type goal struct {
	own   uint64 // to be confirmed
	order uint64 // to be applied
}

func newLocal(r *Replica, p *ship.Port) *local {
	l := &local{r: r, port: p, source: ship.NewSource(p)}
	l.binder = ship.NewBinder(p, l.source, l.connected.Load, r.opts.Log)
	l.applied.Update(func(at *kml.Pos) { *at = p.Fileset.Applied })
	r.update(func(s *Status) {
		s.Attached, s.Error, s.Blocked = true, "", false
		s.Applied, s.Own, s.Confirmed = p.Fileset.Applied, p.Fileset.Own, p.Fileset.Confirmed
	})
	return l
}

// run works until presto or ctx ends, or RunOnce is done or failed.
func (l *local) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.ctx = ctx
	var wg sync.WaitGroup
	wg.Go(func() { cancel(l.port.Run(ctx)) })
	wg.Go(func() { cancel(l.binder.Run(ctx)) })
	wg.Go(func() { cancel(l.connect(ctx)) })
	wg.Wait()
	return context.Cause(ctx)
}

// Times between attempts to reach the server.
const (
	retryMin  = 100 * time.Millisecond
	retryMax  = 30 * time.Second
	retryHard = 30 * time.Second // where only a person can help

	retrySettled = 5 * time.Second // a connection that held so long is tried again at once
)

// connect keeps a connection to the server.
func (l *local) connect(ctx context.Context) error {
	client := wire.NewClient(wire.ClientOptions{Server: l.r.opts.Server, Key: l.r.opts.Key, Fileset: l.r.opts.Fileset,
		Cache: l.port.Cache, LocalIP: l.r.opts.LocalIP, Dial: l.r.opts.Dial})
	l.r.mu.Lock()
	l.r.client = client
	l.r.mu.Unlock()
	defer func() {
		client.Close()
		l.r.mu.Lock()
		defer l.r.mu.Unlock()
		l.r.client = nil
		l.r.in += client.Counter().In()
		l.r.out += client.Counter().Out()
	}()
	if l.r.once {
		own, err := l.port.Barrier(ctx, l.port.Name)
		if err != nil {
			return err
		}
		l.goal.own = own.Seq
	}
	wait := retryMin
	for {
		began := time.Now()
		err := l.session(ctx, client)
		l.connected.Store(false)
		l.r.update(func(s *Status) { s.Connected = false })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if l.r.once || isLocal(err) {
			return err
		}
		if time.Since(began) > retrySettled {
			wait = retryMin
		}
		pause := wait/2 + rand.N(wait)
		if forPeople(err) || wait > retrySettled && isPosition(err) {
			pause = retryHard
		}
		l.r.complain(textOf(err), false)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, retryMax)
	}
}

// isLocal reports whether an error is of this host's own making: connecting
// again does not help, attaching again may.
func isLocal(err error) bool {
	if errors.Is(err, ship.ErrPrestoGone) {
		return true
	}
	_, ok := errors.AsType[*channel.Error](err)
	return ok && !isPosition(err)
}

// forPeople reports whether an error stays until somebody does something.
func forPeople(err error) bool {
	switch wire.CodeOf(err) {
	case wire.CodeForbidden, wire.CodeForked, wire.CodeCut, wire.CodeWrongFileset, wire.CodeVersion, wire.CodeOrigin:
		return true
	}
	return errors.Is(err, config.ErrWrongKey)
}

// isPosition reports whether presto was given something that does not follow
// what it has. Once, that can be because an earlier daemon's last request was
// still under way; if it stays so, history has forked.
func isPosition(err error) bool {
	e, ok := errors.AsType[*channel.Error](err)
	return ok && e.Code == channel.ErrPosition
}

// session is one connection to the server, from the first question on.
func (l *local) session(ctx context.Context, client *wire.Client) error {
	client.SetFileset(l.r.knownUUID())
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if err := l.refresh(ctx); err != nil {
		return err
	}
	if err := l.meet(ctx, client, &st); err != nil {
		return err
	}
	c := newConn(l, client, &st)
	if c.from, err = l.startOfPush(&st); err != nil {
		return err
	}
	stream, err := client.Follow(ctx, l.applied.Now())
	if err != nil {
		return err
	}
	defer stream.Close()
	l.connected.Store(true)
	l.goal.order = kml.Pos(st.End).Seq
	l.r.update(func(s *Status) {
		s.Connected, s.Since, s.ServerEnd, s.Pushed = true, time.Now(), kml.Pos(st.End), c.from
	})
	l.r.complain("", false)
	return c.run(ctx, stream)
}

// refresh asks presto where things stand. What an earlier daemon had asked for
// may have been done since this one attached.
func (l *local) refresh(ctx context.Context) error {
	ends, at, err := l.port.Refresh(ctx)
	if err != nil {
		return err
	}
	l.applied.Update(func(now *kml.Pos) { *now = at })
	l.r.update(func(s *Status) { s.Applied, s.Own, s.Confirmed = at, ends.Own, ends.Confirmed })
	return nil
}

// meet makes sure that the server has the fileset that is meant.
func (l *local) meet(ctx context.Context, client *wire.Client, st *wire.Status) error {
	if st.Version != wire.Version {
		return wire.Errorf(wire.CodeVersion, "server %s speaks version %d of the protocol, this host %d: upgrade the older one", l.r.opts.Server.Name, st.Version, wire.Version)
	}
	uuid, err := kml.ParseUUID(st.UUID)
	if err != nil || uuid.IsZero() {
		return wire.Errorf(wire.CodeInvalid, "server %s does not know the uuid of fileset %s", l.r.opts.Server.Name, l.r.opts.Fileset)
	}
	if have := l.r.knownUUID(); !have.IsZero() && have != uuid {
		return wire.Errorf(wire.CodeWrongFileset, "fileset %s has the uuid %v here and %v on server %s: they are two filesets of one name", l.r.opts.Fileset, have, uuid, l.r.opts.Server.Name)
	}
	client.SetFileset(uuid)
	return l.r.settleUUID(ctx, l.port, uuid)
}

// startOfPush compares how much of the own log is part of the order, as the
// server knows it, with the log itself.
func (l *local) startOfPush(st *wire.Status) (kml.Pos, error) {
	confirmed := l.port.Ends.Now().Confirmed
	var yours kml.Pos
	if st.Yours != nil {
		yours = kml.Pos(*st.Yours)
	}
	if yours.Seq < confirmed.Seq {
		return yours, wire.Errorf(wire.CodeForked, "server %s has changes of this host up to %d only, and had confirmed %d: it was restored from an old copy; nothing is sent or applied until that is settled",
			l.r.opts.Server.Name, yours.Seq, confirmed.Seq)
	}
	if yours.Seq == 0 {
		return confirmed, nil
	}
	yours, err := l.checkYours(yours)
	if errors.Is(err, kml.ErrForked) {
		return yours, wire.Errorf(wire.CodeForked, "server %s has changes of this cache up to %d that are not in its log here, which ends at %d: this cache was rolled back, or there are two of it; nothing is sent or applied until that is settled",
			l.r.opts.Server.Name, yours.Seq, l.port.Own.End().Seq)
	}
	if err != nil && !errors.Is(err, kml.ErrCut) {
		return yours, fmt.Errorf("compare with the server: %w", err)
	}
	return yours, nil
}

// checkYours makes sure that a position of the own log, as the server has it, is
// one. The server does not know the chain value where it has taken a group in
// part only.
func (l *local) checkYours(at kml.Pos) (kml.Pos, error) {
	if at.Chain != (kml.Chain{}) {
		return at, l.port.Own.Check(at)
	}
	have, err := l.port.Own.PosAt(at.Seq)
	if errors.Is(err, kml.ErrBeyond) || err == nil && have.Epoch != at.Epoch {
		return at, kml.ErrForked
	}
	return have, err
}
