package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/version"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// Options say what a daemon looks after, and as whom.
type Options struct {
	Tool    string     // "lento" or "intersync"
	Name    string     // of its files in the run folder
	Config  config.Dir // who this host is, and which filesets it takes part in
	Run     string     // run folder
	Only    string     // look after this fileset only; "": all
	LocalIP netip.Addr // to dial from; zero: whatever the system chooses
	Notify  string     // socket of the service manager, value of NOTIFY_SOCKET
	Log     *slog.Logger

	// Addresses of the server, in the place of those in serverdb; nil: those.
	Addresses []string

	// Ready, if not nil, is called once when the daemon answers.
	Ready func()
	// InStep, if not nil, is called once when the fileset named by Only is in step:
	// what was done here before is confirmed, and what the server had is applied.
	InStep func()
	// Once ends the daemon then, or with the error of the first attempt. It is for
	// a client that is named by Only.
	Once bool
	// Reload, if not nil, makes the daemon read its configuration again.
	Reload <-chan os.Signal
}

// Daemon looks after filesets.
type Daemon struct {
	opts      Options
	log       *slog.Logger
	key       config.Key
	authority *wire.Authority
	host      *wire.Host
	started   time.Time
	group     *errgroup.Group
	end       func(error) // ends Run with that
	stepOnce  sync.Once

	mu      sync.Mutex
	workers map[string]*worker // by fileset
	listen  []string           // addresses, once there is one to serve
	fault   error              // of the last reload
}

// Run looks after the filesets of a configuration until ctx ends, or Once is
// done, and then lets go of everything and returns nil. It returns an error without having done
// anything if the configuration is wrong, an address is taken, or such a daemon
// runs already (ErrRunning).
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Run, 0o755); err != nil {
		return fmt.Errorf("make run folder: %w", err)
	}
	lock, err := lockName(o.Run, o.Name)
	if err != nil {
		return err
	}
	defer lock.Close()
	defer os.Remove(PIDPath(o.Run, o.Name))
	d, cfg, err := open(o)
	if err != nil {
		return &configError{err}
	}
	status, err := listenStatus(o.Run, o.Name)
	if err != nil {
		return err
	}
	defer status.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.end = func(err error) { cancel(&ended{err}) }
	d.group, ctx = errgroup.WithContext(ctx)
	if err := d.reconcile(ctx, cfg); err != nil {
		return err
	}
	d.group.Go(func() error { return serveStatus(ctx, status, d.Report) })
	d.group.Go(func() error { return d.reloads(ctx) })
	d.ready()
	err = d.group.Wait()
	d.tell("STOPPING=1")
	d.stopAll()
	if e, ok := errors.AsType[*ended](context.Cause(ctx)); ok && err == nil {
		return e.err
	}
	return err
}

// ended is why a daemon ends by itself.
type ended struct{ err error }

func (e *ended) Error() string { return "done" }

// inStep tells who waits for it that the fileset is in step.
func (d *Daemon) inStep() {
	if d.opts.InStep != nil {
		d.stepOnce.Do(d.opts.InStep)
	}
}

// configError is an error that only another configuration helps against.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }

func (e *configError) Unwrap() error { return e.err }

// IsConfigError reports whether Run failed because the configuration is wrong.
func IsConfigError(err error) bool {
	_, ok := errors.AsType[*configError](err)
	return ok
}

// open reads the configuration and the key.
func open(o Options) (*Daemon, *config.Config, error) {
	cfg, err := load(o.Config)
	if err != nil {
		return nil, nil, err
	}
	key, err := o.Config.Key()
	if err != nil {
		return nil, nil, err
	}
	authority, err := wire.NewAuthority(o.Config, o.Log)
	if err != nil {
		return nil, nil, err
	}
	d := &Daemon{
		opts: o, log: o.Log, key: key, authority: authority, started: time.Now(), workers: map[string]*worker{},
		host: wire.NewHost(wire.HostOptions{Key: key, Grants: authority, Join: o.Config.Redeem, Log: o.Log}),
	}
	return d, cfg, nil
}

// load reads a configuration that this version can work by.
func load(dir config.Dir) (*config.Config, error) {
	cfg, err := dir.Load()
	if err != nil {
		return nil, err
	}
	return cfg, errors.Join(cfg.Unsupported()...)
}

// ready tells everybody who waits that the daemon answers.
func (d *Daemon) ready() {
	d.tell(fmt.Sprintf("READY=1\nMAINPID=%d", os.Getpid()))
	if d.opts.Ready != nil {
		d.opts.Ready()
	}
}

// tell notifies the service manager. That it can't be told is no reason to stop.
func (d *Daemon) tell(state string) {
	if err := notify(d.opts.Notify, state); err != nil {
		d.log.Warn("service manager was not told", "state", state, "error", err)
	}
}

// reloads follows requests to read the configuration again. A configuration that
// is wrong is told, and the one before stays in force.
func (d *Daemon) reloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.opts.Reload:
		}
		cfg, err := load(d.opts.Config)
		if err == nil {
			err = d.reconcile(ctx, cfg)
		}
		if err != nil {
			d.log.Error("new configuration is not in force", "error", err)
		} else {
			d.log.Info("configuration read again")
		}
		d.mu.Lock()
		d.fault = err
		d.mu.Unlock()
	}
}

// reconcile starts, ends and restarts workers so that they are those of cfg, and
// listens if there is anything to serve.
func (d *Daemon) reconcile(ctx context.Context, cfg *config.Config) error {
	jobs := map[string]job{}
	serves := false
	for _, f := range cfg.Filesets {
		if d.opts.Only != "" && f.Name != d.opts.Only {
			continue
		}
		j := job{fileset: f, role: cfg.Role(&f)}
		j.fileset.Replicators = nil // changes of these are seen by the authority
		if j.role == config.RoleServer {
			serves = true
		} else if s := cfg.Server(f.Server); s != nil {
			j.server = *s
			if d.opts.Addresses != nil {
				j.server.Addresses = d.opts.Addresses
			}
		}
		jobs[f.Name] = j
	}
	if serves {
		if err := d.listenOn(ctx, cfg.Sysid.Bind); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, w := range d.workers {
		if j, ok := jobs[name]; !ok || !w.job.same(j) {
			w.stop()
			delete(d.workers, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(jobs)) {
		if d.workers[name] == nil {
			d.workers[name] = d.startWorker(ctx, jobs[name])
		}
	}
	return nil
}

// listenOn opens the addresses to serve on, once.
func (d *Daemon) listenOn(ctx context.Context, addresses []string) error {
	d.mu.Lock()
	open := d.listen
	d.mu.Unlock()
	if open != nil {
		if !slices.Equal(open, addresses) {
			d.log.Warn("other addresses to listen on need a restart", "in force", open, "configured", addresses)
		}
		return nil
	}
	var listeners []net.Listener
	for _, a := range addresses {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", a)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return listenError(a, err)
		}
		listeners = append(listeners, l)
	}
	for _, l := range listeners {
		d.group.Go(func() error { return d.host.Serve(ctx, l) })
	}
	d.mu.Lock()
	d.listen = slices.Clone(addresses)
	d.mu.Unlock()
	return nil
}

func listenError(address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s: another program has this port (ss -ltnp shows which); end it, or change bind in sysid", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: this machine does not have that address; change bind in sysid", address)
	}
	return fmt.Errorf("listen on %s: %w", address, err)
}

func (d *Daemon) stopAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.workers {
		w.stop()
	}
}

// Report tells how everything is.
func (d *Daemon) Report() Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := Report{
		PID: os.Getpid(), Tool: d.opts.Tool, Version: version.String(), Host: d.authority.Config().Sysid.Name,
		Started: d.started, Listen: d.listen, Filesets: []FilesetReport{},
	}
	if d.fault != nil {
		r.Error = "the configuration was changed and is not in force: " + d.fault.Error()
	}
	for _, name := range slices.Sorted(maps.Keys(d.workers)) {
		r.Filesets = append(r.Filesets, d.workers[name].status())
	}
	return r
}

// serveStatus answers on the status socket until ctx ends.
func serveStatus(ctx context.Context, l net.Listener, report func() Report) error {
	s := &http.Server{Handler: statusHandler(report), ReadHeaderTimeout: reportTime, WriteTimeout: reportTime}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err := s.Serve(l)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("status socket: %w", err)
}
