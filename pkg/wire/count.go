package wire

import (
	"net"
	"sync/atomic"
)

// Counter counts bytes on the wire, TLS included, in both directions.
type Counter struct {
	in, out atomic.Int64
}

// In is the number of bytes received.
func (c *Counter) In() int64 { return c.in.Load() }

// Out is the number of bytes sent.
func (c *Counter) Out() int64 { return c.out.Load() }

// countedConn adds what passes to a Counter, and runs onClose once.
type countedConn struct {
	net.Conn
	count   *Counter
	closed  atomic.Bool
	onClose func()
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.count.in.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.count.out.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	if c.onClose != nil && c.closed.CompareAndSwap(false, true) {
		c.onClose()
	}
	return c.Conn.Close()
}
