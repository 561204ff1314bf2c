package blobserver

import (
	"path/filepath"
	"time"
)

// For the tests of names and parsers.
var (
	EncodeName     = encodeName
	ValidName      = validName
	ParseRange     = parseRange
	ParseSAS       = parseSAS
	ParseBlockList = parseBlockList
	ParseTarget    = parseTarget
)

// Within cuts a range to a size.
func (r byteRange) Within(size int64) (offset, length int64, err error) { return r.within(size) }

// Level is 's', 'c' or 'o'.
func (t target) Level() byte { return byte(t.level()) }

// DecodePath undoes EncodeName.
func DecodePath(path string) (name string, ok bool) {
	for _, element := range filepathElements(path) {
		_, key, ok := decodeElement(element)
		if !ok {
			return "", false
		}
		name += key
	}
	return name, true
}

func filepathElements(path string) []string {
	dir, file := filepath.Split(path)
	if dir == "" {
		return []string{file}
	}
	return append(filepathElements(filepath.Clean(dir)), file)
}

// Walk lists the names below dir.
func Walk(dir, from, prefix string) ([]string, error) {
	var names []string
	path, base := encodeFolder(prefix)
	w := walker{from: from, prefix: prefix, visit: func(name, _ string) error {
		names = append(names, name)
		return nil
	}}
	return names, w.walk(filepath.Join(dir, path), base)
}

// Sweep drops uncommitted blocks older than before.
func (s *Server) Sweep(before time.Time) (int, error) { return s.disk.sweep(before) }
