package mkfs

import (
	"encoding/binary"
	"fmt"
)

// wipe makes an end of what was on the target: of everything that signatures
// are looked for in, and of the copies of superblocks that repair tools look for,
// so that none of them ever brings back what was there before.
func wipe(s *store) error {
	const edge = int64(1 << 20)
	if s.size <= 2*edge {
		return s.zero(0, s.size&^(sector-1))
	}
	type area struct{ off, length int64 }
	end := (s.size - edge) &^ (blockSize - 1)
	areas := []area{{0, edge}, {end, (s.size - end) &^ (sector - 1)}}
	// Btrfs has copies of its superblock at fixed places; VMFS begins at 1 MiB.
	for _, off := range []int64{edge, 64 << 20, 256 << 30} {
		if off+blockSize <= end {
			areas = append(areas, area{off, blockSize})
		}
	}
	for _, a := range areas {
		if err := s.zero(a.off, a.length); err != nil {
			return fmt.Errorf("wipe %s: %w", s.f.Name(), err)
		}
	}
	return wipeExtCopies(s)
}

// wipeExtCopies wipes the backup superblocks of an older ext file system, whatever
// its block size was: e2fsck tries those of small blocks first.
func wipeExtCopies(s *store) error {
	sb := make([]byte, sbSize)
	for size := int64(1 << 10); size <= 64<<10; size *= 2 {
		perGroup := size * size * 8 // a bitmap of one block
		first := int64(0)
		if size == 1<<10 {
			first = size // there the first block is for booting
		}
		for group := int64(1); group*perGroup+first+sbSize <= s.size; group++ {
			if !hasBackup(uint64(group)) {
				continue
			}
			off := group*perGroup + first
			if _, err := s.ReadAt(sb, off); err != nil {
				return fmt.Errorf("wipe %s: %w", s.f.Name(), err)
			}
			if binary.LittleEndian.Uint16(sb[sbMagic:]) != ext4Magic {
				continue
			}
			if err := s.zero(off, sbSize); err != nil {
				return fmt.Errorf("wipe %s: %w", s.f.Name(), err)
			}
		}
	}
	return nil
}
