package kml

import (
	"encoding/binary"
	"math"
)

// cursor takes an encoding apart. The first thing that is wrong sticks; what is
// taken after that is zero, so callers check once, at the end.
type cursor struct {
	b      []byte
	off    int
	what   string // what is wrong, "" if nothing is
	whatAt int
}

func (c *cursor) fail(what string, at int) {
	if c.what == "" {
		c.what, c.whatAt = what, at
		c.off = len(c.b)
	}
}

// err gives what is wrong as an error that counts bytes from base on.
func (c *cursor) err(base int) error {
	if c.what == "" {
		return nil
	}
	return &CorruptError{What: c.what, Offset: int64(base + c.whatAt)}
}

func (c *cursor) left() int { return len(c.b) - c.off }

// take gives the next n bytes, which still belong to the input, or nil.
func (c *cursor) take(n int, what string) []byte {
	if n > c.left() {
		c.fail(what+" is cut off", c.off)
		return nil
	}
	c.off += n
	return c.b[c.off-n : c.off]
}

func (c *cursor) u8(what string) byte {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64(what string) uint64 {
	if b := c.take(8, what); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) i64(what string) int64 { return int64(c.u64(what)) }

// uvarint takes a varint of at most limit, in its shortest form.
func (c *cursor) uvarint(limit uint64, what string) uint64 {
	if c.off < len(c.b) && c.b[c.off] < 0x80 && uint64(c.b[c.off]) <= limit {
		c.off++
		return uint64(c.b[c.off-1])
	}
	v, n := binary.Uvarint(c.b[c.off:])
	switch {
	case n == 0:
		c.fail(what+" is cut off", c.off)
	case n < 0 || v > limit:
		c.fail(what+" is too large", c.off)
	case n > 1 && c.b[c.off+n-1] == 0:
		c.fail(what+" is not in its shortest form", c.off)
	default:
		c.off += n
		return v
	}
	return 0
}

func (c *cursor) uvarint32(what string) uint32 {
	return uint32(c.uvarint(math.MaxUint32, what))
}

// size takes a varint that must fit an int64.
func (c *cursor) size(what string) int64 {
	return int64(c.uvarint(math.MaxInt64, what))
}

// short takes a string of 1 to 255 bytes after its length.
func (c *cursor) short(what string) string {
	n := c.u8(what)
	return string(c.take(int(n), what))
}

// long takes a copy of at most limit bytes after their length; nil for none.
func (c *cursor) long(limit uint64, what string) []byte {
	n := c.uvarint(limit, what)
	if b := c.take(int(n), what); len(b) != 0 {
		return append([]byte(nil), b...)
	}
	return nil
}
