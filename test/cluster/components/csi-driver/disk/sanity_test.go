package disk_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/cairn-backup/cairn/test/cluster/components/csi-driver/disk"
	"github.com/cairn-backup/cairn/test/cluster/internal/loop"
)

// TestSanity runs the CSI project's own conformance tests against the driver under both its names, on real file systems
// with real loop devices and mounts. It needs root.
func TestSanity(t *testing.T) {
	if sanityRan {
		t.Fatal("ginkgo runs once in a process; use -count=1")
	}
	sanityRan = true
	for name, snapshots := range map[string]string{"disk.csi.azure.com": "snapshots", disk.FileDriver: ""} {
		d := serve(t, disk.Options{Name: name}, snapshots)
		config := sanity.NewTestConfig()
		config.Address = "passthrough:///" + d.socket
		config.DialOptions = append(config.DialOptions, grpc.WithContextDialer(dialSlowly))
		config.TargetPath = filepath.Join(t.TempDir(), "target")
		config.StagingPath = filepath.Join(t.TempDir(), "staging")
		config.TestVolumeSize = 1 << 30
		ginkgo.Describe(name, func() {
			t.Cleanup(sanity.GinkgoTest(&config).Finalize)
		})
	}
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "CSI sanity")
}

var sanityRan bool

// dialSlowly connects to a Unix socket a moment later: should the connection be there before csi-test 5.4 first asks for
// its state, it would wait a minute for that state to change.
func dialSlowly(ctx context.Context, socket string) (net.Conn, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(100 * time.Millisecond):
	}
	return new(net.Dialer).DialContext(ctx, "unix", socket)
}

// served is a driver that answers on a socket until the test ends.
type served struct {
	socket string
	cloud  string // its file system
}

// serve starts a driver with its folders on a new reflink file system.
func serve(t *testing.T, o disk.Options, snapshots string) served {
	t.Helper()
	s := served{cloud: reflinkFolder(t)}
	// Unix sockets' paths are short, so not in the test's own folder, whose name is long.
	short, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	s.socket = filepath.Join(short, "csi.sock")
	o.Node, o.Subscription, o.ResourceGroup, o.Now = "node", "sub", "group", time.Now
	o.Data = filepath.Join(s.cloud, "disks")
	if snapshots != "" {
		o.Snapshots = filepath.Join(s.cloud, snapshots)
	}
	d, err := disk.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var serving errgroup.Group
	serving.Go(func() error { return d.Serve(ctx, s.socket, disk.Inject(filepath.Join(short, "faults.json"))) })
	t.Cleanup(func() {
		stop()
		if err := serving.Wait(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reflinkFolder is a new XFS file system in a file, mounted until the test ends. Nothing of it may be left then: no
// mount, and no loop device, neither its own nor one of a disk on it.
func reflinkFolder(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems; run it as root")
	}
	image, point := filepath.Join(t.TempDir(), "cloud.img"), filepath.Join(t.TempDir(), "cloud")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 8<<30); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.xfs", "-q", "-m", "reflink=1", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v: %s", err, out)
	}
	dev, err := loop.AttachUntilClosed(image)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dev.Name(), point, "xfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	own, err := loop.BackingOf(point)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		onIt := func(b loop.Backing) bool { return b.Dev == own.Dev }
		for _, d := range attached(t, onIt) {
			t.Errorf("%s is still attached", d.Path)
		}
		if err := loop.DetachAll(onIt); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(point, 0); err != nil {
			t.Error(err)
		}
	})
	return point
}

func attached(t *testing.T, match func(loop.Backing) bool) []loop.Device {
	t.Helper()
	all, err := loop.List()
	if err != nil {
		t.Fatal(err)
	}
	var mine []loop.Device
	for _, d := range all {
		if match(d.Backing) {
			mine = append(mine, d)
		}
	}
	return mine
}
