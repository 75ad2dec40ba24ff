// Command lab plays a small fleet of InterMezzo hosts on one machine; see
// package fleet. The script test/lab builds and runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/test/fleet"
	"github.com/intermezzofs/intermezzo/test/netlab"
)

// Exit statuses.
const (
	exitNo      = 1 // the answer is no
	exitFailure = 2 // misuse, or something went wrong
)

func main() {
	netlab.Child()
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	// A second signal ends us even if a mount hangs.
	context.AfterFunc(ctx, stop)
	env := fleet.Env{Notes: os.Stderr}
	self, err := os.Executable()
	if err == nil {
		env.Bin = filepath.Dir(self)
		root := newRoot(env, os.Stdout)
		root.SetArgs(args)
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	if errors.Is(err, fleet.ErrNo) {
		return exitNo
	}
	return exitFailure
}
