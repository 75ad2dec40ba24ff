package config

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
)

const fingerprintPrefix = "SHA256:"

// Fingerprint names a public key: the SHA-256 of its SubjectPublicKeyInfo. The
// zero Fingerprint names none, and is equal to nothing.
type Fingerprint [sha256.Size]byte

// String gives the written form, "SHA256:" and 43 characters of base64, or ""
// for the zero Fingerprint.
func (f Fingerprint) String() string {
	if f.IsZero() {
		return ""
	}
	return fingerprintPrefix + base64.RawStdEncoding.EncodeToString(f[:])
}

// IsZero reports whether f names no key.
func (f Fingerprint) IsZero() bool { return f == Fingerprint{} }

// Equal compares in constant time. It is false where either is zero.
func (f Fingerprint) Equal(g Fingerprint) bool {
	if f.IsZero() || g.IsZero() {
		return false
	}
	return subtle.ConstantTimeCompare(f[:], g[:]) == 1
}

// ParseFingerprint reads the form that String writes. It accepts no other, and
// not the zero Fingerprint.
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	body, ok := strings.CutPrefix(s, fingerprintPrefix)
	if !ok {
		return f, fmt.Errorf("fingerprint %q: want the form %s and 43 characters, as `inconfig key` prints it", s, fingerprintPrefix)
	}
	if strings.ContainsAny(body, "\r\n") {
		return f, fmt.Errorf("fingerprint %q: has a line break in it", s)
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(body)
	if err != nil {
		return f, fmt.Errorf("fingerprint %q: not base64; copy it again from `inconfig key`", s)
	}
	if len(raw) != len(f) {
		return f, fmt.Errorf("fingerprint %q: %d characters after %s, want 43; copy it again from `inconfig key`", s, len(body), fingerprintPrefix)
	}
	copy(f[:], raw)
	if f.IsZero() {
		return f, fmt.Errorf("fingerprint %q: names no key", s)
	}
	return f, nil
}

// MarshalText makes a Fingerprint a string in TOML and JSON.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText accepts what MarshalText writes, "" included.
func (f *Fingerprint) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*f = Fingerprint{}
		return nil
	}
	g, err := ParseFingerprint(string(text))
	if err != nil {
		return err
	}
	*f = g
	return nil
}
