package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

const filesetsPath = "/v1/filesets/"

// ServeHTTP implements http.Handler.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fp, err := fingerprint(r)
	if err != nil {
		w.Header().Set("Connection", "close")
		writeError(w, Errorf(CodeForbidden, "no key"))
		return
	}
	w.Header().Set(headerVersion, strconv.Itoa(Version))
	w.Header().Set(headerFeatures, featureZstd)
	if r.URL.Path == joinPath {
		h.join(w, r, fp)
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, filesetsPath)
	name, rest, _ := strings.Cut(rest, "/")
	grant, granted := h.opts.Grants.Grant(name, fp)
	if !ok || !granted {
		h.stranger(w, r, fp)
		return
	}
	q := &request{host: h, w: w, r: r, fileset: name, key: fp, peer: Peer{Replicator: grant, Address: r.RemoteAddr}}
	if err := q.serve(rest); err != nil {
		q.fail(err)
	}
}

// request is one request of a peer that was granted the fileset.
type request struct {
	host    *Host
	w       http.ResponseWriter
	r       *http.Request
	fileset string
	key     config.Fingerprint
	peer    Peer
	out     *frameSink // set when frames are being answered
}

// serve does the request. path is what follows the fileset's name.
func (q *request) serve(path string) error {
	if err := q.readHeaders(); err != nil {
		return err
	}
	q.host.mu.Lock()
	b := q.host.mounted[q.fileset]
	q.host.mu.Unlock()
	if b == nil || b.UUID().IsZero() { // not attached to presto yet
		return Errorf(CodeUnavailable, "fileset %s is not mounted on the server", q.fileset)
	}
	if err := q.checkFileset(b.UUID()); err != nil {
		return err
	}
	verb, rest, _ := strings.Cut(path, "/")
	switch method := q.r.Method; {
	case path == "" && method == http.MethodGet:
		st, err := b.Status(q.r.Context(), q.peer)
		return q.answer(st, err)
	case path == "follow" && method == http.MethodGet:
		return q.follow(b)
	case path == "push" && method == http.MethodPost:
		return q.push(b)
	case verb == "content" && method == http.MethodGet:
		return q.content(b, rest)
	case verb == "content" && method == http.MethodPut:
		return q.upload(b, rest)
	case verb == "staged" && method == http.MethodGet:
		req, err := q.contentRequest(rest)
		if err == nil {
			err = q.mayPush()
		}
		if err != nil {
			return err
		}
		st, err := b.Staged(q.r.Context(), q.peer, req)
		return q.answer(st, err)
	}
	return Errorf(CodeInvalid, "there is no request %s %.100q", q.r.Method, q.r.URL.Path)
}

func (q *request) readHeaders() error {
	if s := q.r.Header.Get(headerVersion); s != "" && s != strconv.Itoa(Version) {
		return Errorf(CodeVersion, "this server speaks version %d of the protocol, the client %.20q: upgrade the older one", Version, s)
	}
	if s := q.r.Header.Get(headerCache); s != "" {
		u, err := kml.ParseUUID(s)
		if err != nil {
			return Errorf(CodeInvalid, "header %s: %v", headerCache, err)
		}
		q.peer.Cache = u
	}
	for f := range strings.SplitSeq(q.r.Header.Get(headerFeatures), ",") {
		if strings.TrimSpace(f) == featureZstd && !isLoopback(q.r.RemoteAddr) {
			q.peer.Pack = true
		}
	}
	return nil
}

// checkFileset compares with what the caller takes the fileset for, if it says.
func (q *request) checkFileset(have kml.UUID) error {
	if s := q.r.Header.Get(headerFileset); s != "" && s != have.String() {
		return Errorf(CodeWrongFileset, "fileset %s has the uuid %v on this server and %.40q on the client: they are two filesets of one name", q.fileset, have, s)
	}
	return nil
}

func (q *request) answer(v any, err error) error {
	if err != nil {
		return err
	}
	return writeJSON(q.w, http.StatusOK, v)
}

// mayPush reports why the peer can't change anything.
func (q *request) mayPush() error {
	if q.peer.Rights != config.ReadWrite {
		return Errorf(CodeReadOnly, "replicator %s may read fileset %s and not change it; on the server: inconfig replicator --help", q.peer.Name, q.fileset)
	}
	if q.peer.Cache.IsZero() {
		return Errorf(CodeInvalid, "header %s is missing", headerCache)
	}
	return nil
}

// fail is for an error: the answer, or the last frame of one that has begun.
func (q *request) fail(err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		if q.r.Context().Err() == nil && !errors.Is(err, errPeerLost) {
			q.host.opts.Log.Error("request", "request", fmt.Sprintf("%s %s", q.r.Method, q.r.URL.Path), "peer", q.peer.Name, "error", err)
		}
		e = Errorf(CodeInternal, "the server met an error of its own; its log says which")
	}
	if q.out != nil && q.out.began {
		// The peer may be gone already: there is nobody else to tell.
		_, _ = q.out.Write(AppendError(nil, e))
		_ = q.out.Flush()
		return
	}
	writeError(q.w, e)
}

func writeError(w http.ResponseWriter, e *Error) {
	_ = writeJSON(w, e.HTTPStatus(), e) // the peer may be gone: there is nobody else to tell
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(append(body, '\n')); err != nil {
		return fmt.Errorf("%w: %v", errPeerLost, err)
	}
	return nil
}

// errPeerLost is for a peer that went away; nobody needs to hear of it.
var errPeerLost = errors.New("peer is gone")

// frameSink is the FrameWriter of an answer.
type frameSink struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	began bool
}

func (q *request) sink() *frameSink {
	q.out = &frameSink{w: q.w, rc: http.NewResponseController(q.w)}
	return q.out
}

func (s *frameSink) Write(p []byte) (int, error) {
	if !s.began {
		s.began = true
		s.w.Header().Set("Content-Type", typeFrames)
	}
	if err := s.rc.SetWriteDeadline(time.Now().Add(stallAfter)); err != nil {
		return 0, fmt.Errorf("%w: %v", errPeerLost, err)
	}
	n, err := s.w.Write(p)
	if err != nil {
		return n, fmt.Errorf("%w: %v", errPeerLost, err)
	}
	return n, nil
}

func (s *frameSink) Flush() error {
	if err := s.rc.Flush(); err != nil {
		return fmt.Errorf("%w: %v", errPeerLost, err)
	}
	return nil
}

// body reads the frames of a request, at most limit bytes and never waiting
// for more of them longer than stallAfter.
func (q *request) body(limit int64) io.Reader {
	return &stallReader{r: http.MaxBytesReader(q.w, q.r.Body, limit), rc: http.NewResponseController(q.w)}
}

type stallReader struct {
	r  io.Reader
	rc *http.ResponseController
}

func (s *stallReader) Read(p []byte) (int, error) {
	if err := s.rc.SetReadDeadline(time.Now().Add(stallAfter)); err != nil {
		return 0, fmt.Errorf("%w: %v", errPeerLost, err)
	}
	n, err := s.r.Read(p)
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return n, Errorf(CodeTooLarge, "the request is larger than %d bytes", e.Limit)
	}
	if err != nil && err != io.EOF {
		return n, fmt.Errorf("%w: %v", errPeerLost, err)
	}
	return n, err
}

// watched returns a context that ends when the grant does.
func (q *request) watched() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(q.r.Context())
	go func() {
		tick := time.NewTicker(Heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now, ok := q.host.opts.Grants.Grant(q.fileset, q.key); !ok || now.Rights != q.peer.Rights {
				q.host.opts.Log.Info("connection cut: the grant was changed", "fileset", q.fileset, "peer", q.peer.Name)
				cancel(Errorf(CodeForbidden, "your key was not granted this"))
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

func (q *request) follow(b Backend) error {
	from, err := ParsePos(q.r.URL.Query().Get("position"))
	if err != nil {
		return Errorf(CodeInvalid, "%v", err)
	}
	ctx, cancel := q.watched()
	defer cancel()
	info := &PeerInfo{Fileset: q.fileset, Name: q.peer.Name, Address: q.peer.Address, Since: time.Now()}
	q.host.mu.Lock()
	q.host.peers[info] = struct{}{}
	q.host.mu.Unlock()
	defer func() {
		q.host.mu.Lock()
		delete(q.host.peers, info)
		q.host.mu.Unlock()
	}()
	return causeOf(ctx, b.Follow(ctx, q.peer, kml.Pos(from), q.sink()))
}

// causeOf prefers why a context was ended to the fact that it was.
func causeOf(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*Error](context.Cause(ctx)); ok && err != nil {
		return e
	}
	return err
}

func (q *request) push(b Backend) error {
	if err := q.mayPush(); err != nil {
		return err
	}
	args := q.r.URL.Query()
	base, err1 := ParsePos(args.Get("base"))
	after, err2 := ParsePos(args.Get("after"))
	if err := errors.Join(err1, err2); err != nil {
		return Errorf(CodeInvalid, "%v", err)
	}
	frames := NewReader(q.body(MaxPushBytes))
	defer frames.Close()
	ctx, cancel := q.watched()
	defer cancel()
	res, err := b.Push(ctx, q.peer, PushHead{Base: kml.Pos(base), After: kml.Pos(after)}, frames)
	return q.answer(res, causeOf(ctx, protocolError(err)))
}

// protocolError makes what is wrong with the frames of a peer its fault.
func protocolError(err error) error {
	if errors.Is(err, ErrFrame) || errors.Is(err, kml.ErrCorrupt) {
		return Errorf(CodeInvalid, "%v", err)
	}
	return err
}

func (q *request) content(b Backend, path string) error {
	req, err := q.contentRequest(path)
	if err != nil {
		return err
	}
	if s := q.r.Header.Get("Range"); s != "" {
		if req.Offset, err = parseRange(s, req.Size); err != nil {
			return err
		}
		q.w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", req.Offset, req.Size-1, req.Size))
	}
	ctx, cancel := q.watched()
	defer cancel()
	return causeOf(ctx, b.Content(ctx, q.peer, req, q.sink()))
}

func (q *request) upload(b Backend, path string) error {
	if err := q.mayPush(); err != nil {
		return err
	}
	req, err := q.contentRequest(path)
	if err != nil {
		return err
	}
	if s := q.r.Header.Get("Content-Range"); s != "" {
		if req.Offset, err = parseContentRange(s, req.Size); err != nil {
			return err
		}
	}
	// Room for the heads of frames: holes may cut the data into small pieces.
	frames := NewReader(q.body(req.Size + req.Size/8 + 1<<20))
	defer frames.Close()
	ctx, cancel := q.watched()
	defer cancel()
	res, err := b.Upload(ctx, q.peer, req, frames)
	return q.answer(res, causeOf(ctx, protocolError(err)))
}

// contentRequest reads ORIGIN/CLOSESEQ?object=...&root=...&size=...
func (q *request) contentRequest(path string) (ContentRequest, error) {
	var req ContentRequest
	origin, seq, _ := strings.Cut(path, "/")
	args := q.r.URL.Query()
	var errs [5]error
	req.ID.Origin, errs[0] = kml.ParseUUID(origin)
	req.ID.Seq, errs[1] = strconv.ParseUint(seq, 10, 64)
	req.Object, errs[2] = parseObject(args.Get("object"))
	req.Root, errs[3] = parseRoot(args.Get("root"))
	req.Size, errs[4] = strconv.ParseInt(args.Get("size"), 10, 64)
	for _, err := range errs {
		if err != nil {
			return req, Errorf(CodeInvalid, "content %.100q: %v", path, err)
		}
	}
	if req.Size < 0 || req.Size > MaxContentBytes {
		return req, Errorf(CodeInvalid, "content %v: a size of %d bytes", req.ID, req.Size)
	}
	return req, nil
}

// MaxContentBytes is the largest content there can be: that of a file on ext4
// or XFS, rounded up.
const MaxContentBytes = 1 << 60

// parseRange reads "bytes=N-", the only form that is answered.
func parseRange(s string, size int64) (int64, error) {
	from, ok := strings.CutPrefix(s, "bytes=")
	from, ok2 := strings.CutSuffix(from, "-")
	n, err := strconv.ParseInt(from, 10, 64)
	if !ok || !ok2 || err != nil || n < 0 || n > size {
		return 0, Errorf(CodeInvalid, "range %.60q: want bytes=N- within %d bytes", s, size)
	}
	return n, nil
}

// parseContentRange reads "bytes N-LAST/SIZE", where LAST and SIZE fit size.
func parseContentRange(s string, size int64) (int64, error) {
	var from, last, total int64
	if n, err := fmt.Sscanf(s, "bytes %d-%d/%d", &from, &last, &total); err != nil || n != 3 ||
		from < 0 || from > size || last != size-1 || total != size {
		return 0, Errorf(CodeInvalid, "content range %.60q: want bytes N-%d/%d", s, size-1, size)
	}
	return from, nil
}
