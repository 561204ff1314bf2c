package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
	"github.com/cairn-backup/cairn/test/cluster/internal/loop"
)

// cloudSize is what all disks and snapshots together may hold, in bytes. The file is sparse.
const cloudSize = 40 << 30

// MountCloud mounts the file system of the emulated cloud of the state folder dir. The caller holds the host lock.
func MountCloud(dir string) error {
	point, image := layout.Cloud(dir), layout.CloudImage(dir)
	if err := os.MkdirAll(point, 0o700); err != nil {
		return err
	}
	mounted, err := isMountPoint(point)
	if err != nil || mounted {
		return err
	}
	if err := makeCloud(dir); err != nil {
		return fmt.Errorf("file system for disks and snapshots: %w", err)
	}
	dev, err := loop.AttachUntilClosed(image)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := unix.Mount(dev.Name(), point, "xfs", unix.MS_NOATIME, "discard"); err != nil {
		return fmt.Errorf("mount %s at %s: %w", image, point, err)
	}
	return nil
}

// makeCloud makes the file with a file system that can share blocks between files: that is what makes snapshots instant.
func makeCloud(dir string) error {
	image, unfinished := layout.CloudImage(dir), layout.UnfinishedCloudImage(dir)
	if _, err := os.Stat(image); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(unfinished, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(cloudSize), f.Close()); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.xfs", "-q", "-f", "-m", "reflink=1", unfinished).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.xfs: %w: %s", err, out)
	}
	return os.Rename(unfinished, image)
}

// DetachDisks frees the loop devices of the cluster's disks, after Kill.
func DetachDisks(c layout.Cluster) error {
	backings := map[loop.Backing]bool{}
	for _, folder := range []string{c.Disks(), c.Shares()} {
		images, err := filepath.Glob(filepath.Join(folder, "*.img"))
		if err != nil {
			return err
		}
		for _, image := range images {
			b, err := loop.BackingOf(image)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			backings[b] = true
		}
	}
	if len(backings) == 0 {
		return nil
	}
	return loop.DetachAll(func(b loop.Backing) bool { return backings[b] })
}

// UnmountCloud unmounts the state folder's file system and frees its loop device. No cluster of dir is running, so
// whatever is still attached from it is left from one that crashed. The caller holds the host lock.
func UnmountCloud(dir string) error {
	point, image := layout.Cloud(dir), layout.CloudImage(dir)
	mounted, err := isMountPoint(point)
	if err != nil {
		return err
	}
	if mounted {
		b, err := loop.BackingOf(point)
		if err != nil {
			return err
		}
		if err := loop.DetachAll(func(x loop.Backing) bool { return x.Dev == b.Dev }); err != nil {
			return err
		}
		if err := unmount(point); err != nil {
			return err
		}
	}
	b, err := loop.BackingOf(image)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return loop.DetachAll(func(x loop.Backing) bool { return x == b })
}

// unmount retries for a while: what a killed node had mounted is let go a moment after its processes are gone.
func unmount(point string) error {
	deadline := time.Now().Add(endTimeout)
	for {
		err := unix.Unmount(point, 0)
		if err == nil || errors.Is(err, unix.EINVAL) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("unmount %s: %w; see who uses it with: fuser -vm %[1]s", point, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// isMountPoint tells whether path, a folder, is where a file system is mounted.
func isMountPoint(path string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(path, &here); errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	if err := unix.Stat(filepath.Dir(path), &above); err != nil {
		return false, fmt.Errorf("stat %s: %w", filepath.Dir(path), err)
	}
	return here.Dev != above.Dev, nil
}
