// Command lento is the file server and cache manager of a host, its presto, and
// the helpers of mount(8), which are links to it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run does one command line and gives its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	name := filepath.Base(args[0])
	var cmd *cobra.Command
	status := exitStatus
	switch name {
	case mountHelper:
		cmd, status = newMountHelper(), helperStatus
	case umountHelper:
		cmd, status = newUmountHelper(), helperStatus
	default:
		name = "lento"
		cmd = newRoot()
	}
	cmd.SetArgs(args[1:])
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err != nil && err.Error() != "" {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
	}
	return status(err)
}
