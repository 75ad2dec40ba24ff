package kml

import (
	"encoding/hex"
	"fmt"
)

// UUID names a cache (its id space, and the origin of its log) or a fileset.
// The zero UUID means "none".
type UUID [16]byte

func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// IsZero reports whether u is the zero UUID.
func (u UUID) IsZero() bool { return u == UUID{} }

// ParseUUID reads the form that String writes.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, fmt.Errorf("uuid %q: want the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", s)
	}
	if _, err := hex.Decode(u[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return UUID{}, fmt.Errorf("uuid %q: %w", s, err)
	}
	return u, nil
}

// ObjectID identifies an object (file, directory, link, node) for its whole
// life, whatever its names, on every replica.
//
// An object made by an application has the identity of the inode it was born
// as: the id space of that cache, inode number, generation and birth time. A
// minted id (an inode that had to take over another identity) has Ino 0, and
// Birth is a counter of the cache.
type ObjectID struct {
	Space UUID
	Ino   uint64
	Gen   uint32
	Birth int64 // nanoseconds since the epoch, or the counter of a minted id
}

// RootID is the id of the root directory of every fileset. It is the same on
// all replicas, because the root is made by each of them and never replicated.
var RootID = ObjectID{Ino: 1}

// IsZero reports whether id names no object.
func (id ObjectID) IsZero() bool { return id == ObjectID{} }

func (id ObjectID) String() string {
	if id == RootID {
		return "root"
	}
	return fmt.Sprintf("%s:%x.%x.%x", hex.EncodeToString(id.Space[:4]), id.Ino, id.Gen, uint64(id.Birth))
}

// Chain is a value of the hash chain over a log: it covers a frame and, through
// its predecessor, every frame before it.
type Chain [16]byte

func (c Chain) String() string { return hex.EncodeToString(c[:]) }

// Pos is a place in a log: after frame Seq of epoch Epoch, whose chain value is
// Chain. Seq 0 is the beginning. Two Pos with one Seq and different Chain or
// Epoch mean that history forked.
type Pos struct {
	Epoch uint32
	Seq   uint64
	Chain Chain
}

func (p Pos) String() string { return fmt.Sprintf("%d/%d", p.Epoch, p.Seq) }
