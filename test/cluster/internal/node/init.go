// Package node is the inside of a test cluster's node: what runs as pid 1 of its namespaces, and the supervisor that
// keeps the cluster's programs running. A node is no container: it is the machine's own file system with private mounts
// for what the programs write, so that each cluster can use the standard paths and ports, and so that killing its pid 1
// takes every process and every mount of the cluster with it.
package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cairn-backup/cairn/test/cluster/internal/config"
	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

// Namespaces are the kernel's flags for the namespaces that a node has of its own.
const Namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// private are the folders that the node sees as the machine has them but writes to copies of.
var private = []string{"/var", "/etc", "/opt"}

// Hidden tells whether path lies where the node does not see the machine's files, so that neither the state nor the
// cache may be there.
func Hidden(path string) bool {
	for _, p := range append([]string{"/run", "/proc", "/sys", "/dev"}, private...) {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

// Init is pid 1 of the node. It waits for the starter to send a byte through ready (the node's link and cgroup are in
// place), sets up the mounts and the network, starts supervisor and reaps processes until the supervisor ends.
func Init(n config.Node, ready io.Reader, supervisor *exec.Cmd) error {
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		return errors.New("the starter of the node has ended too early")
	}
	if err := setUpMounts(n); err != nil {
		return fmt.Errorf("mounts of node %s: %w", n.Node(), err)
	}
	if err := host.SetUpNode(n.Cluster); err != nil {
		return fmt.Errorf("network of node %s: %w", n.Node(), err)
	}
	if err := syscall.Sethostname([]byte(n.Node())); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := supervisor.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reap: %w", err)
		}
		if pid == supervisor.Process.Pid {
			return fmt.Errorf("the supervisor ended with status %d, signal %d", status.ExitStatus(), status.Signal())
		}
	}
}

func setUpMounts(n config.Node) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := dropLoopMounts(n.Cloud()); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, folder := range private {
		if err := overlay(n, folder); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, folder := range []string{"/run/lock", "/etc/cni/net.d", "/opt/cni/bin"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	// Containerd's layers are overlays themselves and cannot lie on one.
	for _, name := range []string{"kubelet", "containerd"} {
		if err := bind(n.Path(name), filepath.Join("/var/lib", name)); err != nil {
			return err
		}
	}
	if err := copyFile(n.Config("10-testcluster.conflist"), "/etc/cni/net.d/10-testcluster.conflist"); err != nil {
		return err
	}
	// The cluster's own DNS: the look-up of a registry, as for an image that is not there, must fail at once.
	if err := replace("/etc/resolv.conf", "nameserver "+n.NodeIP()+"\n"); err != nil {
		return err
	}
	// Pods that ask for it see volumes that are mounted later.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// dropLoopMounts unmounts the loop-mounted file systems that came along from the machine, other than the cluster's own
// disks. Kept, they would stay in use after the machine has unmounted them.
func dropLoopMounts(keep string) error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[0], "/dev/loop") {
			continue
		}
		point := unescape(f[1])
		if point == keep {
			continue
		}
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// unescape reads a path as /proc/self/mounts writes it.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func overlay(n config.Node, folder string) error {
	upper, work := n.Path("overlay", folder, "upper"), n.Path("overlay", folder, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", folder, upper, work)
	if err := unix.Mount("overlay", folder, "overlay", 0, options); err != nil {
		return fmt.Errorf("private copy of %s: %w", folder, err)
	}
	return nil
}

func bind(source, target string) error {
	for _, d := range []string{source, target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// replace writes a new file in place of path, which may be a symbolic link to somewhere else.
func replace(path, content string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// Prepare makes the folders that the node's programs expect, before the node is started.
func Prepare(c layout.Cluster) error {
	for _, folder := range []string{"log", "etcd", "kubelet", "containerd", "overlay"} {
		if err := os.MkdirAll(c.Path(folder), 0o700); err != nil {
			return err
		}
	}
	return nil
}
