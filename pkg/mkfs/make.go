package mkfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/intermezzofs/intermezzo/pkg/cache"
)

// maker carries out one Request.
type maker struct {
	req    Request
	target target
	mke2fs string // path of the program, where it is wanted
	sum    Summary
}

// Make makes the cache that r describes, or with r.DryRun finds out what making it
// would do. Errors: *UsageError, *Refusal and *cache.Error (the target was left
// alone, and the text says why), or what the system said. It blocks for as long
// as writing to the target takes; ctx ends it early, and then a target that was
// being formatted holds nothing.
func Make(ctx context.Context, r Request) (Summary, error) {
	r, err := r.check()
	if err != nil {
		return Summary{}, err
	}
	m := &maker{req: r}
	if m.target, err = findTarget(r.Target, r.Size); err != nil {
		return Summary{}, err
	}
	m.sum = Summary{Target: m.target.path, Kind: string(m.target.kind), DryRun: r.DryRun, Label: r.Label, Filesets: []FilesetSummary{}, Steps: []string{}}
	switch {
	case r.Add:
		err = m.add(ctx)
	case m.target.kind == kindFolder:
		err = m.prepareFolder(ctx)
	case r.Adopt:
		err = m.adoptDevice(ctx)
	default:
		err = m.format(ctx)
	}
	if err != nil {
		return Summary{}, err
	}
	if !m.req.UUID.IsZero() {
		m.sum.UUID = m.req.UUID.String()
	}
	return m.sum, nil
}

func (m *maker) step(format string, args ...any) {
	m.sum.Steps = append(m.sum.Steps, fmt.Sprintf(format, args...))
}

// planFilesets notes what filesets create will make.
func (m *maker) planFilesets(adopt bool) {
	for i, name := range m.req.Filesets {
		f := FilesetSummary{Name: name, Root: ".", Adopt: adopt && i == 0}
		what := "with the root of the file system as its tree"
		if f.Adopt {
			what = "with the tree that is there, to be logged at the first mount"
		}
		if i > 0 {
			f.Root, what = cache.RootPath(name), "with a tree of its own"
		}
		m.sum.Filesets = append(m.sum.Filesets, f)
		m.step("make the fileset %s, %s", name, what)
	}
}

// create makes the control folder on b.
func (m *maker) create(b *cache.Bottom, adopt bool) error {
	if err := b.Check(b.Root()); err != nil {
		return err
	}
	info, err := cache.Create(b.Root(), cache.CreateOptions{
		UUID: m.req.UUID, Label: m.req.Label, Filesets: m.req.Filesets, Adopt: adopt, Bottom: b.Type(),
	})
	if err != nil {
		return err
	}
	m.req.UUID = info.UUID
	return b.Sync()
}

// adoptDevice makes a cache of the file system on a device or image, with what is
// in it.
func (m *maker) adoptDevice(ctx context.Context) (err error) {
	b, err := cache.Mount(ctx, m.target.path, m.mountOptions())
	if errors.Is(err, cache.ErrNotCache) {
		return &Refusal{m.target.path, "has no ext4, xfs or btrfs file system that could be adopted", "without --adopt it is formatted"}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := m.refuseCache(b); err != nil {
		return err
	}
	return m.build(b)
}

// mountOptions are for looking at a bottom. It is made writable when nothing is
// left to refuse.
func (m *maker) mountOptions() cache.Options {
	return cache.Options{ReadOnly: true, NoReplay: m.req.DryRun}
}

// build makes a cache of the mounted b, which has none.
func (m *maker) build(b *cache.Bottom) error {
	m.sum.Action, m.sum.Bottom = "prepare", b.Type()
	if m.req.Adopt {
		n, err := b.Entries()
		if err != nil {
			return err
		}
		m.sum.Action = "adopt"
		m.step("keep the %s file system and its tree, %s in its root", b.Type(), count(n))
	}
	m.planFilesets(m.req.Adopt)
	if m.req.DryRun {
		return b.Check(b.Root())
	}
	if err := b.MakeWritable(); err != nil {
		return err
	}
	return m.create(b, m.req.Adopt)
}

// refuseCache refuses a bottom that has a cache already. On a folder Force makes
// an end of its control folder instead; on a device formatting does that.
func (m *maker) refuseCache(b *cache.Bottom) error {
	has, err := b.HasControl()
	if err != nil || !has {
		return err
	}
	what := "a cache of InterMezzo in it"
	if info, filesets, err := cache.Describe(b); err == nil {
		what = describeCache(info, filesets)
	}
	if m.target.kind != kindFolder {
		return &Refusal{m.target.path, "has " + what, "to give it another fileset use --add --fileset NAME, to format it leave --adopt out and add --force"}
	}
	if !m.req.Force {
		return &Refusal{m.target.path, "has " + what, "to give it another fileset use --add --fileset NAME; " +
			"to destroy the cache, its logs and all filesets but the first, add --force"}
	}
	m.sum.Destroyed = what
	m.step("destroy %s: its logs, and all filesets but the first", what)
	return nil
}

// prepareFolder makes a cache of a folder, which must be empty or adopted.
func (m *maker) prepareFolder(ctx context.Context) (err error) {
	if m.req.Size != 0 {
		return &UsageError{Detail: fmt.Sprintf("%s is a folder: --size is for making an image file", m.target.path)}
	}
	b, err := cache.Mount(ctx, m.target.path, m.mountOptions())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := m.refuseCache(b); err != nil {
		return err
	}
	n, err := b.Entries()
	if err != nil {
		return err
	}
	if n > 0 && !m.req.Adopt {
		return &Refusal{m.target.path, "is not empty, but has " + count(n),
			"to keep that as the tree of the first fileset use --adopt; mkizofs never empties a folder"}
	}
	if err := m.clearFolder(ctx, b); err != nil {
		return err
	}
	return m.build(b)
}

// clearFolder removes the control folder of the cache that Force gave up, if
// there is one. Nobody may have it open.
func (m *maker) clearFolder(ctx context.Context, b *cache.Bottom) error {
	if m.sum.Destroyed == "" {
		return nil
	}
	c, err := cache.Open(ctx, m.target.path, cache.Options{AcceptCopy: true, ReadOnly: true})
	if errors.Is(err, cache.ErrInUse) {
		return err
	}
	if err == nil { // else it is a broken one, which nobody can have open
		defer c.Close()
	}
	if m.req.DryRun {
		return nil
	}
	if err := b.MakeWritable(); err != nil {
		return err
	}
	return cache.RemoveControl(b.Root())
}

// add gives an existing cache further filesets.
func (m *maker) add(ctx context.Context) error {
	if err := m.planAdd(ctx); err != nil || m.req.DryRun {
		return err
	}
	c, err := cache.Open(ctx, m.target.path, cache.Options{})
	if err != nil {
		return err
	}
	for _, name := range m.req.Filesets {
		if _, err = c.AddFileset(name); err != nil {
			break
		}
	}
	return errors.Join(err, c.Close())
}

// planAdd notes what add will do, and refuses what it cannot, without changing
// anything.
func (m *maker) planAdd(ctx context.Context) (err error) {
	c, err := cache.Open(ctx, m.target.path, cache.Options{ReadOnly: true, NoReplay: m.req.DryRun})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	m.sum.Action, m.sum.Bottom, m.sum.Label = "add", c.BottomType(), c.Info().Label
	m.req.UUID = c.Info().UUID
	for _, name := range m.req.Filesets {
		for _, f := range c.Filesets() {
			if f.Name == name {
				return &Refusal{m.target.path, fmt.Sprintf("has a fileset %q already", name), "choose another name"}
			}
		}
		m.sum.Filesets = append(m.sum.Filesets, FilesetSummary{Name: name, Root: cache.RootPath(name)})
		m.step("make the fileset %s, with a tree of its own", name)
	}
	return nil
}
