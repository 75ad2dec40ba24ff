package config

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	maxFilesetName = 64
	maxHostName    = 253
)

// reservedFilesets are names that a fileset can't have, because its folder in a
// cache lies beside files of these names (pkg/cache).
var reservedFilesets = []string{"cache", "lock", "ids", "ids.journal"}

// CheckFilesetName reports what is wrong with a name for a fileset. It becomes a
// folder, a mount option and a word of commands: letters, digits, ".", "_" and
// "-", the first one a letter, a digit or "_", at most 64.
func CheckFilesetName(name string) error {
	if slices.Contains(reservedFilesets, strings.TrimSuffix(name, ".new")) {
		return valueError("fileset name %q is taken by a file of the cache itself; choose another", name)
	}
	return checkWord("fileset", name, maxFilesetName)
}

// CheckHostName reports what is wrong with a name for a host: as for filesets,
// at most 253 characters. It need not be in any name service.
func CheckHostName(name string) error { return checkWord("host", name, maxHostName) }

func checkWord(what, name string, limit int) error {
	switch {
	case name == "":
		return valueError("%s name is empty", what)
	case len(name) > limit:
		return valueError("%s name %.20q... has %d characters; at most %d are allowed", what, name, len(name), limit)
	}
	for i, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune("._-", r) && i > 0, r == '_':
		case strings.ContainsRune(".-", r):
			return valueError("%s name %q: begin with a letter or digit", what, name)
		default:
			return valueError("%s name %q: has %q; use letters, digits, \".\", \"_\" and \"-\"", what, name, r)
		}
	}
	return nil
}

// JoinAddress gives the form host:port for what people write: a host name or
// address with or without a port, an IPv6 address with or without brackets.
// port is used where none is written. The host may be empty only where allowAny
// is set: then the address is one to listen on, at all interfaces.
func JoinAddress(address string, port int, allowAny bool) (string, error) {
	host, portText := splitAddress(address)
	if portText == "" {
		portText = strconv.Itoa(port)
	}
	if n, err := strconv.ParseUint(portText, 10, 16); err != nil || n == 0 {
		return "", valueError("address %q: port %q is not a number from 1 to 65535", address, portText)
	}
	if host == "*" && allowAny {
		host = ""
	}
	if host == "" && !allowAny {
		return "", valueError("address %q: has no host", address)
	}
	if strings.ContainsFunc(host, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("/[]@,", r)
	}) {
		return "", valueError("address %q: not a host name or address", address)
	}
	ip, _, _ := strings.Cut(host, "%") // a zone is for link-local addresses
	if strings.Contains(host, ":") && net.ParseIP(ip) == nil {
		return "", valueError("address %q: not an IPv6 address; write a port as [ADDRESS]:PORT", address)
	}
	return net.JoinHostPort(host, portText), nil
}

// splitAddress takes host and port apart; port is "" where none is written.
func splitAddress(address string) (host, port string) {
	if inner, rest, ok := strings.Cut(strings.TrimPrefix(address, "["), "]"); ok && strings.HasPrefix(address, "[") {
		if after, ok := strings.CutPrefix(rest, ":"); ok && after != "" {
			return inner, after
		} else if rest == "" {
			return inner, ""
		}
		return address, "" // junk behind the bracket; refused as a host
	}
	if strings.Count(address, ":") == 1 {
		host, port, _ = strings.Cut(address, ":")
		if port == "" {
			port = "0" // "host:" is a slip, not a default
		}
		return host, port
	}
	return address, ""
}
