package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/test/cluster/internal/host"
	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

// Names of their own, so that the tests do not touch clusters that are up for something else.
const first, second = "selftest", "selftest2"

// testcluster is the path of the built program.
var testcluster string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "testcluster")
	if err != nil {
		panic(err)
	}
	testcluster = filepath.Join(dir, "testcluster")
	cmd := exec.Command("go", "build", "-trimpath", "-o", testcluster, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// TestClusterUpDown runs the built program as a user does: two clusters come up side by side, a pod's file survives into
// pods on volumes restored from its snapshot in both, a crash loses nothing, and after down nothing of them is on the
// machine, whether they ran or had crashed. It needs root.
func TestClusterUpDown(t *testing.T) {
	requireRoot(t)
	p := program{filepath.Join(t.TempDir(), "clusters")}
	p.run(t, "build") // on a new machine this takes longer than all the rest
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	removePredecessors(t)
	t.Cleanup(func() { p.run(t, "down", "--all") })
	before := lookAt(t)

	p.run(t, "up", first, second)
	if out := p.run(t, "up", first); !strings.Contains(out, "is up already") {
		t.Errorf("the second up says:\n%s", out)
	}
	a, b := connect(t, ctx, p, first), connect(t, ctx, p, second)
	a.apply(writer)
	a.waitFor("the writer to serve its file", a.served)
	p.run(t, "fault", first, "CreateSnapshot", "--fail", "1", "--code", "Unavailable", "--message", "try again")
	a.apply(snapshot)
	a.await("volumesnapshot/snap", "jsonpath={.status.readyToUse}=true")
	if out := p.run(t, "fault", first); strings.TrimSpace(out) != "{}" {
		t.Errorf("after the snapshot these faults are left:\n%s", out)
	}

	p.run(t, "kill", first, "kube-apiserver", "--signal", "STOP")
	if out := p.run(t, "status"); !strings.Contains(out, "the API server does not answer") {
		t.Errorf("status while the API server was stopped:\n%s", out)
	}
	p.run(t, "kill", first, "kube-apiserver", "--signal", "CONT")
	a.waitFor("the API server to go on", a.ready)
	p.run(t, "kill", first, "kube-apiserver")
	a.waitFor("the API server to be back", a.ready)

	a.readRestored()
	b.apply(fmt.Sprintf(foreignSnapshot, a.kubectl("get", "volumesnapshotcontent", "-o", "jsonpath={.items[*].status.snapshotHandle}")))
	b.readRestored()
	b.apply(raw)
	b.await("pod/raw", "condition=Ready")
	p.checkDisks(t, 4, 1)

	traces := b.traces()
	b.crash()
	p.run(t, "down", second)
	traces.checkGone(t)
	p.checkDisks(t, 2, 1)

	a.crash()
	if out := p.run(t, "status"); !strings.Contains(out, "crashed") {
		t.Errorf("status after the node was killed:\n%s", out)
	}
	p.run(t, "up", first, "--keep")
	a.waitFor("the writer to serve its file again", a.served)
	p.checkDisks(t, 2, 1)

	traces = a.traces()
	cloud := backing(t, layout.CloudImage(p.dir))
	p.run(t, "down", first)
	traces.checkGone(t)
	before.checkSame(t, p.dir, cloud)
}

// A cluster that has crashed holds neither its name nor its address; down must not touch the cluster of another state
// folder that has got them since.
func TestDownLeavesAnothers(t *testing.T) {
	requireRoot(t)
	other := layout.Cluster{Name: "selftest3", Index: layout.MaxIndex, Dir: t.TempDir()}
	locked(t, func() error { return host.RemoveLink(other) }) // of an earlier test that was killed
	locked(t, host.EnsureBridge)
	t.Cleanup(func() { locked(t, host.RemoveBridge) })
	locked(t, func() error { return host.Claim(other) })
	t.Cleanup(func() { locked(t, func() error { return host.RemoveLink(other) }) })
	if err := host.MakeCgroups(other); err != nil {
		t.Fatal(err)
	}
	process := exec.Command("cat") // until its input is closed
	input, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	if err := host.JoinCgroups(other, process.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{other.Name, "selftest4"} {
		p := program{filepath.Join(t.TempDir(), "clusters")}
		crashed := layout.Cluster{Name: name, Dir: p.dir}
		if err := os.MkdirAll(crashed.Home(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(crashed.Path("cluster.json"), fmt.Appendf(nil, `{"index": %d, "ready": true}`, other.Index), 0o600); err != nil {
			t.Fatal(err)
		}
		p.run(t, "down", "--all")
		if _, err := os.Stat(p.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the state folder is still there (%v)", name, err)
		}
		if _, err := net.InterfaceByName(other.Link()); err != nil {
			t.Errorf("%s: the other's link: %v", name, err)
		}
		if !routed(t, other.PodCIDR()) {
			t.Errorf("%s: the other's route is gone", name)
		}
	}
	if err := errors.Join(input.Close(), process.Wait(), host.RemoveCgroups(other)); err != nil {
		t.Errorf("the other's process: %v", err)
	}
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a cluster needs namespaces, mounts and a bridge; run this test as root")
	}
}

// locked calls do while no program changes the machine's network.
func locked(t *testing.T, do func() error) {
	t.Helper()
	unlock, err := host.Lock(context.Background(), "host")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := do(); err != nil {
		t.Error(err)
	}
}

// program is the built testcluster with a state folder of the test's own.
type program struct{ dir string }

// run runs a command of the program, which must succeed, and returns all that it printed.
func (p program) run(t *testing.T, args ...string) string {
	t.Helper()
	start := time.Now()
	out, err := exec.Command(testcluster, append(args, "--dir", p.dir)...).CombinedOutput()
	if err != nil {
		t.Fatalf("testcluster %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	t.Logf("%4.1f s testcluster %s", time.Since(start).Seconds(), strings.Join(args, " "))
	return string(out)
}

// removePredecessors removes the clusters of an earlier test that was killed.
func removePredecessors(t *testing.T) {
	t.Helper()
	members, err := host.Members()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Name == first || m.Name == second {
			program{m.Dir}.run(t, "down", m.Name)
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

// cluster is a cluster under test, seen from the machine.
type cluster struct {
	layout.Cluster
	t   *testing.T
	ctx context.Context
	bin string // the folder of kubectl
}

func connect(t *testing.T, ctx context.Context, p program, name string) *cluster {
	t.Helper()
	members, err := host.Members()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Name == name && m.Dir == p.dir {
			return &cluster{layout.Cluster{Name: name, Index: m.Index, Dir: p.dir}, t, ctx, strings.TrimSpace(p.run(t, "bin"))}
		}
	}
	t.Fatalf("cluster %s is not among %v", name, members)
	return nil
}

// command is a call of kubectl.
func (c *cluster) command(args ...string) *exec.Cmd {
	args = append([]string{"--kubeconfig", c.Kubeconfig(), "--cache-dir", c.Path("kubectl")}, args...)
	return exec.CommandContext(c.ctx, filepath.Join(c.bin, "kubectl"), args...)
}

// kubectl returns what a call of kubectl prints, which must succeed.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.command(args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: kubectl %s: %v\n%s", c.Name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (c *cluster) apply(manifest string) {
	c.t.Helper()
	cmd := c.command("apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%s: kubectl apply: %v\n%s\n%s", c.Name, err, out, manifest)
	}
}

// await waits for a condition in the terms of kubectl wait.
func (c *cluster) await(object, condition string) {
	c.t.Helper()
	c.waitFor(object+" to have "+condition, func() error {
		out, err := c.command("wait", object, "--for", condition, "--timeout", "2m").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
}

func (c *cluster) ready() error { return c.command("get", "--raw", "/readyz").Run() }

// served tells whether the machine can read the writer's file from the pod's address.
func (c *cluster) served() error {
	ip, err := c.command("get", "pod", "writer", "-o", "jsonpath={.status.podIP}").Output()
	if err != nil {
		return err
	}
	client := http.Client{Timeout: time.Second}
	r, err := client.Get("http://" + net.JoinHostPort(string(ip), "8080") + "/file")
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
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		c.t.Fatal(err)
	}
	c.apply(fmt.Sprintf(reader, port))
	c.await("pod/reader", "jsonpath={.status.phase}=Succeeded")
	if logs, want := c.kubectl("logs", "reader"), "payload\nfrom the machine\n"; logs != want {
		c.t.Errorf("%s: the reader printed %q, want %q", c.Name, logs, want)
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

const writer = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: registry.test/busybox:1
    command: [sh, -c, "[ -e /data/file ] || echo payload > /data/file; sync; exec httpd -f -p 8080 -h /data"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]`

const snapshot = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: snap}
spec: {volumeSnapshotClassName: csi-azuredisk-vsc, source: {persistentVolumeClaimName: data}}`

// foreignSnapshot is the other cluster's snapshot, known by its handle.
const foreignSnapshot = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: foreign}
spec:
  driver: disk.csi.azure.com
  deletionPolicy: Retain
  sourceVolumeMode: Filesystem
  source: {snapshotHandle: "%s"}
  volumeSnapshotRef: {name: snap, namespace: default}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: snap}
spec: {source: {volumeSnapshotContentName: foreign}}`

const reader = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: restored}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 2Gi}}
  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: snap}
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: registry.test/busybox:1
    command: [sh, -c, "cat /data/file && fetch http://machine.test:%s/"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: restored}}]`

// raw has a block volume; the kubelet puts a loop device of its own on the disk's.
const raw = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: raw}
spec: {accessModes: [ReadWriteOnce], volumeMode: Block, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: raw}
spec:
  containers:
  - name: c
    image: registry.test/busybox:1
    command: [sh, -c, "echo payload > /dev/disk && exec httpd -f -p 8080"]
    volumeDevices: [{name: data, devicePath: /dev/disk}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: raw}}]`
