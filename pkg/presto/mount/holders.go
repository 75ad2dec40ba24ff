package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxHolders is how many processes an error names.
const maxHolders = 4

// busyWith says what keeps a mount busy, and what to do. It asks the process
// table only, never the mount.
func busyWith(dir string) string {
	if table, err := Table(); err == nil {
		for _, p := range table {
			if strings.HasPrefix(p.Dir, dir+"/") {
				return fmt.Sprintf("%s is mounted below it; unmount that first", p.Dir)
			}
		}
	}
	holders := holders(dir)
	if len(holders) == 0 {
		return "somebody uses it (see fuser -vm " + dir + "); end that, or unmount lazily with -l"
	}
	return strings.Join(holders, ", ") + "; end that, or unmount lazily with -l"
}

// holders names processes that have something below dir open or as a folder.
func holders(dir string) []string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		what := heldBy(filepath.Join("/proc", e.Name()), dir)
		if what == "" {
			continue
		}
		if len(found) == maxHolders {
			return append(found, "and others")
		}
		name, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		found = append(found, fmt.Sprintf("process %s (%s) has %s", e.Name(), strings.TrimSpace(string(name)), what))
	}
	return found
}

// heldBy says how the process with that folder in /proc uses dir, "": not at all.
func heldBy(proc, dir string) string {
	below := func(link string) (string, bool) {
		target, err := os.Readlink(filepath.Join(proc, link))
		target = strings.TrimSuffix(target, " (deleted)")
		return target, err == nil && (target == dir || strings.HasPrefix(target, dir+"/"))
	}
	if t, ok := below("cwd"); ok {
		return t + " as its current folder"
	}
	if t, ok := below("root"); ok {
		return t + " as its root"
	}
	if t, ok := below("exe"); ok {
		return t + " as its program"
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		if t, ok := below(filepath.Join("fd", fd.Name())); ok {
			return t + " open"
		}
	}
	return ""
}
