package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

const (
	// A CLOSE of a file that is being written again waits so long for the next
	// one before its writers are held up for a copy; a long file longer, so that
	// at most a quarter of the time goes into copies.
	captureAfter = time.Second
	captureRate  = 50 << 20 // bytes a second

	largeBytes = 8 << 20                // larger files are bound one by one, beside the others
	retryAfter = 100 * time.Millisecond // when a binding did not hold and nothing says why
)

// Binder binds the CLOSEs of the own log to bytes, in order, each as soon as the
// file is not being written. What is closed again meanwhile, or loses its last
// name, is skipped.
type Binder struct {
	port   *Port
	source *Source
	log    *slog.Logger
	wanted func() bool // somebody waits for what is bound

	mu     sync.Mutex
	todo   map[kml.ObjectID]*unbound
	reader *kml.Reader
	wake   Watch[struct{}]
}

// unbound is an object whose last CLOSE has no bytes yet.
type unbound struct {
	object kml.ObjectID
	seq    uint64
	size   int64
	since  time.Time // when the first of its CLOSEs in a row was found unbound
	notYet time.Time // not to be tried before
	busy   bool      // a lane has it
}

// NewBinder returns a Binder of the own log of p. wanted tells whether anybody
// waits for bound CLOSEs: else nobody's writing is held up for them.
func NewBinder(p *Port, s *Source, wanted func() bool, log *slog.Logger) *Binder {
	b := &Binder{port: p, source: s, wanted: wanted, log: log, todo: make(map[kml.ObjectID]*unbound)}
	s.busy = b.chase
	return b
}

// chase is for an object whose last bound content was asked for and is being
// overwritten: there must be a next one within bounded time, even if its writer
// never closes it.
func (b *Binder) chase(id kml.ObjectID, size int64) {
	b.mu.Lock()
	_, known := b.todo[id]
	if !known {
		b.todo[id] = &unbound{object: id, size: size, since: time.Now()}
	}
	b.mu.Unlock()
	if !known {
		b.wake.Update(func(*struct{}) {})
	}
}

// Run binds until ctx ends or presto fails.
func (b *Binder) Run(ctx context.Context) error {
	from := b.port.Fileset.Own.Seq
	if first := b.port.Fileset.FirstUnbound; first > 0 {
		from = first - 1
	}
	var err error
	if b.reader, err = b.port.Own.ReadFrom(from); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, large := range []bool{false, true} {
		wg.Go(func() {
			if err := b.lane(ctx, large); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// lane binds the small files, or the large ones.
func (b *Binder) lane(ctx context.Context, large bool) error {
	for {
		ends, moved := b.port.Ends.Get()
		_, woken := b.wake.Get()
		if ends.Gone {
			return ErrPrestoGone
		}
		if err := b.scan(); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		batch, wait := b.pick(large)
		if len(batch) > 0 {
			err := b.bind(ctx, batch, large)
			b.giveBack(batch)
			if err != nil {
				return fmt.Errorf("bind: %w", err)
			}
			continue
		}
		if wait == 0 {
			wait = time.Hour
		}
		timer := time.NewTimer(wait)
		select {
		case <-moved:
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// scan reads what is new in the log.
func (b *Binder) scan() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		f, err := b.reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r, err := f.Record()
		if err != nil {
			return err
		}
		b.note(&r)
	}
}

func (b *Binder) note(r *kml.Record) {
	switch {
	case r.Op == kml.OpClose && r.Content.IsZero() && r.After.Size > 0:
		u := b.todo[r.Object]
		if u == nil {
			u = &unbound{object: r.Object, since: time.Now()}
			b.todo[r.Object] = u
		}
		u.seq, u.size, u.notYet = r.Seq, r.After.Size, time.Time{}
	case r.Op == kml.OpClose:
		delete(b.todo, r.Object)
	case r.Op == kml.OpManifest:
		if u := b.todo[r.Object]; u != nil && u.seq == r.CloseSeq {
			delete(b.todo, r.Object)
		}
	case r.Op == kml.OpUnlink && r.Last:
		delete(b.todo, r.Object)
	case r.ReplacedLast:
		delete(b.todo, r.Replaced)
	}
}

// pick chooses what to bind now, oldest first, and says how long to wait if that
// is nothing; 0 is for ever.
func (b *Binder) pick(large bool) (batch []*unbound, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for _, u := range b.todo {
		if u.busy || (u.size > largeBytes) != large {
			continue
		}
		if left := u.notYet.Sub(now); left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		batch = append(batch, u)
	}
	slices.SortFunc(batch, func(x, y *unbound) int {
		if x.seq < y.seq {
			return -1
		}
		return 1
	})
	limit := channel.MaxContents
	if large {
		limit = 1
	}
	batch = batch[:min(len(batch), limit)]
	for _, u := range batch {
		u.busy = true
	}
	return batch, wait
}

func (b *Binder) giveBack(batch []*unbound) {
	b.mu.Lock()
	for _, u := range batch {
		u.busy = false
	}
	b.mu.Unlock()
	b.wake.Update(func(*struct{}) {})
}

// later puts off the next try, unless a new CLOSE comes.
func (b *Binder) later(u *unbound, by time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.notYet.IsZero() {
		u.notYet = time.Now().Add(by)
	}
}

// done forgets an object, unless it was closed again since seq.
func (b *Binder) done(u *unbound, seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.seq <= seq && b.todo[u.object] == u {
		delete(b.todo, u.object)
	}
}

// bind reads and binds a batch, and captures what has waited for too long.
func (b *Binder) bind(ctx context.Context, batch []*unbound, large bool) error {
	busy, err := b.bindOpened(ctx, batch, large, false)
	if err != nil || len(busy) == 0 {
		return err
	}
	var capture []*unbound
	for _, u := range busy {
		age, limit := b.age(u)
		switch {
		case !b.wanted():
			b.later(u, captureAfter)
		case age < limit:
			b.later(u, limit-age)
		default:
			capture = append(capture, u)
		}
	}
	// One at a time: writers wait.
	for i := range capture {
		if _, err := b.bindOpened(ctx, capture[i:i+1], large, true); err != nil {
			return err
		}
	}
	return nil
}

func (b *Binder) age(u *unbound) (age, limit time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(u.since), captureAfter + time.Duration(u.size)*4*time.Second/captureRate
}

// bindOpened binds what of a batch can be opened, and returns what is being
// written.
func (b *Binder) bindOpened(ctx context.Context, batch []*unbound, large, capture bool) (busy []*unbound, err error) {
	ids := make([]kml.ObjectID, len(batch))
	for i, u := range batch {
		ids[i] = u.object
	}
	opened, err := b.port.Contents(ctx, b.port.Name, ids, capture)
	if err != nil {
		return nil, fmt.Errorf("open contents: %w", err)
	}
	defer closeOpened(opened)
	var list []channel.Binding
	var of []*unbound
	for i := range opened {
		u := batch[i]
		binding, err := b.read(ctx, u, &opened[i], capture)
		switch {
		case errors.Is(err, errWritten):
			busy = append(busy, u)
		case errors.Is(err, content.ErrShort):
			b.later(u, retryAfter)
		case err != nil:
			return nil, fmt.Errorf("read content of %v: %w", u.object, err)
		case binding != nil:
			list, of = append(list, *binding), append(of, u)
		}
	}
	if len(list) == 0 {
		return busy, nil
	}
	held, err := b.port.Bind(ctx, b.port.Name, list)
	if err != nil {
		return nil, err
	}
	for i, u := range of {
		if !held[i] {
			b.later(u, retryAfter)
			continue
		}
		b.done(u, list[i].CloseSeq)
		if !capture && list[i].Token.Size > smallBytes {
			// Presto's token is what the file's own would be, unless it is being written.
			b.source.keepRoot(list[i].Object, list[i].Token, list[i].Content.Root)
		}
	}
	return busy, nil
}

// errWritten is for a file that a writer is at work in.
var errWritten = errors.New("the file is being written")

// read names the bytes of an opened file. There is nothing to bind where the
// object is gone, or its last CLOSE is bound already.
func (b *Binder) read(ctx context.Context, u *unbound, o *channel.Opened, capture bool) (*channel.Binding, error) {
	switch {
	case o.Errno == int(syscall.ETXTBSY):
		return nil, errWritten
	case o.Errno == int(syscall.ENOENT) || o.Errno == int(syscall.ESTALE):
		b.done(u, u.seq) // its removal is in the log, or will be
		return nil, nil
	case o.File == nil:
		b.log.Warn("content of a closed file can't be read", "object", u.object.String(), "error", syscall.Errno(o.Errno))
		b.later(u, time.Minute)
		return nil, nil
	case o.CloseSeq == 0 && !capture:
		b.done(u, u.seq)
		return nil, nil
	}
	root, err := b.sum(ctx, u.object, o)
	if err != nil {
		return nil, err
	}
	if o.CloseSeq == 0 { // bound at birth; the copy is kept by now
		b.done(u, u.seq)
		return nil, nil
	}
	binding := &channel.Binding{Object: u.object, CloseSeq: o.CloseSeq, Token: o.Token, Content: kml.Content{Root: root}}
	if !capture || o.Token.Size <= smallBytes {
		return binding, nil
	}
	st, err := statOf(o.File)
	if err == nil && st.Nlink == 0 {
		// A copy, not the file, which was not being written any more. It is kept
		// before anybody can ask for it: nothing else has these bytes.
		b.source.keepFile(binding, o.File)
		o.File = nil
	}
	return binding, err
}

// sum names the bytes of an opened file. Small ones are kept: they will be asked
// for next.
func (b *Binder) sum(ctx context.Context, id kml.ObjectID, o *channel.Opened) ([32]byte, error) {
	if o.Token.Size > smallBytes {
		return content.SumFile(ctx, o.File, o.Token.Size)
	}
	body, root, err := readBody(o.File, o.Token.Size)
	if err == nil {
		b.source.keep(Version{Object: id, Root: root, Size: o.Token.Size}, body)
	}
	return root, err
}
