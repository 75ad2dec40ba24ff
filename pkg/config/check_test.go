package config

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// site is a host that is set up right, to be spoilt by a test.
type site struct {
	t      *testing.T
	dir    Dir
	base   string // holds device, mount point, fstab and run folder
	opts   CheckOptions
	view   CacheView
	looked error
	chans  []ChannelView
	mounts []MountView
}

func (s *site) path(name string) string { return filepath.Join(s.base, name) }

func (s *site) write(path, text string) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// newSite makes a server of the fileset shared with one replicator.
func newSite(t *testing.T) *site {
	t.Helper()
	base := t.TempDir()
	s := &site{t: t, dir: Dir(base + "/etc"), base: base, view: CacheView{Filesets: []CacheFileset{{Name: "shared"}}}}
	if err := os.MkdirAll(s.path("mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.path("run"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(s.path("image"), strings.Repeat("\x00", 4096))
	device, mountpoint := s.path("image"), s.path("mnt")
	s.edit(func(c *Config) error {
		return errors.Join(c.Init("iserver", []string{"127.0.0.1:" + freePort(t)}),
			c.AddFileset("shared", "", Placement{Device: &device, Mountpoint: &mountpoint}),
			c.AddReplicator("shared", Replicator{Name: "b", Fingerprint: mustPrint(t, otherFP)}))
	})
	if _, err := s.dir.EnsureKey(); err != nil {
		t.Fatal(err)
	}
	s.fstab("cache_type=ext3")
	s.opts = CheckOptions{Fstab: s.path("fstab"), Run: s.path("run"), Timeout: time.Second,
		LookInside: func(context.Context, string) (CacheView, error) { return s.view, s.looked },
		Channels:   func(context.Context, string) ([]ChannelView, error) { return s.chans, nil },
		Mounts:     func() ([]MountView, error) { return s.mounts, nil }}
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (s *site) edit(fn func(*Config) error) {
	s.t.Helper()
	if _, err := s.dir.Edit(fn); err != nil {
		s.t.Fatal(err)
	}
}

// fstab writes the right line with other options besides fileset, mtpt and
// channel.
func (s *site) fstab(options string) {
	s.write(s.path("fstab"), s.path("image")+" "+s.path("mnt")+" intermezzo fileset=shared,mtpt="+s.path("mnt")+",prestodev=/dev/intermezzo0,"+options+",noauto 0 0\n")
}

// replace changes text in a file.
func (s *site) replace(path, old, new string) {
	s.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		s.t.Fatalf("%s: no %q in it, %v", path, old, err)
	}
	s.write(path, strings.Replace(string(text), old, new, 1))
}

// serious gives errors and warnings as text, without those of the machine that
// the test runs on.
func (s *site) serious() []string {
	var out []string
	for _, f := range Check(s.t.Context(), s.dir, s.opts) {
		if f.Severity == SeverityInfo || f.Where == "kernel" || f.Where == "/dev/fuse" || strings.HasSuffix(f.Where, helperName) {
			continue
		}
		out = append(out, string(f.Severity)+": "+strings.ReplaceAll(f.Where+": "+f.Text+" -- "+f.Fix, s.base, ""))
	}
	return out
}

func TestCheck_Clean(t *testing.T) {
	if got := newSite(t).serious(); len(got) > 0 {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

// Each way of spoiling gives exactly the findings listed, in this order.
func TestCheck_Faults(t *testing.T) {
	root := func(s *site) bool { return isRoot() }
	tests := map[string]struct {
		spoil func(*site)
		want  []string
		only  func(*site) bool // where it can be seen at all
	}{
		"no configuration": {spoil: func(s *site) { os.Remove(s.dir.Path(SysidFile)) }, want: []string{"error: /etc/sysid: there is no such file"}},
		"typo": {spoil: func(s *site) { s.replace(s.dir.Path(FsetdbFile), "device", "devise") },
			want: []string{"error: /etc/fsetdb:8:1: unknown key \"devise\" in [[fileset]] -- did you mean \"device\"?"}},
		"not built": {spoil: func(s *site) { s.replace(s.dir.Path(FsetdbFile), "channel", "permit = \"exclusive\"\nchannel") },
			want: []string{"error: /etc/fsetdb: fileset shared: permit = \"exclusive\" is not built"}},
		"unknown fileset asked": {spoil: func(s *site) { s.opts.Filesets = []string{"sharde"} }, want: []string{"error: /etc/fsetdb: there is no fileset \"sharde\" -- did you mean \"shared\"?"}},
		"no replicator":         {spoil: func(s *site) { s.edit(func(c *Config) error { c.Filesets[0].Replicators = nil; return nil }) }, want: []string{"warning: /etc/fsetdb: fileset shared has no replicator"}},
		"server among its replicators": {spoil: func(s *site) {
			s.edit(func(c *Config) error { c.Filesets[0].Replicators[0].Name = "iserver"; return nil })
		}, want: []string{"warning: /etc/fsetdb: fileset shared: its server iserver is among"}},
		"folder writable":     {spoil: func(s *site) { os.Chmod(string(s.dir), 0o777) }, want: []string{"error: /etc: others may write it (mode 0777)"}},
		"fsetdb writable":     {spoil: func(s *site) { os.Chmod(s.dir.Path(FsetdbFile), 0o664) }, want: []string{"error: /etc/fsetdb: others may write it"}},
		"invitations public":  {spoil: func(s *site) { s.write(s.dir.Path(InvitationsFile), "") }, want: []string{"error: /etc/invitations: others may read it (mode 0644), -- chmod 600"}},
		"invitations damaged": {spoil: func(s *site) { s.write(s.dir.Path(InvitationsFile), "x"); os.Chmod(s.dir.Path(InvitationsFile), 0o600) }, want: []string{"error: /etc/invitations:1:"}},
		"no key":              {spoil: func(s *site) { os.Remove(s.dir.Path(DefaultKeyFile)) }, want: []string{"error: /etc/key.pem: this host has no key -- `inconfig key` makes one"}},
		"key readable":        {spoil: func(s *site) { os.Chmod(s.dir.Path(DefaultKeyFile), 0o644) }, want: []string{"error: /etc/key.pem: the private key is readable by others -- chmod 600"}},
		"key damaged":         {spoil: func(s *site) { s.replace(s.dir.Path(DefaultKeyFile), "MC4C", "MC4D") }, want: []string{"error: /etc/key.pem: key /etc/key.pem: not a PKCS #8 key"}},
		"owner":               {spoil: func(s *site) { os.Chown(s.dir.Path(SysidFile), 12345, 0) }, want: []string{"error: /etc/sysid: it belongs to user 12345"}, only: root},
		"no device":           {spoil: func(s *site) { os.Remove(s.path("image")) }, want: []string{"error: /image: fileset shared: /image does not exist"}},
		"device is a pipe":    {spoil: func(s *site) { s.pipe(s.path("image")) }, want: []string{"error: /image: fileset shared: /image is neither a block device"}},
		"no cache": {spoil: func(s *site) { s.looked = errors.New(s.path("image") + ": not a cache: format it with mkizofs") },
			want: []string{"error: /image: not a cache: format it with mkizofs"}, only: root},
		"other fileset in the cache": {spoil: func(s *site) { s.view.Filesets = []CacheFileset{{Name: "share"}, {Name: "x"}} },
			want: []string{"error: /image: the cache has no fileset \"shared\"; it has share, x -- did you mean \"share\"?"}, only: root},
		"cache of a client": {spoil: func(s *site) { s.view.Filesets[0].Role = RoleClient },
			want: []string{"error: /image, fileset shared: by fsetdb this host is its server, but the cache was used as that of a client"}, only: root},
		"cache of another fileset": {spoil: func(s *site) {
			s.edit(func(c *Config) error { c.Filesets[0].UUID = NewUUID(); return nil })
			s.view.Filesets[0].UUID = NewUUID()
		}, want: []string{"error: /image, fileset shared: it is another fileset of the same name"}, only: root},
		"damaged fileset": {spoil: func(s *site) {
			s.served(0, "image")
			s.chans[0].Cache.Filesets[0].Damage = "log torn"
		}, want: []string{"error: /image, fileset shared: it is out of service: log torn"}},
		"channel of another cache": {spoil: func(s *site) { s.write(s.path("other"), "x"); s.served(0, "other") },
			want: []string{"error: channel 0: fileset shared wants it, and the cache /other uses it (process 42)"}},
		"on another channel": {spoil: func(s *site) { s.served(3, "image") }, want: []string{"warning: channel 3: the cache /image of fileset shared is served on it, and not on channel 0"}},
		"presto is stuck": {spoil: func(s *site) { s.chans = []ChannelView{{Channel: 7, PID: 42, Err: errors.New("no answer")}} },
			want: []string{"error: channel 7: process 42 listens on it and does not answer: no answer"}},
		"no mount point": {spoil: func(s *site) { os.Remove(s.path("mnt")) }, want: []string{"error: /mnt: the mount point of fileset shared does not exist -- mkdir -p /mnt"}},
		"mount point is a file": {spoil: func(s *site) { os.Remove(s.path("mnt")); s.write(s.path("mnt"), "") },
			want: []string{"error: /mnt: the mount point of fileset shared is not a folder"}},
		"mount point not empty": {spoil: func(s *site) { s.write(s.path("mnt/file"), "") }, want: []string{"warning: /mnt: the mount point of fileset shared is not empty; a mount will hide what is in it (file)"}},
		"something else mounted": {spoil: func(s *site) { s.mounts = []MountView{{"tmp", s.path("mnt"), "tmpfs"}} },
			want: []string{"warning: /mnt: fileset shared belongs here, and tmp (tmpfs) is mounted"}},
		"mounted from elsewhere": {spoil: func(s *site) {
			s.write(s.path("other"), "x")
			s.mounts = []MountView{{s.path("other"), s.path("mnt"), mountType}}
			s.served(1, "other")
		}, want: []string{"error: /mnt: fileset shared should be mounted from /image, and /other is"}},
		"dead mount": {spoil: func(s *site) { s.mounts = []MountView{{s.path("image"), s.path("mnt"), mountType}} },
			want: []string{"error: /mnt: fileset shared is mounted, and no presto in /run serves it"}},
		"run folder is a file":  {spoil: func(s *site) { os.Remove(s.path("run")); s.write(s.path("run"), "") }, want: []string{"error: /run: the run folder is not a folder"}},
		"run folder writable":   {spoil: func(s *site) { os.Chmod(s.path("run"), 0o777) }, want: []string{"error: /run: others may write the run folder"}},
		"run folder too long":   {spoil: func(s *site) { s.opts.Run = "/" + strings.Repeat("x", 103) }, want: []string{"its name is too long for the sockets in it: 109 characters of at most 107"}},
		"fstab typo":            {spoil: func(s *site) { s.fstab("cahce_type=ext3") }, want: []string{"error: /fstab:1: unknown mount option \"cahce_type=ext3\"; did you mean \"cache_type\"?"}},
		"fstab slash in mtpt":   {spoil: func(s *site) { s.replace(s.path("fstab"), "mtpt="+s.path("mnt"), "mtpt="+s.path("mnt")+"/") }, want: []string{"error: /fstab:1: mount option mtpt=/mnt/: must not have a slash at the end"}},
		"fstab slash":           {spoil: func(s *site) { s.replace(s.path("fstab"), s.path("mnt")+" ", s.path("mnt")+"/ ") }, want: []string{"error: /fstab:1: the mount point /mnt/ has a slash at the end"}},
		"fstab mtpt differs":    {spoil: func(s *site) { s.replace(s.path("fstab"), "mtpt="+s.path("mnt"), "mtpt=/elsewhere") }, want: []string{"error: /fstab:1: mount option mtpt=/elsewhere: the mount point is /mnt"}},
		"fstab device differs":  {spoil: func(s *site) { s.replace(s.path("fstab"), s.path("image"), "/dev/none") }, want: []string{"error: /fstab:1: the device of fileset shared is /dev/none in this line, and /image in fsetdb"}},
		"fstab channel differs": {spoil: func(s *site) { s.replace(s.path("fstab"), "intermezzo0", "intermezzo1") }, want: []string{"error: /fstab:1: fileset shared has channel 1 in this line, and 0 in fsetdb"}},
		"fstab fileset typo":    {spoil: func(s *site) { s.replace(s.path("fstab"), "fileset=shared", "fileset=sharde") }, want: []string{"error: /fstab:1: fileset \"sharde\" is not in fsetdb -- did you mean \"shared\"?"}},
		"fstab cache_type": {spoil: func(s *site) { s.write(s.path("image"), "XFSB") },
			want: []string{"error: /fstab:1: cache_type=ext3, and /image is xfs -- write cache_type=xfs"}},
		"fstab twice": {spoil: func(s *site) {
			text, _ := os.ReadFile(s.path("fstab"))
			s.write(s.path("fstab"), string(text)+string(text))
		}, want: []string{"error: /fstab:2: fileset shared has a line already: line 1"}},
		"fstab other file system": {spoil: func(s *site) {
			text, _ := os.ReadFile(s.path("fstab"))
			s.write(s.path("fstab"), string(text)+"/dev/sdb1 "+s.path("mnt")+" ext4 defaults 0 2\n")
		}, want: []string{"error: /fstab:2: /dev/sdb1 (ext4) is to be mounted on /mnt, where fileset shared belongs"}},
		"no interface": {spoil: func(s *site) { s.replace(s.dir.Path(SysidFile), "127.0.0.1:", "192.0.2.77:") }, want: []string{"error: address 192.0.2.77:"}},
		"cause before sequel": {spoil: func(s *site) {
			s.write(s.path("mnt/file"), "")
			os.Chmod(s.dir.Path(DefaultKeyFile), 0o644)
			os.Remove(s.path("image"))
			s.replace(s.path("fstab"), s.path("image"), "/dev/none")
		}, want: []string{"error: /etc/key.pem: the private key", "error: /image: fileset shared", "error: /fstab:1: the device", "warning: /mnt: the mount point"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if test.only != nil && !test.only(s) {
				t.Skip("not root")
			}
			test.spoil(s)
			got := s.serious()
			if len(got) != len(test.want) {
				t.Fatalf("want %d findings, got\n%s", len(test.want), strings.Join(got, "\n"))
			}
			for i, want := range test.want {
				for _, part := range strings.Split(want, ", -- ") {
					if !strings.Contains(got[i], part) {
						t.Errorf("want %q\n got %q", part, got[i])
					}
				}
			}
		})
	}
}

func (s *site) pipe(path string) {
	os.Remove(path)
	if err := mkfifo(path); err != nil {
		s.t.Fatal(err)
	}
}

// served has a presto serve the cache in a file on a channel.
func (s *site) served(channel int, file string) {
	s.chans = []ChannelView{{Channel: channel, PID: 42, Source: s.path(file), Cache: CacheView{Filesets: []CacheFileset{{Name: "shared"}}}}}
}

// reply is what a test server answers.
type reply struct {
	status int
	body   any
	date   time.Time
}

// serve answers with key until the test ends, and gives the address.
func serve(t *testing.T, key Key, r *reply) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), TLSConfig: ServerTLS(key, nil), Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !r.date.IsZero() {
			w.Header().Set("Date", r.date.UTC().Format(http.TimeFormat))
		}
		w.WriteHeader(r.status)
		json.NewEncoder(w).Encode(r.body)
	})}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return l.Addr().String()
}

// asClient makes s a client of a server at addresses.
func (s *site) asClient(fp Fingerprint, addresses ...string) {
	s.edit(func(c *Config) error {
		c.Servers = []Server{{Name: "far", Addresses: addresses, Fingerprint: fp}}
		c.Filesets[0].Server, c.Filesets[0].Replicators = "far", nil
		return nil
	})
}

func TestCheck_Server(t *testing.T) {
	key := mustKey(t)
	uuid := NewUUID()
	nobody := "127.0.0.1:" + freePort(t)
	tests := map[string]struct {
		reply reply
		setup func(s *site, address string)
		want  []string
	}{
		"in order":      {reply: reply{status: 200, body: map[string]string{"uuid": uuid.String()}}},
		"not granted":   {reply: reply{status: 403, body: map[string]string{"text": "no"}}, want: []string{"error: server far, fileset shared: the server does not grant it to this host's key, SHA256:"}},
		"not mounted":   {reply: reply{status: 503, body: map[string]string{"text": "not mounted"}}, want: []string{"warning: server far, fileset shared: it is not in service there: not mounted"}},
		"other fileset": {reply: reply{status: 200, body: map[string]string{"uuid": NewUUID().String()}}, want: []string{"error: server far, fileset shared: the server has another fileset of this name"}},
		"trouble":       {reply: reply{status: 500, body: map[string]string{"text": "disk"}}, want: []string{"error: server far, fileset shared: the server answers 500: disk"}},
		"clock ahead":   {reply: reply{status: 200, body: map[string]string{}, date: time.Now().Add(time.Hour)}, want: []string{"ahead of this host's; times"}},
		"clock behind":  {reply: reply{status: 200, body: map[string]string{}, date: time.Now().Add(-time.Minute)}, want: []string{"behind this host's; times"}},
		"absent": {setup: func(s *site, _ string) { s.asClient(key.Fingerprint(), nobody) },
			want: []string{"error: server far, " + nobody + ": it does not answer: connection refused -- check that lento runs on far"}},
		"one address absent": {reply: reply{status: 200, body: map[string]string{}}, setup: func(s *site, address string) { s.asClient(key.Fingerprint(), nobody, address) },
			want: []string{"warning: server far, " + nobody + ": it does not answer: connection refused -- remove it"}},
		"wrong key": {setup: func(s *site, address string) { s.asClient(mustPrint(s.t, testPrint), address) },
			want: []string{"pinned in serverdb is " + testPrint}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			address := serve(t, key, &test.reply)
			s.asClient(key.Fingerprint(), address)
			s.edit(func(c *Config) error { c.Filesets[0].UUID = uuid; return nil })
			if test.setup != nil {
				test.setup(s, address)
			}
			got := s.serious()
			if len(got) != len(test.want) {
				t.Fatalf("want %d findings, got\n%s", len(test.want), strings.Join(got, "\n"))
			}
			for i, want := range test.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("want %q\n got %q", want, got[i])
				}
			}
			s.opts.Offline = true
			if got := s.serious(); len(got) > 0 {
				t.Errorf("offline: %s", strings.Join(got, "\n"))
			}
		})
	}
}

func TestCheck_Port(t *testing.T) {
	s := newSite(t)
	own, err := s.dir.Key()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key  Key
		want string
	}{"ours": {own, ""}, "another program's": {mustKey(t), "another program listens on it"}} {
		address := serve(t, test.key, &reply{status: 200})
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		for _, bind := range []string{address, "0.0.0.0:" + port} {
			s.edit(func(c *Config) error { c.Sysid.Bind = []string{bind}; return nil })
			got := strings.Join(s.serious(), "\n")
			if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
}

func TestWorst(t *testing.T) {
	finding := func(s ...Severity) []Finding {
		return slices.Collect(func(yield func(Finding) bool) {
			for _, one := range s {
				if !yield(Finding{Severity: one}) {
					return
				}
			}
		})
	}
	for _, test := range []struct {
		in   []Finding
		want Severity
	}{
		{nil, ""},
		{finding(SeverityInfo), SeverityInfo},
		{finding(SeverityWarning, SeverityInfo), SeverityWarning},
		{finding(SeverityInfo, SeverityWarning, SeverityError), SeverityError},
	} {
		if got := Worst(test.in); got != test.want {
			t.Errorf("%v: %q", test.in, got)
		}
	}
}

func TestCacheType(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	for kind, image := range map[string]string{
		"": strings.Repeat("\x00", 70000), "ext4": strings.Repeat("\x00", 1080) + "\x53\xef", "xfs": "XFSB", "btrfs": strings.Repeat("\x00", 65600) + "_BHRfS_M",
	} {
		if err := os.WriteFile(path, []byte(image), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := CacheType(path); got != kind {
			t.Errorf("got %q, want %q", got, kind)
		}
	}
	if got := CacheType(path + "x"); got != "" {
		t.Error(got)
	}
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
