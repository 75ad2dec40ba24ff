package config

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
)

// alpn is the only protocol spoken: HTTP/2.
const alpn = "h2"

// ServerTLS is the listening end: TLS 1.3, key as its identity, and a client
// must prove a key of its own. known is asked in each handshake whether that key
// may come in at all; nil lets every proved key in, and then whoever handles the
// request must decide by PeerFingerprint. known is called from many goroutines
// and should not block.
func ServerTLS(key Key, known func(Fingerprint) bool) *tls.Config {
	c := baseTLS(key)
	c.ClientAuth = tls.RequireAnyClientCert // proved, not signed by anybody
	c.VerifyConnection = func(state tls.ConnectionState) error {
		fp, err := checkState(state)
		if err != nil {
			return err
		}
		if known != nil && !known(fp) {
			return fmt.Errorf("key %s was not granted anything here", fp)
		}
		return nil
	}
	return c
}

// ClientTLS is the dialling end: TLS 1.3, key as its identity, and the server
// must prove the key that pin names (ErrWrongKey otherwise). Names and
// authorities play no part.
func ClientTLS(key Key, pin Fingerprint) *tls.Config {
	c := baseTLS(key)
	// The usual verification is by name and authority, of which there are none
	// here. It is replaced by VerifyConnection, which runs in every handshake.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(state tls.ConnectionState) error {
		fp, err := checkState(state)
		if err != nil {
			return err
		}
		if !fp.Equal(pin) {
			return &KeyMismatch{Want: pin, Got: fp}
		}
		return nil
	}
	return c
}

// baseTLS has what both ends share. Sessions are not resumed: each connection
// proves both keys anew, so that a removed replicator is out at once.
func baseTLS(key Key) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{key.Certificate()},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true,
	}
}

// checkState makes sure of what both ends demand, before the key is judged.
// Package tls lets a client without our protocol pass where it knows a better
// default.
func checkState(state tls.ConnectionState) (Fingerprint, error) {
	if state.NegotiatedProtocol != alpn {
		return Fingerprint{}, fmt.Errorf("the other end does not speak %s (HTTP/2)", alpn)
	}
	return PeerFingerprint(state)
}

// KeyMismatch says that a server proved another key than the pinned one. It is
// ErrWrongKey.
type KeyMismatch struct {
	Want, Got Fingerprint
}

// Error says both fingerprints.
func (e *KeyMismatch) Error() string {
	return fmt.Sprintf("the server's key is %s, pinned is %s: somebody else answers at this address, or the server has a new key (serverdb)", e.Got, e.Want)
}

// Is makes a KeyMismatch an ErrWrongKey.
func (e *KeyMismatch) Is(target error) bool { return target == ErrWrongKey }

// PeerFingerprint names the key that the other end of a connection has proved.
// It fails where the other end has shown none, or one that is not Ed25519.
func PeerFingerprint(state tls.ConnectionState) (Fingerprint, error) {
	if len(state.PeerCertificates) == 0 {
		return Fingerprint{}, errors.New("the other end showed no key")
	}
	cert := state.PeerCertificates[0]
	if _, ok := cert.PublicKey.(ed25519.PublicKey); !ok {
		return Fingerprint{}, fmt.Errorf("the other end's key is %s, want Ed25519", cert.PublicKeyAlgorithm)
	}
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo), nil
}
