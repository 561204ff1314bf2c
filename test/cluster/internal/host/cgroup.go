package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

// nodeGroup holds the node's own processes, beside the pods' groups.
const nodeGroup = "node"

// Hierarchies reads the mount points of cgroup file systems out of the text of /proc/mounts: those of version 1 if there
// are any, else the one of version 2.
func Hierarchies(mounts string) (points []string, v2 bool) {
	var unified []string
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		switch f[2] {
		case "cgroup":
			points = append(points, f[1])
		case "cgroup2":
			unified = append(unified, f[1])
		}
	}
	if len(points) > 0 {
		return points, false
	}
	return unified, true
}

func hierarchies() ([]string, bool, error) {
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return nil, false, err
	}
	points, v2 := Hierarchies(string(b))
	if len(points) == 0 {
		return nil, false, errors.New("no cgroup file system is mounted on this machine")
	}
	return points, v2, nil
}

// MakeCgroups makes the cluster's groups in every hierarchy: the kubelet does not make its root group itself.
func MakeCgroups(c layout.Cluster) error {
	points, v2, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range points {
		for _, group := range []string{c.Cgroup(), filepath.Join(c.Cgroup(), nodeGroup)} {
			if err := makeCgroup(h, group, v2); err != nil {
				return fmt.Errorf("cgroup %s: %w", filepath.Join(h, group), err)
			}
		}
	}
	return nil
}

func makeCgroup(hierarchy, group string, v2 bool) error {
	path := filepath.Join(hierarchy, group)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	parent := filepath.Dir(path)
	if v2 {
		return delegate(parent)
	}
	// An empty cpuset admits no process, and children do not inherit it.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another hierarchy
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(path, file), b, 0); err != nil {
			return err
		}
	}
	return nil
}

// delegate lets the groups below path have every controller that path has (cgroup version 2). Those of the root stay
// enabled for good, which changes nothing for its other groups: they may have come to use one, and to take it away would
// lift their limits.
func delegate(path string) error {
	b, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(b)) {
		if err := os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
			return err
		}
	}
	return nil
}

// JoinCgroups moves process pid into the cluster's group of node processes.
func JoinCgroups(c layout.Cluster, pid int) error {
	points, _, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range points {
		procs := filepath.Join(h, c.Cgroup(), nodeGroup, "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// Processes are the cluster's processes, pods included, as the machine numbers them.
func Processes(c layout.Cluster) ([]int, error) {
	var pids []int
	err := eachGroup(c, func(path string) error {
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil // a pod's group that went away meanwhile
		}
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("processes of cluster %s: %w", c.Name, err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// eachGroup calls do for each of the cluster's groups, children before parents.
func eachGroup(c layout.Cluster, do func(path string) error) error {
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return err
	}
	points, v2 := Hierarchies(string(b))
	if !v2 {
		points = append(points, hybrid(string(b))...)
	}
	for _, h := range points {
		var groups []string
		err := filepath.WalkDir(filepath.Join(h, c.Cgroup()), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil
			}
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, g := range slices.Backward(groups) {
			if err := do(g); err != nil {
				return err
			}
		}
	}
	return nil
}

// hybrid is the version 2 hierarchy that systemd's hybrid mode mounts beside those of version 1; runc makes groups there too.
func hybrid(mounts string) []string {
	var only strings.Builder
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			only.WriteString(line)
		}
	}
	points, _ := Hierarchies(only.String())
	return points
}

// Init is the machine's number of the node's pid 1, or 0 when the node is not running.
func Init(c layout.Cluster) (int, error) {
	pids, err := Processes(c)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil && depthAndPid(string(status)) == [2]int{2, 1} {
			return pid, nil
		}
	}
	return 0, nil
}

// depthAndPid reads out of the text of /proc/PID/status in how many pid namespaces the process is visible and its
// number in the innermost. Containers' processes lie one namespace deeper than the node's.
func depthAndPid(status string) [2]int {
	for line := range strings.Lines(status) {
		list, ok := strings.CutPrefix(line, "NSpid:")
		if !ok {
			continue
		}
		f := strings.Fields(list)
		if len(f) == 0 {
			break
		}
		pid, err := strconv.Atoi(f[len(f)-1])
		if err != nil {
			break
		}
		return [2]int{len(f), pid}
	}
	return [2]int{}
}

// endTimeout is how long a killed process may take to end. On a busy disk one that waits for its data to be written
// takes long, and until then it keeps the node's mounts.
const endTimeout = 2 * time.Minute

// Kill ends every process of the cluster and returns when all have ended, so that their namespaces are gone too.
func Kill(c layout.Cluster) error {
	for deadline := time.Now().Add(endTimeout); ; {
		init, err := Init(c)
		if err != nil {
			return err
		}
		pids, err := Processes(c)
		if err != nil || len(pids) == 0 {
			return err
		}
		if init != 0 {
			pids = []int{init} // it takes the others with it, and ends last
		}
		for _, pid := range pids {
			if err := end(pid, deadline); err != nil {
				return fmt.Errorf("process %d of cluster %s: %w", pid, c.Name, err)
			}
		}
	}
}

// end kills a process and waits until it has ended. Its absence from the cgroup would not say that: a process leaves
// that before it leaves its namespaces.
func end(pid int, deadline time.Time) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill: %w", err)
	}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("it does not end within %s of being killed", endTimeout)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// RemoveCgroups removes the cluster's groups; its processes are gone.
func RemoveCgroups(c layout.Cluster) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := eachGroup(c, func(path string) error {
			if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove cgroup %s: %w", path, err)
			}
			return nil
		})
		// A group is busy for a moment after its last process has ended.
		if err == nil || time.Now().After(deadline) || !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
