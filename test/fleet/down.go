package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/test/process"
)

// downPatience is how long Down waits for a command that changes the lab.
const downPatience = 10 * time.Second

// Down removes a lab and all that belongs to it: processes, mounts, loop devices,
// network, files. It does so from any state, half made and half dead included.
// A folder without a lab is noted, left alone, and no error.
func Down(ctx context.Context, dir string, env Env) error {
	dir, err := resolve(dir)
	if err != nil {
		return err
	}
	l := &Lab{Env: env, Dir: dir}
	if _, err := os.Lstat(filepath.Join(dir, stateFile)); errors.Is(err, fs.ErrNotExist) {
		env.note("there is no lab in %s", dir)
		return nil
	}
	unlock, err := l.lock(dir, downPatience)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.load(); errors.Is(err, fs.ErrNotExist) {
		env.note("there is no lab in %s any more", dir)
		return nil
	} else if err != nil {
		return err
	}
	return l.down(ctx)
}

func (l *Lab) down(ctx context.Context) error {
	err := errors.Join(
		l.endCommands(ctx),
		l.endHosts(ctx),
		l.endAll(ctx),
		l.network().Destroy(ctx),
		l.unmountAll(),
		l.releaseLoops(ctx),
	)
	if err != nil {
		return fmt.Errorf("%w\nThe lab is not removed. Try again: lab down %s", err, l.Dir)
	}
	return l.removeFiles()
}

// processes gives the processes of the lab that meet a condition, without those
// that this one descends from.
func (l *Lab) processes(is process.Is) ([]*process.Process, error) {
	own := process.Ancestors()
	both := func(pid int) bool { return !own[pid] && l.is(pid) && is(pid) }
	pids, err := process.All(both)
	if err != nil {
		return nil, err
	}
	var out []*process.Process
	for _, pid := range pids {
		p, err := process.Open(pid, both)
		if errors.Is(err, process.ErrNone) {
			continue
		}
		if err != nil {
			return out, err
		}
		out = append(out, p)
	}
	return out, nil
}

// end ends processes, all at once.
func end(ctx context.Context, grace time.Duration, all []*process.Process) error {
	var g errgroup.Group
	for _, p := range all {
		g.Go(func() error {
			defer p.Close()
			_, err := p.End(ctx, grace)
			return err
		})
	}
	return g.Wait()
}

// Times that processes get to end by themselves before they are killed.
const (
	commandGrace = time.Second
	daemonGrace  = 5 * time.Second
	umountGrace  = 15 * time.Second
)

// endCommands ends what Exec left running: it may hold files of the mounts.
func (l *Lab) endCommands(ctx context.Context) error {
	all, err := l.processes(func(pid int) bool {
		return !slices.ContainsFunc(l.Hosts, func(h *Host) bool { return h.isPart(Presto)(pid) || h.isPart(Daemon)(pid) })
	})
	return errors.Join(err, end(ctx, commandGrace, all))
}

// endHosts ends daemons, then unmounts, as an administrator does; what does not
// go that way is taken away.
func (l *Lab) endHosts(ctx context.Context) error {
	var g errgroup.Group
	for _, h := range l.Hosts {
		g.Go(func() error {
			daemon, err := h.open(Daemon)
			if err == nil {
				err = end(ctx, daemonGrace, []*process.Process{daemon})
			}
			if err != nil && !errors.Is(err, process.ErrNone) {
				return err
			}
			return h.endPresto(ctx)
		})
	}
	return g.Wait()
}

func (h *Host) endPresto(ctx context.Context) error {
	presto, err := h.open(Presto)
	if err == nil {
		defer presto.Close()
		limited, stop := context.WithTimeout(ctx, umountGrace)
		defer stop()
		if err := h.stopPresto(limited); err != nil {
			h.lab.note("%s did not unmount, so it is taken away: %v", h.Name, err)
		}
	} else if !errors.Is(err, process.ErrNone) {
		return err
	}
	if err := detachAll(h.Mount()); err != nil || presto == nil {
		return err
	}
	_, err = presto.End(ctx, daemonGrace)
	return err
}

// endAll ends every process of the lab that is still there.
func (l *Lab) endAll(ctx context.Context) error {
	all, err := l.processes(func(int) bool { return true })
	return errors.Join(err, end(ctx, commandGrace, all))
}

// unmountAll takes away every mount below the lab's folder.
func (l *Lab) unmountAll() error {
	dirs, err := mountsBelow(l.Dir)
	if err != nil {
		return err
	}
	var faults []error
	for _, dir := range dirs {
		// A bottom that is not in use is on its disk when this returns.
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
			faults = append(faults, detachAll(dir))
		}
	}
	return errors.Join(faults...)
}

// releaseLoops makes sure that no loop device has a file of the lab.
func (l *Lab) releaseLoops(ctx context.Context) error {
	ours := func(file string) bool { return strings.HasPrefix(file, l.Dir+"/") }
	asked := false
	for deadline := time.Now().Add(bottomLimit); ; {
		devices, err := loopsOf(ours)
		if err != nil || len(devices) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s still has a file of the lab after %v: something holds its file system open", strings.Join(devices, ", "), bottomLimit)
		}
		// They go by themselves when their last user goes; some time for that.
		if !asked && time.Until(deadline) < bottomLimit/2 {
			asked = true
			for _, d := range devices {
				if err := detachLoop(d); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// removeFiles removes what the lab has in its folder. Nothing may be mounted
// there: what is in a mount is not the lab's to remove.
func (l *Lab) removeFiles() error {
	left, err := mountsBelow(l.Dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("remove lab: %s is still mounted", strings.Join(left, ", "))
	}
	for _, h := range l.Hosts {
		if err := os.RemoveAll(h.path("")); err != nil {
			return fmt.Errorf("remove lab: %w", err)
		}
	}
	// The state last: as long as it is there, this can be done again.
	for _, name := range []string{stateFile + ".new", stateFile, lockFile} {
		if err := os.Remove(filepath.Join(l.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove lab: %w", err)
		}
	}
	if !l.state.MadeDir {
		return nil
	}
	if err := os.Remove(l.Dir); errors.Is(err, unix.ENOTEMPTY) {
		l.note("%s stays: it has files that are not the lab's", l.Dir)
	} else if err != nil {
		return fmt.Errorf("remove lab: %w", err)
	}
	return nil
}
