package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// work is the first argument of the test program when it is at work on a host.
const work = "netlab-test-work"

func TestMain(m *testing.M) {
	Child()
	if len(os.Args) > 2 && os.Args[1] == work {
		if err := atWork(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func atWork(what string, args []string) error {
	switch what {
	case "ping":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return ping(args[0], n)
	case "sink":
		return sink(args[0])
	case "send":
		n, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return send(args[0], n)
	}
	return fmt.Errorf("no such work: %s", what)
}

// ping sends n echo requests, 2 ms apart, and prints how many were answered and
// the least time that took.
func ping(addr string, n int) error {
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make([]time.Time, n)
	failed := make(chan error, 1)
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i := range n {
			<-tick.C
			msg := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: i}}
			data, err := msg.Marshal(nil)
			if err == nil {
				sent[i] = time.Now()
				_, err = conn.WriteTo(data, &net.IPAddr{IP: net.ParseIP(addr)})
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	answered, least := 0, time.Hour
	buf := make([]byte, 1500)
	for answered < n {
		if err := conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return err
		}
		size, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
		msg, err := icmp.ParseMessage(1, buf[:size])
		if err != nil {
			return err
		}
		if echo, ok := msg.Body.(*icmp.Echo); ok && msg.Type == ipv4.ICMPTypeEchoReply && echo.ID == os.Getpid()&0xffff {
			answered++
			least = min(least, time.Since(sent[echo.Seq]))
		}
	}
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Println(answered, least.Microseconds())
	return nil
}

// sink takes one connection at a time, tells when it is ready, and reads all;
// it answers the number of bytes when the sender is done.
func sink(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, conn)
		if err == nil {
			fmt.Fprintln(conn, n)
		}
		conn.Close()
	}
}

// send copies n bytes to a sink and prints the microseconds until all was taken.
func send(addr string, n int64) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	start := time.Now()
	block := make([]byte, 64<<10)
	for left := n; left > 0; left -= int64(len(block)) {
		block = block[:min(left, int64(len(block)))]
		if _, err := conn.Write(block); err != nil {
			return err
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(reply)); got != strconv.FormatInt(n, 10) {
		return fmt.Errorf("the sink got %s bytes, not %d", got, n)
	}
	fmt.Println(time.Since(start).Microseconds())
	return nil
}

// newNetwork makes a network of n hosts that is gone after the test.
func newNetwork(t *testing.T, number uint8, n int, ipv6 bool) *Network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("makes network namespaces: needs root")
	}
	dir := t.TempDir()
	addrs, err := Addresses(number, n, ipv6)
	if err != nil {
		t.Fatal(err)
	}
	net := &Network{Switch: filepath.Join(dir, "switch")}
	for i, addr := range addrs {
		name := fmt.Sprintf("host%d", i+1)
		in := func(what string) string { return filepath.Join(dir, name+"."+what) }
		net.Hosts = append(net.Hosts, Host{Name: name, Namespace: in("netns"), Prefix: addr, RelayPID: in("pid"), RelayLog: in("log")})
	}
	t.Cleanup(func() {
		for range 2 { // the second finds nothing, and that is no error
			if err := net.Destroy(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	if err := net.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	return net
}

// on runs work on a host and returns what it printed.
func (n *Network) on(t *testing.T, host int, args ...string) string {
	t.Helper()
	out, err := n.tryOn(t, host, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (n *Network) tryOn(t *testing.T, host int, args ...string) (string, error) {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd := Command(t.Context(), n.Hosts[host].Namespace, self, append([]string{work}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%v on host %d: %w: %s", args, host, err, &complaint)
	}
	return strings.TrimSpace(out.String()), nil
}

// startSink starts a sink on a host and returns its address.
func (n *Network) startSink(t *testing.T, host int) string {
	t.Helper()
	addr := netip.AddrPortFrom(n.Hosts[host].Prefix.Addr(), 4000).String()
	cmd := Command(t.Context(), n.Hosts[host].Namespace, self, work, "sink", addr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	return addr
}

// pings gives how many of n pings from one host to another were answered, and
// the least round trip.
func (n *Network) pings(t *testing.T, from, to, count int) (answered int, least time.Duration) {
	t.Helper()
	var us int64
	out := n.on(t, from, "ping", n.Hosts[to].Prefix.Addr().String(), strconv.Itoa(count))
	if _, err := fmt.Sscan(out, &answered, &us); err != nil {
		t.Fatalf("ping said %q: %v", out, err)
	}
	return answered, time.Duration(us) * time.Microsecond
}

// copyTime gives how long a copy of so many bytes takes.
func (n *Network) copyTime(t *testing.T, from int, sink string, size int64) time.Duration {
	t.Helper()
	us, err := strconv.ParseInt(n.on(t, from, "send", sink, strconv.FormatInt(size, 10)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(us) * time.Microsecond
}

func (n *Network) traffic(t *testing.T, host string) Traffic {
	t.Helper()
	got, err := n.Traffic(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestNetwork_EveryHostReachesEveryOther(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("ipv6=%v", ipv6), func(t *testing.T) {
			n := newNetwork(t, 1, 3, ipv6)
			// MLD tells a switch of the address once; nothing else is the lab's own.
			if got := n.traffic(t, "host2"); got.In > 500 || got.Out > 500 {
				t.Errorf("a network that nobody used yet has a traffic of %+v", got)
			}
			for to := range n.Hosts {
				sink := n.startSink(t, to)
				for from := range n.Hosts {
					n.copyTime(t, from, sink, 100_000)
				}
			}
		})
	}
}

func TestNetwork_TwoAtOnceAreApart(t *testing.T) {
	a, b := newNetwork(t, 1, 2, false), newNetwork(t, 1, 2, false)
	sink := a.startSink(t, 0)
	a.copyTime(t, 1, sink, 1000)
	// The same address is another host in b, where nobody listens.
	if _, err := b.tryOn(t, 1, "send", sink, "1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("want a refused connection, got %v", err)
	}
}

func TestCut_IsSilentBothWaysAndHeals(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, 3, false)
	sink := n.startSink(t, 0)
	slow := Link{Delay: 5 * time.Millisecond, Rate: 20_000_000}
	for _, link := range []Link{{}, slow} {
		check(t, n.SetLink(t.Context(), "host2", link, false))
		check(t, n.Cut(t.Context(), "host2"))
		check(t, n.Cut(t.Context(), "host2"))
		if got, _ := n.pings(t, 1, 0, 5); got != 0 {
			t.Errorf("link %+v: %d pings left a cut host", link, got)
		}
		if got, _ := n.pings(t, 0, 1, 5); got != 0 {
			t.Errorf("link %+v: %d pings reached a cut host", link, got)
		}
		if got, _ := n.pings(t, 2, 0, 5); got != 5 {
			t.Errorf("link %+v: the cut of host2 concerns host3: %d of 5 pings answered", link, got)
		}
		// A copy that starts while the link is cut sees no error, and ends after it is whole.
		done := make(chan error, 1)
		go func() { _, err := n.tryOn(t, 1, "send", sink, "100000"); done <- err }()
		select {
		case err := <-done:
			t.Fatalf("link %+v: a copy over a cut link ended: %v", link, err)
		case <-time.After(300 * time.Millisecond):
		}
		check(t, n.Heal(t.Context(), "host2", link))
		if err := <-done; err != nil {
			t.Errorf("link %+v: copy over a healed link: %v", link, err)
		}
	}
}

func TestSetLink_DelayIsSeenByPing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 3, 3, false)
	plain, _ := n.pings(t, 0, 1, 20)
	if plain != 20 {
		t.Fatalf("a plain link answers %d of 20 pings", plain)
	}
	check(t, n.SetLink(t.Context(), "host2", Link{Delay: 30 * time.Millisecond}, false))
	for _, way := range [][2]int{{0, 1}, {1, 2}} {
		answered, least := n.pings(t, way[0], way[1], 50)
		if answered != 50 || least < 60*time.Millisecond || least > 100*time.Millisecond {
			t.Errorf("hosts %v: %d of 50 answered, at least %v; want all, 60 ms", way, answered, least)
		}
	}
	if _, least := n.pings(t, 0, 2, 20); least > 30*time.Millisecond {
		t.Errorf("the delay of host2 concerns host3: %v", least)
	}
	check(t, n.SetLink(t.Context(), "host2", Link{}, false))
	if answered, least := n.pings(t, 0, 1, 20); answered != 20 || least > 30*time.Millisecond {
		t.Errorf("good again: %d of 20 answered, at least %v", answered, least)
	}
}

func TestSetLink_LossIsSeenByPing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 4, 2, false)
	check(t, n.SetLink(t.Context(), "host1", Link{Loss: 0.2, Seed: 7}, false))
	// Lost on the way there or back: 36 % of 400, and five standard deviations.
	if answered, _ := n.pings(t, 1, 0, 400); answered < 208 || answered > 304 {
		t.Errorf("%d of 400 pings answered at a loss of 20 %% each way, want about 256", answered)
	}
	check(t, n.SetLink(t.Context(), "host1", Link{Loss: 1}, false))
	if answered, _ := n.pings(t, 1, 0, 10); answered != 0 {
		t.Errorf("%d of 10 pings answered at full loss", answered)
	}
}

func TestSetLink_RateIsWhatACopyGets(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 5, 2, false)
	sinks := []string{n.startSink(t, 0), n.startSink(t, 1)}
	for _, tt := range []struct {
		link Link
		size int64
	}{
		{Link{Rate: 20_000_000}, 2_500_000},
		{Link{Rate: 200_000_000, Delay: 2 * time.Millisecond}, 30_000_000},
		{Link{Rate: 3_000_000, Delay: 100 * time.Millisecond}, 500_000},
	} {
		check(t, n.SetLink(t.Context(), "host2", tt.link, false))
		for from := range 2 {
			took := n.copyTime(t, from, sinks[1-from], tt.size)
			share := float64(tt.size*8) / took.Seconds() / float64(tt.link.Rate)
			// Headers take 4.5 %; starting up and the last round trip some more.
			if share > 0.96 || share < 0.3 {
				t.Errorf("link %+v, from host%d: %d bytes in %v, %.2f of the rate", tt.link, from+1, tt.size, took, share)
			}
		}
	}
}

func TestTraffic_CountsOnThroughEveryChange(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 6, 2, false)
	sink := n.startSink(t, 0)
	if got := n.traffic(t, "host2"); got != (Traffic{}) {
		t.Errorf("a link that nobody used yet counts %+v", got)
	}
	before := Traffic{}
	for _, link := range []Link{{}, {Rate: 100_000_000}, {}} {
		check(t, n.SetLink(t.Context(), "host2", link, false))
		n.copyTime(t, 1, sink, 1_000_000)
		check(t, n.Cut(t.Context(), "host2"))
		check(t, n.Heal(t.Context(), "host2", link))
		got := n.traffic(t, "host2")
		if out := got.Out - before.Out; out < 1_000_000 || out > 1_300_000 {
			t.Errorf("link %+v: a copy of 1,000,000 bytes counts as %d", link, out)
		}
		if got.In <= before.In {
			t.Errorf("link %+v: nothing came in", link)
		}
		before = got
	}
	// The relay splits large segments, so host1 got some more headers.
	if got, sent := n.traffic(t, "host1").In, n.traffic(t, "host2").Out; got < sent || got > sent+sent/10 {
		t.Errorf("host1 got %d bytes of the %d sent by host2", got, sent)
	}
}

func TestHeal_BringsBackALostRelay(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 7, 2, false)
	link := Link{Delay: 20 * time.Millisecond}
	check(t, n.SetLink(t.Context(), "host2", link, false))
	check(t, n.endRelay(t.Context(), 1))
	if got, _ := n.pings(t, 0, 1, 3); got != 0 {
		t.Errorf("%d pings went through a dead relay", got)
	}
	check(t, n.Heal(t.Context(), "host2", link))
	if _, least := n.pings(t, 0, 1, 3); least < 40*time.Millisecond {
		t.Errorf("healed link has a round trip of %v", least)
	}
	check(t, n.SetLink(t.Context(), "host2", link, true))
	if got, _ := n.pings(t, 0, 1, 3); got != 0 {
		t.Errorf("%d pings went through a cut link", got)
	}
}

func TestExec_GivesTheCommandsOwnStatusAndFolder(t *testing.T) {
	n := newNetwork(t, 8, 1, false)
	dir := t.TempDir()
	cmd := Command(t.Context(), n.Hosts[0].Namespace, "sh", "-c", "pwd; echo $$; exit 37")
	cmd.Dir = dir
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 37 {
		t.Errorf("exit: %v", err)
	}
	if want := fmt.Sprintf("%s\n%d\n", dir, cmd.Process.Pid); string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
	err = Command(t.Context(), filepath.Join(dir, "absent"), "true").Run()
	if !errors.As(err, &exit) || exit.ExitCode() != childFailed {
		t.Errorf("absent namespace: %v", err)
	}
}

func TestNetwork_RefusesWhatIsWrong(t *testing.T) {
	n := newNetwork(t, 9, 1, false)
	ctx := t.Context()
	for name, err := range map[string]error{
		"unknown host":   n.Cut(ctx, "host9"),
		"low rate":       n.SetLink(ctx, "host1", Link{Rate: 10}, false),
		"negative delay": n.SetLink(ctx, "host1", Link{Delay: -1}, false),
		"loss above all": n.SetLink(ctx, "host1", Link{Loss: 1.5}, false),
	} {
		if err == nil {
			t.Errorf("%s is no error", name)
		}
	}
	if _, err := Addresses(1, MaxHosts+1, false); err == nil {
		t.Error("too many hosts are no error")
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
