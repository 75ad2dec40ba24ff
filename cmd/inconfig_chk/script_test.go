package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"inconfig_chk": func() { os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": status, "key": key},
		Condition: func(cond string) (bool, error) {
			_, err := os.Stat("/dev/fuse")
			return cond == "fuse" && err == nil, nil
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

// key: the configuration gets a key.
func key(ts *testscript.TestScript, _ bool, _ []string) {
	_, err := config.Dir(ts.Getenv("INTERMEZZO_CONFIG")).EnsureKey()
	ts.Check(err)
}
