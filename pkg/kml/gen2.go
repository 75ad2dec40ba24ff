package kml

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Gen2Version is the version of the records of the original's second
// generation, the only one that Gen2Reader knows.
const Gen2Version = 0x00010002

// Opcodes of the original that no log of ours has.
const opGetFileID Op = 18 // only ever the body of a request

const (
	gen2Prefix    = 32
	gen2Suffix    = 16
	gen2MaxGroups = 32
	gen2MaxRecord = 1 << 16 // no record crosses a boundary of 64 KiB
	gen2MaxXattr  = 8192
)

// Gen2Stamp is a version of an object or directory. Only kernels 2.6 wrote
// nanoseconds.
type Gen2Stamp struct {
	Mtime, Ctime int64 // nanoseconds since the epoch
	Size         uint64
}

// Gen2Rollback is what an object was like before the change.
type Gen2Rollback struct {
	Mode, Rdev uint32
	UID, GID   uint64
}

// Gen2Record is one record of the original InterMezzo's KML. What an opcode does
// not have is zero. Paths begin at the fileset's root, with a slash.
type Gen2Record struct {
	Offset int64 // where it begins in the file
	Len    uint32

	Op                      Op
	PID, AUID, FSUID, FSGID uint32
	Groups                  []uint32
	Recno                   uint32
	Time                    uint32 // seconds since the epoch, as written
	Prevrec                 uint32 // meant to lead to the object's record before; 0

	Path   string // of the object; UNLINK, RMDIR: of the folder; RENAME, LINK: the old path
	Path2  string // RENAME, LINK: the new path
	Name   string // UNLINK, RMDIR: the name removed; xattrs: their name
	Target string // SYMLINK: the text; UNLINK: the text that it had
	Value  []byte // SETXATTR

	ObjectBefore, ObjectAfter Gen2Stamp
	ParentBefore, ParentAfter Gen2Stamp // RENAME: of the folder left
	DestBefore, DestAfter     Gen2Stamp // RENAME: of the folder entered

	Mode, UID, GID uint32 // CLOSE: those at the time of open
	Major, Minor   uint32
	Valid          uint32 // SETATTR: bits of Linux 2.4
	Size           uint64
	Mtime, Ctime   int64 // SETATTR, nanoseconds
	Flags          uint32
	Rollback       Gen2Rollback
	Ino            uint64
	Generation     uint32
}

// Gen2Reader reads the records of an original KML in order. It is as strict as
// the format allows, where the original was not.
type Gen2Reader struct {
	r    io.Reader
	file string
	buf  []byte // not yet taken
	off  int64  // of buf[0] in the file
	seen uint64
	eof  bool
}

// NewGen2Reader reads from r, from its present place on, which counts as offset
// 0. file is used in errors.
func NewGen2Reader(r io.Reader, file string) *Gen2Reader { return &Gen2Reader{r: r, file: file} }

// Next returns the next record. At the end of the file the error is io.EOF, or a
// *TornError where the file ends inside a record. A *CorruptError ends the
// reading: there is no way to find the next record of a log without checksums.
func (g *Gen2Reader) Next() (Gen2Record, error) {
	if err := g.skipZeros(); err != nil {
		return Gen2Record{}, err
	}
	size := binary.LittleEndian.Uint32(g.buf)
	if size%4 != 0 || size < gen2Prefix+gen2Suffix || size > gen2MaxRecord {
		return Gen2Record{}, g.corrupt(fmt.Sprintf("record of impossible length %d", size))
	}
	if err := g.want(int(size)); err != nil {
		return Gen2Record{}, err
	}
	rec, err := DecodeGen2(g.buf[:size])
	if err != nil {
		if bad, ok := err.(*CorruptError); ok {
			bad.Seq = g.seen + 1
		}
		return Gen2Record{}, inFile(err, g.file, g.off)
	}
	rec.Offset = g.off
	g.buf = g.buf[size:]
	g.off += int64(size)
	g.seen++
	return rec, nil
}

// skipZeros moves to the next word that is not zero, and has it in buf. Records
// don't cross chunks, so there are zeros between them.
func (g *Gen2Reader) skipZeros() error {
	for {
		if err := g.want(4); err != nil {
			if len(bytes.Trim(g.buf, "\x00")) == 0 && g.eof {
				return io.EOF
			}
			return err
		}
		if binary.LittleEndian.Uint32(g.buf) != 0 {
			return nil
		}
		g.buf = g.buf[4:]
		g.off += 4
	}
}

// want makes buf have n bytes at least.
func (g *Gen2Reader) want(n int) error {
	for len(g.buf) < n {
		if g.eof {
			return &TornError{File: g.file, Seq: g.seen, Offset: g.off, Length: int64(len(g.buf))}
		}
		more := make([]byte, max(n, gen2MaxRecord))
		keep := copy(more, g.buf)
		got, err := io.ReadFull(g.r, more[keep:])
		g.buf = more[:keep+got]
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			g.eof = true
		default:
			return fmt.Errorf("read log: %w", err)
		}
	}
	return nil
}

func (g *Gen2Reader) corrupt(what string) error {
	return &CorruptError{File: g.file, What: what, Seq: g.seen + 1, Offset: g.off}
}

// DecodeGen2 unpacks one record, which must fill b. The record is a copy.
// Anything that the original would not have written is a *CorruptError; the
// bytes that round strings up to words may be anything, because it wrote what it
// found in memory there.
func DecodeGen2(b []byte) (Gen2Record, error) {
	c := cursor{b: b}
	var r Gen2Record
	r.Len = c.u32("length")
	if version := c.u32("version"); version != Gen2Version {
		c.fail(fmt.Sprintf("unknown version %#x", version), 4)
	}
	r.PID, r.AUID, r.FSUID, r.FSGID = c.u32("pid"), c.u32("auid"), c.u32("fsuid"), c.u32("fsgid")
	if op := c.u32("opcode"); op > uint32(opGetFileID) {
		c.fail(fmt.Sprintf("unknown opcode %d", op), 24)
	} else {
		r.Op = Op(op)
	}
	groups := c.u32("number of groups")
	if groups > gen2MaxGroups {
		c.fail(fmt.Sprintf("%d groups, at most %d are possible", groups, gen2MaxGroups), 28)
	} else if c.what == "" && groups > 0 {
		r.Groups = make([]uint32, groups)
		for i := range r.Groups {
			r.Groups[i] = c.u32("group")
		}
	}
	if c.what == "" {
		r.takeBody(&c)
	}
	r.Prevrec, r.Recno, r.Time = c.u32("prevrec"), c.u32("recno"), c.u32("time")
	at := c.off
	switch size := c.u32("length at the end"); {
	case c.what == "" && size != r.Len:
		c.fail(fmt.Sprintf("length %d at its end, %d at its start", size, r.Len), at)
	case c.what == "" && (int(r.Len) != len(b) || c.left() != 0):
		c.fail("length is not that of what it holds", 0)
	}
	if err := c.err(0); err != nil {
		return Gen2Record{}, err
	}
	return r, nil
}
