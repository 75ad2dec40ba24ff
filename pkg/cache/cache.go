package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Cache is an open cache, owned by this process.
type Cache struct {
	bottom  *Bottom
	control *os.File
	lock    *os.File
	copied  string

	mu       sync.Mutex // guards what follows
	info     Info
	filesets []FilesetInfo
	open     map[*Fileset]struct{}
}

// Fileset is a fileset of an open cache. Its files belong to it; Close of the
// Cache closes them too.
type Fileset struct {
	Info    FilesetInfo
	Control *os.File // the fileset's control folder
	Root    *os.File // the root of its tree
	cache   *Cache
}

// Open opens the cache at source, a block device, an image file or a folder, and
// becomes its owner. Errors are *Error with ErrNotCache, ErrInUse (PID is who
// has it), ErrNewer, ErrCopied, ErrBottom or ErrDamaged, or what the system
// said; nothing has changed then. It blocks while the kernel replays a journal.
func Open(ctx context.Context, source string, o Options) (*Cache, error) {
	b, err := mountReadOnly(ctx, source, o)
	if err != nil {
		return nil, err
	}
	c, err := openOn(b, o)
	if err != nil {
		if cerr := b.Close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		return nil, err
	}
	return c, nil
}

// openOn opens the cache on b, which stays the caller's if that goes wrong.
func openOn(b *Bottom, o Options) (*Cache, error) {
	c := &Cache{bottom: b, open: map[*Fileset]struct{}{}}
	steps := []func() error{c.openControl, c.takeLock, c.readInfo, func() error { return c.checkPlace(o) }, c.load}
	if !o.readOnly() {
		steps = append(steps, b.MakeWritable, c.showOwner)
	}
	steps = append(steps, func() error { return b.Check(c.control) })
	for _, step := range steps {
		if err := step(); err != nil {
			c.closeFiles()
			return nil, err
		}
	}
	return c, nil
}

func (c *Cache) fault(kind error, format string, args ...any) error {
	return &Error{Source: c.bottom.source, Kind: kind, Detail: fmt.Sprintf(format, args...)}
}

func (c *Cache) openControl() error {
	f, err := openDirAt(c.bottom.root, ControlDir)
	switch {
	case errors.Is(err, unix.ENOENT):
		return c.fault(ErrNotCache, "not a cache: it has no folder %s; format it with: mkizofs %s", ControlDir, c.bottom.source)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return c.fault(ErrNotCache, "not a cache: its %s is not a folder; move that away, and format it with: mkizofs %s", ControlDir, c.bottom.source)
	case err != nil:
		return err
	}
	c.control = f
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return c.fault(ErrDamaged, "its %s can be changed by users; if you trust what is in it: chown root and chmod 700", ControlDir)
	}
	return nil
}

// takeLock makes us the owner: nobody else is, and nobody becomes it.
func (c *Cache) takeLock() error {
	lock, err := openAt(c.control, LockFile, unix.O_RDONLY, 0)
	if errors.Is(err, unix.ENOENT) {
		return c.fault(ErrNotCache, "not a cache: %s has no file %s; format it with: mkizofs %s", ControlDir, LockFile, c.bottom.source)
	}
	if err != nil {
		return err
	}
	c.lock = lock
	err = flock(lock)
	if errors.Is(err, unix.EWOULDBLOCK) {
		pid := lockOwner(lock)
		return &Error{Source: c.bottom.source, Kind: ErrInUse, PID: pid, Detail: inUseText("in use", pid, "another process has the cache open; unmount the cache first")}
	}
	if err != nil {
		return fmt.Errorf("lock cache %s: %w", c.bottom.source, err)
	}
	return nil
}

// showOwner tells others who we are. It is only for their messages, so it need
// not be durable.
func (c *Cache) showOwner() error {
	f, err := openAt(c.control, LockFile, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(writePID(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return nil
}

// checkPlace makes sure that the cache was not copied, or that this is accepted.
func (c *Cache) checkPlace(o Options) error {
	place, err := placeOf(c.control, c.bottom.root)
	if err != nil {
		return err
	}
	if c.copied = place.differs(c.info.Place); c.copied != "" && !o.AcceptCopy {
		return c.fault(ErrCopied, "a copy of another cache, or restored: %s; a copy must not pass for the original: mount that one, "+
			"or say that this one is to go on as a new cache", c.copied)
	}
	return nil
}

func (c *Cache) readInfo() error {
	b, err := readAt(c.control, InfoFile)
	if errors.Is(err, unix.ENOENT) {
		return c.fault(ErrNotCache, "not a cache: %s has no file %s; format it with: mkizofs %s", ControlDir, InfoFile, c.bottom.source)
	}
	if err != nil {
		return err
	}
	c.info, err = decodeInfo(b)
	if errors.Is(err, ErrNewer) {
		return c.fault(ErrNewer, "a cache of format %d, and this program knows formats up to %d; use a newer InterMezzo", c.info.Format, FormatNumber)
	}
	if err != nil {
		return c.fault(ErrDamaged, "%s/%s: %v; restore that file", ControlDir, InfoFile, err)
	}
	return nil
}

// Describe tells what cache is on b, without becoming its owner: its filesets
// may change at any time. Errors are as those of Open.
func Describe(b *Bottom) (Info, []FilesetInfo, error) {
	c := &Cache{bottom: b}
	defer c.closeFiles()
	if err := c.openControl(); err != nil {
		return Info{}, nil, err
	}
	if err := c.readInfo(); err != nil {
		return Info{}, nil, err
	}
	err := c.load()
	return c.info, c.filesets, err
}

// load reads the descriptions of the filesets.
func (c *Cache) load() error {
	dir, err := reopenDir(c.control)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir.Name(), err)
	}
	for _, e := range entries {
		// What begins with a dot is something that was not finished.
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		f, err := c.describe(e.Name())
		if err != nil {
			return err
		}
		c.filesets = append(c.filesets, f)
	}
	sort.Slice(c.filesets, func(i, j int) bool { return c.filesets[i].before(c.filesets[j]) })
	if len(c.filesets) == 0 {
		return c.fault(ErrDamaged, "%s describes no fileset; restore it, or format it with: mkizofs --force %s", ControlDir, c.bottom.source)
	}
	return nil
}

// before puts the first fileset, whose tree is the bottom's root, first, and the
// others by name.
func (f FilesetInfo) before(g FilesetInfo) bool {
	if (f.Root == ".") != (g.Root == ".") {
		return f.Root == "."
	}
	return f.Name < g.Name
}

// describe reads what the fileset name is.
func (c *Cache) describe(name string) (FilesetInfo, error) {
	control, err := openDirAt(c.control, name)
	if err != nil {
		return FilesetInfo{}, err
	}
	defer control.Close()
	b, err := readAt(control, FilesetFile)
	if errors.Is(err, unix.ENOENT) {
		return FilesetInfo{}, c.fault(ErrDamaged, "%s/%s has no file %s; restore that file", ControlDir, name, FilesetFile)
	}
	if err != nil {
		return FilesetInfo{}, err
	}
	info, err := decodeFileset(b)
	if err == nil && info.Name != name {
		err = fmt.Errorf("it describes the fileset %q", info.Name)
	}
	if err == nil {
		info.Root, err = c.rootOf(control, name)
	}
	if err != nil {
		return FilesetInfo{}, c.fault(ErrDamaged, "%s/%s/%s: %v; restore that file", ControlDir, name, FilesetFile, err)
	}
	return info, nil
}

// rootOf tells where the tree of a fileset is: "." for the symbolic link to
// "../..", the only one that is followed anywhere, else its ROOT folder.
func (c *Cache) rootOf(control *os.File, name string) (string, error) {
	b := make([]byte, 64)
	n, err := unix.Readlinkat(int(control.Fd()), RootName, b)
	switch {
	case errors.Is(err, unix.EINVAL): // not a link
		dir, err := openDirAt(control, RootName)
		if err != nil {
			return "", err
		}
		return RootPath(name), dir.Close()
	case err != nil:
		return "", &os.PathError{Op: "readlink", Path: RootName, Err: err}
	case string(b[:n]) != firstRoot:
		return "", fmt.Errorf("its %s is a link to %q, and only %q is allowed", RootName, b[:n], firstRoot)
	}
	return ".", nil
}

// Info describes the cache.
func (c *Cache) Info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info
}

// Filesets describes the filesets, the first one first. The slice is the
// caller's.
func (c *Cache) Filesets() []FilesetInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]FilesetInfo(nil), c.filesets...)
}

// Fileset opens the fileset name: ErrNoFileset, which lists those that exist, if
// there is none. Close it, or leave it to the Cache.
func (c *Cache) Fileset(name string) (*Fileset, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, info := range c.filesets {
		if info.Name == name {
			return c.openFileset(info)
		}
		names = append(names, info.Name)
	}
	return nil, c.fault(ErrNoFileset, "no fileset %q in this cache; it has: %s", name, strings.Join(names, ", "))
}

func (c *Cache) openFileset(info FilesetInfo) (*Fileset, error) {
	control, err := openDirAt(c.control, info.Name)
	if err != nil {
		return nil, err
	}
	var root *os.File
	if info.Root == "." {
		root, err = reopenDir(c.bottom.root)
	} else {
		root, err = openDirAt(control, RootName)
	}
	if err != nil {
		control.Close()
		return nil, err
	}
	f := &Fileset{Info: info, Control: control, Root: root, cache: c}
	c.open[f] = struct{}{}
	return f, nil
}

// SetInfo makes info the description of the fileset, durably. Its name cannot
// change. Other open Filesets of the same name keep what they had.
func (f *Fileset) SetInfo(info FilesetInfo) error {
	if info.Name != f.Info.Name {
		return fmt.Errorf("describe fileset %s: its name cannot become %q", f.Info.Name, info.Name)
	}
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	if err := WriteFilesetInfo(f.Control, info); err != nil {
		return err
	}
	info.Root = f.Info.Root
	f.Info = info
	for i := range f.cache.filesets {
		if f.cache.filesets[i].Name == info.Name {
			f.cache.filesets[i] = info
		}
	}
	return nil
}

// Close closes the fileset's directories. A second call does nothing.
func (f *Fileset) Close() error {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	if _, ok := f.cache.open[f]; !ok {
		return nil
	}
	delete(f.cache.open, f)
	return errors.Join(f.Control.Close(), f.Root.Close())
}

// Copied says in what this cache is not where it was made, "" if it is the
// original. It is only ever something else with Options.AcceptCopy. Until Settle
// is called the next Open refuses it again.
func (c *Cache) Copied() string { return c.copied }

// Settle records that this cache is an original from now on: where it lies at
// present, with uuid as its id space. Call it when the ids of its objects are
// safe (a copy's native ids are another cache's, so they must be stamped before).
func (c *Cache) Settle(uuid kml.UUID) error {
	if uuid.IsZero() {
		return errors.New("settle cache: the uuid is zero")
	}
	place, err := placeOf(c.control, c.bottom.root)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.info
	info.UUID, info.Place, info.Bottom = uuid, place, c.bottom.kind
	b, err := encodeInfo(info)
	if err != nil {
		return err
	}
	if err := replaceAt(c.control, InfoFile, b); err != nil {
		return fmt.Errorf("settle cache: %w", err)
	}
	c.info, c.copied = info, ""
	return nil
}

// Root is the bottom's root directory. It belongs to the Cache.
func (c *Cache) Root() *os.File { return c.bottom.root }

// Control is the control folder. It belongs to the Cache.
func (c *Cache) Control() *os.File { return c.control }

// BottomType is "ext4", "xfs", "btrfs" or "tmpfs".
func (c *Cache) BottomType() string { return c.bottom.kind }

// MountFD is a descriptor on the bottom for open_by_handle_at. It belongs to the
// Cache, and is valid until Close.
func (c *Cache) MountFD() int { return int(c.bottom.root.Fd()) }

// Source is the real path of the device, image file or folder.
func (c *Cache) Source() string { return c.bottom.source }

// Device is the path of the block device that is mounted: a loop device for an
// image file, "" for a folder.
func (c *Cache) Device() string { return c.bottom.device }

// Sync makes all that is in the cache durable. It blocks on the disk.
func (c *Cache) Sync() error { return c.bottom.Sync() }

// Close gives the cache up: its filesets, the lock, the mount, the loop device.
// When it returns nil the device is free and its file system clean. See
// Bottom.Close for what happens while others hold files of it. A second call
// does nothing.
func (c *Cache) Close() error {
	c.closeFiles()
	return c.bottom.Close()
}

// closeFiles closes everything but the bottom. All are directories and a lock
// file whose content does not matter, so there is no error to lose.
func (c *Cache) closeFiles() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for f := range c.open {
		f.Control.Close()
		f.Root.Close()
	}
	clear(c.open)
	for _, f := range []*os.File{c.control, c.lock} {
		if f != nil {
			f.Close()
		}
	}
	c.control, c.lock = nil, nil
}
