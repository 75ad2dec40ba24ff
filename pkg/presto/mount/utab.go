package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// utab is the table that mount(8) keeps beside the kernel's, for what the kernel
// does not know. umount(8) asks statfs(2) alone for the type of a mount that has
// no entry, which says "fuse", and then calls no helper of ours: the device would
// still be in use when it returns.
type utab struct{ dir string }

// systemUtab is where libmount has it.
func systemUtab() utab { return utab{dir: "/run/mount"} }

// note makes umount(8) call our helper for dir.
func (u utab) note(source, dir string) error {
	return u.edit(dir, fmt.Sprintf("SRC=%s TARGET=%s ROOT=/ OPTS=uhelper=%s\n", escapeTable(source), escapeTable(dir), FSType))
}

// forget removes the entry of dir, if there is one.
func (u utab) forget(dir string) error {
	if _, err := os.Stat(filepath.Join(u.dir, "utab")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return u.edit(dir, "")
}

// edit puts entry in the place of any for dir, by libmount's own rules: under a
// lock beside the table, and replacing it whole.
func (u utab) edit(dir, entry string) error {
	if err := os.MkdirAll(u.dir, 0o755); err != nil {
		return fmt.Errorf("make folder of utab: %w", err)
	}
	path := filepath.Join(u.dir, "utab")
	lock, err := os.OpenFile(path+".lock", os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("lock utab: %w", err)
	}
	defer lock.Close()
	if err := flock(int(lock.Fd())); err != nil {
		return fmt.Errorf("lock utab: %w", err)
	}
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read utab: %w", err)
	}
	after := withoutTarget(string(before), dir, stale) + entry
	if after == string(before) {
		return nil
	}
	tmp, err := os.CreateTemp(u.dir, "utab.")
	if err != nil {
		return fmt.Errorf("write utab: %w", err)
	}
	_, err = tmp.WriteString(after)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("write utab: %w", err)
	}
	return nil
}

// flock takes an exclusive lock and waits for it.
func flock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// withoutTarget gives the table without the entries for dir, and without those of
// ours whose mount has gone without being forgotten.
func withoutTarget(table, dir string, gone func(dir string) bool) string {
	var kept strings.Builder
	for line := range strings.Lines(table) {
		target, ours := "", false
		for f := range strings.FieldsSeq(line) {
			if v, ok := strings.CutPrefix(f, "TARGET="); ok {
				target = unescapeTable(v)
			}
			ours = ours || f == "OPTS=uhelper="+FSType
		}
		if target != dir && !(ours && gone(target)) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// stale reports whether dir is no mount point, and is not even there. One that is
// there may be a mount point in another mount namespace.
func stale(dir string) bool {
	table, err := Table()
	if err != nil {
		return false
	}
	if _, mounted := topmost(table, dir); mounted {
		return false
	}
	_, err = os.Lstat(dir)
	return errors.Is(err, fs.ErrNotExist)
}

// escapeTable writes s as a word of a mount table.
func escapeTable(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(s)
}

func unescapeTable(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
