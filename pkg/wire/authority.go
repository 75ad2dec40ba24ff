package wire

import (
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"sync"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

// Grants answers who may do what. It is asked for each request and, while a
// request lasts, every few seconds, so a grant that is taken away ends at once.
type Grants interface {
	// Grant returns what the key fp may do with a fileset that this host serves.
	Grant(fileset string, fp config.Fingerprint) (config.Replicator, bool)
}

// Authority is the Grants that a configuration folder makes. It notices when the
// files change. A change that can't be read leaves in force what was there
// before, and is logged once.
type Authority struct {
	dir config.Dir
	log *slog.Logger

	mu    sync.Mutex
	conf  *config.Config
	stamp [2]fileStamp // of what conf, or the latest unreadable change, was read from
}

type fileStamp struct {
	ino   uint64
	size  int64
	mtime int64
}

// NewAuthority reads the configuration.
func NewAuthority(dir config.Dir, log *slog.Logger) (*Authority, error) {
	a := &Authority{dir: dir, log: log}
	var err error
	if a.stamp, err = a.look(); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if a.conf, err = dir.Load(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Authority) look() (stamps [2]fileStamp, err error) {
	for i, name := range []string{config.SysidFile, config.FsetdbFile} {
		fi, err := os.Stat(a.dir.Path(name))
		if err != nil {
			return stamps, err
		}
		stamps[i] = fileStamp{size: fi.Size(), mtime: fi.ModTime().UnixNano()}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			stamps[i].ino = st.Ino
		}
	}
	return stamps, nil
}

// Config returns the configuration in force. It must not be changed.
func (a *Authority) Config() *config.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, err := a.look()
	if err == nil && now == a.stamp {
		return a.conf
	}
	if err == nil {
		var c *config.Config
		if c, err = a.dir.Load(); err == nil {
			a.conf = c
		}
	}
	if err != nil && now != a.stamp {
		a.log.Warn("changed configuration can't be read, the last one stays in force", "error", err)
	}
	a.stamp = now
	return a.conf
}

// Grant implements Grants.
func (a *Authority) Grant(fileset string, fp config.Fingerprint) (config.Replicator, bool) {
	c := a.Config()
	f := c.Fileset(fileset)
	if f == nil || c.Role(f) != config.RoleServer {
		return config.Replicator{}, false
	}
	r := f.Grant(fp)
	if r == nil {
		return config.Replicator{}, false
	}
	return *r, true
}
