package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// DefaultBind is what a sysid without "bind" means.
const DefaultBind = ":370"

// MaxChannel is the highest number of a channel.
const MaxChannel = 9999

// What people write for a key: the original's names, and plain guesses.
var (
	sysidHints = map[string]string{
		"hostname": `write it as "name"`, "host": `write it as "name"`, "address": `write it as "bind"`, "listen": `write it as "bind"`,
	}
	serverHints = map[string]string{
		"ipaddr": `write it as "addresses", an array`, "address": `write it as "addresses", an array`, "port": `write it behind the address, as "HOST:PORT"`,
		"host": `write it as "addresses", an array`, "key": `write it as "fingerprint"`, "bindaddr": `write it in sysid, as "bind"`,
	}
	filesetHints = map[string]string{
		"servername": `write it as "server"`, "mtpt": `write it as "mountpoint"`, "prestodev": `write it as "channel", a number`,
		"replicators": "write a [[fileset.replicator]] for each of them; `inconfig invite` makes them", "cache_type": "it belongs into the fstab line",
		"data": "not built in this version",
	}
	replicatorHints = map[string]string{"key": `write it as "fingerprint"`, "access": `write it as "rights"`}
)

func decodeSysid(doc *document) Sysid {
	t := doc.top(sysidHints)
	s := Sysid{
		Name: t.required("name", "give this host a name"),
		UUID: t.uuid("uuid"),
		Bind: t.list("bind"),
		Key:  t.text("key", DefaultKeyFile),
	}
	t.close()
	if s.Name != "" {
		t.name("name", s.Name, CheckHostName)
	}
	if s.UUID.IsZero() && !t.has("uuid") && len(doc.root) > 0 {
		doc.complain("name", "the file has no uuid", fmt.Sprintf("add the line uuid = %q", NewUUID()))
	}
	if len(s.Bind) == 0 {
		s.Bind = []string{DefaultBind}
	}
	s.Bind = t.addresses("bind", s.Bind, true)
	if s.Key == "" {
		t.complain("key", "key is empty", fmt.Sprintf("leave it out for %q", DefaultKeyFile))
	}
	return s
}

func decodeServerdb(doc *document) []Server {
	top := doc.top(map[string]string{"servers": "write [[server]] above each of them"})
	var servers []Server
	seen := map[string]bool{}
	for _, t := range top.tables("server", serverHints) {
		s := Server{
			Name:        t.required("name", "name the server as its own sysid does"),
			Addresses:   t.list("addresses"),
			Fingerprint: t.fingerprint("fingerprint"),
		}
		t.close()
		t.unique("name", s.Name, CheckHostName, seen)
		s.Addresses = t.addresses("addresses", s.Addresses, false)
		if len(s.Addresses) == 0 && !t.bad("addresses") {
			t.doc.complain(t.path, fmt.Sprintf("server %s has no addresses", s.Name), `write addresses = ["HOST"]`)
		}
		if s.Fingerprint.IsZero() && !t.bad("fingerprint") {
			t.doc.complain(t.path, fmt.Sprintf("server %s has no fingerprint, so it can't be trusted", s.Name), "`inconfig key` on the server prints it")
		}
		servers = append(servers, s)
	}
	top.close()
	return servers
}

func decodeFsetdb(doc *document) []Fileset {
	top := doc.top(map[string]string{"filesets": "write [[fileset]] above each of them"})
	var filesets []Fileset
	seen := map[string]bool{}
	for _, t := range top.tables("fileset", filesetHints) {
		f := Fileset{
			Name:         t.required("name", "every fileset has one"),
			UUID:         t.uuid("uuid"),
			Server:       t.required("server", "name the host that serves the fileset"),
			Mountpoint:   t.text("mountpoint", ""),
			Device:       t.text("device", ""),
			Channel:      t.integer("channel", 0, MaxChannel, 0),
			Permit:       t.choice("permit", PermitNone, PermitExclusive),
			Disconnected: t.choice("disconnected", DisconnectedWork, DisconnectedReadOnly, DisconnectedWait),
			Mode:         t.choice("mode", ModeFull, ModeOnDemand),
			Replicators:  decodeReplicators(t),
		}
		t.close()
		t.unique("name", f.Name, CheckFilesetName, seen)
		t.pathname("mountpoint", f.Mountpoint, CheckMountpoint)
		t.pathname("device", f.Device, CheckDevicePath)
		filesets = append(filesets, f)
	}
	top.close()
	return filesets
}

func decodeReplicators(fileset *table) []Replicator {
	var out []Replicator
	names, keys, hosts := map[string]bool{}, map[Fingerprint]string{}, map[kml.UUID]string{}
	for _, t := range fileset.tables("replicator", replicatorHints) {
		r := Replicator{
			Name:        t.required("name", "name the host"),
			UUID:        t.uuid("uuid"),
			Fingerprint: t.fingerprint("fingerprint"),
			Rights:      Rights(t.choice("rights", string(ReadWrite), string(ReadOnly))),
		}
		t.close()
		t.unique("name", r.Name, CheckHostName, names)
		if r.Fingerprint.IsZero() && !t.bad("fingerprint") {
			t.doc.complain(t.path, fmt.Sprintf("replicator %s has no fingerprint, so it can't be told from strangers", r.Name), "`inconfig key` on that host prints it; or use `inconfig invite`")
		}
		if other, ok := keys[r.Fingerprint]; ok && !r.Fingerprint.IsZero() {
			t.complain("fingerprint", fmt.Sprintf("replicators %s and %s have the same key", other, r.Name), "remove one of them; two hosts never share a key")
		}
		keys[r.Fingerprint] = r.Name
		if other, ok := hosts[r.UUID]; ok && !r.UUID.IsZero() {
			t.complain("uuid", fmt.Sprintf("replicators %s and %s have the same uuid", other, r.Name), "one of those hosts is a copy of the other: remove its sysid and key, and run `inconfig init` there")
		}
		hosts[r.UUID] = r.Name
		out = append(out, r)
	}
	return out
}

// bad reports whether key is there but not usable, which was complained about.
func (t *table) bad(key string) bool {
	v, ok := t.values[key]
	if list, isList := v.([]any); isList {
		return len(list) > 0
	}
	return ok && v != ""
}

func (t *table) name(key, name string, check func(string) error) {
	if err := check(name); err != nil {
		t.complain(key, err.Error(), "")
	}
}

func (t *table) unique(key, name string, check func(string) error, seen map[string]bool) {
	if name == "" {
		return
	}
	t.name(key, name, check)
	if seen[name] {
		t.complain(key, fmt.Sprintf("%s %q is in the file twice", strings.Trim(t.label, "[]"), name), "remove one of them")
	}
	seen[name] = true
}

func (t *table) pathname(key, path string, check func(string) error) {
	if path == "" {
		return
	}
	if err := check(path); err != nil {
		t.complain(key, err.Error(), "")
	}
}

func (t *table) addresses(key string, list []string, allowAny bool) []string {
	var out []string
	for _, a := range list {
		full, err := JoinAddress(a, DefaultPort, allowAny)
		if err != nil {
			t.complain(key, err.Error(), "")
			continue
		}
		if slices.Contains(out, full) {
			t.complain(key, fmt.Sprintf("address %q is there twice", a), "")
			continue
		}
		out = append(out, full)
	}
	return out
}

// CheckMountpoint reports what is wrong with a path to mount at: it must be
// absolute, clean, and without a slash at the end.
func CheckMountpoint(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return valueError("mount point %q: must begin with /", path)
	case path != "/" && strings.HasSuffix(path, "/"):
		return valueError("mount point %q: must not have a slash at the end; write %s", path, filepath.Clean(path))
	case filepath.Clean(path) != path:
		return valueError("mount point %q: write it as %s", path, filepath.Clean(path))
	case strings.ContainsAny(path, ",\n\r\x00"):
		return valueError("mount point %q: has a comma or line break, which the option mtpt= can't hold", path)
	}
	return nil
}

// CheckDevicePath reports what is wrong with the path of a cache's device, loop
// file or folder. LABEL= and UUID= are allowed.
func CheckDevicePath(path string) error {
	if tag, value, ok := strings.Cut(path, "="); ok && slices.Contains([]string{"LABEL", "UUID", "PARTLABEL", "PARTUUID"}, tag) {
		if value == "" || strings.ContainsAny(value, "/\n\r\x00") {
			return valueError("device %q: nothing usable behind %s=", path, tag)
		}
		return nil
	}
	if !filepath.IsAbs(path) {
		return valueError("device %q: must begin with /, or be LABEL= or UUID=", path)
	}
	if filepath.Clean(path) != path || strings.ContainsAny(path, "\n\r\x00") {
		return valueError("device %q: write it as %q", path, filepath.Clean(path))
	}
	return nil
}

// crossCheck looks for what one file says about another.
func crossCheck(c *Config, docs map[string]*document) {
	fsetdb, serverdb := docs[FsetdbFile], docs[ServerdbFile]
	names := []string{c.Sysid.Name}
	for i, s := range c.Servers {
		names = append(names, s.Name)
		if s.Name == c.Sysid.Name && s.Name != "" {
			serverdb.complain(join(element("server", i), "name"), fmt.Sprintf("server %q has the name of this host (sysid)", s.Name),
				"serverdb is for other hosts; rename one of the two")
		}
	}
	channels := map[int]*Fileset{}
	for i := range c.Filesets {
		f := &c.Filesets[i]
		path := element("fileset", i)
		if f.Server != "" && !slices.Contains(names, f.Server) {
			fix := didYouMean(f.Server, names)
			if fix == "" {
				fix = "add it with `inconfig server add`"
			}
			fsetdb.complain(join(path, "server"), fmt.Sprintf("fileset %s: server %q is neither this host (%s) nor in serverdb", f.Name, f.Server, c.Sysid.Name), fix)
		}
		if other := channels[f.Channel]; other != nil && other.Device != f.Device && other.Device != "" && f.Device != "" {
			fsetdb.complain(join(path, "channel"), fmt.Sprintf("filesets %s and %s both use channel %d, but lie in different caches (%s, %s)",
				other.Name, f.Name, f.Channel, other.Device, f.Device), "give one of them another channel; one cache has one channel")
		}
		if channels[f.Channel] == nil || channels[f.Channel].Device == "" {
			channels[f.Channel] = f
		}
		crossCheckPaths(c, i, fsetdb)
	}
}

// crossCheckPaths looks for a fileset before number i that has its mount point,
// or its device but another channel.
func crossCheckPaths(c *Config, i int, fsetdb *document) {
	f, path := &c.Filesets[i], element("fileset", i)
	for j := range c.Filesets[:i] {
		other := &c.Filesets[j]
		if f.Mountpoint != "" && f.Mountpoint == other.Mountpoint {
			fsetdb.complain(join(path, "mountpoint"), fmt.Sprintf("filesets %s and %s have the same mount point %s", other.Name, f.Name, f.Mountpoint), "change one of them")
		}
		if f.Device != "" && f.Device == other.Device && f.Channel != other.Channel {
			fsetdb.complain(join(path, "channel"), fmt.Sprintf("filesets %s and %s lie in one cache (%s) but have channels %d and %d",
				other.Name, f.Name, f.Device, other.Channel, f.Channel), "give both the same channel; one cache has one channel")
		}
		if f.UUID == other.UUID && !f.UUID.IsZero() {
			fsetdb.complain(join(path, "uuid"), fmt.Sprintf("filesets %s and %s have the same uuid", other.Name, f.Name), "remove the one that was copied")
		}
	}
}
