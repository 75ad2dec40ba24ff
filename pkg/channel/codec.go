package channel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// The blob of a call holds what would be bulky as JSON: lists, each a u32 count
// and the elements, little-endian, in the order of their fields.

var errBlob = errors.New("blob ends early")

type blobReader struct {
	b   []byte
	err error
}

func (r *blobReader) bytes(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.err = errBlob
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *blobReader) u8() uint8 {
	if p := r.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *blobReader) u32() uint32 {
	if p := r.bytes(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *blobReader) u64() uint64 {
	if p := r.bytes(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// count reads a number of elements of at least size bytes each, and so can't
// be made to promise more than the blob holds.
func (r *blobReader) count(size int) int {
	n := int(r.u32())
	if r.err == nil && n > len(r.b)/size {
		r.err = errBlob
	}
	if r.err != nil {
		return 0
	}
	return n
}

func (r *blobReader) done() error {
	if r.err == nil && len(r.b) > 0 {
		return fmt.Errorf("%d bytes too many in blob", len(r.b))
	}
	return r.err
}

const (
	objectBytes = 16 + 8 + 4 + 8
	posBytes    = 4 + 8 + 16
)

func appendObject(b []byte, id kml.ObjectID) []byte {
	b = append(b, id.Space[:]...)
	b = binary.LittleEndian.AppendUint64(b, id.Ino)
	b = binary.LittleEndian.AppendUint32(b, id.Gen)
	return binary.LittleEndian.AppendUint64(b, uint64(id.Birth))
}

func (r *blobReader) object() (id kml.ObjectID) {
	copy(id.Space[:], r.bytes(len(id.Space)))
	id.Ino, id.Gen, id.Birth = r.u64(), r.u32(), int64(r.u64())
	return id
}

func appendPos(b []byte, p kml.Pos) []byte {
	b = binary.LittleEndian.AppendUint32(b, p.Epoch)
	b = binary.LittleEndian.AppendUint64(b, p.Seq)
	return append(b, p.Chain[:]...)
}

func (r *blobReader) pos() (p kml.Pos) {
	p.Epoch, p.Seq = r.u32(), r.u64()
	copy(p.Chain[:], r.bytes(len(p.Chain)))
	return p
}

func appendToken(b []byte, t Token) []byte {
	b = binary.LittleEndian.AppendUint64(b, t.Ino)
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Size))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Mtime))
	return binary.LittleEndian.AppendUint64(b, uint64(t.Ctime))
}

func (r *blobReader) token() Token {
	return Token{Ino: r.u64(), Size: int64(r.u64()), Mtime: int64(r.u64()), Ctime: int64(r.u64())}
}

func encodeObjects(ids []kml.ObjectID) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(ids)*objectBytes), uint32(len(ids)))
	for _, id := range ids {
		b = appendObject(b, id)
	}
	return b
}

func decodeObjects(b []byte) ([]kml.ObjectID, error) {
	r := blobReader{b: b}
	ids := make([]kml.ObjectID, r.count(objectBytes))
	for i := range ids {
		ids[i] = r.object()
	}
	return ids, r.done()
}

const openedBytes = 32 + 8 + 4 + 1

// encodeOpened leaves out the files, which travel as descriptors in the order
// of the elements that have one.
func encodeOpened(list []Opened) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(list)*openedBytes), uint32(len(list)))
	for _, o := range list {
		b = appendToken(b, o.Token)
		b = binary.LittleEndian.AppendUint64(b, o.CloseSeq)
		b = binary.LittleEndian.AppendUint32(b, uint32(o.Errno))
		b = append(b, boolByte(o.File != nil))
	}
	return b
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// decodeOpened returns the list, and which elements want a descriptor.
func decodeOpened(b []byte) (list []Opened, hasFile []bool, err error) {
	r := blobReader{b: b}
	list = make([]Opened, r.count(openedBytes))
	hasFile = make([]bool, len(list))
	for i := range list {
		list[i].Token, list[i].CloseSeq, list[i].Errno = r.token(), r.u64(), int(r.u32())
		hasFile[i] = r.u8() == 1
	}
	return list, hasFile, r.done()
}

const bindingBytes = objectBytes + 8 + 32 + 32 + 1

func encodeBindings(list []Binding) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(list)*bindingBytes), uint32(len(list)))
	for _, e := range list {
		b = appendObject(b, e.Object)
		b = binary.LittleEndian.AppendUint64(b, e.CloseSeq)
		b = appendToken(b, e.Token)
		b = append(b, e.Content.Root[:]...)
		b = append(b, boolByte(e.Content.Inexact))
	}
	return b
}

func decodeBindings(b []byte) ([]Binding, error) {
	r := blobReader{b: b}
	list := make([]Binding, r.count(bindingBytes))
	for i := range list {
		e := &list[i]
		e.Object, e.CloseSeq, e.Token = r.object(), r.u64(), r.token()
		copy(e.Content.Root[:], r.bytes(len(e.Content.Root)))
		e.Content.Inexact = r.u8() == 1
	}
	return list, r.done()
}

func encodeBools(list []bool) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(list)), uint32(len(list)))
	for _, v := range list {
		b = append(b, boolByte(v))
	}
	return b
}

func decodeBools(b []byte) ([]bool, error) {
	r := blobReader{b: b}
	list := make([]bool, r.count(1))
	for i := range list {
		list[i] = r.u8() == 1
	}
	return list, r.done()
}

// encodeGroups writes groups, each with its length, after their positions;
// positions is empty where the call has none.
func encodeGroups(positions []kml.Pos, groups []kml.Group) ([]byte, error) {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(positions)))
	for _, p := range positions {
		b = appendPos(b, p)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(groups)))
	for i := range groups {
		at := len(b)
		b = append(b, 0, 0, 0, 0)
		var err error
		if b, err = groups[i].AppendTo(b); err != nil {
			return nil, &Error{ErrInvalid, fmt.Sprintf("group %d of the call: %v", i, err)}
		}
		binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	}
	return b, nil
}

func decodeGroups(b []byte) (positions []kml.Pos, groups []kml.Group, err error) {
	r := blobReader{b: b}
	positions = make([]kml.Pos, r.count(posBytes))
	for i := range positions {
		positions[i] = r.pos()
	}
	groups = make([]kml.Group, r.count(4))
	for i := range groups {
		body := r.bytes(int(r.u32()))
		if r.err != nil {
			break
		}
		if groups[i], err = kml.DecodeGroup(body); err != nil {
			return nil, nil, fmt.Errorf("group %d: %w", i, err)
		}
	}
	return positions, groups, r.done()
}
