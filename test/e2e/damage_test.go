package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// below runs f with the bottom file system of an image mounted.
func (h *host) below(image string, f func(control string)) {
	h.t.Helper()
	bottom := h.mkdir("bottom")
	h.must("mount", "-o", "loop", image, bottom)
	defer h.must("umount", bottom)
	f(filepath.Join(bottom, ".intermezzo"))
}

// edit changes the content of a file.
func (h *host) edit(path string, change func([]byte) []byte) {
	h.t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, change(before), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// logged makes a cache whose log has some records.
func logged(t *testing.T) (*host, string) {
	t.Helper()
	h := newHost(t)
	image := h.format("img", "shared")
	h.must("lento", "mount", image, h.path("mnt"), "-o", "fileset=shared")
	for i := range 20 {
		h.write("file"+strconv.Itoa(i), "content")
	}
	h.must("lento", "umount", h.path("mnt"))
	return h, image
}

func TestDamage_TornTailIsCut(t *testing.T) {
	h, image := logged(t)
	records := 0
	h.below(image, func(control string) {
		kml := filepath.Join(control, "shared", "kml")
		records = strings.Count(h.must("lento", "kml", "dump", kml), "\n")
		h.edit(kml, func(b []byte) []byte { return b[:len(b)-3] })
		if r := h.run("lento", "kml", "dump", kml); r.code != 1 || strings.Count(r.out, "\n") != records-1 {
			t.Errorf("dump of a torn log: exit status %d\n%s%s", r.code, r.out, r.err)
		}
	})
	h.must("lento", "mount", image, h.path("mnt"), "-o", "fileset=shared")
	if got := h.read("file7"); got != "content" {
		t.Errorf("got %q", got)
	}
	h.write("after", "x")
	h.unmounted()
}

func TestDamage_FlippedBitIsRefused(t *testing.T) {
	h, image := logged(t)
	var damaged []byte
	h.below(image, func(control string) {
		h.edit(filepath.Join(control, "shared", "kml"), func(b []byte) []byte { b[len(b)/2] ^= 1; damaged = b; return b })
	})
	h.refused(32, "corrupt log", "lento", "mount", image, h.path("mnt"), "-o", "fileset=shared")
	h.below(image, func(control string) {
		kml := filepath.Join(control, "shared", "kml")
		if now, err := os.ReadFile(kml); err != nil || string(now) != string(damaged) {
			t.Errorf("the damaged log was changed: %v", err)
		}
		if r := h.run("lento", "kml", "dump", kml); r.code != 1 || !strings.Contains(r.err, "corrupt") {
			t.Errorf("dump of a damaged log: exit status %d\n%s", r.code, r.err)
		}
	})
}

func TestDamage_NewerFormatIsRefused(t *testing.T) {
	h, image := logged(t)
	h.below(image, func(control string) {
		h.edit(filepath.Join(control, "cache"), func(b []byte) []byte {
			return []byte(strings.Replace(string(b), "format = 1\n", "format = 99\n", 1))
		})
	})
	h.refused(32, "format 99", "lento", "mount", image, h.path("mnt"), "-o", "fileset=shared")
}
