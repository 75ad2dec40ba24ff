package config

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Severity says how bad a Finding is.
type Severity string

const (
	SeverityError   Severity = "error"   // something will not work, or is not safe
	SeverityWarning Severity = "warning" // it may work, and surprise somebody
	SeverityInfo    Severity = "info"    // worth knowing
)

// Finding is something that Check found.
type Finding struct {
	Severity Severity `json:"severity"`
	Where    string   `json:"where"`         // file with line and column, device, folder, address or fileset
	Text     string   `json:"text"`          // what is wrong
	Fix      string   `json:"fix,omitempty"` // what to do about it
	Source   string   `json:"source,omitempty"`
}

// CacheView is what a look into a cache shows.
type CacheView struct {
	Bottom   string // type of its file system: ext4, xfs, btrfs or tmpfs
	Filesets []CacheFileset
}

// CacheFileset is a fileset of a cache.
type CacheFileset struct {
	Name   string
	UUID   kml.UUID // zero: no daemon has attached yet
	Role   Role     // "": no daemon has attached yet
	Damage string   // why it is out of service, "" if it isn't
}

// ChannelView is a channel of the run folder that a presto serves.
type ChannelView struct {
	Channel int
	PID     int
	Source  string // device, loop file or folder of its cache
	Cache   CacheView
	Err     error // it listens, but did not answer
}

// CheckOptions say what Check looks at. The functions are given by the caller,
// because the packages that can do these things are built on this one; a nil one
// leaves out what needs it.
type CheckOptions struct {
	Filesets []string      // only these; none: all
	Fstab    string        // "": DefaultFstab
	Run      string        // "": DefaultRun
	Offline  bool          // ask no server
	Timeout  time.Duration // for each address of a server; 0: 5 seconds

	// LookInside opens a cache without changing it.
	LookInside func(ctx context.Context, source string) (CacheView, error)
	// Channels lists the channels in the run folder that somebody serves.
	Channels func(ctx context.Context, run string) ([]ChannelView, error)
	// Mounts lists what is mounted, touching nothing of it.
	Mounts func() ([]MountView, error)
}

// MountView is a line of the mount table.
type MountView struct {
	Source, Dir, Type string
}

// checker collects findings.
type checker struct {
	opts     CheckOptions
	dir      Dir
	config   *Config
	filesets []*Fileset // those asked for
	findings []Finding

	key      Key
	channels []ChannelView
	mounts   []MountView
	views    map[string]*CacheView // by device, nil: could not be looked into
}

// Check looks for everything that can be wrong with how this host is set up: the
// files of dir, the fstab lines, devices, mount points, the run folder, ports,
// keys, servers and clocks. It changes nothing.
//
// Errors come first, then warnings, then the rest; among equals a cause precedes
// what follows from it, and what can't be judged because of an error found
// before is left out. It blocks on disk and, unless opts.Offline, on the network.
func Check(ctx context.Context, dir Dir, opts CheckOptions) []Finding {
	if opts.Fstab == "" {
		opts.Fstab = DefaultFstab
	}
	if opts.Run == "" {
		opts.Run = DefaultRun
	}
	if opts.Timeout == 0 {
		opts.Timeout = 5 * time.Second
	}
	c := &checker{opts: opts, dir: dir, views: map[string]*CacheView{}}
	if c.files() {
		c.keyFile()
		c.kernel()
		c.runFolder()
		c.survey(ctx)
		for _, f := range c.filesets {
			c.placement(ctx, f)
		}
		c.fstab()
		c.network(ctx)
	} else {
		c.kernel()
	}
	rank := map[Severity]int{SeverityError: 0, SeverityWarning: 1, SeverityInfo: 2}
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return rank[a.Severity] - rank[b.Severity] })
	return c.findings
}

// Worst gives the severity of the worst of findings, "" for none.
func Worst(findings []Finding) Severity {
	worst := Severity("")
	for _, f := range findings {
		switch {
		case f.Severity == SeverityError:
			return SeverityError
		case f.Severity == SeverityWarning || worst == "":
			worst = f.Severity
		}
	}
	return worst
}

func (c *checker) add(severity Severity, where, text, fix string) {
	c.findings = append(c.findings, Finding{Severity: severity, Where: where, Text: text, Fix: fix})
}

func (c *checker) fault(where, fix, format string, args ...any) {
	c.add(SeverityError, where, fmt.Sprintf(format, args...), fix)
}

func (c *checker) warn(where, fix, format string, args ...any) {
	c.add(SeverityWarning, where, fmt.Sprintf(format, args...), fix)
}

func (c *checker) note(where, fix, format string, args ...any) {
	c.add(SeverityInfo, where, fmt.Sprintf(format, args...), fix)
}

// isRoot: what only root can see is not judged otherwise.
func isRoot() bool { return os.Geteuid() == 0 }

// survey asks once what all filesets need to know.
func (c *checker) survey(ctx context.Context) {
	var err error
	if c.opts.Mounts != nil {
		if c.mounts, err = c.opts.Mounts(); err != nil {
			c.fault("mount table", "", "%v", err)
		}
	}
	if c.opts.Channels != nil {
		if c.channels, err = c.opts.Channels(ctx, c.opts.Run); err != nil {
			c.fault(c.opts.Run, "", "%v", err)
		}
	}
	for _, ch := range c.channels {
		if ch.Err != nil {
			c.fault(fmt.Sprintf("channel %d", ch.Channel), fmt.Sprintf("see its log %s/%d.log; `lento umount` detaches a mount that is dead", c.opts.Run, ch.Channel),
				"process %d listens on it and does not answer: %v", ch.PID, ch.Err)
		}
	}
}
