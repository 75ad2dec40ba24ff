package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Backend is what a Server serves: Presto, and what presto offers besides.
type Backend interface {
	Presto

	// Control does what verb names. files become the backend's if it returns no
	// error; with an error the Server closes them. An unknown verb is ErrInvalid.
	Control(ctx context.Context, verb string, args json.RawMessage, files []*os.File) (json.RawMessage, error)
}

const (
	maxCalls     = 256         // under way on one connection; more are refused with ErrBusy
	farewellTime = time.Second // for the last events of a connection that is being closed
)

// Server is presto's end of the channel. The zero value is not usable: NewServer.
type Server struct {
	log *slog.Logger

	mu    sync.Mutex
	conns map[*session]struct{}
}

// NewServer returns a server that logs to log who was turned away.
func NewServer(log *slog.Logger) *Server {
	return &Server{log: log, conns: make(map[*session]struct{})}
}

// Listen makes the socket at path, mode 0600. A socket that nobody serves any
// more is replaced; one that answers is ErrBusy.
func Listen(path string) (*net.UnixListener, error) {
	unlock, err := lockPath(path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, &Error{ErrBusy, fmt.Sprintf("channel %s is in use by another presto", path)}
	} else if errors.Is(err, unix.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale channel: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("open channel: %w", err)
	}
	return l, nil
}

// lockPath keeps two prestos from replacing each other's socket at one moment.
func lockPath(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock channel %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// Serve accepts connections from l and serves b to root's processes until ctx
// ends. It then sends the events that are pending, closes everything, l
// included, and returns nil when the last call has returned. Any other return
// is an error of l.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener, b Backend) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
				s.log.Warn("accept on channel", "error", err)
				pause(ctx, 100*time.Millisecond)
				continue
			}
			return fmt.Errorf("accept on channel: %w", err)
		}
		if err := checkPeer(conn); err != nil {
			s.log.Warn("connection to channel turned away", "error", err)
			conn.Close()
			continue
		}
		wg.Go(func() { s.serveConn(ctx, conn, b) })
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func checkPeer(conn *net.UnixConn) error {
	rc, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	err = rc.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, cerr); err != nil {
		return fmt.Errorf("ask who connects: %w", err)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("process %d of user %d is not root", cred.Pid, cred.Uid)
	}
	return nil
}

// Notify gives e to every connection that attached to its fileset, or, if it
// names none, to all. It never blocks.
func (s *Server) Notify(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.notify(e)
	}
}

func (s *Server) serveConn(ctx context.Context, conn *net.UnixConn, b Backend) {
	ctx, cancel := context.WithCancel(ctx)
	c := &session{conn: conn, w: frameWriter{conn: conn}, backend: b, queue: newEventQueue(), log: s.log,
		calls: make(map[uint64]context.CancelFunc), attached: make(map[string]int)}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()

	var wg sync.WaitGroup
	wg.Go(func() { c.sendEvents(ctx) })
	// When presto ends, reading stops at once; the reader then cancels the rest.
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	if err := c.read(ctx, &wg); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		s.log.Warn("channel connection ended", "error", err)
	}
	stop()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	conn.SetWriteDeadline(time.Now().Add(farewellTime))
	cancel()
	wg.Wait()
	conn.Close()
}
