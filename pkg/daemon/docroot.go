package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

// Cache is one mounted fileset.
type Cache struct {
	Mountpoint string
	Source     string
	Channel    int
	Fileset    string
}

// FindCache finds the fileset that is mounted on dir, and its presto in the run
// folder. It does not touch the mount.
func FindCache(ctx context.Context, run, dir string) (Cache, error) {
	table, err := mount.Table()
	if err != nil {
		return Cache{}, err
	}
	point, ok := mount.ByDir(table, dir)
	if !ok {
		return Cache{}, fmt.Errorf("%s is not the mount point of a cache; mount it first: mount -t intermezzo DEVICE %s -o fileset=NAME", dir, dir)
	}
	prestos, err := mount.Survey(ctx, run)
	if err != nil {
		return Cache{}, err
	}
	for _, p := range prestos {
		if p.Err != nil || p.Info.Source != point.Source {
			continue
		}
		c := Cache{Mountpoint: point.Dir, Source: point.Source, Channel: p.Channel}
		if c.Fileset, err = mountedFileset(p.Info, point.Dir); err != nil {
			return Cache{}, err
		}
		return c, nil
	}
	return Cache{}, fmt.Errorf("%s is mounted from %s, but no presto in %s serves that; unmount and mount it again, or say --run", point.Dir, point.Source, run)
}

// mountedFileset is the fileset that presto has on dir. It may know the mount
// under another name, when that was moved or lies in another root.
func mountedFileset(info channel.Info, dir string) (string, error) {
	var mounted []string
	for _, f := range info.Filesets {
		if f.Mountpoint == dir {
			return f.Name, nil
		}
		if f.Mountpoint != "" {
			mounted = append(mounted, f.Name)
		}
	}
	if len(mounted) == 1 {
		return mounted[0], nil
	}
	return "", fmt.Errorf("which fileset is mounted on %s is not clear: the cache %s has %s", dir, info.Source, strings.Join(mounted, ", "))
}

// Docroot is the configuration folder that intersync keeps for a cache.
type Docroot struct {
	Dir   config.Dir
	Cache Cache
	Name  string // of this host, "": what it is already, or a sensible one
}

// make makes the folder, and the link to the cache in it.
func (r Docroot) make() error {
	if err := os.MkdirAll(string(r.Dir), 0o700); err != nil {
		return fmt.Errorf("make docroot: %w", err)
	}
	link := r.Dir.Path("cache")
	if target, err := os.Readlink(link); err == nil && target == r.Cache.Mountpoint {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link to the cache: %w", err)
	}
	if err := os.Symlink(r.Cache.Mountpoint, link); err != nil {
		return fmt.Errorf("link to the cache: %w", err)
	}
	return nil
}

func (r Docroot) placement() config.Placement {
	return config.Placement{Mountpoint: &r.Cache.Mountpoint, Device: &r.Cache.Source, Channel: &r.Cache.Channel}
}

// PrepareServer makes the docroot that of the server of its fileset, listening on
// bind; nil: as before, or all addresses.
func (r Docroot) PrepareServer(bind []string) error {
	if err := r.make(); err != nil {
		return err
	}
	name := r.Name
	if name == "" {
		if cfg, err := r.Dir.Load(); err == nil {
			name = cfg.Sysid.Name
		} else if name, err = os.Hostname(); err != nil {
			return fmt.Errorf("name of this host: %w", err)
		}
	}
	_, err := r.Dir.Edit(func(c *config.Config) error {
		if err := c.Init(name, bind); err != nil {
			return err
		}
		return c.AddFileset(r.Cache.Fileset, c.Sysid.Name, r.placement())
	})
	if err != nil {
		return err
	}
	_, err = r.Dir.EnsureKey()
	return err
}

// Accept takes an invitation to its server and makes the docroot that of a client
// of it. An invitation that was taken by this docroot before may be taken again.
func (r Docroot) Accept(ctx context.Context, code string) error {
	inv, err := config.ParseInvitation(code)
	if err != nil {
		return err
	}
	if inv.Fileset != r.Cache.Fileset {
		return fmt.Errorf("the invitation is for the fileset %s, and %s is mounted on %s", inv.Fileset, r.Cache.Fileset, r.Cache.Mountpoint)
	}
	if err := r.make(); err != nil {
		return err
	}
	options := config.AcceptOptions{Name: r.Name, Placement: r.placement()}
	if _, err := r.Dir.PlanAccept(inv, options); err != nil {
		return err
	}
	sysid, err := r.Dir.EnsureSysid(inv, r.Name)
	if err != nil {
		return err
	}
	key, err := r.Dir.EnsureKey()
	if err != nil {
		return err
	}
	result, err := wire.Join(ctx, inv, key, sysid)
	if err != nil {
		return err
	}
	_, err = r.Dir.Accept(inv, result, options)
	return err
}

// NotInvited says that a docroot has no key and pin for its server yet.
type NotInvited struct {
	Docroot config.Dir
	Fileset string
	Server  string // address that was asked for
	Mount   string
}

func (e *NotInvited) Error() string {
	return fmt.Sprintf(`%s has no key of the server yet, so it can't be trusted. On the server (%s) run
	inconfig --config DOCROOT invite %s NAME
where DOCROOT is its /etc/intermezzo for lento, its docroot for intersync, and NAME is to be the name of this host. Then run here, once,
	intersync --invite CODE --docroot %s --server %s %s`, e.Docroot, e.Server, e.Fileset, e.Docroot, e.Server, e.Mount)
}

// PrepareClient checks that the docroot is that of a client of its fileset, and
// notes where the cache is now. It gives the server.
func (r Docroot) PrepareClient(address string) (config.Server, error) {
	cfg, err := r.Dir.Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return config.Server{}, err
	}
	var f *config.Fileset
	if err == nil {
		f = cfg.Fileset(r.Cache.Fileset)
	}
	if f == nil || cfg.Role(f) == config.RoleClient && cfg.Server(f.Server) == nil {
		return config.Server{}, &NotInvited{Docroot: r.Dir, Fileset: r.Cache.Fileset, Server: address, Mount: r.Cache.Mountpoint}
	}
	if cfg.Role(f) == config.RoleServer {
		return config.Server{}, fmt.Errorf("by %s this host is the server of fileset %s; leave --server out, or choose another --docroot", r.Dir, f.Name)
	}
	server := *cfg.Server(f.Server)
	if err := r.make(); err != nil {
		return config.Server{}, err
	}
	_, err = r.Dir.Edit(func(c *config.Config) error {
		if err := c.Init(r.Name, nil); err != nil {
			return err
		}
		return c.AddFileset(f.Name, f.Server, r.placement())
	})
	return server, err
}

// MissingFiles gives those of the files named in list, one a line, that are not
// in the mounted tree. Names are relative to the mount point, or absolute and
// below it. Blank lines and those that begin with # are skipped. It asks the
// mount.
func (c Cache) MissingFiles(list []byte) (missing []string, found int, err error) {
	for line := range strings.Lines(string(list)) {
		name := strings.TrimSuffix(line, "\n")
		if strings.TrimSpace(name) == "" || strings.HasPrefix(name, "#") {
			continue
		}
		path := name
		if !filepath.IsAbs(name) {
			path = filepath.Join(c.Mountpoint, name)
		}
		if rel, err := filepath.Rel(c.Mountpoint, path); err != nil || !filepath.IsLocal(rel) {
			return nil, 0, fmt.Errorf("%s is not below %s", name, c.Mountpoint)
		}
		switch _, err := os.Lstat(path); {
		case err == nil:
			found++
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		default:
			return nil, 0, fmt.Errorf("look for file: %w", err)
		}
	}
	return missing, found, nil
}
