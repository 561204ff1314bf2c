package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cairn-backup/cairn/test/cluster/internal/loop"
)

const gib = 1 << 30

// ControllerGetCapabilities lists what the controller can do.
func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	types := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	}
	if d.Options.Snapshots != "" {
		types = append(types, csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT, csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS)
	}
	r := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range types {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return r, nil
}

// CreateVolume makes a disk, empty or as a copy of a snapshot or disk. Sizes are rounded up to whole GiB as Azure's are.
func (d *Driver) CreateVolume(_ context.Context, q *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if !validName(q.GetName()) {
		return nil, status.Errorf(codes.InvalidArgument, "%q cannot name a disk", q.GetName())
	}
	if err := d.checkCapabilities(q.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	image, source, err := d.source(q.GetVolumeContentSource())
	if err != nil {
		return nil, err
	}
	size, err := size(q.GetCapacityRange(), source.Bytes)
	if err != nil {
		return nil, err
	}
	want := Record{ID: d.diskID(q.GetName()), Name: q.GetName(), Bytes: size, Source: source.ID, Created: d.Now().UTC(), Tags: tags(q.GetParameters())}
	have, err := d.disks().get(want.ID)
	switch {
	case err == nil && (have.Source != want.Source || !fits(have.Bytes, q.GetCapacityRange())):
		return nil, status.Errorf(codes.AlreadyExists, "disk %s exists with another size or source", have.ID)
	case err == nil:
		want = have
	case !errors.Is(err, fs.ErrNotExist):
		return nil, internal(err)
	default:
		if err := d.create(want, image); err != nil {
			return nil, internal(err)
		}
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: want.ID, CapacityBytes: want.Bytes, ContentSource: q.GetVolumeContentSource()}}, nil
}

func (d *Driver) create(r Record, source string) error {
	image := d.disks().image(r.Name)
	if source != "" {
		if err := clone(image, source); err != nil {
			return err
		}
	} else if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, r.Bytes); err != nil {
		return err
	}
	return d.disks().put(r)
}

// source is the image and the record that a new disk is to be a copy of; both are zero for an empty disk.
func (d *Driver) source(s *csi.VolumeContentSource) (image string, r Record, err error) {
	switch {
	case s.GetSnapshot() != nil:
		r, err = find(d.snapshots(), "snapshot", s.GetSnapshot().GetSnapshotId())
		return d.snapshots().image(r.Name), r, err
	case s.GetVolume() != nil:
		r, err = find(d.disks(), "disk", s.GetVolume().GetVolumeId())
		return d.disks().image(r.Name), r, err
	}
	return "", Record{}, nil
}

// size is how large a new disk is to be, for a source of so many bytes.
func size(wanted *csi.CapacityRange, source int64) (int64, error) {
	need, limit := wanted.GetRequiredBytes(), wanted.GetLimitBytes()
	if need == 0 {
		need = max(source, gib)
	}
	if need < source {
		return 0, status.Errorf(codes.OutOfRange, "%d bytes are asked for and the source has %d; ask for no fewer", need, source)
	}
	n := (need + gib - 1) / gib * gib
	if limit != 0 && n > limit {
		return 0, status.Errorf(codes.OutOfRange, "disks have whole GiB, so %d bytes would be the smallest, over the limit of %d", n, limit)
	}
	return n, nil
}

// fits tells whether a disk of so many bytes is within what is wanted.
func fits(have int64, wanted *csi.CapacityRange) bool {
	return have >= wanted.GetRequiredBytes() && (wanted.GetLimitBytes() == 0 || have <= wanted.GetLimitBytes())
}

// tags are what the sidecars tell about the objects that a disk or snapshot is for, by the real driver's names.
func tags(parameters map[string]string) map[string]string {
	out := map[string]string{}
	for parameter, tag := range map[string]string{
		"csi.storage.k8s.io/pvc/name":                 "kubernetes.io-created-for-pvc-name",
		"csi.storage.k8s.io/pvc/namespace":            "kubernetes.io-created-for-pvc-namespace",
		"csi.storage.k8s.io/pv/name":                  "kubernetes.io-created-for-pv-name",
		"csi.storage.k8s.io/volumesnapshot/name":      "kubernetes.io-created-for-volumesnapshot-name",
		"csi.storage.k8s.io/volumesnapshot/namespace": "kubernetes.io-created-for-volumesnapshot-namespace",
	} {
		if v := parameters[parameter]; v != "" {
			out[tag] = v
		}
	}
	return out
}

// DeleteVolume removes a disk that is not attached.
func (d *Driver) DeleteVolume(_ context.Context, q *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := find(d.disks(), "disk", q.GetVolumeId())
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	device, err := loop.Find(d.disks().image(r.Name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, internal(err)
	}
	if device != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "disk %s is attached as %s", r.ID, device)
	}
	if err := d.disks().remove(r.Name); err != nil {
		return nil, internal(err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ValidateVolumeCapabilities confirms what CreateVolume would accept.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, q *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if len(q.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "volume capabilities are missing")
	}
	if _, err := find(d.disks(), "disk", q.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := d.checkCapabilities(q.GetVolumeCapabilities()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: q.GetVolumeContext(), VolumeCapabilities: q.GetVolumeCapabilities(), Parameters: q.GetParameters(),
	}}, nil
}

// checkCapabilities refuses what Azure refuses: many nodes share a raw disk or a file share, but not a disk's file system.
func (d *Driver) checkCapabilities(capabilities []*csi.VolumeCapability) error {
	if len(capabilities) == 0 {
		return status.Error(codes.InvalidArgument, "volume capabilities are missing")
	}
	for _, c := range capabilities {
		shared := strings.HasPrefix(c.GetAccessMode().GetMode().String(), "MULTI_NODE")
		if d.Name == FileDriver && c.GetBlock() != nil {
			return status.Error(codes.InvalidArgument, "a file share cannot be a raw block volume")
		}
		if d.Name != FileDriver && shared && c.GetMount() != nil {
			return status.Errorf(codes.InvalidArgument, "a disk with a file system cannot be used by several nodes (%s)", c.GetAccessMode().GetMode())
		}
	}
	return nil
}

// CreateSnapshot copies a disk as it is now. The class may name another resource group with the parameter resourceGroup.
func (d *Driver) CreateSnapshot(_ context.Context, q *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if !validName(q.GetName()) {
		return nil, status.Errorf(codes.InvalidArgument, "%q cannot name a snapshot", q.GetName())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if q.GetSourceVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "the disk ID is missing")
	}
	group := d.ResourceGroup
	for name, value := range q.GetParameters() {
		if strings.EqualFold(name, "resourceGroup") && value != "" {
			group = value
		}
	}
	id := d.resourceID(group, "snapshots", q.GetName())
	have, err := d.snapshots().get(id)
	if err == nil && !strings.EqualFold(have.Source, q.GetSourceVolumeId()) {
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %s exists and is of disk %s", have.ID, have.Source)
	}
	if err == nil {
		return &csi.CreateSnapshotResponse{Snapshot: describe(have)}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, internal(err)
	}
	source, err := find(d.disks(), "disk", q.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	r := Record{ID: id, Name: q.GetName(), Bytes: source.Bytes, Source: source.ID, Created: d.Now().UTC(), Tags: tags(q.GetParameters())}
	if err := clone(d.snapshots().image(r.Name), d.disks().image(source.Name)); err != nil {
		return nil, internal(err)
	}
	if err := d.snapshots().put(r); err != nil {
		return nil, internal(err)
	}
	return &csi.CreateSnapshotResponse{Snapshot: describe(r)}, nil
}

// DeleteSnapshot removes a snapshot; disks made from it stay.
func (d *Driver) DeleteSnapshot(_ context.Context, q *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := find(d.snapshots(), "snapshot", q.GetSnapshotId())
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := d.snapshots().remove(r.Name); err != nil {
		return nil, internal(err)
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// ListSnapshots lists the snapshots of all clusters, or those of one ID or disk. A token is the number of the entry to
// go on with.
func (d *Driver) ListSnapshots(_ context.Context, q *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	all, err := Records(d.Options.Snapshots)
	if err != nil {
		return nil, internal(err)
	}
	var matching []*csi.ListSnapshotsResponse_Entry
	for _, r := range all {
		if (q.GetSnapshotId() == "" || strings.EqualFold(q.GetSnapshotId(), r.ID)) && (q.GetSourceVolumeId() == "" || strings.EqualFold(q.GetSourceVolumeId(), r.Source)) {
			matching = append(matching, &csi.ListSnapshotsResponse_Entry{Snapshot: describe(r)})
		}
	}
	start := 0
	if token := q.GetStartingToken(); token != "" {
		start, err = strconv.Atoi(token)
		if err != nil || start < 0 || start > len(matching) {
			return nil, status.Errorf(codes.Aborted, "starting token %q is not one of ours; list again from the start", token)
		}
	}
	end, next := len(matching), ""
	if n := int(q.GetMaxEntries()); n > 0 && start+n < end {
		end = start + n
		next = strconv.Itoa(end)
	}
	return &csi.ListSnapshotsResponse{Entries: matching[start:end], NextToken: next}, nil
}

func describe(r Record) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: r.ID, SourceVolumeId: r.Source, SizeBytes: r.Bytes, CreationTime: timestamppb.New(r.Created), ReadyToUse: true}
}
