package presto

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"sync"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// lml is the local modification log: what was under way when this process died.
// It is a file of slots of 1 KiB. An intent is written into a slot before its
// operation touches the tree, and cleared after its record is in the KML or it
// failed; a file being written has a slot from its first open for write until
// its last CLOSE is logged. One plain write each way.
//
// Slot: crc32 u32 over the rest up to the length, length u16, kind u8 (0 free,
// 1 intent, 2 being written), zero u8, payload.
type lml struct {
	f    *os.File
	mu   sync.Mutex
	free []int
	next int
}

const (
	slotSize    = 1024
	slotFree    = 0
	slotIntent  = 1
	slotWriting = 2
)

// intent is an operation about to be done, with what it takes to decide from
// the tree whether it was.
type intent struct {
	op               kml.Op
	flags            uint8
	time             int64  // of the record, which no other record has
	after            uint64 // end of the KML when the operation began
	pid, uid, gid    uint32 // of the caller
	parent, toParent handle
	object, replaced handle
	objectID         kml.ObjectID
	replacedID       kml.ObjectID
	mode, owner, grp uint32 // that a new object ends up with, or a SETATTR sets
	valid            kml.Valid
	name, toName     string // names, or the xattr's name
}

const (
	intentLast         = 1 // the name removed is the last of the object
	intentReplacedLast = 2
)

// openFile is an inode being written.
type openFile struct {
	h    handle
	id   kml.ObjectID
	cred kml.Cred
	was  kml.Version
	hint kml.Name
}

type slot struct {
	n    int
	kind byte
	body []byte
}

// openLML reads the slots that were in use.
func openLML(f *os.File) (*lml, []slot, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	l := &lml{f: f, next: int((st.Size() + slotSize - 1) / slotSize)}
	var live []slot
	buf := make([]byte, slotSize)
	for n := 0; n < l.next; n++ {
		if _, err := f.ReadAt(buf, int64(n)*slotSize); err != nil && n < l.next-1 {
			return nil, nil, fmt.Errorf("read lml slot %d: %w", n, err)
		}
		if kind, body, ok := parseSlot(buf); ok && kind != slotFree {
			live = append(live, slot{n, kind, append([]byte(nil), body...)})
			continue
		}
		l.free = append(l.free, n)
	}
	return l, live, nil
}

func parseSlot(b []byte) (kind byte, body []byte, ok bool) {
	n := int(binary.LittleEndian.Uint16(b[4:]))
	if n > slotSize-8 || crc32.ChecksumIEEE(b[4:8+n]) != binary.LittleEndian.Uint32(b) {
		return 0, nil, false
	}
	return b[6], b[8 : 8+n], true
}

// take writes a slot and returns its number.
func (l *lml) take(kind byte, body []byte) (int, error) {
	l.mu.Lock()
	var n int
	if k := len(l.free); k > 0 {
		n, l.free = l.free[k-1], l.free[:k-1]
	} else {
		n = l.next
		l.next++
	}
	l.mu.Unlock()
	if err := l.write(n, kind, body); err != nil {
		l.release(n)
		return -1, err
	}
	return n, nil
}

// write fills a slot that is in use.
func (l *lml) write(n int, kind byte, body []byte) error {
	var b [slotSize]byte
	binary.LittleEndian.PutUint16(b[4:], uint16(len(body)))
	b[6] = kind
	copy(b[8:], body)
	binary.LittleEndian.PutUint32(b[:], crc32.ChecksumIEEE(b[4:8+len(body)]))
	if _, err := l.f.WriteAt(b[:8+len(body)], int64(n)*slotSize); err != nil {
		return fmt.Errorf("write lml: %w", err)
	}
	return nil
}

var emptySlot [8]byte

// clear frees a slot. An error can only mean that recovery looks at an
// operation that is done; it is decided from the tree again and found so.
func (l *lml) clear(n int) error {
	_, err := l.f.WriteAt(emptySlot[:], int64(n)*slotSize)
	l.release(n)
	return err
}

func (l *lml) release(n int) {
	l.mu.Lock()
	l.free = append(l.free, n)
	l.mu.Unlock()
}

func (l *lml) close() error { return l.f.Close() }

func appendHandle(b []byte, h handle) []byte {
	b = binary.LittleEndian.AppendUint64(b, h.ino)
	return binary.LittleEndian.AppendUint32(b, h.gen)
}

func appendName(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...)
}

func (in *intent) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, 256)
	b = append(b, byte(in.op), in.flags)
	for _, v := range []uint32{in.pid, in.uid, in.gid, in.mode, in.owner, in.grp, uint32(in.valid)} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, uint64(in.time))
	b = le.AppendUint64(b, in.after)
	for _, h := range []handle{in.parent, in.toParent, in.object, in.replaced} {
		b = appendHandle(b, h)
	}
	b = appendID(appendID(b, in.objectID), in.replacedID)
	return appendName(appendName(b, in.name), in.toName)
}

// reader takes fixed fields off a slot; short is set instead of reading beyond.
type slotReader struct {
	b     []byte
	short bool
}

func (r *slotReader) take(n int) []byte {
	if len(r.b) < n {
		r.short = true
		return make([]byte, n)
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *slotReader) u32() uint32      { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *slotReader) i64() int64       { return int64(binary.LittleEndian.Uint64(r.take(8))) }
func (r *slotReader) id() kml.ObjectID { return readID(r.take(idSize)) }
func (r *slotReader) handle() handle {
	p := r.take(12)
	return handle{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:])}
}
func (r *slotReader) name() string {
	n := binary.LittleEndian.Uint16(r.take(2))
	return string(r.take(int(n)))
}

func decodeIntent(b []byte) (in intent, ok bool) {
	r := &slotReader{b: b}
	p := r.take(2)
	in.op, in.flags = kml.Op(p[0]), p[1]
	in.pid, in.uid, in.gid = r.u32(), r.u32(), r.u32()
	in.mode, in.owner, in.grp, in.valid = r.u32(), r.u32(), r.u32(), kml.Valid(r.u32())
	in.time, in.after = r.i64(), uint64(r.i64())
	in.parent, in.toParent, in.object, in.replaced = r.handle(), r.handle(), r.handle(), r.handle()
	in.objectID, in.replacedID = r.id(), r.id()
	in.name, in.toName = r.name(), r.name()
	return in, !r.short && len(r.b) == 0
}

func (o *openFile) encode() []byte {
	le := binary.LittleEndian
	b := appendHandle(make([]byte, 0, 256), o.h)
	b = appendID(b, o.id)
	for _, v := range []uint32{o.cred.PID, o.cred.AUID, o.cred.FSUID, o.cred.FSGID} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range []int64{o.was.Size, o.was.Mtime, o.was.Ctime} {
		b = le.AppendUint64(b, uint64(v))
	}
	b = appendID(b, o.hint.Parent)
	return appendName(b, o.hint.Name)
}

func decodeOpenFile(b []byte) (o openFile, ok bool) {
	r := &slotReader{b: b}
	o.h, o.id = r.handle(), r.id()
	o.cred = kml.Cred{PID: r.u32(), AUID: r.u32(), FSUID: r.u32(), FSGID: r.u32()}
	o.was = kml.Version{Size: r.i64(), Mtime: r.i64(), Ctime: r.i64()}
	o.hint.Parent = r.id()
	o.hint.Name = r.name()
	return o, !r.short && len(r.b) == 0
}
