package config

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"
)

// filesetsPath is the address of a fileset in the protocol of pkg/wire, which
// is built on this package.
const filesetsPath = "/v1/filesets/"

// clockLimit is how far a server's clock may be from ours without a word.
// Nothing is decided by clocks, but people and make(1) look at times of files.
const clockLimit = 5 * time.Second

// network checks the ports that this host serves on, and the servers that it
// needs.
func (c *checker) network(ctx context.Context) {
	serves := false
	var servers []string
	for _, f := range c.filesets {
		if c.config.Role(f) == RoleServer {
			serves = true
		} else if !slices.Contains(servers, f.Server) {
			servers = append(servers, f.Server)
		}
	}
	if c.opts.Offline {
		return
	}
	if serves {
		for _, bind := range c.config.Sysid.Bind {
			c.port(ctx, bind)
		}
	}
	if c.key.IsZero() {
		return // servers would not talk to us
	}
	for _, name := range servers {
		c.server(ctx, c.config.Server(name))
	}
}

// port checks that an address to listen on is free, or taken by ourselves.
func (c *checker) port(ctx context.Context, bind string) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", bind)
	if err == nil {
		l.Close()
		return
	}
	where := "address " + bind
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		if !c.oursListens(ctx, bind) {
			c.fault(where, "stop that program (`ss -ltnp` tells which it is), or choose another port with `inconfig init --bind ADDRESS`", "another program listens on it")
		}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		c.fault(where, "correct bind in sysid, or configure the interface", "no network interface of this host has it")
	case errors.Is(err, syscall.EACCES):
		c.note(where, "run this as root", "this user may not listen on it, so it was not tried")
	default:
		c.fault(where, "correct bind in sysid", "it is not possible to listen on it: %v", err)
	}
}

// oursListens reports whether whoever listens has our key. Without a key of our
// own the answer is no.
func (c *checker) oursListens(ctx context.Context, bind string) bool {
	if c.key.IsZero() {
		return false
	}
	host, port, err := net.SplitHostPort(bind)
	if err != nil {
		return false
	}
	hosts := []string{host}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		hosts = []string{"127.0.0.1", "::1"}
	}
	for _, h := range hosts {
		conn, err := c.dial(ctx, net.JoinHostPort(h, port), c.key.Fingerprint())
		if err == nil {
			conn.Close()
			return true
		}
	}
	return false
}

func (c *checker) dial(ctx context.Context, address string, pin Fingerprint) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, ClientTLS(c.key, pin))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// server checks each address of a server, and asks the first that answers for
// our filesets.
func (c *checker) server(ctx context.Context, s *Server) {
	var answered string
	var unreachable []Finding
	for _, address := range s.Addresses {
		where := fmt.Sprintf("server %s, %s", s.Name, address)
		conn, err := c.dial(ctx, address, s.Fingerprint)
		switch mismatch := (*KeyMismatch)(nil); {
		case err == nil:
			conn.Close()
			if answered == "" {
				answered = address
			}
		case errors.As(err, &mismatch):
			c.fault(where, fmt.Sprintf("run `inconfig key` on %s. If it prints what answered, the server has a new key: run `inconfig server remove --force %s` and accept a new invitation. If not, somebody else answers there",
				s.Name, s.Name), "its key is %s, pinned in serverdb is %s", mismatch.Got, mismatch.Want)
		default:
			unreachable = append(unreachable, Finding{SeverityWarning, where, "it does not answer: " + dialText(err), "remove it from serverdb if the server is no longer there", ""})
		}
	}
	if answered == "" {
		for i := range unreachable {
			unreachable[i].Severity = SeverityError
			unreachable[i].Fix = fmt.Sprintf("check that lento runs on %s and that no firewall is in between; local work goes on meanwhile", s.Name)
		}
	}
	c.findings = append(c.findings, unreachable...)
	if answered != "" {
		c.grants(ctx, s, answered)
	}
}

func dialText(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &op) && op.Op == "dial":
		return errnoOf(op.Err).Error()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "it ended the connection; perhaps another program listens there"
	}
	return err.Error()
}

// grants asks a server for the state of each fileset that comes from it.
func (c *checker) grants(ctx context.Context, s *Server, address string) {
	transport := &http.Transport{TLSClientConfig: ClientTLS(c.key, s.Fingerprint), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	clockTold := false
	for _, f := range c.filesets {
		if f.Server != s.Name {
			continue
		}
		begin := time.Now()
		status, header, text, err := c.ask(ctx, transport, "https://"+address+filesetsPath+f.Name)
		where := fmt.Sprintf("server %s, fileset %s", s.Name, f.Name)
		if err != nil {
			c.fault(where, "see the server's log", "%s did not answer the request: %v", address, err)
			continue
		}
		if !clockTold {
			clockTold = true
			c.clock(s, header.Get("Date"), begin, time.Now())
		}
		c.answer(where, status, text, f)
	}
}

// answer judges what a server said to a request for f.
func (c *checker) answer(where string, status int, text string, f *Fileset) {
	switch status {
	case http.StatusOK:
		var told struct {
			UUID string `json:"uuid"`
		}
		if json.Unmarshal([]byte(text), &told) == nil && told.UUID != "" && !f.UUID.IsZero() && told.UUID != f.UUID.String() {
			c.fault(where, "remove the fileset here and accept a new invitation", "the server has another fileset of this name: its uuid is %s there, and %s here", told.UUID, f.UUID)
		}
	case http.StatusUnauthorized, http.StatusForbidden:
		c.fault(where, fmt.Sprintf("on %s run `inconfig replicator list %s`; a new invitation lets this host in", f.Server, f.Name), "the server does not grant it to this host's key, %s", c.key.Fingerprint())
	case http.StatusServiceUnavailable:
		c.warn(where, fmt.Sprintf("mount it on %s", f.Server), "it is not in service there: %s", text)
	default:
		c.fault(where, "see the server's log", "the server answers %d: %s", status, text)
	}
}

// ask makes one request. text is the body, or of an error the text in it.
func (c *checker) ask(ctx context.Context, transport *http.Transport, url string) (status int, header http.Header, text string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return 0, nil, "", err
	}
	var fault struct {
		Text string `json:"text"`
	}
	text = strings.TrimSpace(string(body))
	if response.StatusCode != http.StatusOK && json.Unmarshal(body, &fault) == nil && fault.Text != "" {
		text = fault.Text
	}
	return response.StatusCode, response.Header, text, nil
}

// clock compares a server's clock with ours. date has whole seconds and was
// taken between begin and end.
func (c *checker) clock(s *Server, date string, begin, end time.Time) {
	there, err := http.ParseTime(date)
	if err != nil {
		return // no clock to compare
	}
	var off time.Duration
	switch latest := there.Add(time.Second); {
	case latest.Before(begin):
		off = begin.Sub(latest)
	case there.After(end):
		off = there.Sub(end)
	}
	if off <= clockLimit {
		return
	}
	direction := "behind"
	if there.After(end) {
		direction = "ahead of"
	}
	c.warn("clock", "set both clocks, best by NTP", "that of server %s is %s %s this host's; times of files will look wrong to people and to make", s.Name, off.Round(time.Second), direction)
}
