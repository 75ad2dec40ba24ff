package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The links there are.
const (
	LinkURing   = "io-uring"
	LinkDevFuse = "dev-fuse"
)

// Options say how to serve.
type Options struct {
	// Mount is what INIT agrees on with the kernel, by go-fuse's rules: MaxWrite,
	// MaxBackground, MaxReadAhead, the capabilities and so on. What is about
	// mounting, splicing, SingleThreaded and MaxInflightRequestBytes is not used.
	Mount fuse.MountOptions
	// Force is the link to use, or "" for io_uring where it works. If it is
	// LinkURing and that does not work, New fails.
	Force string
	// Logger gets what nobody else is told; nil for none.
	Logger *slog.Logger

	limits limits
}

// limits are what the tests make small.
type limits struct {
	first   int  // io_uring threads a CPU at the beginning
	threads int  // and at most
	inline  int  // of them in requests that may block; the next goes to a goroutine
	spoil   bool // the kernel is given a registration that it refuses
}

func (l limits) orDefaults() limits {
	if l.first == 0 {
		l.first = 2
	}
	if l.threads == 0 {
		l.threads = 32
	}
	if l.inline == 0 {
		l.inline = l.threads / 2
	}
	return l
}

// Server serves one mount.
type Server struct {
	fs     fuse.RawFileSystem
	log    *slog.Logger
	init   fuse.InitIn
	link   string
	why    string
	engine *engine
	pool   *buffers
	device *device
	rings  *rings // nil on dev-fuse

	serving atomic.Bool

	fdMu sync.RWMutex // held for reading while dev is used by others than Serve
	dev  *os.File     // nil when closed
}

// New takes over dev, a descriptor of /dev/fuse that is mounted, also when it
// fails; it is closed then, which ends the connection. It waits for the kernel's
// INIT and answers it. The file system gets no request before Serve; its Init is
// never called, because there is no fuse.Server to give it.
func New(fs fuse.RawFileSystem, dev *os.File, o Options) (*Server, error) {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{fs: fs, log: log, dev: dev}
	if err := s.start(o); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(o Options) error {
	if o.Force != "" && o.Force != LinkURing && o.Force != LinkDevFuse {
		return fmt.Errorf("transport %q is unknown: it is %s or %s", o.Force, LinkURing, LinkDevFuse)
	}
	fd := int(s.dev.Fd())
	n, err := s.negotiate(fd, &o)
	if err != nil {
		return err
	}
	if s.rings != nil {
		if err := s.rings.register(); err != nil {
			s.fallBack(err.Error())
		}
	}
	if s.link = LinkDevFuse; s.rings != nil {
		s.link, s.why = LinkURing, ""
	}
	if o.Force == LinkURing && s.link != o.Force {
		return fmt.Errorf("transport %s is not possible: %s", o.Force, s.why)
	}
	s.pool = &buffers{size: n, keep: 4}
	s.device = &device{e: s.engine, fd: fd, pool: s.pool, beside: s.rings, ended: make(chan error, 1)}
	s.device.watch = newWatch(s.look)
	if s.rings != nil {
		s.rings.watch = s.device.watch
	}
	return nil
}

// fallBack gives io_uring up.
func (s *Server) fallBack(why string) {
	s.rings.abandon()
	s.rings, s.why = nil, why
}

func (s *Server) look() bool {
	active := s.device.look()
	if s.rings != nil {
		active = s.rings.look() || active
	}
	return active
}

// Serve answers requests until the file system is unmounted or the connection was
// aborted, every request under way is over (their cancel channels are closed), and
// OnUnmount of the file system has been called. It returns nil then; an error says
// that reading requests failed, which ends the mount. It may be called once.
func (s *Server) Serve() error {
	if !s.serving.CompareAndSwap(false, true) {
		return errors.New("serve mount: it is served already")
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { s.device.watch.run(done) })
	if s.rings != nil {
		s.rings.begin()
	}
	s.device.start()
	err := <-s.device.ended
	s.engine.cancelAll()
	close(done)
	watching.Wait()
	if s.rings != nil {
		if err != nil {
			s.rings.abandon()
		}
		s.rings.running.Wait()
	}
	s.device.running.Wait()
	s.fs.OnUnmount()
	s.release()
	if err != nil {
		return fmt.Errorf("serve mount: %w", err)
	}
	return nil
}

// Close gives up a Server that Serve was not called on: the mount answers
// ENOTCONN from then on. It does nothing to one that serves.
func (s *Server) Close() {
	if !s.serving.CompareAndSwap(false, true) {
		return
	}
	if s.rings != nil {
		s.rings.abandon()
	}
	s.release()
}

func (s *Server) release() {
	if s.pool != nil {
		s.pool.drop()
	}
	s.fdMu.Lock()
	defer s.fdMu.Unlock()
	if s.rings != nil {
		s.rings.abandon()
	}
	s.dev.Close()
	s.dev = nil
}

// Link says how requests arrive, LinkURing or LinkDevFuse.
func (s *Server) Link() string { return s.link }

// Why says why io_uring is not used, in words for an administrator, or "".
func (s *Server) Why() string { return s.why }

// KernelSettings returns what the kernel offered in INIT.
func (s *Server) KernelSettings() *fuse.InitIn {
	c := s.init
	return &c
}

// Stats are figures of a Server at one moment.
type Stats struct {
	Threads     int   // io_uring threads
	Entries     int   // io_uring entries
	Handovers   int64 // how often a stuck reader of /dev/fuse was replaced
	BufferBytes int64 // mapped for requests, resident as far as it was used
}

// Stats may be called at any time.
func (s *Server) Stats() Stats {
	st := Stats{Handovers: s.device.handovers.Load()}
	buffers := s.pool.count()
	if r := s.rings; r != nil {
		for _, q := range r.queues {
			st.Threads += int(q.threads.Load())
		}
		st.Entries = int(r.entries.Load())
		buffers += st.Entries
	}
	st.BufferBytes = int64(buffers) * int64(s.pool.size.bytes())
	return st
}
