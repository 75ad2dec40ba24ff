package presto

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// Options say which cache to serve, and where.
type Options struct {
	Source        string // device, image file or folder
	CacheType     string // type of the bottom, empty: find out
	BottomOptions []string
	Channel       int
	RunDir        string // where the channel's socket is made
	Logger        *slog.Logger
	Version       string
}

// Presto serves one cache: its mounts to applications, its channel to a daemon.
type Presto struct {
	opts     Options
	log      *slog.Logger
	cache    *cache.Cache
	bottom   *bottom
	index    *index
	dirs     *dirs
	filesets map[string]*fileset
	channel  *channel.Server
	listener *net.UnixListener
	cancel   context.CancelFunc
	served   chan struct{} // closed when the channel is down

	mu     sync.Mutex
	mounts map[string]*fuse.Server
	done   chan struct{} // closed when the last mount is gone, or Close was called
	closed bool
}

// Start opens the cache, finishes what a crash has left, and listens on the
// channel. No application sees anything before AddMount. Errors are those of
// cache.Open and of the logs; nothing has changed then but what recovery did.
func Start(ctx context.Context, o Options) (*Presto, error) {
	unix.Umask(0) // modes are the applications' affair
	c, err := cache.Open(ctx, o.Source, cache.Options{CacheType: o.CacheType, BottomOptions: o.BottomOptions})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &Presto{opts: o, log: o.Logger, cache: c, cancel: cancel, filesets: map[string]*fileset{},
		channel: channel.NewServer(o.Logger), mounts: map[string]*fuse.Server{}, done: make(chan struct{}), served: make(chan struct{})}
	if err := p.start(ctx); err != nil {
		cancel()
		return nil, errors.Join(err, p.closeFiles())
	}
	return p, nil
}

func (p *Presto) start(ctx context.Context) error {
	var err error
	if p.bottom, err = newBottom(p.cache.BottomType(), p.cache.Root()); err != nil {
		return err
	}
	complete, err := p.openIndex()
	if err != nil {
		return err
	}
	minted, err := openMint(p.cache.Control())
	if err != nil {
		return err
	}
	ids := newIDs(p.bottom, p.cache.Info().UUID, p.index, minted)
	p.dirs = newDirs(p.bottom)
	for _, info := range p.cache.Filesets() {
		fs, err := p.openFileset(ctx, info.Name, ids, p.dirs)
		if err != nil {
			return fmt.Errorf("fileset %s of %s: %w", info.Name, p.cache.Source(), err)
		}
		p.filesets[info.Name] = fs
		if !complete {
			if err := fs.rebuildIndex(); err != nil {
				return fmt.Errorf("fileset %s: rebuild index of object ids: %w", info.Name, err)
			}
		}
		if err := fs.recover(); err != nil {
			return fmt.Errorf("fileset %s: recover: %w", info.Name, err)
		}
		if err := fs.adopt(); err != nil {
			return fmt.Errorf("fileset %s: log the tree that was there before: %w", info.Name, err)
		}
	}
	if err := p.seal(); err != nil {
		return err
	}
	if p.listener, err = channel.Listen(filepath.Join(p.opts.RunDir, strconv.Itoa(p.opts.Channel))); err != nil {
		return err
	}
	go func() {
		defer close(p.served)
		if err := p.channel.Serve(ctx, p.listener, backend{p}); err != nil && ctx.Err() == nil {
			p.log.Error("channel", "err", err)
		}
	}()
	return nil
}

// openIndex opens the index through the control folder's descriptor: the bottom
// is mounted where no path leads.
func (p *Presto) openIndex() (complete bool, err error) {
	control := p.cache.Control()
	fd, err := openRetry(int(control.Fd()), cache.JournalFile, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return false, fmt.Errorf("open journal of the index: %w", err)
	}
	journal := os.NewFile(uintptr(fd), cache.JournalFile)
	p.index, complete, err = openIndex(procPath(int(control.Fd()))+"/"+cache.IndexFile, journal, bootID())
	if err != nil {
		journal.Close()
	}
	return complete, err
}

func (p *Presto) names() []string {
	var names []string
	for name := range p.filesets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// AddMount serves a fileset on a /dev/fuse descriptor that is mounted already.
// It takes the descriptor over, also when it fails.
func (p *Presto) AddMount(name string, dev *os.File, mountpoint string, readOnly bool) error {
	fs := p.filesets[name]
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case fs == nil:
		dev.Close()
		_, err := backend{p}.fileset(name)
		return err
	case p.closed:
		dev.Close()
		return &channel.Error{Code: channel.ErrBusy, Text: "presto is closing"}
	case p.mounts[name] != nil:
		dev.Close()
		return &channel.Error{Code: channel.ErrBusy, Text: fmt.Sprintf("fileset %s is mounted on %s", name, fs.mountpoint())}
	}
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	dev.Close()
	if err != nil {
		return err
	}
	srv, err := fuse.NewServer(newFilter(fs, readOnly), "/dev/fd/"+strconv.Itoa(fd), mountOptions(p.log))
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("serve fileset %s: %w", name, err)
	}
	p.mounts[name] = srv
	fs.mounted(mountpoint, &kernelCaches{srv, fs.nodes})
	go p.serve(fs, srv)
	return nil
}

func mountOptions(log *slog.Logger) *fuse.MountOptions {
	return &fuse.MountOptions{
		MaxWrite: 1 << 20, MaxBackground: 64, EnableAcl: true, DisableSplice: true,
		ExplicitDataCacheControl: true, EnableSymlinkCaching: true,
		ExtraCapabilities:    fuse.CAP_DONT_MASK | fuse.CAP_READDIRPLUS_AUTO,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
		Logger:               slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// serve answers requests until the fileset is unmounted. With the last mount
// presto is done.
func (p *Presto) serve(fs *fileset, srv *fuse.Server) {
	srv.Serve()
	fs.mounted("", nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mounts, fs.name)
	if len(p.mounts) == 0 && !p.closed {
		p.closed = true
		close(p.done)
	}
}

// mounted notes where the fileset can be seen, "" for nowhere.
func (fs *fileset) mounted(where string, k *kernelCaches) {
	fs.applyMu.Lock()
	defer fs.applyMu.Unlock()
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	fs.mount, fs.kernel = where, k
}

func (fs *fileset) mountpoint() string {
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	return fs.mount
}

// Wait returns when the last mount is gone and everything is written and
// released: the bottom's device is free then.
func (p *Presto) Wait() error {
	<-p.done
	p.cancel()
	p.listener.Close()
	<-p.served
	return p.closeFiles()
}

// Close makes Wait end. Mounts that are still there answer no more.
func (p *Presto) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		close(p.done)
	}
}

// closeFiles writes and closes everything there is.
func (p *Presto) closeFiles() error {
	var errs []error
	for _, name := range p.names() {
		errs = append(errs, p.filesets[name].close())
	}
	if p.index != nil {
		errs = append(errs, p.index.close())
	}
	if p.dirs != nil {
		p.dirs.cache.clear()
	}
	errs = append(errs, p.cache.Close())
	return errors.Join(errs...)
}
