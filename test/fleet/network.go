package fleet

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/intermezzofs/intermezzo/test/netlab"
)

// network describes the lab's network.
func (l *Lab) network() *netlab.Network {
	n := &netlab.Network{Switch: filepath.Join(l.Dir, switchFile), Env: []string{l.mark()}}
	for _, h := range l.Hosts {
		n.Hosts = append(n.Hosts, netlab.Host{
			Name: h.Name, Namespace: h.namespace(), Prefix: h.Prefix,
			RelayPID: h.path("relay.pid"), RelayLog: h.path("relay.log"),
		})
	}
	return n
}

// setLink writes down what a link is to be before it becomes that, so that the
// lab never says that a host is connected that is not.
func (l *Lab) setLink(h *Host, change func(*linkState), work func(linkState) error) error {
	return l.change(func() error {
		s := l.state.Links[h.Name]
		change(&s)
		if l.state.Links == nil {
			l.state.Links = make(map[string]linkState)
		}
		l.state.Links[h.Name] = s
		if err := l.save(); err != nil {
			return err
		}
		return work(s)
	})
}

// Cut drops everything from and to a host in silence.
func (l *Lab) Cut(ctx context.Context, h *Host) error {
	return l.setLink(h, func(s *linkState) { s.Cut = true }, func(linkState) error {
		return l.network().Cut(ctx, h.Name)
	})
}

// Heal undoes Cut.
func (l *Lab) Heal(ctx context.Context, h *Host) error {
	return l.setLink(h, func(s *linkState) { s.Cut = false }, func(s linkState) error {
		return l.network().Heal(ctx, h.Name, s.Link)
	})
}

// Link makes a host's link as bad as told, or good again. A cut stays.
func (l *Lab) Link(ctx context.Context, h *Host, link netlab.Link) error {
	if err := link.Validate(); err != nil {
		return err
	}
	return l.setLink(h, func(s *linkState) { s.Link = link }, func(s linkState) error {
		return l.network().SetLink(ctx, h.Name, link, s.Cut)
	})
}

// Traffic gives the bytes that a host's link has carried since Up.
func (l *Lab) Traffic(ctx context.Context, h *Host) (netlab.Traffic, error) {
	t, err := l.network().Traffic(ctx, h.Name)
	if err != nil {
		return t, fmt.Errorf("count bytes of %s: %w", h.Name, err)
	}
	return t, nil
}

// Exec becomes a command on a host: in its network, with its configuration, our
// tools on PATH, and all else of the caller. It returns only on failure.
func (l *Lab) Exec(h *Host, command []string) error {
	return netlab.Exec(h.namespace(), h.Environ(), command[0], command[1:]...)
}
