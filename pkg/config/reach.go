package config

import (
	"errors"
	"fmt"
	"net"
)

// reachableAt gives the addresses to put into an invitation: those asked for,
// else those that sysid binds to, else those of the network interfaces.
func (s *Sysid) reachableAt(asked []string) ([]string, error) {
	var out []string
	for _, a := range asked {
		full, err := JoinAddress(a, DefaultPort, false)
		if err != nil {
			return nil, err
		}
		out = append(out, full)
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, b := range s.Bind {
		host, port, err := net.SplitHostPort(b)
		if err != nil {
			return nil, fmt.Errorf("bind address %q: %w", b, err)
		}
		if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
			out = append(out, b)
			continue
		}
		found, err := interfaceAddresses(port)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	if len(out) == 0 {
		return nil, errors.New("no network address found that a client could reach; name one with --address")
	}
	return out, nil
}

// interfaceAddresses gives the addresses of this host that may mean something
// to another one, IPv4 first.
func interfaceAddresses(port string) ([]string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list network addresses: %w", err)
	}
	var v4, v6 []string
	for _, a := range all {
		ipnet, ok := a.(*net.IPNet)
		if !ok || !ipnet.IP.IsGlobalUnicast() {
			continue
		}
		full := net.JoinHostPort(ipnet.IP.String(), port)
		if ipnet.IP.To4() != nil {
			v4 = append(v4, full)
		} else {
			v6 = append(v6, full)
		}
	}
	return append(v4, v6...), nil
}
