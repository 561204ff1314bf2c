// Package image makes a container image from one static program, without a container engine and without a network, and
// writes it as a file that both `ctr images import` and `docker load` take. The same program gives the same bytes.
//
// It knows nothing of what is in the program, and pushes nowhere.
package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is who the program runs as: no name of a person's, no rights, the number that distroless images use.
const user = 65532

// epoch is every time in an image.
var epoch = time.Unix(0, 0).UTC()

// Options describe an image.
type Options struct {
	// Program is a statically linked program of this machine; its base name becomes the command.
	Program string
	// Architecture is the program's, in Go's words: amd64, arm64.
	Architecture string
	// Labels are the image's, such as org.opencontainers.image.version.
	Labels map[string]string
}

// Build makes the image: one layer with the program, an empty and writable /tmp, an empty folder for certificate
// authorities to be mounted at, and a passwd with the one user that there is.
func Build(o Options) (v1.Image, error) {
	program, err := os.ReadFile(o.Program)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	command := "/usr/local/bin/" + path.Base(o.Program)
	content, err := layer(command, program)
	if err != nil {
		return nil, fmt.Errorf("image: layer: %w", err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("image: layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "cairn-image"}})
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", o.Architecture, v1.Time{Time: epoch}
	config.Config = v1.Config{
		Entrypoint: []string{command},
		Env:        []string{"PATH=/usr/local/bin", "HOME=/tmp"},
		User:       fmt.Sprintf("%d:%d", user, user),
		WorkingDir: "/",
		Labels:     o.Labels,
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	return img, nil
}

// layer is the tar of the image's files.
func layer(command string, program []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	folder := func(name string, mode int64) error {
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: epoch})
	}
	file := func(name string, mode int64, data []byte) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: epoch}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	for _, step := range []func() error{
		func() error { return folder("etc/", 0o755) },
		func() error {
			return file("etc/passwd", 0o644, fmt.Appendf(nil, "nonroot:x:%d:%d:nonroot:/tmp:/sbin/nologin\n", user, user))
		},
		func() error { return file("etc/group", 0o644, fmt.Appendf(nil, "nonroot:x:%d:\n", user)) },
		func() error { return folder("etc/ssl/", 0o755) },
		func() error { return folder("etc/ssl/certs/", 0o755) },
		func() error { return folder("tmp/", 0o1777) },
		func() error { return folder("usr/", 0o755) },
		func() error { return folder("usr/local/", 0o755) },
		func() error { return folder("usr/local/bin/", 0o755) },
		func() error { return file(command[1:], 0o755, program) },
		w.Close,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// Write writes the image under a name as a tar that is an OCI image layout and a Docker archive at once: both point to the
// same blobs.
func Write(to io.Writer, name string, img v1.Image) error {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return fmt.Errorf("image name %q: %w", name, err)
	}
	tagged, ok := named.(reference.Tagged)
	if !ok {
		return fmt.Errorf("image name %q: needs a tag, not a digest", name)
	}
	a := archive{w: tar.NewWriter(to)}
	l, err := img.Layers()
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	var layers []string
	for _, l := range l {
		layers = append(layers, a.layer(l))
	}
	config := a.raw(img.RawConfigFile())
	a.raw(img.RawManifest())
	a.json("index.json", index(&a, img, named.String(), tagged.Tag()))
	a.json("manifest.json", []map[string]any{{
		"Config": config, "RepoTags": []string{reference.FamiliarString(named)}, "Layers": layers,
	}})
	a.json("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"})
	if a.err == nil {
		a.err = a.w.Close()
	}
	if a.err != nil {
		return fmt.Errorf("image %s: %w", name, a.err)
	}
	return nil
}

// index points to the one image and gives it its name, in containerd's words and in the standard's.
func index(a *archive, img v1.Image, name, tag string) v1.IndexManifest {
	d := v1.Descriptor{
		MediaType:   types.OCIManifestSchema1,
		Annotations: map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
	}
	var err error
	if d.Digest, err = img.Digest(); err != nil && a.err == nil {
		a.err = err
	}
	if d.Size, err = img.Size(); err != nil && a.err == nil {
		a.err = err
	}
	config, err := img.ConfigFile()
	if err != nil {
		a.err = err
		return v1.IndexManifest{}
	}
	d.Platform = &v1.Platform{OS: config.OS, Architecture: config.Architecture}
	return v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{d}}
}

// archive is a tar in the making; after an error it does nothing more.
type archive struct {
	w   *tar.Writer
	err error
}

func (a *archive) file(name string, size int64, from io.Reader) {
	if a.err != nil {
		return
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: epoch}
	if a.err = a.w.WriteHeader(h); a.err == nil {
		_, a.err = io.Copy(a.w, from)
	}
}

// raw writes bytes as a blob and returns the blob's path.
func (a *archive) raw(data []byte, err error) string {
	if err != nil && a.err == nil {
		a.err = err
	}
	h, _, err := v1.SHA256(bytes.NewReader(data))
	if err != nil && a.err == nil {
		a.err = err
	}
	a.file(blob(h), int64(len(data)), bytes.NewReader(data))
	return blob(h)
}

func (a *archive) layer(l v1.Layer) string {
	h, err := l.Digest()
	if err != nil && a.err == nil {
		a.err = err
	}
	size, err := l.Size()
	if err != nil && a.err == nil {
		a.err = err
	}
	content, err := l.Compressed()
	if err != nil {
		a.err = err
		return ""
	}
	a.file(blob(h), size, content)
	if err := content.Close(); err != nil && a.err == nil {
		a.err = err
	}
	return blob(h)
}

func (a *archive) json(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.file(name, int64(len(data)), bytes.NewReader(data))
}

func blob(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
