package kubetest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// What the real controllers use.
const (
	snapshotFinalizer = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"
	contentFinalizer  = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
	beingDeleted      = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
	beingCreated      = "snapshot.storage.kubernetes.io/volumesnapshot-being-created"
	pollEvery         = 20 * time.Millisecond
)

// Driver is the name of the stand-in's CSI driver. Its snapshotter passes over the contents of others.
const Driver = "disk.test"

// Storage is a stand-in for the snapshot controller, a snapshotter and a CSI driver with its storage. It follows the real controllers' rules
// on finalizers and deletion policies, so that whatever leaks or is lost with these does so here.
type Storage struct {
	client client.Client

	mu        sync.Mutex
	snapshots map[string]string // volume handle by snapshot handle
	made      int
	take      func(volumeHandle string) error
	list      func(handle string) error

	controllerAway, snapshotterAway atomic.Bool
}

// NotYet is what Take answers to keep a snapshot waiting.
var NotYet = fmt.Errorf("not yet")

// StartStorage runs the stand-in until the test ends.
func StartStorage(t testing.TB, c *Cluster) *Storage {
	t.Helper()
	manager, err := ctrl.NewManager(c.Config, ctrl.Options{Scheme: Scheme(), Metrics: server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: new(true)}})
	if err != nil {
		t.Fatal(err)
	}
	s := &Storage{client: c.Client, snapshots: map[string]string{}}
	err = ctrl.NewControllerManagedBy(manager).For(&snapshotv1.VolumeSnapshot{}).Complete(unless(&s.controllerAway, s.snapshot))
	if err == nil {
		err = ctrl.NewControllerManagedBy(manager).For(&snapshotv1.VolumeSnapshotContent{}, builder.WithPredicates(othersDoing)).Complete(unless(&s.snapshotterAway, s.content))
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- manager.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// othersDoing lets through what the real snapshotter looks at: not what it wrote itself. (That one does look at a snapshot that became ready, but may see its
// note of the making still; here it always does.)
var othersDoing = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, after := e.ObjectOld.DeepCopyObject(), e.ObjectNew.DeepCopyObject()
	for _, object := range []runtime.Object{before, after} {
		if content, ok := object.(*snapshotv1.VolumeSnapshotContent); ok {
			delete(content.Annotations, beingCreated)
			content.Status, content.ManagedFields, content.Finalizers, content.ResourceVersion = nil, nil, nil, ""
		}
	}
	return !equality.Semantic.DeepEqual(before, after)
}}

type reconciler func(context.Context, client.ObjectKey) (ctrl.Result, error)

func (r reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	result, err := r(ctx, request.NamespacedName)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{RequeueAfter: pollEvery}, nil // a conflict, mostly; the real controllers try again too
	}
	return result, nil
}

// unless is a reconciler that does nothing while it is away, and all of it afterwards.
func unless(away *atomic.Bool, do reconciler) reconciler {
	return func(ctx context.Context, key client.ObjectKey) (ctrl.Result, error) {
		if away.Load() {
			return ctrl.Result{RequeueAfter: pollEvery}, nil
		}
		return do(ctx, key)
	}
}

// Away says which of the two controllers do nothing from now on.
func (s *Storage) Away(controller, snapshotter bool) {
	s.controllerAway.Store(controller)
	s.snapshotterAway.Store(snapshotter)
}

// OnTake sets what the driver answers when asked for a snapshot; nil means success, NotYet that it is still busy.
func (s *Storage) OnTake(take func(volumeHandle string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take = take
}

// OnList is called when the driver is asked about a snapshot, before it answers; its error is the answer.
func (s *Storage) OnList(list func(handle string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = list
}

// Snapshots returns the snapshots in storage: volume handle by snapshot handle.
func (s *Storage) Snapshots() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]string{}
	for handle, volume := range s.snapshots {
		all[handle] = volume
	}
	return all
}

// Add puts a snapshot into storage.
func (s *Storage) Add(handle, volume string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots[handle] = volume
}

func (s *Storage) create(volume string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.take != nil {
		if err := s.take(volume); err != nil {
			return "", err
		}
	}
	s.made++
	handle := fmt.Sprintf("snapshot-%d-of-%s", s.made, volume)
	s.snapshots[handle] = volume
	return handle, nil
}

func (s *Storage) delete(handle string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.snapshots, handle)
}

// snapshot does what the snapshot controller does with a VolumeSnapshot.
func (s *Storage) snapshot(ctx context.Context, key client.ObjectKey) (ctrl.Result, error) {
	var snapshot snapshotv1.VolumeSnapshot
	if err := s.client.Get(ctx, key, &snapshot); err != nil {
		return ctrl.Result{}, err
	}
	name := "snapcontent-" + string(snapshot.UID)
	var content snapshotv1.VolumeSnapshotContent
	err := s.client.Get(ctx, client.ObjectKey{Name: name}, &content)
	exists := err == nil
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	if snapshot.DeletionTimestamp != nil {
		return s.snapshotDeleted(ctx, &snapshot, &content, exists)
	}
	if controllerutil.AddFinalizer(&snapshot, snapshotFinalizer) {
		return ctrl.Result{RequeueAfter: time.Millisecond}, s.client.Update(ctx, &snapshot)
	}
	if !exists {
		return ctrl.Result{RequeueAfter: pollEvery}, s.bind(ctx, &snapshot, name)
	}
	snapshot.Status = &snapshotv1.VolumeSnapshotStatus{BoundVolumeSnapshotContentName: &name}
	if content.Status != nil {
		snapshot.Status.ReadyToUse, snapshot.Status.Error = content.Status.ReadyToUse, content.Status.Error
	}
	if ready := snapshot.Status.ReadyToUse; ready != nil && *ready {
		return ctrl.Result{}, s.client.Status().Update(ctx, &snapshot)
	}
	return ctrl.Result{RequeueAfter: pollEvery}, s.client.Status().Update(ctx, &snapshot)
}

func (s *Storage) snapshotDeleted(ctx context.Context, snapshot *snapshotv1.VolumeSnapshot, content *snapshotv1.VolumeSnapshotContent, exists bool) (ctrl.Result, error) {
	if exists && content.Annotations[beingDeleted] == "" {
		metav1.SetMetaDataAnnotation(&content.ObjectMeta, beingDeleted, "yes")
		if err := s.client.Update(ctx, content); err != nil {
			return ctrl.Result{}, err
		}
	}
	if exists && content.Spec.DeletionPolicy == snapshotv1.VolumeSnapshotContentDelete {
		return ctrl.Result{RequeueAfter: pollEvery}, s.client.Delete(ctx, content)
	}
	if controllerutil.RemoveFinalizer(snapshot, snapshotFinalizer) {
		return ctrl.Result{}, s.client.Update(ctx, snapshot)
	}
	return ctrl.Result{}, nil
}

// bind makes the content of a new snapshot.
func (s *Storage) bind(ctx context.Context, snapshot *snapshotv1.VolumeSnapshot, name string) error {
	var claim corev1.PersistentVolumeClaim
	if err := s.client.Get(ctx, client.ObjectKey{Namespace: snapshot.Namespace, Name: *snapshot.Spec.Source.PersistentVolumeClaimName}, &claim); err != nil {
		return err
	}
	var volume corev1.PersistentVolume
	if err := s.client.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &volume); err != nil {
		return err
	}
	var class snapshotv1.VolumeSnapshotClass
	if err := s.client.Get(ctx, client.ObjectKey{Name: *snapshot.Spec.VolumeSnapshotClassName}, &class); err != nil {
		return err
	}
	return s.client.Create(ctx, &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{contentFinalizer}},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			DeletionPolicy: class.DeletionPolicy, Driver: class.Driver, VolumeSnapshotClassName: &class.Name,
			Source:            snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &volume.Spec.CSI.VolumeHandle},
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: snapshot.Namespace, Name: snapshot.Name, UID: snapshot.UID},
		},
	})
}

// content does what the snapshotter does with a VolumeSnapshotContent.
func (s *Storage) content(ctx context.Context, key client.ObjectKey) (ctrl.Result, error) {
	var content snapshotv1.VolumeSnapshotContent
	if err := s.client.Get(ctx, key, &content); err != nil {
		return ctrl.Result{}, err
	}
	if content.Spec.Driver != Driver {
		return ctrl.Result{}, nil
	}
	unbound := content.Spec.Source.SnapshotHandle != nil && content.Spec.VolumeSnapshotRef.UID == ""
	_, making := content.Annotations[beingCreated]
	if content.DeletionTimestamp != nil && !making {
		if !unbound && content.Annotations[beingDeleted] == "" {
			return ctrl.Result{}, nil
		}
		if content.Spec.DeletionPolicy == snapshotv1.VolumeSnapshotContentDelete && content.Status != nil && content.Status.SnapshotHandle != nil {
			s.delete(*content.Status.SnapshotHandle)
		}
		controllerutil.RemoveFinalizer(&content, contentFinalizer)
		return ctrl.Result{}, s.client.Update(ctx, &content)
	}
	if content.Spec.Source.VolumeHandle == nil {
		return s.check(ctx, &content)
	}
	if content.Status != nil && content.Status.SnapshotHandle != nil {
		return ctrl.Result{}, s.forgetMaking(ctx, &content)
	}
	handle, err := s.create(*content.Spec.Source.VolumeHandle)
	switch {
	case err == NotYet:
		if making {
			return ctrl.Result{RequeueAfter: pollEvery}, nil
		}
		metav1.SetMetaDataAnnotation(&content.ObjectMeta, beingCreated, "yes")
		return ctrl.Result{RequeueAfter: pollEvery}, s.client.Update(ctx, &content)
	case err != nil:
		content.Status = &snapshotv1.VolumeSnapshotContentStatus{Error: &snapshotv1.VolumeSnapshotError{Message: new(err.Error())}}
		return ctrl.Result{RequeueAfter: pollEvery}, s.client.Status().Update(ctx, &content)
	}
	content.Status = &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: &handle, ReadyToUse: new(true),
		RestoreSize: new(int64(1 << 30)), CreationTime: new(time.Now().UnixNano())}
	if err := s.client.Status().Update(ctx, &content); err != nil {
		s.delete(handle) // the real driver would answer the repeated request with the same snapshot
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, s.forgetMaking(ctx, &content)
}

// check asks the driver about a snapshot that it was not asked to make. As the real one does, it writes the whole status if it saw none, also over one that came since.
func (s *Storage) check(ctx context.Context, content *snapshotv1.VolumeSnapshotContent) (ctrl.Result, error) {
	status := content.Status
	if status != nil && status.ReadyToUse != nil && *status.ReadyToUse {
		return ctrl.Result{}, nil
	}
	handle := *content.Spec.Source.SnapshotHandle
	change, result := map[string]any{"readyToUse": true, "snapshotHandle": handle, "error": nil}, ctrl.Result{}
	if err := s.lookUp(handle); err != nil {
		change, result = map[string]any{"readyToUse": false, "error": map[string]string{"message": err.Error()}}, ctrl.Result{RequeueAfter: pollEvery}
	}
	format, document := types.MergePatchType, any(map[string]any{"status": change})
	if status == nil {
		format, document = types.JSONPatchType, []any{map[string]any{"op": "add", "path": "/status", "value": change}}
	}
	patch, err := json.Marshal(document)
	if err != nil {
		return ctrl.Result{}, err
	}
	return result, s.client.Status().Patch(ctx, content, client.RawPatch(format, patch))
}

func (s *Storage) lookUp(handle string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list != nil {
		if err := s.list(handle); err != nil {
			return err
		}
	}
	if _, exists := s.snapshots[handle]; !exists {
		return fmt.Errorf("can not find snapshot for snapshotID %s", handle)
	}
	return nil
}

func (s *Storage) forgetMaking(ctx context.Context, content *snapshotv1.VolumeSnapshotContent) error {
	if _, making := content.Annotations[beingCreated]; !making {
		return nil
	}
	delete(content.Annotations, beingCreated)
	return s.client.Update(ctx, content)
}

var gigabyte = resource.MustParse("1Gi")

// Volume makes a claim that is bound to a volume of a CSI driver, as the controllers would.
func (c *Cluster) Volume(t testing.TB, namespace, name, driver string) *corev1.PersistentVolumeClaim {
	t.Helper()
	source := corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "volume-" + namespace + "-" + name, FSType: "ext4"}}
	return c.VolumeFrom(t, namespace, name, source)
}

// VolumeFrom makes a claim that is bound to a volume of any source.
func (c *Cluster) VolumeFrom(t testing.TB, namespace, name string, source corev1.PersistentVolumeSource) *corev1.PersistentVolumeClaim {
	t.Helper()
	ctx := context.Background()
	size := corev1.ResourceList{corev1.ResourceStorage: gigabyte}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + namespace + "-" + name},
		Spec: corev1.PersistentVolumeSpec{Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeSource: source}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: volume.Spec.AccessModes, VolumeName: volume.Name, StorageClassName: new(""),
			Resources: corev1.VolumeResourceRequirements{Requests: size}}}
	for _, object := range []client.Object{volume, claim} {
		if err := c.Client.Create(ctx, object); err != nil {
			t.Fatal(err)
		}
	}
	claim.Status.Phase = corev1.ClaimBound
	if err := c.Client.Status().Update(ctx, claim); err != nil {
		t.Fatal(err)
	}
	return claim
}
