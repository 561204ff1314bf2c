package cli

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cairn-backup/cairn/internal/client"
)

// maxDepth bounds how deep a document in shorthand syntax may nest.
const maxDepth = 64

var integer = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// parseShorthand reads az's shorthand syntax: JSON without double quotes. Words that JSON knows (null, true, false,
// whole numbers) mean what they mean there; single quotes make a string of anything, with '/ for a quote inside.
func parseShorthand(s string) (any, error) {
	p := &shorthand{text: s}
	v, err := p.value(0)
	if err == nil && p.at < len(s) {
		err = p.failf("nothing more is expected")
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

type shorthand struct {
	text string
	at   int
}

func (p *shorthand) failf(format string, args ...any) error {
	return fmt.Errorf("shorthand syntax: %s at character %d of %q", fmt.Sprintf(format, args...), p.at+1, p.text)
}

func (p *shorthand) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

// take steps over c if it is next.
func (p *shorthand) take(c byte) bool {
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *shorthand) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, p.failf("too deeply nested")
	}
	switch p.peek() {
	case '{':
		return p.object(depth)
	case '[':
		return p.list(depth)
	case '\'':
		return p.quoted()
	}
	word, err := p.word()
	if err != nil {
		return nil, err
	}
	switch {
	case word == "null":
		return nil, nil
	case word == "true", word == "false":
		return word == "true", nil
	case integer.MatchString(word):
		return json.Number(word), nil
	}
	return word, nil
}

func (p *shorthand) object(depth int) (any, error) {
	p.at++
	out := map[string]any{}
	for !p.take('}') {
		start := p.at
		key, err := p.key()
		if err != nil {
			return nil, err
		}
		if _, twice := out[key]; twice {
			p.at = start
			return nil, p.failf("key %q is here twice", key)
		}
		if !p.take(':') {
			return nil, p.failf("':' is expected")
		}
		if out[key], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if !p.take(',') && p.peek() != '}' {
			return nil, p.failf("',' or '}' is expected")
		}
	}
	return out, nil
}

func (p *shorthand) list(depth int) (any, error) {
	p.at++
	out := []any{}
	for !p.take(']') {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		if !p.take(',') && p.peek() != ']' {
			return nil, p.failf("',' or ']' is expected")
		}
	}
	return out, nil
}

func (p *shorthand) key() (string, error) {
	if p.peek() == '\'' {
		return p.quoted()
	}
	return p.word()
}

// word reads up to the next structural character.
func (p *shorthand) word() (string, error) {
	start := p.at
	for p.at < len(p.text) && !strings.ContainsRune(",:]}", rune(p.text[p.at])) {
		r, size := utf8.DecodeRuneInString(p.text[p.at:])
		if unicode.IsSpace(r) || r == '"' || r == '\'' {
			return "", p.failf("%q must be inside single quotes", r)
		}
		p.at += size
	}
	if p.at == start {
		return "", p.failf("a value is expected")
	}
	return p.text[start:p.at], nil
}

func (p *shorthand) quoted() (string, error) {
	start := p.at
	p.at++
	var b strings.Builder
	for p.at < len(p.text) {
		if !p.take('\'') {
			b.WriteByte(p.text[p.at])
			p.at++
			continue
		}
		if !p.take('/') {
			return b.String(), nil
		}
		b.WriteByte('\'')
	}
	p.at = start
	return "", p.failf("the closing quote is missing")
}

var partial = regexp.MustCompile(`^([A-Za-z0-9_-]+(?:\[-?[0-9]+\])?(?:\.[A-Za-z0-9_-]+(?:\[-?[0-9]+\])?)*|\[-?[0-9]+\](?:\.[A-Za-z0-9_-]+(?:\[-?[0-9]+\])?)*)=(?s:(.*))$`)

// decodeObject reads the tokens of an Object option. Each is a whole document or a part of one, key.path[0]=value, that
// changes what came before.
func decodeObject(tokens []string) (any, error) {
	var root any
	for _, t := range tokens {
		m := partial.FindStringSubmatch(t)
		if m == nil {
			v, err := decodeDocument(t)
			if err != nil {
				return nil, err
			}
			root = v
			continue
		}
		v, err := decodeScalar(m[2])
		if err != nil {
			return nil, err
		}
		if root, err = set(root, steps(m[1]), v); err != nil {
			return nil, fmt.Errorf("%s: %w", m[1], err)
		}
	}
	return root, nil
}

// decodeDocument reads JSON, a file that has JSON, or shorthand syntax.
func decodeDocument(s string) (any, error) {
	trimmed := strings.TrimSpace(s)
	v, jsonErr := client.Decode([]byte(trimmed))
	if jsonErr == nil && trimmed != "" {
		return v, nil
	}
	if raw, err := os.ReadFile(s); err == nil {
		v, err := client.Decode(raw)
		if err != nil {
			return nil, fmt.Errorf("file %s is not JSON: %w", s, err)
		}
		return v, nil
	}
	if strings.HasPrefix(trimmed, "@") {
		return nil, fmt.Errorf("file %s: %w", trimmed[1:], fs.ErrNotExist) // see expandFiles
	}
	v, err := parseShorthand(trimmed)
	if err == nil {
		return v, nil
	}
	if strings.Contains(trimmed, `"`) {
		return nil, fmt.Errorf("not valid JSON: %w", jsonErr)
	}
	return nil, err
}

// decodeScalar reads the value of a part: a document when it looks like one, else the text as it is.
func decodeScalar(s string) (any, error) {
	switch {
	case s == "null":
		return nil, nil
	case s == "true", s == "false":
		return s == "true", nil
	case integer.MatchString(s):
		return json.Number(s), nil
	case s != "" && strings.ContainsRune("{['", rune(s[0])):
		return decodeDocument(s)
	}
	return s, nil
}

// steps splits a.b[0].c into keys (string) and indices (int).
func steps(path string) []any {
	var out []any
	for _, part := range strings.Split(path, ".") {
		key, index, indexed := strings.Cut(strings.TrimSuffix(part, "]"), "[")
		if key != "" {
			out = append(out, key)
		}
		if n, err := strconv.Atoi(index); indexed && err == nil {
			out = append(out, n)
		}
	}
	return out
}

// set puts v at path inside root and answers the new root.
func set(root any, path []any, v any) (any, error) {
	if len(path) == 0 {
		return v, nil
	}
	if key, ok := path[0].(string); ok {
		m, ok := root.(map[string]any)
		if root == nil {
			m, ok = map[string]any{}, true
		}
		if !ok {
			return nil, fmt.Errorf("%q is no object's key here", key)
		}
		child, err := set(m[key], path[1:], v)
		m[key] = child
		return m, err
	}
	index := path[0].(int)
	list, ok := root.([]any)
	if root != nil && !ok {
		return nil, fmt.Errorf("[%d] is no list's index here", index)
	}
	if index < 0 {
		index += len(list)
	}
	if index < 0 || index > len(list) {
		return nil, fmt.Errorf("the list has no index %d", path[0])
	}
	if index == len(list) {
		list = append(list, nil)
	}
	child, err := set(list[index], path[1:], v)
	list[index] = child
	return list, err
}
