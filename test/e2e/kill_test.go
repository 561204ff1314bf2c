package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	azcontainer "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/kubetest"
)

// victims are what may die in the middle of a backup or a restore, and how.
var victims = []struct {
	name string
	kill func(t *testing.T)
}{
	{"extension", func(t *testing.T) { killPod(t, "cairn-extension", "manager") }},
	{"connector", func(t *testing.T) { killPod(t, "cairn-extension", "connector") }},
	{"cairnd", func(t *testing.T) {
		if err := w.KillService(); err != nil {
			t.Fatal(err)
		}
		if err := w.StartService(t.Context()); err != nil {
			t.Fatal(err)
		}
	}},
	{"apiserver", func(t *testing.T) {
		if err := signalComponent(t.Context(), "kube-apiserver", "KILL"); err != nil {
			t.Fatal(err)
		}
	}},
}

func signalComponent(ctx context.Context, component, signal string) error {
	return w.TestCluster(ctx, "kill", cluster.Name, component, "--signal", signal)
}

// killPod kills the process of this world's cluster that runs program with the argument sub.
func killPod(t *testing.T, program, sub string) {
	t.Helper()
	var killed bool
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(text), "\x00")
		if filepath.Base(args[0]) != program || len(args) < 2 || args[1] != sub {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(cgroup), "/tc-"+cluster.Name+"/") {
			continue // another world's
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		killed = true
	}
	if !killed {
		t.Fatalf("no process %s %s runs in cluster %s", program, sub, cluster.Name)
	}
}

// holdUp keeps work from getting on, so that a request stands at a step until let go. reached is closed when the work has come there; if it is nil the
// step is told by the request's status alone.
type holdUp func(t *testing.T) (reached <-chan struct{}, letGo func())

func noHold(*testing.T) (<-chan struct{}, func()) { return nil, func() {} }

func holdBlobs(match func(method, path string) bool) holdUp {
	return func(*testing.T) (<-chan struct{}, func()) {
		return blobFront.hold(func(r *http.Request) bool { return match(r.Method, r.URL.Path) })
	}
}

func slowDriver(call string) holdUp {
	return func(t *testing.T) (<-chan struct{}, func()) {
		slow(t, call, true)
		return nil, func() { slow(t, call, false) }
	}
}

// stopControllerAtCommit stops the snapshot controller when the commit object is about to be written: it is needed until then.
func stopControllerAtCommit(t *testing.T) (<-chan struct{}, func()) {
	const controller = "snapshot-controller"
	committing, letPass := blobFront.hold(func(r *http.Request) bool { return writesCommit(r.Method, r.URL.Path) })
	stopped, over, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-committing:
		case <-over:
			return
		}
		if err := signalComponent(t.Context(), controller, "STOP"); err != nil {
			return // the test waits for stopped in vain, and says so
		}
		close(stopped)
		letPass()
	}()
	return stopped, func() {
		close(over)
		<-done
		letPass()
		if err := signalComponent(context.WithoutCancel(t.Context()), controller, "CONT"); err != nil {
			t.Error(err)
		}
	}
}

// Before Cut the extension asks storage whether the recovery point exists, and Plan begins with the same question.
const commitObject = "/recoverypoint.json"

func readsCommit(method, path string) bool {
	return method != http.MethodPut && strings.HasSuffix(path, commitObject)
}

func writesCommit(method, path string) bool {
	return method == http.MethodPut && strings.HasSuffix(path, commitObject)
}

func writesOther(method, path string) bool {
	return method == http.MethodPut && !strings.HasSuffix(path, commitObject)
}

// killAt starts a request with start, kills a part when the request stands at the step, and returns the name of the request, which is the job's.
func killAt(t *testing.T, requests client.ObjectList, step string, hold holdUp, start func(), kill func(t *testing.T)) string {
	t.Helper()
	waitExtension(t)
	reached, letGo := hold(t)
	letGo = sync.OnceFunc(letGo)
	defer letGo()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	config, err := clientcmd.BuildConfigFromFlags("", w.Kubeconfig(cluster))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: kubetest.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.List(ctx, requests); err != nil {
		t.Fatal(err)
	}
	watch, err := c.Watch(ctx, requests, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: requests.GetResourceVersion()}})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	start()
	for event := range watch.ResultChan() {
		name, progress := progressOf(event.Object)
		if !slices.ContainsFunc(progress.Steps, func(s v1alpha1.Step) bool { return s.Name == step }) {
			continue
		}
		if reached != nil {
			select {
			case <-reached:
			case <-ctx.Done():
				t.Fatalf("%s stands at %s, but does not get to where it is held", name, step)
			}
		}
		kill(t)
		return name
	}
	t.Fatalf("no request came to %s: %v", step, context.Cause(ctx))
	return ""
}

func progressOf(request runtime.Object) (name string, progress v1alpha1.Progress) {
	switch r := request.(type) {
	case *v1alpha1.Backup:
		return r.Name, r.Status.Progress
	case *v1alpha1.Restore:
		return r.Name, r.Status.Progress
	}
	return "", v1alpha1.Progress{}
}

// TestBackupsSurviveKills kills each part at each step of a backup: afterwards there is one whole recovery point, and nothing that no recovery
// point owns.
func TestBackupsSurviveKills(t *testing.T) {
	protect(t)
	prepareWorkload(t, "killed")
	t.Cleanup(func() { destroyWorkload(t, "killed") })
	makeInstanceOnce(t, "killed", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["killed"]}`)
	for _, step := range []struct {
		name string
		hold holdUp
	}{
		{v1alpha1.StepCut, holdBlobs(readsCommit)}, {v1alpha1.StepSnapshot, slowDriver("CreateSnapshot")}, {v1alpha1.StepUpload, holdBlobs(writesOther)},
		{v1alpha1.StepCommit, holdBlobs(writesCommit)}, {v1alpha1.StepRelease, stopControllerAtCommit},
	} {
		for _, victim := range victims {
			t.Run(step.name+"/"+victim.name, func(t *testing.T) {
				before := snapshots(t)
				id := killAt(t, &v1alpha1.BackupList{}, step.name, step.hold, func() {
					sh(t, "az dataprotection backup-instance adhoc-backup"+where+"-n killed --rule-name BackupDaily --no-wait")
				}, victim.kill)
				j := finish(t, id)
				if j.Properties.Status != "Completed" {
					t.Fatalf("the backup ended as %s: %+v", j.Properties.Status, j.Properties)
				}
				checkNothingLeft(t)
				if added := len(snapshots(t)) - len(before); added != 1 {
					t.Errorf("storage holds %d more snapshots; the recovery point owns 1", added)
				}
			})
		}
	}
	checkBundlesWhole(t)
}

// TestRestoresSurviveKills does the same for a restore: afterwards the data is back, and what was created is counted as created.
func TestRestoresSurviveKills(t *testing.T) {
	protect(t)
	prepareWorkload(t, "revived")
	makeInstanceOnce(t, "revived", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["revived"]}`)
	_, recoveryPoint := backup(t, "revived")
	t.Cleanup(func() { destroyWorkload(t, "revived") })
	for _, step := range []struct {
		name string
		hold holdUp
	}{
		{v1alpha1.StepPlan, holdBlobs(readsCommit)}, {v1alpha1.StepApply, noHold}, {v1alpha1.StepWait, slowDriver("CreateVolume")},
	} {
		for _, victim := range victims {
			t.Run(step.name+"/"+victim.name, func(t *testing.T) {
				destroyWorkload(t, "revived")
				id := killAt(t, &v1alpha1.RestoreList{}, step.name, step.hold, func() { sh(t, restoreLine(t, "revived", recoveryPoint, "revived")+" --no-wait") }, victim.kill)
				j := finish(t, id)
				if j.Properties.Status != "Completed" {
					t.Fatalf("the restore ended as %s: %+v", j.Properties.Status, j.Properties)
				}
				checkWorkload(t, "revived")
				checkNothingLeft(t)
			})
		}
	}
}

func makeInstanceOnce(t *testing.T, name, parameters string) {
	t.Helper()
	if _, err := bash(t.Context(), "az dataprotection backup-instance show"+where+"-n "+name); err != nil {
		makeInstance(t, name, parameters)
	}
}

// slow makes a call of the disk driver take two seconds, or as long as ever.
func slow(t *testing.T, call string, slow bool) {
	t.Helper()
	how := []string{"--clear"}
	if slow {
		how = []string{"--delay", "2s"}
	}
	if err := w.TestCluster(context.WithoutCancel(t.Context()), append([]string{"fault", cluster.Name, call}, how...)...); err != nil {
		t.Fatal(err)
	}
}

// snapshots lists the snapshots that storage holds.
func snapshots(t *testing.T) []string {
	t.Helper()
	out, err := w.TestClusterOutput(t.Context(), "disks")
	if err != nil {
		t.Fatal(err)
	}
	var cloud struct{ Snapshots []struct{ ID string } }
	if err := json.Unmarshal([]byte(out), &cloud); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var handles []string
	for _, s := range cloud.Snapshots {
		handles = append(handles, s.ID)
	}
	return handles
}

// checkNothingLeft says whether the cluster still has objects that a backup or restore needed only while it ran.
func checkNothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "the snapshot objects to go", func() error {
		out, err := bash(t.Context(), "kubectl get volumesnapshots,volumesnapshotcontents -A -o name")
		if err != nil {
			return errors.New(out)
		}
		if strings.TrimSpace(out) != "" && !strings.Contains(out, "No resources found") {
			return errors.New(out)
		}
		return nil
	})
}

// checkBundlesWhole says whether the container holds exactly what its recovery points consist of: no file is missing, and none belongs to none.
func checkBundlesWhole(t *testing.T) {
	t.Helper()
	blobs := backups(t)
	stored := blobSizes(t, blobs)
	owned := map[string]bool{}
	for name := range stored {
		folder, isCommit := strings.CutSuffix(name, commitObject)
		if !isCommit {
			continue
		}
		owned[name] = true
		got, err := blobs.NewBlobClient(name).DownloadStream(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var rp bundle.RecoveryPoint
		if err := errors.Join(json.NewDecoder(got.Body).Decode(&rp), got.Body.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, f := range rp.Files {
			file := folder + "/" + f.Name
			if owned[file] = true; stored[file] != f.Size {
				t.Errorf("%s has %d bytes in storage, and %d in the recovery point", file, stored[file], f.Size)
			}
		}
	}
	if len(owned) == 0 {
		t.Error("the container holds no recovery point")
	}
	for name := range stored {
		if !owned[name] && !strings.Contains(name, "/restores/") {
			t.Errorf("%s belongs to no recovery point", name)
		}
	}
}

// blobSizes are the sizes in bytes of all blobs in a container, by their names.
func blobSizes(t *testing.T, blobs *azcontainer.Client) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	for pages := blobs.NewListBlobsFlatPager(nil); pages.More(); {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range page.Segment.BlobItems {
			sizes[*b.Name] = *b.Properties.ContentLength
		}
	}
	return sizes
}

func blobNames(t *testing.T) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(blobSizes(t, backups(t))))
}

// backups is Azure's own client for the container that the extension writes to.
func backups(t *testing.T) *azcontainer.Client {
	t.Helper()
	account := account(t)
	key, err := azblob.NewSharedKeyCredential(account, sh(t, "az storage account keys list -g "+group+" -n "+account+" --query '[0].value' -o tsv"))
	if err != nil {
		t.Fatal(err)
	}
	endpoint := sh(t, "az storage account show -g "+group+" -n "+account+" --query primaryEndpoints.blob -o tsv")
	client, err := azcontainer.NewClientWithSharedKeyCredential(endpoint+container(t), key, &azcontainer.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: trusting(t)}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// container and account are where the extension writes to.
func container(t *testing.T) string {
	t.Helper()
	return extensionSetting(t, "bucket")
}

func account(t *testing.T) string {
	t.Helper()
	return extensionSetting(t, "config.storageAccount")
}

func extensionSetting(t *testing.T, name string) string {
	t.Helper()
	return sh(t, "az aks extension show -g "+group+" --cluster-name "+armName+" --name azure-aks-backup --query 'configurationSettings.\"configuration.backupStorageLocation."+name+"\"' -o tsv")
}
