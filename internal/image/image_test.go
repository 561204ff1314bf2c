package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cairn-backup/cairn/internal/image"
)

// program builds a real program with the toolchain: one that answers --version.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := `package main
import ("fmt"; "os")
func main() { if len(os.Args) == 2 && os.Args[1] == "--version" { fmt.Println("hello version 1.2.3") } else { os.Exit(2) } }
`
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "hello"), filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "hello")
}

func archive(t *testing.T, program, name string) []byte {
	t.Helper()
	img, err := image.Build(image.Options{Program: program, Architecture: runtime.GOARCH, Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := image.Write(&b, name, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// untar returns the regular files and the headers of everything.
func untar(t *testing.T, r io.Reader) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	files, headers := map[string][]byte{}, map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImageRunsItsProgram(t *testing.T) {
	files, _ := untar(t, bytes.NewReader(archive(t, program(t), "registry.test/hello:1")))
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	var config struct {
		Architecture string
		Config       struct {
			User       string
			Entrypoint []string
			Labels     map[string]string
		}
	}
	for from, to := range map[string]any{"manifest.json": &manifest, "index.json": &index} {
		if err := json.Unmarshal(files[from], to); err != nil {
			t.Fatalf("%s: %v", from, err)
		}
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65532:65532" || config.Config.Labels["a"] != "b" || config.Architecture != runtime.GOARCH {
		t.Errorf("%+v", config)
	}
	if manifest[0].RepoTags[0] != "registry.test/hello:1" || index.Manifests[0].Annotations["io.containerd.image.name"] != "registry.test/hello:1" {
		t.Errorf("%+v %+v", manifest, index)
	}
	if _, ok := files["blobs/sha256/"+index.Manifests[0].Digest[len("sha256:"):]]; !ok {
		t.Error("the index points to nothing")
	}

	unzipped, err := gzip.NewReader(bytes.NewReader(files[manifest[0].Layers[0]]))
	if err != nil {
		t.Fatal(err)
	}
	content, headers := untar(t, unzipped)
	if headers["tmp/"].Mode != 0o1777 {
		t.Error("/tmp is not writable by all")
	}
	entry := config.Config.Entrypoint[0][1:]
	if headers[entry] == nil || headers[entry].Mode != 0o755 {
		t.Fatalf("%s is not in the image", entry)
	}
	out := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(out, content[entry], 0o700); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(out, "--version").CombinedOutput()
	if err != nil || string(said) != "hello version 1.2.3\n" {
		t.Errorf("%q, %v", said, err)
	}
}

func TestSameProgramGivesSameBytes(t *testing.T) {
	p := program(t)
	if !bytes.Equal(archive(t, p, "registry.test/hello:1"), archive(t, p, "registry.test/hello:1")) {
		t.Error("two archives differ")
	}
}

func TestNameNeedsATag(t *testing.T) {
	img, err := image.Build(image.Options{Program: program(t), Architecture: runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "UPPER:1", "a b"} {
		if err := image.Write(io.Discard, name, img); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
}
