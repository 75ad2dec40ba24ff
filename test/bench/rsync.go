package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// fillRsync fills an empty folder from an rsync daemon over the loopback.
func (b *bench) fillRsync(ctx context.Context, round int) (time.Duration, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	conf := filepath.Join(b.dir, "rsyncd.conf")
	text := fmt.Sprintf("use chroot = no\nuid = 0\ngid = 0\n[tree]\npath = %s\nread only = yes\n", b.tree)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return 0, err
	}
	daemon := exec.CommandContext(ctx, "rsync", "--daemon", "--no-detach", "--config="+conf, "--address=127.0.0.1", "--port="+port)
	if err := daemon.Start(); err != nil {
		return 0, err
	}
	defer daemon.Wait()
	defer daemon.Process.Kill()
	if err := answers(ctx, "127.0.0.1:"+port); err != nil {
		return 0, err
	}
	return b.intoEmpty(ctx, round, func(to string) *exec.Cmd {
		return exec.CommandContext(ctx, "rsync", "-a", "rsync://127.0.0.1:"+port+"/tree/", to)
	})
}

// answers waits until somebody listens.
func answers(ctx context.Context, address string) error {
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
