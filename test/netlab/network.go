package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// MaxHosts is how many hosts a network can have.
const MaxHosts = 250

// trunk is the bridge that joins the hosts.
const trunk = "br0"

// Network is the network of one lab. It is a description: what exists is in the
// kernel, held by the files named here. Methods may be called in any process,
// one at a time for each host.
type Network struct {
	Switch string // the file that holds the switch's namespace
	Hosts  []Host
	Env    []string // added to the environment of processes that stay (relays)
}

// Host is a host of a network.
type Host struct {
	Name      string
	Namespace string       // the file that holds it
	Prefix    netip.Prefix // its address, and how many bits of it are the network's
	RelayPID  string       // the file for the pid of the link's relay
	RelayLog  string       // the file for what the relay has to say
}

// Link says how bad a link is. The zero Link is as good as the machine.
type Link struct {
	Rate  int64         // bits per second each way, 0: unlimited
	Delay time.Duration // each way
	Loss  float64       // share of packets lost, each way: 0 none, 1 all
	Seed  uint64        // decides which packets
}

// IsZero reports whether the link is as good as the machine.
func (l Link) IsZero() bool { return l.Rate == 0 && l.Delay == 0 && l.Loss == 0 }

// Validate reports what is wrong with a link's figures.
func (l Link) Validate() error {
	switch {
	case l.Rate != 0 && l.Rate < minRate:
		return fmt.Errorf("rate %d: want at least %d bits per second, or 0 for no limit", l.Rate, minRate)
	case l.Delay < 0 || l.Delay > time.Minute:
		return fmt.Errorf("delay %v: want 0 to 1m", l.Delay)
	case !(l.Loss >= 0 && l.Loss <= 1):
		return fmt.Errorf("loss %v%%: want 0 to 100", l.Loss*100)
	}
	return nil
}

// minRate keeps a packet's time on the wire below the time that a queue holds.
const minRate = 8000

// Addresses gives hosts 1 to n of a network number net (1 to 254) their
// addresses: IPv4 10.77.NET.N, or IPv6 fd00:77:NET::N.
func Addresses(net uint8, n int, ipv6 bool) ([]netip.Prefix, error) {
	if n < 1 || n > MaxHosts {
		return nil, fmt.Errorf("%d hosts: want 1 to %d", n, MaxHosts)
	}
	out := make([]netip.Prefix, n)
	for i := range out {
		host := byte(i + 1)
		if ipv6 {
			addr := netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x77, 5: net, 15: host})
			out[i] = netip.PrefixFrom(addr, 64)
		} else {
			out[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, net, host}), 24)
		}
	}
	return out, nil
}

// Create makes the network, all links good. What a failure leaves, Destroy
// removes.
func (n *Network) Create(ctx context.Context) error {
	if err := makeNamespace(ctx, n.Switch); err != nil {
		return err
	}
	if _, err := do(ctx, n.Switch, operation{Bridge: &bridgeOp{trunk}}); err != nil {
		return fmt.Errorf("create switch: %w", err)
	}
	for i, h := range n.Hosts {
		if err := n.createHost(ctx, i); err != nil {
			return fmt.Errorf("create network of %s: %w", h.Name, err)
		}
	}
	return nil
}

func (n *Network) createHost(ctx context.Context, i int) error {
	h := &n.Hosts[i]
	if err := makeNamespace(ctx, h.Namespace); err != nil {
		return err
	}
	cable := plugOp{Port: port(i), Namespace: h.Namespace, MAC: mac(i)}
	if _, err := do(ctx, n.Switch, operation{Plug: &cable}); err != nil {
		return err
	}
	neighbours := make(map[netip.Addr]string, len(n.Hosts))
	for j, other := range n.Hosts {
		if j != i {
			neighbours[other.Prefix.Addr()] = mac(j)
		}
	}
	if _, err := do(ctx, h.Namespace, operation{Address: &addressOp{h.Prefix, neighbours}}); err != nil {
		return err
	}
	_, err := do(ctx, n.Switch, operation{Wire: &wireOp{port(i), trunk}})
	return err
}

// port, lane and mac name what belongs to a host in the switch: the port its
// cable ends in, the bridge between that and its relay, its hardware address.
func port(i int) string { return "h" + strconv.Itoa(i+1) }
func lane(i int) string { return "l" + strconv.Itoa(i+1) }
func mac(i int) string  { return fmt.Sprintf("02:00:00:00:00:%02x", i+1) }

// find gives the number of a host in the network.
func (n *Network) find(name string) (int, error) {
	for i := range n.Hosts {
		if n.Hosts[i].Name == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no host %q in the network", name)
}

// Cut drops every packet from and to a host, in silence: its interface stays up
// and nobody is told. Cutting a host that is cut is no error.
func (n *Network) Cut(ctx context.Context, host string) error {
	i, err := n.find(host)
	if err != nil {
		return err
	}
	return n.wire(ctx, i, "")
}

// Heal undoes Cut. The link is as good or bad as told; where it was that before,
// what is on the way stays on the way.
func (n *Network) Heal(ctx context.Context, host string, link Link) error {
	i, err := n.find(host)
	if err != nil {
		return err
	}
	if !link.IsZero() && !n.relayed(i) {
		return n.SetLink(ctx, host, link, false)
	}
	return n.wire(ctx, i, n.bridge(i, link))
}

// bridge gives the bridge that a host's port belongs into.
func (n *Network) bridge(i int, link Link) string {
	if link.IsZero() {
		return trunk
	}
	return lane(i)
}

func (n *Network) wire(ctx context.Context, i int, bridge string) error {
	_, err := do(ctx, n.Switch, operation{Wire: &wireOp{port(i), bridge}})
	return err
}

// SetLink makes a host's link as good or bad as told. Packets that are on the
// way are lost. A cut link stays cut if cut is set, and is whole afterwards if
// not.
func (n *Network) SetLink(ctx context.Context, host string, link Link, cut bool) error {
	i, err := n.find(host)
	if err != nil {
		return err
	}
	if err := link.Validate(); err != nil {
		return err
	}
	if err := n.dropRelay(ctx, i); err != nil {
		return err
	}
	if !link.IsZero() {
		if err := n.startRelay(ctx, i, link); err != nil {
			return fmt.Errorf("start relay of %s: %w", host, err)
		}
	}
	if cut {
		return nil
	}
	return n.wire(ctx, i, n.bridge(i, link))
}

// Traffic gives the counters of a host's link.
func (n *Network) Traffic(ctx context.Context, host string) (Traffic, error) {
	i, err := n.find(host)
	if err != nil {
		return Traffic{}, err
	}
	reply, err := do(ctx, n.Hosts[i].Namespace, operation{Count: true})
	return reply.Traffic, err
}

// Destroy ends the relays and lets go of the namespaces; those, and the links in
// them, go as soon as no process is left in them. It does as much as it can,
// and what was never made is no error.
func (n *Network) Destroy(ctx context.Context) error {
	var faults []error
	for i := range n.Hosts {
		faults = append(faults, n.endRelay(ctx, i), dropNamespace(n.Hosts[i].Namespace))
	}
	return errors.Join(append(faults, dropNamespace(n.Switch))...)
}
