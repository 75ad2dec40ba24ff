// Command demo shows the main job on one machine: two hosts with a cache each,
// set up with the suite's own tools, replicate the source tree of the Go
// distribution, in both directions, on line and off. "make demo" runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/intermezzofs/intermezzo/test/played"
	"github.com/intermezzofs/intermezzo/test/treediff"
)

type demo struct {
	*played.Pair
	dir   string
	start time.Time
}

func main() {
	tools := flag.String("bin", "bin", "folder of the binaries")
	tree := flag.String("tree", "", "tree to replicate (default: the Go distribution's src)")
	keep := flag.Bool("keep", false, "leave the two hosts running, and say where")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *tools, *tree, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, tools, tree string, keep bool) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("it mounts file systems, so it has to run as root")
	}
	if tools, err = filepath.Abs(tools); err != nil {
		return err
	}
	if tree == "" {
		root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("find the Go distribution: %w (name a tree with --tree)", err)
		}
		tree = filepath.Join(strings.TrimSpace(string(root)), "src")
	}
	dir, err := os.MkdirTemp("", "intermezzo-demo-")
	if err != nil {
		return err
	}
	d := &demo{dir: dir, start: time.Now()}
	if d.Pair, err = played.New(dir, tools, d.say); err != nil {
		return err
	}
	if !keep {
		defer func() { err = d.clean(err) }()
	}
	if err = d.show(ctx, tree); err == nil && keep {
		d.say("kept running below %s", dir)
	}
	return err
}

// clean takes everything down, with the logs shown if something went wrong.
func (d *demo) clean(cause error) error {
	if cause != nil {
		d.Logs(os.Stderr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.Down(ctx); err != nil {
		if cause == nil {
			cause = err
		}
		return fmt.Errorf("%w; what is left lies below %s", cause, d.dir)
	}
	if err := os.RemoveAll(d.dir); err != nil && cause == nil {
		return err
	}
	if cause == nil {
		d.say("unmounted, nothing left behind; done in %.1f s", time.Since(d.start).Seconds())
	}
	return cause
}

func (d *demo) say(format string, args ...any) {
	fmt.Printf("[%6.1f s] "+format+"\n", append([]any{time.Since(d.start).Seconds()}, args...)...)
}

func (d *demo) show(ctx context.Context, tree string) error {
	d.say("== two hosts: format, configure, check, mount, start")
	if err := d.Up(ctx, "3G"); err != nil {
		return err
	}
	for _, h := range []*played.Host{d.Server, d.Client} {
		if _, err := h.Run(ctx, "inconfig_chk", "--fstab", "none", played.Fileset); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"fill the server's mount with " + tree, func(ctx context.Context) error { return d.fill(ctx, tree) }},
		{"rename a directory of 1,000 files on the laptop", d.renameMany},
		{"change both sides at once", d.changeBoth},
		{"stop the laptop's daemon and work offline on both sides", d.offline},
	} {
		d.say("== %s", part.title)
		if err := part.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// inStep waits for both sides and proves them identical.
func (d *demo) inStep(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, fmt.Errorf("not within 5 minutes"))
	defer cancel()
	start := time.Now()
	if err := d.InStep(ctx); err != nil {
		return err
	}
	d.say("in step after %.2f s", time.Since(start).Seconds())
	start = time.Now()
	diffs, err := treediff.Compare(ctx, d.Server.Mnt, d.Client.Mnt, treediff.Options{Limit: 20})
	if err != nil {
		return err
	}
	for _, x := range diffs {
		d.say("DIFFERENT %s", x.Format("server", "laptop"))
	}
	if len(diffs) > 0 {
		return fmt.Errorf("the trees differ")
	}
	d.say("identical: content, type, mode, owner, times, targets, hard links, xattrs, ACLs, devices, holes (compared in %.1f s)",
		time.Since(start).Seconds())
	return nil
}
