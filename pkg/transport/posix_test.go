package transport

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// posixTests are go-fuse's.
func posixTests() map[string]func(*testing.T, string) {
	tests := map[string]func(*testing.T, string){"Tmpfile": posixtest.Tmpfile, "FallocateKeepSize": posixtest.FallocateKeepSize}
	for name, test := range posixtest.All {
		tests[name] = test
	}
	// It wants two descriptors of one process to be in each other's way, which POSIX
	// locks are not; go-fuse leaves it out too.
	delete(tests, "FcntlFlockLocksFile")
	return tests
}

func TestPOSIX(t *testing.T) {
	tests := posixTests()
	var names []string
	for name := range tests {
		names = append(names, name)
	}
	overBoth(t, serveConfig{}, func(t *testing.T, m *mounted) {
		for _, name := range sorted(names) {
			t.Run(name, func(t *testing.T) {
				dir := filepath.Join(m.dir, name)
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				tests[name](t, dir)
			})
		}
		m.unmount()
	})
}
