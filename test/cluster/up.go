package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cairn-backup/cairn/test/cluster/internal/config"
	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/kube"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
	"github.com/cairn-backup/cairn/test/cluster/internal/node"
	"github.com/cairn-backup/cairn/test/cluster/internal/pki"
	"github.com/cairn-backup/cairn/test/cluster/internal/progress"
)

// startTimeout is how long a cluster may take from the start of its node, on a machine that has other work too.
const startTimeout = 5 * time.Minute

// defaultSubscription is the subscription in disk handles when nobody names another.
const defaultSubscription = "11111111-1111-1111-1111-111111111111"

type upOptions struct {
	images       []string
	subscription string
	keep         bool
}

func newUpCommand(p *program) *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up NAME...",
		Short: "Start clusters, building what is missing; a cluster that is up stays as it is",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, names []string) error {
			return p.upAll(c.Context(), names, o)
		},
	}
	c.Flags().StringArrayVar(&o.images, "image", nil, "image archive to import as well (repeatable)")
	c.Flags().StringVar(&o.subscription, "subscription", defaultSubscription, "the Azure subscription in the handles of disks and snapshots")
	c.Flags().BoolVar(&o.keep, "keep", false, "go on with the state of a cluster that was not taken down but ended")
	return c
}

func (p *program) upAll(ctx context.Context, names []string, o upOptions) error {
	if err := requireRoot(); err != nil {
		return err
	}
	for _, name := range names {
		if err := layout.Check(name); err != nil {
			return err
		}
	}
	if err := p.build(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range names {
		group.Go(func() error { return p.up(ctx, name, o) })
	}
	return group.Wait()
}

func (p *program) up(ctx context.Context, name string, o upOptions) error {
	unlock, err := host.Lock(ctx, "cluster-"+name)
	if err != nil {
		return err
	}
	defer unlock()
	start := time.Now()
	log := p.log.For(name)
	c, err := p.find(name)
	if err != nil {
		return err
	}
	init, err := initOf(c)
	if err != nil {
		return err
	}
	m, err := recall(c)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if init != 0 && m.Ready {
		log.Say("is up already; nothing is changed")
		return p.announce(c)
	}
	if init == 0 {
		if c, init, err = p.start(ctx, log, c, o); err != nil {
			return fmt.Errorf("cluster %s: %w", name, err)
		}
	}
	if err := p.finish(ctx, log, c, init, o.images); err != nil {
		return fmt.Errorf("cluster %s: %w; its logs are in %s", name, err, c.Path("log"))
	}
	if err := remember(c, memory{Index: c.Index, Subscription: o.subscription, Ready: true}); err != nil {
		return err
	}
	log.Say("up after %.1f s", time.Since(start).Seconds())
	return p.announce(c)
}

// announce tells how to use the cluster.
func (p *program) announce(c layout.Cluster) error {
	_, err := fmt.Printf("export KUBECONFIG=%s\n", c.Kubeconfig())
	return err
}

// start removes what a predecessor may have left and starts the node.
func (p *program) start(ctx context.Context, log *progress.Log, c layout.Cluster, o upOptions) (layout.Cluster, int, error) {
	m, err := recall(c)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, 0, err
	}
	err = log.Step("prepared the machine", nil, func() error {
		members, err := host.Members()
		if err != nil {
			return err
		}
		if err := own(c, members); err != nil {
			return err // before anything of it is removed
		}
		keep := m.Kept || o.keep
		if err := p.clear(ctx, c, keep); err != nil {
			return err
		}
		c, err = p.prepareHost(ctx, c, keep)
		if err != nil {
			return err
		}
		return p.prepareFiles(c, o.subscription)
	})
	if err != nil {
		return c, 0, err
	}
	init, err := p.startNode(p.node(c, o.subscription))
	return c, init, err
}

// clear removes all traces of an earlier run of the cluster from the machine, and its state unless that is kept.
func (p *program) clear(ctx context.Context, c layout.Cluster, keep bool) error {
	unlock, err := host.Lock(ctx, "host")
	if err != nil {
		return err
	}
	defer unlock()
	members, err := host.Members()
	if err != nil {
		return err
	}
	if err := removeRemains(c, members); err != nil {
		return err
	}
	if keep {
		return nil
	}
	return errors.Join(os.RemoveAll(c.Home()), removeDisks(c))
}

// removeDisks removes the cluster's disks and shares. Snapshots stay: they belong to all clusters.
func removeDisks(c layout.Cluster) error {
	return errors.Join(os.RemoveAll(c.Disks()), os.RemoveAll(c.Shares()))
}

// removeRemains removes what a cluster owns on the machine besides its state. Once it has crashed, another state folder's
// cluster may have its name, and then owns all but the disks.
func removeRemains(c layout.Cluster, members []host.Member) error {
	steps := []func(layout.Cluster) error{host.Kill, host.DetachDisks, host.RemoveLink, host.RemoveCgroups}
	if slices.ContainsFunc(members, func(m host.Member) bool { return m.Name == c.Name && m.Dir != c.Dir }) {
		steps = []func(layout.Cluster) error{host.DetachDisks}
	}
	for _, remove := range steps {
		if err := remove(c); err != nil {
			return err
		}
	}
	return nil
}

// prepareHost gives the cluster its index, its link and its disks' file system.
func (p *program) prepareHost(ctx context.Context, c layout.Cluster, keep bool) (layout.Cluster, error) {
	unlock, err := host.Lock(ctx, "host")
	if err != nil {
		return c, err
	}
	defer unlock()
	members, err := host.Members()
	if err != nil {
		return c, err
	}
	if c, err = p.assign(c, members); err != nil {
		return c, err
	}
	if err := own(c, members); err != nil {
		return c, err
	}
	if err := host.EnsureBridge(); err != nil {
		return c, err
	}
	if err := host.Claim(c); err != nil {
		return c, err
	}
	if err := host.MountCloud(p.dir); err != nil {
		return c, err
	}
	if !keep {
		// The file system was not mounted before when the machine had been restarted.
		if err := removeDisks(c); err != nil {
			return c, err
		}
	}
	return c, host.MakeCgroups(c)
}

func (p *program) prepareFiles(c layout.Cluster, subscription string) error {
	if err := remember(c, memory{Index: c.Index, Subscription: subscription}); err != nil {
		return err
	}
	if err := node.Prepare(c); err != nil {
		return err
	}
	if err := pki.Write(c); err != nil {
		return err
	}
	admin, err := os.ReadFile(c.PKI("admin.kubeconfig"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Kubeconfig(), admin, 0o600); err != nil {
		return err
	}
	return p.node(c, subscription).Write()
}

// startNode starts pid 1 of the node and lets it go on once its link and its cgroup are in place. Should this program
// end before that, the node sees the pipe close and ends too.
func (p *program) startNode(n config.Node) (int, error) {
	log, err := os.OpenFile(n.Log("node"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	ready, release, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	defer release.Close()
	cmd := exec.Command("/proc/self/exe", "node", "--dir", p.dir, "--cache", p.cache.Dir, n.Name)
	cmd.Dir = p.cache.Source
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{ready}
	cmd.Env = []string{"HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: node.Namespaces, Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the node: %w", err)
	}
	pid := cmd.Process.Pid
	if err := host.JoinCgroups(n.Cluster, pid); err != nil {
		return pid, err
	}
	if err := host.MoveLink(n.Cluster, pid); err != nil {
		return pid, err
	}
	if _, err := release.Write([]byte{1}); err != nil {
		return pid, fmt.Errorf("the node ended at once: %w", err)
	}
	return pid, cmd.Process.Release()
}

// finish waits until the cluster can be used, importing images and applying objects as soon as that is possible.
func (p *program) finish(ctx context.Context, log *progress.Log, c layout.Cluster, init int, images []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it is not up after %s", startTimeout))
	defer cancel()
	k, err := kube.New(c)
	if err != nil {
		return err
	}
	archives, err := p.cache.Archives()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	alive, stop := context.WithCancel(ctx)
	group.Go(func() error { return watch(alive, init) })
	var work errgroup.Group
	work.Go(func() error {
		return log.Step("imported images", nil, func() error { return p.load(ctx, init, append(archives, images...)) })
	})
	work.Go(func() error {
		for _, step := range []struct {
			done string
			do   func(context.Context) error
		}{
			{"the API server is ready", k.WaitReady},
			{"applied CRDs and storage classes", func(ctx context.Context) error { return k.Apply(ctx, p.cache.CRDs()) }},
			{"the node is Ready", k.WaitNode},
			{"the CSI drivers are registered", k.WaitStorage},
			{"names resolve", k.WaitNames},
		} {
			if err := log.Step(step.done, nil, func() error { return step.do(ctx) }); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		defer stop()
		return work.Wait()
	})
	return group.Wait()
}

// watch fails when the node's pid 1 ends before ctx does.
func watch(ctx context.Context, init int) error {
	for {
		if err := syscall.Kill(init, 0); err != nil {
			return errors.New("the node has ended; see its node.log")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func newNodeCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:    "node NAME",
		Short:  "Be pid 1 of a node; started by up",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			n, err := p.self(args[0])
			if err != nil {
				return err
			}
			if os.Getpid() != 1 {
				return errors.New("node is started by up, not by hand")
			}
			supervisor := exec.Command("/proc/self/exe", "supervise", "--dir", p.dir, "--cache", p.cache.Dir, n.Name)
			supervisor.Dir = p.cache.Source
			supervisor.Stdout, supervisor.Stderr = os.Stdout, os.Stderr
			return node.Init(n, os.NewFile(3, "ready"), supervisor)
		},
	}
}

func newSuperviseCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:    "supervise NAME",
		Short:  "Keep the programs of a node running; started by its pid 1",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			n, err := p.self(args[0])
			if err != nil {
				return err
			}
			return node.Supervise(c.Context(), n)
		},
	}
}

// self is the node that this process is part of.
func (p *program) self(name string) (config.Node, error) {
	c, err := p.find(name)
	if err != nil {
		return config.Node{}, err
	}
	m, err := recall(c)
	return p.node(c, m.Subscription), err
}

// load imports image archives into the node's containerd, once that answers.
func (p *program) load(ctx context.Context, init int, archives []string) error {
	if err := p.waitRuntime(ctx, init); err != nil {
		return err
	}
	for _, archive := range archives {
		if err := p.loadOne(ctx, init, archive); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) loadOne(ctx context.Context, init int, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := p.ctr(ctx, init, "images", "import", "-")
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w: %s", filepath.Base(archive), err, out)
	}
	return nil
}

func (p *program) waitRuntime(ctx context.Context, init int) error {
	for {
		out, err := p.ctr(ctx, init, "version").CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer: %w: %s", err, out)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ctr is containerd's own client, run where its socket can be seen.
func (p *program) ctr(ctx context.Context, init int, args ...string) *exec.Cmd {
	ctr := filepath.Join(p.cache.Debian(), "usr/bin/ctr")
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", fmt.Sprint(init), "--mount", ctr, "--namespace", "k8s.io"}, args...)...)
}
