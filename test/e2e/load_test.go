package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A load is work on a mount by several workers that keep a record of what they
// were told has been done, so that it can be proved afterwards. It goes on
// through the death of presto: what was under way just then is in doubt, and
// must have been done or not, whole.

// object is what a worker knows about something it made.
type object struct {
	kind   uint32 // S_IFMT
	perm   uint32
	uid    int
	gid    int
	rdev   int
	target string
	data   []byte
	mtime  int64 // nanoseconds; 0: whatever it is
	xattrs map[string]string
	names  map[string]*object // of a folder
}

func (o *object) isDir() bool { return o.kind == unix.S_IFDIR }

// load is the state of all workers on one mount.
type load struct {
	mnt     string
	workers []*worker
	moves   bool // folders to other folders: only one side may at a time

	// Held for reading while a worker does something, and for writing to change
	// what is mounted.
	gate sync.RWMutex
	mu   sync.Mutex
	dead bool          // presto was killed
	back chan struct{} // closed when it is there again
	fail []string
	stop chan struct{}
	done sync.WaitGroup
}

// worker changes what is below one folder of a mount, and only names that begin
// with its prefix.
type worker struct {
	load   *load
	base   string // below the mount
	prefix string
	rnd    *rand.Rand
	kinds  []kind // what it does; nil: everything
	tree   *object
	root   *os.File // base, opened
	open   []*handle
	serial int
	ops    int
	doubt  *step
	detail string // what it does now
}

// handle is a file that is kept open for writing.
type handle struct {
	o *object
	f *os.File
}

// step is one system call and what it does to the record. partial accepts what a
// call that was cut off may have left, and notes it in the record.
type step struct {
	name    string
	do      func() error
	apply   func()
	partial func() bool
}

func newLoad(mnt string) *load {
	return &load{mnt: mnt, back: make(chan struct{}), stop: make(chan struct{})}
}

// add makes a worker in the folder base, which must be there.
func (l *load) add(base, prefix string, seed uint64) *worker {
	w := &worker{load: l, base: base, prefix: prefix, rnd: rand.New(rand.NewPCG(seed, uint64(len(l.workers)))),
		tree: &object{kind: unix.S_IFDIR, names: map[string]*object{}}}
	l.workers = append(l.workers, w)
	return w
}

func (l *load) start() {
	for _, w := range l.workers {
		l.done.Go(w.run)
	}
}

// finish ends the load and gives what went wrong.
func (l *load) finish() []string {
	close(l.stop)
	l.done.Wait()
	for _, w := range l.workers {
		w.drop()
	}
	return l.fail
}

func (l *load) failed(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = append(l.fail, fmt.Sprintf(format, args...))
}

func (l *load) failures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.fail)
}

// without runs kill, which ends presto, and then revive, which mounts again,
// with nobody in the mount.
func (l *load) without(kill, revive func()) {
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
	kill()
	l.gate.Lock()
	defer l.gate.Unlock()
	for _, w := range l.workers {
		w.drop()
	}
	revive()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = false
	close(l.back)
	l.back = make(chan struct{})
}

// isDead says whether presto was killed, and what is closed when it is back.
func (l *load) isDead() (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead, l.back
}

// drop closes everything.
func (w *worker) drop() {
	for _, h := range w.open {
		h.f.Close() // of a dead mount: no error matters
	}
	w.open = nil
	if w.root != nil {
		w.root.Close()
		w.root = nil
	}
}

// run works until the load is stopped or something is wrong.
func (w *worker) run() {
	for {
		select {
		case <-w.load.stop:
			if w.settled() {
				return
			}
		default:
		}
		back, again := w.turn()
		if !again {
			return
		}
		if back == nil {
			continue
		}
		select {
		case <-back:
		case <-time.After(2 * limit):
			w.load.failed("%s: the mount did not come back", w.base)
			return
		}
	}
}

func (w *worker) settled() bool {
	w.load.gate.RLock()
	defer w.load.gate.RUnlock()
	return w.doubt == nil
}

// turn does one operation. If the mount died it gives what to wait for.
func (w *worker) turn() (back <-chan struct{}, again bool) {
	w.load.gate.RLock()
	defer w.load.gate.RUnlock()
	_, back = w.load.isDead() // before the operation, so that no return is missed
	err := w.enter()
	if err == nil {
		err = w.operation()
	}
	if err == nil {
		w.ops++
		return nil, true
	}
	if dead, _ := w.load.isDead(); dead {
		return back, true
	}
	w.load.failed("%s: %s: %v", w.base, w.detail, err)
	return nil, false
}

// enter opens the worker's folder unless it is, and finds out what became of the
// step in doubt.
func (w *worker) enter() error {
	if w.root != nil && w.doubt == nil {
		return nil
	}
	w.detail = "enter"
	if w.root == nil {
		f, err := os.Open(filepath.Join(w.load.mnt, w.base))
		if err != nil {
			return err
		}
		w.root = f
	}
	if w.doubt == nil {
		return nil
	}
	return w.settle()
}

// settle brings the record up to what became of the step in doubt.
func (w *worker) settle() error {
	s := w.doubt
	without, err := w.compare(w.path(""))
	if err != nil {
		return err
	}
	if len(without) == 0 {
		w.doubt = nil
		return nil
	}
	if s.partial != nil && s.partial() {
		if left, err := w.compare(w.path("")); err != nil || len(left) == 0 {
			if err == nil {
				w.doubt = nil
			}
			return err
		}
	}
	if s.apply != nil {
		s.apply()
	}
	with, err := w.compare(w.path(""))
	if err != nil {
		return err
	}
	w.doubt = nil
	if len(with) > 0 {
		w.load.failed("%s: %q was cut off by the death of presto, and was neither done nor not done;\n if not: %s\n if done: %s",
			w.base, s.name, strings.Join(first(without, 5), "\n   "), strings.Join(first(with, 5), "\n   "))
		return errors.New("the record is lost")
	}
	return nil
}

func first(list []string, n int) []string { return list[:min(n, len(list))] }

// path is the full name of something below the worker's folder, by a descriptor
// of the mount, so that nothing is ever written where that is not.
func (w *worker) path(name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(w.root.Fd())), name)
}

// do runs a step.
func (w *worker) do(s step) error {
	w.detail = s.name
	if err := s.do(); err != nil {
		if dead, _ := w.load.isDead(); dead {
			w.doubt = &s
		}
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if s.apply != nil {
		s.apply()
	}
	return nil
}

// compare compares what is below a folder with the record.
func (w *worker) compare(dir string) ([]string, error) {
	var found []string
	seen := map[[2]uint64]*object{}
	inode := map[*object][2]uint64{}
	err := compareDir(dir, "", w.prefix, w.tree, seen, inode, &found)
	return found, err
}

func compareDir(dir, path, prefix string, o *object, seen map[[2]uint64]*object, inode map[*object][2]uint64, found *[]string) error {
	entries, err := os.ReadDir(filepath.Join(dir, path))
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		there[e.Name()] = true
		if o.names[e.Name()] == nil {
			*found = append(*found, filepath.Join(path, e.Name())+": is there")
		}
	}
	for _, name := range slices.Sorted(mapsKeys(o.names)) {
		sub := filepath.Join(path, name)
		if !there[name] {
			*found = append(*found, sub+": is missing")
			continue
		}
		if err := compareObject(dir, sub, o.names[name], seen, inode, found); err != nil {
			return err
		}
	}
	return nil
}

func mapsKeys(m map[string]*object) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func compareObject(dir, path string, o *object, seen map[[2]uint64]*object, inode map[*object][2]uint64, found *[]string) error {
	full := filepath.Join(dir, path)
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return fmt.Errorf("lstat %s: %w", path, err)
	}
	differ := func(what string, got, want any) {
		if got != want {
			*found = append(*found, fmt.Sprintf("%s: %s is %v, want %v", path, what, got, want))
		}
	}
	if differ("type", st.Mode&unix.S_IFMT, o.kind); st.Mode&unix.S_IFMT != o.kind {
		return nil
	}
	at := [2]uint64{st.Dev, st.Ino}
	if other, ok := seen[at]; ok && other != o {
		*found = append(*found, path+": is linked with something else")
	}
	if before, ok := inode[o]; ok {
		if before != at {
			*found = append(*found, path+": is not linked with its other name")
		}
		return nil // compared under another name
	}
	seen[at], inode[o] = o, at
	if o.kind != unix.S_IFLNK {
		differ("mode", st.Mode&0o7777, o.perm)
	}
	differ("owner", [2]int{int(st.Uid), int(st.Gid)}, [2]int{o.uid, o.gid})
	if o.mtime != 0 {
		differ("mtime", st.Mtim.Nano(), o.mtime)
	}
	if err := compareXattrs(full, path, o, differ); err != nil {
		return err
	}
	switch o.kind {
	case unix.S_IFDIR:
		return compareDir(dir, path, "", o, seen, inode, found)
	case unix.S_IFLNK:
		target, err := os.Readlink(full)
		if err != nil {
			return err
		}
		differ("target", target, o.target)
	case unix.S_IFREG:
		data, err := os.ReadFile(full)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, o.data) {
			*found = append(*found, fmt.Sprintf("%s: content of %d bytes differs from %d bytes at %d", path, len(data), len(o.data), firstDifference(data, o.data)))
		}
	default:
		differ("device", int(st.Rdev), o.rdev)
	}
	return nil
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func compareXattrs(full, path string, o *object, differ func(what string, got, want any)) error {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(full, buf)
	if err != nil {
		return fmt.Errorf("list attributes of %s: %w", path, err)
	}
	count := 0
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		count++
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(full, name, value)
		if err != nil {
			return fmt.Errorf("get attribute %s of %s: %w", name, path, err)
		}
		differ("attribute "+name, string(value[:n]), o.xattrs[name])
	}
	differ("number of attributes", count, len(o.xattrs))
	return nil
}
