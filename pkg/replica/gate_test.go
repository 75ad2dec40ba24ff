package replica

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// gate makes connections of replicas that tests can break.
type gate struct {
	mu    sync.Mutex
	conns map[*gatedConn]bool
	shut  bool
	// cutAfter, if positive, is how many bytes may still be read by all together
	// before every connection breaks.
	cutAfter atomic.Int64
	cuts     atomic.Int64
	again    int64 // what cutAfter is set to after a cut
	// deaf connections send and never hear an answer.
	deaf atomic.Bool
}

func newGate() *gate { return &gate{conns: make(map[*gatedConn]bool)} }

type gatedConn struct {
	net.Conn
	g *gate
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut {
		return nil, net.ErrClosed
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	gc := &gatedConn{c, g}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[gc] = true
	return gc, nil
}

// setShut opens or shuts the way to the server. Shutting breaks what there is.
func (g *gate) setShut(shut bool) {
	g.mu.Lock()
	g.shut = shut
	g.mu.Unlock()
	if shut {
		g.cut()
	}
}

// cut breaks all connections.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		c.Conn.Close()
	}
	clear(g.conns)
}

func (c *gatedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for c.g.deaf.Load() && err == nil {
		n, err = c.Conn.Read(p)
	}
	if left := c.g.cutAfter.Load(); left > 0 {
		if left = c.g.cutAfter.Add(int64(-n)); left <= 0 {
			c.g.cuts.Add(1)
			c.g.cut()
			c.g.cutAfter.Store(c.g.again)
			return 0, net.ErrClosed
		}
	}
	return n, err
}
