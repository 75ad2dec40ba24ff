package config

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// DefaultKeyFile is the name of the private key in a configuration folder whose
// sysid doesn't name another.
const DefaultKeyFile = "key.pem"

const pemType = "PRIVATE KEY"

// Key is the private key of a host. The zero Key is not usable. It prints as
// its fingerprint, never as itself.
type Key struct {
	private ed25519.PrivateKey
	cert    []byte // DER
	fp      Fingerprint
}

// NewKey makes a key.
func NewKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	return newKey(private)
}

func newKey(private ed25519.PrivateKey) (Key, error) {
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return Key{}, errors.New("make key: not an Ed25519 key")
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Key{}, fmt.Errorf("encode public key: %w", err)
	}
	cert, err := certify(private, public)
	if err != nil {
		return Key{}, err
	}
	return Key{private: private, cert: cert, fp: sha256.Sum256(spki)}, nil
}

// certify wraps the key in a certificate, because TLS wants one. Nothing in it
// but the key means anything, and the same key always gives the same bytes:
// there is no date or serial number to renew.
func certify(private ed25519.PrivateKey, public ed25519.PublicKey) ([]byte, error) {
	sum := sha256.Sum256(public)
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(append([]byte{1}, sum[:15]...)),
		Subject:               pkix.Name{CommonName: "intermezzo"},
		NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no end
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return der, nil
}

// IsZero reports whether k is no key.
func (k Key) IsZero() bool { return k.private == nil }

// Fingerprint names the public half of k.
func (k Key) Fingerprint() Fingerprint { return k.fp }

// String gives the fingerprint, so that a key can't be logged by mistake.
func (k Key) String() string { return "key " + k.fp.String() }

// GoString is String: %#v must not print a key either.
func (k Key) GoString() string { return k.String() }

// Certificate gives k in the form that package tls takes. The bytes are the
// same for each call and each process.
func (k Key) Certificate() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{k.cert}, PrivateKey: k.private}
}

func (k Key) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

func decodeKey(data []byte) (Key, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return Key{}, errors.New("not a PEM file")
	}
	if block.Type != pemType {
		return Key{}, fmt.Errorf("PEM block is %q, want %q", block.Type, pemType)
	}
	if len(rest) > 0 {
		return Key{}, errors.New("more than one key in the file")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("not a PKCS #8 key: %w", err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("key is %T, want Ed25519", parsed)
	}
	return newKey(private)
}

// ErrKeyMode is what LoadKey fails with where others may read the key.
var ErrKeyMode = errors.New("private key is readable by others")

// LoadKey reads a private key. A key that anybody but its owner may read or
// write is refused (ErrKeyMode). A missing one is fs.ErrNotExist.
func LoadKey(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("read key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Key{}, fmt.Errorf("key %s: not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return Key{}, fmt.Errorf("key %s: %w (mode %04o): chmod 600 it, and if it may have been copied, make a new one", path, ErrKeyMode, mode)
	}
	data, err := readAtMost(f, maxKeySize)
	if err != nil {
		return Key{}, fmt.Errorf("read key %s: %w", path, err)
	}
	key, err := decodeKey(data)
	if err != nil {
		return Key{}, fmt.Errorf("key %s: %w", path, err)
	}
	return key, nil
}

// Key reads the host's key. It fails with fs.ErrNotExist where none was made.
func (d Dir) Key() (Key, error) {
	path, err := d.keyPath()
	if err != nil {
		return Key{}, err
	}
	key, err := LoadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return key, fmt.Errorf("key %s: %w; `inconfig key` makes one", path, fs.ErrNotExist)
	}
	return key, err
}

// EnsureKey reads the host's key and makes it first where there is none. Two
// callers at once get the same key.
func (d Dir) EnsureKey() (Key, error) {
	key, err := d.Key()
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	unlock, err := d.lock()
	if err != nil {
		return Key{}, err
	}
	defer unlock()
	if key, err = d.Key(); !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = NewKey(); err != nil {
		return Key{}, err
	}
	return key, d.storeKey(key)
}

func (d Dir) storeKey(key Key) error {
	path, err := d.keyPath()
	if err != nil {
		return err
	}
	data, err := key.encode()
	if err != nil {
		return err
	}
	if err := writeDurably(path, data, 0o600); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

// keyPath is where the key is: sysid says, and where there is no sysid yet it
// is DefaultKeyFile.
func (d Dir) keyPath() (string, error) {
	sysid, err := d.loadSysid()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return d.KeyPath(sysid), nil
}

// KeyPath gives the path of the key that sysid names, or of the default one.
func (d Dir) KeyPath(sysid Sysid) string {
	switch {
	case sysid.Key == "":
		return filepath.Join(string(d), DefaultKeyFile)
	case filepath.IsAbs(sysid.Key):
		return sysid.Key
	}
	return filepath.Join(string(d), sysid.Key)
}
