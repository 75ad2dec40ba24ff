package mount

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func parsed(t *testing.T, options string) flags {
	t.Helper()
	o, err := config.ParseMountOptions("fileset=f," + options)
	if err != nil {
		t.Fatal(err)
	}
	return flagsOf(o)
}

func TestFlagsOf(t *testing.T) {
	tests := []struct {
		options string
		attr    uint64
		super   []string
	}{
		{options: ""},
		{options: "defaults,noauto,nofail,_netdev,x-systemd.automount,comment=a"},
		{options: "ro", attr: unix.MOUNT_ATTR_RDONLY},
		{options: "ro,rw"},
		{options: "rw,ro", attr: unix.MOUNT_ATTR_RDONLY},
		{options: "noatime,strictatime", attr: unix.MOUNT_ATTR_STRICTATIME},
		{options: "noatime,atime"},
		{options: "nosuid,nodev,dev", attr: unix.MOUNT_ATTR_NOSUID},
		{options: "sync,lazytime", super: []string{"sync", "lazytime"}},
		{options: "sync,lazytime,async,nolazytime,dirsync", super: []string{"dirsync"}},
	}
	for _, tt := range tests {
		t.Run(tt.options, func(t *testing.T) {
			if f := parsed(t, tt.options); f.attr != tt.attr || !slices.Equal(f.super, tt.super) {
				t.Errorf("got %+v", f)
			}
		})
	}
}

func TestRemountFlags(t *testing.T) {
	got, err := parsed(t, "ro,nosuid").remountFlags()
	if want := uintptr(unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID); err != nil || got != want {
		t.Errorf("got %#x, %v, want %#x", got, err, want)
	}
	if _, err := parsed(t, "sync").remountFlags(); err == nil {
		t.Error("sync can't be changed, but was accepted")
	}
}
