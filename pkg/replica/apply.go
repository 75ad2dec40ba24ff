package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
	"github.com/intermezzofs/intermezzo/pkg/ship"
)

// What is applied at once, at most; one unit may exceed it.
const (
	applyGroups = 512
	applyBytes  = 8 << 20 // of groups and their small contents
)

// blockedMin is between attempts while every change made here is a reason for one.
const blockedMin = 2 * time.Second

// apply applies what is whole, as soon as it is, until something breaks. What
// arrives while presto is at work makes the next batch.
func (c *conn) apply(ctx context.Context) error {
	for {
		batch := c.nextBatch()
		if len(batch) == 0 {
			if err := c.idle(ctx); err != nil {
				return err
			}
			continue
		}
		for len(batch) > 0 {
			n, err := c.applyBatch(ctx, batch)
			if err != nil {
				return err
			}
			batch = batch[n:]
		}
	}
}

// idle waits for more, and cleans up when there is nothing left to do.
func (c *conn) idle(ctx context.Context) error {
	c.mu.Lock()
	done := len(c.queue) == 0 && c.end.Seq >= c.serverEnd.Seq && len(c.leftover) > 0
	c.mu.Unlock()
	if done {
		c.clearStock()
	}
	select {
	case <-c.arrived:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// nextBatch takes the longest whole run out of the queue that is not too large,
// or else the shortest that there is.
func (c *conn) nextBatch() []received {
	c.mu.Lock()
	defer c.mu.Unlock()
	cut := c.former.Cut()
	if cut == 0 {
		return nil
	}
	limit, bytes := 0, int64(0)
	for limit < cut && limit < applyGroups && bytes < applyBytes {
		bytes += c.queue[limit].size
		for _, b := range ship.BoundIn(&c.queue[limit].group) {
			bytes += b.Version.Size
		}
		limit++
	}
	n := limit
	for !c.former.Take(n) { // it always can take 0
		n--
	}
	if n == 0 {
		for n = limit + 1; !c.former.Take(n); n++ { // at cut at the latest
		}
	}
	batch := c.queue[:n:n]
	c.queue = c.queue[n:]
	for _, g := range batch {
		c.bytes -= g.size
	}
	signal(c.taken)
	return batch
}

// applyBatch applies a whole run of groups, or, if it meets a change made here,
// what comes before the meeting, and waits until the rest can be tried again. It
// returns how many it has applied.
func (c *conn) applyBatch(ctx context.Context, batch []received) (int, error) {
	if err := c.syncStage(); err != nil {
		return 0, err
	}
	ends, groups := make([]kml.Pos, len(batch)), make([]kml.Group, len(batch))
	for i := range batch {
		ends[i], groups[i] = batch[i].end, batch[i].group
	}
	// Not under ctx: what presto has begun, it ends, and we must know how.
	res, err := c.l.port.Apply(c.l.ctx, c.l.port.Name, ends, groups)
	if err != nil {
		return 0, fmt.Errorf("apply positions %v to %v: %w", ends[0], ends[len(ends)-1], err)
	}
	if res.Blocked == nil {
		c.l.applied.Update(func(at *kml.Pos) { *at = res.Applied })
		c.drop(groups)
		return len(batch), c.stuck(ofApplier, "", false)
	}
	if n := c.wholeBefore(batch, res.Blocked.Position); n > 0 {
		return c.applyBatch(ctx, batch[:n])
	}
	return 0, c.waitBlocked(ctx, res.Blocked)
}

// syncStage makes durable what presto is going to rely on.
func (c *conn) syncStage() error {
	c.mu.Lock()
	need := c.unsynced
	c.unsynced = false
	c.mu.Unlock()
	if !need {
		return nil
	}
	return c.l.port.Stage.Sync()
}

// drop forgets contents of groups that were applied, and removes those from the
// stage that presto had no use for.
func (c *conn) drop(groups []kml.Group) {
	for i := range groups {
		for _, b := range ship.BoundIn(&groups[i]) {
			c.mu.Lock()
			state := c.contents[b.ID]
			delete(c.contents, b.ID)
			c.mu.Unlock()
			if state != contentStaged || groups[i].Origin == c.l.port.Cache {
				continue
			}
			if err := c.l.port.Stage.Remove(channel.StageName(b.ID.Origin, b.ID.Seq)); err != nil {
				c.l.r.opts.Log.Warn("clean stage", "error", err)
			}
		}
	}
}

// wholeBefore returns how many groups of a batch are whole and before position.
func (c *conn) wholeBefore(batch []received, position uint64) int {
	f := merge.NewFormer()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range batch {
		if batch[i].end.Seq >= position {
			break
		}
		f.Add(&batch[i].group)
		for _, b := range ship.BoundIn(&batch[i].group) {
			if c.contents[b.ID] == contentStaged {
				f.Have(b.ID.Origin, b.ID.Seq)
			}
		}
	}
	return f.Cut()
}

// waitBlocked says what met, and waits for anything that may change it. Nothing
// is lost meanwhile: what is changed here goes on being logged.
func (c *conn) waitBlocked(ctx context.Context, b *channel.Blocked) error {
	what := fmt.Sprintf("change %d made here", b.OwnSeq)
	if b.OwnSeq == 0 {
		what = "a file that is being written here"
	}
	path := b.Path
	if path == "" {
		path = "(unknown path)"
	}
	text := fmt.Sprintf("%s meets position %d of fileset %s, made elsewhere, at %s (%s): this version can't merge the two; both are kept, work here goes on, and nothing from elsewhere is applied from there on",
		what, b.Position, c.l.r.opts.Fileset, path, b.Detail)
	if err := c.stuck(ofApplier, text, true); err != nil {
		return err
	}
	_, moved := c.l.port.Ends.Get()
	if err := pause(ctx, blockedMin, nil); err != nil {
		return err
	}
	if b.OwnSeq == 0 {
		return pause(ctx, retryOpen, moved)
	}
	return pause(ctx, retryHard, moved)
}

// retryOpen is for a file that is open for writing: nobody says when it is
// closed without having been changed.
const retryOpen = time.Second
