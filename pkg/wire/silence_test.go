package wire

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// pipeListener is a net.Listener whose connections are net.Pipe ends, so that
// time in a synctest bubble can pass.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "192.0.2.1:1" }

// pipeConn is one end; when it is cut, everything sent is dropped in silence.
type pipeConn struct {
	net.Conn
	cut *cutter
}

type cutter struct {
	mu  sync.Mutex
	cut bool
}

func (c *cutter) is() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

func (c *cutter) set() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
}

func (c pipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

func (c pipeConn) Write(p []byte) (int, error) {
	if c.cut.is() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// silent runs test with a server whose follow streams are made by follow.
func silent(t *testing.T, follow func(ctx context.Context, w FrameWriter) error, test func(t *testing.T, c *Client, cut *cutter)) {
	synctest.Test(t, func(t *testing.T) {
		key, mine := newKey(t), newKey(t)
		g := &grants{}
		g.set("shared", mine.Fingerprint(), config.ReadOnly)
		host := NewHost(HostOptions{Key: key, Grants: g, Log: slog.New(slog.DiscardHandler)})
		host.Mount("shared", &fakeBackend{uuid: kml.UUID{9}, follow: func(ctx context.Context, _ Peer, _ kml.Pos, w FrameWriter) error { return follow(ctx, w) }})
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- host.Serve(ctx, l) }()
		cut := &cutter{}
		c := NewClient(ClientOptions{Server: config.Server{Name: "server", Addresses: []string{"x:1"}, Fingerprint: key.Fingerprint()}, Key: mine, Fileset: "shared",
			Dial: func(context.Context, string, string) (net.Conn, error) {
				a, b := net.Pipe()
				l.conns <- pipeConn{a, cut}
				return pipeConn{b, cut}, nil
			}})
		test(t, c, cut)
		c.Close()
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestFollow_GivesUpASilentStream(t *testing.T) {
	silent(t, func(ctx context.Context, w FrameWriter) error {
		if _, err := w.Write(AppendHeartbeat(nil, testPos)); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		<-ctx.Done() // and not a word more
		return ctx.Err()
	}, func(t *testing.T, c *Client, _ *cutter) {
		s, err := c.Follow(t.Context(), kml.Pos{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = s.Next()
		if took := time.Since(began); !errors.Is(err, errSilent) || took != DeadAfter {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestFollow_HeartbeatsKeepItAlive(t *testing.T) {
	silent(t, func(ctx context.Context, w FrameWriter) error {
		for range 30 {
			if _, err := w.Write(AppendHeartbeat(nil, testPos)); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
			time.Sleep(Heartbeat)
		}
		return Errorf(CodeUnavailable, "enough")
	}, func(t *testing.T, c *Client, _ *cutter) {
		s, err := c.Follow(t.Context(), kml.Pos{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 30 {
			// A reader that is slow itself does not take that for the peer's silence.
			time.Sleep(Heartbeat)
			if _, err := s.Next(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Next(); CodeOf(err) != CodeUnavailable {
			t.Errorf("at the end: %v", err)
		}
	})
}

func TestFollow_CutConnectionIsNoticedByBoth(t *testing.T) {
	var ended chan time.Time
	silent(t, func(ctx context.Context, w FrameWriter) error {
		w.Write(AppendHeartbeat(nil, testPos))
		w.Flush()
		<-ctx.Done()
		ended <- time.Now()
		return ctx.Err()
	}, func(t *testing.T, c *Client, cut *cutter) {
		ended = make(chan time.Time, 1) // of this bubble
		s, err := c.Follow(t.Context(), kml.Pos{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		cut.set()
		began := time.Now()
		if _, err = s.Next(); err == nil {
			t.Fatal("a frame came through")
		}
		if took := time.Since(began); took > DeadAfter {
			t.Errorf("the client noticed after %v: %v", took, err)
		}
		if took := (<-ended).Sub(began); took > 2*DeadAfter {
			t.Errorf("the server noticed after %v", took)
		}
	})
}
