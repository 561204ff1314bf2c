// Package kubetest gives tests a real API server: etcd and kube-apiserver as processes, with our request kinds and the snapshot kinds
// installed, and a stand-in for the snapshot controller, the snapshotter and a CSI driver.
//
// There are no nodes, no scheduler and no other controllers; what needs those is tested on the test cluster (test/cluster).
package kubetest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/cairn-backup/cairn/api/v1alpha1"
)

// Cluster is a running API server.
type Cluster struct {
	Config *rest.Config
	Client client.WithWatch
	env    *envtest.Environment
}

// Scheme knows all kinds that the tests and the extension use.
func Scheme() *clientruntime.Scheme {
	s := clientruntime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(s), v1alpha1.AddToScheme(s), snapshotv1.AddToScheme(s)); err != nil {
		panic(err) // registering kinds of one's own program fails for everybody or nobody
	}
	return s
}

// Main runs a package's tests with a cluster in *cluster. Call it from TestMain, with os.Exit around it. When fuzzing (-run='^$' -fuzz=…) there is no cluster:
// the workers are processes of their own, and are killed.
func Main(m *testing.M, cluster **Cluster) int {
	flag.Parse()
	if fuzz := flag.Lookup("test.fuzz"); fuzz != nil && fuzz.Value.String() != "" {
		return m.Run()
	}
	started, err := Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	*cluster = started
	code := m.Run()
	if err := started.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Start starts etcd and an API server on addresses of this machine only, from the programs in the folder $CAIRN_KUBE_BIN, or where the test cluster's are built.
func Start() (*Cluster, error) {
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	root, err := repository()
	if err != nil {
		return nil, err
	}
	bin := os.Getenv("CAIRN_KUBE_BIN")
	if bin == "" {
		bin = filepath.Join(root, ".cache", "cluster", "bin")
	}
	for _, program := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			return nil, fmt.Errorf("this test needs %s in %s: build it by `cd test/cluster && go run . build`, or name another folder in CAIRN_KUBE_BIN", program, bin)
		}
	}
	snapshotter, err := moduleFolder(root, "github.com/kubernetes-csi/external-snapshotter/client/v8")
	if err != nil {
		return nil, err
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory: bin,
		ErrorIfCRDPathMissing: true,
		// On a busy machine the API server takes its time to start and to end, and envtest leaves it running when it gives up.
		ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: 2 * time.Minute,
		CRDDirectoryPaths: []string{
			filepath.Join(root, "config", "crd"),
			filepath.Join(snapshotter, "config", "crd", "snapshot.storage.k8s.io_volumesnapshots.yaml"),
			filepath.Join(snapshotter, "config", "crd", "snapshot.storage.k8s.io_volumesnapshotcontents.yaml"),
			filepath.Join(snapshotter, "config", "crd", "snapshot.storage.k8s.io_volumesnapshotclasses.yaml"),
		},
	}
	env.ControlPlane.GetAPIServer().Configure().Append("watch-cache", "true")
	config, err := env.Start()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the API server: %w", err), env.Stop())
	}
	config.QPS = -1
	c, err := client.NewWithWatch(config, client.Options{Scheme: Scheme()})
	if err != nil {
		return nil, errors.Join(err, env.Stop())
	}
	cluster := &Cluster{Config: config, Client: c, env: env}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.Namespace}}
	if err := c.Create(context.Background(), namespace); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, errors.Join(err, env.Stop())
	}
	return cluster, nil
}

// Stop ends both processes and removes their data.
func (c *Cluster) Stop() error { return c.env.Stop() }

// repository returns the root of this repository: the folder of go.mod, above the package under test.
func repository() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := folder; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no go.mod above %s", folder)
}

func moduleFolder(root, module string) (string, error) {
	command := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	command.Dir = root
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("find the source of %s, which holds the snapshot kinds: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}
