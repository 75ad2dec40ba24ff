package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// Options are what a Replica is made of.
type Options struct {
	Fileset string
	UUID    kml.UUID // from the configuration; zero: taken from the cache or the server
	// SaveUUID writes a UUID that the configuration did not have into it.
	SaveUUID func(kml.UUID) error
	Server   config.Server
	Key      config.Key
	LocalIP  netip.Addr // to connect from; the zero Addr: any
	// Presto connects to the presto that has the fileset. It is called again
	// whenever the connection ends.
	Presto func(ctx context.Context) (ship.Link, error)
	Log    *slog.Logger
	// Dial makes connections, in the place of net.Dialer, for tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Replica keeps one fileset of this host in step with its server.
type Replica struct {
	opts Options
	once bool // RunOnce

	mu     sync.Mutex
	uuid   kml.UUID
	status Status
	conn   *conn
	in     int64 // bytes of clients that have ended
	out    int64
	client *wire.Client
}

// New returns a Replica. It works while Run or RunOnce runs.
func New(opts Options) *Replica {
	opts.Log = opts.Log.With("fileset", opts.Fileset)
	return &Replica{opts: opts, uuid: opts.UUID, status: Status{Fileset: opts.Fileset, Server: opts.Server.Name}}
}

// Times between attempts to reach presto.
const (
	prestoRetryMin = 100 * time.Millisecond
	prestoRetryMax = 5 * time.Second
)

// Run keeps the fileset in step until ctx ends. It returns earlier only where no
// patience helps: the cache has another role, or another fileset. Everything
// else is in Status, and tried again.
func (r *Replica) Run(ctx context.Context) error {
	wait := prestoRetryMin
	for {
		began := time.Now()
		err := r.attached(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if permanent(err) {
			return fmt.Errorf("follow fileset %s: %w", r.opts.Fileset, err)
		}
		if time.Since(began) > prestoRetryMax {
			wait = prestoRetryMin
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, prestoRetryMax)
	}
}

// errInStep ends RunOnce.
var errInStep = errors.New("in step")

// RunOnce does what Run does until everything that was changed here before the
// call has been taken by the server and everything that the server had at that
// moment is applied here. What does not work at the first attempt is its error.
func (r *Replica) RunOnce(ctx context.Context) error {
	r.once = true
	err := r.attached(ctx)
	if errors.Is(err, errInStep) {
		return nil
	}
	if err == nil {
		err = ctx.Err()
	}
	return fmt.Errorf("bring fileset %s in step: %w", r.opts.Fileset, err)
}

// permanent reports whether an error of presto stays the same however often it
// is asked.
func permanent(err error) bool {
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

// attached works for the length of one connection to presto.
func (r *Replica) attached(ctx context.Context) (err error) {
	defer func() {
		r.update(func(s *Status) { s.Attached, s.Connected = false, false })
		if ctx.Err() == nil && !errors.Is(err, errInStep) {
			r.complain(textOf(err), false)
		}
	}()
	link, err := r.opts.Presto(ctx)
	if err != nil {
		return err
	}
	port, err := ship.Attach(ctx, link, r.opts.Fileset, channel.RoleClient, r.knownUUID())
	if err != nil {
		return err
	}
	defer port.Close()
	if port.Fileset.Damage != "" {
		return fmt.Errorf("the cache is damaged: %s", port.Fileset.Damage)
	}
	if err := r.settleUUID(ctx, port, port.Fileset.UUID); err != nil {
		return err
	}
	l := newLocal(r, port)
	defer l.source.Close()
	return l.run(ctx)
}

func (r *Replica) knownUUID() kml.UUID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uuid
}

// settleUUID makes cache and configuration agree on which fileset this is.
func (r *Replica) settleUUID(ctx context.Context, p *ship.Port, uuid kml.UUID) error {
	if uuid.IsZero() {
		return nil
	}
	if p.Fileset.UUID != uuid {
		att, err := p.Attach(ctx, r.opts.Fileset, channel.RoleClient, uuid)
		if err != nil {
			return fmt.Errorf("note which fileset this is: %w", err)
		}
		att.KML.Close()
		att.Stage.Close()
		if att.Order != nil {
			att.Order.Close()
		}
		p.Fileset.UUID = uuid
	}
	if r.knownUUID() == uuid {
		return nil
	}
	if r.opts.SaveUUID != nil {
		if err := r.opts.SaveUUID(uuid); err != nil {
			return fmt.Errorf("note which fileset this is: %w", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uuid = uuid
	return nil
}
