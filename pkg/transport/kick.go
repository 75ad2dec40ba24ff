package transport

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kickUnique marks requests that we had the kernel send; its own ids are far below.
const kickUnique = 1 << 62

// kick has the kernel send a request to this CPU, so that a reply can be made:
// that fetches what waited already when an entry was registered. The request is
// the answer to a question for no content of a node, which must be a regular file
// that the kernel knows (older kernels take any node). A file that is in a request
// now is certain to be known, cause first; the others most likely are. Where no file
// at all is known, what waits is fetched only by the next reply on this CPU.
func (w *worker) kick(cause uint64) {
	r := w.q.r
	if r.ask(cause) {
		return
	}
	if slices.ContainsFunc(r.e.nodesUnderWay(), r.ask) {
		return
	}
	for i := range r.files {
		node := r.files[i].Load()
		if r.ask(node) {
			return
		}
		r.files[i].CompareAndSwap(node, 0)
	}
	r.e.log.Debug("no file to ask the kernel for", "cpu", w.q.id)
}

// ask reports whether the kernel will send a request for node.
func (r *rings) ask(node uint64) bool {
	if node == 0 {
		return false
	}
	out := fuse.NotifyRetrieveOut{NotifyUnique: kickUnique + 2*r.kicks.Add(1), Nodeid: node}
	return write(r.fd, notification(fuse.NOTIFY_RETRIEVE_CACHE, bytesOf(&out), nil)) == 0
}

// kicked replies to the request that kick asked for. If that fetched another one,
// there may be more.
func (w *worker) kicked(e *entry, node uint64) {
	w.commit(e, 0)
	w.flush()
	if _, more := w.ring.find(uint64(e.index)); more && w.q.idle.Load() > 1 {
		w.kick(node)
	}
}

// knownFiles are nodes of some regular files that the kernel knows. One is kept
// until the kernel forgets it, since files that stay are better than new ones.
type knownFiles [64]atomic.Uint64

func (k *knownFiles) place(node uint64) *atomic.Uint64 { return &k[node%uint64(len(k))] }

func (k *knownFiles) note(node uint64) {
	if p := k.place(node); p.Load() == 0 {
		p.Store(node)
	}
}

func (k *knownFiles) forget(node uint64) { k.place(node).CompareAndSwap(node, 0) }

// noteReply learns from the payload of a reply.
func (k *knownFiles) noteReply(h *fuse.InHeader, reply []byte) {
	switch h.Opcode {
	case opLookup, opCreate:
		if len(reply) < int(unsafe.Sizeof(fuse.EntryOut{})) {
			return
		}
		if e := (*fuse.EntryOut)(unsafe.Pointer(&reply[0])); e.NodeId != 0 && e.Mode&unix.S_IFMT == unix.S_IFREG {
			k.note(e.NodeId)
		}
	case opOpen, opRead, opWrite: // of regular files only
		k.note(h.NodeId)
	}
}

// noteForgotten learns from a FORGET or BATCH_FORGET.
func (k *knownFiles) noteForgotten(request []byte) {
	h, rest := header(request), request[inHeaderBytes:]
	switch h.Opcode {
	case opForget:
		k.forget(h.NodeId)
	case opBatchForget:
		const headBytes, oneBytes = 8, 16 // count and padding; node and number of look-ups
		for rest = rest[min(headBytes, len(rest)):]; len(rest) >= oneBytes; rest = rest[oneBytes:] {
			k.forget(binary.NativeEndian.Uint64(rest))
		}
	}
}
