package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
)

func TestFingerprint_RoundTrip(t *testing.T) {
	fp := mustPrint(t, testPrint)
	if fp.String() != testPrint {
		t.Errorf("got %s", fp)
	}
	if (Fingerprint{}).Equal(Fingerprint{}) || !fp.Equal(fp) || fp.Equal(mustPrint(t, otherFP)) {
		t.Error("Equal is wrong")
	}
	for _, bad := range []string{"", "SHA256:", testPrint + "=", testPrint + "A", testPrint[:49], strings.ToLower(testPrint), " " + testPrint,
		testPrint[:20] + "\n" + testPrint[20:], testPrint[7:], "SHA256:" + strings.Repeat("A", 43), testPrint[:49] + "9"} {
		if got, err := ParseFingerprint(bad); err == nil {
			t.Errorf("ParseFingerprint(%q) = %s", bad, got)
		}
	}
}

func TestEnsureKey(t *testing.T) {
	d := Dir(t.TempDir() + "/new")
	if _, err := d.Key(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Key of an empty folder: %v", err)
	}
	var wg sync.WaitGroup
	keys := make([]Key, 8)
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = d.EnsureKey(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k.Fingerprint() != keys[0].Fingerprint() || !bytes.Equal(k.Certificate().Certificate[0], keys[0].Certificate().Certificate[0]) {
			t.Fatal("callers got different keys or certificates")
		}
	}
	info, err := os.Stat(d.Path(DefaultKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v", info.Mode(), err)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", keys[0], keys[0], keys[0], keys[0]); strings.Contains(s, "private") || !strings.Contains(s, "SHA256:") {
		t.Errorf("a key prints as %s", s)
	}
}

func TestEnsureKey_PathFromSysid(t *testing.T) {
	d := writeDir(t, goodSysid+"key = \"host.key\"\n", "", "")
	if _, err := d.EnsureKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Path("host.key")); err != nil {
		t.Fatal(err)
	}
}

func TestLoadKey_Bad(t *testing.T) {
	d := Dir(t.TempDir())
	if _, err := d.EnsureKey(); err != nil {
		t.Fatal(err)
	}
	path := d.Path(DefaultKeyFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(foreign)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		data []byte
		mode fs.FileMode
		want string
	}{
		"group":     {good, 0o640, "readable by others"},
		"world":     {good, 0o604, "readable by others"},
		"empty":     {nil, 0o600, "not a PEM file"},
		"truncated": {good[:len(good)/2], 0o600, "not a PEM file"},
		"two":       {append(bytes.Clone(good), good...), 0o600, "more than one key"},
		"ecdsa":     {pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), 0o600, "want Ed25519"},
		"damaged":   {pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der[:20]}), 0o600, "not a PKCS #8 key"},
		"public":    {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600, "PEM block"},
		"huge":      {make([]byte, maxKeySize+1), 0o600, "larger than"},
	} {
		if err := os.WriteFile(path, test.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Key(); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", name, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, test.data) {
			t.Errorf("%s: the file was changed", name)
		}
		if _, err := d.EnsureKey(); err == nil {
			t.Errorf("%s: EnsureKey replaced a bad key", name)
		}
	}
}

// connected gives both ends of a TCP connection. A net.Pipe won't do: it has no
// buffer, so that two ends that refuse each other at once wait for ever.
func connected(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// handshake connects both configurations and gives what each end got: the peer
// it saw, or the error.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error, peer Fingerprint) {
	t.Helper()
	a, b := connected(t)
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	s := tls.Server(a, server)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		} else {
			a.Close()
		}
		done <- err
	}()
	c := tls.Client(b, client)
	clientErr = c.Handshake()
	if clientErr == nil { // TLS 1.3: the server's refusal comes with the first byte
		_, clientErr = c.Read(make([]byte, 1))
	} else {
		b.Close()
	}
	serverErr = <-done
	if serverErr == nil {
		var err error
		if peer, err = PeerFingerprint(s.ConnectionState()); err != nil {
			t.Error(err)
		}
		if p := s.ConnectionState().NegotiatedProtocol; p != "h2" {
			t.Errorf("protocol %q", p)
		}
	}
	return serverErr, clientErr, peer
}

func mustKey(t *testing.T) Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTLS_Pinned(t *testing.T) {
	server, client, stranger := mustKey(t), mustKey(t), mustKey(t)
	known := func(fp Fingerprint) bool { return fp.Equal(client.Fingerprint()) }

	sErr, cErr, peer := handshake(t, ServerTLS(server, known), ClientTLS(client, server.Fingerprint()))
	if sErr != nil || cErr != nil || peer != client.Fingerprint() {
		t.Fatalf("good keys: %v, %v, %s", sErr, cErr, peer)
	}
	sErr, cErr, peer = handshake(t, ServerTLS(server, nil), ClientTLS(stranger, server.Fingerprint()))
	if sErr != nil || cErr != nil || peer != stranger.Fingerprint() {
		t.Fatalf("no hook: %v, %v, %s", sErr, cErr, peer)
	}
	sErr, cErr, _ = handshake(t, ServerTLS(server, known), ClientTLS(stranger, server.Fingerprint()))
	if sErr == nil || cErr == nil || !strings.Contains(sErr.Error(), stranger.Fingerprint().String()) {
		t.Fatalf("stranger: %v, %v", sErr, cErr)
	}
	_, cErr, _ = handshake(t, ServerTLS(stranger, nil), ClientTLS(client, server.Fingerprint()))
	if !errors.Is(cErr, ErrWrongKey) || !strings.Contains(cErr.Error(), stranger.Fingerprint().String()) {
		t.Fatalf("wrong server: %v", cErr)
	}
	_, cErr, _ = handshake(t, ServerTLS(server, nil), ClientTLS(client, Fingerprint{}))
	if !errors.Is(cErr, ErrWrongKey) {
		t.Fatalf("no pin: %v", cErr)
	}
}

func TestTLS_RefusesWeakerClients(t *testing.T) {
	server, client := mustKey(t), mustKey(t)
	anonymous := ClientTLS(client, server.Fingerprint())
	anonymous.Certificates = nil
	old := ClientTLS(client, server.Fingerprint())
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	http1 := ClientTLS(client, server.Fingerprint())
	http1.NextProtos = []string{"http/1.1"}

	// The client shows the certificate of a key that it doesn't have.
	thief := ClientTLS(client, server.Fingerprint())
	stolen := mustKey(t).Certificate()
	stolen.PrivateKey = client.Certificate().PrivateKey
	thief.Certificates = []tls.Certificate{stolen}

	for name, c := range map[string]*tls.Config{"no certificate": anonymous, "TLS 1.2": old, "http/1.1": http1, "stolen certificate": thief} {
		if sErr, _, _ := handshake(t, ServerTLS(server, nil), c); sErr == nil {
			t.Errorf("%s: let in", name)
		}
	}
}
