// Package world brings up all of Cairn for a person or a test: real Kubernetes clusters (test/cluster), the service, and each
// cluster joined to it. It is what `make up`, `make demo` and the end-to-end tests stand on.
//
// All state of a world is in one folder. Up looks before it acts, so that it can be run again at any time; Down leaves nothing.
package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ResourceGroup and Location are where the worlds' clusters are, as in the guide.
const (
	ResourceGroup = "rg-aks-production"
	Location      = "eastus"
)

// ExtensionImage is the extension's image in the test clusters; they pull nothing, it is imported.
const ExtensionImage = "registry.test/cairn-extension:dev"

// TestDir is the folder of the end-to-end tests' world.
func TestDir(repo string) string { return filepath.Join(repo, ".e2e") }

// Cluster is one Kubernetes cluster of a world.
type Cluster struct {
	// Name is the test cluster's name, short: it goes into interface names.
	Name string
	// ARMName is what the Backup service calls it.
	ARMName string
}

// Config says what world to bring up.
type Config struct {
	// Repo is the repository's folder.
	Repo string
	// Dir is the world's folder; Up makes it, Down removes it.
	Dir string
	// Clusters are the clusters to start and to join.
	Clusters []Cluster
	// Port is the service's port for the API; the blob endpoint has the next one.
	Port int
	// BlobFront, if not 0, is the port at which clients are told that the blob endpoint is: a test that forwards from there to BlobEndpoint
	// can disturb what passes.
	BlobFront int
	// Out gets a line for every step, with the time it took.
	Out io.Writer
}

// World is a running service with its clusters.
type World struct {
	Config
	started time.Time
}

// Bin is the folder of the world's programs: az, cairn, cairnd, kubectl.
func (w *World) Bin() string { return filepath.Join(w.Dir, "bin") }

// Kubeconfig is the file that gives administration of a cluster.
func (w *World) Kubeconfig(c Cluster) string { return filepath.Join(w.Dir, "kubeconfig-"+c.Name) }

// EnvFile is the file that a shell sources to use the world.
func (w *World) EnvFile() string { return filepath.Join(w.Dir, "env") }

// Up brings the world up, or completes it.
func Up(ctx context.Context, cfg Config) (*World, error) {
	w := &World{Config: cfg, started: time.Now()}
	for _, dir := range []string{w.Bin(), w.logs()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"build cairn, cairnd and the extension's image", w.build},
		{"build Kubernetes and start the clusters (the first build takes about 5 minutes on two cores)", w.startClusters},
		{"start the Backup service", w.StartService},
		{"write the environment", w.writeEnv},
		{"join the clusters to the service", w.connect},
	}
	for i, s := range steps {
		begun := time.Now()
		fmt.Fprintf(w.Out, "[%d/%d] %s\n", i+1, len(steps), s.what)
		if err := s.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", s.what, err)
		}
		fmt.Fprintf(w.Out, "[%d/%d] done in %.1fs\n", i+1, len(steps), time.Since(begun).Seconds())
	}
	return w, nil
}

// Down ends the world in cfg.Dir and removes its folder. A world that is not there is no error.
func Down(ctx context.Context, cfg Config) error {
	w := &World{Config: cfg}
	failed := w.stopService()
	if _, err := os.Stat(w.clusterDir()); err == nil {
		failed = errors.Join(failed, w.TestCluster(ctx, "down", "--all"))
	}
	if failed != nil {
		return fmt.Errorf("take down %s: %w", w.Dir, failed)
	}
	return os.RemoveAll(w.Dir)
}

func (w *World) logs() string       { return filepath.Join(w.Dir, "log") }
func (w *World) clusterDir() string { return filepath.Join(w.Dir, "clusters") }
func (w *World) cache() string      { return filepath.Join(w.Repo, ".cache") }

// ImageFile is the extension's image as a file.
func (w *World) ImageFile() string { return filepath.Join(w.Dir, "cairn-extension.tar") }

func (w *World) build(ctx context.Context) error {
	if err := w.run(ctx, w.Repo, "go", "build", "-trimpath", "-o", w.Bin()+"/", "./cmd/cairn", "./cmd/cairnd"); err != nil {
		return err
	}
	if err := relink("cairn", filepath.Join(w.Bin(), "az")); err != nil {
		return err
	}
	if err := w.run(ctx, w.Repo, "go", "run", "./cmd/cairn-image", "--name", ExtensionImage, "--output", w.ImageFile()); err != nil {
		return err
	}
	return w.run(ctx, filepath.Join(w.Repo, "test", "cluster"), "go", "build", "-trimpath", "-o", filepath.Join(w.Bin(), "testcluster"), ".")
}

// TestCluster runs the testcluster program on the world's clusters, its output going to Out.
func (w *World) TestCluster(ctx context.Context, args ...string) error {
	return w.run(ctx, w.Repo, filepath.Join(w.Bin(), "testcluster"), args...)
}

// TestClusterOutput is TestCluster, returning what the program prints.
func (w *World) TestClusterOutput(ctx context.Context, args ...string) (string, error) {
	cmd := w.command(ctx, w.Repo, filepath.Join(w.Bin(), "testcluster"), args...)
	cmd.Stdout = nil
	out, err := cmd.Output()
	return string(out), err
}

func (w *World) startClusters(ctx context.Context) error {
	args := []string{"up", "--image", w.ImageFile()}
	for _, c := range w.Clusters {
		args = append(args, c.Name)
	}
	if err := w.TestCluster(ctx, args...); err != nil {
		return err
	}
	for _, c := range w.Clusters {
		file, err := w.TestClusterOutput(ctx, "kubeconfig", c.Name)
		if err != nil {
			return err
		}
		if err := relink(strings.TrimSpace(file), w.Kubeconfig(c)); err != nil {
			return err
		}
	}
	bin, err := w.TestClusterOutput(ctx, "bin")
	if err != nil {
		return err
	}
	return relink(filepath.Join(strings.TrimSpace(bin), "kubectl"), filepath.Join(w.Bin(), "kubectl"))
}

func (w *World) connect(ctx context.Context) error {
	for _, c := range w.Clusters {
		err := w.run(ctx, w.Dir, filepath.Join(w.Bin(), "cairn"), "cluster", "connect", "--name", c.ARMName, "--resource-group", ResourceGroup,
			"--location", Location, "--kubeconfig", w.Kubeconfig(c), "--image", ExtensionImage, "--output", "table")
		if err != nil {
			return err
		}
	}
	return nil
}

// run runs a program to its end, its output going to Out.
func (w *World) run(ctx context.Context, dir, program string, args ...string) error {
	if err := w.command(ctx, dir, program, args...).Run(); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return nil
}

func (w *World) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = w.Out, w.Out
	cmd.Env = append(w.Env(), "CAIRN_CLUSTER_DIR="+w.clusterDir(), "CAIRN_CACHE_DIR="+filepath.Join(w.cache(), "cluster"), "CGO_ENABLED=0")
	return cmd
}

// relink makes link a symbolic link to target, replacing what is there.
func relink(target, link string) error {
	if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(target, link)
}
