package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// Options are what a Server is made of.
type Options struct {
	Fileset string
	UUID    kml.UUID // from the configuration; zero: taken from the cache, or made
	// SaveUUID writes a UUID that the configuration did not have into it.
	SaveUUID func(kml.UUID) error
	Name     string // of this host
	// Presto connects to the presto that has the fileset. It is called again
	// whenever the connection ends.
	Presto func(ctx context.Context) (ship.Link, error)
	// Granted reports whether a key is still that of a replicator. Once it is not,
	// a cache that pushed with it may be taken over by another key. May be nil.
	Granted func(config.Fingerprint) bool
	Log     *slog.Logger
}

// Server serves one fileset.
type Server struct {
	opts Options

	mu      sync.Mutex
	uuid    kml.UUID
	session *session // nil while presto is not there
	err     error    // why
}

var _ wire.Backend = (*Server)(nil)

// New returns a Server. It serves while Run runs.
func New(opts Options) *Server {
	opts.Log = opts.Log.With("fileset", opts.Fileset)
	return &Server{opts: opts, uuid: opts.UUID}
}

// Times between attempts to reach presto.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// Run attaches to presto, again and again, until ctx ends. It returns earlier
// only where that can't help: the cache has another role, or another fileset.
func (s *Server) Run(ctx context.Context) error {
	wait, said := retryMin, ""
	for {
		began := time.Now()
		err := s.serve(ctx)
		s.set(nil, err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if Permanent(err) {
			return fmt.Errorf("serve fileset %s: %w", s.opts.Fileset, err)
		}
		if time.Since(began) > retryMax {
			wait, said = retryMin, ""
		}
		if text := err.Error(); text != said { // not the same every few seconds
			s.opts.Log.Warn("fileset is not served", "reason", text)
			said = text
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, retryMax)
	}
}

// Permanent reports whether an error of a presto will be the same however often
// it is asked.
func Permanent(err error) bool {
	e, ok := errors.AsType[*channel.Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case channel.ErrNoFileset, channel.ErrRole, channel.ErrWrongFileset:
		return true
	}
	return false
}

func (s *Server) set(c *session, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session, s.err = c, err
}

// serve serves for the length of one connection to presto.
func (s *Server) serve(ctx context.Context) error {
	link, err := s.opts.Presto(ctx)
	if err != nil {
		return err
	}
	uuid, err := s.chooseUUID(ctx, link)
	if err != nil {
		link.Close()
		return err
	}
	port, err := ship.Attach(ctx, link, s.opts.Fileset, channel.RoleServer, uuid)
	if err != nil {
		return err
	}
	defer port.Close()
	if port.Fileset.Damage != "" {
		return fmt.Errorf("the cache is damaged: %s", port.Fileset.Damage)
	}
	if err := s.settleUUID(port.Fileset.UUID); err != nil {
		return err
	}
	c, err := newSession(ctx, port, s.opts.Granted, s.opts.Log)
	if err != nil {
		return err
	}
	defer c.close()
	s.set(c, nil)
	s.opts.Log.Info("serving", "order", port.Fileset.Order.String())
	return c.run(ctx)
}

// chooseUUID gives the uuid to attach with: the configuration's, else the
// cache's, else a new one.
func (s *Server) chooseUUID(ctx context.Context, link ship.Link) (kml.UUID, error) {
	if uuid := s.UUID(); !uuid.IsZero() {
		return uuid, nil
	}
	info, err := link.Info(ctx)
	if err != nil {
		return kml.UUID{}, err
	}
	for _, f := range info.Filesets {
		if f.Name == s.opts.Fileset && !f.UUID.IsZero() {
			return f.UUID, nil
		}
	}
	return config.NewUUID(), nil
}

// settleUUID notes the uuid that the cache has now.
func (s *Server) settleUUID(uuid kml.UUID) error {
	s.mu.Lock()
	known := !s.uuid.IsZero()
	s.mu.Unlock()
	if known {
		return nil
	}
	if s.opts.SaveUUID != nil {
		if err := s.opts.SaveUUID(uuid); err != nil {
			return fmt.Errorf("note the uuid of the fileset: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uuid = uuid
	return nil
}

// UUID implements wire.Backend.
func (s *Server) UUID() kml.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uuid
}

// current returns the session, or what a peer is told if there is none.
func (s *Server) current() (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return nil, wire.Errorf(wire.CodeUnavailable, "fileset %s is not mounted on the server", s.opts.Fileset)
	}
	return s.session, nil
}

// Err says why the fileset is not served, nil if it is.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		return nil
	}
	if s.err == nil {
		return errors.New("not attached to presto yet")
	}
	return s.err
}

// Status implements wire.Backend. The end it tells is durable, and is not before
// anything that was accepted or changed here earlier.
func (s *Server) Status(ctx context.Context, peer wire.Peer) (wire.Status, error) {
	c, err := s.current()
	if err != nil {
		return wire.Status{}, err
	}
	end, err := c.durableEnd(ctx)
	if err != nil {
		return wire.Status{}, c.trouble(err)
	}
	if err := c.origins.follow(c.port); err != nil {
		return wire.Status{}, c.trouble(err)
	}
	st := wire.Status{
		Fileset: s.opts.Fileset, UUID: s.UUID().String(), Server: s.opts.Name, Version: wire.Version,
		Features: []string{"zstd"}, Rights: peer.Rights, End: wire.Pos(end), Groups: end.Seq,
	}
	if o, ok := c.origins.get(peer.Cache); ok {
		st.Yours = (*wire.Pos)(&o.At)
	}
	return st, nil
}

// Follow implements wire.Backend.
func (s *Server) Follow(ctx context.Context, peer wire.Peer, from kml.Pos, w wire.FrameWriter) error {
	c, err := s.current()
	if err != nil {
		return err
	}
	return c.trouble(c.follow(ctx, peer, from, w))
}

// Push implements wire.Backend.
func (s *Server) Push(ctx context.Context, peer wire.Peer, head wire.PushHead, r *wire.Reader) (wire.PushResult, error) {
	c, err := s.current()
	if err != nil {
		return wire.PushResult{}, err
	}
	res, err := c.push(ctx, peer, head, r)
	return res, c.trouble(err)
}

// Content implements wire.Backend.
func (s *Server) Content(ctx context.Context, _ wire.Peer, req wire.ContentRequest, w wire.FrameWriter) error {
	c, err := s.current()
	if err != nil {
		return err
	}
	return c.trouble(c.content(ctx, req, w))
}

// Staged implements wire.Backend.
func (s *Server) Staged(ctx context.Context, peer wire.Peer, req wire.ContentRequest) (wire.StagedResult, error) {
	c, err := s.current()
	if err != nil {
		return wire.StagedResult{}, err
	}
	res, err := c.stagedSoFar(ctx, peer, req)
	return res, c.trouble(err)
}

// Upload implements wire.Backend.
func (s *Server) Upload(ctx context.Context, peer wire.Peer, req wire.ContentRequest, r *wire.Reader) (wire.StagedResult, error) {
	c, err := s.current()
	if err != nil {
		return wire.StagedResult{}, err
	}
	res, err := c.upload(ctx, peer, req, r)
	return res, c.trouble(err)
}
