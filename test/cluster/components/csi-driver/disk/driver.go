// Package disk is a CSI driver that stands in for Azure's: disk.csi.azure.com, or file.csi.azure.com for a driver without
// snapshots. A disk is a sparse raw image on a file system with shared blocks (XFS with reflink), attached to the node
// by a loop device; a snapshot is an instant copy of the image. Handles have Azure's form, and the snapshots' folder may
// be shared by several clusters, as a resource group is.
//
// Snapshots are crash-consistent like a cloud's: what the pod's file system has not yet written is not in them.
// It is for tests on one machine: there are no zones, no attach step, no encryption, and no growing of mounted disks.
// Each call can be delayed or made to fail, see Fault.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	mount "k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"
)

// Driver serves the three CSI services of one node. Fill in the fields and call New.
type Driver struct {
	Options
	mounter *mount.SafeFormatAndMount

	mu sync.Mutex // one call at a time changes disks, snapshots and mounts
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
}

// Options say what a driver is called and where it keeps its disks.
type Options struct {
	Name          string // the driver's name; that of Azure Files changes the handles' form
	Node          string // the node's name
	Data          string // folder of the cluster's disks, on a file system with shared blocks
	Snapshots     string // folder of all clusters' snapshots on the same file system; "" for a driver without snapshots
	Subscription  string // Azure subscription in the handles
	ResourceGroup string // Azure resource group of the disks, and of the snapshots unless their class names another
	Now           func() time.Time
}

// FileDriver is the name of the driver for Azure Files.
const FileDriver = "file.csi.azure.com"

// New makes a driver and its folders.
func New(o Options) (*Driver, error) {
	folders := []string{o.Data}
	if o.Snapshots != "" {
		folders = append(folders, o.Snapshots)
	}
	for _, f := range folders {
		if err := os.MkdirAll(f, 0o700); err != nil {
			return nil, err
		}
	}
	return &Driver{Options: o, mounter: mount.NewSafeFormatAndMount(mount.New(""), utilexec.New())}, nil
}

// Serve answers CSI calls on the Unix socket at path until ctx is done. Interceptors run before each call.
func (d *Driver) Serve(ctx context.Context, socket string, interceptors ...grpc.UnaryServerInterceptor) error {
	l, err := Listen(socket)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.ChainUnaryInterceptor(append([]grpc.UnaryServerInterceptor{logCalls}, interceptors...)...))
	csi.RegisterIdentityServer(s, d)
	csi.RegisterControllerServer(s, d)
	csi.RegisterNodeServer(s, d)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	return s.Serve(l)
}

// Listen listens on a Unix socket, in place of one that a predecessor left.
func Listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", socket)
}

// logCalls notes what was done and what failed; reading calls come every few seconds and say nothing.
func logCalls(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := time.Now()
	response, err := next(ctx, request)
	call := path.Base(info.FullMethod)
	if err != nil {
		slog.Warn("call failed", "call", call, "request", request, "took", time.Since(start), "error", err)
		return nil, err
	}
	if !strings.Contains(call, "Get") && call != "Probe" {
		slog.Info("call done", "call", call, "request", request, "took", time.Since(start), "response", response)
	}
	return response, nil
}

// GetPluginInfo names the driver.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.Name, VendorVersion: "testcluster"}, nil
}

// GetPluginCapabilities tells that the driver has a controller service.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}},
	}}}, nil
}

// Probe tells that the driver is ready, which it always is.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// disks is the folder of the cluster's disks.
func (d *Driver) disks() folder { return folder(d.Data) }

// snapshots is the folder of all clusters' snapshots.
func (d *Driver) snapshots() folder { return folder(d.Options.Snapshots) }

// diskID is the handle of the disk or share called name.
func (d *Driver) diskID(name string) string {
	if d.Name == FileDriver {
		return strings.Join([]string{d.ResourceGroup, "testshares", name, "", "", ""}, "#")
	}
	return d.resourceID(d.ResourceGroup, "disks", name)
}

func (d *Driver) resourceID(group, kind, name string) string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/%s/%s", d.Subscription, group, kind, name)
}

// find is get with CSI's error codes; what says what is looked for.
func find(f folder, what, id string) (Record, error) {
	if id == "" {
		return Record{}, status.Errorf(codes.InvalidArgument, "the %s ID is missing", what)
	}
	r, err := f.get(id)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, status.Errorf(codes.NotFound, "%s %s does not exist", what, id)
	}
	if err != nil {
		return Record{}, internal(err)
	}
	return r, nil
}

func internal(err error) error { return status.Error(codes.Internal, err.Error()) }
