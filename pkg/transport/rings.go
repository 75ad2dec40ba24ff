package transport

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// rings serves io_uring: a queue for each CPU.
type rings struct {
	e      *engine
	fd     int // of /dev/fuse
	size   sizes
	limits limits
	watch  *watch

	queues  []*queue
	serve   chan struct{} // closed when requests may be worked on
	once    sync.Once
	quit    atomic.Bool // threads end as soon as they can
	running sync.WaitGroup
	entries atomic.Int64
	kicks   atomic.Uint64
	files   knownFiles
}

// queue is the threads that take the requests of one CPU.
type queue struct {
	r  *rings
	id uint16 // the CPU

	// idle counts entries that wait for a request, as far as we know: the kernel may
	// have given one a request that its thread has not seen.
	idle    atomic.Int32
	threads atomic.Int32
	inline  atomic.Int32  // threads in a request that may block
	done    atomic.Uint64 // replies

	mu       sync.Mutex
	workers  []*worker
	starting bool

	// The watch's.
	stuck int // ticks since a reply, while no entry was idle
	seen  uint64
}

// newRings starts the first threads of all queues as far as that goes before INIT
// is answered.
func newRings(e *engine, fd, cpus int, size sizes, l limits) (*rings, error) {
	r := &rings{e: e, fd: fd, size: size, limits: l, serve: make(chan struct{})}
	for cpu := range cpus {
		q := &queue{r: r, id: uint16(cpu)}
		r.queues = append(r.queues, q)
		for range l.first {
			w := newWorker(q)
			q.workers = append(q.workers, w)
			r.running.Add(1)
			go w.run()
			if err := <-w.ready; err != nil {
				r.abandon()
				return nil, err
			}
		}
	}
	return r, nil
}

// register gives the entries to the kernel. With the last queue's first one
// requests begin to arrive. If it fails, the kernel has gone back to /dev/fuse.
func (r *rings) register() error {
	for _, q := range r.queues {
		for _, w := range q.workers {
			close(w.register)
			if err := <-w.ready; err != nil {
				return fmt.Errorf("the kernel refused a queue: %w", err)
			}
		}
	}
	return nil
}

// begin lets requests be worked on.
func (r *rings) begin() { r.once.Do(func() { close(r.serve) }) }

// abandon ends all threads, those that work on a request after their reply. It may
// be called more than once, and waits only for threads that never served.
func (r *rings) abandon() {
	r.quit.Store(true)
	for _, q := range r.queues {
		q.mu.Lock()
		for _, w := range q.workers {
			w.stop()
		}
		q.mu.Unlock()
	}
	started := true
	r.once.Do(func() { started = false; close(r.serve) })
	if !started {
		r.running.Wait()
	}
}

// look starts another thread where all of a queue's are stuck. It is the watch's.
func (r *rings) look() bool {
	active := false
	for _, q := range r.queues {
		if q.idle.Load() > 0 {
			q.stuck = 0
			continue
		}
		active = true
		if done := q.done.Load(); done != q.seen {
			q.stuck, q.seen = 0, done
		}
		// The more there are, the less likely it is that another one is of use, and
		// the more that they only wait for the CPU.
		if q.stuck++; q.stuck > int(q.threads.Load()) {
			q.grow(0)
		}
	}
	return active
}

// grow starts another thread, unless there are enough or one is being started.
// cause is a node that the kernel knows, or 0.
func (q *queue) grow(cause uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.starting || len(q.workers) >= q.r.limits.threads || q.r.quit.Load() || q.r.e.gone.Load() {
		return
	}
	q.starting = true
	w := newWorker(q)
	close(w.register)
	w.late, w.cause = true, cause
	q.r.running.Add(1)
	go w.run()
	go func() {
		err := <-w.ready
		if err == nil {
			err = <-w.ready
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		q.starting = false
		if unmounted(err) {
			return
		}
		if err != nil {
			q.r.e.log.Warn("start another thread for requests", "cpu", q.id, "err", err)
			return
		}
		q.workers = append(q.workers, w)
		if q.r.quit.Load() {
			w.stop()
		}
	}()
}

func (q *queue) leave(w *worker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.workers, w); i >= 0 {
		q.workers = slices.Delete(q.workers, i, i+1)
	}
}
