package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// intruder is somebody on the network who has a key of his own.
type intruder struct {
	t       *testing.T
	address string
	key     string // fingerprint as logs have it
	http    http.Client
}

// newIntruder makes an intruder who comes from a loopback address of his own, so
// that what is done against him is not done against the client.
func newIntruder(t *testing.T, server string, cert tls.Certificate) *intruder {
	t.Helper()
	parsed, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(parsed.RawSubjectPublicKeyInfo)
	i := &intruder{t: t, address: net.JoinHostPort(server, "370"), key: "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])}
	i.http.Timeout = 20 * time.Second
	transport := &http.Transport{TLSClientConfig: trusting(cert), ForceAttemptHTTP2: true, DialContext: from(intruderIP).DialContext}
	i.http.Transport = transport
	t.Cleanup(transport.CloseIdleConnections)
	return i
}

const intruderIP = "127.66.6.6"

func from(ip string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 5 * time.Second}
}

// trusting is how somebody connects who does not care who answers.
func trusting(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: certs, InsecureSkipVerify: true, NextProtos: []string{"h2"}}
}

func selfSigned(t *testing.T, public, private any) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

func newKey(t *testing.T) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return selfSigned(t, public, private)
}

// stolen is the key of a host.
func (h *host) stolen() tls.Certificate {
	h.t.Helper()
	files, _ := filepath.Glob(h.path("etc/*key*"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			h.t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			continue
		}
		private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			h.t.Fatal(err)
		}
		key := private.(ed25519.PrivateKey)
		return selfSigned(h.t, key.Public(), key)
	}
	h.t.Fatalf("no key among %q", files)
	return tls.Certificate{}
}

// ask makes a request and gives status and body.
func (i *intruder) ask(method, path string, header http.Header, body []byte) (int, string) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+i.address+path, bytes.NewReader(body))
	if err != nil {
		i.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := i.http.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return resp.StatusCode, err.Error()
	}
	return resp.StatusCode, string(text)
}

// logOf is what a daemon of the host has logged.
func (h *host) logOf(name string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.path("run/" + name))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// names proves that one line of the server's log has all words.
func (h *host) logNames(words ...string) {
	h.t.Helper()
	for line := range strings.Lines(h.logOf("lento.log")) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return
		}
	}
	h.t.Errorf("no line of the log has %q", words)
}

// address of the server of a pair.
func (p pair) address() string {
	p.t.Helper()
	var shown struct {
		Daemons []struct{ Listen []string }
	}
	if err := json.Unmarshal([]byte(p.server.run("lento", "status", "--json").out), &shown); err != nil {
		p.t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(shown.Daemons[0].Listen[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return host
}

// alive proves that the pair works at its usual speed.
func (p pair) alive(name string) {
	p.t.Helper()
	begin := time.Now()
	p.server.write(name, "still here")
	for {
		if b, err := os.ReadFile(p.client.path("mnt/" + name)); err == nil && string(b) == "still here" {
			break
		}
		if time.Since(begin) > 10*time.Second {
			p.t.Fatalf("%s does not arrive at the client", name)
		}
	}
	p.client.must("lento", "barrier", "--wait", "shared")
}

func (p pair) started() pair {
	p.t.Helper()
	p.server.background()
	p.client.background()
	p.inStep()
	return p
}

// everything are requests for all there is to be had.
var everything = []struct{ method, path string }{
	{"GET", "/"}, {"GET", "/v1/filesets/"}, {"GET", "/v1/filesets/shared"}, {"GET", "/v1/filesets/shared/follow"},
	{"POST", "/v1/filesets/shared/push"}, {"GET", "/v1/filesets/shared/content/x"}, {"PUT", "/v1/filesets/shared/content/x"},
	{"GET", "/v1/filesets/shared/staged/x"}, {"GET", "/v1/filesets/none"}, {"DELETE", "/v1/filesets/shared"},
	{"GET", "/v1/filesets/shared/../shared"}, {"GET", "/v1/filesets//shared"}, {"GET", "/v1/filesets/shared%2ffollow"},
	{"CONNECT", "/"}, {"GET", "/v1/join"}, {"GET", "/debug/pprof/"},
}

func (i *intruder) getsNothing(server *host) {
	i.t.Helper()
	header := http.Header{"Intermezzo-Version": {"1"}, "Intermezzo-Cache": {"00000000-0000-4000-8000-000000000001"}}
	refusals := map[string]bool{}
	for _, r := range everything {
		code, body := i.ask(r.method, r.path, header, []byte(strings.Repeat("garbage", 1000)))
		if code != http.StatusForbidden && !(r.method == "CONNECT" && code == 0) {
			i.t.Errorf("%s %s: status %d %s", r.method, r.path, code, body)
		} else if code != 0 {
			refusals[body] = true
		}
	}
	if len(refusals) != 1 {
		i.t.Errorf("refusals differ, so they tell something: %v", refusals)
	}
	server.logNames("refused", intruderIP, i.key)
}

func TestIntruder_KeyWithoutGrant(t *testing.T) {
	p := configured(t).started()
	newIntruder(t, p.address(), newKey(t)).getsNothing(p.server)
	p.alive("after")
	p.finish()
}

func TestIntruder_RevokedGrant(t *testing.T) {
	p := configured(t).started()
	thief := newIntruder(t, p.address(), p.client.stolen())
	if code, body := thief.ask("GET", "/v1/filesets/shared", nil, nil); code != http.StatusOK {
		t.Fatalf("the key does not work yet: %d %s", code, body)
	}
	p.server.must("inconfig", "replicator", "remove", "--force", "shared", "iclient")
	p.client.until("not granted", func(s status) bool { return !s.Filesets[0].Connected && s.Filesets[0].Error != "" })
	thief.getsNothing(p.server)
	p.server.write("later", "x")
	p.server.must("lento", "barrier", "--wait", "shared")
	if _, err := os.Lstat(p.client.path("mnt/later")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was made after the revocation is on the client: %v", err)
	}
	p.finish()
}

func TestIntruder_GrantOfAnotherFileset(t *testing.T) {
	p := between(t, func(h *host) string { return h.format("img", "shared", "second") })
	p.server.must("inconfig", "fileset", "add", "second", "--server", "iserver", "--device", p.server.path("img"), "--mountpoint", p.server.mkdir("mnt2"), "--channel", "0")
	p.server.must("lento", "mount", p.server.path("img"), p.server.path("mnt2"), "-o", "fileset=second")
	p.started()
	other := newHost(t)
	code := strings.TrimSpace(p.server.must("inconfig", "invite", "second", "other", "--address", p.address()))
	other.must("inconfig", "accept", code)
	thief := newIntruder(t, p.address(), other.stolen())
	if code, body := thief.ask("GET", "/v1/filesets/second", nil, nil); code != http.StatusOK {
		t.Errorf("its own fileset: %d %s", code, body)
	}
	thief.getsNothing(p.server)
	p.alive("after")
	p.server.must("lento", "umount", p.server.path("mnt2"))
	p.finish()
}

func TestIntruder_Invitations(t *testing.T) {
	p := configured(t).started()
	address := p.address()
	taken := func(h *host, code, says string) {
		t.Helper()
		r := h.run("inconfig", "accept", code)
		if r.code != 1 || !strings.Contains(r.err, says) || strings.Count(r.err, "\n") > 1 {
			t.Errorf("exit status %d, want 1 and %q\n%s", r.code, says, r.err)
		}
		if left, _ := filepath.Glob(h.path("etc/*db")); len(left) > 0 {
			t.Errorf("was written: %q", left)
		}
	}
	invite := func(h *host, name string, more ...string) string {
		return strings.TrimSpace(h.must("inconfig", append([]string{"invite", "shared", name, "--address", address}, more...)...))
	}
	stranger := newHost(t)
	taken(stranger, invite(p.server, "late", "--valid", "1ns"), "expired")
	p.server.logNames("invitation refused", "address=127.0.0.1:", "key=SHA256:", "expired")
	used := invite(p.server, "used")
	newHost(t).must("inconfig", "accept", used)
	taken(stranger, used, "used")
	p.server.logNames("invitation refused", "key=SHA256:", "used")
	// An invitation of another server, which says it is to be found here.
	foreign := newHost(t)
	foreign.must("inconfig", "init", "--name", "foreign", "--bind", loopback())
	foreign.must("inconfig", "fileset", "add", "shared", "--server", "foreign", "--device", foreign.path("img"), "--mountpoint", foreign.path("mnt"), "--channel", "0")
	taken(stranger, invite(foreign, "lost"), "key")
	withdrawn := invite(p.server, "again")
	invite(p.server, "again")
	taken(stranger, withdrawn, "does not know")
	// Guessing.
	thief := newIntruder(t, address, newKey(t))
	for range 20 {
		body := fmt.Sprintf(`{"secret":%q,"host":"x","uuid":"00000000-0000-4000-8000-000000000001"}`, base64.StdEncoding.EncodeToString(make([]byte, 20)))
		if code, text := thief.ask("POST", "/v1/join", nil, []byte(body)); code == http.StatusOK {
			t.Fatalf("a guess was taken: %s", text)
		}
	}
	p.server.logNames("invitation refused", intruderIP, thief.key)
	p.alive("after")
	p.finish()
}

// hangUp proves that a connection is closed by the server, without an answer
// that tells anything.
func hangUp(t *testing.T, what string, c net.Conn, within time.Duration) {
	t.Helper()
	c.SetDeadline(time.Now().Add(within))
	got, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the connection is still open after %v", what, within)
	}
	if bytes.Contains(got, []byte("shared")) {
		t.Errorf("%s: got %q", what, got)
	}
	c.Close()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := from(intruderIP).Dial("tcp", net.JoinHostPort(address, "370"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Connections that say little or nothing, and many of them, cost the intruder
// and nobody else.
func TestIntruder_SlowOnes(t *testing.T) {
	p := configured(t).started()
	address := p.address()
	pid := readPID(p.server.path("run/lento.pid"))
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	for n := range 400 {
		c, err := from(intruderIP).Dial("tcp", net.JoinHostPort(address, "370"))
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
		if n%2 == 0 {
			c.Write([]byte{22, 3, 1}) // a greeting that never ends
		}
	}
	p.alive("during")
	if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err != nil || len(open) > 350 {
		t.Errorf("the server has %d descriptors: %v", len(open), err)
	}
	p.server.logNames("too many connections", intruderIP)
	for _, c := range silent {
		hangUp(t, "a silent connection", c, 15*time.Second)
	}
	// A key, and then nothing, or a request without an end.
	for range 20 {
		c := tls.Client(dial(t, address), trusting(newKey(t)))
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x04\x00\x00\x00\x01\x82"))
		silent = append(silent, c)
	}
	p.alive("still")
	if runs(pid) {
		p.finish()
	} else {
		t.Error("the server is gone")
	}
}
