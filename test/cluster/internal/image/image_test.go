package image_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/cairn-backup/cairn/test/cluster/internal/image"
)

// entry is what the test looks at of a file in an image.
type entry struct {
	Mode    int64
	Owner   int
	Link    string
	Content string
}

func TestLayer(t *testing.T) {
	source := t.TempDir()
	for name, content := range map[string]string{"keep/a": "A", "keep/skipped/b": "B"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	l, err := image.NewLayer()
	if err != nil {
		t.Fatal(err)
	}
	l.Tree("/usr/lib", filepath.Join(source, "keep"), func(file string) bool { return filepath.Base(file) == "skipped" })
	l.Link("/bin/a", "/usr/lib/a")
	l.Dir("/data", 0o700, 999)
	l.Text("/etc/motd", 0o600, "hello")
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := l.Write(file, "registry.test/test:1", v1.Config{User: "999"}); err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil || config.Config.User != "999" || config.OS != "linux" {
		t.Errorf("the configuration is %+v, %v", config, err)
	}
	want := map[string]entry{
		"usr": {Mode: 0o755}, "usr/lib": {Mode: 0o755}, "usr/lib/a": {Mode: 0o640, Content: "A"},
		"bin": {Mode: 0o755}, "bin/a": {Mode: 0o777, Link: "/usr/lib/a"},
		"data": {Mode: 0o700, Owner: 999},
		"etc":  {Mode: 0o755}, "etc/motd": {Mode: 0o600, Content: "hello"},
	}
	if diff := cmp.Diff(want, entries(t, img)); diff != "" {
		t.Errorf("files in the image (-want +got):\n%s", diff)
	}
}

// A file that is missing is told when the image is written, not left out.
func TestLayerMissingFile(t *testing.T) {
	l, err := image.NewLayer()
	if err != nil {
		t.Fatal(err)
	}
	l.File("/a", filepath.Join(t.TempDir(), "none"))
	if err := l.Write(filepath.Join(t.TempDir(), "image.tar"), "registry.test/test:1", v1.Config{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Write = %v, want that a file does not exist", err)
	}
}

func entries(t *testing.T, img v1.Image) map[string]entry {
	t.Helper()
	flat := mutate.Extract(img)
	defer flat.Close()
	out := map[string]entry{}
	for r := tar.NewReader(flat); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Clean(h.Name)] = entry{Mode: h.Mode, Owner: h.Uid, Link: h.Linkname, Content: string(b)}
	}
}
