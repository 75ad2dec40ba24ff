package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Names of the files in a configuration folder.
const (
	SysidFile       = "sysid"
	ServerdbFile    = "serverdb"
	FsetdbFile      = "fsetdb"
	InvitationsFile = "invitations"
	SettingsFile    = "settings"
	LockFile        = "lock"
)

// No file of a configuration is larger. It is far above what anybody needs, and
// keeps a wrong path (a device, a log) from filling the memory.
const (
	maxFileSize = 4 << 20
	maxKeySize  = 16 << 10
)

// Dir is a configuration folder. It need not exist yet. The folder that
// intersync keeps for a cache is one too.
type Dir string

// Path gives the path of a file of the folder.
func (d Dir) Path(name string) string { return filepath.Join(string(d), name) }

// Load reads the three databases. All faults are reported, joined, each a
// *Problem. A folder without a sysid is not configured: that error is
// fs.ErrNotExist. serverdb and fsetdb may be missing where there is nothing to
// say in them.
func (d Dir) Load() (*Config, error) {
	l := d.read()
	if err := errors.Join(l.problems...); err != nil {
		return nil, err
	}
	return &l.config, nil
}

// loaded is what was read from a folder, as far as it could be understood.
type loaded struct {
	config   Config
	docs     map[string]*document // by file name
	problems []error
	noSysid  bool // not there, which is a problem too
}

// read reads fsetdb first and sysid last, the reverse of the order in which
// they are written, so that what fsetdb refers to is there.
func (d Dir) read() *loaded {
	l := &loaded{docs: map[string]*document{}}
	for _, name := range []string{FsetdbFile, ServerdbFile, SysidFile} {
		doc, err := d.open(name)
		l.docs[name] = doc
		missing := errors.Is(err, fs.ErrNotExist)
		if err == nil || (missing && name != SysidFile) {
			continue // missing is as good as empty
		}
		l.noSysid = missing
		doc.unusable = true
		doc.problems = append(doc.problems, d.unreadable(name, err))
	}
	l.decode()
	return l
}

// decode makes the configuration out of the documents. A file that can't be
// understood at all causes no complaints about others.
func (l *loaded) decode() {
	sysid, serverdb, fsetdb := l.docs[SysidFile], l.docs[ServerdbFile], l.docs[FsetdbFile]
	if !sysid.unusable {
		l.config.Sysid = decodeSysid(sysid)
	}
	l.config.Servers = decodeServerdb(serverdb)
	l.config.Filesets = decodeFsetdb(fsetdb)
	if l.config.Sysid.Name != "" && !serverdb.unusable {
		crossCheck(&l.config, l.docs)
	}
	for _, doc := range []*document{sysid, serverdb, fsetdb} {
		l.problems = append(l.problems, doc.sorted()...)
	}
}

// open reads and parses a file. A file that can't be read gives an empty
// document beside the error.
func (d Dir) open(name string) (*document, error) {
	path := d.Path(name)
	data, err := readSmall(path)
	if err != nil {
		return parseDocument(path, nil), err
	}
	return parseDocument(path, data), nil
}

func (d Dir) unreadable(name string, err error) *Problem {
	p := &Problem{File: d.Path(name), Text: err.Error(), Err: err}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		p.Text = errno.Error()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Text = "there is no such file: this host is not configured"
		p.Fix = "run `inconfig init` on a server, `inconfig accept CODE` on a client"
	case errors.Is(err, fs.ErrPermission):
		p.Fix = "run this as root"
	}
	return p
}

// loadSysid reads only sysid. Its error is fs.ErrNotExist where there is none.
func (d Dir) loadSysid() (Sysid, error) {
	doc, err := d.open(SysidFile)
	if err != nil {
		return Sysid{}, d.unreadable(SysidFile, err)
	}
	sysid := decodeSysid(doc)
	if err := errors.Join(doc.problems...); err != nil {
		return Sysid{}, err
	}
	return sysid, nil
}

// readSmall reads a regular file of at most maxFileSize.
func readSmall(path string) ([]byte, error) {
	// O_NONBLOCK: a pipe in the place of the file must not hang the caller.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return readAtMost(f, maxFileSize)
}

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("larger than %d KiB, so not a file of this configuration", limit>>10)
	}
	return data, nil
}
