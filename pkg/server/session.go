package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// session is a Server for the length of one connection to presto.
type session struct {
	port      *ship.Port
	source    *ship.Source
	binder    *ship.Binder
	origins   *origins
	log       *slog.Logger
	pack      wire.Packer
	segments  *segmentCache
	followers atomic.Int64
	ctx       context.Context // ends with the session
	end       context.CancelCauseFunc

	granted   func(config.Fingerprint) bool // whether a key may still push; nil: not known
	accepting sync.Mutex                    // held around presto's Accept

	staging sync.Mutex
	staged  map[wire.ContentID][32]byte // verified in this session
	pushing map[kml.UUID]chan struct{}  // a token each: one push at a time of one origin
}

// errEnded is why a request ends with the session.
var errEnded = wire.Errorf(wire.CodeUnavailable, "the fileset was unmounted on the server")

func newSession(ctx context.Context, p *ship.Port, granted func(config.Fingerprint) bool, log *slog.Logger) (*session, error) {
	o, err := loadOrigins(p)
	if err != nil {
		return nil, err
	}
	c := &session{
		port: p, source: ship.NewSource(p), origins: o, granted: granted, log: log, segments: newSegmentCache(),
		staged: make(map[wire.ContentID][32]byte), pushing: make(map[kml.UUID]chan struct{}),
	}
	c.ctx, c.end = context.WithCancelCause(ctx)
	c.binder = ship.NewBinder(p, c.source, func() bool { return c.followers.Load() > 0 }, log)
	if err := c.cleanStage(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *session) close() {
	c.end(errEnded)
	c.source.Close()
	if err := c.origins.save(c.port); err != nil {
		c.log.Warn("note who pushed what; the order log will be read again", "error", err)
	}
}

// run serves until presto or ctx ends.
func (c *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(c.port.Run(ctx)) })
	wg.Go(func() { cancel(c.binder.Run(ctx)) })
	wg.Go(func() {
		select {
		case <-c.ctx.Done(): // something went wrong that only a new session mends
			cancel(context.Cause(c.ctx))
		case <-ctx.Done():
		}
	})
	wg.Wait()
	return context.Cause(ctx)
}

// within returns a context that ends with the request and with the session.
func (c *session) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(errEnded) })
	return ctx, func() { stop(); cancel(nil) }
}

// trouble makes what a peer is told of errors that come from presto.
func (c *session) trouble(err error) error {
	if err == nil || wire.CodeOf(err) != "" {
		return err
	}
	if c.ctx.Err() != nil || errors.Is(err, ship.ErrPrestoGone) {
		return errEnded
	}
	e, ok := errors.AsType[*channel.Error](err)
	if !ok {
		return err
	}
	c.log.Error("presto refused", "code", string(e.Code), "error", err)
	switch e.Code {
	case channel.ErrClosed:
		return errEnded
	case channel.ErrDamaged:
		return wire.Errorf(wire.CodeUnavailable, "the cache of the server is damaged; its log says how")
	case channel.ErrNoSpace:
		return wire.Errorf(wire.CodeUnavailable, "the disk of the server is full")
	case channel.ErrBusy:
		return wire.Errorf(wire.CodeTooMany, "the server is busy")
	}
	return err
}

// durableEnd is the end of the order at this moment, made durable.
func (c *session) durableEnd(ctx context.Context) (kml.Pos, error) {
	ends, _, err := c.port.Refresh(ctx)
	if err != nil || ends.Order.Seq == 0 {
		return ends.Order, err
	}
	return ends.Order, c.port.SyncOrder(ctx, ends.Order.Seq)
}

// cleanStage removes what an earlier session left of changes that are part of
// the order by now.
func (c *session) cleanStage() error {
	return c.port.Stage.Clean(func(name string) bool {
		origin, seq, ok := splitStageName(name)
		if !ok {
			return true
		}
		at, known := c.origins.get(origin)
		return !known || seq > at.At.Seq
	})
}
