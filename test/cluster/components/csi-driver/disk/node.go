package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	mount "k8s.io/mount-utils"

	"github.com/cairn-backup/cairn/test/cluster/internal/loop"
)

// NodeGetInfo names the node.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.Node}, nil
}

// NodeGetCapabilities lists what the node service can do.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	r := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		r.Capabilities = append(r.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return r, nil
}

// NodeStageVolume attaches the disk and mounts its file system, after making it on an empty disk and growing it on one
// that is larger than its file system, as a disk restored to a larger size is.
func (d *Driver) NodeStageVolume(_ context.Context, q *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if q.GetStagingTargetPath() == "" || q.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "staging path or volume capability is missing")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := find(d.disks(), "disk", q.GetVolumeId())
	if err != nil {
		return nil, err
	}
	device, err := d.attach(r)
	if err != nil {
		return nil, internal(err)
	}
	m := q.GetVolumeCapability().GetMount()
	if m == nil {
		return &csi.NodeStageVolumeResponse{}, nil // a raw disk only needs to be attached
	}
	if err := d.mountDisk(device, q.GetStagingTargetPath(), m); err != nil {
		return nil, internal(fmt.Errorf("disk %s: %w", r.ID, err))
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// attach is the disk's device, attached now unless it is already. The kernel is the only record of that.
func (d *Driver) attach(r Record) (string, error) {
	image := d.disks().image(r.Name)
	device, err := loop.Find(image)
	if err != nil || device != "" {
		return device, err
	}
	return loop.Attach(image)
}

func (d *Driver) mountDisk(device, target string, m *csi.VolumeCapability_MountVolume) error {
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	mounted, err := d.mounter.IsMountPoint(target)
	if err != nil || mounted {
		return err
	}
	format, err := d.mounter.GetDiskFormat(device)
	if err != nil {
		return err
	}
	if format == "" {
		format = m.GetFsType()
	}
	if format == "" {
		format = "ext4"
	}
	options := m.GetMountFlags()
	switch format {
	case "ext2", "ext3", "ext4":
		if err := growExt(device); err != nil {
			return err
		}
	case "xfs":
		options = append(options, "nouuid") // a copy has its source's UUID
	}
	if err := d.mounter.FormatAndMount(device, target, format, options); err != nil {
		return err
	}
	if format != "xfs" {
		return nil
	}
	resizer := mount.NewResizeFs(d.mounter.Exec)
	grow, err := resizer.NeedResize(device, target)
	if err != nil || !grow {
		return err
	}
	_, err = resizer.Resize(device, target)
	return err
}

// growExt grows an ext file system to its device while it is not mounted: for a mounted one the kernel wants
// CAP_SYS_RESOURCE, which root may lack in a container or virtual machine.
func growExt(device string) error {
	out, err := exec.Command("dumpe2fs", "-h", device).CombinedOutput()
	if strings.Contains(string(out), "Bad magic number") {
		return nil // an empty disk
	}
	if err != nil {
		return fmt.Errorf("dumpe2fs %s: %w: %s", device, err, out)
	}
	have := extSize(string(out))
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	room, err := f.Seek(0, io.SeekEnd)
	if err != nil || have+1<<20 > room {
		return err
	}
	// It replays the journal first; exit status 1 says that something was repaired, as is usual for a snapshot.
	var exit *exec.ExitError
	if out, err := exec.Command("e2fsck", "-f", "-p", device).CombinedOutput(); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return fmt.Errorf("e2fsck %s: %w: %s", device, err, out)
	}
	if out, err := exec.Command("resize2fs", device).CombinedOutput(); err != nil {
		return fmt.Errorf("resize2fs %s: %w: %s", device, err, out)
	}
	return nil
}

// extSize reads a file system's size in bytes out of what dumpe2fs -h prints.
func extSize(out string) int64 {
	var count, block int64
	for line := range strings.Lines(out) {
		// Lines of another form leave the value as it was.
		fmt.Sscanf(line, "Block count: %d", &count)
		fmt.Sscanf(line, "Block size: %d", &block)
	}
	return count * block
}

// NodeUnstageVolume unmounts and detaches the disk.
func (d *Driver) NodeUnstageVolume(_ context.Context, q *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if q.GetStagingTargetPath() == "" || q.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume ID or staging path is missing")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.unmount(q.GetStagingTargetPath()); err != nil {
		return nil, internal(err)
	}
	r, err := find(d.disks(), "disk", q.GetVolumeId())
	if status.Code(err) == codes.NotFound {
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	device, err := loop.Find(d.disks().image(r.Name))
	if err != nil {
		return nil, internal(err)
	}
	if device == "" {
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	if err := loop.Detach(device); err != nil {
		return nil, internal(err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// NodePublishVolume shows the staged volume at the pod's path.
func (d *Driver) NodePublishVolume(_ context.Context, q *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if q.GetTargetPath() == "" || q.GetStagingTargetPath() == "" || q.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "target path, staging path or volume capability is missing")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := find(d.disks(), "disk", q.GetVolumeId())
	if err != nil {
		return nil, err
	}
	source := q.GetStagingTargetPath()
	if q.GetVolumeCapability().GetBlock() != nil {
		if source, err = d.attach(r); err != nil {
			return nil, internal(err)
		}
		err = touch(q.GetTargetPath())
	} else {
		err = os.MkdirAll(q.GetTargetPath(), 0o750)
	}
	if err != nil {
		return nil, internal(err)
	}
	mounted, err := d.mounter.IsMountPoint(q.GetTargetPath())
	if err != nil {
		return nil, internal(err)
	}
	if mounted {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	options := []string{"bind"}
	if q.GetReadonly() {
		options = append(options, "ro")
	}
	if err := d.mounter.Mount(source, q.GetTargetPath(), "", options); err != nil {
		return nil, internal(err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// touch makes the file that a raw disk's device is mounted on.
func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// NodeUnpublishVolume takes the volume away from the pod's path and removes the path.
func (d *Driver) NodeUnpublishVolume(_ context.Context, q *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if q.GetTargetPath() == "" || q.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume ID or target path is missing")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.unmount(q.GetTargetPath()); err != nil {
		return nil, internal(err)
	}
	// Remove, not RemoveAll: should a mount be left after all, its files must survive.
	if err := os.Remove(q.GetTargetPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, internal(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (d *Driver) unmount(target string) error {
	mounted, err := d.mounter.IsMountPoint(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !mounted {
		return err
	}
	return d.mounter.Unmount(target)
}

// NodeGetVolumeStats tells how full a volume is; of a raw disk only the size is known.
func (d *Driver) NodeGetVolumeStats(_ context.Context, q *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if q.GetVolumePath() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume path is missing")
	}
	r, err := find(d.disks(), "disk", q.GetVolumeId())
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(q.GetVolumePath())
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	if fi.Mode()&os.ModeDevice != 0 {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: r.Bytes}}}, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(q.GetVolumePath(), &st); err != nil {
		return nil, internal(err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(st.Blocks) * st.Bsize, Available: int64(st.Bavail) * st.Bsize, Used: int64(st.Blocks-st.Bfree) * st.Bsize},
		{Unit: csi.VolumeUsage_INODES, Total: int64(st.Files), Available: int64(st.Ffree), Used: int64(st.Files - st.Ffree)},
	}}, nil
}
