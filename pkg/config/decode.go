package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// document is a parsed file that has not been judged yet. Faults are collected
// in problems.
//
// It is decoded into a map, not into a struct, so that all faults are found in
// one go (the struct decoder stops at the first value of a wrong type), so that
// each has its own place, and so that keys are compared exactly (the struct
// decoder takes "NAME" for "name").
type document struct {
	path     string
	data     []byte
	root     map[string]any
	places   map[string]position
	problems []error
	unusable bool // can't be read, or is no TOML
}

func parseDocument(path string, data []byte) *document {
	doc := &document{path: path, data: data, root: map[string]any{}}
	if _, err := toml.Decode(string(data), &doc.root); err != nil {
		doc.root, doc.unusable = map[string]any{}, true
		doc.syntax(err)
		return doc
	}
	doc.places = locate(data)
	return doc
}

func (doc *document) syntax(err error) {
	p := &Problem{File: doc.path, Text: err.Error(), Err: err}
	var parse toml.ParseError
	if errors.As(err, &parse) {
		p.Text = strings.TrimSuffix(parse.Message, ".")
		// Of what the package tells, the offset is right; its line is that of the
		// next character.
		at := positionAt(doc.data, parse.Position.Start)
		p.Line, p.Col, p.Source = at.line, at.col, doc.line(at.line)
	}
	doc.problems = append(doc.problems, p)
}

func (doc *document) line(n int) string {
	lines := strings.Split(string(doc.data), "\n")
	if n < 1 || n > len(lines) {
		return ""
	}
	return strings.TrimRight(lines[n-1], "\r")
}

// complain notes a problem at a path of the document. A path that has no place
// of its own is at that of what it is in.
func (doc *document) complain(path, text, fix string) {
	p := &Problem{File: doc.path, Text: text, Fix: fix}
	for {
		at, ok := doc.places[path]
		if !ok {
			at, ok = doc.places[element(path, 0)]
		}
		if ok {
			p.Line, p.Col, p.Source = at.line, at.col, doc.line(at.line)
			break
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			break
		}
		path = path[:cut]
	}
	doc.problems = append(doc.problems, p)
}

// sorted gives the problems in the order of the file.
func (doc *document) sorted() []error {
	place := func(err error) (line, col int) {
		if p, ok := err.(*Problem); ok {
			return p.Line, p.Col
		}
		return 0, 0
	}
	slices.SortStableFunc(doc.problems, func(a, b error) int {
		lineA, colA := place(a)
		lineB, colB := place(b)
		return cmp.Or(cmp.Compare(lineA, lineB), cmp.Compare(colA, colB))
	})
	return doc.problems
}

// table reads one table of a document key by key. close reports the keys that
// nobody asked for.
type table struct {
	doc    *document
	path   string // "" at the top
	label  string // how messages name it
	values map[string]any
	asked  []string
	hints  map[string]string // what people write instead, to what it is here
}

func (doc *document) top(hints map[string]string) *table {
	return &table{doc: doc, label: "the file", values: doc.root, hints: hints}
}

func (t *table) at(key string) string { return join(t.path, key) }

func (t *table) complain(key, text, fix string) { t.doc.complain(t.at(key), text, fix) }

func (t *table) has(key string) bool {
	_, ok := t.values[key]
	return ok
}

func (t *table) take(key string) (any, bool) {
	t.asked = append(t.asked, key)
	v, ok := t.values[key]
	return v, ok
}

func (t *table) wrongType(key, want string, v any) {
	t.complain(key, fmt.Sprintf("%s must be %s, not %s", key, want, tomlType(v)), "")
}

// text reads a string, fallback where there is none.
func (t *table) text(key, fallback string) string {
	v, ok := t.take(key)
	if !ok {
		return fallback
	}
	s, ok := v.(string)
	if !ok {
		t.wrongType(key, "a string", v)
		return fallback
	}
	return s
}

// required reads a string that must be there and not be empty.
func (t *table) required(key, fix string) string {
	if !t.has(key) {
		t.asked = append(t.asked, key)
		t.doc.complain(t.path, fmt.Sprintf("%s has no %s", t.label, key), fix)
		return ""
	}
	s := t.text(key, "")
	if _, isText := t.values[key].(string); isText && s == "" {
		t.complain(key, key+" is empty", fix)
	}
	return s
}

// choice reads a string that must be one of values; the first is the default.
func (t *table) choice(key string, values ...string) string {
	s := t.text(key, values[0])
	if slices.Contains(values, s) {
		return s
	}
	fix := didYouMean(s, values)
	if fix == "" {
		fix = "use " + quotedList(values)
	}
	t.complain(key, fmt.Sprintf("%s can't be %q", key, s), fix)
	return values[0]
}

func (t *table) integer(key string, low, high, fallback int) int {
	v, ok := t.take(key)
	if !ok {
		return fallback
	}
	n, ok := v.(int64)
	if !ok {
		t.wrongType(key, "a whole number", v)
		return fallback
	}
	if n < int64(low) || n > int64(high) {
		t.complain(key, fmt.Sprintf("%s = %d is out of range", key, n), fmt.Sprintf("use %d to %d", low, high))
		return fallback
	}
	return int(n)
}

// list reads an array of strings.
func (t *table) list(key string) []string {
	v, ok := t.take(key)
	if !ok {
		return nil
	}
	elements, ok := v.([]any)
	if !ok {
		t.wrongType(key, "an array of strings", v)
		return nil
	}
	var out []string
	for _, e := range elements {
		s, ok := e.(string)
		if !ok {
			t.complain(key, fmt.Sprintf("%s must hold strings, not %s", key, tomlType(e)), "")
			continue
		}
		out = append(out, s)
	}
	return out
}

func (t *table) uuid(key string) kml.UUID {
	s := t.text(key, "")
	if s == "" {
		return kml.UUID{}
	}
	u, err := kml.ParseUUID(s)
	if err != nil {
		t.complain(key, err.Error(), "")
	}
	return u
}

func (t *table) fingerprint(key string) Fingerprint {
	s := t.text(key, "")
	if s == "" {
		return Fingerprint{}
	}
	fp, err := ParseFingerprint(s)
	if err != nil {
		t.complain(key, err.Error(), "")
	}
	return fp
}

// tables reads an array of tables.
func (t *table) tables(key string, hints map[string]string) []*table {
	v, ok := t.take(key)
	if !ok {
		return nil
	}
	header := "[[" + stripIndexes(t.at(key)) + "]]"
	elements, ok := v.([]map[string]any)
	if !ok {
		t.complain(key, fmt.Sprintf("%s must be tables headed %s", key, header), "")
		return nil
	}
	out := make([]*table, len(elements))
	for i, values := range elements {
		out[i] = &table{doc: t.doc, path: element(t.at(key), i), label: header, values: values, hints: hints}
	}
	return out
}

// close complains about the keys that were not asked for.
func (t *table) close() {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(t.asked, key) {
			continue
		}
		fix, ok := t.hints[key]
		if !ok {
			fix = didYouMean(key, t.asked)
		}
		if fix == "" {
			fix = "known keys are " + strings.Join(t.asked, ", ")
		}
		t.complain(key, fmt.Sprintf("unknown key %q in %s", key, t.label), fix)
	}
}

func stripIndexes(path string) string {
	var b strings.Builder
	depth := 0
	for _, r := range path {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case depth == 0:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func tomlType(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number"
	case bool:
		return "true or false"
	case []any:
		return "an array"
	case map[string]any, []map[string]any:
		return "a table"
	}
	return "a date or time"
}

func quotedList(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = fmt.Sprintf("%q", v)
	}
	return strings.Join(quoted, " or ")
}
