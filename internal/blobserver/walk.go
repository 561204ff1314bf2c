package blobserver

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// walkBatch bounds the entries of one folder that a walk keeps in memory; a larger folder is read again for each batch.
const walkBatch = 1024

// pastPrefix follows a prefix in a start position that lies after every name with that prefix: no UTF-8 name holds this byte.
const pastPrefix = "\xff"

type entry struct {
	key  string
	file string
	kind byte
}

// walker visits the blob names under a folder in byte order, from a start position on.
type walker struct {
	from   string // the first name wanted
	prefix string
	visit  func(name, path string) error
}

// walk visits the names in dir, all of which begin with base. A folder that vanishes meanwhile holds nothing.
func (w *walker) walk(dir, base string) error {
	var last *entry
	for {
		batch, err := w.nextEntries(dir, base, last)
		if err != nil {
			return err
		}
		for _, e := range batch {
			name, path := base+e.key, filepath.Join(dir, e.file)
			if e.kind == kindBlob {
				err = w.visit(name, path)
			} else {
				err = w.walk(path, name)
			}
			if err != nil {
				return err
			}
		}
		if len(batch) < walkBatch {
			return nil
		}
		last = &batch[len(batch)-1]
	}
}

// nextEntries returns the first walkBatch entries after last that can lead to a wanted name, in order.
func (w *walker) nextEntries(dir, base string, last *entry) ([]entry, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()

	var found []entry
	keep := func() {
		slices.SortFunc(found, func(a, b entry) int { return strings.Compare(a.key, b.key) })
		found = found[:min(len(found), walkBatch)]
	}
	for {
		files, err := f.Readdirnames(walkBatch)
		for _, file := range files {
			kind, key, ok := decodeElement(file)
			if !ok || (last != nil && key <= last.key) || !w.wanted(kind, base+key) {
				continue
			}
			found = append(found, entry{key: key, file: file, kind: kind})
		}
		if len(found) >= 4*walkBatch {
			keep()
		}
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) {
			keep()
			return found, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// wanted reports whether a blob of this name, or a name beginning with this folder's or chunk's, is asked for.
func (w *walker) wanted(kind byte, name string) bool {
	if kind == kindBlob {
		return name >= w.from && strings.HasPrefix(name, w.prefix)
	}
	if !strings.HasPrefix(name, w.prefix) && !strings.HasPrefix(w.prefix, name) {
		return false
	}
	rest, inside := strings.CutPrefix(w.from, name)
	if inside {
		return !strings.HasPrefix(rest, pastPrefix)
	}
	return name >= w.from
}
