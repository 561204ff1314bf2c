package cli

import (
	"encoding/json"
	"slices"
	"sort"
	"strings"

	"github.com/jmespath/go-jmespath"
)

// A query is a compiled JMESPath expression. It also knows the columns of the expression's multiselect hashes, since
// tables and tab-separated values have them in the order of the expression, which the library's answer does not keep.
type query struct {
	path    *jmespath.JMESPath
	columns [][]string
}

func compileQuery(expression string) (*query, error) {
	path, err := jmespath.Compile(expression)
	if err != nil {
		return nil, err
	}
	return &query{path: path, columns: hashKeys(expression)}, nil
}

// search evaluates the query on a decoded document.
func (q *query) search(doc any) (any, error) {
	return q.path.Search(floats(doc))
}

// floats is the document with numbers as float64, the only ones that the library compares.
func floats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return f
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, child := range v {
			out[k] = floats(child)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = floats(v[i])
		}
		return out
	}
	return v
}

// order lists an object's keys in the order of the expression that made it, or sorted. q may be nil.
func (q *query) order(object map[string]any) []string {
	keys := make([]string, 0, len(object))
	for k := range object {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	if q == nil {
		return keys
	}
	// The last hash of an expression makes its result, so look from the end.
	for i := len(q.columns) - 1; i >= 0; i-- {
		sorted := slices.Sorted(slices.Values(q.columns[i]))
		if slices.Equal(slices.Compact(sorted), keys) {
			return q.columns[i]
		}
	}
	return keys
}

// hashKeys finds the keys of every {key: expression, ...} in a valid expression.
func hashKeys(expression string) [][]string {
	var all [][]string
	var open []int // for each open bracket, the index in all of its hash, or -1
	expectKey := false
	for i := 0; i < len(expression); {
		c := expression[i]
		switch {
		case strings.IndexByte("\"'`", c) >= 0:
			end := quotedEnd(expression, i)
			if c == '"' && expectKey {
				var key string
				if json.Unmarshal([]byte(expression[i:end]), &key) == nil {
					all = addKey(all, open, key)
				}
				expectKey = false
			}
			i = end
			continue
		case c == '{':
			all = append(all, nil)
			open = append(open, len(all)-1)
			expectKey = true
		case c == '[' || c == '(':
			open = append(open, -1)
			expectKey = false
		case c == '}' || c == ']' || c == ')':
			if len(open) > 0 {
				open = open[:len(open)-1]
			}
			expectKey = false
		case c == ',':
			expectKey = len(open) > 0 && open[len(open)-1] >= 0
		case isWord(c) && expectKey:
			end := i
			for end < len(expression) && isWord(expression[end]) {
				end++
			}
			all = addKey(all, open, expression[i:end])
			expectKey = false
			i = end
			continue
		}
		i++
	}
	return all
}

func addKey(all [][]string, open []int, key string) [][]string {
	at := open[len(open)-1]
	if !slices.Contains(all[at], key) {
		all[at] = append(all[at], key)
	}
	return all
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// quotedEnd is the index after the quoted text that begins at i.
func quotedEnd(s string, i int) int {
	quote := s[i]
	for i++; i < len(s); i++ {
		if s[i] == '\\' {
			i++
		} else if s[i] == quote {
			return i + 1
		}
	}
	return len(s)
}
