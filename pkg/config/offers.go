package config

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// invitationMemory is how long a used or expired invitation is still told apart
// from one that never was.
const invitationMemory = 30 * 24 * time.Hour

// offer is an invitation as the server keeps it.
type offer struct {
	hash       [sha256.Size]byte // of the secret
	fileset    string
	replicator string
	rights     Rights
	expires    time.Time
	usedBy     Fingerprint // zero: not yet
}

// findOffer looks at every offer, whichever it is, so that the time it takes
// tells nothing. It points into offers.
func findOffer(offers []offer, secret []byte) *offer {
	hash := sha256.Sum256(secret)
	var found *offer
	for i := range offers {
		if subtle.ConstantTimeCompare(offers[i].hash[:], hash[:]) == 1 {
			found = &offers[i]
		}
	}
	return found
}

// readOffers reads the invitations file. One that is missing is empty.
func (d Dir) readOffers() ([]offer, error) {
	doc, err := d.open(InvitationsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, d.unreadable(InvitationsFile, err)
	}
	offers := decodeOffers(doc)
	if err := errors.Join(doc.sorted()...); err != nil {
		return nil, err
	}
	return offers, nil
}

func decodeOffers(doc *document) []offer {
	top := doc.top(nil)
	var offers []offer
	for _, t := range top.tables("invitation", nil) {
		o := offer{
			fileset:    t.required("fileset", ""),
			replicator: t.required("replicator", ""),
			rights:     Rights(t.choice("rights", string(ReadWrite), string(ReadOnly))),
			expires:    t.time("expires"),
			usedBy:     t.fingerprint("used_by"),
		}
		hash, err := hex.DecodeString(t.required("hash", ""))
		if err != nil || len(hash) != len(o.hash) {
			t.complain("hash", "hash is not the SHA-256 of a secret", "remove this [[invitation]]")
		}
		copy(o.hash[:], hash)
		t.close()
		offers = append(offers, o)
	}
	top.close()
	return offers
}

func (t *table) time(key string) time.Time {
	v, ok := t.take(key)
	if !ok {
		t.doc.complain(t.path, fmt.Sprintf("%s has no %s", t.label, key), "")
		return time.Time{}
	}
	at, ok := v.(time.Time)
	if !ok {
		t.wrongType(key, "a date and time", v)
	}
	return at
}

type invitationsFile struct {
	Invitation []invitationTable `toml:"invitation,omitempty"`
}

type invitationTable struct {
	Hash       string    `toml:"hash"`
	Fileset    string    `toml:"fileset"`
	Replicator string    `toml:"replicator"`
	Rights     string    `toml:"rights"`
	Expires    time.Time `toml:"expires"`
	UsedBy     string    `toml:"used_by,omitempty"`
}

// writeOffers replaces the invitations file, without those long past.
func (d Dir) writeOffers(offers []offer) error {
	var file invitationsFile
	for _, o := range offers {
		if time.Since(o.expires) > invitationMemory {
			continue
		}
		file.Invitation = append(file.Invitation, invitationTable{
			hex.EncodeToString(o.hash[:]), o.fileset, o.replicator, string(o.rights), o.expires.UTC().Truncate(time.Second), o.usedBy.String(),
		})
	}
	text, err := encodeFile(InvitationsFile, nil, file)
	if err != nil {
		return err
	}
	if err := writeDurably(d.Path(InvitationsFile), text, 0o600); err != nil {
		return fmt.Errorf("write invitations: %w", err)
	}
	return nil
}
