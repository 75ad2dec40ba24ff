// Command mkizofs makes caches of InterMezzo. As mkfs.intermezzo, a link to it, it
// is what mkfs(8) calls.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/intermezzofs/intermezzo/pkg/mkfs"
)

// Exit statuses, documented in the manual page.
const (
	exitOK     = 0
	exitNo     = 1 // refused, or it could not be done
	exitMisuse = 2 // the command line makes no sense
)

// mkfsName is the name by which mkfs(8) calls us.
const mkfsName = "mkfs.intermezzo"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run does one command line and gives its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	name := "mkizofs"
	if filepath.Base(args[0]) == mkfsName {
		name = mkfsName
	}
	cmd := newCommand(name)
	cmd.SetArgs(args[1:])
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(stderr, "%s: interrupted; what was being formatted holds no cache\n", name)
		return exitNo
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	if _, ok := errors.AsType[*mkfs.UsageError](err); ok {
		return exitMisuse
	}
	return exitNo
}
