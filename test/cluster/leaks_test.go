package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
	"github.com/cairn-backup/cairn/test/cluster/internal/loop"
)

// traces are what tells that something on the machine belongs to a cluster, once that is gone: by then neither a path
// nor a name leads to it.
type traces struct {
	layout.Cluster
	namespaces map[string]bool // as in net:[4026531840]
	devices    []loop.Device   // of its disks, and those on top of them
}

// traces looks at the cluster while it runs.
func (c *cluster) traces() traces {
	c.t.Helper()
	pids, err := host.Processes(c.Cluster)
	if err != nil {
		c.t.Fatal(err)
	}
	t := traces{Cluster: c.Cluster, namespaces: map[string]bool{}}
	for _, pid := range pids {
		maps.Copy(t.namespaces, namespaces(fmt.Sprint(pid)))
	}
	for own := range namespaces("self") {
		delete(t.namespaces, own)
	}
	disks := map[loop.Backing]bool{}
	for _, image := range glob(c.t, filepath.Join(c.Disks(), "*.img")) {
		disks[backing(c.t, image)] = true
	}
	numbers := map[uint64]bool{}
	for _, d := range devices(c.t) {
		if disks[d.Backing] {
			t.devices = append(t.devices, d)
			numbers[backing(c.t, d.Path).Rdev] = true
		}
	}
	for _, d := range devices(c.t) {
		if d.Backing.Rdev != 0 && numbers[d.Backing.Rdev] {
			t.devices = append(t.devices, d)
		}
	}
	c.t.Logf("%s has %d processes, %d namespaces and the loop devices %v", c.Name, len(pids), len(t.namespaces), t.devices)
	if len(t.namespaces) == 0 || len(t.devices) == 0 {
		c.t.Errorf("no namespaces or no loop devices of cluster %s are found while it runs", c.Name)
	}
	return t
}

// checkGone fails the test for each thing of the cluster that is still on the machine.
func (c traces) checkGone(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(c.Home()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of %s is still there (%v)", c.Name, err)
	}
	for _, link := range []string{"tc-" + c.Name, "tcn-" + c.Name} {
		if _, err := net.InterfaceByName(link); err == nil {
			t.Errorf("interface %s is still there", link)
		}
	}
	for _, dir := range glob(t, "/proc/[0-9]*") {
		for ns := range namespaces(filepath.Base(dir)) {
			if c.namespaces[ns] {
				t.Errorf("process %s still has namespace %s of %s", dir, ns, c.Name)
			}
		}
		b, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if err != nil {
			continue // it has ended
		}
		if bytes.Contains(b, []byte(c.Home()+"/")) {
			t.Errorf("process %s still has mounts of %s", dir, c.Name)
		}
		for ns := range c.namespaces {
			if bytes.Contains(b, []byte(ns)) {
				t.Errorf("process %s still has namespace %s of %s mounted", dir, ns, c.Name)
			}
		}
	}
	for _, d := range devices(t) {
		if slices.Contains(c.devices, d) {
			t.Errorf("a disk of %s is still attached: %v", c.Name, d)
		}
	}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && "/"+d.Name() == c.Cgroup() {
			t.Errorf("cgroup %s is still there", path)
		}
		return nil // groups of others come and go meanwhile
	})
	if err != nil {
		t.Error(err)
	}
	if routed(t, c.PodCIDR()) {
		t.Errorf("the route to the pods of %s is still there", c.Name)
	}
}

// machine is what the clusters of all state folders share.
type machine struct {
	clusters []host.Member
	bridge   bool
	sysctls  string // that the kubelet changes
}

func lookAt(t *testing.T) machine {
	t.Helper()
	var m machine
	var err error
	if m.clusters, err = host.Members(); err != nil {
		t.Fatal(err)
	}
	_, err = net.InterfaceByName(layout.Bridge)
	m.bridge = err == nil
	for _, file := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"} {
		b, err := os.ReadFile(filepath.Join("/proc/sys", file))
		if err != nil {
			t.Fatal(err)
		}
		m.sysctls += file + "=" + string(b)
	}
	return m
}

// checkSame fails the test for each thing that is not as it was before the clusters of the state folder dir, with the
// file cloud for their disks, came up.
func (before machine) checkSame(t *testing.T, dir string, cloud loop.Backing) {
	t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state folder is still there (%v)", err)
	}
	for _, file := range glob(t, "/proc/[0-9]*/mountinfo") {
		if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte(dir)) {
			t.Errorf("%s still names the state folder", file)
		}
	}
	for _, d := range devices(t) {
		if d.Backing == cloud {
			t.Errorf("the disks' file system is still attached: %v", d)
		}
	}
	for _, cidr := range []string{layout.NodeNet, layout.PodNet} {
		if !unreachable(t, cidr) {
			t.Errorf("the standing unreachable route to %s is missing", cidr)
		}
	}
	after := lookAt(t)
	if len(before.clusters) > 0 || len(after.clusters) > 0 {
		t.Logf("the machine has other clusters (%v), whose bridge and sysctls are not judged", after.clusters)
		return
	}
	if after.bridge {
		t.Errorf("bridge %s is still there without clusters", layout.Bridge)
	}
	if after.sysctls != before.sysctls {
		t.Errorf("the sysctls were\n%sand are\n%s", before.sysctls, after.sysctls)
	}
}

// namespaces are those of a process; none when it has ended, also while the machine's init has not yet taken note of that.
func namespaces(pid string) map[string]bool {
	all := map[string]bool{}
	for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts"} {
		ns, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
		if err != nil {
			return nil
		}
		all[ns] = true
	}
	return all
}

func devices(t *testing.T) []loop.Device {
	t.Helper()
	all, err := loop.List()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func backing(t *testing.T, path string) loop.Backing {
	t.Helper()
	b, err := loop.BackingOf(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func routes(t *testing.T) []netlink.Route {
	t.Helper()
	all, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// routed tells whether the machine has a route to exactly the addresses of cidr.
func routed(t *testing.T, cidr string) bool {
	t.Helper()
	return slices.ContainsFunc(routes(t), func(r netlink.Route) bool {
		return r.Dst != nil && r.Dst.String() == cidr && r.Type == unix.RTN_UNICAST
	})
}

func unreachable(t *testing.T, cidr string) bool {
	t.Helper()
	return slices.ContainsFunc(routes(t), func(r netlink.Route) bool {
		return r.Dst != nil && r.Dst.String() == cidr && r.Type == unix.RTN_UNREACHABLE
	})
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
