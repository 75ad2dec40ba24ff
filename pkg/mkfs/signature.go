package mkfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// signature recognises one kind of content by bytes at a fixed place.
type signature struct {
	what   string // "an xfs file system"
	offset int64  // from the beginning; if negative, from the end
	magic  string
}

const sector = 512

// signatures has what is recognised by its magic alone. The names are those that
// people know from blkid.
var signatures = [...]signature{
	{"a GPT partition table", sector, "EFI PART"},
	{"a GPT partition table", blockSize, "EFI PART"}, // of sectors of 4 KiB
	{"the backup of a GPT partition table", -sector, "EFI PART"},
	{"an Apple partition table", sector, "PM\x00\x00"},
	{"an xfs file system", 0, "XFSB"},
	{"a btrfs file system", 65536 + 64, "_BHRfS_M"},
	{"an ntfs file system", 3, "NTFS    "},
	{"an exfat file system", 3, "EXFAT   "},
	{"a vfat file system", 54, "FAT12   "},
	{"a vfat file system", 54, "FAT16   "},
	{"a vfat file system", 82, "FAT32   "},
	{"BitLocker encrypted data", 3, "-FVE-FS-"},
	{"LUKS encrypted data", 0, "LUKS\xba\xbe"},
	{"LUKS encrypted data", 16384, "SKUL\xba\xbe"}, // the second header
	{"dm-verity hashes", 0, "verity\x00\x00"},
	{"dm-integrity data", 0, "integrt\x00"},
	{"a Linux RAID member", 0, "\xfc\x4e\x2b\xa9"},         // version 1.1
	{"a Linux RAID member", blockSize, "\xfc\x4e\x2b\xa9"}, // version 1.2
	{"a squashfs file system", 0, "hsqs"},
	{"an erofs file system", 1024, "\xe2\xe1\xf5\xe0"},
	{"a cramfs file system", 0, "\x45\x3d\xcd\x28"},
	{"a romfs file system", 0, "-rom1fs-"},
	{"an iso9660 file system", 32768 + 1, "CD001"},
	{"a udf file system", 32768 + 1, "BEA01"},
	{"a udf file system", 32768 + 2048 + 1, "BEA01"},
	{"an f2fs file system", 1024, "\x10\x20\xf5\xf2"},
	{"a reiserfs file system", 65536 + 52, "ReIsEr"},
	{"a reiserfs file system", 8192 + 52, "ReIsEr"},
	{"a jfs file system", 32768, "JFS1"},
	{"an apfs container", 32, "NXSB"},
	{"an hfsplus file system", 1024, "H+\x00\x04"},
	{"an hfsplus file system", 1024, "HX\x00\x05"},
	{"a gfs2 file system", 65536, "\x01\x16\x19\x70"},
	{"an ocfs2 file system", 8192, "OCFSV2"},
	{"a nilfs2 file system", 1024 + 6, "\x34\x34"},
	{"a bcachefs file system or bcache device", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"a bcachefs file system or bcache device", 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{"a Stratis pool", sector + 4, "!Stra0tis\x86\xff\x02^\x41rh"},
	{"a VDO volume", 0, "dmvdo001"},
	{"a VMFS volume", 1048576, "\x0d\xd0\x01\xc0"},
	{"swap space", 4096 - 10, "SWAPSPACE2"},
	{"swap space", 8192 - 10, "SWAPSPACE2"},
	{"swap space", 16384 - 10, "SWAPSPACE2"},
	{"swap space", 65536 - 10, "SWAPSPACE2"},
	{"swap space", 4096 - 10, "SWAP-SPACE"},
	{"a hibernated system in swap space", 4096 - 10, "S1SUSPEND"},
	{"a hibernated system in swap space", 4096 - 10, "LINHIB0001"},
}

// recognise gives what r, of size bytes, contains as far as it is known, the
// outermost first, nothing twice.
func recognise(r io.ReaderAt, size int64) ([]string, error) {
	d := &disk{r: r, size: size}
	for _, s := range signatures {
		if d.has(s.offset, s.magic) {
			d.found(s.what)
		}
	}
	d.mbr()
	d.ext()
	d.lvm()
	d.raid()
	d.zfs()
	if d.err != nil {
		return nil, fmt.Errorf("look for signatures: %w", d.err)
	}
	return d.what, nil
}

// disk is a target that is looked at. The first error of reading stays.
type disk struct {
	r    io.ReaderAt
	size int64
	what []string
	err  error
}

func (d *disk) found(what string) {
	for _, w := range d.what {
		if w == what {
			return
		}
	}
	d.what = append(d.what, what)
}

// read gives n bytes at off, counted from the end if off is negative; nil if that
// is outside.
func (d *disk) read(off int64, n int) []byte {
	if off < 0 {
		off += d.size
	}
	if off < 0 || off+int64(n) > d.size || d.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, err := d.r.ReadAt(b, off); err != nil {
		d.err = err
		return nil
	}
	return b
}

func (d *disk) has(off int64, magic string) bool {
	return bytes.Equal(d.read(off, len(magic)), []byte(magic)) && len(magic) > 0
}

// mbr recognises a partition table in the first sector. Boot sectors of file
// systems end as one does, so its entries must make sense, and one be used.
func (d *disk) mbr() {
	b := d.read(0, sector)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa {
		return
	}
	used := false
	for i := range 4 {
		entry := b[446+16*i : 446+16*(i+1)]
		if entry[0] != 0 && entry[0] != 0x80 {
			return
		}
		used = used || entry[4] != 0 && binary.LittleEndian.Uint32(entry[12:]) != 0
	}
	if used {
		d.found("an MBR partition table")
	}
}

// ext tells ext2, ext3 and ext4 apart as blkid does: by the features.
func (d *disk) ext() {
	b := d.read(sbOffset, sbSize)
	if b == nil || binary.LittleEndian.Uint16(b[sbMagic:]) != ext4Magic {
		return
	}
	compat, incompat := binary.LittleEndian.Uint32(b[0x5c:]), binary.LittleEndian.Uint32(b[0x60:])
	const hasJournal, journalDevice, onlyExt4 = 0x4, 0x8, 0x40 | 0x80 | 0x200 // extents, 64bit, flex_bg
	name := "ext2"
	switch {
	case incompat&journalDevice != 0:
		d.found("an external ext4 journal")
		return
	case incompat&onlyExt4 != 0:
		name = "ext4"
	case compat&hasJournal != 0:
		name = "ext3"
	}
	what := "an " + name + " file system"
	if label := strings.TrimRight(string(b[sbLabel:sbLabel+sbLabelSize]), "\x00"); label != "" {
		what += fmt.Sprintf(" labelled %q", label)
	}
	d.found(what)
}

// lvm recognises a physical volume: its label is in one of the first four sectors.
func (d *disk) lvm() {
	for s := range int64(4) {
		if d.has(s*sector, "LABELONE") && d.has(s*sector+24, "LVM2 001") {
			d.found("an LVM physical volume")
		}
	}
}

// raid recognises a member whose superblock is near the end.
func (d *disk) raid() {
	const magic = "\xfc\x4e\x2b\xa9"
	atEnd := (d.size/sector - 16) &^ 7 * sector // version 1.0
	old := d.size&^65535 - 65536                // version 0.90
	if atEnd > 0 && d.has(atEnd, magic) || old > 0 && d.has(old, magic) {
		d.found("a Linux RAID member")
	}
}

// zfs recognises a pool member by an uberblock of its first label.
func (d *disk) zfs() {
	b := d.read(128<<10, 128<<10)
	for off := 0; off+8 <= len(b); off += 1024 {
		const magic = 0x00bab10c
		if binary.LittleEndian.Uint64(b[off:]) == magic || binary.BigEndian.Uint64(b[off:]) == magic {
			d.found("a member of a zfs pool")
			return
		}
	}
}

// blank tells whether nothing was ever written to r, as far as looking at both
// ends and at some places between them tells.
func blank(r io.ReaderAt, size int64) (bool, error) {
	const edge, samples = int64(1 << 20), 64
	if size <= 2*edge+samples*blockSize {
		return zeroAt(r, 0, size)
	}
	for _, off := range []int64{0, size - edge} {
		if ok, err := zeroAt(r, off, edge); !ok || err != nil {
			return ok, err
		}
	}
	for i := range int64(samples) {
		off := (edge + (size-2*edge)/samples*i) &^ (blockSize - 1)
		if ok, err := zeroAt(r, off, blockSize); !ok || err != nil {
			return ok, err
		}
	}
	return true, nil
}

func zeroAt(r io.ReaderAt, off, n int64) (bool, error) {
	b := make([]byte, n)
	if _, err := r.ReadAt(b, off); err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	return isZero(b), nil
}
