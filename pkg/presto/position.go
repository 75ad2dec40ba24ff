package presto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// position says which prefix of the order log the tree holds. It is one xattr
// of the fileset's control folder, set right after the operations it speaks of,
// so that a journalling bottom commits both in that order.
type position struct {
	applied   kml.Pos
	partial   uint32  // records of the group after applied that are in the tree too
	confirmed kml.Pos // end of our own KML as far as it is part of the order
	unbound   uint64  // no own CLOSE before this one lacks a MANIFEST
}

const positionSize = 4 + 28 + 4 + 28 + 8

func appendPos(b []byte, p kml.Pos) []byte {
	b = binary.LittleEndian.AppendUint32(b, p.Epoch)
	b = binary.LittleEndian.AppendUint64(b, p.Seq)
	return append(b, p.Chain[:]...)
}

func readPos(b []byte) kml.Pos {
	return kml.Pos{Epoch: binary.LittleEndian.Uint32(b), Seq: binary.LittleEndian.Uint64(b[4:]), Chain: kml.Chain(b[12:28])}
}

func (p *position) encode() []byte {
	b := append(make([]byte, 0, positionSize), 1, 0, 0, 0)
	b = appendPos(b, p.applied)
	b = binary.LittleEndian.AppendUint32(b, p.partial)
	b = appendPos(b, p.confirmed)
	return binary.LittleEndian.AppendUint64(b, p.unbound)
}

func (p *position) store(control *os.File) error {
	if err := unix.Fsetxattr(int(control.Fd()), cache.XattrPos, p.encode(), 0); err != nil {
		return fmt.Errorf("store position: %w", err)
	}
	return nil
}

// storePos stores the position. On the server the order log is not synced for
// every change, and the stored position must not be beyond what a power loss
// leaves of it: there it is where the log was last known to be durable.
func (fs *fileset) storePos() error {
	p := fs.pos
	if fs.server() {
		p.applied = fs.synced
	}
	return p.store(fs.control)
}

// loadPosition is the zero position where none was stored yet.
func loadPosition(control *os.File) (position, error) {
	var b [positionSize + 1]byte
	n, err := unix.Fgetxattr(int(control.Fd()), cache.XattrPos, b[:])
	if errors.Is(err, unix.ENODATA) {
		return position{}, nil
	}
	if err != nil {
		return position{}, fmt.Errorf("read position: %w", err)
	}
	if n != positionSize || b[0] != 1 {
		return position{}, fmt.Errorf("%s of the control folder: %d bytes of version %d are not a position", cache.XattrPos, n, b[0])
	}
	return position{
		applied:   readPos(b[4:]),
		partial:   binary.LittleEndian.Uint32(b[32:]),
		confirmed: readPos(b[36:]),
		unbound:   binary.LittleEndian.Uint64(b[64:]),
	}, nil
}
