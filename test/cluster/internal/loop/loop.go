// Package loop attaches files to loop devices and finds them again. Devices are found by the inode of their backing
// file, never by a path: the path that the kernel shows is wrong once the mount namespace it was opened in is gone.
package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Device is an attached loop device.
type Device struct {
	Path    string // as in /dev/loop3
	Backing Backing
}

// Backing identifies the file behind a device.
type Backing struct {
	Dev   uint64 // the file system the file is on
	Inode uint64
	Rdev  uint64 // for a device file: the device it stands for
}

// BackingOf is the identity of the file at path.
func BackingOf(path string) (Backing, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Backing{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return Backing{Dev: st.Dev, Inode: st.Ino, Rdev: st.Rdev}, nil
}

// List is every attached loop device of the machine.
func List() ([]Device, error) {
	nodes, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, node := range nodes {
		if strings.Contains(strings.TrimPrefix(node, "/dev/loop"), "p") {
			continue // a partition of a loop device
		}
		d, attached, err := inspect(node)
		if err != nil {
			return nil, err
		}
		if attached {
			devices = append(devices, d)
		}
	}
	return devices, nil
}

func inspect(node string) (Device, bool, error) {
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return Device{}, false, nil // removed since it was listed
	}
	if err != nil {
		return Device{}, false, fmt.Errorf("open loop device: %w", err)
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return Device{}, false, nil
	}
	if err != nil {
		return Device{}, false, fmt.Errorf("state of %s: %w", node, err)
	}
	return Device{Path: node, Backing: Backing{Dev: info.Device, Inode: info.Inode, Rdev: info.Rdevice}}, true, nil
}

// Find is the device that the file at path is attached to, "" when there is none.
func Find(path string) (string, error) {
	want, err := BackingOf(path)
	if err != nil {
		return "", err
	}
	all, err := List()
	if err != nil {
		return "", err
	}
	for _, d := range all {
		if d.Backing.Dev == want.Dev && d.Backing.Inode == want.Inode {
			return d.Path, nil
		}
	}
	return "", nil
}

// Attach makes the file at path a block device and returns the device's path. The device stays until Detach.
func Attach(path string) (string, error) {
	dev, err := attach(path, 0)
	if err != nil {
		return "", err
	}
	return dev.Name(), dev.Close()
}

// AttachUntilClosed is Attach for a device that goes away by itself once nothing has it open or mounted. The caller
// closes the returned file when it has mounted the device.
func AttachUntilClosed(path string) (*os.File, error) {
	return attach(path, unix.LO_FLAGS_AUTOCLEAR)
}

func attach(path string, flags uint32) (*os.File, error) {
	backing, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices are not available: %w", err)
	}
	defer control.Close()
	// Another process may take the free device first; then the next one is asked for.
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open loop device: %w", err)
		}
		err = configure(dev, backing, path, flags)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s to a loop device: %w", path, err)
		}
	}
	return nil, fmt.Errorf("attach %s: every free loop device was taken by someone else", path)
}

func configure(dev, backing *os.File, name string, flags uint32) error {
	c := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: flags}}
	copy(c.Info.File_name[:len(c.Info.File_name)-1], name)
	return unix.IoctlLoopConfigure(int(dev.Fd()), &c)
}

// Detach frees the device. When something still has it open the kernel frees it at the last close; Gone waits for that.
func Detach(device string) error {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open loop device: %w", err)
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s: %w", device, err)
	}
	return nil
}

// releaseTimeout is how long a device may stay in use, as by the mounts of a node that was killed on a busy disk.
const releaseTimeout = 2 * time.Minute

// DetachAll frees every device that match accepts, and those that were put on top of them: the kubelet attaches a loop
// device of its own to each raw block volume's device. It returns when they are gone.
func DetachAll(match func(Backing) bool) error {
	deadline := time.Now().Add(releaseTimeout)
	for {
		mine, err := matching(match)
		if err != nil || len(mine) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("loop device %s is still in use; see what holds it with: lsblk; grep -l %[1]s /proc/*/mounts", mine[0].Path)
		}
		for _, d := range mine {
			if err := Detach(d.Path); err != nil {
				return err
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// matching lists the devices that match accepts after those that sit on top of them.
func matching(match func(Backing) bool) ([]Device, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	var base, top []Device
	under := map[uint64]bool{}
	for _, d := range all {
		if !match(d.Backing) {
			continue
		}
		base = append(base, d)
		node, err := BackingOf(d.Path)
		if err != nil {
			return nil, err
		}
		under[node.Rdev] = true
	}
	for _, d := range all {
		if d.Backing.Rdev != 0 && under[d.Backing.Rdev] {
			top = append(top, d)
		}
	}
	return append(top, base...), nil
}
