package presto

import (
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// fsFolder is a new folder on the file system that the environment variable
// names, "" for the ordinary one.
func fsFolder(t *testing.T, env string) string {
	t.Helper()
	base := os.Getenv(env)
	if base == "" {
		return ""
	}
	dir, err := os.MkdirTemp(base, "cache")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestPresto_Posix(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		if name == "FcntlFlockLocksFile" {
			continue // wrong by itself: POSIX locks of one process never conflict
		}
		t.Run(name, func(t *testing.T) {
			h := newHost(t, "a", fsFolder(t, "INTERMEZZO_TEST_FS_A"))
			posixtest.All[name](t, h.mnt)
			if d := h.info().Damage; d != "" {
				t.Errorf("damage: %s", d)
			}
		})
	}
}
