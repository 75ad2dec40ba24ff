// Command bench measures the main job against what people use today, in one run
// on one machine, and prints ratios. "make bench" runs it. Nothing is asserted.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/intermezzofs/intermezzo/test/played"
)

type bench struct {
	dir, tools, tree string
	rounds, files    int
}

func main() {
	b := bench{}
	flag.StringVar(&b.tools, "bin", "bin", "folder of the binaries")
	flag.StringVar(&b.tree, "tree", "", "tree to replicate (default: the Go distribution's src)")
	flag.IntVar(&b.rounds, "rounds", 3, "interleaved rounds of the initial fill; medians are printed")
	flag.IntVar(&b.files, "files", 1000, "small files for the latency")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("it mounts file systems, so it has to run as root")
	}
	if b.tools, err = filepath.Abs(b.tools); err != nil {
		return err
	}
	if b.tree == "" {
		root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("find the Go distribution: %w", err)
		}
		b.tree = filepath.Join(strings.TrimSpace(string(root)), "src")
	}
	if b.dir, err = os.MkdirTemp("", "intermezzo-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.fill(ctx); err != nil {
		return err
	}
	return b.latency(ctx)
}

// contender is one way to bring a tree from one place to another.
type contender struct {
	name string
	run  func(ctx context.Context, round int) (time.Duration, error)
	took []time.Duration
}

// fill brings the tree to an empty place, in turns.
func (b *bench) fill(ctx context.Context) error {
	all := []*contender{{name: "intermezzo", run: b.fillOurs}, {name: "tar | tar", run: b.fillTar}}
	if _, err := exec.LookPath("rsync"); err == nil {
		all = append(all, &contender{name: "rsync -a (daemon)", run: b.fillRsync})
	} else {
		fmt.Println("rsync: not installed, not measured")
	}
	for round := range b.rounds {
		for _, c := range all {
			took, err := c.run(ctx, round)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			c.took = append(c.took, took)
			fmt.Printf("  round %d  %-18s %7.2f s\n", round+1, c.name, took.Seconds())
		}
	}
	fmt.Printf("initial fill of %s, medians of %d:\n", b.tree, b.rounds)
	ours := median(all[0].took)
	for _, c := range all {
		m := median(c.took)
		fmt.Printf("  %-18s %7.2f s   intermezzo takes %.2f times as long\n", c.name, m.Seconds(), ours.Seconds()/m.Seconds())
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

// pair sets up two hosts for the time of do.
func (b *bench) pair(ctx context.Context, name string, do func(p *played.Pair) error) error {
	dir := filepath.Join(b.dir, name)
	p, err := played.New(dir, b.tools, func(string, ...any) {})
	if err != nil {
		return err
	}
	if err = p.Up(ctx, "3G"); err == nil {
		err = do(p)
	}
	if err != nil {
		p.Logs(os.Stderr)
	}
	if derr := p.Down(context.WithoutCancel(ctx)); err == nil {
		err = derr
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	return err
}

func (b *bench) fillOurs(ctx context.Context, round int) (took time.Duration, err error) {
	err = b.pair(ctx, fmt.Sprintf("ours%d", round), func(p *played.Pair) error {
		if err := p.Client.StopDaemon(); err != nil {
			return err
		}
		if out, err := exec.CommandContext(ctx, "cp", "-a", b.tree, p.Server.Mnt+"/src").CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
		if err := settle(ctx, p.Server); err != nil {
			return err
		}
		start := time.Now()
		if _, err := p.Client.Run(ctx, "lento"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		err := p.InStep(ctx)
		took = time.Since(start)
		return err
	})
	return took, err
}

// settle waits until the server has bound and written what was copied in.
func settle(ctx context.Context, h *played.Host) error {
	if _, err := h.Run(ctx, "lento", "barrier", played.Fileset); err != nil {
		return err
	}
	last := uint64(0)
	for quiet := 0; quiet < 10; quiet++ {
		s, err := h.Status(ctx)
		if err != nil {
			return err
		}
		if s.Own != last {
			last, quiet = s.Own, 0
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

func (b *bench) fillTar(ctx context.Context, round int) (time.Duration, error) {
	return b.intoEmpty(ctx, round, func(to string) *exec.Cmd {
		return exec.CommandContext(ctx, "sh", "-c", `tar cf - -C "$1" . | tar xf - -C "$2"`, "sh", b.tree, to)
	})
}

// intoEmpty times a command that fills a new folder, up to the disk.
func (b *bench) intoEmpty(_ context.Context, round int, command func(to string) *exec.Cmd) (time.Duration, error) {
	to := filepath.Join(b.dir, fmt.Sprintf("plain%d", round))
	if err := os.Mkdir(to, 0o755); err != nil {
		return 0, err
	}
	start := time.Now()
	out, err := command(to).CombinedOutput()
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	return took, os.RemoveAll(to)
}
