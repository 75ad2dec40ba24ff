package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/daemon"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

// lento runs a command line on a host that is not configured.
func lento(t *testing.T, args ...string) (out, complaint string, status int) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("INTERMEZZO_CONFIG", filepath.Join(dir, "etc"))
	t.Setenv("INTERMEZZO_RUN", filepath.Join(dir, "run"))
	var o, e bytes.Buffer
	status = run(t.Context(), args, &o, &e)
	return o.String(), e.String(), status
}

func TestRun_ExitStatus(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("this is no log"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args   string
		status int
		says   string // in what is printed, of either kind
	}{
		{"lento --help", 0, "Exit status"},
		{"/usr/sbin/lento version", 0, "lento "},
		{"lento status", 0, "none is running"},
		{"lento nonsense", 2, `unknown command "nonsense"`},
		{"lento --nonsense", 2, "unknown flag"},
		{"lento status extra", 2, "usage"},
		{"lento mount only-one", 2, "usage: lento mount"},
		{"lento mount /dev/x /mnt", 2, "fileset=NAME is missing"},
		{"lento umount /no/such", 32, "no fileset is mounted"},
		{"lento barrier none", 3, "not mounted"},
		{"lento barrier", 2, "usage"},
		{"lento kml", 2, "say what to do"},
		{"lento kml dump /no/such", 3, "no such file"},
		{"lento kml dump " + log, 1, log},
		{"lento presto --source / --channel -1", 2, "--channel"},
		{"lento presto --source / --ready-fd 0", 2, "not a pipe"},
		{"lento --foreground", 2, "inconfig"},
		{"/sbin/mount.intermezzo /dev/x /mnt", 1, "fileset=NAME is missing"},
		{"mount.intermezzo /dev/x", 1, "usage: mount.intermezzo"},
		{"mount.intermezzo /dev/x /mnt -N 1", 1, "nsenter"},
		{"mount.intermezzo /dev/x /mnt -t ext4", 1, `type "ext4" is not ours`},
		{"umount.fuse.intermezzo /no/such -fl", 32, "no fileset is mounted"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			out, complaint, status := lento(t, strings.Fields(tt.args)...)
			if status != tt.status || !strings.Contains(out+complaint, tt.says) {
				t.Errorf("status %d, want %d\n%s%s", status, tt.status, out, complaint)
			}
			if status > 0 && tt.status != 1 && out != "" {
				t.Errorf("printed as data: %s", out)
			}
		})
	}
}

func TestStatus_JSON(t *testing.T) {
	out, _, status := lento(t, "lento", "status", "--json")
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 {
		t.Fatalf("%d, %v: %s", status, err, out)
	}
	for _, key := range []string{"filesets", "presto", "daemons"} {
		if list, ok := got[key].([]any); !ok || len(list) != 0 {
			t.Errorf("%s: %v", key, got[key])
		}
	}
}

func TestPrintStatus(t *testing.T) {
	since := time.Date(2026, 6, 1, 12, 0, 0, 0, time.Local)
	var b bytes.Buffer
	err := printStatus(&b, &daemon.Status{
		Daemons: []daemon.DaemonStatus{{Tool: "lento", PID: 7, Listen: []string{":370"}}},
		Filesets: []daemon.FilesetStatus{
			{
				Name: "shared", Role: channel.RoleClient, Server: "iserver", Connected: true, Source: "/dev/hda9", Mountpoint: "/mnt/izo",
				Own: 10, Confirmed: 8, PendingRecords: 2, PendingBytes: 2048, PendingAge: 61.4, Order: 30, Applied: 29, ServerEnd: 31, BytesIn: 3 << 20,
				Behind: 2, BehindBytes: 4 << 20, Transfers: []daemon.TransferReport{{Path: "big", Size: 4 << 20, Done: 1 << 20, Rate: 1 << 20, Left: 3}},
			},
			{
				Name: "music", Role: channel.RoleServer, Channel: -1, Error: "fileset music is not mounted",
				Peers: []daemon.PeerReport{{Name: "iclient", Rights: "rw", Connected: true, Address: "192.0.2.9:4000", Since: &since}, {Name: "other", Rights: "ro"}},
			},
		},
		Prestos: []daemon.PrestoStatus{{PID: 9, Source: "/dev/hda9", Bottom: "ext4", Data: "presto", Link: "dev-fuse", Filesets: []string{"shared"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `daemon  lento, process 7, listens on :370

fileset shared   client of iserver, connected
  mounted        /mnt/izo (/dev/hda9, channel 0)
  own log        10 records, 8 confirmed
  pending        2 records, 2.0 KiB of log, the oldest 1m1s old
  order          30 received, 29 applied, 31 on the server: 2 groups behind, 4.0 MiB to come
  being written  0 files
  network        3.0 MiB in, 0 B out
  down           big, 1.0 MiB of 4.0 MiB, 1.0 MiB/s, 3s left

fileset music   server
  peer iclient  rw, connected from 192.0.2.9:4000 since 2026-06-01 12:00:00
  peer other    ro, not connected
  error         fileset music is not mounted

presto    channel 0, process 9, serves shared of /dev/hda9
  bottom  ext4; data by presto, requests by dev-fuse
`
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestExitStatus(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{nil, 0}, {no(), 1}, {misuse(errors.New("x")), 2}, {errors.New("x"), 3},
		{fmt.Errorf("x: %w", &mount.Failure{Class: mount.Failed, Err: errors.New("y")}), 32},
		{&mount.Failure{Class: mount.Usage, Err: errors.New("y")}, 2},
	}
	for _, tt := range tests {
		if got := exitStatus(tt.err); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 30: "3.0 GiB", 5 << 50: "5120.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
