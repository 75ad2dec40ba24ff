package channeltest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
	"golang.org/x/sys/unix"
)

// BindAtBirth is the size up to which a CLOSE has its content from the start.
const BindAtBirth = 16 << 10

// Presto is a presto with one fileset. It implements channel.Backend. All
// methods are safe for concurrent use.
type Presto struct {
	t       testing.TB
	dir     string
	cache   kml.UUID
	fileset string

	mu        sync.Mutex
	role      channel.Role
	uuid      kml.UUID
	tree      tree
	kml       *kml.Log
	order     *kml.Log
	applied   kml.Pos
	confirmed kml.Pos
	pending   *merge.TouchSet
	unbound   map[kml.ObjectID]uint64
	captured  map[uint64]channel.Token
	clock     int64
	nextIno   uint64
	durable   channel.Event // ends at the last Sync
	notify    func(channel.Event)
	changed   chan struct{} // closed at the next change of any position

	// Hooks for tests, called before the call of that name does anything. An
	// error is its answer. Set them before the Presto is used.
	BeforeSync   func() error
	BeforeAccept func(groups []kml.Group) error
	BeforeApply  func(ends []kml.Pos, groups []kml.Group) error
	// Counts of calls.
	Applies, Accepts, Syncs int
}

var _ channel.Backend = (*Presto)(nil)

// New makes an empty cache, whose id is made from n, for a fileset.
func New(t testing.TB, fileset string, n byte) *Presto {
	t.Helper()
	p := &Presto{
		t: t, dir: t.TempDir(), cache: kml.UUID{0xca, 0xc4, n}, fileset: fileset,
		tree: newTree(), pending: merge.NewTouchSet(), unbound: make(map[kml.ObjectID]uint64),
		captured: make(map[uint64]channel.Token), clock: 1e18 + int64(n)*1e15, nextIno: 100,
		notify: func(channel.Event) {},
	}
	if err := os.Mkdir(filepath.Join(p.dir, "stage"), 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.kml, err = p.makeLog("kml", kml.KindKML, 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kml.Close()
		if p.order != nil {
			p.order.Close()
		}
	})
	return p
}

func (p *Presto) makeLog(name string, kind kml.Kind, epoch uint32) (*kml.Log, error) {
	open := func(name string) (*os.File, error) {
		return os.OpenFile(filepath.Join(p.dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	index, err := open(name + ".index")
	if err != nil {
		return nil, err
	}
	if err := kml.Format(f, kml.Header{Kind: kind, Owner: p.cache, Epoch: epoch}); err != nil {
		return nil, err
	}
	return kml.Open(f, index)
}

// Cache is the id of the cache.
func (p *Presto) Cache() kml.UUID { return p.cache }

// SetNotify says where events go.
func (p *Presto) SetNotify(f func(channel.Event)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notify = f
}

// announce is called with mu held.
func (p *Presto) announce() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
	p.notify(p.ends())
}

// Wait waits until cond is true of the state. It is asked again after every
// change of a position.
func (p *Presto) Wait(ctx context.Context, cond func(channel.Fileset) bool) error {
	for {
		p.mu.Lock()
		s := p.state()
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		if cond(s) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w; the state is %+v", context.Cause(ctx), s)
		}
	}
}

func (p *Presto) ends() channel.Event {
	e := channel.Event{Fileset: p.fileset, Own: p.kml.End(), Confirmed: p.confirmed}
	if p.order != nil {
		e.Order = p.order.End()
	}
	return e
}

// State describes the fileset.
func (p *Presto) State() channel.Fileset {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state()
}

func (p *Presto) state() channel.Fileset {
	e := p.ends()
	s := channel.Fileset{Name: p.fileset, UUID: p.uuid, Role: p.role, Own: e.Own, Order: e.Order, Confirmed: p.confirmed,
		Applied: p.applied, PendingRecords: e.Own.Seq - p.confirmed.Seq}
	for _, seq := range p.unbound {
		if s.FirstUnbound == 0 || seq < s.FirstUnbound {
			s.FirstUnbound = seq
		}
	}
	return s
}

// Durable gives the ends of the logs as they were when Sync was last called.
func (p *Presto) Durable() channel.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.durable
}

// Tree describes the tree, one line for each name.
func (p *Presto) Tree() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tree.dump()
}

// StageNames lists what lies in the stage.
func (p *Presto) StageNames() []string {
	list, err := os.ReadDir(filepath.Join(p.dir, "stage"))
	if err != nil {
		p.t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// Info implements channel.Presto.
func (p *Presto) Info(context.Context) (channel.Info, error) {
	return channel.Info{PID: os.Getpid(), Cache: p.cache, Filesets: []channel.Fileset{p.State()}}, nil
}

func (p *Presto) check(fileset string) error {
	if fileset != p.fileset {
		return &channel.Error{Code: channel.ErrNoFileset, Text: "there is no fileset " + fileset}
	}
	return nil
}

// Attach implements channel.Presto.
func (p *Presto) Attach(_ context.Context, fileset string, role channel.Role, uuid kml.UUID) (*channel.Attachment, error) {
	if err := p.check(fileset); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.role != channel.RoleNone && p.role != role {
		return nil, &channel.Error{Code: channel.ErrRole, Text: fmt.Sprintf("the cache is a %s's", p.role)}
	}
	if !uuid.IsZero() && !p.uuid.IsZero() && uuid != p.uuid {
		return nil, &channel.Error{Code: channel.ErrWrongFileset, Text: "another fileset of the same name"}
	}
	p.role = role
	if !uuid.IsZero() {
		p.uuid = uuid
	}
	if role == channel.RoleServer {
		if err := p.becomeServer(); err != nil {
			return nil, err
		}
	}
	p.announce()
	a := &channel.Attachment{Fileset: p.state(), Cache: p.cache}
	var err error
	if a.KML, err = os.Open(filepath.Join(p.dir, "kml")); err != nil {
		return nil, err
	}
	if a.Stage, err = os.Open(filepath.Join(p.dir, "stage")); err != nil {
		return nil, err
	}
	if p.order != nil {
		if a.Order, err = os.Open(filepath.Join(p.dir, "order")); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// becomeServer gives a position to all that was logged so far.
func (p *Presto) becomeServer() (err error) {
	if p.order == nil {
		if p.order, err = p.makeLog("order", kml.KindOrder, 1); err != nil {
			return err
		}
	}
	r, err := p.kml.ReadFrom(p.confirmed.Seq)
	if err != nil {
		return err
	}
	for {
		f, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		rec, err := f.Record()
		if err != nil {
			return err
		}
		if err := p.sequence(f.Pos, rec); err != nil {
			return err
		}
	}
}

// Sync implements channel.Presto.
func (p *Presto) Sync(_ context.Context, fileset string) error {
	if err := p.check(fileset); err != nil {
		return err
	}
	if p.BeforeSync != nil {
		if err := p.BeforeSync(); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Syncs++
	p.durable = p.ends()
	return nil
}

// Contents implements channel.Presto.
func (p *Presto) Contents(_ context.Context, fileset string, ids []kml.ObjectID, capture bool) ([]channel.Opened, error) {
	if err := p.check(fileset); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]channel.Opened, len(ids))
	for i, id := range ids {
		o := p.tree[id]
		switch {
		case o == nil || o.attr.Mode&modeType != modeFile:
			list[i].Errno = int(unix.ENOENT)
			continue
		case o.dirty && !capture:
			list[i].Errno = int(unix.ETXTBSY)
			continue
		case o.dirty:
			p.logClose(id)
			o.dirty = true // its writer is still there
		}
		f, err := memFile(o.data)
		if err != nil {
			return nil, err
		}
		list[i] = channel.Opened{File: f, Token: tokenOf(id, o), CloseSeq: p.unbound[id]}
		if o.dirty {
			p.captured[p.unbound[id]] = list[i].Token
		}
	}
	return list, nil
}

func tokenOf(id kml.ObjectID, o *object) channel.Token {
	return channel.Token{Ino: id.Ino, Size: int64(len(o.data)), Mtime: o.attr.Mtime, Ctime: o.ctime}
}

// memFile gives a file with holes where data has whole pages of zeros.
func memFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("content", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "content")
	if err := f.Truncate(int64(len(data))); err != nil {
		return nil, err
	}
	const page = 4096
	zero := string(make([]byte, page))
	for off := 0; off < len(data); off += page {
		part := data[off:min(off+page, len(data))]
		if string(part) == zero[:len(part)] {
			continue
		}
		if _, err := f.WriteAt(part, int64(off)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Bind implements channel.Presto.
func (p *Presto) Bind(_ context.Context, fileset string, list []channel.Binding) ([]bool, error) {
	if err := p.check(fileset); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	held := make([]bool, len(list))
	for i, b := range list {
		o := p.tree[b.Object]
		kept, captured := p.captured[b.CloseSeq]
		switch {
		case captured && kept == b.Token:
		case o == nil, o.dirty, p.unbound[b.Object] != b.CloseSeq, tokenOf(b.Object, o) != b.Token:
			continue
		}
		p.log(kml.Record{Op: kml.OpManifest, Object: b.Object, CloseSeq: b.CloseSeq, Content: b.Content, After: kml.Version{Size: b.Token.Size}})
		held[i] = true
	}
	return held, nil
}

// Barrier implements channel.Presto.
func (p *Presto) Barrier(_ context.Context, fileset string) (kml.Pos, error) {
	if err := p.check(fileset); err != nil {
		return kml.Pos{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, o := range p.tree {
		if o.dirty {
			p.logClose(id)
		}
	}
	return p.kml.End(), nil
}

// Path implements channel.Presto.
func (p *Presto) Path(_ context.Context, fileset string, id kml.ObjectID) (string, error) {
	if err := p.check(fileset); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	path := ""
	for id != kml.RootID {
		o := p.tree[id]
		if o == nil {
			return "", nil
		}
		for n := range o.names {
			path, id = "/"+n.Name+path, n.Parent
			break
		}
	}
	return path, nil
}

// Control implements channel.Backend. It knows no verb.
func (p *Presto) Control(_ context.Context, verb string, _ json.RawMessage, _ []*os.File) (json.RawMessage, error) {
	return nil, &channel.Error{Code: channel.ErrInvalid, Text: "no verb " + verb}
}

func hashOf(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:8]
}

var errNoContent = errors.New("content is not staged")
