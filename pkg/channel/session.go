package channel

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
)

// session is one connection at presto's end.
type session struct {
	conn    *net.UnixConn
	w       frameWriter
	backend Backend
	queue   *eventQueue
	log     *slog.Logger

	mu       sync.Mutex
	calls    map[uint64]context.CancelFunc
	attached map[string]int // how often; events of these filesets are wanted
}

func (c *session) notify(e Event) {
	c.mu.Lock()
	wanted := c.attached[e.Fileset] > 0 || e.Fileset == ""
	c.mu.Unlock()
	if wanted {
		c.queue.put(e)
	}
}

// sendEvents writes events as fast as the reader takes them, and what is left
// when ctx ends.
func (c *session) sendEvents(ctx context.Context) {
	for done := false; !done; {
		select {
		case <-c.queue.wake:
		case <-ctx.Done():
			done = true
		}
		for _, e := range c.queue.take() {
			if err := c.w.write(frame{header: marshal(header{Event: &e})}); err != nil {
				return
			}
		}
	}
}

// read starts the calls that come in, until the connection ends.
func (c *session) read(ctx context.Context, wg *sync.WaitGroup) error {
	fr := newFrameReader(c.conn)
	defer fr.close()
	for {
		f, err := fr.next()
		if err != nil {
			return err
		}
		var h header
		if err := json.Unmarshal(f.header, &h); err != nil {
			closeFiles(f.files)
			return fmt.Errorf("unreadable frame: %w", err)
		}
		if h.Cancel {
			closeFiles(f.files)
			c.cancel(h.ID)
			continue
		}
		if err := c.start(ctx, wg, h, f); err != nil {
			closeFiles(f.files)
			return err
		}
	}
}

func (c *session) cancel(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel, ok := c.calls[id]; ok {
		cancel()
	}
}

func (c *session) start(ctx context.Context, wg *sync.WaitGroup, h header, f frame) error {
	callCtx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	_, twice := c.calls[h.ID]
	busy := len(c.calls) >= maxCalls
	if !twice && !busy {
		c.calls[h.ID] = cancel
	}
	c.mu.Unlock()
	if twice {
		cancel()
		return fmt.Errorf("call number %d used twice", h.ID)
	}
	if busy {
		cancel()
		closeFiles(f.files)
		wg.Go(func() { c.reply(h.ID, answer{err: &Error{ErrBusy, "too many calls at a time on one connection"}}) })
		return nil
	}
	wg.Go(func() {
		a := c.run(callCtx, h, f)
		c.mu.Lock()
		delete(c.calls, h.ID)
		c.mu.Unlock()
		cancel()
		c.reply(h.ID, a)
	})
	return nil
}

// answer is what a call came to. The files are closed once they are sent.
type answer struct {
	args  json.RawMessage
	blob  []byte
	files []*os.File
	err   error
}

func (c *session) reply(id uint64, a answer) {
	defer closeFiles(a.files)
	h := header{ID: id, Args: a.args, Error: toWire(a.err)}
	f := frame{blob: a.blob, files: a.files}
	if h.Error != nil {
		h.Args, f = nil, frame{}
	}
	f.header = marshal(h)
	err := c.w.write(f)
	if e, ok := err.(*Error); ok { // too large to be sent at all
		err = c.w.write(frame{header: marshal(header{ID: id, Error: toWire(e)})})
	}
	if err != nil {
		c.log.Debug("answer on channel", "error", err)
	}
}

// run does one call. A panic of the backend is an answer, not the end of the
// mount.
func (c *session) run(ctx context.Context, h header, f frame) (a answer) {
	keep := false
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("call on channel panicked", "call", h.Call, "panic", p, "stack", string(debug.Stack()))
			a = answer{err: &Error{ErrInternal, fmt.Sprintf("%s: presto met a fault of its own: %v", h.Call, p)}}
		}
		if !keep {
			closeFiles(f.files)
		}
	}()
	switch h.Call {
	case callControl:
		a = c.control(ctx, h, f.files)
		keep = a.err == nil
		return a
	case callAttach:
		return c.attach(ctx, h)
	case callContents:
		return c.contents(ctx, h, f.blob)
	case callAccept:
		return c.accept(ctx, h, f.blob)
	case callApply:
		return c.apply(ctx, h, f.blob)
	case callBind:
		return c.bind(ctx, h, f.blob)
	case callPath:
		return c.path(ctx, h, f.blob)
	case callInfo:
		info, err := c.backend.Info(ctx)
		return answer{args: marshal(info), err: err}
	case callSync:
		return answer{err: c.backend.Sync(ctx, h.Fileset)}
	case callBarrier:
		p, err := c.backend.Barrier(ctx, h.Fileset)
		return answer{args: marshal(p), err: err}
	}
	return answer{err: &Error{ErrInvalid, fmt.Sprintf("presto knows no call %q", h.Call)}}
}
