package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// fill copies the tree into the server's mount while the laptop follows.
func (d *demo) fill(ctx context.Context, tree string) error {
	start := time.Now()
	progress, stop := context.WithCancel(ctx)
	defer stop()
	go d.progress(progress)
	if out, err := exec.CommandContext(ctx, "cp", "-a", tree, filepath.Join(d.Server.Mnt, "src")).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	files, size, err := count(filepath.Join(d.Server.Mnt, "src"))
	if err != nil {
		return err
	}
	stop()
	d.say("%d files, %d MiB copied into the mount in %.1f s", files, size>>20, time.Since(start).Seconds())
	if err := d.inStep(ctx); err != nil {
		return err
	}
	wire, err := d.Wire(ctx)
	d.say("on the wire: %d MiB", wire>>20)
	return err
}

// progress tells every two seconds how far the laptop is.
func (d *demo) progress(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
		}
		s, err := d.Server.Status(ctx)
		if err != nil {
			continue
		}
		if c, err := d.Client.Status(ctx); err == nil {
			d.say("server's log has %d groups, the laptop's tree %d of them, %d MiB received", s.Order, c.Applied, c.BytesIn>>20)
		}
	}
}

func count(dir string) (files int, size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			files, size = files+1, size+info.Size()
		}
		return err
	})
	return files, size, err
}

// renameMany proves that a rename sends no content, whatever is below.
func (d *demo) renameMany(ctx context.Context) error {
	dir := filepath.Join(d.Client.Mnt, "thousand")
	err := os.Mkdir(dir, 0o755)
	for i := 0; i < 1000 && err == nil; i++ {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%03d", i)), []byte(fmt.Sprintf("content of file %d\n%01000d", i, i)), 0o644)
	}
	if err != nil {
		return err
	}
	if err := d.inStep(ctx); err != nil {
		return err
	}
	before, err := d.Wire(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := os.Rename(dir, filepath.Join(d.Client.Mnt, "src", "renamed")); err != nil {
		return err
	}
	if err := d.InStep(ctx); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := d.Wire(ctx)
	if err != nil {
		return err
	}
	d.say("renamed directory of 1,000 files (1 MB): %d bytes on the wire, both sides in step %d ms after", after-before, took.Milliseconds())
	if after-before > 20_000 {
		return fmt.Errorf("a rename sent %d bytes, which is content", after-before)
	}
	return d.inStep(ctx)
}

// changeBoth changes unrelated things on both sides, every kind there is.
func (d *demo) changeBoth(ctx context.Context) error {
	for _, dir := range []string{filepath.Join(d.Server.Mnt, "a"), filepath.Join(d.Client.Mnt, "b")} {
		if err := d.changes(dir); err != nil {
			return fmt.Errorf("change %s: %w", dir, err)
		}
	}
	edit := errors.Join(
		appendTo(filepath.Join(d.Server.Mnt, "src", "go.mod"), "// edited on the server\n"),
		appendTo(filepath.Join(d.Client.Mnt, "src", "make.bash"), "# edited on the laptop\n"),
		os.RemoveAll(filepath.Join(d.Server.Mnt, "src", "cmd", "vet")),
		os.RemoveAll(filepath.Join(d.Client.Mnt, "src", "archive")),
		os.Rename(filepath.Join(d.Client.Mnt, "src", "bytes"), filepath.Join(d.Client.Mnt, "src", "bytes2")),
	)
	if edit != nil {
		return edit
	}
	return d.inStep(ctx)
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// changes makes objects of every kind in a new directory.
func (d *demo) changes(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	acl := []byte{2, 0, 0, 0, // version, then tag, permissions and id of each entry
		1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 77, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
		16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	for _, do := range []func() error{
		func() error { return os.Mkdir(dir, 0o755) },
		func() error { return os.WriteFile(at("file"), []byte("created\n"), 0o644) },
		func() error { return os.Link(at("file"), at("hardlink")) },
		func() error { return os.Symlink("file", at("symlink")) },
		func() error { return os.Chmod(at("file"), 0o4750) },
		func() error { return os.Chown(at("file"), 1000, 1001) },
		func() error { return os.Lchown(at("symlink"), 1000, 1001) },
		func() error { return unix.Setxattr(at("file"), "user.demo", []byte("value"), 0) },
		func() error { return unix.Setxattr(at("file"), "system.posix_acl_access", acl, 0) },
		func() error { return unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		func() error { return unix.Mkfifo(at("fifo"), 0o600) },
		func() error { return sparse(at("sparse")) },
		func() error { return os.WriteFile(at("gone"), []byte("soon removed"), 0o600) },
		func() error { return os.Remove(at("gone")) },
		func() error { return os.WriteFile(at("name\nwith a newline"), nil, 0o600) },
		func() error { return os.Chtimes(at("file"), time.Time{}, time.Unix(981173106, 789012345)) },
		func() error { return os.Chtimes(dir, time.Time{}, time.Unix(1000000000, 1)) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

func sparse(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("data after a hole"), 5<<20)
	return errors.Join(err, f.Truncate(10<<20), f.Close())
}

// offline works on both sides while the laptop's daemon is down.
func (d *demo) offline(ctx context.Context) error {
	if err := d.Client.StopDaemon(); err != nil {
		return err
	}
	err := errors.Join(
		os.Rename(filepath.Join(d.Client.Mnt, "src", "renamed"), filepath.Join(d.Client.Mnt, "back")),
		os.WriteFile(filepath.Join(d.Client.Mnt, "back", "offline"), []byte("made without a network\n"), 0o644),
		os.RemoveAll(filepath.Join(d.Client.Mnt, "b")),
		os.WriteFile(filepath.Join(d.Server.Mnt, "src", "meanwhile"), []byte("made on the server meanwhile\n"), 0o644),
		os.RemoveAll(filepath.Join(d.Server.Mnt, "a", "sparse")),
	)
	if err != nil {
		return err
	}
	s, err := d.Client.Status(ctx)
	if err != nil {
		return err
	}
	d.say("the laptop has %d changes pending", s.PendingRecords)
	if _, err := d.Client.Run(ctx, "lento"); err != nil {
		return err
	}
	return d.inStep(ctx)
}
