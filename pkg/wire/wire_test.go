package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// grants is a Grants for tests: fileset and key to rights.
type grants struct {
	mu sync.Mutex
	m  map[string]config.Replicator
}

func (g *grants) Grant(fileset string, fp config.Fingerprint) (config.Replicator, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.m[fileset+fp.String()]
	return r, ok
}

func (g *grants) set(fileset string, fp config.Fingerprint, rights config.Rights) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		g.m = make(map[string]config.Replicator)
	}
	g.m[fileset+fp.String()] = config.Replicator{Name: "peer", Fingerprint: fp, Rights: rights}
}

// fakeBackend answers in a way that shows what arrived.
type fakeBackend struct {
	uuid   kml.UUID
	follow func(ctx context.Context, peer Peer, from kml.Pos, w FrameWriter) error
	upload func(req ContentRequest, r *Reader) (StagedResult, error)
	peers  chan Peer
}

func (b *fakeBackend) UUID() kml.UUID { return b.uuid }

func (b *fakeBackend) Status(_ context.Context, peer Peer) (Status, error) {
	if b.peers != nil {
		b.peers <- peer
	}
	return Status{Fileset: "shared", UUID: b.uuid.String(), Rights: peer.Rights, End: Pos(testPos)}, nil
}

func (b *fakeBackend) Follow(ctx context.Context, peer Peer, from kml.Pos, w FrameWriter) error {
	return b.follow(ctx, peer, from, w)
}

func (b *fakeBackend) Push(_ context.Context, _ Peer, head PushHead, r *Reader) (PushResult, error) {
	n := 0
	for {
		f, err := r.Next()
		if err == io.EOF {
			return PushResult{Accepted: n, End: Pos(head.Base), Yours: Pos(head.After)}, nil
		}
		if err != nil {
			return PushResult{}, err
		}
		if _, body, err := f.Group(); err != nil || string(body) != "group" {
			return PushResult{}, fmt.Errorf("frame %v: %w", f.Type, err)
		}
		n++
	}
}

func (b *fakeBackend) Content(_ context.Context, _ Peer, req ContentRequest, w FrameWriter) error {
	if req.Root[0] == 0 {
		return Errorf(CodeGone, "content %v is gone", req.ID)
	}
	_, err := w.Write(AppendEnd(AppendExtent(nil, req.ID, req.Offset, []byte(formatObject(req.Object))), req.ID, req.Size))
	return err
}

func (b *fakeBackend) Staged(_ context.Context, _ Peer, req ContentRequest) (StagedResult, error) {
	return StagedResult{Have: req.Size / 2}, nil
}

func (b *fakeBackend) Upload(_ context.Context, _ Peer, req ContentRequest, r *Reader) (StagedResult, error) {
	return b.upload(req, r)
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type rig struct {
	host    *Host
	backend *fakeBackend
	grants  *grants
	log     *logBuffer
	address string
	server  config.Server
}

func newKey(t *testing.T) config.Key {
	t.Helper()
	k, err := config.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newRig(t *testing.T, opts HostOptions) *rig {
	t.Helper()
	r := &rig{backend: &fakeBackend{uuid: kml.UUID{9}}, grants: &grants{}, log: &logBuffer{}}
	if opts.Key.IsZero() {
		opts.Key = newKey(t)
	}
	if opts.Grants == nil {
		opts.Grants = r.grants
	}
	opts.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.host = NewHost(opts)
	r.host.Mount("shared", r.backend)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	r.server = config.Server{Name: "server", Addresses: []string{r.address}, Fingerprint: opts.Key.Fingerprint()}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.host.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return r
}

// client returns a client whose key has these rights; "" is none.
func (r *rig) client(t *testing.T, rights config.Rights) *Client {
	t.Helper()
	key := newKey(t)
	if rights != "" {
		r.grants.set("shared", key.Fingerprint(), rights)
	}
	c := NewClient(ClientOptions{Server: r.server, Key: key, Fileset: "shared", Cache: kml.UUID{7}})
	t.Cleanup(c.Close)
	return c
}

func TestStatus_Granted(t *testing.T) {
	r := newRig(t, HostOptions{})
	r.backend.peers = make(chan Peer, 1)
	c := r.client(t, config.ReadOnly)
	c.SetFileset(r.backend.uuid)
	st, err := c.Status(t.Context())
	if err != nil || st.UUID != r.backend.uuid.String() || kml.Pos(st.End) != testPos || st.Rights != config.ReadOnly {
		t.Fatalf("%+v, %v", st, err)
	}
	if p := <-r.backend.peers; p.Name != "peer" || p.Cache != (kml.UUID{7}) {
		t.Errorf("the server saw %+v", p)
	}
	if c.Counter().In() < 500 || c.Counter().Out() < 500 || r.host.Counter().In() < 500 {
		t.Errorf("bytes: client %d in, %d out, server %d in", c.Counter().In(), c.Counter().Out(), r.host.Counter().In())
	}
	c.SetFileset(kml.UUID{1})
	if _, err := c.Status(t.Context()); CodeOf(err) != CodeWrongFileset {
		t.Errorf("another fileset of the same name: %v", err)
	}
	r.host.Unmount("shared")
	if _, err := c.Status(t.Context()); CodeOf(err) != CodeUnavailable {
		t.Errorf("not mounted: %v", err)
	}
}

// raw makes a request without the help of Client.
func raw(t *testing.T, r *rig, key config.Key, method, path string, body io.Reader) (int, string) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: config.ClientTLS(key, r.server.Fingerprint), ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+r.address+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(text)
}

func TestStranger_LearnsNothing(t *testing.T) {
	r := newRig(t, HostOptions{})
	key := newKey(t)
	var first string
	for _, q := range []struct{ method, path string }{
		{"GET", "/v1/filesets/shared"}, {"GET", "/v1/filesets/other"}, {"GET", "/v1/filesets/"}, {"GET", "/"},
		{"GET", "/v1/filesets/shared/follow?position=0/0/" + strings.Repeat("0", 32)}, {"POST", "/v1/filesets/shared/push"},
		{"PUT", "/v1/filesets/shared/content/x/1"}, {"DELETE", "/v1/filesets/shared"}, {"POST", "/v1/join"}, {"GET", "/v1/join"},
		{"GET", "/v1/filesets/shared%2f..%2f"}, {"GET", "/../../etc/passwd"},
	} {
		code, text := raw(t, r, key, q.method, q.path, strings.NewReader("{}"))
		if code != http.StatusForbidden {
			t.Errorf("%s %s: %d %s", q.method, q.path, code, text)
		}
		if first == "" {
			first = text
		}
		if text != first {
			t.Errorf("%s %s says something of its own: %s", q.method, q.path, text)
		}
	}
	log := r.log.String()
	if !strings.Contains(log, key.Fingerprint().String()) || !strings.Contains(log, "127.0.0.1") {
		t.Errorf("the log does not say who tried: %s", log)
	}
	c := r.client(t, "")
	if _, err := c.Status(t.Context()); CodeOf(err) != CodeForbidden || !strings.Contains(err.Error(), "invitation") {
		t.Errorf("client without a grant: %v", err)
	}
}

func TestStranger_NoKeyNoAnswer(t *testing.T) {
	r := newRig(t, HostOptions{})
	for name, conf := range map[string]*tls.Config{
		"no certificate": {InsecureSkipVerify: true, NextProtos: []string{"h2"}},
		"TLS 1.2":        {InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12},
	} {
		conn, err := tls.Dial("tcp", r.address, conf)
		if err == nil {
			// With TLS 1.3 the refusal comes with the first read.
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClient_WrongServer(t *testing.T) {
	r := newRig(t, HostOptions{})
	key := newKey(t)
	r.grants.set("shared", key.Fingerprint(), config.ReadWrite)
	// The first address is nobody's, the second somebody else's, the third right.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	other := newRig(t, HostOptions{})
	s := config.Server{Name: "server", Addresses: []string{nobody, other.address}, Fingerprint: r.server.Fingerprint}
	c := NewClient(ClientOptions{Server: s, Key: key, Fileset: "shared"})
	defer c.Close()
	_, err = c.Status(t.Context())
	if !errors.Is(err, config.ErrWrongKey) || !strings.Contains(err.Error(), nobody) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("no right server: %v", err)
	}
	s.Addresses = append(s.Addresses, r.address)
	c2 := NewClient(ClientOptions{Server: s, Key: key, Fileset: "shared"})
	defer c2.Close()
	if _, err := c2.Status(t.Context()); err != nil {
		t.Errorf("the third address is right: %v", err)
	}
}

func TestFollow_StreamsAndEndsWithGrant(t *testing.T) {
	r := newRig(t, HostOptions{})
	followed := make(chan kml.Pos, 1)
	r.backend.follow = func(ctx context.Context, _ Peer, from kml.Pos, w FrameWriter) error {
		followed <- from
		if from.Seq == 0 {
			return Errorf(CodeForked, "you are from elsewhere")
		}
		if _, err := w.Write(AppendGroup(nil, testPos, []byte("group"))); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if from.Seq == 1 {
			return Errorf(CodeUnavailable, "going down")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	c := r.client(t, config.ReadOnly)
	if _, err := c.Follow(t.Context(), kml.Pos{}); CodeOf(err) != CodeForked || <-followed != (kml.Pos{}) {
		t.Errorf("refused before the first frame: %v", err)
	}
	s, err := c.Follow(t.Context(), kml.Pos{Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	<-followed
	if f, err := s.Next(); err != nil || f.Type != FrameGroup {
		t.Errorf("first frame: %v %v", f.Type, err)
	}
	if _, err := s.Next(); CodeOf(err) != CodeUnavailable {
		t.Errorf("the error at the end: %v", err)
	}
	s.Close()

	ctx, cancel := context.WithCancel(t.Context())
	s, err = c.Follow(ctx, kml.Pos{Seq: 2})
	if err != nil {
		t.Fatal(err)
	}
	<-followed
	if f, err := s.Next(); err != nil || f.Type != FrameGroup {
		t.Errorf("first frame: %v %v", f.Type, err)
	}
	if p := r.host.Peers(); len(p) != 1 || p[0].Name != "peer" {
		t.Errorf("peers: %+v", p)
	}
	cancel()
	if _, err := s.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
	s.Close()
}

func TestPush_PackedAndLimits(t *testing.T) {
	r := newRig(t, HostOptions{})
	c := r.client(t, config.ReadWrite)
	var frames []byte
	for range 1000 {
		frames = AppendGroup(frames, kml.Pos{}, []byte("group"))
	}
	head := PushHead{Base: testPos, After: kml.Pos{Epoch: 1, Seq: 4}}
	res, err := c.Push(t.Context(), head, frames)
	if err != nil || res.Accepted != 1000 || kml.Pos(res.End) != head.Base || kml.Pos(res.Yours) != head.After {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err = c.Push(t.Context(), head, c.pack.AppendPacked(nil, frames)); err != nil || res.Accepted != 1000 {
		t.Errorf("packed: %+v, %v", res, err)
	}
	if _, err := c.Push(t.Context(), head, []byte{99, 0, 0, 0, 1, 0, 0, 0, 0}); CodeOf(err) != CodeInvalid {
		t.Errorf("garbage: %v", err)
	}
	if _, err := r.client(t, config.ReadOnly).Push(t.Context(), head, frames); CodeOf(err) != CodeReadOnly {
		t.Errorf("read-only: %v", err)
	}
	key := newKey(t)
	r.grants.set("shared", key.Fingerprint(), config.ReadWrite)
	if code, text := raw(t, r, key, "POST", "/v1/filesets/shared/push", nil); code != http.StatusBadRequest {
		t.Errorf("without a cache: %d %s", code, text)
	}
}

func TestContent_BothWays(t *testing.T) {
	r := newRig(t, HostOptions{})
	c := r.client(t, config.ReadWrite)
	req := ContentRequest{ID: testID, Object: kml.ObjectID{Space: kml.UUID{3}, Ino: 4}, Root: [32]byte{1}, Size: 100, Offset: 10}
	s, err := c.Content(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	if id, off, data, err := f.Extent(); err != nil || id != testID || off != 10 || string(data) != formatObject(req.Object) {
		t.Errorf("%v %d %q %v", id, off, data, err)
	}
	s.Close()
	req.Root = [32]byte{}
	if _, err := c.Content(t.Context(), req); CodeOf(err) != CodeGone {
		t.Errorf("gone: %v", err)
	}
	if st, err := c.Staged(t.Context(), req); err != nil || st.Have != 50 {
		t.Errorf("staged: %+v, %v", st, err)
	}

	total := 0
	r.backend.upload = func(req ContentRequest, rd *Reader) (StagedResult, error) {
		for {
			f, err := rd.Next()
			if err != nil {
				return StagedResult{}, err
			}
			if f.Type == FrameEnd {
				return StagedResult{Have: req.Offset, Complete: true}, nil
			}
			total += len(f.Payload)
		}
	}
	st, err := c.Upload(t.Context(), ContentRequest{ID: testID, Size: 1 << 22, Offset: 1 << 21}, func(w io.Writer) error {
		b := AppendExtent(nil, testID, 0, make([]byte, MaxExtentBytes))
		_, err := w.Write(AppendEnd(append(b, b...), testID, 2<<20))
		return err
	})
	if err != nil || !st.Complete || st.Have != 1<<21 || total != 2*(MaxExtentBytes+contentName+8) {
		t.Errorf("upload: %+v, %v, %d bytes", st, err, total)
	}
	// The server refuses in the middle: the writer is stopped, the reason arrives.
	r.backend.upload = func(_ ContentRequest, rd *Reader) (StagedResult, error) {
		if _, err := rd.Next(); err != nil {
			return StagedResult{}, err
		}
		return StagedResult{}, &Error{Code: CodeOffset, Text: "go on elsewhere", Have: 42}
	}
	_, err = c.Upload(t.Context(), ContentRequest{ID: testID, Size: 1 << 40}, func(w io.Writer) error {
		b := AppendExtent(nil, testID, 0, make([]byte, MaxExtentBytes))
		for {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
	})
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeOffset || e.Have != 42 {
		t.Errorf("refused upload: %v", err)
	}
	boom := errors.New("disk")
	if _, err := c.Upload(t.Context(), req, func(io.Writer) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("upload whose source fails: %v", err)
	}
}

func TestHandler_BadRequests(t *testing.T) {
	r := newRig(t, HostOptions{})
	key := newKey(t)
	r.grants.set("shared", key.Fingerprint(), config.ReadWrite)
	for _, q := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/v1/filesets/shared/follow", 400},
		{"GET", "/v1/filesets/shared/follow?position=1/2/3", 400},
		{"GET", "/v1/filesets/shared/nothing", 400},
		{"DELETE", "/v1/filesets/shared", 400},
		{"GET", "/v1/filesets/shared/content/x/y", 400},
		{"GET", "/v1/filesets/shared/content/" + kml.UUID{1}.String() + "/1?size=-1", 400},
	} {
		if code, text := raw(t, r, key, q.method, q.path, nil); code != q.want || !strings.Contains(text, `"code"`) {
			t.Errorf("%s %s: %d %s", q.method, q.path, code, text)
		}
	}
}

func TestJoin_WholeWay(t *testing.T) {
	dir := config.Dir(t.TempDir())
	if _, err := dir.Edit(func(c *config.Config) error {
		if err := c.Init("server", []string{"127.0.0.1:370"}); err != nil {
			return err
		}
		return c.AddFileset("shared", "server", config.Placement{})
	}); err != nil {
		t.Fatal(err)
	}
	key, err := dir.EnsureKey()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	auth, err := NewAuthority(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, HostOptions{Key: key, Grants: auth, Join: dir.Redeem})
	code, err := dir.Invite("shared", "client", config.ReadWrite, []string{r.address}, 0)
	if err != nil {
		t.Fatal(err)
	}
	inv, err := config.ParseInvitation(code)
	if err != nil {
		t.Fatal(err)
	}
	mine, other := newKey(t), newKey(t)
	sysid := config.Sysid{Name: "laptop", UUID: config.NewUUID()}
	bad := inv
	bad.Secret = make([]byte, len(inv.Secret))
	if _, err := Join(t.Context(), bad, mine, sysid); CodeOf(err) != CodeInvitation {
		t.Errorf("a guessed secret: %v", err)
	}
	for range 2 { // a lost answer may be asked for again
		res, err := Join(t.Context(), inv, mine, sysid)
		if err != nil || res.Fileset != "shared" || res.ServerName != "server" || res.Rights != config.ReadWrite {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	if _, err := Join(t.Context(), inv, other, sysid); CodeOf(err) != CodeInvitation || !strings.Contains(err.Error(), "used") {
		t.Errorf("taken by another host: %v", err)
	}
	c := NewClient(ClientOptions{Server: r.server, Key: mine, Fileset: "shared"})
	defer c.Close()
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("after joining: %v", err)
	}
	// Taken away again: it holds from the next request on.
	if _, err := dir.Edit(func(c *config.Config) error { _, err := c.RemoveReplicator("shared", "client"); return err }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); CodeOf(err) != CodeForbidden {
		t.Errorf("after the grant was taken away: %v", err)
	}
	// A broken file leaves the last good one in force.
	if err := os.WriteFile(dir.Path(config.FsetdbFile), []byte("=broken"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok := auth.Grant("shared", mine.Fingerprint()); ok {
		t.Error("a broken file grants something")
	}
	var refused error
	for range 10 {
		if _, refused = Join(t.Context(), bad, other, sysid); CodeOf(refused) == CodeTooMany {
			break
		}
	}
	if CodeOf(refused) != CodeTooMany {
		t.Errorf("guessing goes on for ever: %v", refused)
	}
}

func TestErrors_EveryCodeHasAStatus(t *testing.T) {
	for _, c := range []Code{CodeForbidden, CodeReadOnly, CodeOrigin, CodeForked, CodeCut, CodeBehind, CodeGone, CodeMismatch, CodeNotWhole,
		CodeRefused, CodeOffset, CodeInvalid, CodeTooLarge, CodeVersion, CodeInvitation, CodeTooMany, CodeUnavailable, CodeWrongFileset, CodeInternal} {
		if _, ok := status[c]; !ok {
			t.Errorf("code %q has no status", c)
		}
	}
}
