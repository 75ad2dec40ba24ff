package main

import (
	"context"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

// lookInside opens a cache without changing anything on its device.
func lookInside(ctx context.Context, source string) (config.CacheView, error) {
	c, err := cache.Open(ctx, source, cache.Options{ReadOnly: true, NoReplay: true})
	if err != nil {
		return config.CacheView{}, err
	}
	view := config.CacheView{Bottom: c.BottomType()}
	for _, f := range c.Filesets() {
		view.Filesets = append(view.Filesets, config.CacheFileset{Name: f.Name, UUID: f.UUID, Role: config.Role(f.Role)})
	}
	return view, c.Close()
}

// channels asks every presto of the run folder what it serves.
func channels(ctx context.Context, run string) ([]config.ChannelView, error) {
	prestos, err := mount.Survey(ctx, run)
	if err != nil {
		return nil, err
	}
	var views []config.ChannelView
	for _, p := range prestos {
		v := config.ChannelView{Channel: p.Channel, PID: p.PID, Source: p.Info.Source, Err: p.Err}
		v.Cache.Bottom = p.Info.Bottom
		for _, f := range p.Info.Filesets {
			v.Cache.Filesets = append(v.Cache.Filesets, viewOf(f))
		}
		views = append(views, v)
	}
	return views, nil
}

func viewOf(f channel.Fileset) config.CacheFileset {
	return config.CacheFileset{Name: f.Name, UUID: f.UUID, Role: config.Role(f.Role), Damage: f.Damage}
}

// mounts reads the mount table.
func mounts() ([]config.MountView, error) {
	points, err := mount.Table()
	if err != nil {
		return nil, err
	}
	views := make([]config.MountView, len(points))
	for i, p := range points {
		views[i] = config.MountView{Source: p.Source, Dir: p.Dir, Type: p.Type}
	}
	return views, nil
}
