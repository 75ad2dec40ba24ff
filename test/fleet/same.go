package fleet

import (
	"context"
	"fmt"
	"io"

	"github.com/intermezzofs/intermezzo/test/treediff"
)

// sameLimit is how many differences between two hosts are of use to anybody.
const sameLimit = 1000

// Same compares the mount of the first host with those of the others, and prints
// a line for each difference. No hosts means all. ErrNo: they differ.
func (l *Lab) Same(ctx context.Context, hosts []*Host, metadata bool, out io.Writer) error {
	if len(hosts) == 0 {
		hosts = l.Hosts
	}
	if len(hosts) < 2 {
		return fmt.Errorf("compare hosts: want at least two")
	}
	for _, h := range hosts {
		n, err := mountsAt(h.Mount())
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("compare hosts: nothing is mounted on %s", h.Mount())
		}
	}
	differ := 0
	for _, h := range hosts[1:] {
		found, err := treediff.Compare(ctx, hosts[0].Mount(), h.Mount(), treediff.Options{Metadata: metadata, Limit: sameLimit})
		if err != nil {
			return err
		}
		for _, d := range found {
			if _, err := fmt.Fprintln(out, d.Format(hosts[0].Name, h.Name)); err != nil {
				return fmt.Errorf("print difference: %w", err)
			}
		}
		if len(found) == sameLimit {
			l.note("%s and %s differ in %d things at least; the rest is not looked at", hosts[0].Name, h.Name, sameLimit)
		}
		differ += len(found)
	}
	if differ > 0 {
		return no("the trees differ")
	}
	return nil
}
