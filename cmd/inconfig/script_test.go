package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"inconfig": func() { os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":  serve,
			"status": status,
			"code":   code,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("INTERMEZZO_CONFIG", env.WorkDir+"/etc")
			env.Setenv("INTERMEZZO_RUN", env.WorkDir+"/run")
			return nil
		},
	})
}

// status N COMMAND...: the command must end with that exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = err.Error()[len("exit status "):]
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// code: $CODE becomes what the last command printed.
func code(ts *testscript.TestScript, _ bool, _ []string) {
	out := ts.ReadFile("stdout")
	ts.Setenv("CODE", out[:len(out)-1])
}

// serve DIR: the daemon's part in joining, for the configuration in DIR, at
// $ADDRESS.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	dir := config.Dir(ts.MkAbs(args[0]))
	key, err := dir.EnsureKey()
	ts.Check(err)
	log := slog.New(slog.DiscardHandler)
	authority, err := wire.NewAuthority(dir, log)
	ts.Check(err)
	host := wire.NewHost(wire.HostOptions{Key: key, Grants: authority, Join: dir.Redeem, Log: log})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- host.Serve(ctx, l) }()
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			ts.Logf("serve: %v", err)
		}
	})
	ts.Setenv("ADDRESS", l.Addr().String())
}
