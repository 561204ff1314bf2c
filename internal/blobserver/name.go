package blobserver

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// How a blob name becomes a path. Each segment between slashes is one path element, with a letter in front that says what
// it is; segments of chunkBytes or more are cut into chunks, so that any element fits the 255 bytes of a file name:
//
//	a/b           d.a/b.b
//	a             b.a            a blob and a folder of one name do not collide
//	..            b...           no element is ever "." or ".."
//	100%          b.100%25       "%" and control characters are escaped, everything else is itself
//	x{80}yz       c.x{80}/b.yz
//
// An element's key is what it adds to the name ("a/", "b"). No key in a folder is a prefix of another one's, except a blob's,
// and that sorts first anyway; so a walk that visits keys in byte order yields names in byte order.
const (
	chunkBytes = 80
	kindBlob   = 'b'
	kindFolder = 'd'
	kindChunk  = 'c'

	// maxNameChars is Azure's limit for a blob name, in UTF-16 units.
	maxNameChars = 1024
)

// encodeName returns the relative path of a valid blob name.
func encodeName(name string) string {
	segments := strings.Split(name, "/")
	elements := make([]string, 0, len(segments))
	for i, segment := range segments {
		for len(segment) >= chunkBytes {
			elements = append(elements, element(kindChunk, segment[:chunkBytes]))
			segment = segment[chunkBytes:]
		}
		kind := byte(kindFolder)
		if i == len(segments)-1 {
			kind = kindBlob
		}
		elements = append(elements, element(kind, segment))
	}
	return filepath.Join(elements...)
}

// encodeFolder returns the relative path of the folder that holds all names beginning with prefix up to its last slash, and
// that part of the prefix.
func encodeFolder(prefix string) (path, base string) {
	base = prefix[:strings.LastIndexByte(prefix, '/')+1]
	if base == "" {
		return "", ""
	}
	return filepath.Dir(encodeName(base)), base
}

func element(kind byte, raw string) string {
	var b strings.Builder
	b.WriteByte(kind)
	b.WriteByte('.')
	for i := range len(raw) {
		if c := raw[i]; c == '%' || c < ' ' || c == 0x7f {
			const hex = "0123456789ABCDEF"
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
			continue
		}
		b.WriteByte(raw[i])
	}
	return b.String()
}

// decodeElement is the inverse of element; ok is false for a file that this package did not name.
func decodeElement(file string) (kind byte, key string, ok bool) {
	if len(file) < 2 || file[1] != '.' {
		return 0, "", false
	}
	raw, err := url.PathUnescape(file[2:])
	if err != nil {
		return 0, "", false
	}
	switch file[0] {
	case kindBlob, kindChunk:
		return file[0], raw, true
	case kindFolder:
		return file[0], raw + "/", true
	}
	return 0, "", false
}

// validName reports whether Azure would take the blob name and an XML listing can carry it.
func validName(name string) bool {
	if name == "" || !utf8.ValidString(name) || len(utf16.Encode([]rune(name))) > maxNameChars {
		return false
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == 0xfffe || r == 0xffff {
			return false
		}
	}
	return true
}

var (
	accountPattern   = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	containerPattern = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9])*$`)
)

func validContainer(name string) bool {
	return len(name) >= 3 && len(name) <= 63 && containerPattern.MatchString(name)
}
