package presto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// index maps the ids of objects that are not native to their inodes. It is
// derived from the xattrs and may be deleted. Changes go to a journal first,
// with one plain write, so that they survive the death of this process, and to
// the table many at a time.
type index struct {
	mu      sync.Mutex
	path    string
	db      *bolt.DB
	journal *os.File
	size    int64
	fresh   map[kml.ObjectID]handle // journalled and not yet in the table; zero handle: removed
}

var (
	bucketIDs  = []byte("ids")
	bucketMeta = []byte("meta")
	keyBoot    = []byte("boot")
)

const (
	journalEntry = idSize + 12 + 4
	flushAt      = 8192
)

// openIndex opens the table at path with its journal, which it takes over if it
// succeeds. Complete is false where entries may lack and the caller has to
// rebuild: it was made new, is damaged, or the machine went down before it was
// closed.
func openIndex(path string, journal *os.File, boot string) (ix *index, complete bool, err error) {
	for range 2 {
		ix, complete, err = tryIndex(path, journal, boot)
		if !errors.Is(err, errDamaged) {
			return ix, complete, err
		}
		// tryIndex has put the damaged table aside.
	}
	return nil, false, err
}

func tryIndex(path string, journal *os.File, boot string) (*index, bool, error) {
	db, made, err := openTable(path)
	if err != nil {
		return nil, false, err
	}
	ix := &index{path: path, db: db, journal: journal, fresh: map[kml.ObjectID]handle{}}
	complete := !made
	err = ix.guarded(db.Update, func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketIDs, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		m := tx.Bucket(bucketMeta)
		if was := string(m.Get(keyBoot)); was != "" && was != boot {
			complete = false
		}
		return m.Put(keyBoot, []byte(boot))
	})
	if err == nil {
		err = ix.replay()
	}
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("open index of object ids: %w", err), db.Close())
	}
	return ix, complete, nil
}

func openTable(path string) (*bolt.DB, bool, error) {
	_, err := os.Stat(path)
	made := errors.Is(err, os.ErrNotExist)
	// The free list is in the file: finding it by a scan would panic on a damaged
	// page in a goroutine of bolt's own.
	opts := &bolt.Options{FreelistType: bolt.FreelistMapType, NoSync: true}
	db, err := openBolt(path, opts)
	if err == nil {
		return db, made, nil
	}
	// Derived, so a damaged one is put aside and made again.
	if err := os.Rename(path, path+".bad"); err != nil {
		return nil, false, fmt.Errorf("put damaged index aside: %w", err)
	}
	db, err = openBolt(path, opts)
	if err != nil {
		return nil, false, fmt.Errorf("make index of object ids: %w", err)
	}
	return db, true, nil
}

// errDamaged is a table that can't be used any more. It is made again at the next
// mount.
var errDamaged = errors.New("index of object ids is damaged")

// guarded runs a transaction. A panic in it, which is what a damaged page leads
// to, is an error, and the table is put aside.
func (ix *index) guarded(run func(func(*bolt.Tx) error) error, do func(*bolt.Tx) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.Join(fmt.Errorf("%w: %v", errDamaged, r), os.Rename(ix.path, ix.path+".bad"))
		}
	}()
	return run(do)
}

// openBolt turns the panics that a damaged file causes into an error.
func openBolt(path string, opts *bolt.Options) (db *bolt.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s is damaged: %v", path, r)
		}
	}()
	return bolt.Open(path, 0o600, opts)
}

// replay takes over what the journal has; a torn last entry is cut.
func (ix *index) replay() error {
	b, err := io.ReadAll(io.NewSectionReader(ix.journal, 0, 1<<30))
	if err != nil {
		return fmt.Errorf("read journal of the index: %w", err)
	}
	le := binary.LittleEndian
	for len(b) >= journalEntry {
		e := b[:journalEntry]
		if crc32.ChecksumIEEE(e[:journalEntry-4]) != le.Uint32(e[journalEntry-4:]) {
			break
		}
		ix.fresh[readID(e)] = handle{le.Uint64(e[idSize:]), le.Uint32(e[idSize+8:])}
		ix.size += journalEntry
		b = b[journalEntry:]
	}
	return ix.flush()
}

func (ix *index) put(id kml.ObjectID, h handle) error { return ix.note(id, h) }

// remove takes the entry out if it still says that id is at h.
func (ix *index) remove(id kml.ObjectID, h handle) error {
	now, ok, err := ix.get(id)
	if err != nil || !ok || now != h {
		return err
	}
	return ix.note(id, handle{})
}

func (ix *index) note(id kml.ObjectID, h handle) error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	e := make([]byte, 0, journalEntry)
	e = appendID(e, id)
	e = binary.LittleEndian.AppendUint64(e, h.ino)
	e = binary.LittleEndian.AppendUint32(e, h.gen)
	e = binary.LittleEndian.AppendUint32(e, crc32.ChecksumIEEE(e))
	if _, err := ix.journal.WriteAt(e, ix.size); err != nil {
		return fmt.Errorf("write journal of the index: %w", err)
	}
	ix.size += journalEntry
	ix.fresh[id] = h
	if len(ix.fresh) < flushAt {
		return nil
	}
	return ix.flush()
}

func (ix *index) get(id kml.ObjectID) (handle, bool, error) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if h, ok := ix.fresh[id]; ok {
		return h, h != handle{}, nil
	}
	var h handle
	var ok bool
	err := ix.guarded(ix.db.View, func(tx *bolt.Tx) error {
		var key [idSize]byte
		v := tx.Bucket(bucketIDs).Get(appendID(key[:0], id))
		if len(v) == 12 {
			h, ok = handle{binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint32(v[8:])}, true
		}
		return nil
	})
	return h, ok, err
}

// flush moves the journal into the table. Called with the lock, or alone.
func (ix *index) flush() error {
	if len(ix.fresh) > 0 {
		err := ix.guarded(ix.db.Update, func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketIDs)
			for id, h := range ix.fresh {
				key := appendID(nil, id)
				if h == (handle{}) {
					if err := b.Delete(key); err != nil {
						return err
					}
					continue
				}
				v := binary.LittleEndian.AppendUint64(nil, h.ino)
				if err := b.Put(key, binary.LittleEndian.AppendUint32(v, h.gen)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("write index of object ids: %w", err)
		}
	}
	if err := ix.journal.Truncate(0); err != nil {
		return fmt.Errorf("empty journal of the index: %w", err)
	}
	ix.size = 0
	clear(ix.fresh)
	return nil
}

// close writes everything. The next openIndex finds it complete.
func (ix *index) close() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	err := ix.flush()
	err = errors.Join(err, ix.guarded(ix.db.Update, func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyBoot, nil)
	}), ix.db.Sync(), ix.db.Close(), ix.journal.Close())
	return err
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return string(b)
}
