// Package image packs container images from files of this machine, without a registry and without a container engine.
// Each has one layer and is written as the kind of archive that `docker save` writes, which containerd imports.
package image

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Layer collects the files of an image. Paths are absolute, as in the container. The first error sticks and comes out
// of Write.
type Layer struct {
	file *os.File
	tar  *tar.Writer
	seen map[string]bool
	err  error
}

// NewLayer starts an empty layer in a temporary file, which Write removes.
func NewLayer() (*Layer, error) {
	f, err := os.CreateTemp("", "layer")
	if err != nil {
		return nil, err
	}
	return &Layer{file: f, tar: tar.NewWriter(f), seen: map[string]bool{"/": true}}, nil
}

// Dir adds a folder that belongs to the user and group owner, and the folders above it.
func (l *Layer) Dir(path string, mode fs.FileMode, owner int) {
	l.add(tar.Header{Typeflag: tar.TypeDir, Name: path, Mode: int64(mode), Uid: owner, Gid: owner}, nil)
}

// Text adds a file with the given content.
func (l *Layer) Text(path string, mode fs.FileMode, content string) {
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: int64(mode), Size: int64(len(content))}, strings.NewReader(content))
}

// Link adds a symbolic link.
func (l *Layer) Link(path, target string) {
	l.add(tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target, Mode: 0o777}, nil)
}

// File adds the machine's file source, following symbolic links, as path. Its owner is root.
func (l *Layer) File(path, source string) {
	if l.err != nil {
		return
	}
	f, err := os.Open(source)
	if err != nil {
		l.err = err
		return
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		l.err = err
		return
	}
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: int64(fi.Mode().Perm()), Size: fi.Size()}, f)
}

// Tree adds what lies below the machine's folder source, except what skip accepts, below path.
func (l *Layer) Tree(path, source string, skip func(file string) bool) {
	err := filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		inside := filepath.Join(path, relative)
		switch {
		case skip != nil && skip(file):
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.IsDir():
			l.Dir(inside, 0o755, 0)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			l.Link(inside, target)
		case d.Type().IsRegular():
			l.File(inside, file)
		}
		return l.err
	})
	if l.err == nil {
		l.err = err
	}
}

func (l *Layer) add(h tar.Header, content io.Reader) {
	if l.err != nil || l.seen[h.Name] {
		return
	}
	l.seen[h.Name] = true
	if parent := path.Dir(h.Name); !l.seen[parent] {
		l.Dir(parent, 0o755, 0)
	}
	h.Name = strings.TrimPrefix(h.Name, "/")
	h.ModTime = time.Unix(0, 0)
	if l.err == nil {
		l.err = l.tar.WriteHeader(&h)
	}
	if l.err == nil && content != nil {
		_, l.err = io.Copy(l.tar, content)
	}
}

// Write makes the image ref with the layer and the configuration and writes it to file.
func (l *Layer) Write(file, ref string, config v1.Config) (err error) {
	defer func() { err = errors.Join(err, l.file.Close(), os.Remove(l.file.Name())) }()
	if l.err != nil {
		return fmt.Errorf("image %s: %w", ref, l.err)
	}
	if err := l.tar.Close(); err != nil {
		return fmt.Errorf("image %s: %w", ref, err)
	}
	img, err := assemble(l.file.Name(), config)
	if err != nil {
		return fmt.Errorf("image %s: %w", ref, err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	unfinished := file + ".new"
	if err := tarball.WriteToFile(unfinished, tag, img); err != nil {
		return fmt.Errorf("image %s: %w", ref, err)
	}
	return os.Rename(unfinished, file)
}

func assemble(layerFile string, config v1.Config) (v1.Image, error) {
	layer, err := tarball.LayerFromFile(layerFile, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(img, file)
}
