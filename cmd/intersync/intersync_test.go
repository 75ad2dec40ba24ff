package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun_Misuse(t *testing.T) {
	tests := []struct{ args, says string }{
		{"", "name one CACHE"},
		{"/a /b", "name one CACHE"},
		{"--nonsense /mnt", "unknown flag"},
		{"--reint /mnt", "--reint is for clients"},
		{"--invite X /mnt", "--invite is for clients"},
		{"--server-port 1 /mnt", "--server-port is for clients"},
		{"--debug x /mnt", "want a number"},
		{"--local-ip host /mnt", "want an address"},
		{"--server a:b:c /mnt", "--server"},
		{"--local-port 70000 /mnt", "local-port"},
		{"/proc", "not the mount point of a cache"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			t.Setenv("INTERMEZZO_RUN", t.TempDir())
			var out, complaint bytes.Buffer
			status := run(t.Context(), strings.Fields(tt.args), &out, &complaint)
			if status != exitMisuse || !strings.Contains(complaint.String(), tt.says) || out.Len() > 0 {
				t.Errorf("status %d\n%s%s", status, out.String(), complaint.String())
			}
		})
	}
}

func TestRun_OriginalsOptions(t *testing.T) {
	var out, complaint bytes.Buffer
	if status := run(t.Context(), []string{"--help"}, &out, &complaint); status != exitOK {
		t.Errorf("status %d: %s", status, complaint.String())
	}
	for _, o := range []string{"-d, --docroot", "-i, --local-ip", "-p, --local-port", "--server", "--server-port", "--clientid", "--fset",
		"--hoard", "--reint", "--daemon", "--debug", "--help", "--version", "--invite"} {
		if !strings.Contains(out.String(), o+" ") {
			t.Errorf("no option %s in:\n%s", o, out.String())
		}
	}
	out.Reset()
	if status := run(t.Context(), []string{"--version"}, &out, &complaint); status != exitOK || !strings.HasPrefix(out.String(), "intersync version ") {
		t.Errorf("status %d: %s", status, out.String())
	}
}

func TestBind(t *testing.T) {
	tests := []struct {
		args, want string
	}{
		{"", ""}, {"-p 2000", ":2000"}, {"-i 127.0.0.1", "127.0.0.1:370"}, {"--local-ip=::1 --local-port=5", "[::1]:5"}, {"-i * -p 9", ":9"},
	}
	for _, tt := range tests {
		cmd := newRoot()
		var o options
		cmd.ResetFlags()
		o.add(cmd.Flags())
		if err := cmd.ParseFlags(strings.Fields(tt.args)); err != nil {
			t.Fatal(err)
		}
		if err := o.check(cmd.Flags()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(o.bind(cmd.Flags()), ","); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.args, got, tt.want)
		}
	}
}
