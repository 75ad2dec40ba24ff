package replica

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/channel/channeltest"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/server"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// patience is how long a test waits for what should come in milliseconds.
const patience = 60 * time.Second

// rig is a server with real sockets, and its clients.
type rig struct {
	t      *testing.T
	log    *slog.Logger
	key    config.Key
	grants *grants
	presto *channeltest.Presto
	daemon *daemon // the server's, nil while it is stopped
	addr   string
	gate   *gate
}

type grants struct {
	mu sync.Mutex
	m  map[config.Fingerprint]config.Replicator
}

func (g *grants) Grant(fileset string, fp config.Fingerprint) (config.Replicator, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.m[fp]
	return r, ok && fileset == "shared"
}

// daemon is something that runs until it is stopped.
type daemon struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func start(run func(ctx context.Context) error) *daemon {
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		d.err = run(ctx)
	}()
	return d
}

func (d *daemon) stop() {
	d.cancel()
	<-d.done
}

func testLog(t *testing.T) *slog.Logger {
	if os.Getenv("TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// newRig starts a server; before that it calls setup.
func newRig(t *testing.T, setup ...func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, log: testLog(t), key: newKey(t), grants: &grants{m: make(map[config.Fingerprint]config.Replicator)},
		presto: channeltest.New(t, "shared", 1), gate: newGate()}
	for _, f := range setup {
		f(r)
	}
	r.startServer()
	t.Cleanup(func() {
		if r.daemon != nil {
			r.daemon.stop()
		}
	})
	return r
}

func newKey(t *testing.T) config.Key {
	t.Helper()
	k, err := config.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// dialer connects to a presto through its socket, which is served anew for each
// daemon.
func dialer(t *testing.T, p *channeltest.Presto) func(ctx context.Context) (ship.Link, error) {
	path, _ := channeltest.Socket(t, p)
	return func(ctx context.Context) (ship.Link, error) {
		c, err := channel.Dial(ctx, path)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

func (r *rig) startServer() {
	r.t.Helper()
	address := r.addr
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = l.Addr().String()
	host := wire.NewHost(wire.HostOptions{Key: r.key, Grants: r.grants, Log: r.log.With("who", "host")})
	s := server.New(server.Options{Fileset: "shared", Name: "server", Presto: dialer(r.t, r.presto), Log: r.log.With("who", "server")})
	host.Mount("shared", s)
	r.daemon = start(func(ctx context.Context) error {
		var wg sync.WaitGroup
		wg.Go(func() { host.Serve(ctx, l) })
		wg.Go(func() {
			if err := s.Run(ctx); ctx.Err() == nil {
				r.t.Errorf("server: %v", err)
			}
		})
		wg.Wait()
		return nil
	})
}

func (r *rig) stopServer() {
	r.daemon.stop()
	r.daemon = nil
}

// client is one replica.
type client struct {
	r      *rig
	key    config.Key
	presto *channeltest.Presto
	rep    *Replica
	daemon *daemon
}

// newClient makes a replica that is granted the fileset, and is not started.
func (r *rig) newClient(n byte, rights config.Rights) *client {
	r.t.Helper()
	c := &client{r: r, key: newKey(r.t), presto: channeltest.New(r.t, "shared", n)}
	r.grants.mu.Lock()
	r.grants.m[c.key.Fingerprint()] = config.Replicator{Name: fmt.Sprint("client", n), UUID: kml.UUID{n}, Fingerprint: c.key.Fingerprint(), Rights: rights}
	r.grants.mu.Unlock()
	r.t.Cleanup(func() {
		if c.daemon != nil {
			c.daemon.stop()
		}
	})
	return c
}

func (c *client) make() *Replica {
	return New(Options{Fileset: "shared", Key: c.key, Presto: dialer(c.r.t, c.presto), Log: c.r.log.With("who", "client"),
		Server: config.Server{Name: "server", Addresses: []string{c.r.addr}, Fingerprint: c.r.key.Fingerprint()}, Dial: c.r.gate.dial})
}

func (c *client) start() {
	c.rep = c.make()
	c.daemon = start(c.rep.Run)
}

func (c *client) stop() {
	c.daemon.stop()
	c.daemon = nil
}

// startClient makes and starts a replica.
func (r *rig) startClient(n byte) *client {
	r.t.Helper()
	c := r.newClient(n, config.ReadWrite)
	c.start()
	return c
}

// quiet waits until everything that was done so far anywhere is everywhere, and
// compares.
func (r *rig) quiet(clients ...*client) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	for _, c := range clients {
		own := c.presto.State().Own.Seq
		if err := c.presto.Wait(ctx, func(s channel.Fileset) bool { return s.Confirmed.Seq >= own && s.FirstUnbound == 0 }); err != nil {
			r.t.Fatalf("changes of %v are not confirmed: %v\n%+v", c.presto.Cache(), err, c.rep.Status())
		}
	}
	if err := r.presto.Wait(ctx, func(s channel.Fileset) bool { return s.FirstUnbound == 0 && s.Confirmed.Seq == s.Own.Seq }); err != nil {
		r.t.Fatalf("changes of the server are not bound: %v", err)
	}
	for {
		end := r.presto.State().Order
		for _, c := range clients {
			if err := c.presto.Wait(ctx, func(s channel.Fileset) bool { return s.Applied.Seq >= end.Seq }); err != nil {
				r.t.Fatalf("%v has not got everything: %v\n%+v", c.presto.Cache(), err, c.rep.Status())
			}
		}
		if r.presto.State().Order == end {
			break
		}
	}
	want := r.presto.Tree()
	for _, c := range clients {
		if got := c.presto.Tree(); !slices.Equal(want, got) {
			r.t.Fatalf("trees differ (-server +%v):\n%s", c.presto.Cache(), cmp.Diff(want, got))
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
