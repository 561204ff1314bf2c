package cli

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// freeForm are keys whose objects have users' words for keys, so that those are left alone.
var freeForm = map[string]bool{"tags": true, "namespaceMappings": true, "userAssignedIdentities": true}

// camelKeys turns the keys of a document, as `initialize` commands print them (snake_case) or as shorthand syntax has
// them (kebab-case), into the API's.
func camelKeys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, child := range v {
			name := camel(k)
			if !freeForm[name] {
				child = camelKeys(child)
			}
			out[name] = child
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = camelKeys(v[i])
		}
		return out
	}
	return v
}

func camel(key string) string {
	parts := strings.FieldsFunc(key, func(r rune) bool { return r == '_' || r == '-' })
	if len(parts) < 2 {
		return key
	}
	var b strings.Builder
	b.WriteString(parts[0])
	for _, p := range parts[1:] {
		_, n := utf8.DecodeRuneInString(p)
		b.WriteString(strings.ToUpper(p[:n]) + p[n:])
	}
	if name := b.String(); name != "resourceId" {
		return name
	}
	return "resourceID"
}

var hump = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// snakeKeys is the reverse of camelKeys.
func snakeKeys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, child := range v {
			if !freeForm[k] {
				child = snakeKeys(child)
			}
			out[strings.ToLower(hump.ReplaceAllString(k, "${1}_$2"))] = child
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = snakeKeys(v[i])
		}
		return out
	}
	return v
}
