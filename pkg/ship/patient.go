package ship

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/content"
)

const patience = 2 * time.Second

// sumPatiently is content.SumFile that calls waiting every few seconds, and ends
// with its error.
func sumPatiently(ctx context.Context, f *os.File, size int64, waiting func() error) (root [32]byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if waiting != nil {
		done := make(chan struct{})
		stop := make(chan struct{})
		go func() {
			defer close(done)
			tick := time.NewTicker(patience)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-stop:
					return
				}
				if err := waiting(); err != nil {
					cancel(err)
					return
				}
			}
		}()
		defer func() { close(stop); <-done }()
	}
	root, err = content.SumFile(ctx, f, size)
	if errors.Is(err, content.ErrShort) {
		return root, ErrGone
	}
	return root, err
}
