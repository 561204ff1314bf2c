// Package build makes what a test cluster runs: the Kubernetes programs compiled from their modules, Debian's containerd,
// runc and CNI plugins, and a few container images. All of it lies in a cache folder. Each part has a stamp, a hash of
// everything it is made from, and is made again only when that changes.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/cairn-backup/cairn/test/cluster/internal/progress"
)

// Cache makes and finds everything that is built.
type Cache struct {
	Dir    string // the cache folder, absolute
	Source string // the folder of this module, absolute
	Log    *progress.Log
}

// Bin is the folder of the built programs.
func (c *Cache) Bin() string { return filepath.Join(c.Dir, "bin") }

// Debian is the root below which Debian's packages are unpacked.
func (c *Cache) Debian() string { return filepath.Join(c.Dir, "debian") }

// PostgreSQL is the root below which Debian's PostgreSQL is unpacked.
func (c *Cache) PostgreSQL() string { return filepath.Join(c.Dir, "postgresql") }

// CRDs is the folder of the snapshot CRDs.
func (c *Cache) CRDs() string { return filepath.Join(c.Dir, "crds") }

// Images is the folder of the container images.
func (c *Cache) Images() string { return filepath.Join(c.Dir, "images") }

// programs is one call of go build.
type programs struct {
	what     string
	packages []string
	sources  []string // folders in this module that the result depends on, besides go.mod and go.sum
	links    []string // names under which the first program can be called
}

var groups = []programs{
	{
		what:     "Kubernetes and etcd",
		packages: []string{"./components/hyper"},
		sources:  []string{"components/hyper"},
		links:    []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"},
	},
	{
		what: "CSI sidecars",
		packages: []string{
			"github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner",
			"github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
			"github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller",
		},
	},
	{what: "CoreDNS", packages: []string{"./components/coredns"}, sources: []string{"components/coredns"}},
	{what: "CSI driver", packages: []string{"./components/csi-driver"}, sources: []string{"components/csi-driver", "internal/loop"}},
	{what: "programs of the images", packages: []string{"./components/pause", "./components/fetch"}, sources: []string{"components/pause", "components/fetch"}},
}

// All makes everything that is missing or out of date.
func (c *Cache) All(ctx context.Context) error {
	if err := os.MkdirAll(c.Bin(), 0o755); err != nil {
		return err
	}
	for _, g := range groups {
		if err := c.programs(ctx, g); err != nil {
			return err
		}
	}
	if err := c.crds(ctx); err != nil {
		return err
	}
	if err := c.unpackRuntime(ctx); err != nil {
		return err
	}
	// Tests of other modules start it too, so that it must be there whether or not its image has been packed.
	if found, err := filepath.Glob(filepath.Join(c.PostgreSQL(), "usr/lib/postgresql/*/bin/postgres")); err != nil {
		return err
	} else if len(found) == 0 {
		if _, err := c.unpackPostgres(ctx); err != nil {
			return err
		}
	}
	return c.AllImages(ctx)
}

func (c *Cache) programs(ctx context.Context, g programs) error {
	key, err := c.key(g.sources)
	if err != nil {
		return err
	}
	return c.part(filepath.Join(c.Bin(), "."+strings.ReplaceAll(g.what, " ", "-")), key, func() error {
		counter := &lines{}
		detail := func() string { return fmt.Sprintf("%d packages compiled", counter.n.Load()) }
		return c.Log.Step("built "+g.what, detail, func() error {
			version, err := c.module(ctx, "k8s.io/kubernetes", "{{.Version}}")
			if err != nil {
				return err
			}
			args := append([]string{"build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", ldflags(version), "-o", c.Bin() + "/"}, g.packages...)
			if err := c.goTool(ctx, counter, args...); err != nil {
				return fmt.Errorf("build %s: %w", g.what, err)
			}
			for _, name := range g.links {
				if err := link(filepath.Base(g.packages[0]), filepath.Join(c.Bin(), name)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// ldflags stamp the version, without which the node would call itself v0.0.0. It has the form v1.36.3.
func ldflags(version string) string {
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for variable, value := range map[string]string{
			"gitVersion": version, "gitMajor": "1", "gitMinor": strings.Split(version, ".")[1], "gitTreeState": "clean",
			"gitCommit": strings.Repeat("0", 40), "buildDate": "2026-01-01T00:00:00Z",
		} {
			flags = append(flags, "-X "+pkg+"."+variable+"="+value)
		}
	}
	return strings.Join(flags, " ")
}

func (c *Cache) goTool(ctx context.Context, stderr io.Writer, args ...string) error {
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.Source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = io.MultiWriter(stderr, &complaint)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, complaint.Bytes())
	}
	return nil
}

// module tells something about a module that this one requires; format is that of go list.
func (c *Cache) module(ctx context.Context, path, format string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", format, path)
	cmd.Dir = c.Source
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find module %s: %w", path, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// crds copies the snapshot CRDs out of the client module, so that they always belong to the version in go.mod.
func (c *Cache) crds(ctx context.Context) error {
	const module = "github.com/kubernetes-csi/external-snapshotter/client/v8"
	key, err := c.key(nil)
	if err != nil {
		return err
	}
	return c.part(filepath.Join(c.CRDs(), ".stamp"), key, func() error {
		dir, err := c.module(ctx, module, "{{.Dir}}")
		if err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(dir, "config/crd/snapshot.storage.k8s.io_*.yaml"))
		if err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("module %s has no CRDs where they are expected (config/crd)", module)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(c.CRDs(), filepath.Base(file)), b, 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// part calls make unless the stamp file says that its result for this key is there.
func (c *Cache) part(stamp, key string, make func() error) error {
	if have, err := os.ReadFile(stamp); err == nil && string(have) == key {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(stamp), 0o755); err != nil {
		return err
	}
	if err := os.Remove(stamp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := make(); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(key), 0o644)
}

// key is a hash of the modules' versions, the Go version and the sources in folders, tests left out.
func (c *Cache) key(folders []string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	files := []string{filepath.Join(c.Source, "go.mod"), filepath.Join(c.Source, "go.sum")}
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(c.Source, folder), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, "_test.go") {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, strings.TrimPrefix(file, c.Source), len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func link(target, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}

// lines counts lines: go build -v prints one for each package it compiles.
type lines struct{ n atomic.Int64 }

// Write counts.
func (l *lines) Write(b []byte) (int, error) {
	l.n.Add(int64(bytes.Count(b, []byte("\n"))))
	return len(b), nil
}
