package netlab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/test/process"
)

// relayOrder is what a relay is told: the devices it makes, the bridges they are
// put into, and what the link between them is like.
type relayOrder struct {
	Devices [2]string
	Bridges [2]string
	Link    Link
	PIDFile string
}

// startRelay starts the relay of a host, which stays when this process ends. The
// host's port is not put into the relay's bridge yet.
func (n *Network) startRelay(ctx context.Context, i int, link Link) error {
	h := &n.Hosts[i]
	if _, err := do(ctx, n.Switch, operation{Bridge: &bridgeOp{lane(i)}}); err != nil {
		return err
	}
	order, err := json.Marshal(relayOrder{
		Devices: [2]string{"a" + strconv.Itoa(i+1), "b" + strconv.Itoa(i+1)},
		Bridges: [2]string{lane(i), trunk},
		Link:    link,
		PIDFile: h.RelayPID,
	})
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	log, err := os.OpenFile(h.RelayLog, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := childCommand(context.WithoutCancel(ctx), n.Switch, "relay")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(order), log
	cmd.Env = append(append(os.Environ(), n.Env...), relayMark+h.RelayPID)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return launchRelay(cmd, log.Name())
}

// launchRelay starts a relay and waits until it is at work.
func launchRelay(cmd *exec.Cmd, log string) error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer read.Close()
	cmd.Stdout = write
	err = cmd.Start()
	write.Close()
	if err != nil {
		return err
	}
	if line, err := bufio.NewReader(read).ReadString('\n'); err != nil || line != relayReady {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		said, err := os.ReadFile(log)
		if err != nil {
			return fmt.Errorf("read relay's log: %w", err)
		}
		return fmt.Errorf("it ended at once: %s", bytes.TrimSpace(said))
	}
	return cmd.Process.Release()
}

const relayReady = "ready\n"

// isRelay tells whether a process is the relay that wrote the pid file.
func isRelay(pidFile string) process.Is {
	return func(pid int) bool {
		return slices.Contains(process.Arguments(pid), childWord) && slices.Contains(process.Environment(pid), relayMark+pidFile)
	}
}

// relayMark is how a relay is recognised among processes.
const relayMark = "NETLAB_RELAY="

func (n *Network) relayed(i int) bool {
	p, err := process.OpenFile(n.Hosts[i].RelayPID, isRelay(n.Hosts[i].RelayPID))
	if err != nil {
		return false
	}
	p.Close()
	return true
}

// endRelay ends the relay of a host, if there is one. Its devices go with it.
func (n *Network) endRelay(ctx context.Context, i int) error {
	file := n.Hosts[i].RelayPID
	p, err := process.OpenFile(file, isRelay(file))
	if err == nil {
		defer p.Close()
		err = p.Kill(ctx)
	}
	if err != nil && !errors.Is(err, process.ErrNone) {
		return fmt.Errorf("end relay of %s: %w", n.Hosts[i].Name, err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pid file of a relay: %w", err)
	}
	return nil
}

// dropRelay takes a host's port away from its relay, and ends that.
func (n *Network) dropRelay(ctx context.Context, i int) error {
	if err := n.wire(ctx, i, ""); err != nil {
		return err
	}
	if err := n.endRelay(ctx, i); err != nil {
		return err
	}
	_, err := do(ctx, n.Switch, operation{Unbridge: lane(i)})
	return err
}

// relay is the work of a relay process: it passes frames between two devices
// until it is killed, or a device fails.
func relay(in io.Reader, out io.WriteCloser) error {
	var order relayOrder
	if err := json.NewDecoder(in).Decode(&order); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	var devices [2]*os.File
	for i, name := range order.Devices {
		var err error
		if devices[i], err = openTAP(name); err != nil {
			return err
		}
		if err := wire(&wireOp{name, order.Bridges[i]}); err != nil {
			return err
		}
		if err := setUp(name); err != nil {
			return err
		}
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := os.WriteFile(order.PIDFile, []byte(pid), 0o600); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	failed := make(chan error, 4)
	for i := range devices {
		go carry(devices[i], devices[1-i], newShaper(order.Link, uint64(i)), failed)
	}
	if _, err := io.WriteString(out, relayReady); err != nil {
		return fmt.Errorf("report readiness: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("report readiness: %w", err)
	}
	return <-failed
}

// openTAP makes a TAP device, which is there as long as it is open.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("name device %s: %w", name, err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, fmt.Errorf("make device %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetTxQLen(link, tapQueue)
	}
	if err != nil {
		return nil, fmt.Errorf("set queue of device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// tapQueue is how many frames the kernel keeps while the relay is not scheduled:
// losing some there would be loss that nobody asked for.
const tapQueue = 10000

// frame is a packet on the way, to be delivered when it is due.
type frame struct {
	due  time.Time
	data []byte
}

// maxFrames is how many frames can be on the way in one direction, whatever
// their size.
const maxFrames = 1 << 16

// carry takes frames from one device and gives them to the other when they are
// due. Delivery is in order, because a frame is never due before an earlier one.
func carry(from, to *os.File, s *shaper, failed chan<- error) {
	queue := make(chan frame, maxFrames)
	go func() { failed <- deliver(to, queue, s) }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			failed <- fmt.Errorf("read from %s: %w", from.Name(), err)
			return
		}
		due, ok := s.admit(time.Now(), n)
		if !ok {
			continue
		}
		select {
		case queue <- frame{due, bytes.Clone(buf[:n])}:
		default:
			s.delivered(n)
		}
	}
}

func deliver(to *os.File, queue <-chan frame, s *shaper) error {
	timer := time.NewTimer(0)
	for f := range queue {
		if wait := time.Until(f.due); wait > 0 {
			timer.Reset(wait)
			<-timer.C
		}
		if _, err := to.Write(f.data); err != nil {
			return fmt.Errorf("write to %s: %w", to.Name(), err)
		}
		s.delivered(len(f.data))
	}
	return nil
}
