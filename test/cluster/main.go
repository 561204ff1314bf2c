// Command testcluster runs real Kubernetes clusters of one node each on a bare Debian machine, without Docker and without
// a registry: etcd, the Kubernetes programs, containerd, CNI, DNS, and CSI drivers that stand in for Azure's disks and
// file shares. It is for tests and playgrounds: it needs root, keeps nothing secret and trusts everyone on the machine.
//
// A cluster is a set of Linux namespaces, see package node; what it owns on the machine is told in packages layout and
// host. Clusters have the addresses 10.99.0.11 (a), 10.99.0.12 (b) and so on; the machine is 10.99.0.1 and reaches their
// pods, as pods reach servers on 10.99.0.1.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cairn-backup/cairn/test/cluster/internal/build"
	"github.com/cairn-backup/cairn/test/cluster/internal/config"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
	"github.com/cairn-backup/cairn/test/cluster/internal/node"
	"github.com/cairn-backup/cairn/test/cluster/internal/progress"
)

func main() {
	// Where mkfs.xfs and iptables are; su without - leaves root without them.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "testcluster:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	p := &program{log: progress.New(os.Stderr)}
	c := &cobra.Command{
		Use:           "testcluster",
		Short:         "Run real Kubernetes clusters on this machine, for tests",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return p.locate()
		},
	}
	c.PersistentFlags().StringVar(&p.dir, "dir", "", "folder for the clusters' state (default $CAIRN_CLUSTER_DIR or .up/clusters in the repository)")
	c.PersistentFlags().StringVar(&p.cache.Dir, "cache", "", "folder for built programs and images (default $CAIRN_CACHE_DIR or .cache/cluster in the repository)")
	c.AddCommand(
		newBuildCommand(p), newImagesCommand(p), newBinCommand(p),
		newUpCommand(p), newDownCommand(p), newStatusCommand(p),
		newKubeconfigCommand(p), newLogsCommand(p), newLoadCommand(p),
		newKillCommand(p), newFaultCommand(p), newDisksCommand(p),
		newNodeCommand(p), newSuperviseCommand(p),
	)
	return c
}

// program is what all commands share.
type program struct {
	dir   string
	cache build.Cache
	log   *progress.Log
}

// locate fills in the folders that no flag has set.
func (p *program) locate() error {
	p.cache.Log = p.log
	repository, err := findRepository()
	if err != nil {
		return err
	}
	p.cache.Source = filepath.Join(repository, "test/cluster")
	if p.dir, err = folder(p.dir, "CAIRN_CLUSTER_DIR", filepath.Join(repository, ".up/clusters")); err != nil {
		return err
	}
	p.cache.Dir, err = folder(p.cache.Dir, "CAIRN_CACHE_DIR", filepath.Join(repository, ".cache/cluster"))
	return err
}

func folder(flag, env, fallback string) (string, error) {
	for _, path := range []string{flag, os.Getenv(env), fallback} {
		if path == "" {
			continue
		}
		path, err := filepath.Abs(path)
		if err == nil && node.Hidden(path) {
			err = fmt.Errorf("%s is of no use: nodes have their own /var, /etc, /opt and /run; choose a folder elsewhere", path)
		}
		return path, err
	}
	return fallback, nil
}

// findRepository looks for the repository's root from the working folder up, then from the program itself up.
func findRepository() (string, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "test/cluster/components/hyper")); err == nil {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("the repository is not above %v; run testcluster inside it", starts)
}

// node is the cluster together with its programs.
func (p *program) node(c layout.Cluster, subscription string) config.Node {
	return config.Node{Cluster: c, Bin: p.cache.Bin(), Debian: p.cache.Debian(), Subscription: subscription}
}

// running is the cluster called name and the number of its node's pid 1, or an error when it is not up.
func (p *program) running(name string) (layout.Cluster, int, error) {
	c, err := p.find(name)
	if err != nil {
		return c, 0, err
	}
	init, err := initOf(c)
	if err == nil && init == 0 {
		err = fmt.Errorf("cluster %s is not up; start it with: testcluster up %[1]s", name)
	}
	return c, init, err
}

func requireRoot() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("this needs root: it makes namespaces, mounts and a bridge")
	}
	return nil
}
