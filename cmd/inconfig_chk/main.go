// Command inconfig_chk checks how a host is set up for InterMezzo, and tells how
// to put right what it finds.
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
	status := exitClean
	cmd := newRoot(&status)
	cmd.SetArgs(args[1:])
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "inconfig_chk: %v\n", err)
		return exitMisuse
	}
	return status
}
