package presto

import (
	"io"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// eachFrame reads a log from a position to its present end.
func eachFrame(l *kml.Log, after uint64, do func(f *kml.Frame) error) error {
	rd, err := l.ReadFrom(after)
	if err != nil {
		return err
	}
	for {
		f, err := rd.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(&f); err != nil {
			return err
		}
	}
}

// eachRecord is eachFrame for the KML.
func eachRecord(l *kml.Log, after uint64, do func(f *kml.Frame, r *kml.Record) error) error {
	return eachFrame(l, after, func(f *kml.Frame) error {
		r, err := f.Record()
		if err != nil {
			return err
		}
		return do(f, &r)
	})
}

// eachGroup is eachFrame for the order log.
func eachGroup(l *kml.Log, after uint64, do func(f *kml.Frame, g *kml.Group) error) error {
	return eachFrame(l, after, func(f *kml.Frame) error {
		g, err := f.Group()
		if err != nil {
			return err
		}
		return do(f, &g)
	})
}
