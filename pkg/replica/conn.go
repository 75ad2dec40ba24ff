package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// conn is one connection to the server.
type conn struct {
	l      *local
	client *wire.Client
	rights string
	from   kml.Pos // of the own log: where pushing goes on

	// arrived wakes the applier, taken the receiver.
	arrived, taken chan struct{}
	toFetch        chan struct{} // wakes a fetcher

	mu        sync.Mutex
	former    *merge.Former
	queue     []received
	bytes     int64 // of the groups in queue
	end       kml.Pos
	serverEnd kml.Pos
	contents  map[wire.ContentID]contentState
	expected  map[wire.ContentID]ship.Version // small ones, behind their groups
	waiting   []*fetch                        // large ones, in order
	fetching  map[kml.ObjectID]*fetch         // those and the ones under way
	unsynced  bool                            // something was staged since the stage was last made durable
	leftover  map[string]bool
	moving    map[*transfer]bool
	problem   [2]string // of the applier, of the pusher: what keeps them from going on
	blocked   bool
}

// received is a group that waits to be applied.
type received struct {
	end   kml.Pos
	group kml.Group
	size  int64
}

// contentState is what became of a content that a group in the queue names.
type contentState int

const (
	contentStaged contentState = 1 + iota
	contentGone
)

func newConn(l *local, client *wire.Client, st *wire.Status) *conn {
	return &conn{
		l: l, client: client, rights: string(st.Rights),
		arrived: make(chan struct{}, 1), taken: make(chan struct{}, 1), toFetch: make(chan struct{}, 1),
		former: merge.NewFormer(), end: l.applied.Now(), serverEnd: kml.Pos(st.End),
		contents: make(map[wire.ContentID]contentState), expected: make(map[wire.ContentID]ship.Version), fetching: make(map[kml.ObjectID]*fetch),
		leftover: make(map[string]bool), moving: make(map[*transfer]bool),
	}
}

// run works until something breaks.
func (c *conn) run(ctx context.Context, stream *wire.Stream) error {
	if err := c.takeStock(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.l.r.mu.Lock()
	c.l.r.conn = c
	c.l.r.mu.Unlock()
	defer func() {
		c.l.r.mu.Lock()
		defer c.l.r.mu.Unlock()
		c.l.r.conn = nil
	}()
	stop := context.AfterFunc(ctx, stream.Stop)
	defer stop()
	var wg sync.WaitGroup
	start := func(work func(context.Context) error) { wg.Go(func() { cancel(work(ctx)) }) }
	start(func(ctx context.Context) error { return c.receive(ctx, stream) })
	start(c.apply)
	start(c.push)
	for range maxFetches {
		start(c.fetchLoop)
	}
	if c.l.r.once {
		start(c.untilInStep)
	}
	wg.Wait()
	return context.Cause(ctx)
}

// takeStock notes what an earlier connection has left in the stage. What is
// still there when the replica has caught up is of no use any more.
func (c *conn) takeStock() error {
	list, err := c.l.port.Stage.List()
	if err != nil {
		return err
	}
	for _, e := range list {
		c.leftover[e.Name] = true
	}
	return nil
}

// clearStock removes it. Called when everything is applied that the server had.
func (c *conn) clearStock() {
	c.mu.Lock()
	names := c.leftover
	c.leftover = nil
	c.mu.Unlock()
	for name := range names {
		if err := c.l.port.Stage.Remove(name); err != nil {
			c.l.r.opts.Log.Warn("clean stage", "error", err)
		}
	}
}

// used takes a content out of what clearStock removes. Called with mu held.
func (c *conn) used(id wire.ContentID) {
	delete(c.leftover, channel.StageName(id.Origin, id.Seq))
}

// untilInStep ends RunOnce when its goal is reached.
func (c *conn) untilInStep(ctx context.Context) error {
	for {
		ends, moved := c.l.port.Ends.Get()
		at, applied := c.l.applied.Get()
		if ends.Confirmed.Seq >= c.l.goal.own && at.Seq >= c.l.goal.order {
			return errInStep
		}
		select {
		case <-moved:
		case <-applied:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const (
	ofApplier = 0
	ofPusher  = 1
)

// stuck notes what keeps one side from going on, "" for nothing. For RunOnce
// that is the end.
func (c *conn) stuck(side int, text string, blocked bool) error {
	c.mu.Lock()
	c.problem[side] = text
	if side == ofApplier {
		c.blocked = blocked
	}
	say := c.problem[ofApplier]
	if say == "" {
		say = c.problem[ofPusher]
	}
	b := c.blocked
	c.mu.Unlock()
	if text != "" && c.l.r.once {
		return errors.New(text)
	}
	c.l.r.complain(say, b)
	return nil
}

// signal wakes who waits at ch, now or next.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// pause waits, or ends with ctx, or earlier when wake is ready.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// describe fills in what a conn knows.
func (c *conn) describe(s *Status) {
	now := time.Now()
	ends := c.l.port.Ends.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.ServerEnd, s.BehindBytes = later(s.ServerEnd, c.serverEnd), c.bytes
	s.Applied, s.Own, s.Confirmed = c.l.applied.Now(), ends.Own, ends.Confirmed
	if missing := c.former.Missing(); len(missing) > 0 {
		s.WaitsFor = c.explain(missing)
	}
	for t := range c.moving {
		s.Transfers = append(s.Transfers, t.describe(now))
		if !t.up {
			s.BehindBytes += t.size - t.done
		}
	}
}

// explain says what is missing. Called with mu held.
func (c *conn) explain(missing []merge.Want) string {
	w := missing[0]
	what := "to be closed, or read, where it was written"
	if !w.Content.IsZero() {
		what = "to arrive"
	}
	return fmt.Sprintf("%d groups wait for %d contents, the first for change %d of %v to object %v (%d bytes) %s",
		c.former.Len(), len(missing), w.CloseSeq, w.Origin, w.Object, w.Size, what)
}

func later(a, b kml.Pos) kml.Pos {
	if b.Seq > a.Seq {
		return b
	}
	return a
}

// begin notes a transfer, for Status.
func (c *conn) begin(v ship.Version, up bool, at int64) *transfer {
	path, err := c.l.port.Path(c.l.ctx, c.l.port.Name, v.Object)
	if err != nil {
		path = "" // only to be shown
	}
	t := &transfer{path: path, up: up, size: v.Size, start: at, done: at, began: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moving[t] = true
	return t
}

func (c *conn) progress(t *transfer, done int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.done = done
}

func (c *conn) finish(t *transfer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.moving, t)
}
