package daemon

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

// Barrier logs what is being written in a fileset and returns the end of its log.
// With wait it returns when that is part of the fileset's order. A fileset that
// is not mounted is a *NotMounted.
func Barrier(ctx context.Context, dir config.Dir, run, fileset string, wait bool) (kml.Pos, error) {
	cfg, err := dir.Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kml.Pos{}, err
	}
	wanted := &config.Fileset{Name: fileset}
	if cfg != nil && cfg.Fileset(fileset) != nil {
		wanted = cfg.Fileset(fileset)
	}
	prestos, err := mount.Survey(ctx, run)
	if err != nil {
		return kml.Pos{}, err
	}
	presto, _, err := locate(prestos, fileset, wanted.UUID, wanted.Channel)
	if err != nil {
		return kml.Pos{}, err
	}
	client, err := channel.Dial(ctx, presto.Socket)
	if err != nil {
		return kml.Pos{}, err
	}
	defer client.Close()
	own, err := client.Barrier(ctx, fileset)
	if err != nil || !wait {
		return own, err
	}
	return own, waitFileset(ctx, client, fileset, func(f channel.Fileset) bool { return f.Confirmed.Seq >= own.Seq })
}

// waitFileset asks presto again and again until the fileset is as done says.
func waitFileset(ctx context.Context, client *channel.Client, name string, done func(channel.Fileset) bool) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		info, err := client.Info(ctx)
		if err != nil {
			return err
		}
		for _, f := range info.Filesets {
			if f.Name == name && done(f) {
				return nil
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// sleep waits for d, or until ctx ends, which is an error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
