package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/test/netlab"
)

// ErrNo means that a command did what it was asked, and that the answer is no.
var ErrNo = errors.New("the answer is no")

// answer is an ErrNo that says what the question was.
type answer string

func (a answer) Error() string { return string(a) }
func (a answer) Unwrap() error { return ErrNo }

func no(format string, args ...any) error { return answer(fmt.Sprintf(format, args...)) }

// Env is what a lab needs of the world around it.
type Env struct {
	Bin   string    // the folder with the tools of the suite
	Notes io.Writer // for what people may want to know
}

func (e Env) note(format string, args ...any) { fmt.Fprintf(e.Notes, format+"\n", args...) }

// Lab is a lab that was opened. Its methods may be called from several processes
// at once; those that change the lab wait for each other.
type Lab struct {
	Env
	Dir   string // absolute, without symbolic links
	Hosts []*Host
	state state
}

// state is what is kept in lab.json.
type state struct {
	Version int                  `json:"version"`
	Options Options              `json:"options"`
	Network uint8                `json:"network"`  // number of its addresses
	MadeDir bool                 `json:"made_dir"` // Up made the folder, so Down removes it
	Links   map[string]linkState `json:"links"`
}

// linkState is what a host's link is meant to be.
type linkState struct {
	Cut  bool        `json:"cut"`
	Link netlab.Link `json:"link"`
}

const (
	stateVersion = 1
	stateFile    = "lab.json"
	lockFile     = "lab.lock"
	switchFile   = "switch"
	shared       = "shared" // the fileset that all hosts mount
	channelN     = "0"      // the channel of every host's cache
	wirePort     = 370      // where a server listens
)

// Host is one host of a lab.
type Host struct {
	lab    *Lab
	Name   string
	Prefix netip.Prefix
}

func (h *Host) path(name string) string { return filepath.Join(h.lab.Dir, h.Name, name) }

// Config, Run and Mount are the host's folders.
func (h *Host) Config() string { return h.path("etc") }
func (h *Host) Run() string    { return h.path("run") }
func (h *Host) Mount() string  { return h.path("mnt") }

func (h *Host) namespace() string { return h.path("netns") }
func (h *Host) daemonLog() string { return h.path("daemon.log") }
func (h *Host) address() string {
	return netip.AddrPortFrom(h.Prefix.Addr(), wirePort).String()
}

// Open finds the lab in a folder.
func Open(dir string, env Env) (*Lab, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	l := &Lab{Env: env, Dir: dir}
	err = l.load()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no lab: make one with: lab up %s", dir, dir)
	}
	return l, err
}

// resolve gives the name of a folder that mount tables have for it.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find folder: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// What does not exist has no links in its last part.
		parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
		if err == nil {
			return filepath.Join(parent, filepath.Base(dir)), nil
		}
		return dir, nil
	}
	if err != nil {
		return "", fmt.Errorf("find folder: %w", err)
	}
	return real, nil
}

func (l *Lab) load() error {
	data, err := os.ReadFile(filepath.Join(l.Dir, stateFile))
	if err != nil {
		return fmt.Errorf("read lab: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("read lab %s: %s: %w", l.Dir, stateFile, err)
	}
	if s.Version != stateVersion {
		return fmt.Errorf("read lab %s: it is of version %d, and this program knows %d", l.Dir, s.Version, stateVersion)
	}
	return l.take(s)
}

// take makes s the state of the lab.
func (l *Lab) take(s state) error {
	addrs, err := netlab.Addresses(s.Network, s.Options.Hosts, s.Options.IPv6)
	if err != nil {
		return fmt.Errorf("address hosts: %w", err)
	}
	l.state, l.Hosts = s, nil
	for i, addr := range addrs {
		l.Hosts = append(l.Hosts, &Host{lab: l, Name: fmt.Sprintf("host%d", i+1), Prefix: addr})
	}
	return nil
}

// save writes the state whole or not at all.
func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode lab: %w", err)
	}
	path := filepath.Join(l.Dir, stateFile)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	return nil
}

// Host finds a host by name.
func (l *Lab) Host(name string) (*Host, error) {
	for _, h := range l.Hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("no host %q in the lab %s, which has host1 to host%d", name, l.Dir, len(l.Hosts))
}

// server is the host that serves the fileset.
func (l *Lab) server() *Host { return l.Hosts[0] }

// lockPatience is how long a command waits for another that changes the lab.
const lockPatience = 90 * time.Second

// lock makes this the only command that changes the lab, until unlock. A command
// that was killed holds no lock.
func (e Env) lock(dir string, patience time.Duration) (unlock func(), err error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock lab: %w", err)
	}
	told := false
	for deadline := time.Now().Add(patience); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		holder := lockHolder(path)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("lock lab %s: process %s is at work on it; wait for it or end it: %w", dir, holder, err)
		}
		if !told {
			e.note("waiting for process %s, which is at work on this lab", holder)
			told = true
		}
		<-time.After(50 * time.Millisecond)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock lab: %w", err)
	}
	return func() { f.Close() }, nil
}

// lockHolder gives the pid in the lock file, for people.
func lockHolder(path string) string {
	data, err := os.ReadFile(path)
	if err != nil || len(data) == 0 {
		return "(unknown)"
	}
	return strings.TrimSpace(string(data))
}

// change does work on a locked lab whose state is fresh.
func (l *Lab) change(work func() error) error {
	unlock, err := l.lock(l.Dir, lockPatience)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.load(); err != nil {
		return err
	}
	return work()
}
