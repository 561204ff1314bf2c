package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/snapshot"
	"github.com/cairn-backup/cairn/internal/kubetest"
)

const driver = kubetest.Driver

var cluster *kubetest.Cluster

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m, &cluster)) }

// world is a namespace with claims, and storage.
type world struct {
	t       *testing.T
	storage *kubetest.Storage
	taker   *snapshot.Taker
	targets []snapshot.Target
	taken   []snapshot.Taken
}

var worlds int

// newWorld makes n claims in a new namespace, with a class that deletes snapshots together with their objects, the dangerous one.
func newWorld(t *testing.T, n int) *world {
	t.Helper()
	worlds++
	id := fmt.Sprintf("%032x", worlds)
	namespace := fmt.Sprintf("shop-%d", worlds)
	storage := kubetest.StartStorage(t, cluster)
	class := &snapshotv1.VolumeSnapshotClass{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Driver: driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete}
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	if err := cluster.Client.Create(t.Context(), class); client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
	w := &world{t: t, storage: storage, taker: &snapshot.Taker{Client: cluster.Client, RecoveryPointID: id, Attempt: 1, Now: time.Now, Removal: time.Minute}}
	var claims []corev1.PersistentVolumeClaim
	volumes := map[string]corev1.PersistentVolume{}
	for i := range n {
		claim := cluster.Volume(t, namespace, fmt.Sprintf("data-%d", i), driver)
		var volume corev1.PersistentVolume
		get(t, client.ObjectKey{Name: claim.Spec.VolumeName}, &volume)
		claims, volumes[volume.Name] = append(claims, *claim), volume
	}
	targets, report := snapshot.Choose(id, 1, claims, volumes, []snapshotv1.VolumeSnapshotClass{*class})
	if len(targets) != n || len(report) != 0 {
		t.Fatalf("%d targets of %d claims, report %v", len(targets), n, report)
	}
	w.targets = targets
	return w
}

func create(t *testing.T, object client.Object) {
	t.Helper()
	if err := cluster.Client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, key client.ObjectKey, object client.Object) {
	t.Helper()
	if err := cluster.Client.Get(t.Context(), key, object); err != nil {
		t.Fatal(err)
	}
}

func (w *world) take() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if err := w.taker.Take(ctx, w.targets, func(taken snapshot.Taken) { w.taken = append(w.taken, taken) }); err != nil {
		w.t.Fatal(err)
	}
	if len(w.taken) != len(w.targets) {
		w.t.Fatalf("%d of %d targets were reported", len(w.taken), len(w.targets))
	}
}

// records returns the ledger as a controller would have it.
func (w *world) records(withHandles bool) []v1alpha1.VolumeSnapshotRecord {
	var records []v1alpha1.VolumeSnapshotRecord
	for _, target := range w.targets {
		records = append(records, target.Record)
	}
	for _, taken := range w.taken {
		if withHandles {
			records[taken.Index].Handle = taken.Volume.SnapshotHandle
		}
	}
	return records
}

// objects returns the snapshot objects that there are of the recovery point.
func (w *world) objects() []string {
	w.t.Helper()
	var snapshots snapshotv1.VolumeSnapshotList
	var contents snapshotv1.VolumeSnapshotContentList
	if err := errors.Join(cluster.Client.List(w.t.Context(), &snapshots), cluster.Client.List(w.t.Context(), &contents)); err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, s := range snapshots.Items {
		if s.Labels[snapshot.LabelRecoveryPoint] == w.taker.RecoveryPointID {
			all = append(all, "VolumeSnapshot "+s.Name)
		}
	}
	for _, c := range contents.Items {
		if strings.Contains(c.Spec.VolumeSnapshotRef.Name, w.taker.RecoveryPointID) || c.Labels[v1alpha1.Group+"/delete"] == w.taker.RecoveryPointID {
			all = append(all, "VolumeSnapshotContent "+c.Name)
		}
	}
	return all
}

// nothingLeft fails if snapshot objects of the records are left.
func (w *world) nothingLeft() {
	w.t.Helper()
	if left := w.objects(); len(left) != 0 {
		w.t.Errorf("left: %v", left)
	}
}

// removed fails unless all was removed.
func (w *world) removed(left []string, err error) {
	w.t.Helper()
	if err != nil || len(left) != 0 {
		w.t.Fatalf("left: %v, error: %v", left, err)
	}
}

func TestReleasedSnapshotsStayInStorage(t *testing.T) {
	w := newWorld(t, 30)
	w.take()
	for _, taken := range w.taken {
		if !taken.Taken || w.storage.Snapshots()[taken.Volume.SnapshotHandle] != taken.Volume.VolumeHandle || taken.Volume.RestoreSizeBytes != 1<<30 {
			t.Errorf("taken: %+v", taken)
		}
	}
	for range 2 { // it may be called again
		w.removed(w.taker.Release(t.Context(), w.records(true)))
	}
	w.nothingLeft()
	if got := len(w.storage.Snapshots()); got != 30 {
		t.Errorf("%d snapshots in storage, want 30", got)
	}
	w.removed(w.taker.DeleteHandles(t.Context(), append(w.records(true), v1alpha1.VolumeSnapshotRecord{Driver: driver, Handle: "gone already"})))
	if left := w.storage.Snapshots(); len(left) != 0 {
		t.Errorf("in storage after their deletion: %v", left)
	}
}

func TestAbandonedSnapshotsAreDeleted(t *testing.T) {
	for _, state := range []string{"taken", "asked for", "released", "never asked for", "snapshot objects gone"} {
		t.Run(state, func(t *testing.T) {
			w := newWorld(t, 3)
			switch state {
			case "taken":
				w.take()
			case "released":
				w.take()
				w.removed(w.taker.Release(t.Context(), w.records(true)))
			case "asked for":
				// The driver is done only after the deletion was asked for, which the snapshotter overlooks then.
				w.storage.OnTake(func(string) error {
					var list snapshotv1.VolumeSnapshotContentList
					err := cluster.Client.List(t.Context(), &list)
					if err != nil || slices.ContainsFunc(list.Items, func(c snapshotv1.VolumeSnapshotContent) bool { return c.DeletionTimestamp == nil }) {
						return kubetest.NotYet
					}
					return nil
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- w.taker.Take(ctx, w.targets, func(snapshot.Taken) {}) }()
				until(t, "all are asked for", func() bool {
					var list snapshotv1.VolumeSnapshotContentList
					if err := cluster.Client.List(t.Context(), &list); err != nil {
						t.Fatal(err)
					}
					return len(list.Items) == 3
				})
				cancel() // as when the extension is killed
				<-done
			case "snapshot objects gone":
				w.take()
				for _, r := range w.records(true) {
					snapshot := &snapshotv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.SnapshotName}}
					if err := cluster.Client.Delete(t.Context(), snapshot); err != nil {
						t.Fatal(err)
					}
					until(t, "it is gone", func() bool {
						return apierrors.IsNotFound(cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(snapshot), snapshot))
					})
				}
				if got := len(w.storage.Snapshots()); got != 3 {
					t.Errorf("%d snapshots after their objects were deleted by others, want 3: their contents must have been retained", got)
				}
			}
			for range 2 {
				w.removed(w.taker.Abandon(t.Context(), w.records(true)))
			}
			w.nothingLeft()
			if left := w.storage.Snapshots(); len(left) != 0 {
				t.Errorf("left in storage: %v", left)
			}
		})
	}
}

// until waits for a state of the cluster.
func until(t *testing.T, what string, reached func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !reached() {
		select {
		case <-ctx.Done():
			t.Fatalf("not reached: %s", what)
		case <-tick.C:
		}
	}
}

func TestFailingVolumesAreGivenUp(t *testing.T) {
	cases := map[string]struct {
		answer    error
		code      string
		give, all time.Duration
	}{
		"driver fails":  {errors.New("rpc error: code = Internal desc = broken"), snapshot.CodeFailed, 300 * time.Millisecond, time.Minute},
		"too many":      {errors.New("rpc error: code = ResourceExhausted desc = 500 snapshots"), snapshot.CodeLimitReached, 300 * time.Millisecond, time.Minute},
		"nothing moves": {kubetest.NotYet, snapshot.CodeTimedOut, time.Minute, 5 * time.Second},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			w.taker.GiveUp, w.taker.Stall = c.give, c.all
			w.storage.OnTake(func(volume string) error {
				if strings.HasSuffix(volume, "data-1") {
					return c.answer
				}
				return nil
			})
			w.take()
			for _, taken := range w.taken {
				if taken.Taken != (taken.Volume.Claim != "data-1") {
					t.Errorf("taken: %+v", taken)
				}
				if taken.Volume.Claim == "data-1" && (taken.Outcome.Code != c.code || taken.Outcome.Result != bundle.Skipped) {
					t.Errorf("outcome %+v, want code %s", taken.Outcome, c.code)
				}
			}
			w.storage.OnTake(nil)
			w.removed(w.taker.Abandon(t.Context(), w.records(true)))
			if left := w.storage.Snapshots(); len(left) != 0 {
				t.Errorf("left in storage: %v", left)
			}
		})
	}
}

func TestNamespaceThatWentIsReported(t *testing.T) {
	w := newWorld(t, 1)
	w.targets[0].Record.Namespace = "no-such-namespace"
	w.take()
	if w.taken[0].Taken || w.taken[0].Outcome.Code != snapshot.CodeFailed {
		t.Errorf("taken: %+v", w.taken[0])
	}
}

func TestRemovalThatHangsSaysWhatIsLeft(t *testing.T) {
	w := newWorld(t, 1)
	w.take()
	finalizer := []byte(`{"metadata":{"finalizers":["test.example/hold"]}}`)
	held := &snapshotv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: w.targets[0].Record.Namespace, Name: w.targets[0].Record.SnapshotName}}
	patch := func(data []byte) {
		if err := client.IgnoreNotFound(cluster.Client.Patch(t.Context(), held, client.RawPatch("application/merge-patch+json", data))); err != nil {
			t.Fatal(err)
		}
	}
	patch(finalizer)
	w.taker.Removal = 300 * time.Millisecond
	if left, err := w.taker.Release(t.Context(), w.records(true)); err != nil || !slices.Contains(left, held.Namespace+"/"+held.Name) {
		t.Errorf("left %v, error %v; want the VolumeSnapshot that is held", left, err)
	}
	patch([]byte(`{"metadata":{"finalizers":null}}`))
	w.taker.Removal = time.Minute
	w.removed(w.taker.Release(t.Context(), w.records(true)))
}

func TestObjectsThatCannotBeSeenAreNotTakenToBeGone(t *testing.T) {
	w := newWorld(t, 1)
	w.take()
	unseen := func(list client.ObjectList) error {
		if _, ofSnapshots := list.(*snapshotv1.VolumeSnapshotList); ofSnapshots {
			return errors.New("made by the test")
		}
		return nil
	}
	w.taker.Client = interceptor.NewClient(cluster.Client, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			return errors.Join(unseen(list), c.List(ctx, list, options...))
		},
		Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
			if err := unseen(list); err != nil {
				return nil, err
			}
			return c.Watch(ctx, list, options...)
		}})
	w.taker.Removal = 300 * time.Millisecond
	record := w.targets[0].Record
	if left, err := w.taker.Release(t.Context(), w.records(true)); err != nil || !slices.Contains(left, record.Namespace+"/"+record.SnapshotName) {
		t.Errorf("left %v, error %v; want the VolumeSnapshot", left, err)
	}
	until(t, "all objects are gone", func() bool { return len(w.objects()) == 0 })
}

func TestControllersThatAreAwayFinishTheRemovalLater(t *testing.T) {
	for _, away := range []string{"controller", "snapshotter", "both"} {
		for _, release := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, release %v", away, release), func(t *testing.T) {
				w := newWorld(t, 3)
				w.take()
				records := w.records(true)
				w.removed(w.taker.Release(t.Context(), records[:1])) // one has no objects any more
				w.storage.Away(away != "snapshotter", away != "controller")
				w.taker.Removal = 300 * time.Millisecond
				remove, kept := w.taker.Abandon, 0
				if release {
					remove, kept = w.taker.Release, 3
				}
				if left, err := remove(t.Context(), records); err != nil || len(left) == 0 {
					t.Fatalf("left %v, error %v; want what was not removed", left, err)
				}
				if away == "controller" {
					until(t, "the snapshotter, which is there, has done its part", func() bool { return len(w.storage.Snapshots()) == kept })
				}
				w.storage.Away(false, false)
				until(t, "all objects are gone by themselves", func() bool { return len(w.objects()) == 0 })
				if got := len(w.storage.Snapshots()); got != kept {
					t.Errorf("%d snapshots in storage, want %d", got, kept)
				}
			})
		}
	}
}

// The snapshotter looks up a snapshot that it did not make; if the driver fails then, however long that takes, it writes a status of its own over what it has not seen.
func TestASnapshotIsDeletedThoughTheDriverFailsToFindIt(t *testing.T) {
	w := newWorld(t, 1)
	w.storage.Add("lost", "volume")
	w.storage.OnList(func(string) error { // the worst moment is when the deletion has been asked for
		_ = wait.PollUntilContextCancel(t.Context(), 20*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			var contents snapshotv1.VolumeSnapshotContentList
			err := cluster.Client.List(ctx, &contents)
			return err == nil && slices.ContainsFunc(contents.Items, func(c snapshotv1.VolumeSnapshotContent) bool { return c.DeletionTimestamp != nil }), nil
		})
		return errors.New("rpc error: code = Unavailable desc = storage is busy")
	})
	w.removed(w.taker.DeleteHandles(t.Context(), []v1alpha1.VolumeSnapshotRecord{{Driver: driver, Handle: "lost"}}))
	if left := w.storage.Snapshots(); len(left) != 0 {
		t.Errorf("left in storage: %v", left)
	}
}

// A snapshotter sends five requests a second by default, and more than one for each snapshot.
func TestASlowRemovalIsAwaitedWhileItGetsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.NewClientBuilder().WithScheme(kubetest.Scheme()).WithStatusSubresource(&snapshotv1.VolumeSnapshotContent{}).WithInterceptorFuncs(interceptor.Funcs{
			Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
				var o client.ListOptions
				if o.ApplyOptions(options); o.Raw != nil && o.Raw.SendInitialEvents != nil {
					return nil, apierrors.NewBadRequest("the fake client sends none") // the informer lists then
				}
				return c.Watch(ctx, list, options...)
			}}).Build()
		var snapshotter sync.WaitGroup
		defer snapshotter.Wait()
		snapshotter.Go(func() {
			for range 2 {
				time.Sleep(4 * time.Minute) // of the bubble's time: what is tested is how long a wait is
				var list snapshotv1.VolumeSnapshotContentList
				if err := c.List(t.Context(), &list); err != nil {
					t.Error(err)
					return
				}
				list.Items[0].Finalizers = nil
				if err := c.Update(t.Context(), &list.Items[0]); err != nil {
					t.Error(err)
				}
			}
		})
		began := time.Now()
		taker := snapshot.Taker{Client: c, RecoveryPointID: "id", Now: time.Now, Removal: 5 * time.Minute}
		left, err := taker.DeleteHandles(t.Context(), []v1alpha1.VolumeSnapshotRecord{{Driver: driver, Handle: "a"}, {Driver: driver, Handle: "b"}, {Driver: driver, Handle: "c"}})
		if took := time.Since(began); err != nil || len(left) != 1 || took < 13*time.Minute || took > 14*time.Minute {
			t.Errorf("left %v after %s, error %v; want one, 5 minutes after the last that went", left, took, err)
		}
	})
}

func TestASnapshotIsDeletedThoughTheSnapshotterWasAway(t *testing.T) {
	w := newWorld(t, 1)
	w.storage.Add("lost", "volume")
	w.storage.Away(false, true)
	w.taker.Removal = 300 * time.Millisecond
	if left, err := w.taker.DeleteHandles(t.Context(), []v1alpha1.VolumeSnapshotRecord{{Driver: driver, Handle: "lost"}}); err != nil || len(left) == 0 {
		t.Fatalf("left %v, error %v; want what was not removed", left, err)
	}
	w.storage.Away(false, false)
	until(t, "all objects are gone by themselves", func() bool { return len(w.objects()) == 0 })
	if left := w.storage.Snapshots(); len(left) != 0 {
		t.Errorf("left in storage: %v", left)
	}
}

func TestChooseSaysWhyAClaimIsLeftOut(t *testing.T) {
	csi := corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
		CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "h"}}}}
	other := *csi.DeepCopy()
	other.Spec.CSI.Driver = "other.test"
	hostPath := corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}}}
	classes := []snapshotv1.VolumeSnapshotClass{{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Driver: driver}}
	claim := func(volume string, phase corev1.PersistentVolumeClaimPhase) corev1.PersistentVolumeClaim {
		return corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume},
			Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
	}
	cases := map[string]struct {
		claim  corev1.PersistentVolumeClaim
		volume corev1.PersistentVolume
		want   string
	}{
		"taken":          {claim("v", corev1.ClaimBound), csi, ""},
		"not bound":      {claim("", corev1.ClaimPending), csi, snapshot.CodeClaimNotBound},
		"lost":           {claim("v", corev1.ClaimLost), csi, snapshot.CodeClaimNotBound},
		"volume missing": {claim("w", corev1.ClaimBound), csi, snapshot.CodeVolumeNotFound},
		"host path":      {claim("v", corev1.ClaimBound), hostPath, "VolumeTypeNotSupported"},
		"no class":       {claim("v", corev1.ClaimBound), other, snapshot.CodeClassNotFound},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			targets, report := snapshot.Choose("id", 1, []corev1.PersistentVolumeClaim{c.claim}, map[string]corev1.PersistentVolume{"v": c.volume}, classes)
			if c.want == "" {
				if len(targets) != 1 || len(report) != 0 {
					t.Errorf("targets %v, report %v", targets, report)
				}
				return
			}
			if len(targets) != 0 || len(report) != 1 || report[0].Code != c.want || !report[0].Result.Warning() {
				t.Errorf("targets %v, report %v, want code %s", targets, report, c.want)
			}
		})
	}
}

func TestClassOfADriver(t *testing.T) {
	class := func(name, driver string, isDefault bool) snapshotv1.VolumeSnapshotClass {
		c := snapshotv1.VolumeSnapshotClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Driver: driver}
		if isDefault {
			c.Annotations = map[string]string{"snapshot.storage.kubernetes.io/is-default-class": "true"}
		}
		return c
	}
	classes := []snapshotv1.VolumeSnapshotClass{class("b", "x", false), class("a", "x", false), class("c", "y", false), class("d", "y", true), class("a", "y", false)}
	got := map[string]string{}
	for _, driver := range []string{"x", "y", "z"} {
		if c, found := snapshot.ClassOf(driver, classes); found {
			got[driver] = c.Name
		}
	}
	if diff := cmp.Diff(map[string]string{"x": "a", "y": "d"}, got); diff != "" {
		t.Error(diff)
	}
}
