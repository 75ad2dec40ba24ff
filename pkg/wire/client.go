package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

const dialTimeout = 5 * time.Second // of one address, until it has proved its key

// ClientOptions are what a Client is made of.
type ClientOptions struct {
	Server  config.Server // Addresses are tried in order, from the one that answered last
	Key     config.Key
	Fileset string
	Cache   kml.UUID // ours; zero if this client pushes nothing
	LocalIP netip.Addr
	// Dial makes a connection, in the place of net.Dialer, for tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client is the dialling end for one fileset of one server. It connects when
// it must, and again when it must again. Errors that the server answered with
// are *Error.
type Client struct {
	opts  ClientOptions
	count Counter
	live  *http.Transport // groups: small and urgent
	bulk  *http.Transport // large contents, on a connection of their own
	pack  Packer

	mu   sync.Mutex
	uuid kml.UUID // of the fileset, zero: not known
	last int      // index of the address that answered last
	near bool     // the server is this machine
}

// NewClient returns a Client. It does not connect yet. Close it.
func NewClient(opts ClientOptions) *Client {
	c := &Client{opts: opts}
	c.live, c.bulk = c.transport(), c.transport()
	return c
}

func (c *Client) transport() *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	return &http.Transport{
		DialTLSContext:     c.dial,
		Protocols:          &protocols,
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
		IdleConnTimeout:    idleTimeout,
		HTTP2:              h2config(),
	}
}

// Counter counts all bytes of this client.
func (c *Client) Counter() *Counter { return &c.count }

// SetFileset tells which fileset is meant: the server refuses if its own of that
// name has another uuid.
func (c *Client) SetFileset(uuid kml.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uuid = uuid
}

// Close ends idle connections. Requests under way end by their contexts.
func (c *Client) Close() {
	c.live.CloseIdleConnections()
	c.bulk.CloseIdleConnections()
}

// dial connects to the first address that proves the pinned key.
func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	c.mu.Lock()
	first := c.last
	c.mu.Unlock()
	n := len(c.opts.Server.Addresses)
	if n == 0 {
		return nil, fmt.Errorf("server %s has no address in serverdb", c.opts.Server.Name)
	}
	var errs []error
	for i := range n {
		at := (first + i) % n
		conn, err := c.dialOne(ctx, c.opts.Server.Addresses[at])
		if err == nil {
			c.mu.Lock()
			c.last, c.near = at, isLoopback(conn.RemoteAddr().String())
			c.mu.Unlock()
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("connect to %s at %s: %w", c.opts.Server.Name, c.opts.Server.Addresses[at], err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (c *Client) dialOne(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dial := c.opts.Dial
	if dial == nil {
		d := &net.Dialer{KeepAlive: Heartbeat}
		if c.opts.LocalIP.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.opts.LocalIP, 0))
		}
		dial = d.DialContext
	}
	raw, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(&countedConn{Conn: raw, count: &c.count}, config.ClientTLS(c.opts.Key, c.opts.Server.Fingerprint))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// send makes a request. The caller closes the body of the answer, which is
// of status 2xx.
func (c *Client) send(ctx context.Context, t *http.Transport, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://intermezzo"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set(headerVersion, strconv.Itoa(Version))
	req.Header.Set(headerFeatures, featureZstd)
	req.Header.Set("User-Agent", "intermezzo")
	if !c.opts.Cache.IsZero() {
		req.Header.Set(headerCache, c.opts.Cache.String())
	}
	c.mu.Lock()
	if !c.uuid.IsZero() {
		req.Header.Set(headerFileset, c.uuid.String())
	}
	c.mu.Unlock()
	resp, err := t.RoundTrip(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, c.refusal(resp)
	}
	return resp, nil
}

// refusal reads the error that the server answered with.
func (c *Client) refusal(resp *http.Response) error {
	e := &Error{}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	if err != nil || json.Unmarshal(body, e) != nil || e.Code == "" {
		return Errorf(CodeInternal, "server %s answered %s and not in the terms of this protocol", c.opts.Server.Name, resp.Status)
	}
	switch e.Code {
	case CodeForbidden:
		if c.opts.Fileset == "" {
			e.Text = fmt.Sprintf("server %s takes no invitations", c.opts.Server.Name)
			break
		}
		e.Text = fmt.Sprintf("server %s does not grant fileset %s to this host's key %s: ask there for an invitation (inconfig invite)",
			c.opts.Server.Name, c.opts.Fileset, c.opts.Key.Fingerprint())
	default:
		e.Text = fmt.Sprintf("server %s: %s", c.opts.Server.Name, e.Text)
	}
	return e
}

// ask makes a request whose answer is JSON.
func (c *Client) ask(ctx context.Context, method, path string, body []byte, out any) error {
	var r io.Reader
	header := make(http.Header)
	if body != nil {
		r = bytes.NewReader(body)
		header.Set("Content-Type", "application/json")
	}
	resp, err := c.send(ctx, c.live, method, path, header, r)
	if err != nil {
		return err
	}
	return readJSON(resp, out)
}

func readJSON(resp *http.Response, out any) error {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswerBytes))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

func (c *Client) path(parts string, args url.Values) string {
	p := filesetsPath + url.PathEscape(c.opts.Fileset) + parts
	if len(args) > 0 {
		p += "?" + args.Encode()
	}
	return p
}

// Status asks for the state of the fileset.
func (c *Client) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*DeadAfter, errSilent)
	defer cancel()
	var st Status
	err := c.ask(ctx, http.MethodGet, c.path("", nil), nil, &st)
	return st, err
}

var errSilent = errors.New("the server has been silent for too long")

// Stream is an answer of frames. It is not safe for concurrent use, but for
// Stop.
type Stream struct {
	*Reader
	body  io.Closer
	end   context.CancelFunc
	ctx   context.Context
	alarm *time.Timer
}

// Next is Reader.Next, and ends with the stream's own error: an *Error for a
// FrameError.
func (s *Stream) Next() (Frame, error) {
	f, err := s.Reader.Next()
	if err == nil && f.Type == FrameError {
		err = f.Err()
	}
	if cause := context.Cause(s.ctx); err != nil && cause != nil {
		err = cause
	}
	return f, err
}

// Stop makes Next fail. It may be called by any goroutine.
func (s *Stream) Stop() { s.end() }

// Close ends the stream, for the goroutine that reads it.
func (s *Stream) Close() error {
	s.alarm.Stop()
	s.end()
	err := s.body.Close()
	s.Reader.Close()
	return err
}

// stream makes a request whose answer is frames, and gives it up when it has
// been silent for DeadAfter.
func (c *Client) stream(ctx context.Context, t *http.Transport, path string, header http.Header) (*Stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	alarm := time.AfterFunc(2*DeadAfter, func() { cancel(errSilent) })
	resp, err := c.send(ctx, t, http.MethodGet, path, header, nil)
	if err != nil {
		alarm.Stop()
		cancel(nil)
		return nil, err
	}
	alarm.Reset(DeadAfter)
	s := &Stream{body: resp.Body, end: func() { cancel(nil) }, ctx: ctx, alarm: alarm}
	s.Reader = NewReader(&wakefulReader{r: resp.Body, alarm: alarm})
	return s, nil
}

// wakefulReader puts the alarm off whenever bytes come, and while nobody reads.
type wakefulReader struct {
	r     io.Reader
	alarm *time.Timer
}

func (w *wakefulReader) Read(p []byte) (int, error) {
	w.alarm.Reset(DeadAfter)
	n, err := w.r.Read(p)
	w.alarm.Stop()
	return n, err
}

// Follow opens the stream of groups after from.
func (c *Client) Follow(ctx context.Context, from kml.Pos) (*Stream, error) {
	return c.stream(ctx, c.live, c.path("/follow", url.Values{"position": {Pos(from).String()}}), nil)
}

// Push sends frames: groups and their small contents. They are packed where
// that pays. The frames may be sent again when the connection broke before the
// server had seen them.
func (c *Client) Push(ctx context.Context, head PushHead, frames []byte) (PushResult, error) {
	var res PushResult
	args := url.Values{"base": {Pos(head.Base).String()}, "after": {Pos(head.After).String()}}
	body := c.packed(frames)
	header := http.Header{"Content-Type": {typeFrames}}
	resp, err := c.send(ctx, c.live, http.MethodPost, c.path("/push", args), header, bytes.NewReader(body))
	if err != nil {
		return res, err
	}
	return res, readJSON(resp, &res)
}

// packed packs frames unless the server is this machine.
func (c *Client) packed(frames []byte) []byte {
	c.mu.Lock()
	near := c.near
	c.mu.Unlock()
	if near {
		return frames
	}
	return c.pack.AppendPacked(nil, frames)
}

func isLoopback(address string) bool {
	ip, err := netip.ParseAddr(hostOf(address))
	return err == nil && ip.IsLoopback()
}

func (c *Client) contentPath(verb string, req ContentRequest) string {
	return c.path(fmt.Sprintf("/%s/%v/%d", verb, req.ID.Origin, req.ID.Seq), url.Values{
		"object": {formatObject(req.Object)},
		"root":   {fmt.Sprintf("%x", req.Root)},
		"size":   {strconv.FormatInt(req.Size, 10)},
	})
}

// Content opens the stream of a content from req.Offset on.
func (c *Client) Content(ctx context.Context, req ContentRequest) (*Stream, error) {
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-", req.Offset)}}
	return c.stream(ctx, c.bulk, c.contentPath("content", req), header)
}

// Staged asks how much of an upload the server has.
func (c *Client) Staged(ctx context.Context, req ContentRequest) (StagedResult, error) {
	var res StagedResult
	err := c.ask(ctx, http.MethodGet, c.contentPath("staged", req), nil, &res)
	return res, err
}

// Upload sends a content from req.Offset on. write makes its frames, and is
// ended by an error of its writer when the server does not want more. It has
// returned when Upload returns.
func (c *Client) Upload(ctx context.Context, req ContentRequest, write func(w io.Writer) error) (StagedResult, error) {
	var res StagedResult
	pr, pw := io.Pipe()
	done := make(chan struct{})
	var werr error
	go func() {
		defer close(done)
		werr = write(pw)
		pw.CloseWithError(werr)
	}()
	header := http.Header{
		"Content-Type":  {typeFrames},
		"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", req.Offset, req.Size-1, req.Size)},
	}
	resp, err := c.send(ctx, c.bulk, http.MethodPut, c.contentPath("content", req), header, pr)
	pr.CloseWithError(errUnwanted)
	<-done
	switch {
	case CodeOf(err) != "", err != nil && errors.Is(werr, io.ErrClosedPipe):
		return res, err // the reason of the server, or of the network, is the better one
	case werr != nil && !errors.Is(werr, errUnwanted):
		if resp != nil {
			resp.Body.Close()
		}
		return res, werr
	case err != nil:
		return res, err
	}
	return res, readJSON(resp, &res)
}

var errUnwanted = errors.New("the server ended the upload")
