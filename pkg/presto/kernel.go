package presto

import (
	"github.com/hanwen/go-fuse/v2/fuse"
)

// kernelCaches tells the kernel what it may not believe any longer. Its calls
// wait for the kernel's inode locks: never with a lock of ours, never from a
// request.
type kernelCaches struct {
	server *fuse.Server
	nodes  *nodes
}

// entry makes the kernel forget a directory entry.
func (k *kernelCaches) entry(e dirent) {
	if k == nil {
		return
	}
	k.server.EntryNotify(k.nodes.id(e.parent, false), e.name)
}

// content makes the kernel forget pages and attributes of an inode.
func (k *kernelCaches) content(h handle) {
	if k == nil {
		return
	}
	k.server.InodeNotify(k.nodes.id(h, false), 0, 0)
}

// attributes makes the kernel forget the attributes of an inode.
func (k *kernelCaches) attributes(h handle) {
	if k == nil {
		return
	}
	k.server.InodeNotify(k.nodes.id(h, false), -1, 0)
}

func (fs *fileset) isHot(e dirent) bool {
	fs.hotMu.Lock()
	defer fs.hotMu.Unlock()
	return len(fs.hot) > 0 && fs.hot[e] > 0
}

// heat marks names that are about to change and has the kernel forget them.
// From here to cool the kernel asks for them each time, and waits with the
// answer while the change is under way: nobody sees the old name and the new.
func (fs *fileset) heat(names []dirent) {
	fs.hotMu.Lock()
	for _, e := range names {
		fs.hot[e]++
	}
	fs.hotMu.Unlock()
	for _, e := range names {
		fs.kernel.entry(e)
	}
}

func (fs *fileset) cool(names []dirent) {
	fs.hotMu.Lock()
	defer fs.hotMu.Unlock()
	for _, e := range names {
		if fs.hot[e]--; fs.hot[e] <= 0 {
			delete(fs.hot, e)
		}
	}
}
