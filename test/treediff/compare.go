package treediff

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Options says what a comparison leaves out. The zero value compares all.
type Options struct {
	Metadata    bool // leave content and holes out
	IgnoreHoles bool // leave holes out
	Limit       int  // stop after so many differences; 0: find all
}

// Readers of content at work at once, and names looked at in one go: both bound
// memory and descriptors whatever the size of the trees.
const (
	contentWorkers = 2
	batch          = 512
)

// Compare compares the trees below the directories a and b, and returns their
// differences sorted by path. It blocks until done, or ctx ends. An error
// means that something could not be read, and then the differences are not
// complete. The trees should be quiet meanwhile.
func Compare(ctx context.Context, a, b string, opts Options) ([]Difference, error) {
	rootA, err := os.Open(a)
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	defer rootA.Close()
	rootB, err := os.Open(b)
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	defer rootB.Close()

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c := &comparer{opts: opts, stop: stop, jobs: make(chan contentJob)}
	for i := range c.sides {
		c.sides[i].groups = make(map[inode]string)
	}
	c.sides[0].root, c.sides[1].root = a, b
	c.compared = make(map[[2]inode]bool)
	err = c.run(ctx, rootA, rootB)
	if err != nil && !errors.Is(context.Cause(ctx), errLimit) {
		return nil, err
	}
	slices.SortStableFunc(c.found, func(x, y Difference) int {
		return cmp.Or(cmp.Compare(x.Path, y.Path), cmp.Compare(x.Property, y.Property))
	})
	return c.found, nil
}

var errLimit = errors.New("limit of differences reached")

// side is what the walk knows of one tree: the first name, of those in both
// trees, of every object that has several.
type side struct {
	root   string
	groups map[inode]string
}

// comparer is one comparison. The walk runs in one goroutine, and everything
// but found belongs to it.
type comparer struct {
	opts     Options
	sides    [2]side
	compared map[[2]inode]bool // pairs with several names that were compared already
	counts   []Difference      // differing link counts, judged at the end
	apart    bool              // names or groups of names differ
	jobs     chan contentJob
	stop     context.CancelCauseFunc

	mu    sync.Mutex
	found []Difference
}

func (c *comparer) run(ctx context.Context, a, b *os.File) error {
	g, ctx := errgroup.WithContext(ctx)
	for range contentWorkers {
		g.Go(func() error { return c.compareContents(ctx) })
	}
	g.Go(func() error {
		defer close(c.jobs)
		if err := c.compareRoots(a, b); err != nil {
			return err
		}
		return c.compareDirs(ctx, "", a, b)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if !c.apart {
		// Only then a count is a finding of its own.
		for _, d := range c.counts {
			c.report(d)
		}
	}
	return nil
}

func (c *comparer) report(d Difference) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opts.Limit > 0 && len(c.found) >= c.opts.Limit {
		c.stop(errLimit)
		return
	}
	c.found = append(c.found, d)
}

// compareRoots compares the roots' own attributes. Every host makes its own
// root, so while nothing was ever made in it its time means nothing.
func (c *comparer) compareRoots(a, b *os.File) error {
	var roots [2]entry
	empty := true
	for i, dir := range []*os.File{a, b} {
		var err error
		if roots[i], err = readEntry(int(dir.Fd()), "."); err != nil {
			return c.fault(i, ".", err)
		}
		names, err := c.list(i, "", dir)
		if err != nil {
			return err
		}
		empty = empty && len(names) == 0
		if _, err := dir.Seek(0, 0); err != nil {
			return c.fault(i, ".", err)
		}
	}
	if empty {
		roots[1].st.Mtim = roots[0].st.Mtim
	}
	c.compareAttributes(".", &roots[0], &roots[1])
	return nil
}

// list gives the sorted names of a directory that are part of the fileset.
func (c *comparer) list(side int, path string, dir *os.File) ([]string, error) {
	names, err := listDir(dir)
	if err != nil {
		return nil, c.fault(side, path, err)
	}
	if path == "" {
		names = slices.DeleteFunc(names, func(n string) bool { return n == ".intermezzo" || n == "lost+found" })
	}
	return names, nil
}

// compareDirs compares what is below two directories, whose path is given with
// a slash at its end, or empty for the roots.
func (c *comparer) compareDirs(ctx context.Context, path string, a, b *os.File) error {
	dirs := [2]*os.File{a, b}
	var names [2][]string
	var g errgroup.Group
	for i := range dirs {
		g.Go(func() (err error) {
			names[i], err = c.list(i, path, dirs[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	all := slices.Compact(slices.Sorted(slices.Values(append(names[0], names[1]...))))
	for part := range slices.Chunk(all, batch) {
		if err := c.compareBatch(ctx, path, dirs, part); err != nil {
			return err
		}
	}
	return nil
}

// compareBatch compares some names of two directories, and what is below them.
// The two trees are looked at side by side.
func (c *comparer) compareBatch(ctx context.Context, path string, dirs [2]*os.File, names []string) error {
	var entries [2][]entry
	var g errgroup.Group
	for i := range dirs {
		g.Go(func() error {
			entries[i] = make([]entry, len(names))
			for n, name := range names {
				e, err := readEntry(int(dirs[i].Fd()), name)
				if err != nil {
					return c.fault(i, path+name, err)
				}
				entries[i][n] = e
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for n, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.compareName(ctx, path+name, name, dirs, &entries[0][n], &entries[1][n]); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparer) compareName(ctx context.Context, path, name string, dirs [2]*os.File, a, b *entry) error {
	switch {
	case !a.found && !b.found: // removed while we looked: the same in both
		return nil
	case a.found != b.found:
		c.apart = true
		c.report(Difference{path, Presence, presence(a), presence(b)})
		return nil
	case a.kind() != b.kind():
		c.apart = true
		c.report(Difference{path, Type, kindName(a.kind()), kindName(b.kind())})
		return nil
	}
	if !a.isDir() && c.sameAsBefore(path, a, b) {
		return nil
	}
	c.compareAttributes(path, a, b)
	if a.isDir() {
		return c.descend(ctx, path, name, dirs)
	}
	if a.isFile() && !c.opts.Metadata && a.st.Size == b.st.Size && a.st.Size > 0 {
		return c.sendContent(ctx, path, name, dirs, a, b)
	}
	return nil
}

func (c *comparer) descend(ctx context.Context, path, name string, dirs [2]*os.File) error {
	var subs [2]*os.File
	for i, dir := range dirs {
		sub, err := openDir(int(dir.Fd()), name)
		if err != nil {
			return c.fault(i, path, err)
		}
		defer sub.Close()
		subs[i] = sub
	}
	return c.compareDirs(ctx, path+"/", subs[0], subs[1])
}

// sameAsBefore compares which names belong together, and says whether this pair
// of objects was compared under an earlier name already.
func (c *comparer) sameAsBefore(path string, a, b *entry) bool {
	if a.links() == 1 && b.links() == 1 {
		return false
	}
	firstA, firstB := c.sides[0].first(path, a), c.sides[1].first(path, b)
	if firstA != firstB {
		c.apart = true
		c.report(Difference{path, HardLinks, groupName(path, firstA), groupName(path, firstB)})
	} else if firstA == path && a.links() != b.links() {
		c.counts = append(c.counts, Difference{path, LinkCount, fmt.Sprint(a.links()), fmt.Sprint(b.links())})
	}
	pair := [2]inode{a.inode(), b.inode()}
	seen := c.compared[pair]
	c.compared[pair] = true
	return seen
}

// first gives the first name of an object that is in both trees.
func (s *side) first(path string, e *entry) string {
	if e.links() == 1 {
		return path
	}
	if first, ok := s.groups[e.inode()]; ok {
		return first
	}
	s.groups[e.inode()] = path
	return path
}

// fault is an error about a path of one of the trees.
func (c *comparer) fault(side int, path string, err error) error {
	return fmt.Errorf("compare %s/%s: %w", c.sides[side].root, QuotePath(path), err)
}
