package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Invitation is what a code carries from a server to the host it invites. The
// secret proves the invitation to the server; whoever has it may use it.
type Invitation struct {
	Server      string      // name
	Addresses   []string    // host:port, tried in order
	Fingerprint Fingerprint // of the server's key, which the client pins
	Fileset     string
	Replicator  string // the name that the server has for the client
	Secret      []byte // secretSize bytes
}

// A code is codePrefix and, in base32 without padding, lower case: a version
// byte, fingerprint, secret, then server, fileset, replicator and the addresses
// as a length byte and text each, then codeSum bytes of the SHA-256 of all that
// precedes. Base32 has only letters and digits, so that a double click takes the
// whole code, and case and line breaks don't matter.
const (
	codePrefix  = "izo"
	codeVersion = 1
	codeSum     = 5
	secretSize  = 20
	maxCode     = 4096
)

// Errors of ParseInvitation.
var (
	// ErrNotInvitation: the text is no code at all.
	ErrNotInvitation = errors.New("not an invitation code")
	// ErrGarbledInvitation: it was one, and lost or changed characters.
	ErrGarbledInvitation = errors.New("the invitation code was damaged on the way: copy it again, whole")
	// ErrNewerInvitation: it was made by a version that does it otherwise.
	ErrNewerInvitation = errors.New("the invitation code was made by a newer version; upgrade this host")
)

var codeEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// encode gives the code, one line.
func (inv Invitation) encode() (string, error) {
	if len(inv.Secret) != secretSize || inv.Fingerprint.IsZero() || len(inv.Addresses) == 0 || len(inv.Addresses) > 255 {
		return "", errors.New("encode invitation: incomplete")
	}
	b := []byte{codeVersion}
	b = append(b, inv.Fingerprint[:]...)
	b = append(b, inv.Secret...)
	for _, s := range append([]string{inv.Server, inv.Fileset, inv.Replicator}, inv.Addresses...) {
		if len(s) > 255 {
			return "", fmt.Errorf("encode invitation: %.20q... is too long", s)
		}
		b = append(append(b, byte(len(s))), s...)
	}
	sum := sha256.Sum256(b)
	code := codePrefix + codeEncoding.EncodeToString(append(b, sum[:codeSum]...))
	if len(code) > maxCode {
		return "", errors.New("encode invitation: too many addresses; name one or two with --address")
	}
	return code, nil
}

// ParseInvitation reads a code. White space in it, and upper case, are put
// right; everything else that is wrong is ErrNotInvitation, ErrGarbledInvitation
// or ErrNewerInvitation. Whether the server knows the invitation is another
// question.
func ParseInvitation(code string) (Invitation, error) {
	code = strings.ToLower(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, code))
	body, ok := strings.CutPrefix(code, codePrefix)
	if !ok {
		return Invitation{}, fmt.Errorf("%w: it must begin with %q, as `inconfig invite` on the server prints it", ErrNotInvitation, codePrefix)
	}
	if len(code) > maxCode {
		return Invitation{}, ErrGarbledInvitation
	}
	raw, err := codeEncoding.DecodeString(body)
	if err != nil || len(raw) < 1+codeSum || codeEncoding.EncodeToString(raw) != body {
		return Invitation{}, ErrGarbledInvitation
	}
	raw, sum := raw[:len(raw)-codeSum], raw[len(raw)-codeSum:]
	if want := sha256.Sum256(raw); !bytes.Equal(sum, want[:codeSum]) {
		return Invitation{}, ErrGarbledInvitation
	}
	if raw[0] != codeVersion {
		return Invitation{}, ErrNewerInvitation
	}
	return decodeInvitation(raw[1:])
}

// decodeInvitation reads what is intact, and trusts it no further for that.
func decodeInvitation(raw []byte) (Invitation, error) {
	var inv Invitation
	if len(raw) < len(inv.Fingerprint)+secretSize {
		return inv, ErrGarbledInvitation
	}
	raw = raw[copy(inv.Fingerprint[:], raw):]
	inv.Secret, raw = slices.Clone(raw[:secretSize]), raw[secretSize:]
	var texts []string
	for len(raw) > 0 {
		n := int(raw[0])
		if len(raw) < 1+n {
			return inv, ErrGarbledInvitation
		}
		texts, raw = append(texts, string(raw[1:1+n])), raw[1+n:]
	}
	if len(texts) < 4 || inv.Fingerprint.IsZero() {
		return inv, ErrGarbledInvitation
	}
	inv.Server, inv.Fileset, inv.Replicator, inv.Addresses = texts[0], texts[1], texts[2], texts[3:]
	err := errors.Join(CheckHostName(inv.Server), CheckFilesetName(inv.Fileset), CheckHostName(inv.Replicator))
	for _, a := range inv.Addresses {
		full, addressErr := JoinAddress(a, DefaultPort, false)
		if addressErr == nil && full != a {
			addressErr = fmt.Errorf("address %q: not in the form host:port", a)
		}
		err = errors.Join(err, addressErr)
	}
	if err != nil {
		return Invitation{}, fmt.Errorf("%w: %w", ErrNotInvitation, err)
	}
	return inv, nil
}
