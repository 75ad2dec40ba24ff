package netlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// eth is the name of every host's interface.
const eth = "eth0"

// operation is what a child is told to do in the namespace it is in. Exactly one
// of the fields is set.
type operation struct {
	Bridge   *bridgeOp  `json:",omitempty"`
	Unbridge string     `json:",omitempty"` // remove this bridge, if it is there
	Plug     *plugOp    `json:",omitempty"`
	Wire     *wireOp    `json:",omitempty"`
	Address  *addressOp `json:",omitempty"`
	Count    bool       `json:",omitempty"`
}

// bridgeOp makes a bridge, if it is not there.
type bridgeOp struct{ Name string }

// plugOp makes a cable: one end is the port of a switch, the other is eth0 in
// the namespace of a host.
type plugOp struct {
	Port, Namespace string
	MAC             string // of eth0
}

// wireOp puts a port into a bridge, or into none.
type wireOp struct{ Port, Bridge string }

// addressOp gives eth0 its address and tells who the neighbours are.
type addressOp struct {
	Prefix     netip.Prefix
	Neighbours map[netip.Addr]string // to hardware addresses
}

// Traffic is what went over a host's link since it was made, in bytes, whatever
// became of it on the way.
type Traffic struct{ In, Out uint64 }

// answer is what a child says when it could do what it was told.
type answer struct {
	Traffic Traffic
}

// do has a child do an operation in the namespace that the file ns holds.
func do(ctx context.Context, ns string, op operation) (answer, error) {
	var reply answer
	in, err := json.Marshal(op)
	if err != nil {
		return reply, fmt.Errorf("encode operation: %w", err)
	}
	var out, complaint bytes.Buffer
	cmd := childCommand(ctx, ns, "operate")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &complaint
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(complaint.String()); text != "" {
			return reply, errors.New(text)
		}
		return reply, fmt.Errorf("run in network namespace %s: %w", ns, err)
	}
	if err := json.Unmarshal(out.Bytes(), &reply); err != nil {
		return reply, fmt.Errorf("read answer from network namespace %s: %w", ns, err)
	}
	return reply, nil
}

// operate is the child's side of do.
func operate(in io.Reader, out io.Writer) error {
	var op operation
	if err := json.NewDecoder(in).Decode(&op); err != nil {
		return fmt.Errorf("read operation: %w", err)
	}
	reply, err := op.run()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(reply)
}

func (op *operation) run() (answer, error) {
	switch {
	case op.Bridge != nil:
		return answer{}, makeBridge(op.Bridge.Name)
	case op.Unbridge != "":
		return answer{}, removeBridge(op.Unbridge)
	case op.Plug != nil:
		return answer{}, plug(op.Plug)
	case op.Wire != nil:
		return answer{}, wire(op.Wire)
	case op.Address != nil:
		return answer{}, address(op.Address)
	case op.Count:
		traffic, err := count()
		return answer{Traffic: traffic}, err
	}
	return answer{}, errors.New("empty operation")
}

func makeBridge(name string) error {
	if err := disableIPv6(); err != nil {
		return err
	}
	if _, err := netlink.LinkByName(name); err == nil {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	// Snooping without a querier would lose neighbour discovery after a while.
	snooping := false
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	return setUp(name)
}

func removeBridge(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove bridge %s: %w", name, err)
	}
	return nil
}

func plug(op *plugOp) error {
	ns, err := netns.GetFromPath(op.Namespace)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", op.Namespace, err)
	}
	defer ns.Close()
	mac, err := net.ParseMAC(op.MAC)
	if err != nil {
		return fmt.Errorf("plug %s: %w", op.Port, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = op.Port
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = eth, mac, netlink.NsFd(ns)
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make link %s: %w", op.Port, err)
	}
	return setUp(op.Port)
}

func wire(op *wireOp) error {
	link, err := netlink.LinkByName(op.Port)
	if err != nil {
		return fmt.Errorf("find port %s: %w", op.Port, err)
	}
	if op.Bridge == "" {
		if err := netlink.LinkSetNoMaster(link); err != nil {
			return fmt.Errorf("take port %s out of its bridge: %w", op.Port, err)
		}
		return nil
	}
	bridge, err := netlink.LinkByName(op.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", op.Bridge, err)
	}
	if link.Attrs().MasterIndex == bridge.Attrs().Index {
		return nil
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("put port %s into bridge %s: %w", op.Port, op.Bridge, err)
	}
	return nil
}

func address(op *addressOp) error {
	if err := setUp("lo"); err != nil {
		return err
	}
	if op.Prefix.Addr().Is4() {
		if err := disableIPv6(); err != nil {
			return err
		}
	}
	link, err := netlink.LinkByName(eth)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", eth, err)
	}
	if op.Prefix.Addr().Is6() {
		if err := quietIPv6(); err != nil {
			return err
		}
	}
	if err := setUp(eth); err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP:   op.Prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(op.Prefix.Bits(), op.Prefix.Addr().BitLen()),
	}}
	if op.Prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD // an address that must be waited for is none yet
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s: %w", op.Prefix, err)
	}
	for ip, mac := range op.Neighbours {
		if err := addNeighbour(link.Attrs().Index, ip, mac); err != nil {
			return err
		}
	}
	return nil
}

func addNeighbour(index int, ip netip.Addr, mac string) error {
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", ip, err)
	}
	err = netlink.NeighSet(&netlink.Neigh{LinkIndex: index, IP: ip.AsSlice(), HardwareAddr: hardware, State: netlink.NUD_PERMANENT})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", ip, err)
	}
	return nil
}

func count() (Traffic, error) {
	link, err := netlink.LinkByName(eth)
	if err != nil {
		return Traffic{}, fmt.Errorf("find interface %s: %w", eth, err)
	}
	stats := link.Attrs().Statistics
	if stats == nil {
		return Traffic{}, fmt.Errorf("interface %s has no counters", eth)
	}
	return Traffic{In: stats.RxBytes, Out: stats.TxBytes}, nil
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// quietIPv6 keeps the interface from making itself an address and from looking
// for routers: the only traffic is to be that of the hosts' processes.
func quietIPv6() error {
	for name, value := range map[string]string{"addr_gen_mode": "1", "accept_ra": "0", "router_solicitations": "0"} {
		path := filepath.Join("/proc/sys/net/ipv6/conf", eth, name)
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("set up IPv6: %w", err)
		}
	}
	return nil
}

// disableIPv6 keeps the namespace's interfaces from talking IPv6 by themselves.
// A kernel without IPv6 needs no telling.
func disableIPv6() error {
	for _, of := range []string{"all", "default"} {
		path := filepath.Join("/proc/sys/net/ipv6/conf", of, "disable_ipv6")
		if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("disable IPv6: %w", err)
		}
	}
	return nil
}
