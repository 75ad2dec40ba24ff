package mount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/detach"
)

// MountVerb is the control verb that gives a presto a mount to serve: arguments
// MountArgs, and one file, the descriptor of /dev/fuse.
const MountVerb = "mount"

// maxSocketPath is what the kernel allows for the name of a unix socket.
const maxSocketPath = 107

// MountArgs are the arguments of MountVerb.
type MountArgs struct {
	Fileset    string `json:"fileset"`
	Mountpoint string `json:"mountpoint"`
	ReadOnly   bool   `json:"read_only,omitempty"`
}

// Options say what to mount where.
type Options struct {
	Source     string // device, loop file or folder that holds the cache
	Mountpoint string // an existing folder
	Want       config.MountOptions
	Run        string // run folder
	Executable string // the lento binary; "": this process's own
	Remount    bool   // only change the flags of what is mounted on Mountpoint
	Fake       bool   // check, but mount nothing
	Log        *slog.Logger
}

// request is Options found to be sound.
type request struct {
	Options
	flags flags
}

// Mount mounts a fileset and returns when the mount answers. The presto of the
// cache is started unless it runs. On an error nothing is mounted, and no presto
// is left that was not there before; the error is a *Failure.
func Mount(ctx context.Context, o Options) error {
	r, err := check(o)
	if err != nil {
		return err
	}
	if r.Remount {
		return remount(r)
	}
	if o.Fake {
		return nil
	}
	if err := os.MkdirAll(r.Run, 0o755); err != nil {
		return failure(System, "make run folder: %w", err)
	}
	unlock, err := lockRun(ctx, r.Run)
	if err != nil {
		return err
	}
	defer unlock()
	for {
		err := mountOnce(ctx, r)
		if e, ok := errors.AsType[*closingError](err); ok {
			r.Log.Info("the presto of this cache is just ending, waiting", "pid", e.pid)
			if waitGone(ctx, e.pid, 0) {
				continue
			}
		}
		return err
	}
}

// check finds what is wrong with o before anything is done.
func check(o Options) (request, error) {
	r := request{Options: o, flags: flagsOf(o.Want)}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if os.Geteuid() != 0 {
		return r, failure(Usage, "only root can mount")
	}
	var err error
	if r.Run, err = filepath.Abs(o.Run); err != nil {
		return r, failure(System, "run folder: %w", err)
	}
	if path := SocketPath(r.Run, config.MaxChannel); len(path) > maxSocketPath {
		return r, failure(Usage, "run folder %s: its name is too long by %d bytes for the sockets in it", r.Run, len(path)-maxSocketPath)
	}
	if r.Executable == "" {
		if r.Executable, err = os.Executable(); err != nil {
			return r, failure(System, "find own program: %w", err)
		}
	}
	if r.Source, err = findSource(o.Source); err != nil {
		return r, err
	}
	r.Mountpoint, err = findMountpoint(o.Mountpoint, o.Want.Mtpt, o.Remount)
	return r, err
}

// findSource gives source its full name. The name of a device is kept, because
// /dev/mapper/... says more than /dev/dm-0.
func findSource(source string) (string, error) {
	path, err := filepath.Abs(source)
	if source == "" || err != nil {
		return "", failure(Usage, "source %q: want a device, a loop file or a folder", source)
	}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", failure(Failed, "source %s does not exist", path)
	case err != nil:
		return "", failure(Failed, "source: %w", err)
	}
	switch st.Mode().Type() {
	case fs.ModeDevice:
		return path, nil
	case 0, fs.ModeDir:
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", failure(Failed, "source: %w", err)
		}
		return path, nil
	}
	return "", failure(Failed, "source %s is not a block device, loop file or folder", path)
}

// findMountpoint gives dir its full name and checks it. What an InterMezzo mount
// covers already is refused unasked, because that mount may not answer.
func findMountpoint(dir, mtpt string, remount bool) (string, error) {
	abs, err := filepath.Abs(dir)
	if dir == "" || err != nil {
		return "", failure(Usage, "mount point %q: want a folder", dir)
	}
	table, err := Table()
	if err != nil {
		return "", failure(System, "%w", err)
	}
	real, err := resolveBelow(table, abs)
	if err != nil {
		return "", failure(Failed, "mount point %s: %w", abs, plain(err))
	}
	if mtpt != "" && mtpt != abs && mtpt != real {
		return "", failure(Usage, "mount option mtpt=%s: the mount point is %s; the two must be the same", mtpt, abs)
	}
	p, covered := topmost(table, real)
	if remount {
		if !covered || !p.Ours() {
			return "", failure(Failed, "no fileset is mounted on %s, so it can't be remounted", real)
		}
		return real, nil
	}
	if covered && p.Ours() {
		return "", failure(Failed, "%s has a fileset of %s mounted already; lento umount %s first", real, p.Source, real)
	}
	st, err := os.Lstat(real)
	if err != nil {
		return "", failure(Failed, "mount point %s: %w", real, plain(err))
	}
	if !st.IsDir() {
		return "", failure(Failed, "mount point %s is not a folder", real)
	}
	return real, nil
}

// plain takes the system call and path off an error that is told with a path.
func plain(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// remount changes the flags of a mount. Options of the cache can't change.
func remount(r request) error {
	ms, err := r.flags.remountFlags()
	if err != nil {
		return failure(Usage, "remount %s: %w", r.Mountpoint, err)
	}
	if r.Fake {
		return nil
	}
	if err := unix.Mount("", r.Mountpoint, "", ms, ""); err != nil {
		return failure(Failed, "remount %s: %w", r.Mountpoint, err)
	}
	return nil
}

// lockRun makes sure that two mount commands do not start two prestos for one
// cache, or on one channel.
func lockRun(ctx context.Context, run string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(run, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, failure(System, "open lock: %w", err)
	}
	locked := make(chan error, 1)
	fd := int(f.Fd())
	go func() { locked <- flock(fd) }()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
			return nil, failure(System, "lock %s: %w", f.Name(), err)
		}
		return func() { f.Close() }, nil
	case <-ctx.Done(): // the descriptor is left to the goroutine that waits on it
		return nil, failure(Interrupted, "wait for another mount command: %w", context.Cause(ctx))
	}
}

// closingError says that the presto of the cache is on its way out.
type closingError struct {
	pid int
	err error
}

func (e *closingError) Error() string { return e.err.Error() }

// mountOnce finds or starts the presto and gives it the mount.
func mountOnce(ctx context.Context, r request) error {
	prestos, err := Survey(ctx, r.Run)
	if err != nil {
		return failure(System, "%w", err)
	}
	p, running := serving(prestos, r.Source)
	var started *detach.Child
	if !running {
		n, err := chooseChannel(prestos, r)
		if err != nil {
			return err
		}
		if started, err = start(ctx, r, n); err != nil {
			return err
		}
		p, _ = Ask(ctx, r.Run, n)
		r.Log.Debug("started presto", "channel", n, "pid", started.PID, "log", LogPath(r.Run, n))
	}
	if err := handOver(ctx, r, p); err != nil {
		abandon(started)
		return err
	}
	if started != nil {
		started.Release()
	}
	return nil
}

// chooseChannel picks the channel for a new presto.
func chooseChannel(prestos []Presto, r request) (int, error) {
	used := func(n int) (Presto, bool) {
		i := slices.IndexFunc(prestos, func(p Presto) bool { return p.Channel == n })
		if i < 0 {
			return Presto{}, false
		}
		return prestos[i], true
	}
	if r.Want.Channel >= 0 {
		p, taken := used(r.Want.Channel)
		switch {
		case !taken:
			return r.Want.Channel, nil
		case p.Err != nil:
			return 0, failure(Failed, "channel %d: process %d has it and does not answer: %w", r.Want.Channel, p.PID, p.Err)
		}
		return 0, failure(Failed, "channel %d is used by the cache %s; choose another with prestodev=/dev/intermezzoN", r.Want.Channel, p.Info.Source)
	}
	for n := range config.MaxChannel + 1 {
		if _, taken := used(n); !taken {
			return n, nil
		}
	}
	return 0, failure(Failed, "all %d channels in %s are taken", config.MaxChannel+1, r.Run)
}

// handOver makes the mount, gives it to presto, and puts it in its place once it
// answers.
func handOver(ctx context.Context, r request, p Presto) error {
	if p.Err != nil {
		return failure(Failed, "%w", p.Err)
	}
	if r.Want.Channel >= 0 && p.Channel != r.Want.Channel {
		return failure(Failed, "the cache %s is served on channel %d already, not %d; its filesets have one prestodev",
			p.Info.Source, p.Channel, r.Want.Channel)
	}
	fileset, err := chooseFileset(r, p.Info)
	if err != nil {
		return err
	}
	d, err := newDetached(p.Info.Source, r.flags)
	if err != nil {
		return failure(System, "%w", err)
	}
	defer d.close()
	if err := give(ctx, p, MountArgs{Fileset: fileset, Mountpoint: r.Mountpoint, ReadOnly: r.flags.readOnly()}, d.fuse); err != nil {
		return err
	}
	d.fuse.Close() // presto has its own; ours would keep a dead one's mount hanging
	if err := d.waitAnswer(ctx); err != nil {
		return failure(Failed, "mount of %s: presto (process %d): %w; see %s", fileset, p.PID, err, LogPath(r.Run, p.Channel))
	}
	if err := d.attach(r.Mountpoint); err != nil {
		return failure(Failed, "%w", err)
	}
	if err := systemUtab().note(p.Info.Source, r.Mountpoint); err != nil {
		r.Log.Warn("umount(8) will not wait for the end of presto", "error", err)
	}
	return nil
}

// chooseFileset finds the fileset that is meant, which must not be mounted yet.
func chooseFileset(r request, info channel.Info) (string, error) {
	var names []string
	for _, f := range info.Filesets {
		names = append(names, f.Name)
	}
	name := r.Want.Fileset
	i := slices.Index(names, name)
	if i < 0 {
		return "", failure(Failed, "the cache %s has no fileset %q; it has %s", info.Source, name, strings.Join(names, ", "))
	}
	if at := info.Filesets[i].Mountpoint; at != "" {
		return "", failure(Failed, "fileset %s of %s is mounted on %s already", name, info.Source, at)
	}
	return name, nil
}

// give hands the file system side of a mount to presto.
func give(ctx context.Context, p Presto, args MountArgs, fuse *os.File) error {
	client, err := channel.Dial(ctx, p.Socket)
	if err == nil {
		defer client.Close()
		text, jsonErr := json.Marshal(args)
		if jsonErr != nil {
			return failure(Internal, "mount arguments: %w", jsonErr)
		}
		_, err = client.Control(ctx, MountVerb, text, []*os.File{fuse})
	}
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*channel.Error](err)
	if ok && (e.Code == channel.ErrClosed || e.Code == channel.ErrBusy && !mounted(ctx, p, args.Fileset)) {
		return &closingError{pid: p.PID, err: &Failure{Class: Failed, Err: fmt.Errorf("mount: %w", err)}}
	}
	return failure(Failed, "mount: %w", err)
}

// mounted reports whether presto has the fileset mounted by now.
func mounted(ctx context.Context, p Presto, fileset string) bool {
	info, err := askInfo(ctx, p.Socket)
	return err == nil && slices.ContainsFunc(info.Filesets, func(f channel.Fileset) bool {
		return f.Name == fileset && f.Mountpoint != ""
	})
}
