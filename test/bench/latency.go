package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/intermezzofs/intermezzo/test/played"
)

// latency measures the time from close() on one side to the file being there,
// whole, on the other.
func (b *bench) latency(ctx context.Context) error {
	return b.pair(ctx, "latency", func(p *played.Pair) error {
		for _, way := range []struct {
			name     string
			from, to *played.Host
		}{{"server to client", p.Server, p.Client}, {"client to server", p.Client, p.Server}} {
			took, err := b.visible(ctx, way.from.Mnt, way.to.Mnt)
			if err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			slices.Sort(took)
			fmt.Printf("close to visible, %s, %d files of 500 bytes: p50 %.1f ms, p99 %.1f ms, max %.1f ms\n", way.name, len(took),
				ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(took[len(took)-1]))
		}
		return nil
	})
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (b *bench) visible(ctx context.Context, from, to string) ([]time.Duration, error) {
	took := make([]time.Duration, 0, b.files)
	content := make([]byte, 500)
	for i := range b.files {
		name := fmt.Sprintf("visible%d", i)
		if err := os.WriteFile(filepath.Join(from, name), content, 0o644); err != nil {
			return nil, err
		}
		start := time.Now()
		for {
			st, err := os.Lstat(filepath.Join(to, name))
			if err == nil && st.Size() == int64(len(content)) {
				break
			}
			if time.Since(start) > 30*time.Second {
				return nil, fmt.Errorf("%s is not there after 30 s", name)
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			time.Sleep(200 * time.Microsecond)
		}
		took = append(took, time.Since(start))
		if err := os.Remove(filepath.Join(from, name)); err != nil {
			return nil, err
		}
	}
	return took, nil
}
