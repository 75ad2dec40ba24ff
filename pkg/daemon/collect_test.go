package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

func presto(n int, filesets ...channel.Fileset) mount.Presto {
	return mount.Presto{Channel: n, Socket: mount.SocketPath("/run", n), Info: channel.Info{Channel: n, Source: "/dev/x", Filesets: filesets}}
}

func TestLocate(t *testing.T) {
	a, b := kml.UUID{1}, kml.UUID{2}
	prestos := []mount.Presto{
		presto(0, channel.Fileset{Name: "f", UUID: a}, channel.Fileset{Name: "only"}),
		presto(1, channel.Fileset{Name: "f", UUID: b}),
	}
	tests := []struct {
		name   string
		uuid   kml.UUID
		number int
		want   int
		says   string
	}{
		{"f", kml.UUID{}, 1, 1, ""},
		{"f", a, 1, 0, ""}, // the one on its channel is another fileset
		{"f", kml.UUID{}, 5, 0, "in 2 other caches"},
		{"only", kml.UUID{}, 5, 0, ""},
		{"none", kml.UUID{}, 0, 0, "not mounted"},
		{"f", kml.UUID{9}, 0, 0, "not mounted"},
	}
	for _, tt := range tests {
		p, f, err := locate(prestos, tt.name, tt.uuid, tt.number)
		switch {
		case tt.says != "":
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%+v: got %v", tt, err)
			}
		case err != nil || p.Channel != tt.want || f.Name != tt.name:
			t.Errorf("%+v: got channel %d, %+v, %v", tt, p.Channel, f, err)
		}
	}
}

func TestCollector_Filesets(t *testing.T) {
	now := time.Unix(1000, 0)
	cfg := &config.Config{
		Sysid: config.Sysid{Name: "here"},
		Filesets: []config.Fileset{
			{Name: "served", Server: "here", Channel: 0},
			{Name: "followed", Server: "there", Channel: 1},
			{Name: "dead", Server: "there", Channel: 2, Mountpoint: "/dead"},
			{Name: "idle", Server: "here", Channel: 0},
		},
	}
	c := collector{
		cfg: cfg, now: now,
		prestos: []mount.Presto{
			presto(0, channel.Fileset{Name: "served", Own: kml.Pos{Seq: 7}, Confirmed: kml.Pos{Seq: 5}, PendingRecords: 2, OldestPending: now.Add(-3 * time.Second).UnixNano()},
				channel.Fileset{Name: "idle"}, channel.Fileset{Name: "stray", Damage: "torn"}),
			presto(1, channel.Fileset{Name: "followed"}),
		},
		reports: []Report{{Tool: "lento", Filesets: []FilesetReport{
			{Name: "served", Channel: 0, Connected: true},
			{Name: "followed", Channel: 1, Server: "there", Error: "no route"},
		}}},
		table: []mount.Point{{Dir: "/dead", Source: "/dev/d", Type: mount.FSType}},
	}
	s := &Status{}
	c.filesets(s)
	got := map[string]FilesetStatus{}
	for _, f := range s.Filesets {
		got[f.Name] = f
	}
	if f := got["served"]; f.Error != "" || !f.Connected || f.Own != 7 || f.Confirmed != 5 || f.PendingAge != 3 || f.Role != channel.RoleServer {
		t.Errorf("served: %+v", f)
	}
	if f := got["followed"]; f.Error != "no route" || f.Server != "there" || f.Channel != 1 {
		t.Errorf("followed: %+v", f)
	}
	if f := got["dead"]; !strings.Contains(f.Error, "lento umount /dead") || f.Channel != -1 {
		t.Errorf("dead: %+v", f)
	}
	if f := got["idle"]; !strings.Contains(f.Error, "start lento") {
		t.Errorf("idle: %+v", f)
	}
	if f := got["stray"]; f.Error != "torn" {
		t.Errorf("stray: %+v", f)
	}
	if !s.Wrong() {
		t.Error("nothing is wrong?")
	}
}
