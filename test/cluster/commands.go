package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cairn-backup/cairn/test/cluster/components/csi-driver/disk"
	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/kube"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
	"github.com/cairn-backup/cairn/test/cluster/internal/loop"
)

func newBuildCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build and fetch everything that clusters run, where missing or out of date",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return p.build(c.Context()) },
	}
}

// build makes the programs and images; two processes do not build at once.
func (p *program) build(ctx context.Context) error {
	unlock, err := host.Lock(ctx, "build")
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.cache.Tools(ctx); err != nil {
		return err
	}
	return p.cache.All(ctx)
}

func newImagesCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "images",
		Short: "Print the archives of the container images, packing those that are missing",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := p.build(c.Context()); err != nil {
				return err
			}
			archives, err := p.cache.Archives()
			if err != nil {
				return err
			}
			_, err = fmt.Println(strings.Join(archives, "\n"))
			return err
		},
	}
}

func newBinCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "bin",
		Short: "Print the folder of the built programs, kubectl among them",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Println(p.cache.Bin())
			return err
		},
	}
}

func newKubeconfigCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig NAME",
		Short: "Print the path of the cluster's kubeconfig file",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, _, err := p.running(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Println(c.Kubeconfig())
			return err
		},
	}
}

func newLogsCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "logs NAME COMPONENT",
		Short: "Print what a component of the cluster has logged",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := p.find(args[0])
			if err != nil {
				return err
			}
			if err := p.checkComponent(c, args[1], "node"); err != nil {
				return err
			}
			f, err := os.Open(c.Log(args[1]))
			if err != nil {
				return fmt.Errorf("cluster %s has no such log: %w", c.Name, err)
			}
			defer f.Close()
			_, err = io.Copy(os.Stdout, f)
			return err
		},
	}
}

func (p *program) checkComponent(c layout.Cluster, component string, others ...string) error {
	names := append(p.node(c, "").Names(), others...)
	if slices.Contains(names, component) {
		return nil
	}
	return fmt.Errorf("there is no component %q; the components are %s", component, strings.Join(names, ", "))
}

func newLoadCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "load NAME IMAGE.tar...",
		Short: "Import image archives into a cluster",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			_, init, err := p.running(args[0])
			if err != nil {
				return err
			}
			return p.load(c.Context(), init, args[1:])
		},
	}
}

func newKillCommand(p *program) *cobra.Command {
	signal := "KILL"
	c := &cobra.Command{
		Use:   "kill NAME COMPONENT",
		Short: "Send a signal to a component of the cluster; one that ends is started again by itself",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			c, _, err := p.running(args[0])
			if err != nil {
				return err
			}
			if err := p.checkComponent(c, args[1]); err != nil {
				return err
			}
			number := unix.SignalNum("SIG" + signal)
			if number == 0 {
				return fmt.Errorf("there is no signal %q; use KILL, TERM, STOP or CONT", signal)
			}
			return kill(c, args[1], number)
		},
	}
	c.Flags().StringVarP(&signal, "signal", "s", signal, "the signal's name without SIG: STOP holds the component up until CONT")
	return c
}

// kill sends a signal to the component's processes, known by the name that the supervisor has given them.
func kill(c layout.Cluster, component string, signal syscall.Signal) error {
	pids, err := host.Processes(c)
	if err != nil {
		return err
	}
	found := 0
	for _, pid := range pids {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue // it has ended
		}
		if name, _, _ := strings.Cut(string(line), "\x00"); name != component {
			continue
		}
		if err := syscall.Kill(pid, signal); err != nil {
			return fmt.Errorf("kill %s: %w", component, err)
		}
		found++
	}
	if found == 0 {
		return fmt.Errorf("%s is not running in cluster %s just now; see: testcluster logs %[2]s %[1]s", component, c.Name)
	}
	return nil
}

type clusterStatus struct {
	Name       string `json:"name"`
	Index      int    `json:"index"`
	State      string `json:"state"` // up, starting, kept (down, its state is kept) or crashed
	NodeIP     string `json:"nodeIP"`
	Kubeconfig string `json:"kubeconfig"`
}

func newStatusCommand(p *program) *cobra.Command {
	output := "table"
	c := &cobra.Command{
		Use:   "status",
		Short: "List the clusters of the state folder",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			statuses, err := p.statuses(c.Context())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				return printJSON(statuses)
			case "table":
				return printTable(statuses)
			}
			return fmt.Errorf("output %q: use table or json", output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", output, "table or json")
	return c
}

func (p *program) statuses(ctx context.Context) ([]clusterStatus, error) {
	all, err := p.clusters()
	if err != nil {
		return nil, err
	}
	statuses := []clusterStatus{}
	for _, c := range all {
		state, err := stateOf(ctx, c)
		if err != nil {
			return nil, err
		}
		statuses = append(statuses, clusterStatus{c.Name, c.Index, state, c.NodeIP(), c.Kubeconfig()})
	}
	return statuses, nil
}

func stateOf(ctx context.Context, c layout.Cluster) (string, error) {
	m, err := recall(c)
	if err != nil {
		return "", err
	}
	init, err := initOf(c)
	switch {
	case err != nil:
		return "", err
	case init == 0 && m.Kept:
		return "kept", nil
	case init == 0:
		return "crashed", nil
	case !m.Ready:
		return "starting", nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	k, err := kube.New(c)
	if err != nil {
		return "", err
	}
	if err := k.Ready(ctx); err != nil {
		return "up, but the API server does not answer", nil
	}
	return "up", nil
}

func printTable(statuses []clusterStatus) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tNODE\tKUBECONFIG")
	for _, s := range statuses {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name, s.State, s.NodeIP, s.Kubeconfig)
	}
	return w.Flush()
}

func newFaultCommand(p *program) *cobra.Command {
	var f disk.Fault
	var delay time.Duration
	var code string
	var off bool
	c := &cobra.Command{
		Use:   "fault NAME [CALL]",
		Short: "Delay or fail calls of the disk driver, or print or clear what is set",
		Long: "Sets what happens to one CSI call of the disk driver from now on, in place of what was set for it.\n" +
			"With --clear it removes what is set for CALL, or for all calls. With neither it prints what is set.\n\nCalls: " + strings.Join(disk.Calls, ", "),
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			c, _, err := p.running(args[0])
			if err != nil {
				return err
			}
			if code != "" {
				if f.Code, err = disk.ParseCode(code); err != nil {
					return err
				}
			}
			f.Delay = disk.Duration(delay)
			return fault(c, args[1:], f, off)
		},
	}
	c.Flags().DurationVar(&delay, "delay", 0, "how long each call waits first")
	c.Flags().IntVar(&f.Fail, "fail", 0, "how many calls fail; -1 for all")
	c.Flags().StringVar(&code, "code", "", "the gRPC code of the failure (default Internal)")
	c.Flags().StringVar(&f.Message, "message", "", "the message of the failure")
	c.Flags().BoolVar(&off, "clear", false, "remove the fault of CALL, or all faults")
	return c
}

func fault(c layout.Cluster, calls []string, f disk.Fault, off bool) error {
	for _, call := range calls {
		if !slices.Contains(disk.Calls, call) {
			return fmt.Errorf("there is no call %q; the calls are %s", call, strings.Join(disk.Calls, ", "))
		}
	}
	set := f != disk.Fault{}
	if set && (off || len(calls) == 0) {
		return fmt.Errorf("name one call to set a fault for, and do not use --clear with other flags")
	}
	var now map[string]disk.Fault
	err := disk.EditFaults(c.Faults(), func(faults map[string]disk.Fault) {
		switch {
		case off && len(calls) == 0:
			clear(faults)
		case off:
			delete(faults, calls[0])
		case set:
			faults[calls[0]] = f
		}
		now = faults
	})
	if err != nil {
		return err
	}
	return printJSON(now)
}

// cloudDisk is a disk or a share as disks prints it.
type cloudDisk struct {
	disk.Record
	Cluster  string `json:"cluster"`
	Attached string `json:"attached,omitempty"` // the loop device
}

// inventory is what the emulated cloud holds.
type inventory struct {
	Disks     []cloudDisk   `json:"disks"`
	Shares    []cloudDisk   `json:"shares"`
	Snapshots []disk.Record `json:"snapshots"`
}

func newDisksCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "disks",
		Short: "Print, as JSON, the disks, shares and snapshots that exist on the storage side",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			i, err := p.inventory()
			if err != nil {
				return err
			}
			return printJSON(i)
		},
	}
}

func (p *program) inventory() (inventory, error) {
	out := inventory{Disks: []cloudDisk{}, Shares: []cloudDisk{}}
	all, err := p.clusters()
	if err != nil {
		return out, err
	}
	for _, c := range all {
		disks, err := inFolder(c, c.Disks())
		if err != nil {
			return out, err
		}
		shares, err := inFolder(c, c.Shares())
		if err != nil {
			return out, err
		}
		out.Disks, out.Shares = append(out.Disks, disks...), append(out.Shares, shares...)
	}
	out.Snapshots, err = disk.Records(layout.Cluster{Dir: p.dir}.Snapshots())
	return out, err
}

func inFolder(c layout.Cluster, folder string) ([]cloudDisk, error) {
	records, err := disk.Records(folder)
	if err != nil {
		return nil, err
	}
	var disks []cloudDisk
	for _, r := range records {
		device, err := loop.Find(filepath.Join(folder, r.Name+".img"))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		disks = append(disks, cloudDisk{Record: r, Cluster: c.Name, Attached: device})
	}
	return disks, nil
}

func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
