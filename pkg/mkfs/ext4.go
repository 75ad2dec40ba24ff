package mkfs

import (
	"context"
	"fmt"

	"github.com/diskfs/go-diskfs/filesystem/ext4"
	"github.com/google/uuid"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

const (
	blockSize = 4096
	inodeSize = 256
	// blocksPerGroup is what one block of bitmap covers.
	blocksPerGroup = 8 * blockSize
	// extraIsize is how much of an inode beyond the first 128 bytes the kernel
	// uses itself. What is left has the xattrs of an object without a block.
	extraIsize = 32
	// reservedPercent of the blocks are for root, as mke2fs reserves them.
	reservedPercent = 5
	journalMin      = 4 << 20
	journalMax      = 128 << 20
)

// geometry is what the ext4 is to be like, whichever engine makes it.
type geometry struct {
	size       int64 // bytes, a multiple of blockSize
	inodeRatio int64 // bytes per inode
	label      string
	uuid       kml.UUID
}

// planGeometry chooses the geometry for a device of size bytes. Small ones get
// more inodes per byte, because a small cache is full of small files too.
func planGeometry(size int64, label string, id kml.UUID) geometry {
	g := geometry{size: size &^ (blockSize - 1), inodeRatio: 16384, label: label, uuid: id}
	switch {
	case size < 512<<20:
		g.inodeRatio = 4096
	case size < 4<<30:
		g.inodeRatio = 8192
	}
	return g.trim()
}

// trim leaves out a last block group that is too small for what can lie in it: a
// copy of the descriptors, and the inode table.
func (g geometry) trim() geometry {
	blocks := g.size / blockSize
	tail := blocks % blocksPerGroup
	table := blocksPerGroup * blockSize / g.inodeRatio * inodeSize / blockSize
	copies := (blocks/blocksPerGroup+1)*gdSize/blockSize + 1
	if blocks > blocksPerGroup && tail < table+copies+64 {
		g.size = (blocks - tail) * blockSize
	}
	return g
}

// work estimates how many bytes making g writes or zeroes.
func (g geometry) work() int64 {
	return g.inodes()*inodeSize + g.journal()
}

// journal is the size of the journal in bytes.
func (g geometry) journal() int64 {
	return min(max(g.size/32, journalMin), journalMax)
}

// inodes is about how many objects there can be.
func (g geometry) inodes() int64 { return g.size / g.inodeRatio }

// createExt4 makes the file system with go-diskfs. Nothing else of that library
// is used: what it writes into an existing file system is not sound. It is behind
// this function to be exchanged for another maker.
func createExt4(s *store, g geometry) error {
	err := libraryCreate(s, g)
	if s.ctx.Err() != nil { // the library does not keep the cause in its error
		return context.Cause(s.ctx)
	}
	if err == nil {
		err = tuneExt4(s, g.label)
	}
	if err != nil {
		return fmt.Errorf("make ext4 on %s: %w", s.f.Name(), err)
	}
	return nil
}

// libraryCreate calls the library. It has been seen to panic on what it did not
// expect, which must not leave a user with a stack trace.
func libraryCreate(s *store, g geometry) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the built-in engine broke down (%v); use --engine %s", p, EngineE2fsprogs)
		}
	}()
	id := uuid.UUID(g.uuid)
	_, err = ext4.Create(s, g.size, 0, sector, &ext4.Params{
		UUID:            &id,
		SectorsPerBlock: blockSize / sector,
		InodeRatio:      g.inodeRatio,
		VolumeName:      "-", // tuneExt4 sets the label: the library takes no text but ASCII
		Features: []ext4.FeatureOpt{
			ext4.WithFeatureHasJournal(true),
			ext4.WithFeatureExtents(true),
			ext4.WithFeatureFS64Bit(true),
			ext4.WithFeatureMetadataChecksums(true),
			ext4.WithFeatureDirectoryIndices(true),
			ext4.WithFeatureFlexBlockGroups(true),
			ext4.WithFeatureLargeSubdirectoryCount(true),
			ext4.WithFeatureLargeInodes(true),
			// Its resize inode is only sound with blocks of 1 KiB.
			ext4.WithFeatureReservedGDTBlocksForExpansion(false),
		},
	})
	return err
}
