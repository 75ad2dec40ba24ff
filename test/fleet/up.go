package fleet

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxSocket is what the kernel allows for the path of a unix socket.
const maxSocket = 107

// Up makes a lab in dir, which must be empty or not exist, and returns when all
// its hosts are connected. What a failure leaves, logs above all, is there to be
// looked at; Down removes it.
func Up(ctx context.Context, dir string, o Options, env Env) (*Lab, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs root: it makes mounts and network namespaces")
	}
	l, unlock, err := claim(dir, o, env)
	if err != nil {
		return nil, err
	}
	defer unlock()
	begin := time.Now()
	if err := l.build(ctx); err != nil {
		return nil, fmt.Errorf("%w\nThe lab is half made. Its logs are below %s; remove it with: lab down %s", err, l.Dir, l.Dir)
	}
	l.note("%d hosts are up after %.1f s", len(l.Hosts), time.Since(begin).Seconds())
	return l, nil
}

// claim makes dir a lab in which nothing is yet.
func claim(dir string, o Options, env Env) (*Lab, func(), error) {
	made := false
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		made = true
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, nil, fmt.Errorf("make folder: %w", err)
		}
	}
	dir, err := resolve(dir)
	if err != nil {
		return nil, nil, err
	}
	l := &Lab{Env: env, Dir: dir}
	s := state{Version: stateVersion, Options: o, Network: networkNumber(dir), MadeDir: made}
	if err := l.take(s); err != nil {
		return nil, nil, err
	}
	if err := l.checkFolder(); err != nil {
		if made {
			err = errors.Join(err, os.Remove(dir))
		}
		return nil, nil, err
	}
	unlock, err := l.lock(dir, 0)
	if err != nil {
		return nil, nil, err
	}
	// Again, because somebody may have been faster.
	err = l.checkFolder()
	if err == nil {
		err = l.save()
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return l, unlock, nil
}

// checkFolder refuses a folder that can't become a lab.
func (l *Lab) checkFolder() error {
	last := l.Hosts[len(l.Hosts)-1]
	if socket := filepath.Join(last.Run(), "lento.sock"); len(socket) > maxSocket {
		return fmt.Errorf("%s is too long a name by %d bytes: unix sockets must fit below it", l.Dir, len(socket)-maxSocket)
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return fmt.Errorf("look into folder: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(l.Dir, stateFile)); err == nil {
		return fmt.Errorf("%s has a lab already; remove it with: lab down %s", l.Dir, l.Dir)
	}
	for _, e := range entries {
		// A lock may be left of a command that ended before there was a lab.
		if e.Name() != lockFile {
			return fmt.Errorf("%s is not empty: it has %q", l.Dir, e.Name())
		}
	}
	return nil
}

// networkNumber gives two labs different addresses most of the time, which
// nothing but their logs' readers need.
func networkNumber(dir string) uint8 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(dir)) // never fails
	return uint8(h.Sum32()%254) + 1
}

// parallel is how many hosts are made at once.
const parallel = 2

func (l *Lab) build(ctx context.Context) error {
	for _, h := range l.Hosts {
		for _, dir := range []string{h.path(""), h.Config(), h.Run(), h.Mount()} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return fmt.Errorf("make folder: %w", err)
			}
		}
	}
	if err := l.network().Create(ctx); err != nil {
		return err
	}
	if err := l.server().makeServer(ctx); err != nil {
		return err
	}
	g, groupCtx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, h := range l.Hosts[1:] {
		code, err := l.invite(ctx, h)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		g.Go(func() error { return h.makeClient(groupCtx, code) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return l.waitConnected(ctx)
}

// place is how a host is told where its fileset lies and is mounted.
func (h *Host) place() []string {
	return []string{"--mountpoint", h.Mount(), "--device", h.Source(), "--channel", channelN}
}

func (h *Host) inconfig(ctx context.Context, args ...string) ([]byte, error) {
	return h.tool(ctx, true, "inconfig", append([]string{"--config", h.Config()}, args...)...)
}

func (h *Host) makeServer(ctx context.Context) error {
	if _, err := h.inconfig(ctx, "init", "--name", h.Name, "--bind", h.address()); err != nil {
		return err
	}
	add := append([]string{"fileset", "add", shared, "--server", h.Name}, h.place()...)
	if _, err := h.inconfig(ctx, add...); err != nil {
		return err
	}
	return h.bringUp(ctx)
}

// invite has the server make an invitation for a host.
func (l *Lab) invite(ctx context.Context, h *Host) (code string, err error) {
	s := l.server()
	out, err := s.inconfig(ctx, "invite", shared, h.Name, "--address", s.address())
	if err != nil {
		return "", err
	}
	code = strings.TrimSpace(string(out))
	if code == "" || strings.ContainsAny(code, " \n") {
		return "", fmt.Errorf("%s: inconfig invite printed %q, which is no code", s.Name, code)
	}
	return code, nil
}

func (h *Host) makeClient(ctx context.Context, code string) error {
	accept := append([]string{"accept", code, "--name", h.Name}, h.place()...)
	if _, err := h.inconfig(ctx, accept...); err != nil {
		return err
	}
	return h.bringUp(ctx)
}

// bringUp makes the cache, mounts it, and starts the daemon.
func (h *Host) bringUp(ctx context.Context) error {
	if err := h.format(ctx); err != nil {
		return err
	}
	if err := h.startPresto(ctx); err != nil {
		return err
	}
	if err := h.startDaemon(ctx); err != nil {
		return err
	}
	h.lab.note("%s is up: %s, mounted on %s", h.Name, h.Prefix.Addr(), h.Mount())
	return nil
}

// connectLimit is how long the clients may take to reach the server.
const connectLimit = 30 * time.Second

// waitConnected waits until every client has met the server.
func (l *Lab) waitConnected(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, connectLimit)
	defer stop()
	for _, h := range l.Hosts[1:] {
		for {
			s, err := h.sharedStatus(ctx)
			if err == nil && s.Connected {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not connected to the server after %v: %s\n%s",
					h.Name, connectLimit, describe("no connection", s, err), tail(h.daemonLog(), 0))
			case <-time.After(pollPause):
			}
		}
	}
	return nil
}
