package kml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// Kind says which of the two logs a file is.
type Kind uint8

const (
	KindKML   Kind = 1 // records, numbered by the cache that made them
	KindOrder Kind = 2 // groups, numbered by the sequencer
)

func (k Kind) String() string {
	switch k {
	case KindKML:
		return "kml"
	case KindOrder:
		return "order"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Header is what a log file says of itself. It never changes after Format.
type Header struct {
	Kind    Kind
	Fileset UUID   // zero on a client that has not met its server
	Owner   UUID   // the cache whose file this is
	Epoch   uint32 // of every frame in the file
	Base    Pos    // the position before the first frame; its epoch may be an earlier one
	Created int64  // wall clock, nanoseconds
}

const (
	// LogVersion is the version of the log file's format.
	LogVersion = 1

	headerSize = 4096
	logMagic   = "\x89IZOLOG\n"
)

// castagnoli returns the table of CRC-32C; the library makes it once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Format makes an empty log of f, which must be an empty file open for writing,
// and makes it durable; that the folder names the file is for the caller to make
// durable. A Base of number 0 takes the epoch of the log.
func Format(f *os.File, h Header) error {
	if h.Kind != KindKML && h.Kind != KindOrder {
		return fmt.Errorf("format log %s: unknown %v", f.Name(), h.Kind)
	}
	if h.Base.Seq == 0 {
		if h.Base.Chain != (Chain{}) {
			return fmt.Errorf("format log %s: base has number 0 and a chain value", f.Name())
		}
		h.Base.Epoch = h.Epoch
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("format log: %w", err)
	}
	if st.Size() != 0 {
		return fmt.Errorf("format log %s: the file is not empty (%d bytes)", f.Name(), st.Size())
	}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return fmt.Errorf("format log: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("format log: %w", err)
	}
	return nil
}

func (h *Header) encode() []byte {
	b := make([]byte, headerSize)
	le := binary.LittleEndian
	copy(b, logMagic)
	le.PutUint32(b[8:], LogVersion)
	le.PutUint32(b[12:], uint32(h.Kind))
	copy(b[16:], h.Fileset[:])
	copy(b[32:], h.Owner[:])
	le.PutUint32(b[48:], h.Epoch)
	le.PutUint32(b[52:], headerSize)
	le.PutUint64(b[56:], h.Base.Seq)
	copy(b[64:], h.Base.Chain[:])
	le.PutUint32(b[80:], h.Base.Epoch)
	le.PutUint64(b[88:], uint64(h.Created))
	le.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli()))
	return b
}

// decodeHeader reads a header. The error is a *CorruptError without file name,
// or ErrVersion. Whatever later versions do, magic number, version and checksum
// stay where they are.
func decodeHeader(b []byte) (Header, error) {
	bad := func(what string, at int64) (Header, error) {
		return Header{}, &CorruptError{What: what, Offset: at}
	}
	if len(b) < headerSize {
		return bad(fmt.Sprintf("header is cut off after %d of %d bytes", len(b), headerSize), 0)
	}
	le := binary.LittleEndian
	if string(b[:8]) != logMagic {
		return bad("this is not a log: wrong magic number", 0)
	}
	if crc := crc32.Checksum(b[:headerSize-4], castagnoli()); crc != le.Uint32(b[headerSize-4:]) {
		return bad("checksum of the header does not match", headerSize-4)
	}
	if v := le.Uint32(b[8:]); v != LogVersion {
		return Header{}, fmt.Errorf("%w: it has version %d, this program knows %d", ErrVersion, v, LogVersion)
	}
	h := Header{
		Kind:    Kind(b[12]),
		Epoch:   le.Uint32(b[48:]),
		Base:    Pos{Epoch: le.Uint32(b[80:]), Seq: le.Uint64(b[56:])},
		Created: int64(le.Uint64(b[88:])),
	}
	copy(h.Fileset[:], b[16:])
	copy(h.Owner[:], b[32:])
	copy(h.Base.Chain[:], b[64:])
	// What a header of this version would not have says that it is not one.
	if h.Kind != KindKML && h.Kind != KindOrder {
		return bad("unknown kind of log", 12)
	}
	if again := h.encode(); string(again) != string(b[:headerSize]) {
		return bad("header has something that its version does not", 0)
	}
	if h.Base.Seq == 0 && (h.Base.Chain != Chain{} || h.Base.Epoch != h.Epoch) {
		return bad("base of the log contradicts itself", 56)
	}
	return h, nil
}

// readHeader reads the header of f.
func readHeader(f *os.File) (Header, error) {
	b := make([]byte, headerSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return Header{}, fmt.Errorf("read log: %w", err)
	}
	h, err := decodeHeader(b[:n])
	if errors.Is(err, ErrVersion) {
		return Header{}, fmt.Errorf("log %s: %w", f.Name(), err)
	}
	return h, inFile(err, f.Name(), 0)
}

// tag is carried by every frame of the log, so that a frame of another log that
// lies in the file, in the body of a record or as a leftover on the disk, is
// not taken for one of this.
func (h *Header) tag() uint32 {
	b := h.encode()
	return crc32.Checksum(b[12:52], castagnoli()) // kind, fileset, owner, epoch
}

// inFile completes a *CorruptError of a frame or header that lies in a file.
func inFile(err error, file string, offset int64) error {
	if bad, ok := err.(*CorruptError); ok {
		bad.File = file
		bad.Offset += offset
	}
	return err
}
