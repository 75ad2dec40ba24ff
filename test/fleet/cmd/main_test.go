package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/intermezzofs/intermezzo/test/fleet"
)

func TestCommands_RefuseMisuse(t *testing.T) {
	nolab := t.TempDir()
	for _, tt := range []struct{ args, says string }{
		{"", "say what to do"},
		{"frob", "unknown command"},
		{"up", "accepts 1 arg"},
		{"up a b", "accepts 1 arg"},
		{"up DIR --bottom zfs", "--bottom"},
		{"up DIR --mode on-demand", "not built yet"},
		{"up DIR --permit exclusive", "not built yet"},
		{"up DIR --supervise", "not built yet"},
		{"up DIR --frob", "unknown flag"},
		{"cut DIR", "accepts 2 arg"},
		{"cut DIR host1", "is no lab"},
		{"heal DIR host1", "is no lab"},
		{"link DIR host1 --rate fast", "want bits per second"},
		{"link DIR host1 --rate 1M --delay soon", "want a time"},
		{"link DIR host1 --loss 101", "want a percentage"},
		{"link DIR host1 --rate 1M", "is no lab"},
		{"stop DIR host1 both", "want daemon or presto"},
		{"start DIR host1", "accepts 3 arg"},
		{"kill DIR host1 daemon", "is no lab"},
		{"wait DIR soon", "want a number of seconds"},
		{"wait DIR 0", "want a number of seconds"},
		{"wait DIR", "is no lab"},
		{"same DIR host1", "is no lab"},
		{"exec DIR host1 true", "want DIR HOST -- COMMAND"},
		{"exec DIR host1 --", "want DIR HOST -- COMMAND"},
		{"exec DIR -- host1 true", "want DIR HOST -- COMMAND"},
		{"exec DIR host1 -- true", "is no lab"},
		{"bytes DIR", "is no lab"},
		{"pid DIR host1 disk", "want daemon or presto"},
		{"device DIR host1", "is no lab"},
	} {
		var out strings.Builder
		root := newRoot(fleet.Env{Bin: nolab, Notes: t.Output()}, &out)
		root.SetArgs(strings.Fields(strings.ReplaceAll(tt.args, "DIR", nolab)))
		err := root.ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("lab %s: %v, want it to say %q", tt.args, err, tt.says)
		}
		if out.Len() > 0 {
			t.Errorf("lab %s printed %q", tt.args, out.String())
		}
		if entries, err := os.ReadDir(nolab); err != nil || len(entries) > 0 {
			t.Fatalf("lab %s left %v, %v", tt.args, entries, err)
		}
	}
}

func TestRun_ExitStatus(t *testing.T) {
	if got := run([]string{"help"}); got != 0 {
		t.Errorf("help: %d", got)
	}
	if got := run([]string{"wait", filepath.Join(t.TempDir(), "absent")}); got != exitFailure {
		t.Errorf("misuse: %d", got)
	}
	if got := run([]string{"down", filepath.Join(t.TempDir(), "absent")}); got != 0 {
		t.Errorf("down without a lab: %d", got)
	}
}
