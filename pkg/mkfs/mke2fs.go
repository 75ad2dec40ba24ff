package mkfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mke2fsFeatures are those that createExt4 sets. fast_commit must never be among
// them: with it operations do not become durable in the order they were made.
const mke2fsFeatures = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,metadata_csum_seed," +
	"sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// findMke2fs gives the path of an installed mke2fs. Where root's folders are not
// in PATH they are looked at too.
func findMke2fs() (string, error) {
	if path, err := exec.LookPath("mke2fs"); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, "mke2fs")
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no mke2fs is installed; install e2fsprogs, or use --engine %s", EngineGo)
}

// mke2fsArgs are the arguments that make g on target.
func mke2fsArgs(g geometry, target string) []string {
	return []string{
		"-q", "-F", // the target was looked at already
		"-t", "ext4", "-b", strconv.Itoa(blockSize), "-I", strconv.Itoa(inodeSize),
		"-i", strconv.FormatInt(g.inodeRatio, 10), "-m", strconv.Itoa(reservedPercent),
		"-J", "size=" + strconv.FormatInt(g.journal()>>20, 10),
		"-e", "remount-ro", "-O", mke2fsFeatures,
		"-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,nodiscard",
		"-L", g.label, "-U", g.uuid.String(),
		target, strconv.FormatInt(g.size/blockSize, 10),
	}
}

// runMke2fs makes the file system with an installed mke2fs.
func runMke2fs(ctx context.Context, program string, g geometry, target string) error {
	cmd := exec.CommandContext(ctx, program, mke2fsArgs(g, target)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("run %s: %w: %s", program, err, strings.Join(strings.Fields(said.String()), " "))
	}
	return nil
}
