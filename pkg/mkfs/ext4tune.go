package mkfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Where the fields are that tuneExt4 reads or sets, in bytes from the beginning of
// the superblock.
const (
	sbOffset          = 1024 // of the primary superblock on the device
	sbSize            = 1024
	sbBlocksLo        = 0x04
	sbReservedLo      = 0x08
	sbBlocksPerGroup  = 0x20
	sbInodesPerGroup  = 0x28
	sbMountTime       = 0x2c
	sbMaxMountCount   = 0x36
	sbMagic           = 0x38
	sbErrors          = 0x3c
	sbGroupNumber     = 0x5a
	sbUUID            = 0x68
	sbLabel           = 0x78
	sbLabelSize       = 16
	sbLastMounted     = 0x88
	sbLastMountedSize = 64
	sbDescriptorSize  = 0xfe
	sbMountOptions    = 0x100
	sbJournalBackup   = 0x10c
	sbBlocksHi        = 0x150
	sbReservedHi      = 0x154
	sbMinExtraIsize   = 0x15c
	sbWantExtraIsize  = 0x15e
	sbFlags           = 0x160
	sbUserQuota       = 0x240
	sbGroupQuota      = 0x244
	sbLostFound       = 0x268
	sbChecksum        = 0x3fc
)

// The same for a group descriptor.
const (
	gdSize         = 64
	gdInodeTableLo = 0x08
	gdFreeInodesLo = 0x0e
	gdFlags        = 0x12
	gdUnusedLo     = 0x1c
	gdChecksum     = 0x1e
	gdInodeTableHi = 0x28
	gdFreeInodesHi = 0x2e
	gdUnusedHi     = 0x32
)

const (
	ext4Magic     = 0xef53
	errorsRO      = 2   // remount read-only on an error
	mountXattrACL = 0xc // default mount options user_xattr and acl
	signedHash    = 1   // names are hashed as signed characters
	inodeZeroed   = 4   // group flag: the inode table needs no zeroing by the kernel
	journalInode  = 8
	inodeBlocks   = 0x28 // i_block in an inode, 60 bytes
	inodeSizeLo   = 0x04
	inodeSizeHi   = 0x6c
)

// tuneExt4 finishes what go-diskfs made, so that it is as mke2fs makes it, and
// fit for us. The primary superblock and descriptors and all copies are set:
//   - inodes leave room for xattrs, where object ids are kept;
//   - the kernel knows that the inode tables are zero, and does not write them
//     all again behind the first mount, and e2fsck does not read them;
//   - an error makes it read-only, the number of mounts forces no check, some
//     blocks are reserved, and the journal's place is known twice.
func tuneExt4(s *store, label string) error {
	sb := make([]byte, sbSize)
	if _, err := s.ReadAt(sb, sbOffset); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	if binary.LittleEndian.Uint16(sb[sbMagic:]) != ext4Magic || binary.LittleEndian.Uint16(sb[sbDescriptorSize:]) != gdSize {
		return errors.New("read superblock: it is not the one that was written")
	}
	gdt, err := tuneDescriptors(s, sb)
	if err != nil {
		return err
	}
	if err := tuneSuperblock(s, sb, gdt, label); err != nil {
		return err
	}
	groups := uint64(len(gdt) / gdSize)
	for group := range groups {
		if !hasBackup(group) {
			continue
		}
		block := int64(group) * int64(binary.LittleEndian.Uint32(sb[sbBlocksPerGroup:]))
		at := block * blockSize
		if group == 0 {
			at = sbOffset
		}
		binary.LittleEndian.PutUint16(sb[sbGroupNumber:], uint16(group))
		binary.LittleEndian.PutUint32(sb[sbChecksum:], crc32c(^uint32(0), sb[:sbChecksum]))
		if _, err := s.WriteAt(sb, at); err != nil {
			return fmt.Errorf("write superblock of group %d: %w", group, err)
		}
		if _, err := s.WriteAt(gdt, (block+1)*blockSize); err != nil {
			return fmt.Errorf("write descriptors of group %d: %w", group, err)
		}
	}
	return nil
}

func tuneSuperblock(s *store, sb, gdt []byte, label string) error {
	le := binary.LittleEndian
	reserved := wide(le.Uint32(sb[sbBlocksLo:]), le.Uint32(sb[sbBlocksHi:])) * reservedPercent / 100
	le.PutUint32(sb[sbReservedLo:], uint32(reserved))
	le.PutUint32(sb[sbReservedHi:], uint32(reserved>>32))
	le.PutUint32(sb[sbMountTime:], 0)
	le.PutUint16(sb[sbMaxMountCount:], ^uint16(0)) // -1: never
	le.PutUint16(sb[sbErrors:], errorsRO)
	le.PutUint32(sb[sbMountOptions:], mountXattrACL)
	le.PutUint16(sb[sbMinExtraIsize:], extraIsize)
	le.PutUint16(sb[sbWantExtraIsize:], extraIsize)
	le.PutUint32(sb[sbFlags:], le.Uint32(sb[sbFlags:])|signedHash)
	for _, unused := range []int{sbUserQuota, sbGroupQuota, sbLostFound} {
		le.PutUint32(sb[unused:], 0)
	}
	clear(sb[sbLastMounted : sbLastMounted+sbLastMountedSize])
	clear(sb[sbLabel : sbLabel+sbLabelSize])
	copy(sb[sbLabel:sbLabel+sbLabelSize], label)

	journal := make([]byte, inodeSize)
	table := wide(le.Uint32(gdt[gdInodeTableLo:]), le.Uint32(gdt[gdInodeTableHi:]))
	if _, err := s.ReadAt(journal, int64(table)*blockSize+(journalInode-1)*inodeSize); err != nil {
		return fmt.Errorf("read journal inode: %w", err)
	}
	backup := sb[sbJournalBackup : sbJournalBackup+68]
	copy(backup, journal[inodeBlocks:inodeBlocks+60])
	copy(backup[60:], journal[inodeSizeHi:inodeSizeHi+4])
	copy(backup[64:], journal[inodeSizeLo:inodeSizeLo+4])
	return nil
}

// tuneDescriptors gives the group descriptors as they should be.
func tuneDescriptors(s *store, sb []byte) ([]byte, error) {
	le := binary.LittleEndian
	blocks := wide(le.Uint32(sb[sbBlocksLo:]), le.Uint32(sb[sbBlocksHi:]))
	perGroup := uint64(le.Uint32(sb[sbBlocksPerGroup:]))
	inodes := le.Uint32(sb[sbInodesPerGroup:])
	if perGroup == 0 {
		return nil, errors.New("read superblock: it has no blocks per group")
	}
	gdt := make([]byte, (blocks+perGroup-1)/perGroup*gdSize)
	if _, err := s.ReadAt(gdt, blockSize); err != nil {
		return nil, fmt.Errorf("read group descriptors: %w", err)
	}
	seed := crc32c(^uint32(0), sb[sbUUID:sbUUID+16])
	for i := range len(gdt) / gdSize {
		gd := gdt[i*gdSize : (i+1)*gdSize]
		// Inodes are given out from the lowest on, so all that are free are at the end.
		unused := uint32(le.Uint16(gd[gdFreeInodesLo:])) | uint32(le.Uint16(gd[gdFreeInodesHi:]))<<16
		if unused > inodes {
			return nil, fmt.Errorf("group %d has %d free inodes of %d", i, unused, inodes)
		}
		le.PutUint16(gd[gdFlags:], le.Uint16(gd[gdFlags:])|inodeZeroed)
		le.PutUint16(gd[gdUnusedLo:], uint16(unused))
		le.PutUint16(gd[gdUnusedHi:], uint16(unused>>16))
		le.PutUint16(gd[gdChecksum:], descriptorChecksum(gd, uint32(i), seed))
	}
	return gdt, nil
}

// descriptorChecksum covers the number of the group and its descriptor without
// the checksum itself.
func descriptorChecksum(gd []byte, group, seed uint32) uint16 {
	c := crc32c(seed, binary.LittleEndian.AppendUint32(nil, group))
	c = crc32c(c, gd[:gdChecksum])
	c = crc32c(c, []byte{0, 0})
	return uint16(crc32c(c, gd[gdChecksum+2:]))
}

// crc32c goes on from c as the kernel does, without the inversions that are
// usual before and after.
func crc32c(c uint32, b []byte) uint32 {
	return ^crc32.Update(^c, crc32.MakeTable(crc32.Castagnoli), b)
}

// hasBackup tells whether a group has a copy of the superblock: 0, 1 and the
// powers of 3, 5 and 7.
func hasBackup(group uint64) bool {
	if group <= 1 {
		return true
	}
	for _, p := range []uint64{3, 5, 7} {
		n := group
		for n%p == 0 {
			n /= p
		}
		if n == 1 {
			return true
		}
	}
	return false
}

func wide(lo, hi uint32) uint64 { return uint64(hi)<<32 | uint64(lo) }
