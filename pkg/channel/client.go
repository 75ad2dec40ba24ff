package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"
)

// ErrClosed is the code of a call whose connection ended before the answer:
// what was asked may have been done or not.
const ErrClosed Code = "connection closed"

// Client is the caller's end of the channel. It implements Presto. It is safe
// for concurrent use.
type Client struct {
	path   string
	conn   *net.UnixConn
	w      frameWriter
	queue  *eventQueue
	events chan Event
	done   chan struct{} // closed when the connection ended

	mu     sync.Mutex
	calls  map[uint64]chan frame
	lastID uint64
	err    error // why the connection ended
}

var _ Presto = (*Client)(nil)

// Dial connects to the presto that listens at path. The error says what to do
// if there is none.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, &Error{ErrClosed, fmt.Sprintf("no presto answers at %s: mount the cache first", path)}
	case err != nil:
		return nil, fmt.Errorf("connect to presto at %s: %w", path, err)
	}
	c := &Client{
		path: path, conn: conn.(*net.UnixConn), queue: newEventQueue(),
		events: make(chan Event), done: make(chan struct{}), calls: make(map[uint64]chan frame),
	}
	c.w.conn = c.conn
	go c.read()
	go c.pump()
	return c, nil
}

// Events returns the events of the filesets that this client attached to. It is
// closed when the connection ends. A slow reader gets merged events.
func (c *Client) Events() <-chan Event { return c.events }

// Close ends the connection. Calls under way fail with ErrClosed. It may be
// called more than once.
func (c *Client) Close() error {
	c.conn.Close()
	<-c.done
	return nil
}

// read takes frames until the connection ends.
func (c *Client) read() {
	fr := newFrameReader(c.conn)
	defer fr.close()
	for {
		f, err := fr.next()
		if err != nil {
			c.end(err)
			return
		}
		var h header
		if err := json.Unmarshal(f.header, &h); err != nil {
			closeFiles(f.files)
			c.end(fmt.Errorf("unreadable frame: %w", err))
			return
		}
		if h.Event != nil {
			closeFiles(f.files)
			c.queue.put(*h.Event)
			continue
		}
		c.deliver(h.ID, f)
	}
}

// deliver gives a reply to its caller, or closes its descriptors if that one
// has gone.
func (c *Client) deliver(id uint64, f frame) {
	c.mu.Lock()
	reply, ok := c.calls[id]
	delete(c.calls, id)
	c.mu.Unlock()
	if !ok {
		closeFiles(f.files)
		return
	}
	reply <- f // has room for one
}

func (c *Client) end(err error) {
	c.conn.Close()
	c.mu.Lock()
	c.err = err
	for _, reply := range c.calls {
		close(reply)
	}
	c.calls = nil
	c.mu.Unlock()
	close(c.done)
}

// pump moves events from the queue to the reader's channel.
func (c *Client) pump() {
	defer close(c.events)
	for {
		select {
		case <-c.queue.wake:
		case <-c.done:
			c.flush(nil)
			return
		}
		events := c.queue.take()
		for i, e := range events {
			select {
			case c.events <- e:
			case <-c.done:
				c.flush(events[i:])
				return
			}
		}
	}
}

// flush passes on what came before the connection ended, the farewell above all,
// if somebody still listens.
func (c *Client) flush(events []Event) {
	limit := time.After(farewellTime)
	for _, e := range append(events, c.queue.take()...) {
		select {
		case c.events <- e:
		case <-limit:
			return
		}
	}
}

// register makes a call known before it is sent.
func (c *Client) register() (uint64, chan frame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		return 0, nil, c.closed(c.err)
	}
	c.lastID++
	reply := make(chan frame, 1)
	c.calls[c.lastID] = reply
	return c.lastID, reply, nil
}

func (c *Client) closed(err error) error {
	return &Error{ErrClosed, fmt.Sprintf("presto at %s closed the connection: %v", c.path, err)}
}

// call sends h with the blob and files, which stay the caller's, and waits for
// the answer, whose files become the caller's. When ctx ends first, presto is
// told, and what it still answers is dropped.
func (c *Client) call(ctx context.Context, h header, f frame) (header, frame, error) {
	if err := ctx.Err(); err != nil {
		return header{}, frame{}, err
	}
	id, reply, err := c.register()
	if err != nil {
		return header{}, frame{}, err
	}
	h.ID = id
	f.header = marshal(h)
	// A presto that is stopped does not read: writing may block, waiting must not.
	written := make(chan error, 1)
	go func() { written <- c.w.write(f) }()
	for {
		select {
		case err := <-written:
			if err == nil {
				written = nil
				continue
			}
			c.forget(id, reply)
			if e, ok := errors.AsType[*Error](err); ok {
				return header{}, frame{}, e
			}
			return header{}, frame{}, c.closed(err)
		case r, ok := <-reply:
			if !ok {
				return header{}, frame{}, c.closed(c.cause())
			}
			if written != nil {
				<-written // it must be: the answer is here
			}
			return c.answer(r)
		case <-ctx.Done():
			c.forget(id, reply)
			go c.w.write(frame{header: marshal(header{ID: id, Cancel: true})})
			return header{}, frame{}, ctx.Err()
		}
	}
}

func (c *Client) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// forget drops a call, and the answer if it arrived at this moment.
func (c *Client) forget(id uint64, reply chan frame) {
	c.mu.Lock()
	_, waiting := c.calls[id]
	delete(c.calls, id)
	c.mu.Unlock()
	if waiting {
		return
	}
	if r, ok := <-reply; ok {
		closeFiles(r.files)
	}
}

func (c *Client) answer(r frame) (header, frame, error) {
	var h header
	if err := json.Unmarshal(r.header, &h); err != nil {
		closeFiles(r.files)
		return header{}, frame{}, &Error{ErrInternal, fmt.Sprintf("unreadable answer from presto: %v", err)}
	}
	if h.Error != nil {
		closeFiles(r.files)
		return header{}, frame{}, &Error{h.Error.Code, h.Error.Text}
	}
	return h, r, nil
}
