package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// UmountOptions say what to unmount.
type UmountOptions struct {
	Target   string // mount point, or the source if only one fileset of it is mounted
	Run      string // run folder to begin the search for presto in
	Lazy     bool   // take it out of the tree at once, end it when nobody uses it
	Force    bool   // fail what is under way; for a presto that hangs
	ReadOnly bool   // if it is busy, make it read-only instead
	Fake     bool
	Log      *slog.Logger
}

// settleTime is how long the last users of a mount may take to go before it is
// taken to be in use elsewhere, in another mount namespace.
const settleTime = 2 * time.Second

// Umount takes a fileset's mount away. If it was the last of its presto, it
// returns when that process is gone and the bottom file system is free and clean;
// a lazy unmount returns at once. A mount whose presto is dead goes too. The
// error is a *Failure; with Failed the mount is still there.
func Umount(ctx context.Context, o UmountOptions) error {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	table, err := Table()
	if err != nil {
		return failure(System, "%w", err)
	}
	point, err := findMounted(table, o.Target)
	if err != nil || o.Fake {
		return err
	}
	presto, served := owner(ctx, o.Run, point)
	pidfd := -1
	if served {
		// Held from before, so that another process with its number is not mistaken for it.
		if pidfd, err = unix.PidfdOpen(presto.PID, 0); err != nil {
			served = false
		} else {
			defer unix.Close(pidfd)
		}
	}
	if err := umount(point, o); err != nil {
		return err
	}
	if err := systemUtab().forget(point.Dir); err != nil {
		log.Warn("umount(8) has an entry too many", "error", err)
	}
	if !served || o.Lazy {
		log.Debug("unmounted", "mount", point.Dir, "presto", served)
		return nil
	}
	return waitReleased(ctx, presto, pidfd, point, log)
}

// findMounted finds the mount that target names.
func findMounted(table []Point, target string) (Point, error) {
	if target == "" {
		return Point{}, failure(Usage, "say what to unmount")
	}
	if p, ok := ByDir(table, target); ok {
		return p, nil
	}
	var found []Point
	for _, p := range table {
		if p.Ours() && p.Source == target {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return Point{}, failure(Failed, "%s: no fileset is mounted there", target)
	case 1:
		return found[0], nil
	}
	var dirs []string
	for _, p := range found {
		dirs = append(dirs, p.Dir)
	}
	return Point{}, failure(Usage, "%s is mounted on %s; say which", target, strings.Join(dirs, ", "))
}

func umount(p Point, o UmountOptions) error {
	how := unix.UMOUNT_NOFOLLOW
	if o.Lazy {
		how |= unix.MNT_DETACH
	}
	if o.Force {
		how |= unix.MNT_FORCE
	}
	err := unix.Unmount(p.Dir, how)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return failure(Usage, "only root can unmount %s", p.Dir)
	case !errors.Is(err, unix.EBUSY):
		return failure(Failed, "unmount %s: %w", p.Dir, err)
	}
	if o.ReadOnly {
		if err := unix.Mount("", p.Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err == nil {
			return failure(Failed, "%s is busy; it is read-only now", p.Dir)
		}
	}
	return failure(Failed, "%s is busy: %s", p.Dir, busyWith(p.Dir))
}

// waitReleased waits until presto has let go of an unmounted fileset, and if it
// was its last one until the process has ended.
func waitReleased(ctx context.Context, presto Presto, pidfd int, p Point, log *slog.Logger) error {
	if others := copies(p); len(others) > 0 {
		log.Info("the same fileset is still mounted elsewhere", "on", strings.Join(others, ", "))
		return nil
	}
	begin := time.Now()
	for ctx.Err() == nil {
		if waitPidfd(ctx, pidfd, 50*time.Millisecond) {
			return nil
		}
		// No answer means that it is ending: it closes its channel first.
		info, err := askInfo(ctx, presto.Socket)
		if err != nil {
			if waitPidfd(ctx, pidfd, 0) {
				return nil
			}
			break
		}
		mounted, others := mountedOn(info, p.Dir)
		if !mounted && others {
			return nil
		}
		if mounted && time.Since(begin) > settleTime {
			log.Warn("unmounted here, but another mount namespace still has it; the cache stays in use", "presto", presto.PID)
			return nil
		}
	}
	return failure(Interrupted, "%s is unmounted, but presto (process %d) still has %s: %w", p.Dir, presto.PID, p.Source, context.Cause(ctx))
}

// mountedOn says whether presto still serves the mount on dir, and others.
func mountedOn(info channel.Info, dir string) (this, others bool) {
	for _, f := range info.Filesets {
		this = this || f.Mountpoint == dir
		others = others || f.Mountpoint != "" && f.Mountpoint != dir
	}
	return this, others
}

// copies are the places where the file system of p is mounted still.
func copies(p Point) []string {
	table, err := Table()
	if err != nil {
		return nil
	}
	var dirs []string
	for _, q := range table {
		if q.Ours() && q.Device == p.Device && q.Source == p.Source {
			dirs = append(dirs, q.Dir)
		}
	}
	return dirs
}

// Detach takes all mounts of a presto out of the tree without asking them
// anything: for a presto that has to end while it is mounted.
func Detach(source string) error {
	table, err := Table()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range slices.Backward(table) {
		if !p.Ours() || p.Source != source {
			continue
		}
		if err := unix.Unmount(p.Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("detach %s: %w", p.Dir, err))
		}
	}
	return errors.Join(errs...)
}
