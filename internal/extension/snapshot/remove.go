package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/extension/inventory"
)

// What the snapshot controller and the snapshotter agree on.
const (
	// annBeingDeleted tells the snapshotter that a content with a deletion timestamp is to be dealt with.
	annBeingDeleted = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
	// annBeingCreated is the snapshotter's own note that it has asked the driver for a snapshot and has no answer yet.
	annBeingCreated = "snapshot.storage.kubernetes.io/volumesnapshot-being-created"
	// contentFinalizer keeps a content until the snapshotter has dealt with it.
	contentFinalizer = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
	// Where the snapshotter finds the credentials to delete a snapshot that it did not make, and where a class names them.
	annSecretName, annSecretNamespace     = "snapshot.storage.kubernetes.io/deletion-secret-name", "snapshot.storage.kubernetes.io/deletion-secret-namespace"
	paramSecretName, paramSecretNamespace = "csi.storage.k8s.io/snapshotter-secret-name", "csi.storage.k8s.io/snapshotter-secret-namespace"
)

// annReminded is when the snapshotter was last reminded of a content.
const annReminded = inventory.OwnLabelPrefix + "reminded"

// labelDelete marks the contents made to delete a recovery point's snapshots, with the recovery point's ID.
const labelDelete = inventory.OwnLabelPrefix + "delete"

// noDriver is the driver of contents that no snapshotter is to look at yet.
const noDriver = "none." + v1alpha1.Group

// NotRemovedError says which objects did not go away in time. They have been told to; their controllers have not done so.
type NotRemovedError struct{ Objects []string }

func (e *NotRemovedError) Error() string {
	shown := e.Objects[:min(len(e.Objects), 5)]
	return fmt.Sprintf("%d snapshot objects are still being removed (%s …): see the logs of the snapshot controller and of the CSI driver's snapshotter",
		len(e.Objects), strings.Join(shown, ", "))
}

// Release removes the snapshot objects of the records; storage keeps the snapshots. It returns the objects that are left, and may be called again.
func (t *Taker) Release(ctx context.Context, records []v1alpha1.VolumeSnapshotRecord) (left []string, err error) {
	_, left, err = t.remove(ctx, records, snapshotv1.VolumeSnapshotContentRetain)
	return left, err
}

// Abandon removes the snapshot objects of the records and the snapshots in storage, and returns the objects that are left. It may be called again, and for
// records whose snapshots were never asked for.
func (t *Taker) Abandon(ctx context.Context, records []v1alpha1.VolumeSnapshotRecord) (left []string, err error) {
	found, left, err := t.remove(ctx, records, snapshotv1.VolumeSnapshotContentDelete)
	if err != nil {
		return nil, err
	}
	var lost []v1alpha1.VolumeSnapshotRecord
	for _, r := range records {
		if r.Handle != "" && !found[ref(r)] {
			lost = append(lost, r)
		}
	}
	more, err := t.DeleteHandles(ctx, lost)
	return append(left, more...), err
}

func ref(r v1alpha1.VolumeSnapshotRecord) client.ObjectKey {
	return client.ObjectKey{Namespace: r.Namespace, Name: r.SnapshotName}
}

// remove takes the objects away in the order in which their controllers let go: the content learns what becomes of the snapshot, then
// the VolumeSnapshot goes, then the content. It returns which records had a content, and what is left: that has been told to go, and goes when its controller,
// which is away or slow, comes to it. A VolumeSnapshot that stays does not keep its content: they have different controllers.
func (t *Taker) remove(ctx context.Context, records []v1alpha1.VolumeSnapshotRecord, policy snapshotv1.DeletionPolicy) (found map[client.ObjectKey]bool, left []string, err error) {
	if len(records) == 0 {
		return nil, nil, nil
	}
	wanted := map[client.ObjectKey]bool{}
	for _, r := range records {
		wanted[ref(r)] = true
	}
	early, err := t.contents(ctx, wanted)
	if err != nil {
		return nil, nil, err
	}
	err = each(ctx, early, func(content snapshotv1.VolumeSnapshotContent) error {
		return t.patchContent(ctx, content.Name, t.policyPatch(policy, false))
	})
	if err != nil {
		return nil, nil, err
	}
	err = each(ctx, records, func(r v1alpha1.VolumeSnapshotRecord) error {
		snapshot := &snapshotv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.SnapshotName}}
		return client.IgnoreNotFound(t.Client.Delete(ctx, snapshot))
	})
	if err != nil {
		return nil, nil, fmt.Errorf("delete VolumeSnapshots: %w", err)
	}
	left, err = t.waitGone(ctx, watched{list: &snapshotv1.VolumeSnapshotList{}, object: &snapshotv1.VolumeSnapshot{}, labels: t.labels(), keys: keys(wanted), wanted: wanted})
	if err != nil {
		return nil, nil, err
	}
	// Once more: a content may have been made while its VolumeSnapshot was being deleted.
	late, err := t.contents(ctx, wanted)
	if err != nil {
		return nil, nil, err
	}
	err = each(ctx, late, func(content snapshotv1.VolumeSnapshotContent) error {
		if err := t.patchContent(ctx, content.Name, t.policyPatch(policy, true)); err != nil {
			return err
		}
		return client.IgnoreNotFound(t.Client.Delete(ctx, &content))
	})
	if err != nil {
		return nil, nil, fmt.Errorf("delete VolumeSnapshotContents: %w", err)
	}
	found = map[client.ObjectKey]bool{}
	for _, content := range append(early, late...) {
		found[owner(content)] = true
	}
	var names []string
	for _, content := range late {
		names = append(names, content.Name)
	}
	more, err := t.waitGone(ctx, watched{list: &snapshotv1.VolumeSnapshotContentList{}, object: &snapshotv1.VolumeSnapshotContent{}, labels: t.labels(), keys: names, wanted: wanted})
	return found, append(left, more...), err
}

// remind changes contents that are being deleted a little, so that the snapshotter looks at them again, and tells it once more what the snapshot controller may have
// forgotten to tell. The snapshotter of external-snapshotter v8 overlooks a content whose deletion was asked for while its snapshot was being made: it sees the
// deletion before its own note of the making is gone, and the removal of that note does not make it look once more. Without this it would come back after its
// resync period, 15 minutes. While it makes a snapshot it is left alone: each look is another request to the driver. A reminder that fails is no harm, the next one comes.
func (t *Taker) remind(ctx context.Context, wanted map[client.ObjectKey]bool) {
	contents, err := t.contents(ctx, wanted)
	if err != nil {
		return
	}
	patch := mergePatch(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		annBeingDeleted: "yes", annReminded: t.Now().UTC().Format(time.RFC3339Nano)}}})
	for _, content := range contents {
		if _, making := content.Annotations[annBeingCreated]; content.DeletionTimestamp != nil && !making {
			_ = t.patchContent(ctx, content.Name, patch)
		}
	}
}

// contents returns the contents that belong to wanted VolumeSnapshots.
func (t *Taker) contents(ctx context.Context, wanted map[client.ObjectKey]bool) ([]snapshotv1.VolumeSnapshotContent, error) {
	var found []snapshotv1.VolumeSnapshotContent
	var list snapshotv1.VolumeSnapshotContentList
	for next := true; next; next = list.Continue != "" {
		if err := t.Client.List(ctx, &list, client.Limit(500), client.Continue(list.Continue)); err != nil {
			return nil, fmt.Errorf("list VolumeSnapshotContents: %w", err)
		}
		for _, content := range list.Items {
			if wanted[owner(content)] {
				found = append(found, content)
			}
		}
	}
	return found, nil
}

// owner is the VolumeSnapshot that a content belongs to.
func owner(content snapshotv1.VolumeSnapshotContent) client.ObjectKey {
	return client.ObjectKey{Namespace: content.Spec.VolumeSnapshotRef.Namespace, Name: content.Spec.VolumeSnapshotRef.Name}
}

// policyPatch sets what becomes of the snapshot in storage, and our labels, by which the content can be watched.
func (t *Taker) policyPatch(policy snapshotv1.DeletionPolicy, deleting bool) client.Patch {
	metadata := map[string]any{"labels": t.labels()}
	if deleting {
		metadata["annotations"] = map[string]string{annBeingDeleted: "yes"}
	}
	return mergePatch(map[string]any{"metadata": metadata, "spec": map[string]any{"deletionPolicy": policy}})
}

func mergePatch(document map[string]any) client.Patch {
	data, err := json.Marshal(document)
	if err != nil {
		panic(err) // maps of strings are always encoded
	}
	return client.RawPatch(types.MergePatchType, data)
}

func (t *Taker) patchContent(ctx context.Context, name string, patch client.Patch) error {
	content := &snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := client.IgnoreNotFound(t.Client.Patch(ctx, content, patch)); err != nil {
		return fmt.Errorf("change VolumeSnapshotContent %s: %w", name, err)
	}
	return nil
}

// DeleteHandles deletes snapshots in storage whose Kubernetes objects have gone, by the handles in the records, and returns the objects that are left. Records without
// a handle are passed over; a snapshot that does not exist is no error. It may be called again.
func (t *Taker) DeleteHandles(ctx context.Context, records []v1alpha1.VolumeSnapshotRecord) (left []string, err error) {
	records = slices.DeleteFunc(slices.Clone(records), func(r v1alpha1.VolumeSnapshotRecord) bool { return r.Handle == "" })
	if len(records) == 0 {
		return nil, nil
	}
	var classes snapshotv1.VolumeSnapshotClassList
	if err := t.Client.List(ctx, &classes); err != nil {
		return nil, fmt.Errorf("list VolumeSnapshotClasses: %w", err)
	}
	err = each(ctx, records, func(r v1alpha1.VolumeSnapshotRecord) error {
		class, _ := ClassOf(r.Driver, classes.Items)
		return t.deleteHandle(ctx, r, class.Parameters)
	})
	if err != nil {
		return nil, err
	}
	w := watched{list: &snapshotv1.VolumeSnapshotContentList{}, object: &snapshotv1.VolumeSnapshotContent{},
		labels: client.MatchingLabels{labelDelete: t.RecoveryPointID}, wanted: map[client.ObjectKey]bool{}}
	for _, r := range records {
		name := deleterName(r)
		w.keys, w.wanted[client.ObjectKey{Namespace: v1alpha1.Namespace, Name: name}] = append(w.keys, name), true
	}
	return t.waitGone(ctx, w)
}

func deleterName(r v1alpha1.VolumeSnapshotRecord) string {
	return fmt.Sprintf("%sdelete-%x", inventory.OwnSnapshotPrefix, sha256.Sum256([]byte(r.Driver+"/"+r.Handle)))[:60]
}

// deleteHandle makes the snapshotter delete a snapshot. It does so for a content that has the handle in its status, is bound to no VolumeSnapshot and is being deleted.
// One that is not deleted yet it looks up first, and when that fails, which takes a driver as long as it likes, it writes a status without the handle over what it has
// not seen; it would then let the content go and leave the snapshot. So the content is no driver's until all of it is as it should be. The finalizer, which else the
// snapshot controller adds, makes it stay. A snapshotter that is away does not matter: when it is back, it finds it so.
func (t *Taker) deleteHandle(ctx context.Context, r v1alpha1.VolumeSnapshotRecord, parameters map[string]string) error {
	name := deleterName(r)
	content := &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelDelete: t.RecoveryPointID}, Finalizers: []string{contentFinalizer},
			Annotations: secretAnnotations(parameters)},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete, Driver: noDriver,
			Source:            snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &r.Handle},
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: v1alpha1.Namespace, Name: name},
		},
	}
	if err := client.IgnoreAlreadyExists(t.Client.Create(ctx, content)); err != nil {
		return fmt.Errorf("create VolumeSnapshotContent %s to delete a snapshot: %w", name, err)
	}
	status := mergePatch(map[string]any{"status": map[string]any{"snapshotHandle": r.Handle}})
	if err := client.IgnoreNotFound(t.Client.Status().Patch(ctx, content, status)); err != nil {
		return fmt.Errorf("set the handle of VolumeSnapshotContent %s: %w", name, err)
	}
	if err := client.IgnoreNotFound(t.Client.Delete(ctx, content)); err != nil {
		return fmt.Errorf("delete VolumeSnapshotContent %s: %w", name, err)
	}
	return t.patchContent(ctx, name, mergePatch(map[string]any{"spec": map[string]any{"driver": r.Driver}}))
}

// secretAnnotations names the credentials to delete with, if the class names them outright.
func secretAnnotations(parameters map[string]string) map[string]string {
	name, namespace := parameters[paramSecretName], parameters[paramSecretNamespace]
	if name == "" || namespace == "" || strings.Contains(name+namespace, "$") {
		return nil
	}
	return map[string]string{annSecretName: name, annSecretNamespace: namespace}
}

// The time between two reminders grows from the first to the second.
const firstReminder, lastReminder = 3 * time.Second, 30 * time.Second

// watched are objects that are waited for.
type watched struct {
	list   client.ObjectList
	object runtime.Object
	labels client.MatchingLabels
	// keys are the objects' names, with "namespace/" for namespaced objects.
	keys []string
	// wanted are the VolumeSnapshots of whose contents the snapshotter is reminded meanwhile.
	wanted map[client.ObjectKey]bool
}

// waitGone waits until none of the objects is left, or returns those that are when none has gone for a while.
func (t *Taker) waitGone(ctx context.Context, w watched) ([]string, error) {
	if len(w.keys) == 0 {
		return nil, nil
	}
	changed := make(chan struct{}, 1)
	signal := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: t.listWatch(ctx, w.list, w.labels), ObjectType: w.object,
		Handler: cache.ResourceEventHandlerDetailedFuncs{
			AddFunc: func(any, bool) { signal() }, UpdateFunc: func(any, any) { signal() }, DeleteFunc: func(any) { signal() }},
	})
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go controller.RunWithContext(watching)
	go func() {
		if cache.WaitForCacheSync(watching.Done(), controller.HasSynced) {
			signal()
		}
	}()
	left := func() []string {
		if !controller.HasSynced() {
			return w.keys // what cannot be seen is not gone
		}
		return slices.DeleteFunc(slices.Clone(w.keys), func(key string) bool {
			_, exists, err := store.GetByKey(key)
			return err == nil && !exists
		})
	}
	pause := firstReminder
	reminder := time.NewTimer(pause)
	defer reminder.Stop()
	patience := time.NewTimer(t.removal())
	defer patience.Stop()
	for fewest := len(w.keys); ; {
		select {
		case <-changed:
		case <-reminder.C:
			t.remind(ctx, w.wanted)
			pause = min(2*pause, lastReminder)
			reminder.Reset(pause)
		case <-patience.C:
			return left(), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		n := len(left())
		if n == 0 {
			return nil, nil
		}
		if n < fewest {
			fewest = n
			patience.Reset(t.removal())
		}
	}
}

func keys(set map[client.ObjectKey]bool) []string {
	var all []string
	for key := range set {
		all = append(all, key.String())
	}
	return all
}

// listWatch lets client-go's informers use our client.
func (t *Taker) listWatch(ctx context.Context, list client.ObjectList, labels client.MatchingLabels) *cache.ListWatch {
	options := func(o metav1.ListOptions) *client.ListOptions {
		raw := &client.ListOptions{Raw: &o}
		labels.ApplyToList(raw)
		return raw
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			fresh, _ := list.DeepCopyObject().(client.ObjectList)
			return fresh, t.Client.List(ctx, fresh, options(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			fresh, _ := list.DeepCopyObject().(client.ObjectList)
			return t.Client.Watch(ctx, fresh, options(o))
		},
	}
}

// each calls do for all, several at once, and returns the first error.
func each[T any](ctx context.Context, all []T, do func(T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, one := range all {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return do(one)
		})
	}
	return group.Wait()
}
