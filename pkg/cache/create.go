package cache

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

const (
	// firstRoot is what the ROOT of the first fileset points to.
	firstRoot = "../.."
	// unfinished begins the name of what is being made and gets its real name when
	// it is whole. Neither a fileset nor the control folder has such a name.
	unfinished = ".new-"
)

// LostFound is the folder of e2fsck in the root of an ext4. It belongs to the
// bottom, not to the tree of the first fileset.
const LostFound = "lost+found"

// CreateOptions say what cache to make.
type CreateOptions struct {
	UUID     kml.UUID // zero: a random one
	Label    string
	Filesets []string // at least one; the tree of the first is the bottom's root
	Adopt    bool     // the first fileset has a tree already
	Created  time.Time
	Bottom   string // as Bottom.Type
}

// RemoveControl removes the control folder below root: the logs of all filesets,
// and the trees of all but the first. It ends as a cache at the first step. The
// caller has made sure that nobody has the cache open.
func RemoveControl(root *os.File) error {
	temp := unfinished + ControlDir
	if err := removeAllAt(root, temp); err != nil {
		return err
	}
	if err := unix.Renameat(int(root.Fd()), ControlDir, int(root.Fd()), temp); err != nil {
		return &os.PathError{Op: "rename", Path: ControlDir, Err: err}
	}
	if err := removeAllAt(root, temp); err != nil {
		return err
	}
	return root.Sync()
}

// NewUUID gives a random (version 4) uuid.
func NewUUID() (kml.UUID, error) {
	var u kml.UUID
	if _, err := rand.Read(u[:]); err != nil {
		return u, fmt.Errorf("make uuid: %w", err)
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u, nil
}

// Create makes a cache of the file system whose root directory is root: its
// control folder, with nothing but empty logs. The folder appears whole or not
// at all, and is durable when Create returns. An error that is os.ErrExist: there
// is one already.
func Create(root *os.File, o CreateOptions) (Info, error) {
	if len(o.Filesets) == 0 {
		return Info{}, errors.New("make cache: it needs a fileset")
	}
	if err := checkNames(o.Filesets); err != nil {
		return Info{}, err
	}
	temp := unfinished + ControlDir
	if err := removeAllAt(root, temp); err != nil { // of a Create that was killed
		return Info{}, err
	}
	info, err := createIn(root, temp, o)
	if err == nil {
		err = unix.Renameat2(int(root.Fd()), temp, int(root.Fd()), ControlDir, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return Info{}, errors.Join(fmt.Errorf("make cache on %s: %w", root.Name(), err), removeAllAt(root, temp))
	}
	if err := root.Sync(); err != nil {
		return Info{}, fmt.Errorf("sync %s: %w", root.Name(), err)
	}
	return info, nil
}

func checkNames(names []string) error {
	seen := map[string]bool{}
	for _, n := range names {
		if err := CheckFilesetName(n); err != nil {
			return err
		}
		if seen[n] {
			return fmt.Errorf("fileset name %q: given twice", n)
		}
		seen[n] = true
	}
	return nil
}

// createIn makes a whole control folder under the name temp.
func createIn(root *os.File, temp string, o CreateOptions) (Info, error) {
	if o.Created.IsZero() {
		o.Created = time.Now()
	}
	if o.UUID.IsZero() {
		var err error
		if o.UUID, err = NewUUID(); err != nil {
			return Info{}, err
		}
	}
	control, err := mkdirAt(root, temp, 0o700)
	if err != nil {
		return Info{}, err
	}
	defer control.Close()
	place, err := placeOf(control, root)
	if err != nil {
		return Info{}, err
	}
	info := Info{Format: FormatNumber, UUID: o.UUID, Label: o.Label, Created: o.Created, Bottom: o.Bottom, Place: place}
	for i, name := range o.Filesets {
		f := FilesetInfo{Name: name, Created: o.Created, Adopt: o.Adopt && i == 0}
		if err := makeFileset(control, f, i == 0, info.UUID); err != nil {
			return Info{}, err
		}
	}
	lock, err := openAt(control, LockFile, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return Info{}, err
	}
	if err := errors.Join(lock.Sync(), lock.Close()); err != nil {
		return Info{}, fmt.Errorf("make %s: %w", lock.Name(), err)
	}
	b, err := encodeInfo(info)
	if err != nil {
		return Info{}, err
	}
	return info, replaceAt(control, InfoFile, b)
}

// makeFileset makes the folder of a fileset in control, first under a temporary
// name. owner is the cache's uuid.
func makeFileset(control *os.File, f FilesetInfo, first bool, owner kml.UUID) error {
	temp := unfinished + f.Name
	if err := removeAllAt(control, temp); err != nil {
		return err
	}
	err := fillFileset(control, temp, f, first, owner)
	if err == nil {
		err = unix.Renameat2(int(control.Fd()), temp, int(control.Fd()), f.Name, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make fileset %s: %w", f.Name, err), removeAllAt(control, temp))
	}
	if err := control.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", control.Name(), err)
	}
	return nil
}

func fillFileset(control *os.File, temp string, f FilesetInfo, first bool, owner kml.UUID) error {
	dir, err := mkdirAt(control, temp, 0o700)
	if err != nil {
		return err
	}
	defer dir.Close()
	if first {
		err = unix.Symlinkat(firstRoot, int(dir.Fd()), RootName)
	} else {
		err = makeDir(dir, RootName, 0o755)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", RootName, err)
	}
	if err := makeDir(dir, StageDir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", StageDir, err)
	}
	header := kml.Header{Kind: kml.KindKML, Fileset: f.UUID, Owner: owner, Epoch: 1, Created: f.Created.UnixNano()}
	if err := makeFile(dir, KMLFile, func(k *os.File) error { return kml.Format(k, header) }); err != nil {
		return err
	}
	if err := makeFile(dir, LMLFile, func(*os.File) error { return nil }); err != nil {
		return err
	}
	return WriteFilesetInfo(dir, f)
}

func makeDir(dir *os.File, name string, mode uint32) error {
	f, err := mkdirAt(dir, name, mode)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// makeFile makes a file that is filled by fill, durably.
func makeFile(dir *os.File, name string, fill func(*os.File) error) error {
	f, err := openAt(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("make %s: %w", f.Name(), err)
	}
	return nil
}

// AddFileset makes a further, empty fileset, durably. An error that is
// os.ErrExist: there is one of that name.
func (c *Cache) AddFileset(name string) (FilesetInfo, error) {
	if err := CheckFilesetName(name); err != nil {
		return FilesetInfo{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := FilesetInfo{Name: name, Created: time.Now()}
	if err := makeFileset(c.control, f, false, c.info.UUID); err != nil {
		return FilesetInfo{}, err
	}
	f.Root = RootPath(name)
	c.filesets = append(c.filesets, f)
	return f, nil
}
