package mount

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// FSType is the type of our mounts in /proc/mounts.
const FSType = "fuse.intermezzo"

// Point is one line of the mount table.
type Point struct {
	Source   string // as it was given to mount(2)
	Dir      string
	Type     string
	Device   string // major:minor; mounts of one fileset have the same
	ReadOnly bool
}

// Ours reports whether the mount is a fileset.
func (p Point) Ours() bool { return p.Type == FSType }

// Table reads the mount table of the calling process, in the order in which the
// mounts were made. It touches no mount.
func Table() ([]Point, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	points := make([]Point, 0, len(infos))
	for _, i := range infos {
		points = append(points, Point{
			Source: i.Source, Dir: i.Mountpoint, Type: i.FSType,
			Device:   fmt.Sprintf("%d:%d", i.Major, i.Minor),
			ReadOnly: hasOption(i.Options, "ro") || hasOption(i.VFSOptions, "ro"),
		})
	}
	return points, nil
}

// topmost is the mount that a path walk to dir ends on, if one is mounted there.
func topmost(table []Point, dir string) (Point, bool) {
	for i := len(table) - 1; i >= 0; i-- {
		if table[i].Dir == dir {
			return table[i], true
		}
	}
	return Point{}, false
}

// ByDir finds the fileset mounted on dir. A symbolic link to dir is followed,
// but dir itself is not touched.
func ByDir(table []Point, dir string) (Point, bool) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Point{}, false
	}
	if p, ok := topmost(table, dir); ok {
		return p, p.Ours()
	}
	resolved, err := resolveBelow(table, dir)
	if err != nil {
		return Point{}, false
	}
	p, ok := topmost(table, resolved)
	return p, ok && p.Ours()
}

func hasOption(list, name string) bool {
	return slices.Contains(strings.Split(list, ","), name)
}
