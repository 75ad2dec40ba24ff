package presto

import "sync"

const rootNode = 1 // FUSE's number of the root

// nodes turns handles into FUSE node ids and back. A handle with a 32-bit inode
// number is its node id, so that there is no table and FORGET is nothing; wide
// inode numbers (large XFS, old Btrfs) are in a small map, with ids whose lower
// half is zero, which no inode number is.
type nodes struct {
	root handle // of the fileset

	mu     sync.Mutex
	wide   map[handle]*wideNode
	byID   map[uint64]*wideNode
	nextID uint64
}

type wideNode struct {
	h       handle
	id      uint64
	lookups uint64
}

func newNodes(root handle) *nodes {
	return &nodes{root: root, wide: map[handle]*wideNode{}, byID: map[uint64]*wideNode{}}
}

// id is the node id of h. With lookup set the kernel is about to learn it, and
// will forget it once more.
func (n *nodes) id(h handle, lookup bool) uint64 {
	if h == n.root {
		return rootNode
	}
	if h.ino < 1<<32 {
		return uint64(h.gen)<<32 | h.ino
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.wide[h]
	if w == nil {
		n.nextID++
		w = &wideNode{h: h, id: n.nextID << 32}
		if !lookup {
			return w.id // a number that the kernel never saw and never will
		}
		n.wide[h], n.byID[w.id] = w, w
	}
	if lookup {
		w.lookups++
	}
	return w.id
}

// handle is the reverse of id; false if the kernel can't have this number.
func (n *nodes) handle(id uint64) (handle, bool) {
	if id == rootNode {
		return n.root, true
	}
	if id&0xffffffff != 0 {
		return handle{ino: id & 0xffffffff, gen: uint32(id >> 32)}, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.byID[id]; w != nil {
		return w.h, true
	}
	return handle{}, false
}

func (n *nodes) forget(id, count uint64) {
	if id == rootNode || id&0xffffffff != 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.byID[id]
	if w == nil {
		return
	}
	if w.lookups -= min(count, w.lookups); w.lookups == 0 {
		delete(n.byID, id)
		delete(n.wide, w.h)
	}
}
