package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

// A name of its own, so that the test does not touch clusters that are up for something else.
const name = "selftest"

var snapshots = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}

// TestClusterUpDown runs the built program as a user does: a cluster comes up, a pod's file survives into a pod on a
// volume restored from a snapshot, a crash loses nothing, and after down nothing of it is on the machine. It needs root.
func TestClusterUpDown(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("a cluster needs namespaces, mounts and a bridge; run this test as root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := buildProgram(t)
	p.removePredecessor(t)
	t.Cleanup(func() { p.run(t, "down", "--all") })

	p.run(t, "up", name)
	if out := p.run(t, "up", name); !strings.Contains(out, "is up already") {
		t.Errorf("the second up says:\n%s", out)
	}
	c := connect(t, ctx, p)
	c.writeFile()
	p.run(t, "fault", name, "CreateSnapshot", "--fail", "1", "--code", "Unavailable", "--message", "try again")
	c.snapshot()
	if out := p.run(t, "fault", name); strings.TrimSpace(out) != "{}" {
		t.Errorf("after the snapshot these faults are left:\n%s", out)
	}
	p.run(t, "kill", name, "kube-apiserver")
	c.waitFor("the API server to be back", func() error { return c.k.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() })
	c.readRestored()
	p.checkDisks(t, 2, 1)

	c.crash()
	if out := p.run(t, "status"); !strings.Contains(out, "crashed") {
		t.Errorf("status after the node was killed:\n%s", out)
	}
	p.run(t, "up", name, "--keep")
	c.waitFor("the writer to serve its file again", c.served)
	p.checkDisks(t, 2, 1)

	traces := c.traces()
	p.run(t, "down", name)
	traces.checkGone(t)
}

// program is the built testcluster with a state folder of the test's own.
type program struct{ path, dir string }

func buildProgram(t *testing.T) program {
	t.Helper()
	p := program{path: filepath.Join(t.TempDir(), "testcluster"), dir: filepath.Join(t.TempDir(), "clusters")}
	cmd := exec.Command("go", "build", "-trimpath", "-o", p.path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return p
}

// run runs a command of the program, which must succeed, and returns all that it printed.
func (p program) run(t *testing.T, args ...string) string {
	t.Helper()
	start := time.Now()
	out, err := exec.Command(p.path, append(args, "--dir", p.dir)...).CombinedOutput()
	if err != nil {
		t.Fatalf("testcluster %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	t.Logf("%4.1f s testcluster %s", time.Since(start).Seconds(), strings.Join(args, " "))
	return string(out)
}

// removePredecessor removes the cluster of an earlier test that was killed.
func (p program) removePredecessor(t *testing.T) {
	t.Helper()
	members, err := host.Members()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Name == name {
			program{p.path, m.Dir}.run(t, "down", name)
		}
	}
}

func (p program) checkDisks(t *testing.T, disks, snapshots int) {
	t.Helper()
	var have struct{ Disks, Snapshots []struct{ ID string } }
	if err := json.Unmarshal([]byte(p.run(t, "disks")), &have); err != nil {
		t.Fatal(err)
	}
	if len(have.Disks) != disks || len(have.Snapshots) != snapshots {
		t.Errorf("the storage side has %v, want %d disks and %d snapshots", have, disks, snapshots)
	}
}

// cluster is the cluster under test, seen from the machine.
type cluster struct {
	layout.Cluster
	t   *testing.T
	ctx context.Context
	k   *kubernetes.Clientset
	d   *dynamic.DynamicClient
}

func connect(t *testing.T, ctx context.Context, p program) *cluster {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(p.dir, name, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	members, err := host.Members()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Name == name && m.Dir == p.dir {
			return &cluster{layout.Cluster{Name: name, Index: m.Index, Dir: p.dir}, t, ctx, k, d}
		}
	}
	t.Fatalf("cluster %s is not among %v", name, members)
	return nil
}

// writeFile runs a pod that writes a file on a new volume and serves it; the machine reads it from the pod's address.
func (c *cluster) writeFile() {
	c.t.Helper()
	c.claim("data", nil)
	c.pod("writer", "data", "[ -e /data/file ] || echo payload > /data/file; sync; exec httpd -f -p 8080 -h /data", corev1.RestartPolicyAlways)
	c.waitFor("the writer to serve its file", c.served)
}

// served tells whether the machine can read the writer's file from the pod's address.
func (c *cluster) served() error {
	pod, err := c.k.CoreV1().Pods("default").Get(c.ctx, "writer", metav1.GetOptions{})
	if err != nil {
		return err
	}
	client := http.Client{Timeout: time.Second}
	r, err := client.Get("http://" + net.JoinHostPort(pod.Status.PodIP, "8080") + "/file")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && string(b) != "payload\n" {
		err = fmt.Errorf("it answers %q", b)
	}
	return err
}

func (c *cluster) snapshot() {
	c.t.Helper()
	o := &unstructured.Unstructured{}
	err := yaml.Unmarshal([]byte(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: snap}
spec: {volumeSnapshotClassName: csi-azuredisk-vsc, source: {persistentVolumeClaimName: data}}`), &o.Object)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.d.Resource(snapshots).Namespace("default").Create(c.ctx, o, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.waitFor("the snapshot", func() error {
		o, err := c.d.Resource(snapshots).Namespace("default").Get(c.ctx, "snap", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if ready, _, _ := unstructured.NestedBool(o.Object, "status", "readyToUse"); !ready {
			return fmt.Errorf("its status is %v", o.Object["status"])
		}
		return nil
	})
}

// readRestored reads the file from a larger volume made from the snapshot, in a pod that also reads from a server on the machine.
func (c *cluster) readRestored() {
	c.t.Helper()
	l, err := net.Listen("tcp", layout.HostIP+":0")
	if err != nil {
		c.t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "from the machine") })}
	go server.Serve(l)
	defer server.Close()
	group := "snapshot.storage.k8s.io"
	c.claim("restored", &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "snap"})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		c.t.Fatal(err)
	}
	c.pod("reader", "restored", "cat /data/file && fetch http://machine.test:"+port+"/", corev1.RestartPolicyNever)
	c.waitFor("the reader to end", func() error {
		pod, err := c.k.CoreV1().Pods("default").Get(c.ctx, "reader", metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodSucceeded {
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
	logs, err := c.k.CoreV1().Pods("default").GetLogs("reader", &corev1.PodLogOptions{}).Do(c.ctx).Raw()
	if want := "payload\nfrom the machine\n"; err != nil || string(logs) != want {
		c.t.Errorf("the reader printed %q (%v), want %q", logs, err, want)
	}
}

// claim makes a volume claim: 1 GiB, or 2 GiB when there is a source.
func (c *cluster) claim(name string, source *corev1.TypedLocalObjectReference) {
	c.t.Helper()
	size := "1Gi"
	if source != nil {
		size = "2Gi"
	}
	pvc := &corev1.PersistentVolumeClaim{}
	if err := yaml.Unmarshal(fmt.Appendf(nil, "{metadata: {name: %s}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: %s}}}}", name, size), pvc); err != nil {
		c.t.Fatal(err)
	}
	pvc.Spec.DataSource = source
	if _, err := c.k.CoreV1().PersistentVolumeClaims("default").Create(c.ctx, pvc, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) pod(name, claim, script string, restart corev1.RestartPolicy) {
	c.t.Helper()
	zero := int64(0)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy:                 restart,
			TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{
				Name: "c", Image: "registry.test/busybox:1", Command: []string{"sh", "-c", script},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
			}}},
		},
	}
	if _, err := c.k.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// crash kills the node as a fault of the machine would.
func (c *cluster) crash() {
	c.t.Helper()
	init, err := host.Init(c.Cluster)
	if err != nil || init == 0 {
		c.t.Fatalf("the node's pid 1 is %d, %v", init, err)
	}
	if err := syscall.Kill(init, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	c.waitFor("the processes to end", func() error {
		pids, err := host.Processes(c.Cluster)
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("%d are left", len(pids))
		}
		return err
	})
}

func (c *cluster) waitFor(what string, check func() error) {
	c.t.Helper()
	start := time.Now()
	for {
		err := check()
		if err == nil {
			c.t.Logf("%4.1f s waited for %s", time.Since(start).Seconds(), what)
			return
		}
		select {
		case <-c.ctx.Done():
			c.t.Fatalf("waited for %s: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// traces are what tells that something belongs to the cluster.
type traces struct {
	layout.Cluster
	namespace string // of its network, as /proc has it
}

func (c *cluster) traces() traces {
	c.t.Helper()
	init, err := host.Init(c.Cluster)
	if err != nil {
		c.t.Fatal(err)
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", init))
	if err != nil {
		c.t.Fatal(err)
	}
	return traces{c.Cluster, namespace}
}

// checkGone fails the test for each thing of the cluster that is still on the machine.
func (c traces) checkGone(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(c.Dir); !os.IsNotExist(err) {
		t.Errorf("the state folder is still there (%v)", err)
	}
	for _, link := range []string{"tc-" + name, "tcn-" + name} {
		if _, err := net.InterfaceByName(link); err == nil {
			t.Errorf("interface %s is still there", link)
		}
	}
	for _, file := range glob(t, "/proc/[0-9]*/ns/net") {
		if target, err := os.Readlink(file); err == nil && target == c.namespace {
			t.Errorf("a process still has the network namespace: %s", file)
		}
	}
	for _, file := range append(glob(t, "/proc/[0-9]*/mountinfo"), glob(t, "/sys/block/loop*/loop/backing_file")...) {
		if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte(c.Dir)) {
			t.Errorf("%s still names the state folder", file)
		}
	}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && "/"+d.Name() == c.Cgroup() {
			t.Errorf("cgroup %s is still there", path)
		}
		return nil // groups of others come and go meanwhile
	})
	if err != nil {
		t.Error(err)
	}
	routes, err := exec.Command("ip", "route").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(routes), c.PodCIDR()) {
		t.Errorf("the route to the pods is still there:\n%s", routes)
	}
	if !strings.Contains(string(routes), "unreachable "+layout.PodNet) || !strings.Contains(string(routes), "unreachable "+layout.NodeNet) {
		t.Errorf("the standing unreachable routes are missing:\n%s", routes)
	}
	members, err := host.Members()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName(layout.Bridge); err == nil && len(members) == 0 {
		t.Errorf("bridge %s is still there without clusters", layout.Bridge)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
