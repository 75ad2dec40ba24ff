package presto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// The value of the id xattr, 60 bytes so that it fits into the spare room of a
// 256-byte inode: version, 3 bytes zero, the id (space 16, ino 8, gen 4, birth
// 8), and the stamp of the inode that it was given to (ino 8, gen 4, birth 8).
// A stray copy of the xattr on another inode does not match its stamp and counts
// as none.
const (
	idXattrSize    = 60
	idXattrVersion = 1
)

func encodeIDXattr(id kml.ObjectID, h handle, birth int64) []byte {
	b := make([]byte, 4, idXattrSize)
	b[0] = idXattrVersion
	b = appendID(b, id)
	b = binary.LittleEndian.AppendUint64(b, h.ino)
	b = binary.LittleEndian.AppendUint32(b, h.gen)
	return binary.LittleEndian.AppendUint64(b, uint64(birth))
}

// decodeIDXattr is false where the xattr is not for this inode.
func decodeIDXattr(b []byte, h handle, birth int64) (kml.ObjectID, bool) {
	if len(b) != idXattrSize || b[0] != idXattrVersion {
		return kml.ObjectID{}, false
	}
	id := readID(b[4:])
	le := binary.LittleEndian
	s := b[40:]
	ok := le.Uint64(s) == h.ino && le.Uint32(s[8:]) == h.gen && int64(le.Uint64(s[12:])) == birth
	return id, ok && !id.IsZero()
}

const idSize = 36

func appendID(b []byte, id kml.ObjectID) []byte {
	b = append(b, id.Space[:]...)
	b = binary.LittleEndian.AppendUint64(b, id.Ino)
	b = binary.LittleEndian.AppendUint32(b, id.Gen)
	return binary.LittleEndian.AppendUint64(b, uint64(id.Birth))
}

func readID(b []byte) kml.ObjectID {
	le := binary.LittleEndian
	return kml.ObjectID{Space: kml.UUID(b[:16]), Ino: le.Uint64(b[16:]), Gen: le.Uint32(b[24:]), Birth: int64(le.Uint64(b[28:]))}
}

// ids knows which object an inode is, and where an object lies.
type ids struct {
	b      *bottom
	space  kml.UUID
	index  *index
	minted *mint
	known  *lru[handle, kml.ObjectID]
	roots  map[handle]bool

	mu     sync.Mutex // of the births below
	tick   int64
	births map[handle]struct{}
}

func newIDs(b *bottom, space kml.UUID, ix *index, m *mint) *ids {
	return &ids{b: b, space: space, index: ix, minted: m, known: newLRU[handle, kml.ObjectID](16384, nil), births: map[handle]struct{}{}, roots: map[handle]bool{}}
}

// native is the id of an inode that carries no other.
func (s *ids) native(h handle, birth int64) kml.ObjectID {
	return kml.ObjectID{Space: s.space, Ino: h.ino, Gen: h.gen, Birth: birth}
}

// born gives the id of an inode that an application has just made. Inode
// numbers and generations repeat; where a pair repeats within one tick of the
// birth clock the id would too, and the inode gets a minted one.
func (s *ids) born(h handle, fd int, birth int64) (kml.ObjectID, error) {
	s.mu.Lock()
	if birth != s.tick {
		s.tick = birth
		clear(s.births)
	}
	_, again := s.births[h]
	s.births[h] = struct{}{}
	s.mu.Unlock()
	id := s.native(h, birth)
	if again {
		minted, err := s.mint()
		if err != nil {
			return id, err
		}
		id = minted
		if err := s.give(fd, h, birth, id); err != nil {
			return id, err
		}
	}
	s.known.put(h, id)
	return id, nil
}

// pin makes h a root: the object that has the same id everywhere. Before anything
// is served.
func (s *ids) pin(h handle) { s.roots[h] = true }

// mint makes an id that is no inode's.
func (s *ids) mint() (kml.ObjectID, error) {
	n, err := s.minted.next()
	if err != nil {
		return kml.ObjectID{}, err
	}
	return kml.ObjectID{Space: s.space, Birth: n}, nil
}

// give makes an inode be the object id from now on.
func (s *ids) give(fd int, h handle, birth int64, id kml.ObjectID) error {
	if err := unix.Setxattr(procPath(fd), cache.XattrID, encodeIDXattr(id, h, birth), 0); err != nil {
		return fmt.Errorf("set object id: %w", err)
	}
	s.known.put(h, id)
	return s.index.put(id, h)
}

// of says which object the open inode is.
func (s *ids) of(fd int, h handle, birth int64) (kml.ObjectID, error) {
	if s.roots[h] {
		return kml.RootID, nil
	}
	if id, ok := s.known.get(h); ok {
		return id, nil
	}
	var buf [idXattrSize + 1]byte
	n, err := unix.Getxattr(procPath(fd), cache.XattrID, buf[:])
	id := s.native(h, birth)
	switch {
	case err == nil:
		if x, ok := decodeIDXattr(buf[:n], h, birth); ok {
			id = x
		}
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ERANGE):
	default:
		return id, fmt.Errorf("read object id: %w", err)
	}
	s.known.put(h, id)
	return id, nil
}

// ofHandle is of for an inode that is not open.
func (s *ids) ofHandle(h handle) (kml.ObjectID, error) {
	if s.roots[h] {
		return kml.RootID, nil
	}
	if id, ok := s.known.get(h); ok {
		return id, nil
	}
	fd, err := s.b.open(h, unix.O_PATH)
	if err != nil {
		return kml.ObjectID{}, err
	}
	defer unix.Close(fd)
	st, err := statFD(fd)
	if err != nil {
		return kml.ObjectID{}, err
	}
	return s.of(fd, h, nanos(st.Btime))
}

// find opens the inode that is the object, O_PATH. ENOENT if it is nowhere.
func (s *ids) find(id kml.ObjectID) (int, handle, error) {
	h, ok, err := s.index.get(id)
	if err != nil {
		return -1, h, err
	}
	if !ok {
		if id.Space != s.space || id.Ino == 0 {
			return -1, h, unix.ENOENT
		}
		h = handle{id.Ino, id.Gen}
	}
	fd, err := s.b.open(h, unix.O_PATH)
	if err != nil {
		if err == unix.ESTALE {
			err = unix.ENOENT
		}
		return -1, h, err
	}
	st, err := statFD(fd)
	if err == nil {
		var is kml.ObjectID
		if is, err = s.of(fd, h, nanos(st.Btime)); err == nil && is != id {
			err = unix.ENOENT // the inode took over another identity, or is another one
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, h, err
	}
	return fd, h, nil
}

// gone forgets an inode whose last name was removed.
func (s *ids) gone(id kml.ObjectID, h handle) error {
	s.known.remove(h)
	if id == s.native(h, id.Birth) {
		return nil
	}
	return s.index.remove(id, h)
}
