package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Times of the protocol. A Host pings a silent connection too, so that neither
// end keeps one that is dead.
const (
	Heartbeat   = 5 * time.Second  // a follow stream is never silent for longer
	DeadAfter   = 15 * time.Second // of silence, a stream is given up
	stallAfter  = 5 * time.Minute  // a peer that takes nothing for so long is dropped
	headTimeout = 10 * time.Second // for handshake and head of a request
	idleTimeout = 2 * time.Minute  // of a connection without requests
)

// HostOptions are what a Host is made of.
type HostOptions struct {
	Key    config.Key
	Grants Grants
	// Join takes an invitation for a key that was proved: config.Dir.Redeem.
	// nil: this host invites nobody.
	Join func(secret []byte, fp config.Fingerprint, uuid kml.UUID, hostName string) (config.RedeemResult, error)
	Log  *slog.Logger
}

// Host is the listening end, for all filesets that this host serves.
type Host struct {
	opts    HostOptions
	count   Counter
	joins   *limiter
	noise   *limiter // of the log about strangers
	mu      sync.Mutex
	mounted map[string]Backend
	peers   map[*PeerInfo]struct{}
	conns   map[string]int // open connections by address
	muted   int            // attempts of strangers not logged since the last that was
}

// PeerInfo is a peer that follows at the moment.
type PeerInfo struct {
	Fileset string    `json:"fileset"`
	Name    string    `json:"name"`
	Address string    `json:"address"`
	Since   time.Time `json:"since"`
}

// NewHost returns a Host that serves no fileset yet.
func NewHost(opts HostOptions) *Host {
	return &Host{
		opts: opts, joins: newLimiter(1, 5), noise: newLimiter(1, 20),
		mounted: make(map[string]Backend), peers: make(map[*PeerInfo]struct{}), conns: make(map[string]int),
	}
}

// Counter counts all bytes of all peers.
func (h *Host) Counter() *Counter { return &h.count }

// Mount serves a fileset from now on, in the place of what did before.
func (h *Host) Mount(fileset string, b Backend) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mounted[fileset] = b
}

// Unmount ends serving a fileset. Requests under way are the Backend's to end.
func (h *Host) Unmount(fileset string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mounted, fileset)
}

// Peers lists who follows, by fileset and name.
func (h *Host) Peers() []PeerInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []PeerInfo
	for p := range h.peers {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b PeerInfo) int {
		if c := strings.Compare(a.Fileset, b.Fileset); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}

// Serve answers on l until ctx ends, then cuts all connections and returns nil.
// It may run for several listeners at once. l is closed.
func (h *Host) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	s := &http.Server{
		Handler:           h,
		TLSConfig:         config.ServerTLS(h.opts.Key, nil),
		Protocols:         &protocols,
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             h2config(),
		ErrorLog:          log.New(strangers{h}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err := s.ServeTLS(&countedListener{Listener: l, host: h}, "", "")
	if ctx.Err() != nil {
		return nil
	}
	s.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve on %v: %w", l.Addr(), err)
}

// h2config is what both ends set: windows for links of high bandwidth times
// delay, and pings that notice a dead connection.
func h2config() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          128,
		MaxReceiveBufferPerConnection: 16 << 20,
		MaxReceiveBufferPerStream:     8 << 20,
		MaxReadFrameSize:              256 << 10,
		SendPingTimeout:               Heartbeat,
		PingTimeout:                   DeadAfter - Heartbeat,
	}
}

// maxConnsPerAddress bounds what one address can hold open.
const maxConnsPerAddress = 256

// countedListener counts bytes, and connections of each address.
type countedListener struct {
	net.Listener
	host *Host
}

func (l *countedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := hostOf(c.RemoteAddr().String())
		if !l.host.admit(addr, 1) {
			c.Close()
			if l.host.mayLog("connections") {
				l.host.opts.Log.Warn("too many connections from one address", "address", addr)
			}
			continue
		}
		return &countedConn{Conn: c, count: &l.host.count, onClose: func() { l.host.admit(addr, -1) }}, nil
	}
}

func (h *Host) admit(addr string, n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n > 0 && h.conns[addr] >= maxConnsPerAddress {
		return false
	}
	if h.conns[addr] += n; h.conns[addr] == 0 {
		delete(h.conns, addr)
	}
	return true
}

func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// mayLog bounds what strangers can write into the log. who has its own budget.
func (h *Host) mayLog(who string) bool { return h.noise.allow(who) }

// stranger answers a request of somebody who was not granted what it asks for,
// without a word on whether it exists, and closes the connection.
func (h *Host) stranger(w http.ResponseWriter, r *http.Request, fp config.Fingerprint) {
	h.mu.Lock()
	muted := h.muted
	if !h.mayLog(hostOf(r.RemoteAddr)) {
		h.muted++
		h.mu.Unlock()
	} else {
		h.muted = 0
		h.mu.Unlock()
		h.opts.Log.Warn("request refused: the key was not granted this", "address", r.RemoteAddr, "key", fp.String(),
			"request", fmt.Sprintf("%.10s %.100q", r.Method, r.URL.Path), "unlogged", muted)
	}
	w.Header().Set("Connection", "close")
	writeError(w, Errorf(CodeForbidden, "your key was not granted this"))
}

// fingerprint names the key of the caller. The handshake made sure of it.
func fingerprint(r *http.Request) (config.Fingerprint, error) {
	if r.TLS == nil || r.TLS.Version < tls.VersionTLS13 {
		return config.Fingerprint{}, errors.New("not a TLS 1.3 connection")
	}
	return config.PeerFingerprint(*r.TLS)
}

// strangers is where the HTTP server says who did not even get through TLS. Its
// lines name the address.
type strangers struct{ h *Host }

func (s strangers) Write(line []byte) (int, error) {
	if s.h.mayLog("tls") {
		s.h.opts.Log.Warn("connection refused", "reason", strings.TrimSpace(string(line)))
	}
	return len(line), nil
}
