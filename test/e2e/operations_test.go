package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of what a worker makes.
const (
	maxObjects = 300
	maxData    = 16 << 20
	maxFile    = 2 << 20
	maxOpen    = 4
	maxDepth   = 6
	maxPath    = 3000
)

// place is a name that a worker has.
type place struct {
	dir   *object // that has it
	name  string
	path  string // below the worker's folder
	o     *object
	depth int
}

// places lists all names in a fixed order, so that a seed means the same.
func (w *worker) places(ok func(place) bool) []place {
	var all []place
	var walk func(o *object, path string, depth int)
	walk = func(o *object, path string, depth int) {
		for _, name := range slices.Sorted(mapsKeys(o.names)) {
			p := place{o, name, filepath.Join(path, name), o.names[name], depth}
			if ok(p) {
				all = append(all, p)
			}
			if p.o.isDir() {
				walk(p.o, p.path, depth+1)
			}
		}
	}
	walk(w.tree, "", 1)
	return all
}

// some gives one of the names that are ok.
func (w *worker) some(ok func(place) bool) (place, bool) {
	all := w.places(ok)
	if len(all) == 0 {
		return place{}, false
	}
	return all[w.rnd.IntN(len(all))], true
}

func isFile(p place) bool   { return p.o.kind == unix.S_IFREG }
func isFolder(p place) bool { return p.o.isDir() }
func notLink(p place) bool  { return p.o.kind != unix.S_IFLNK }
func anything(place) bool   { return true }

// folder gives a folder to make something in: its record, and its path.
func (w *worker) folder() (*object, string, int) {
	p, ok := w.some(func(p place) bool { return p.o.isDir() && p.depth < maxDepth })
	if !ok || w.rnd.IntN(4) == 0 {
		return w.tree, "", 0
	}
	return p.o, p.path, p.depth
}

// fresh gives a name that is not there.
func (w *worker) fresh() (place, bool) {
	dir, path, depth := w.folder()
	w.serial++
	name := fmt.Sprintf("%s%d", w.prefix, w.serial)
	switch w.rnd.IntN(12) {
	case 0:
		name += "\n\xff" // no UTF-8
	case 1:
		name += strings.Repeat("x", 255-len(name))
	}
	count, size := 0, 0
	for _, p := range w.places(anything) {
		count, size = count+1, size+len(p.o.data)
	}
	return place{dir: dir, name: name, path: filepath.Join(path, name), depth: depth + 1}, count < maxObjects && size < maxData
}

func (w *worker) bytes() []byte {
	n := w.rnd.IntN(5000)
	switch w.rnd.IntN(30) {
	case 0:
		n = w.rnd.IntN(maxFile)
	case 1:
		n = 0
	case 2, 3:
		n = w.rnd.IntN(200 << 10)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rnd.Uint32())
	}
	if n > 4 && w.rnd.IntN(2) == 0 { // something to compress
		b = bytes.Repeat(b[:n/4], 4)
	}
	return b
}

// operation does one thing, of one or several steps.
func (w *worker) operation() error {
	kinds := w.kinds
	if kinds == nil {
		kinds = w.allKinds()
	}
	sum := 0
	for _, k := range kinds {
		sum += k.share
	}
	n := w.rnd.IntN(sum)
	for _, k := range kinds {
		if n -= k.share; n < 0 {
			return k.do()
		}
	}
	return nil
}

// kind is an operation and how often it is done.
type kind struct {
	share int
	do    func() error
}

func (w *worker) allKinds() []kind {
	unnamed := 0 // see TestSoak_FirstNames
	if os.Getenv("INTERMEZZO_TEST_KILLS") != "" {
		unnamed = 3
	}
	return []kind{
		{20, w.makeFile}, {8, w.makeFolder}, {4, w.makeSymlink}, {3, w.makeNode}, {5, w.makeLink},
		{unnamed, w.makeUnnamed},
		{8, w.overwrite}, {10, w.appendTo}, {8, w.edit}, {4, w.truncate}, {8, w.save}, {3, w.mapped},
		{10, w.renameFile}, {6, w.renameFolder}, {4, w.exchange}, {6, w.chmod}, {3, w.chown}, {4, w.utimens},
		{5, w.setXattr}, {2, w.removeXattr}, {9, w.remove}, {2, w.removeAll}, {6, w.keepOpen}, {8, w.writeOpen}, {4, w.closeOpen},
		{2, w.sync},
	}
}

// put is the step that makes a name.
func (w *worker) put(what string, p place, o *object, do func(path string) error) error {
	return w.do(step{name: what + " " + p.path, do: func() error { return do(w.path(p.path)) },
		apply: func() { p.dir.names[p.name] = o; p.dir.mtime = 0 }})
}

// write is the step that writes b at an offset of a file that is open.
func (w *worker) write(f *os.File, o *object, b []byte, at int64) error {
	if len(b) == 0 {
		return nil
	}
	old := slices.Clone(o.data)
	after := func(n int) []byte {
		data := slices.Clone(old)
		if end := int(at) + n; end > len(data) && n > 0 {
			data = append(data, make([]byte, end-len(data))...)
		}
		copy(data[min(int(at), len(data)):], b[:n])
		return data
	}
	return w.do(step{name: fmt.Sprintf("write %d bytes at %d", len(b), at),
		do:    func() error { _, err := f.WriteAt(b, at); return err },
		apply: func() { o.data, o.mtime = after(len(b)), 0 },
		partial: func() bool { // whole pages of it may have been written
			p, ok := w.some(func(p place) bool { return p.o == o })
			if !ok {
				return false
			}
			now, err := os.ReadFile(w.path(p.path))
			if err != nil {
				return false
			}
			for n := range len(b) {
				if (n+int(at))%4096 == 0 && bytes.Equal(now, after(n)) {
					o.data, o.mtime = now, 0
					return true
				}
			}
			return false
		}})
}

func (w *worker) close(f *os.File) error {
	return w.do(step{name: "close", do: f.Close})
}

// newFile makes a file with content.
func (w *worker) newFile(p place, b []byte) (*object, error) {
	o := &object{kind: unix.S_IFREG, perm: 0o644}
	var f *os.File
	err := w.put("create", p, o, func(path string) (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		return err
	})
	if err != nil {
		return o, err
	}
	defer f.Close()
	half := len(b) / 2
	if err := w.write(f, o, b[:half], 0); err != nil {
		return o, err
	}
	if err := w.write(f, o, b[half:], int64(half)); err != nil {
		return o, err
	}
	return o, w.close(f)
}

func (w *worker) makeFile() error {
	p, ok := w.fresh()
	if !ok {
		return w.remove()
	}
	_, err := w.newFile(p, w.bytes())
	return err
}

func (w *worker) makeFolder() error {
	p, ok := w.fresh()
	if !ok {
		return w.removeAll()
	}
	return w.put("mkdir", p, &object{kind: unix.S_IFDIR, perm: 0o755, names: map[string]*object{}},
		func(path string) error { return unix.Mkdir(path, 0o755) })
}

func (w *worker) makeSymlink() error {
	p, ok := w.fresh()
	if !ok {
		return nil
	}
	target := strings.Repeat("../no/where", 1+w.rnd.IntN(100))
	return w.put("symlink", p, &object{kind: unix.S_IFLNK, target: target}, func(path string) error { return unix.Symlink(target, path) })
}

func (w *worker) makeNode() error {
	p, ok := w.fresh()
	if !ok {
		return nil
	}
	o := &object{kind: unix.S_IFIFO, perm: 0o640}
	if w.rnd.IntN(2) == 0 {
		o.kind, o.rdev = unix.S_IFCHR, int(unix.Mkdev(1, 3))
	}
	return w.put("mknod", p, o, func(path string) error { return unix.Mknod(path, o.kind|o.perm, o.rdev) })
}

func (w *worker) makeLink() error {
	from, ok := w.some(func(p place) bool { return !p.o.isDir() })
	to, room := w.fresh()
	if !ok || !room {
		return nil
	}
	return w.put("link "+from.path+" to", to, from.o, func(path string) error { return unix.Link(w.path(from.path), path) })
}

// makeUnnamed makes a file with O_TMPFILE and then its name.
func (w *worker) makeUnnamed() error {
	p, ok := w.fresh()
	if !ok {
		return nil
	}
	fd, err := unix.Open(w.path(filepath.Dir(p.path)), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == unix.EOPNOTSUPP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make a file without a name: %w", err)
	}
	f := os.NewFile(uintptr(fd), p.path)
	defer f.Close()
	o := &object{kind: unix.S_IFREG, perm: 0o600}
	if err := w.write(f, o, w.bytes(), 0); err != nil {
		return err
	}
	err = w.put("name", p, o, func(path string) error {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	})
	if err != nil {
		return err
	}
	return w.close(f)
}

// edited opens a file, changes it and closes it.
func (w *worker) edited(flags int, change func(f *os.File, o *object) error) error {
	p, ok := w.some(isFile)
	if !ok {
		return nil
	}
	var f *os.File
	err := w.do(step{name: "open " + p.path,
		do: func() (err error) { f, err = os.OpenFile(w.path(p.path), os.O_RDWR|flags, 0); return err },
		apply: func() {
			if flags&os.O_TRUNC != 0 {
				p.o.data, p.o.mtime = nil, 0
			}
		}})
	if err != nil {
		return err
	}
	defer f.Close()
	if err := change(f, p.o); err != nil {
		return err
	}
	return w.close(f)
}

func (w *worker) overwrite() error {
	return w.edited(os.O_TRUNC, func(f *os.File, o *object) error { return w.write(f, o, w.bytes(), 0) })
}

func (w *worker) appendTo() error {
	return w.edited(0, func(f *os.File, o *object) error { return w.write(f, o, w.bytes(), int64(len(o.data))) })
}

func (w *worker) edit() error {
	return w.edited(0, func(f *os.File, o *object) error {
		return w.write(f, o, w.bytes(), int64(w.rnd.IntN(len(o.data)+1)))
	})
}

func (w *worker) mapped() error {
	return w.edited(0, func(f *os.File, o *object) error {
		if len(o.data) == 0 {
			return nil
		}
		m, err := unix.Mmap(int(f.Fd()), 0, len(o.data), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map: %w", err)
		}
		defer unix.Munmap(m)
		at, old := w.rnd.IntN(len(m)), slices.Clone(o.data)
		value := byte(w.rnd.Uint32())
		// Without touching the map first: a page that can't be had is a signal.
		return w.do(step{name: fmt.Sprintf("store at %d", at),
			do: func() error {
				if _, err := f.ReadAt(make([]byte, 1), int64(at)); err != nil {
					return err
				}
				if !store(m, at, value) {
					return unix.ENOTCONN
				}
				return unix.Msync(m, unix.MS_SYNC)
			},
			apply: func() { o.data, o.mtime = slices.Clone(old), 0; o.data[at] = value }})
	})
}

// store stores a byte in a map of a file, unless its page can't be had.
func store(m []byte, at int, value byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	m[at] = value
	return true
}

func (w *worker) truncate() error {
	p, ok := w.some(isFile)
	if !ok {
		return nil
	}
	size := w.rnd.IntN(len(p.o.data)*3/2 + 10)
	return w.do(step{name: fmt.Sprintf("truncate %s to %d", p.path, size), do: func() error { return unix.Truncate(w.path(p.path), int64(size)) },
		apply: func() {
			old := len(p.o.data)
			p.o.data = slices.Clone(p.o.data[:min(size, old)])
			p.o.data = append(p.o.data, make([]byte, size-len(p.o.data))...)
			p.o.mtime = 0
		}})
}

// save replaces a file as editors do.
func (w *worker) save() error {
	old, ok := w.some(isFile)
	p, room := w.fresh()
	if !ok || !room {
		return nil
	}
	o, err := w.newFile(p, w.bytes())
	if err != nil {
		return err
	}
	return w.rename(place{p.dir, p.name, p.path, o, p.depth}, old, 0)
}

// rename is the step that gives what is at from the name to.
func (w *worker) rename(from, to place, flags uint) error {
	if from.o == to.o { // two names of one object: nothing happens
		return nil
	}
	return w.do(step{name: "rename " + from.path + " to " + to.path,
		do: func() error {
			return unix.Renameat2(unix.AT_FDCWD, w.path(from.path), unix.AT_FDCWD, w.path(to.path), flags)
		},
		apply: func() {
			from.dir.mtime, to.dir.mtime = 0, 0
			to.dir.names[to.name] = from.o
			if flags&unix.RENAME_EXCHANGE != 0 {
				from.dir.names[from.name] = to.o
			} else {
				delete(from.dir.names, from.name)
			}
		}})
}

func (w *worker) renameFile() error {
	from, ok := w.some(func(p place) bool { return !p.o.isDir() })
	to, room := w.fresh()
	if !ok || !room {
		return nil
	}
	if over, ok := w.some(func(p place) bool { return !p.o.isDir() && p.path != from.path }); ok && w.rnd.IntN(3) == 0 {
		to = over
	}
	return w.rename(from, to, 0)
}

// beside is a name next to another.
func beside(p place, name string) place {
	return place{dir: p.dir, name: name, path: filepath.Join(filepath.Dir(p.path), name), depth: p.depth}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func (w *worker) renameFolder() error {
	from, ok := w.some(isFolder)
	to, room := w.fresh()
	if !ok || !room {
		return nil
	}
	if !w.load.moves {
		to = beside(from, to.name)
	}
	if over, ok := w.some(func(p place) bool {
		return p.o.isDir() && len(p.o.names) == 0 && p.o != from.o && (w.load.moves || p.dir == from.dir)
	}); ok && w.rnd.IntN(3) == 0 {
		to = over
	}
	if within(to.path, from.path) || within(from.path, to.path) {
		return nil
	}
	for _, p := range w.places(func(p place) bool { return within(p.path, from.path) }) {
		if len(to.path)+len(p.path)-len(from.path) > maxPath {
			return nil
		}
	}
	return w.rename(from, to, 0)
}

func (w *worker) exchange() error {
	a, ok := w.some(anything)
	b, found := w.some(func(p place) bool { return w.load.moves || p.dir == a.dir })
	if !ok || !found || within(a.path, b.path) || within(b.path, a.path) {
		return nil
	}
	return w.rename(a, b, unix.RENAME_EXCHANGE)
}

func (w *worker) chmod() error {
	p, ok := w.some(notLink)
	if !ok {
		return nil
	}
	perm := 0o600 | uint32(w.rnd.IntN(0o200))
	if p.o.isDir() {
		perm |= 0o700
	}
	return w.do(step{name: fmt.Sprintf("chmod %o %s", perm, p.path), do: func() error { return unix.Chmod(w.path(p.path), perm) }, apply: func() { p.o.perm = perm }})
}

func (w *worker) chown() error {
	p, ok := w.some(anything)
	if !ok {
		return nil
	}
	uid, gid := w.rnd.IntN(70000), w.rnd.IntN(3)
	return w.do(step{name: "chown " + p.path, do: func() error { return unix.Lchown(w.path(p.path), uid, gid) }, apply: func() { p.o.uid, p.o.gid = uid, gid }})
}

func (w *worker) utimens() error {
	p, ok := w.some(anything)
	if !ok {
		return nil
	}
	at := w.rnd.Int64N(4e18) + 1
	ts := []unix.Timespec{unix.NsecToTimespec(at), unix.NsecToTimespec(at)}
	return w.do(step{name: "utimens " + p.path,
		do:    func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, w.path(p.path), ts, unix.AT_SYMLINK_NOFOLLOW) },
		apply: func() { p.o.mtime = at }})
}

// Attributes of users are for files and folders only.
func takesXattrs(p place) bool { return p.o.isDir() || p.o.kind == unix.S_IFREG }

func (w *worker) setXattr() error {
	p, ok := w.some(takesXattrs)
	if !ok {
		return nil
	}
	name, value := fmt.Sprintf("user.a%d", w.rnd.IntN(3)), strings.Repeat("v", w.rnd.IntN(300))
	return w.do(step{name: "set " + name + " of " + p.path, do: func() error { return unix.Lsetxattr(w.path(p.path), name, []byte(value), 0) },
		apply: func() {
			if p.o.xattrs == nil {
				p.o.xattrs = map[string]string{}
			}
			p.o.xattrs[name] = value
		}})
}

func (w *worker) removeXattr() error {
	p, ok := w.some(func(p place) bool { return len(p.o.xattrs) > 0 })
	if !ok {
		return nil
	}
	for _, name := range []string{"user.a0", "user.a1", "user.a2"} {
		if _, ok := p.o.xattrs[name]; ok {
			return w.do(step{name: "remove " + name + " of " + p.path, do: func() error { return unix.Lremovexattr(w.path(p.path), name) },
				apply: func() { delete(p.o.xattrs, name) }})
		}
	}
	return nil
}

// drops is the step that takes a name away.
func (w *worker) drops(p place) error {
	flags := 0
	if p.o.isDir() {
		flags = unix.AT_REMOVEDIR
	}
	return w.do(step{name: "remove " + p.path, do: func() error { return unix.Unlinkat(unix.AT_FDCWD, w.path(p.path), flags) },
		apply: func() { delete(p.dir.names, p.name); p.dir.mtime = 0 }})
}

func (w *worker) remove() error {
	p, ok := w.some(func(p place) bool { return !p.o.isDir() || len(p.o.names) == 0 })
	if !ok {
		return nil
	}
	return w.drops(p)
}

func (w *worker) removeAll() error {
	top, ok := w.some(isFolder)
	if !ok {
		return nil
	}
	below := w.places(func(p place) bool { return within(p.path, top.path) })
	if len(below) > 50 {
		return nil
	}
	// The deepest first.
	for _, p := range slices.Backward(below) {
		if err := w.drops(p); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) keepOpen() error {
	p, ok := w.some(isFile)
	if !ok || len(w.open) >= maxOpen {
		return w.closeOpen()
	}
	var f *os.File
	err := w.do(step{name: "open " + p.path, do: func() (err error) { f, err = os.OpenFile(w.path(p.path), os.O_RDWR, 0); return err }})
	if err == nil {
		w.open = append(w.open, &handle{p.o, f})
	}
	return err
}

func (w *worker) writeOpen() error {
	if len(w.open) == 0 {
		return nil
	}
	h := w.open[w.rnd.IntN(len(w.open))]
	if len(h.o.data) > maxFile {
		return nil
	}
	return w.write(h.f, h.o, w.bytes(), int64(w.rnd.IntN(len(h.o.data)+1)))
}

func (w *worker) closeOpen() error {
	if len(w.open) == 0 {
		return nil
	}
	i := w.rnd.IntN(len(w.open))
	h := w.open[i]
	w.open = slices.Delete(w.open, i, i+1)
	return w.close(h.f)
}

func (w *worker) sync() error {
	if len(w.open) == 0 {
		return nil
	}
	h := w.open[w.rnd.IntN(len(w.open))]
	return w.do(step{name: "fsync", do: h.f.Sync})
}
