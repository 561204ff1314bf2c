package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/plan"
)

// RestoreLabel marks the snapshot objects of restores; its value is the restore's UID.
const RestoreLabel = v1alpha1.Group + "/restore"

// claimAnnotation names, on a snapshot object, the claim that is filled from it.
const claimAnnotation = v1alpha1.Group + "/claim"

// What makes the snapshotter let go of a content. The first is set by the snapshot controller, which may lose it: it notes it in its own memory before it writes it, and
// finds no content for a VolumeSnapshot that was deleted before its status was written. The second is when it was last reminded: any change makes it look again.
const (
	beingDeletedAnnotation = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
	remindedAnnotation     = v1alpha1.Group + "/reminded"
)

// CodeSnapshotNotImported marks claims for whose data no snapshot object could be made.
const CodeSnapshotNotImported = "SnapshotNotImported"

// snapshotName is the name of the objects that stand for a claim's snapshot: the same in every attempt.
func snapshotName(restore types.UID, namespace, claim string) string {
	sum := sha256.Sum256([]byte(string(restore) + "/" + namespace + "/" + claim))
	return "cairn-" + hex.EncodeToString(sum[:16])
}

// snapshotFor makes the objects that a claim's data comes from, and points the claim to them: a content for the snapshot in storage,
// and a VolumeSnapshot. It stops, with the outcome noted, if the claim exists or the objects are refused.
func (r *Restore) snapshotFor(ctx context.Context, c creation) (stop bool, err error) {
	_, err = r.client(c).Get(ctx, c.name(), metav1.GetOptions{})
	if err == nil {
		_, finished, err := r.existing(ctx, c)
		if finished || err != nil {
			return true, err
		}
		// The claim is going away, and is created like any other then.
	} else if !apierrors.IsNotFound(err) && Classify(err) != Again {
		return true, r.refused(ctx, c, err)
	}
	name := snapshotName(r.UID, c.namespace(), c.name())
	mode, _, err := unstructured.NestedString(c.object, "spec", "volumeMode")
	if err != nil || mode == "" {
		mode = "Filesystem"
	}
	content, snapshot := snapshotObjects(r.UID, name, c.namespace(), c.name(), mode, c.decision.Record)
	for _, o := range []struct {
		resource schema.GroupVersionResource
		object   map[string]any
	}{{contents, content}, {snapshots, snapshot}} {
		if err := r.ensure(ctx, o.resource, o.object); err != nil {
			if ctx.Err() != nil {
				return true, ctx.Err()
			}
			r.tally.outcome(bundle.RestoreFailed, c.resource, CodeSnapshotNotImported, err.Error())
			r.removeSnapshot(ctx, c.namespace(), name)
			return true, nil
		}
	}
	return false, unstructured.SetNestedMap(c.object, map[string]any{
		"apiGroup": snapshots.Group, "kind": "VolumeSnapshot", "name": name,
	}, "spec", "dataSource")
}

// snapshotObjects are the content and the VolumeSnapshot of a snapshot that storage holds. The content's policy is Retain: deleting the
// objects leaves the snapshot, which belongs to the recovery point.
func snapshotObjects(restore types.UID, name, namespace, claim, mode string, record plan.VolumeRecord) (content, snapshot map[string]any) {
	meta := func(namespace string) map[string]any {
		m := map[string]any{
			"name":        name,
			"labels":      map[string]any{RestoreLabel: string(restore)},
			"annotations": map[string]any{claimAnnotation: claim},
		}
		if namespace != "" {
			m["namespace"] = namespace
		}
		return m
	}
	content = map[string]any{
		"apiVersion": snapshots.GroupVersion().String(), "kind": "VolumeSnapshotContent", "metadata": meta(""),
		"spec": map[string]any{
			"deletionPolicy":    "Retain",
			"driver":            record.Driver,
			"source":            map[string]any{"snapshotHandle": record.Handle},
			"sourceVolumeMode":  mode,
			"volumeSnapshotRef": map[string]any{"kind": "VolumeSnapshot", "namespace": namespace, "name": name},
		},
	}
	snapshot = map[string]any{
		"apiVersion": snapshots.GroupVersion().String(), "kind": "VolumeSnapshot", "metadata": meta(namespace),
		"spec": map[string]any{"source": map[string]any{"volumeSnapshotContentName": name}},
	}
	return content, snapshot
}

// ensure creates an object of ours unless it is there from an earlier attempt. One that is going away is awaited: the controllers know the objects by their UIDs, and would
// not join an old one and a new one.
func (r *Restore) ensure(ctx context.Context, resource schema.GroupVersionResource, object map[string]any) error {
	o := &unstructured.Unstructured{Object: object}
	began := r.Now()
	for {
		_, err := r.Cluster.Dynamic.Resource(resource).Namespace(o.GetNamespace()).Create(ctx, o, metav1.CreateOptions{FieldManager: FieldManager(r.UID)})
		limit := r.Patience
		switch Classify(err) {
		case Done:
			return nil
		case Exists:
			if r.stays(ctx, resource, o) {
				return nil
			}
			limit, err = min(limit, vanishingPatience), errors.New("one of an earlier attempt is being deleted")
		case Unserved, Later:
			limit = min(limit, unservedPatience)
		case Again, Vanishing:
		default:
			return fmt.Errorf("create the %s of the claim's snapshot: %w", resource.Resource, err)
		}
		if r.Now().Sub(began) >= limit {
			return fmt.Errorf("create the %s of the claim's snapshot: %w", resource.Resource, err)
		}
		if err := sleep(ctx, r.Interval); err != nil {
			return err
		}
	}
}

// stays reports whether an object is there and is not going away. If that cannot be learnt now, it can with the next look.
func (r *Restore) stays(ctx context.Context, resource schema.GroupVersionResource, o *unstructured.Unstructured) bool {
	found, err := r.Cluster.Dynamic.Resource(resource).Namespace(o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
	return err == nil && found.GetDeletionTimestamp() == nil
}

// removeSnapshot removes the objects of a claim's snapshot; storage keeps the snapshot. Nothing waits for it: the claim has its volume, or does not get one, and what cannot be
// removed now is left to the sweeper.
func (r *Restore) removeSnapshot(ctx context.Context, namespace, name string) {
	if err := removeSnapshot(ctx, r.Cluster, r.Now(), namespace, name); err != nil && ctx.Err() == nil {
		r.Log.Warn("the objects of a claim's snapshot cannot be removed, the sweeper will do it", "error", err)
	}
}

// removeSnapshot may be called again and again until the objects are gone. The content is the last to be deleted, since by it the sweeper finds both.
func removeSnapshot(ctx context.Context, cluster Cluster, now time.Time, namespace, name string) error {
	err := cluster.Dynamic.Resource(snapshots).Namespace(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete volumesnapshot %s/%s: %w", namespace, name, err)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{beingDeletedAnnotation: "yes", remindedAnnotation: now.UTC().Format(time.RFC3339Nano)}},
		"spec":     map[string]any{"deletionPolicy": "Retain"},
	})
	if err != nil {
		return err
	}
	_, err = cluster.Dynamic.Resource(contents).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		err = cluster.Dynamic.Resource(contents).Delete(ctx, name, metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete volumesnapshotcontent %s: %w", name, err)
	}
	return nil
}

// Sweep removes the snapshot objects of restores that have ended, as soon as no claim waits for them; storage keeps the
// snapshots. A restore ends with such objects left if a claim waits for its first pod, or if they could not be removed. running says which restores have not
// ended; it is asked after the objects were listed, so that no new restore is overlooked. What cannot be swept does not keep the rest from it. What was told to go
// before and is still there is told again, but counts no more.
func Sweep(ctx context.Context, cluster Cluster, now time.Time, running func(context.Context) (map[types.UID]bool, error)) (removed int, err error) {
	list, err := cluster.Dynamic.Resource(contents).List(ctx, metav1.ListOptions{LabelSelector: RestoreLabel})
	if apierrors.IsNotFound(err) {
		return 0, nil // a cluster without snapshots
	}
	if err != nil {
		return 0, fmt.Errorf("list the snapshot contents of restores: %w", err)
	}
	busy, err := running(ctx)
	if err != nil {
		return 0, err
	}
	var failed error
	for _, content := range list.Items {
		if busy[types.UID(content.GetLabels()[RestoreLabel])] {
			continue
		}
		swept, err := sweep(ctx, cluster, now, &content)
		if failed = errors.Join(failed, err); swept {
			removed++
		}
	}
	return removed, failed
}

// sweep removes one snapshot's objects unless a claim waits for them.
func sweep(ctx context.Context, cluster Cluster, now time.Time, content *unstructured.Unstructured) (bool, error) {
	namespace, _, err := unstructured.NestedString(content.Object, "spec", "volumeSnapshotRef", "namespace")
	if err != nil {
		return false, fmt.Errorf("volumesnapshotcontent %s: %w", content.GetName(), err)
	}
	waits, err := claimWaits(ctx, cluster, namespace, content.GetAnnotations()[claimAnnotation], content.GetName())
	if waits || err != nil {
		return false, err
	}
	err = removeSnapshot(ctx, cluster, now, namespace, content.GetName())
	return err == nil && content.GetDeletionTimestamp() == nil, err
}

// claimWaits reports whether a claim has yet to be filled from a snapshot. One of the same name that was made since may have another source.
func claimWaits(ctx context.Context, cluster Cluster, namespace, name, snapshot string) (bool, error) {
	claim, err := cluster.Dynamic.Resource(claims).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get persistentvolumeclaim %s/%s: %w", namespace, name, err)
	}
	source, _, err := unstructured.NestedString(claim.Object, "spec", "dataSource", "name")
	if err != nil {
		return false, fmt.Errorf("persistentvolumeclaim %s/%s: %w", namespace, name, err)
	}
	phase := phaseOf(claim)
	return phase != "Bound" && phase != "Lost" && source == snapshot, nil
}

func phaseOf(o *unstructured.Unstructured) string {
	phase, _, err := unstructured.NestedString(o.Object, "status", "phase")
	if err != nil {
		return ""
	}
	return phase
}
