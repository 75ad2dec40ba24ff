package mount

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links a path may lead over, as in the kernel.
const maxLinks = 40

// resolveBelow follows the symbolic links in an absolute path like
// filepath.EvalSymlinks, but touches nothing that lies on a fileset's mount: once
// the path has come to one it is taken as it is, because that mount may not answer.
func resolveBelow(table []Point, path string) (string, error) {
	done, todo := "/", split(path)
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			done = filepath.Dir(done)
			continue
		}
		next := filepath.Join(done, part)
		if p, ok := topmost(table, next); ok && p.Ours() {
			return filepath.Join(append([]string{next}, todo...)...), nil
		}
		st, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		if st.Mode()&os.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "follow", Path: path, Err: syscall.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		todo = append(split(target), todo...)
	}
	if done == "" {
		return "", errors.New("empty path")
	}
	return done, nil
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
