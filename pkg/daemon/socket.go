package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// socketSuffix is what the status sockets in the run folder end with: lento.sock,
// and intersync-N.sock for each channel that an intersync looks after.
const socketSuffix = ".sock"

// reportTime is how long a daemon may take to answer on its status socket.
const reportTime = 5 * time.Second

// maxReport bounds the answer on a status socket.
const maxReport = 16 << 20

// SocketPath is the path of the status socket of the process of that name.
func SocketPath(run, name string) string { return filepath.Join(run, name+socketSuffix) }

// PIDPath is the path of the file with the process id of that process.
func PIDPath(run, name string) string { return filepath.Join(run, name+".pid") }

// LogPath is the path of the log of that process while it is in the background.
func LogPath(run, name string) string { return filepath.Join(run, name+".log") }

// ErrRunning says that there is such a process already.
var ErrRunning = errors.New("is running already")

// listenStatus opens the status socket. A stale one is replaced; one that
// answers is ErrRunning. The caller holds the lock of the name.
func listenStatus(run, name string) (*net.UnixListener, error) {
	path := SocketPath(run, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open status socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("open status socket: %w", err)
	}
	return l, nil
}

// lockName makes this process the only one of its name in the run folder, and
// writes its process id there. Closing the file gives the name up.
func lockName(run, name string) (*os.File, error) {
	f, err := os.OpenFile(PIDPath(run, name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open process id file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			pid, _ := io.ReadAll(io.LimitReader(f, 32))
			return nil, fmt.Errorf("%s %w (process %s)", name, ErrRunning, strings.TrimSpace(string(pid)))
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write process id: %w", err)
	}
	return f, nil
}

// statusHandler answers GET /v1/status with the Report that report gives.
func statusHandler(report func() Report) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(report())
	})
	return mux
}

// Reports asks every process in the run folder that looks after filesets. One
// that has died is left out; one that does not answer has an Error.
func Reports(ctx context.Context, run string) ([]Report, error) {
	entries, err := os.ReadDir(run)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read run folder: %w", err)
	}
	var reports []Report
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), socketSuffix)
		if !ok || e.Type() != fs.ModeSocket {
			continue
		}
		r, err := askReport(ctx, filepath.Join(run, e.Name()))
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			tool, _, _ := strings.Cut(name, "-")
			r = Report{Tool: tool, Error: fmt.Sprintf("does not answer on %s: %v", e.Name(), err)}
		}
		reports = append(reports, r)
	}
	return reports, nil
}

func askReport(ctx context.Context, path string) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/v1/status", nil)
	if err != nil {
		return Report{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Report{}, err
	}
	defer resp.Body.Close()
	var r Report
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReport)).Decode(&r); err != nil {
		return Report{}, fmt.Errorf("read status: %w", err)
	}
	return r, nil
}
