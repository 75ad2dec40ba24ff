// Command inconfig writes the configuration of a host: sysid, serverdb and
// fsetdb, its key, invitations and the line in fstab.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run does one command line and gives its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newRoot(join)
	cmd.SetArgs(args[1:])
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "inconfig: %v\n", err)
	}
	return exitStatus(err)
}
