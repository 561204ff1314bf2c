package inventory

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// excludeKey is the label or annotation by which users of Velero leave objects out of a backup; they expect it here too.
const excludeKey = "velero.io/exclude-from-backup"

// head is what the choice of an object needs to know. It is found by walking over the object's bytes; nothing is decoded but the few
// strings asked for.
type head struct {
	hasAPIVersion, hasKind bool
	namespace, name        string
	// excluded: label or annotation excludeKey is "true".
	excluded bool
	// managedBy is the value of the label endpointslice.kubernetes.io/managed-by, or endpoints.….
	managedBy string
	// ours: a label says that the extension made the object.
	ours bool
}

// scan finds the head of an object, which must be a valid JSON object.
func scan(object []byte) head {
	var h head
	members(object, func(key, value []byte) {
		switch string(key) {
		case "apiVersion":
			h.hasAPIVersion = true
		case "kind":
			h.hasKind = true
		case "metadata":
			members(value, h.metadata)
		}
	})
	return h
}

func (h *head) metadata(key, value []byte) {
	switch string(key) {
	case "namespace":
		h.namespace = text(value)
	case "name":
		h.name = text(value)
	case "labels":
		members(value, func(key, value []byte) {
			switch k := string(key); {
			case k == excludeKey:
				h.excluded = h.excluded || text(value) == "true"
			case k == "endpointslice.kubernetes.io/managed-by", k == "endpoints.kubernetes.io/managed-by":
				h.managedBy = text(value)
			case strings.HasPrefix(k, OwnLabelPrefix):
				h.ours = true
			}
		})
	case "annotations":
		members(value, func(key, value []byte) {
			if string(key) == excludeKey {
				h.excluded = h.excluded || text(value) == "true"
			}
		})
	}
}

// text returns the string that a JSON value is, and nothing if it is none.
func text(value []byte) string {
	if len(value) < 2 || value[0] != '"' {
		return ""
	}
	if bytes.IndexByte(value, '\\') < 0 && utf8.Valid(value) {
		return string(value[1 : len(value)-1])
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

// members calls visit for each member of a valid JSON object, with the key unquoted and the value's bytes. Another value has no members.
func members(object []byte, visit func(key, value []byte)) {
	i := skipSpace(object, 0)
	if i >= len(object) || object[i] != '{' {
		return
	}
	i = skipSpace(object, i+1)
	for i < len(object) && object[i] == '"' {
		end := skipValue(object, i)
		key := object[i+1 : end-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			key = []byte(text(object[i:end]))
		}
		i = skipSpace(object, skipSpace(object, end)+1) // the colon
		end = skipValue(object, i)
		visit(key, object[i:end])
		i = skipSpace(object, end)
		if i < len(object) && object[i] == ',' {
			i = skipSpace(object, i+1)
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// skipValue returns the index behind the value that begins at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch c := b[i]; c {
		case '"':
			i = skipString(b, i)
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}

// skipString returns the index behind the string that begins at i.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// withType writes into dst an object with apiVersion and kind put in front, of which it lacks at least one, as items of most lists do.
func withType(dst, object []byte, h head, apiVersion, kind string) []byte {
	dst = append(dst[:0], '{')
	if !h.hasAPIVersion {
		dst = appendMember(dst, "apiVersion", apiVersion)
	}
	if !h.hasKind {
		dst = appendMember(dst, "kind", kind)
	}
	rest := bytes.TrimLeft(object[bytes.IndexByte(object, '{')+1:], " \t\r\n")
	if rest[0] == '}' {
		dst = dst[:len(dst)-1] // the comma
	}
	return append(dst, rest...)
}

// appendMember appends a member and a comma. API versions and kinds hold no characters that JSON escapes.
func appendMember(dst []byte, key, value string) []byte {
	dst = append(append(append(dst, '"'), key...), `":"`...)
	return append(append(dst, value...), `",`...)
}
