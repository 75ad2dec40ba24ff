package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/channel/channeltest"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/ship"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

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

// rig is a Server behind real sockets on both sides.
type rig struct {
	t      *testing.T
	presto *channeltest.Presto
	server *Server
	key    config.Key
	grants *grants
	addr   string
	saved  chan kml.UUID
	stop   func()
}

func newRig(t *testing.T, p *channeltest.Presto) *rig {
	t.Helper()
	r := &rig{t: t, presto: p, grants: &grants{m: make(map[config.Fingerprint]config.Replicator)}, saved: make(chan kml.UUID, 1)}
	log := slog.New(slog.DiscardHandler)
	r.key = newKey(t)
	path, _ := channeltest.Socket(t, p)
	r.server = New(Options{Fileset: "shared", Name: "server", Log: log,
		SaveUUID: func(u kml.UUID) error { r.saved <- u; return nil },
		Presto: func(ctx context.Context) (ship.Link, error) {
			c, err := channel.Dial(ctx, path)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Granted: func(fp config.Fingerprint) bool { _, ok := r.grants.Grant("shared", fp); return ok },
	})
	host := wire.NewHost(wire.HostOptions{Key: r.key, Grants: r.grants, Log: log})
	host.Mount("shared", r.server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { host.Serve(ctx, l) })
	wg.Go(func() { r.server.Run(ctx) })
	r.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(r.stop)
	if err := p.Wait(t.Context(), func(s channel.Fileset) bool { return s.Role == channel.RoleServer }); err != nil {
		t.Fatal(err)
	}
	for r.server.Err() != nil { // attached, and not yet ready for a moment
		<-time.After(time.Millisecond)
	}
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

// peer is a pusher that keeps no rules unless it wants to.
type peer struct {
	*wire.Client
	r     *rig
	cache kml.UUID
	key   config.Key
	last  uint64
	base  kml.Pos
	after kml.Pos
}

func (r *rig) peer(n byte, host byte) *peer {
	r.t.Helper()
	p := &peer{r: r, cache: kml.UUID{0xbb, n}, key: newKey(r.t)}
	r.grants.mu.Lock()
	r.grants.m[p.key.Fingerprint()] = config.Replicator{Name: fmt.Sprint("peer", n), UUID: kml.UUID{host}, Fingerprint: p.key.Fingerprint(), Rights: config.ReadWrite}
	r.grants.mu.Unlock()
	p.connect()
	return p
}

func (p *peer) connect() {
	p.Client = wire.NewClient(wire.ClientOptions{Key: p.key, Fileset: "shared", Cache: p.cache,
		Server: config.Server{Name: "server", Addresses: []string{p.r.addr}, Fingerprint: p.r.key.Fingerprint()}})
	p.r.t.Cleanup(p.Client.Close)
}

// group makes a group that follows, of records that get its numbers.
func (p *peer) group(recs ...kml.Record) kml.Group {
	g := kml.Group{Origin: p.cache, OriginEpoch: 1, First: p.last + 1, Records: recs}
	for i := range g.Records {
		p.last++
		g.Records[i].Seq = p.last
	}
	g.Last = p.last
	g.Chain = kml.Chain{byte(p.last), 7}
	return g
}

func (p *peer) id(n uint64) kml.ObjectID {
	return kml.ObjectID{Space: p.cache, Ino: n, Gen: 1, Birth: int64(n)}
}

func (p *peer) create(n uint64, name string) kml.Record {
	return kml.Record{Op: kml.OpCreate, Object: p.id(n), Where: kml.Name{Parent: kml.RootID, Name: name}, Attr: kml.Attr{Mode: 0o100644}}
}

func (p *peer) close(n uint64, data []byte) kml.Record {
	return kml.Record{Op: kml.OpClose, Object: p.id(n), After: kml.Version{Size: int64(len(data))}, Attr: kml.Attr{Mode: 0o100644},
		Content: kml.Content{Root: content.SumBytes(data)}}
}

func encode(t *testing.T, b []byte, groups ...kml.Group) []byte {
	t.Helper()
	for i := range groups {
		body, err := groups[i].AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		b = wire.AppendGroup(b, kml.Pos{}, body)
	}
	return b
}

func body(b []byte, id wire.ContentID, data []byte) []byte {
	return wire.AppendEnd(wire.AppendExtent(b, id, 0, data), id, int64(len(data)))
}

func (p *peer) push(frames []byte) (wire.PushResult, error) {
	return p.Push(p.r.t.Context(), wire.PushHead{Base: p.base, After: p.after}, frames)
}

func end(g kml.Group) kml.Pos { return kml.Pos{Epoch: g.OriginEpoch, Seq: g.Last, Chain: g.Chain} }

func TestServer_MakesAndSavesUUID(t *testing.T) {
	p := channeltest.New(t, "shared", 1)
	r := newRig(t, p)
	if u := <-r.saved; u.IsZero() || u != p.State().UUID || u != r.server.UUID() {
		t.Errorf("saved %v, cache has %v", u, p.State().UUID)
	}
	// From then on the cache's own counts.
	r.stop()
	q := newRig(t, p)
	if u := <-q.saved; u != r.server.UUID() {
		t.Errorf("%v became %v", r.server.UUID(), u)
	}
}

func TestPush_ExactlyOnce(t *testing.T) {
	r := newRig(t, channeltest.New(t, "shared", 1))
	p := r.peer(2, 2)
	data := []byte("some content")
	g1, g2 := p.group(p.create(10, "a")), p.group(p.close(10, data))
	id := wire.ContentID{Origin: p.cache, Seq: g2.First}
	frames := body(encode(t, nil, g1, g2), id, data)
	for range 3 { // the answer is lost twice
		res, err := p.push(frames)
		if err != nil || res.Accepted != 2 || kml.Pos(res.Yours) != end(g2) || res.End.Seq != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	if got, err := r.presto.Read("a"); err != nil || string(got) != string(data) {
		t.Errorf("%q, %v", got, err)
	}
	if r.presto.State().Order.Seq != 2 {
		t.Errorf("the order has %v", r.presto.State().Order)
	}
	// A part that is known and a part that is not.
	g3 := p.group(p.create(11, "b"))
	res, err := p.push(append(frames, encode(t, nil, g3)...))
	if err != nil || res.Accepted != 3 || res.End.Seq != 3 {
		t.Errorf("%+v, %v", res, err)
	}
	// After a restart of the daemon too.
	r2 := newRig(t, r.presto)
	r2.grants = r.grants
	st, err := r2.server.Status(t.Context(), wire.Peer{Cache: p.cache})
	if err != nil || st.Yours == nil || kml.Pos(*st.Yours) != end(g3) {
		t.Errorf("after a restart: %+v, %v", st, err)
	}
}

func TestPush_Refusals(t *testing.T) {
	data := []byte("the right content")
	for name, c := range map[string]struct {
		frames func(p *peer) []byte
		want   wire.Code
	}{
		"another origin": {func(p *peer) []byte {
			g := p.group(p.create(1, "a"))
			g.Origin = kml.UUID{1, 2, 3}
			return encode(t, nil, g)
		}, wire.CodeRefused},
		"the server's own origin": {func(p *peer) []byte {
			g := p.group(p.create(1, "a"))
			g.Origin = p.r.presto.Cache()
			return encode(t, nil, g)
		}, wire.CodeRefused},
		"the control folder": {func(p *peer) []byte { return encode(t, nil, p.group(p.create(1, ".intermezzo"))) }, wire.CodeRefused},
		"no content": {func(p *peer) []byte {
			return encode(t, nil, p.group(p.create(1, "a")), p.group(p.close(1, data)))
		}, wire.CodeNotWhole},
		"unbound": {func(p *peer) []byte {
			r := p.close(1, data)
			r.Content = kml.Content{}
			return encode(t, nil, p.group(p.create(1, "a")), p.group(r))
		}, wire.CodeNotWhole},
		"wrong content": {func(p *peer) []byte {
			g := p.group(p.create(1, "a"), p.close(1, data))
			return body(encode(t, nil, g), wire.ContentID{Origin: p.cache, Seq: g.Last}, []byte("the wrong content"))
		}, wire.CodeMismatch},
		"content of nothing": {func(p *peer) []byte {
			return body(encode(t, nil, p.group(p.create(1, "a"))), wire.ContentID{Origin: p.cache, Seq: 1}, data)
		}, wire.CodeInvalid},
		"content before its group": {func(p *peer) []byte {
			g := p.group(p.create(1, "a"), p.close(1, data))
			return encode(t, body(nil, wire.ContentID{Origin: p.cache, Seq: g.Last}, data), g)
		}, wire.CodeInvalid},
		"content that does not end": {func(p *peer) []byte {
			g := p.group(p.create(1, "a"), p.close(1, data))
			return wire.AppendExtent(encode(t, nil, g), wire.ContentID{Origin: p.cache, Seq: g.Last}, 0, data)
		}, wire.CodeInvalid},
		"content beyond its size": {func(p *peer) []byte {
			g := p.group(p.create(1, "a"), p.close(1, data))
			return wire.AppendExtent(encode(t, nil, g), wire.ContentID{Origin: p.cache, Seq: g.Last}, 1<<40, data)
		}, wire.CodeInvalid},
		"a large content inline": {func(p *peer) []byte {
			r := p.close(1, data)
			r.After.Size = 2 << 20
			g := p.group(p.create(1, "a"), r)
			return wire.AppendExtent(encode(t, nil, g), wire.ContentID{Origin: p.cache, Seq: g.Last}, 0, data)
		}, wire.CodeTooLarge},
		"a gap": {func(p *peer) []byte {
			p.last++
			return encode(t, nil, p.group(p.create(1, "a")))
		}, wire.CodeBehind},
		"not a group":     {func(p *peer) []byte { return wire.AppendGroup(nil, kml.Pos{}, []byte("garbage")) }, wire.CodeInvalid},
		"a heartbeat":     {func(p *peer) []byte { return wire.AppendHeartbeat(nil, kml.Pos{}) }, wire.CodeInvalid},
		"not even frames": {func(p *peer) []byte { return []byte("GET / HTTP/1.1\r\n\r\n") }, wire.CodeInvalid},
		"too many": {func(p *peer) []byte {
			var b []byte
			for i := range wire.MaxPushGroups + 1 {
				b = encode(t, b, p.group(p.create(uint64(i+1), fmt.Sprint(i))))
			}
			return b
		}, wire.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, channeltest.New(t, "shared", 1))
			p := r.peer(2, 2)
			_, err := p.push(c.frames(p))
			if wire.CodeOf(err) != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
			if s := r.presto.State(); s.Order.Seq != 0 || len(r.presto.Tree()) != 1 {
				t.Errorf("something was taken: %+v", s)
			}
		})
	}
}

func TestPush_ForkedPositions(t *testing.T) {
	r := newRig(t, channeltest.New(t, "shared", 1))
	p := r.peer(2, 2)
	g := p.group(p.create(1, "a"))
	if _, err := p.push(encode(t, nil, g)); err != nil {
		t.Fatal(err)
	}
	next := encode(t, nil, p.group(p.create(2, "b")))
	p.base = kml.Pos{Epoch: 1, Seq: 1, Chain: kml.Chain{1}}
	p.after = end(g)
	if _, err := p.push(next); wire.CodeOf(err) != wire.CodeForked {
		t.Errorf("another base: %v", err)
	}
	p.base = kml.Pos{}
	p.after.Chain[0]++
	if _, err := p.push(next); wire.CodeOf(err) != wire.CodeForked {
		t.Errorf("another history of its own: %v", err)
	}
	p.after.Seq = 100
	if _, err := p.push(next); wire.CodeOf(err) != wire.CodeForked {
		t.Errorf("the server lost what it confirmed: %v", err)
	}
	p.after = kml.Pos{}
	g.Chain[3]++
	if _, err := p.push(encode(t, nil, g)); wire.CodeOf(err) != wire.CodeForked {
		t.Errorf("the same numbers, other changes: %v", err)
	}
	p.last = 0
	both := p.group(p.create(1, "a"), p.create(2, "b"))
	e, ok := errors.AsType[*wire.Error](func() error { _, err := p.push(encode(t, nil, both)); return err }())
	if !ok || e.Code != wire.CodeBehind || e.Yours == nil || e.Yours.Seq != 1 {
		t.Errorf("a group across the end of what is known: %+v", e)
	}
}

func TestPush_CacheBelongsToAKey(t *testing.T) {
	r := newRig(t, channeltest.New(t, "shared", 1))
	owner := r.peer(2, 2)
	if _, err := owner.push(encode(t, nil, owner.group(owner.create(1, "a")))); err != nil {
		t.Fatal(err)
	}
	thief := r.peer(3, 3)
	thief.cache, thief.last, thief.after = owner.cache, owner.last, kml.Pos{Epoch: 1, Seq: 1, Chain: kml.Chain{1, 7}}
	thief.connect()
	frames := encode(t, nil, thief.group(thief.create(2, "b")))
	if _, err := thief.push(frames); wire.CodeOf(err) != wire.CodeOrigin {
		t.Errorf("another host: %v", err)
	}
	if _, err := thief.Staged(t.Context(), wire.ContentRequest{ID: wire.ContentID{Origin: owner.cache, Seq: 9}}); wire.CodeOf(err) != wire.CodeOrigin {
		t.Errorf("another host, staging: %v", err)
	}
	own := r.peer(4, 4)
	own.cache = r.presto.Cache()
	own.connect()
	if _, err := own.push(frames); wire.CodeOf(err) != wire.CodeOrigin {
		t.Errorf("the server's cache: %v", err)
	}
	same := r.peer(5, 2) // the same host with a new key
	same.cache, same.last, same.after = owner.cache, owner.last, thief.after
	same.connect()
	if res, err := same.push(encode(t, nil, same.group(same.create(2, "b")))); err != nil || res.Accepted != 1 {
		t.Errorf("the same host: %+v, %v", res, err)
	}
	// The binding survives the daemon, and goes with the grant.
	r2 := newRig(t, r.presto)
	r2.grants.m = r.grants.m
	thief.r = r2
	thief.connect()
	if _, err := thief.push(frames); wire.CodeOf(err) != wire.CodeOrigin {
		t.Errorf("another host, after a restart: %v", err)
	}
	r2.grants.mu.Lock()
	delete(r2.grants.m, same.key.Fingerprint())
	r2.grants.mu.Unlock()
	if _, err := thief.push(frames); wire.CodeOf(err) == wire.CodeOrigin {
		t.Errorf("the grant of the owner is gone: %v", err)
	}
}

func TestPush_OverlapAndRefused(t *testing.T) {
	p1 := channeltest.New(t, "shared", 1)
	r := newRig(t, p1)
	p := r.peer(2, 2)
	p1.Write("taken", []byte("x"))
	g1, g2, g3 := p.group(p.create(1, "free")), p.group(p.create(2, "taken")), p.group(p.create(3, "never"))
	res, err := p.push(encode(t, nil, g1, g2, g3))
	if err != nil || res.Accepted != 1 || res.OverlapAt != 1 || kml.Pos(res.Yours) != end(g1) {
		t.Errorf("%+v, %v", res, err)
	}
	// On top of that it is no overlap any more, but impossible.
	p.base, p.after = p1.State().Order, end(g1)
	res, err = p.push(encode(t, nil, g2, g3))
	if err != nil || res.Accepted != 0 || res.Refused == "" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestUpload_ResumedAndVerified(t *testing.T) {
	r := newRig(t, channeltest.New(t, "shared", 1))
	p := r.peer(2, 2)
	data := slices.Repeat([]byte("0123456789abcdef"), 200<<10/4) // 800 KiB and more than is kept in memory
	g := p.group(p.create(1, "a"), p.close(1, data))
	req := wire.ContentRequest{ID: wire.ContentID{Origin: p.cache, Seq: g.Last}, Object: p.id(1), Root: content.SumBytes(data), Size: int64(len(data))}
	half := len(data) / 2
	if _, err := p.Upload(t.Context(), req, func(w io.Writer) error {
		if _, err := w.Write(wire.AppendExtent(nil, req.ID, 0, data[:half])); err != nil {
			return err
		}
		return errors.New("broken off")
	}); err == nil {
		t.Fatal("broken off, and no error")
	}
	st, err := p.Staged(t.Context(), req)
	for err == nil && st.Have == 0 { // the server notices in its own time
		st, err = p.Staged(t.Context(), req)
	}
	if err != nil || st.Complete || st.Have == 0 || st.Have > int64(half) {
		t.Fatalf("%+v, %v", st, err)
	}
	req.Offset = st.Have
	if st, err = p.Upload(t.Context(), req, func(w io.Writer) error {
		_, err := w.Write(wire.AppendEnd(wire.AppendExtent(nil, req.ID, req.Offset, data[req.Offset:]), req.ID, req.Size))
		return err
	}); err != nil || !st.Complete {
		t.Fatalf("%+v, %v", st, err)
	}
	if res, err := p.push(encode(t, nil, g)); err != nil || res.Accepted != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	if _, err := p.Staged(t.Context(), req); wire.CodeOf(err) != wire.CodeBehind {
		t.Errorf("staging what is in the order: %v", err)
	}
	// Others get it by ranges, verified, until it is replaced.
	req.Offset = int64(half)
	s, err := p.Content(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := make([]byte, 0, len(data))
	for {
		f, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == wire.FrameEnd {
			break
		}
		if _, off, part, err := f.Extent(); f.Type == wire.FrameExtent && err == nil {
			if off != int64(half+len(got)) {
				t.Fatalf("%d bytes at %d", len(part), off)
			}
			got = append(got, part...)
		}
	}
	if string(got) != string(data[half:]) {
		t.Error("the range is not what it should be")
	}
	r.presto.Write("a", []byte("replaced"))
	if _, err := p.Content(t.Context(), req); wire.CodeOf(err) != wire.CodeGone {
		t.Errorf("replaced: %v", err)
	}
}

func TestUpload_Refusals(t *testing.T) {
	r := newRig(t, channeltest.New(t, "shared", 1))
	p := r.peer(2, 2)
	data := make([]byte, 1<<20)
	req := wire.ContentRequest{ID: wire.ContentID{Origin: p.cache, Seq: 5}, Root: content.SumBytes([]byte("other")), Size: int64(len(data))}
	all := func(w io.Writer) error {
		_, err := w.Write(wire.AppendEnd(wire.AppendExtent(nil, req.ID, req.Offset, data), req.ID, req.Size))
		return err
	}
	if _, err := p.Upload(t.Context(), req, all); wire.CodeOf(err) != wire.CodeMismatch {
		t.Errorf("other bytes: %v", err)
	}
	if left := r.presto.StageNames(); slices.ContainsFunc(left, func(n string) bool { return strings.Contains(n, p.cache.String()) }) {
		t.Errorf("bytes that are wrong were kept: %v", left)
	}
	at := req
	at.Offset = 1 << 19
	if e, ok := errors.AsType[*wire.Error](func() error { _, err := p.Upload(t.Context(), at, all); return err }()); !ok || e.Code != wire.CodeOffset || e.Have != 0 {
		t.Errorf("from the middle: %+v", e)
	}
	other := req
	other.ID.Origin = kml.UUID{1}
	if _, err := p.Upload(t.Context(), other, all); wire.CodeOf(err) != wire.CodeOrigin {
		t.Errorf("for another cache: %v", err)
	}
}

func TestFollow_ForkedAndOwnContents(t *testing.T) {
	p1 := channeltest.New(t, "shared", 1)
	r := newRig(t, p1)
	p, q := r.peer(2, 2), r.peer(3, 3)
	data := []byte("content")
	g := p.group(p.create(1, "a"), p.close(1, data))
	if _, err := p.push(body(encode(t, nil, g), wire.ContentID{Origin: p.cache, Seq: g.Last}, data)); err != nil {
		t.Fatal(err)
	}
	for _, pos := range []kml.Pos{{Epoch: 1, Seq: 1}, {Epoch: 1, Seq: 5}, {Epoch: 9, Seq: 1, Chain: p1.State().Order.Chain}} {
		_, err := p.Follow(t.Context(), pos)
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeForked || e.End == nil || e.End.Seq != 1 {
			t.Errorf("follow from %v: %v", pos, err)
		}
	}
	for who, c := range map[string]struct {
		p     *peer
		types []wire.FrameType
	}{
		"the pusher": {p, []wire.FrameType{wire.FrameHeartbeat, wire.FrameGroup, wire.FrameGroup}},
		"another":    {q, []wire.FrameType{wire.FrameHeartbeat, wire.FrameGroup, wire.FrameExtent, wire.FrameEnd, wire.FrameGroup}},
	} {
		s, err := c.p.Follow(t.Context(), kml.Pos{})
		if err != nil {
			t.Fatal(err)
		}
		p1.Chmod("a", 0o600)
		for _, want := range c.types {
			f, err := s.Next()
			if err != nil || f.Type != want {
				t.Fatalf("%s: %v, %v, want %v", who, f.Type, err, want)
			}
		}
		s.Close()
	}
}

func TestServer_PrestoGone(t *testing.T) {
	p1 := channeltest.New(t, "shared", 1)
	r := newRig(t, p1)
	p := r.peer(2, 2)
	s, err := p.Follow(t.Context(), kml.Pos{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f, err := s.Next(); err != nil || f.Type != wire.FrameHeartbeat {
		t.Fatalf("%v %v", f.Type, err)
	}
	// The connection to presto breaks: who follows is told, and comes back.
	c, err := r.server.current()
	if err != nil {
		t.Fatal(err)
	}
	c.port.Link.Close()
	if _, err := s.Next(); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("the stream ends with %v", err)
	}
	for range 10000 {
		if _, err = p.Status(t.Context()); err == nil {
			break
		}
		if wire.CodeOf(err) != wire.CodeUnavailable {
			break
		}
		<-time.After(time.Millisecond)
	}
	if err != nil {
		t.Errorf("it does not come back: %v", err)
	}
}
