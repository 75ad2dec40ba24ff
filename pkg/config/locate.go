package config

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// position is a place in a file, both counted from 1, columns in characters.
// The zero position is "unknown".
type position struct{ line, col int }

// positionAt gives the place of a byte offset.
func positionAt(data []byte, offset int) position {
	before := data[:min(max(offset, 0), len(data))]
	begin := bytes.LastIndexByte(before, '\n') + 1
	return position{line: bytes.Count(before, []byte{'\n'}) + 1, col: utf8.RuneCount(before[begin:]) + 1}
}

// locate finds where each table and key of a TOML document begins. A path names
// one: "server[1].name" is a key of the second [[server]], "server[1]" its
// header. What lies inside an inline table or an array is not told apart.
//
// The TOML package knows positions too, but keeps one for each name, so it
// mixes up the elements of an array of tables. locate is run on documents that
// package has accepted, and only has to find its way in those.
func locate(data []byte) map[string]position {
	l := &locator{data: data, found: map[string]position{}, arrays: map[string]int{}}
	for l.skipBlank(); l.pos < len(l.data); l.skipBlank() {
		if l.data[l.pos] == '[' {
			l.header()
		} else {
			l.keyValue()
		}
	}
	return l.found
}

type locator struct {
	data   []byte
	pos    int
	table  string // path of the table that keys belong to now
	found  map[string]position
	arrays map[string]int // index of the last element, by path without own index

	counted, lines int // line ends before counted
}

func (l *locator) note(path string, at int) {
	if _, ok := l.found[path]; ok {
		return
	}
	l.lines += bytes.Count(l.data[l.counted:at], []byte{'\n'}) // at only grows
	l.counted = at
	begin := bytes.LastIndexByte(l.data[:at], '\n') + 1
	l.found[path] = position{line: l.lines + 1, col: utf8.RuneCount(l.data[begin:at]) + 1}
}

func (l *locator) peek(s string) bool { return bytes.HasPrefix(l.data[l.pos:], []byte(s)) }

// skipBlank skips white space, line ends and comments.
func (l *locator) skipBlank() {
	for l.pos < len(l.data) {
		switch l.data[l.pos] {
		case ' ', '\t', '\r', '\n':
			l.pos++
		case '#':
			l.skipLine()
		default:
			if !l.peek("\ufeff") {
				return
			}
			l.pos += len("\ufeff")
		}
	}
}

func (l *locator) skipLine() {
	if n := bytes.IndexByte(l.data[l.pos:], '\n'); n >= 0 {
		l.pos += n + 1
		return
	}
	l.pos = len(l.data)
}

// header reads [a.b] or [[a.b]] and makes it the current table.
func (l *locator) header() {
	at, array := l.pos, l.peek("[[")
	l.pos++
	if array {
		l.pos++
	}
	parts := l.key()
	l.skipLine()
	path := ""
	for i, part := range parts {
		path = join(path, part)
		n, isArray := l.arrays[path]
		if array && i == len(parts)-1 {
			if isArray {
				n++
			}
			l.arrays[path], isArray = n, true
		}
		if isArray {
			path = element(path, n)
		}
	}
	l.table = path
	l.note(path, at)
}

func (l *locator) keyValue() {
	at := l.pos
	parts := l.key()
	path := l.table
	for _, part := range parts {
		path = join(path, part)
		l.note(path, at)
	}
	if n := bytes.IndexByte(l.data[l.pos:], '='); n >= 0 {
		l.pos += n + 1
	}
	l.value()
	if l.pos == at { // not TOML; never stand still
		l.skipLine()
	}
}

// key reads a bare, quoted or dotted key up to "=", "]" or the end of the line.
func (l *locator) key() []string {
	var parts []string
	for l.pos < len(l.data) {
		switch c := l.data[l.pos]; c {
		case ' ', '\t', '.':
			l.pos++
		case '"', '\'':
			parts = append(parts, l.quoted())
		case '=', ']', '\r', '\n', '#':
			return parts
		default:
			from := l.pos
			for l.pos < len(l.data) && !strings.ContainsRune(" \t.=]\r\n#\"'", rune(l.data[l.pos])) {
				l.pos++
			}
			parts = append(parts, string(l.data[from:l.pos]))
		}
	}
	return parts
}

// quoted reads a string and gives what is between the quotes; escapes are
// resolved as far as Go and TOML agree on them.
func (l *locator) quoted() string {
	from := l.pos
	l.skipString()
	raw := string(l.data[from:l.pos])
	if s, err := strconv.Unquote(raw); err == nil && raw[0] == '"' {
		return s
	}
	return strings.Trim(raw, `"'`)
}

// skipString skips a string of any of the four kinds.
func (l *locator) skipString() {
	quote := l.data[l.pos : l.pos+1]
	end, multi := quote, bytes.Repeat(quote, 3)
	if l.peek(string(multi)) {
		end = multi
	}
	l.pos += len(end)
	for l.pos < len(l.data) {
		switch {
		case l.data[l.pos] == '\\' && quote[0] == '"':
			l.pos = min(l.pos+2, len(l.data))
		case l.peek(string(end)):
			l.pos += len(end)
			for len(end) == 3 && l.peek(string(quote)) { // """x""""" ends with quotes of its own
				l.pos++
			}
			return
		case l.data[l.pos] == '\n' && len(end) == 1:
			return
		default:
			l.pos++
		}
	}
}

// value skips a value: up to the end of the line on which all brackets are
// closed.
func (l *locator) value() {
	for depth := 0; l.pos < len(l.data); {
		switch l.data[l.pos] {
		case '"', '\'':
			l.skipString()
			continue
		case '#':
			l.skipLine()
			if depth <= 0 {
				return
			}
			continue
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case '\n':
			if depth <= 0 {
				return
			}
		}
		l.pos++
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func element(path string, n int) string { return path + "[" + strconv.Itoa(n) + "]" }
