package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/cairn-backup/cairn/internal/client"
)

// at reads the value at a path of keys; nil when there is none. Keys are compared as they are.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// text is the string at a path, or empty.
func text(v any, keys ...string) string {
	s, _ := at(v, keys...).(string)
	return s
}

// object is v as an object.
func object(v any) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("expected an object, got %s", describe(v))
	}
	return m, nil
}

// assign puts v at a path of keys, making the objects on the way.
func assign(m map[string]any, v any, keys ...string) {
	for _, k := range keys[:len(keys)-1] {
		child, ok := m[k].(map[string]any)
		if !ok {
			child = map[string]any{}
			m[k] = child
		}
		m = child
	}
	m[keys[len(keys)-1]] = v
}

func describe(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case []any:
		return "a list"
	case string:
		return "a string"
	}
	return fmt.Sprintf("%v", v)
}

// flatten moves the fields of properties up, as az does for the types whose models say so.
func flatten(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = flatten(v[i])
		}
		return out
	case map[string]any:
		properties, ok := v["properties"].(map[string]any)
		if !ok {
			return v
		}
		out := maps.Clone(properties)
		for k, field := range v {
			if k != "properties" {
				out[k] = field
			}
		}
		return out
	}
	return v
}

var inGroup = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourceGroups/([^/]+)/`)

// addResourceGroup gives every object with a resource's ID its resource group, as az does.
func addResourceGroup(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			addResourceGroup(e)
		}
	case map[string]any:
		known := false
		for k, child := range v {
			known = known || strings.EqualFold(k, "resourceGroup")
			addResourceGroup(child)
		}
		id, _ := v["id"].(string)
		if m := inGroup.FindStringSubmatch(id); m != nil && !known {
			v["resourceGroup"] = m[1]
		}
	}
}

// generic is v as decoded JSON.
func generic(v any) (any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return client.Decode(raw)
}
