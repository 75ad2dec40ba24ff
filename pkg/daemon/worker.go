package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
	"github.com/intermezzofs/intermezzo/pkg/ship"
)

// Times between attempts. A cache that is being mounted should be noticed soon;
// a role that can't work as things are should not keep the machine busy.
const (
	lookEvery = 100 * time.Millisecond
	retryMin  = 500 * time.Millisecond
	retryMax  = 15 * time.Second
)

// job is what the configuration says about a fileset.
type job struct {
	fileset config.Fileset
	role    config.Role
	server  config.Server // for a client
}

// same reports whether other asks for the same work. A uuid that was learned
// since is no difference.
func (j job) same(other job) bool {
	if j.fileset.UUID.IsZero() {
		j.fileset.UUID = other.fileset.UUID
	}
	return reflect.DeepEqual(j, other)
}

// worker looks after one fileset: it runs the role, finds it its presto, and runs
// it again if it gave up.
type worker struct {
	d    *Daemon
	job  job
	log  *slog.Logger
	role role
	stop func() // ends it and waits

	mu      sync.Mutex
	channel int   // of the presto that the role has or had, -1: none yet
	err     error // why the role does not run, or has no presto
	errTime time.Time
	logged  string // the error that was logged last
}

// role is what this host is for a fileset.
type role interface {
	// run works until ctx ends, or it can't go on as things are, which it returns.
	// It lives through the comings and goings of presto and of the network.
	run(ctx context.Context) error
	// report adds what the role knows about itself.
	report(r *FilesetReport)
}

func (d *Daemon) startWorker(ctx context.Context, j job) *worker {
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{d: d, job: j, channel: -1, log: d.log.With("fileset", j.fileset.Name)}
	w.role = d.newRole(w)
	done := make(chan struct{})
	w.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		w.loop(ctx)
	}()
	return w
}

// loop runs the role until ctx ends.
func (w *worker) loop(ctx context.Context) {
	pause := retryMin
	for ctx.Err() == nil {
		began := time.Now()
		err := w.role.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended without a reason")
		}
		if time.Since(began) > retryMax {
			pause = retryMin
			w.forget()
		}
		w.note(err)
		if sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// forget makes the next error one to be logged, because all was well for a while.
func (w *worker) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logged = ""
}

// note keeps what is wrong, and logs it unless it was so before.
func (w *worker) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.logged != err.Error() {
		w.log.Error("fileset is not in service; trying again", "error", err)
		w.logged = err.Error()
	}
	w.err, w.errTime = err, time.Now()
}

// presto waits until a presto serves the fileset, and connects to it.
func (w *worker) presto(ctx context.Context) (ship.Link, error) {
	f := w.job.fileset
	for told := false; ; told = true {
		prestos, err := mount.Survey(ctx, w.d.opts.Run)
		if err != nil {
			return nil, err
		}
		found, _, err := locate(prestos, f.Name, f.UUID, f.Channel)
		if err == nil {
			return w.connect(ctx, found)
		}
		if _, ok := errors.AsType[*NotMounted](err); !ok {
			return nil, err
		}
		if !told {
			w.log.Info("fileset is not mounted; waiting for it", "channel", f.Channel)
			w.mu.Lock()
			w.err, w.errTime, w.channel = err, time.Now(), -1
			w.mu.Unlock()
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return nil, err
		}
	}
}

func (w *worker) connect(ctx context.Context, p mount.Presto) (ship.Link, error) {
	link, err := channel.Dial(ctx, p.Socket)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.channel = nil, p.Channel
	return link, nil
}

// saveUUID writes the uuid of the fileset into fsetdb, where it was not known.
func (w *worker) saveUUID(uuid kml.UUID) error {
	if err := w.d.opts.Config.SetFilesetUUID(w.job.fileset.Name, uuid); err != nil {
		return fmt.Errorf("note uuid of fileset %s: %w", w.job.fileset.Name, err)
	}
	return nil
}

// status is the worker's part of the report.
func (w *worker) status() FilesetReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := FilesetReport{Name: w.job.fileset.Name, Role: channel.Role(w.job.role), Channel: w.channel}
	if w.job.role == config.RoleClient {
		r.Server = w.job.fileset.Server
	}
	w.role.report(&r)
	if w.err != nil {
		r.Error, r.ErrorTime, r.Connected = w.err.Error(), &w.errTime, false
	}
	return r
}
