package kml

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// FrameKind says what the body of a frame is.
type FrameKind uint8

const (
	FrameRecord FrameKind = 1 // in a KML
	FrameGroup  FrameKind = 2 // in an order log
)

func (k FrameKind) String() string {
	switch k {
	case FrameRecord:
		return "record"
	case FrameGroup:
		return "group"
	}
	return fmt.Sprintf("frame kind %d", uint8(k))
}

// FlagMore marks a frame whose unit goes on in the next frame.
const FlagMore uint8 = 1

// MaxFrame is the largest frame there is, in bytes with its head and tail.
const MaxFrame = 64 << 20

const (
	frameHead  = 48 // before the body
	frameTail  = 4  // after the padding
	frameAlign = 8
	frameMin   = frameHead + frameAlign // a body is never empty

	maxBody = MaxFrame - frameHead - frameTail
)

// Frame is one frame of a log. Pos is the position after it: its own number and
// chain value. Body is valid until the next call of the Reader it came from.
type Frame struct {
	Pos    Pos
	Kind   FrameKind
	Flags  uint8
	Time   int64 // wall clock when it was appended, nanoseconds
	Body   []byte
	Offset int64 // where it begins in the file
}

// Size is the number of bytes the frame takes in the file.
func (f *Frame) Size() int64 { return frameSize(len(f.Body)) }

// Record decodes the body of a frame of kind FrameRecord, as a copy.
func (f *Frame) Record() (Record, error) {
	if f.Kind != FrameRecord {
		return Record{}, fmt.Errorf("read record: frame %d is a %v", f.Pos.Seq, f.Kind)
	}
	r, err := DecodeRecord(f.Body)
	r.Seq = f.Pos.Seq
	return r, err
}

// Group decodes the body of a frame of kind FrameGroup, as a copy.
func (f *Frame) Group() (Group, error) {
	if f.Kind != FrameGroup {
		return Group{}, fmt.Errorf("read group: frame %d is a %v", f.Pos.Seq, f.Kind)
	}
	return DecodeGroup(f.Body)
}

// frameSize is what a body of n bytes takes in the file.
func frameSize(n int) int64 {
	return int64(frameHead+n+frameTail+frameAlign-1) &^ (frameAlign - 1)
}

// frameSizeOf is what a frame with the length field n takes in the file, or 0
// where n is none.
func frameSizeOf(n uint32) int64 {
	if n <= frameHead+frameTail || n > MaxFrame {
		return 0
	}
	return frameSize(int(n) - frameHead - frameTail)
}

// frameKind is the kind of all frames of a log of kind k.
func (k Kind) frameKind() FrameKind {
	if k == KindOrder {
		return FrameGroup
	}
	return FrameRecord
}

// framer makes and checks the frames of one log.
type framer struct {
	tag   uint32
	epoch uint32
	kind  FrameKind
	crc   *crc32.Table
	file  string // for errors
}

func newFramer(h *Header, file string) framer {
	return framer{tag: h.tag(), epoch: h.Epoch, kind: h.Kind.frameKind(), crc: castagnoli(), file: file}
}

// chainHead writes what a chain value covers before the body: 32 bytes.
func (fr *framer) chainHead(b []byte, before *Chain, seq uint64) {
	copy(b, before[:])
	binary.LittleEndian.PutUint32(b[16:], fr.epoch)
	binary.LittleEndian.PutUint32(b[20:], uint32(fr.kind))
	binary.LittleEndian.PutUint64(b[24:], seq)
}

// appendFrame appends a frame with the number after before to b.
func (fr *framer) appendFrame(b []byte, before Pos, flags uint8, now int64, body []byte) ([]byte, Pos) {
	start, size := len(b), int(frameSize(len(body)))
	b = append(b, make([]byte, frameHead)...)
	b = append(b, body...)
	b = append(b, make([]byte, start+size-len(b))...)
	frame := b[start:]

	// The hash wants its 32 bytes right before the body, where the head will be.
	pos := Pos{Epoch: fr.epoch, Seq: before.Seq + 1}
	fr.chainHead(frame[frameHead-32:], &before.Chain, pos.Seq)
	sum := sha256.Sum256(frame[frameHead-32 : frameHead+len(body)])
	pos.Chain = Chain(sum[:16])

	le := binary.LittleEndian
	n := uint32(frameHead + len(body) + frameTail)
	le.PutUint32(frame, n)
	le.PutUint32(frame[8:], uint32(fr.kind)|uint32(flags)<<8)
	le.PutUint32(frame[12:], fr.tag)
	le.PutUint64(frame[16:], pos.Seq)
	le.PutUint64(frame[24:], uint64(now))
	copy(frame[32:], pos.Chain[:])
	le.PutUint32(frame[4:], crc32.Checksum(frame[8:size-frameTail], fr.crc))
	le.PutUint32(frame[size-frameTail:], n)
	return b, pos
}

// parse reads the frame at the start of b, which has it whole, as its length
// field says: b is exactly frameSizeOf(n) bytes. The chain value is not checked.
// what says what is wrong, "" if nothing is.
func (fr *framer) parse(b []byte) (f Frame, what string) {
	le := binary.LittleEndian
	n, tail := int(le.Uint32(b)), len(b)-frameTail
	word := le.Uint32(b[8:])
	switch {
	case le.Uint32(b[tail:]) != uint32(n):
		return f, "length at its end differs from the one at its start"
	case le.Uint32(b[4:]) != crc32.Checksum(b[8:tail], fr.crc):
		return f, "checksum does not match"
	case le.Uint32(b[12:]) != fr.tag:
		return f, "frame is of another log"
	case FrameKind(word) != fr.kind:
		return f, fmt.Sprintf("%v in a log that has none", FrameKind(word))
	case word>>16 != 0 || uint8(word>>8)&^FlagMore != 0:
		return f, "unknown flags"
	}
	for _, pad := range b[n-frameTail : tail] {
		if pad != 0 {
			return f, "padding is not zero"
		}
	}
	f = Frame{
		Pos:   Pos{Epoch: fr.epoch, Seq: le.Uint64(b[16:]), Chain: Chain(b[32:48])},
		Kind:  fr.kind,
		Flags: uint8(word >> 8),
		Time:  int64(le.Uint64(b[24:])),
		Body:  b[frameHead : n-frameTail : n-frameTail],
	}
	return f, ""
}

// follows checks that f, just parsed from the frame b, comes right after before:
// number and chain value. b is used as scratch and restored. what is "" if it does.
func (fr *framer) follows(f *Frame, b []byte, before Pos) (what string) {
	if f.Pos.Seq != before.Seq+1 {
		return fmt.Sprintf("has number %d where %d is due", f.Pos.Seq, before.Seq+1)
	}
	var saved [32]byte
	head := b[frameHead-32 : frameHead]
	copy(saved[:], head)
	fr.chainHead(head, &before.Chain, f.Pos.Seq)
	sum := sha256.Sum256(b[frameHead-32 : frameHead+len(f.Body)])
	copy(head, saved[:])
	if f.Pos.Chain != Chain(sum[:16]) {
		return "chain value does not follow from the frame before"
	}
	return ""
}
