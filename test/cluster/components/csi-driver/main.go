// Command csi-driver runs the emulated Azure Disk driver of package disk on a test cluster's node and registers it with
// the kubelet, as Azure's driver and the node-driver-registrar sidecar do together.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/cairn-backup/cairn/test/cluster/components/csi-driver/disk"
)

func main() {
	o := disk.Options{Now: time.Now}
	flag.StringVar(&o.Name, "name", "disk.csi.azure.com", "the driver's name")
	flag.StringVar(&o.Node, "node", "", "the node's name")
	flag.StringVar(&o.Data, "data", "", "folder of the cluster's disks, on XFS with reflink")
	flag.StringVar(&o.Snapshots, "snapshots", "", "folder of all clusters' snapshots on the same file system; without it the driver has no snapshots")
	flag.StringVar(&o.Subscription, "subscription", "", "the Azure subscription in the handles")
	flag.StringVar(&o.ResourceGroup, "resource-group", "", "the Azure resource group of the disks")
	faults := flag.String("faults", "", "file that says which calls to delay or fail")
	kubelet := flag.String("kubelet-root", "/var/lib/kubelet", "the kubelet's root folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, o, *faults, *kubelet); err != nil {
		slog.Error("the driver ends", "driver", o.Name, "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o disk.Options, faults, kubelet string) error {
	d, err := disk.New(o)
	if err != nil {
		return err
	}
	var interceptors []grpc.UnaryServerInterceptor
	if faults != "" {
		interceptors = append(interceptors, disk.Inject(faults))
	}
	socket := filepath.Join(kubelet, "plugins", o.Name, "csi.sock")
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.Serve(ctx, socket, interceptors...) })
	group.Go(func() error {
		return register(ctx, filepath.Join(kubelet, "plugins_registry", o.Name+"-reg.sock"), &registration.PluginInfo{
			Type: registration.CSIPlugin, Name: o.Name, Endpoint: socket, SupportedVersions: []string{"1.0.0"},
		})
	})
	return group.Wait()
}

// register answers the kubelet, which finds the socket in its folder, until ctx is done or the kubelet refuses.
func register(ctx context.Context, socket string, info *registration.PluginInfo) error {
	l, err := disk.Listen(socket)
	if err != nil {
		return err
	}
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	s := grpc.NewServer()
	registration.RegisterRegistrationServer(s, &registrar{info: info, refuse: refuse})
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	return errors.Join(s.Serve(l), refusal(ctx))
}

// refusal is the kubelet's refusal, and nil when the program was merely told to end.
func refusal(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != ctx.Err() {
		return cause
	}
	return nil
}

type registrar struct {
	registration.UnimplementedRegistrationServer
	info   *registration.PluginInfo
	refuse context.CancelCauseFunc
}

// GetInfo tells the kubelet which driver this is and where it listens.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return r.info, nil
}

// NotifyRegistrationStatus hears what the kubelet made of it. A refusal ends the program, which is then started again;
// the kubelet itself would not ask a second time.
func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		r.refuse(fmt.Errorf("the kubelet refused the registration: %s", s.Error))
	}
	return &registration.RegistrationStatusResponse{}, nil
}
