package transport

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// enableParameter is where the administrator allows FUSE over io_uring.
const enableParameter = "/sys/module/fuse/parameters/enable_uring"

// negotiate reads the kernel's INIT and replies. If io_uring comes of it, s.rings
// is there, ready to be registered; else s.why says why not.
func (s *Server) negotiate(fd int, o *Options) (sizes, error) {
	if err := unix.SetNonblock(fd, false); err != nil {
		return sizes{}, fmt.Errorf("use descriptor of /dev/fuse: %w", err)
	}
	s.engine = newEngine(s.fs, o, s.log)
	first, err := newBuffer(sizesFor(minReadBytes, 0))
	if err != nil {
		return sizes{}, err
	}
	defer first.free()
	d := &device{e: s.engine, fd: fd}
	n, err := d.read(first)
	if errors.Is(err, errUnmounted) {
		return sizes{}, errors.New("wait for INIT: unmounted before it was served")
	}
	if err != nil {
		return sizes{}, fmt.Errorf("wait for INIT: %w", err)
	}
	h := *header(first.request())
	if h.Opcode != opInit {
		return sizes{}, fmt.Errorf("wait for INIT: the first request is %d; the descriptor was served before", h.Opcode)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&s.init)), unsafe.Sizeof(s.init)), first.request()[:n])
	m := s.engine.answer(s.engine.newSlot(), &h, [][]byte{first.request()[:n]}, [][]byte{first.reply()})
	out, err := initReply(first.reply()[:m])
	if err != nil {
		write(fd, first.reply()[:m])
		return sizes{}, err
	}
	size := sizesFor(int(out.MaxWrite), int(out.MaxPages))
	s.why = s.prepareRings(fd, o, out, size)
	if s.rings == nil {
		out.Flags2 &^= fuse.CAP_OVER_IO_URING >> 32
	}
	if errno := write(fd, first.reply()[:m]); errno != 0 {
		return sizes{}, fmt.Errorf("reply to INIT: %w", errno)
	}
	return size, nil
}

// initReply finds the reply to INIT in what is to be sent.
func initReply(b []byte) (*fuse.InitOut, error) {
	if len(b) < outHeaderBytes {
		return nil, errors.New("reply to INIT: none was made")
	}
	if st := (*fuse.OutHeader)(unsafe.Pointer(&b[0])).Status; st != 0 {
		return nil, fmt.Errorf("reply to INIT: %w: the kernel's version of FUSE does not fit", unix.Errno(-st))
	}
	if len(b) < outHeaderBytes+int(unsafe.Sizeof(fuse.InitOut{})) {
		return nil, errors.New("reply to INIT: this kernel's FUSE is older than 7.23, of Linux 3.15")
	}
	return (*fuse.InitOut)(unsafe.Pointer(&b[outHeaderBytes])), nil
}

// prepareRings makes everything of io_uring that can be made before the kernel is
// told that it will be used: from then on it waits for it. It returns why there is
// none.
func (s *Server) prepareRings(fd int, o *Options, out *fuse.InitOut, size sizes) string {
	if o.Force == LinkDevFuse {
		return LinkDevFuse + " is forced"
	}
	if out.Flags64()&fuse.CAP_OVER_IO_URING == 0 {
		return whyNotOffered(s.init.Flags64())
	}
	cpus, err := possibleCPUs()
	if err != nil {
		return err.Error()
	}
	r, err := newRings(s.engine, fd, cpus, size, o.limits.orDefaults())
	if err != nil {
		return err.Error()
	}
	s.rings = r
	return ""
}

func whyNotOffered(offered uint64) string {
	if offered&fuse.CAP_OVER_IO_URING != 0 {
		return "it is among the disabled capabilities"
	}
	v, err := os.ReadFile(enableParameter)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "the kernel has no FUSE over io_uring (Linux 6.14 with CONFIG_FUSE_IO_URING has)"
	case err != nil:
		return "the kernel does not offer it: " + err.Error()
	case strings.HasPrefix(string(v), "N"):
		return "the kernel has it switched off; echo Y >" + enableParameter + " before mounting, or fuse.enable_uring=1 at boot, switches it on"
	}
	return "the kernel does not offer it for this mount"
}

// possibleCPUs counts the CPUs that the kernel wants a queue for.
func possibleCPUs() (int, error) {
	const file = "/sys/devices/system/cpu/possible"
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	n, err := countList(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("count CPUs in %s: %w", file, err)
	}
	return n, nil
}

// countList counts the numbers in a list like 0-3,8.
func countList(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		var first, last int
		if _, err := fmt.Sscanf(part, "%d-%d", &first, &last); err != nil {
			if _, err := fmt.Sscanf(part, "%d", &first); err != nil {
				return 0, fmt.Errorf("%q is no list of numbers", list)
			}
			last = first
		}
		if last < first || last-first >= 1<<16 {
			return 0, fmt.Errorf("%q is no list of numbers", list)
		}
		n += last - first + 1
	}
	return n, nil
}
