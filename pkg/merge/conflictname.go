package merge

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// ConflictName makes the name of our side of a conflict about name: it tells
// host and time, keeps the extension, and is at most kml.MaxName bytes long. n
// above 1 tells further ones apart. The stem is cut where it has to be, at a
// character.
func ConflictName(name, host, time string, n int) string {
	mark := fmt.Sprintf(" (conflict %s %s)", clean(host, 60), clean(time, 40))
	if n > 1 {
		mark = fmt.Sprintf(" (conflict %s %s %d)", clean(host, 60), clean(time, 40), n)
	}
	ext := extension(name)
	stem := strings.TrimSuffix(name, ext)
	return cut(stem, kml.MaxName-len(mark)-len(ext)) + mark + ext
}

// extension is what follows the last dot, two of them for what is compressed.
// A name that begins with its only dot has none.
func extension(name string) string {
	const longest = 16
	ext := path.Ext(name)
	if len(ext) < 2 || len(ext) == len(name) || len(ext) > longest || strings.Contains(ext, " ") {
		return ""
	}
	stem := strings.TrimSuffix(name, ext)
	if inner := path.Ext(stem); inner == ".tar" && len(inner) < len(stem) {
		return inner + ext
	}
	return ext
}

// clean makes s fit for a part of a name.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' || r == 0x7f {
			return '-'
		}
		return r
	}, s)
	return cut(s, most)
}

// cut shortens s to at most that many bytes, at a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}
