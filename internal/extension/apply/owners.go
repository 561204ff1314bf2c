package apply

import (
	"context"
	"encoding/json"
	"fmt"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cairn-backup/cairn/internal/plan"
)

// orphan is an object that was created without its owners: their UIDs are new, and some are created after it. With an old UID the
// garbage collector would delete it.
type orphan struct {
	kind            kind
	namespace, name string
	owners          []metav1.OwnerReference
}

// ownerKey names an owner.
type ownerKey struct{ apiVersion, kind, namespace, name string }

// adopt gives the created objects their owners, now that all of these exist. An owner that does not is left out, and the report says so.
func (r *Restore) adopt(ctx context.Context) error {
	known := map[ownerKey]types.UID{}
	for _, o := range r.orphans {
		for _, ref := range o.owners {
			key := ownerKey{ref.APIVersion, ref.Kind, o.namespace, ref.Name}
			if _, asked := known[key]; asked {
				continue
			}
			uid, err := r.ownerUID(ctx, key)
			if err != nil {
				return err
			}
			known[key] = uid
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.Workers)
	for _, o := range r.orphans {
		var refs []metav1.OwnerReference
		for _, ref := range o.owners {
			ref.UID = known[ownerKey{ref.APIVersion, ref.Kind, o.namespace, ref.Name}]
			if ref.UID == "" {
				r.tally.note(o.kind.Name(o.namespace, o.name), plan.OwnerReferenceDropped, "its owner "+ref.Kind+" "+ref.Name+" is not in the target")
				continue
			}
			refs = append(refs, ref)
		}
		if len(refs) > 0 {
			group.Go(func() error { return r.setOwners(ctx, o, refs) })
		}
	}
	r.orphans = nil
	return group.Wait()
}

// ownerUID is the UID of an owner in the target, "" if it is not there.
func (r *Restore) ownerUID(ctx context.Context, key ownerKey) (types.UID, error) {
	gv, err := schema.ParseGroupVersion(key.apiVersion)
	if err != nil {
		return "", nil // nothing of that name can be there
	}
	resource, ok := r.target.kinds[gv.WithKind(key.kind)]
	if !ok {
		return "", nil
	}
	namespace := key.namespace
	if !resource.Namespaced {
		namespace = ""
	}
	var uid types.UID
	err = r.persist(ctx, func() error {
		found, err := r.Cluster.Dynamic.Resource(resource.GroupVersionResource()).Namespace(namespace).Get(ctx, key.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			uid = found.GetUID()
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("get the owner %s: %w", resource.Name(namespace, key.name), err)
	}
	return uid, nil
}

// setOwners adds owners to an object. An operator may have been faster: then its reference stays.
func (r *Restore) setOwners(ctx context.Context, o orphan, refs []metav1.OwnerReference) error {
	client := r.Cluster.Dynamic.Resource(o.kind.GroupVersionResource()).Namespace(o.namespace)
	err := r.persist(ctx, func() error {
		found, err := client.Get(ctx, o.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil // deleted since: there is nothing to own
		}
		if err != nil {
			return err
		}
		merged, changed := mergeOwners(found.GetOwnerReferences(), refs)
		if !changed {
			return nil
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": merged, "resourceVersion": found.GetResourceVersion()}})
		if err != nil {
			return err
		}
		_, err = client.Patch(ctx, o.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager(r.UID)})
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.tally.note(o.kind.Name(o.namespace, o.name), plan.OwnerReferenceDropped, "the API server refused its owners: "+err.Error())
	}
	return nil
}

// mergeOwners adds references that are missing; an object has one controller at most.
func mergeOwners(have, add []metav1.OwnerReference) (merged []metav1.OwnerReference, changed bool) {
	merged = have
	controlled := metav1.GetControllerOfNoCopy(&metav1.ObjectMeta{OwnerReferences: have}) != nil
	for _, ref := range add {
		isController := ref.Controller != nil && *ref.Controller
		if isController && controlled || hasOwner(have, ref.UID) {
			continue
		}
		merged, changed = append(merged, ref), true
	}
	return merged, changed
}

func hasOwner(refs []metav1.OwnerReference, uid types.UID) bool {
	for _, ref := range refs {
		if ref.UID == uid {
			return true
		}
	}
	return false
}

// persist repeats a request while the API server is away, as long as Patience lasts.
func (r *Restore) persist(ctx context.Context, request func() error) error {
	began := r.Now()
	for {
		err := request()
		if Classify(err) != Again || r.Now().Sub(began) >= r.Patience {
			return err
		}
		if err := sleep(ctx, r.Interval); err != nil {
			return err
		}
	}
}
