package channeltest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// Socket serves p on a unix socket until the test ends, or until stop is called,
// as a presto is that is unmounted. It can be called again after that.
func Socket(t testing.TB, p *Presto) (path string, stop func()) {
	t.Helper()
	// Not in t.TempDir: the path of a socket may have only 107 bytes.
	dir, err := os.MkdirTemp("", "ch")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "0")
	l, err := channel.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := channel.NewServer(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ctx, l, p); err != nil {
			t.Errorf("serve presto: %v", err)
		}
	}()
	p.SetNotify(s.Notify)
	stop = func() {
		cancel()
		<-done
		os.RemoveAll(dir)
	}
	t.Cleanup(stop)
	return path, stop
}
