package apply

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/plan"
)

// The codes of failures to create an object.
const (
	// CodeCreateRefused marks objects that the API server refused; the message is the server's.
	CodeCreateRefused = "CreateRefused"
	// CodeBeingDeleted marks objects whose namespace, or whose namesake, is being deleted and does not go away.
	CodeBeingDeleted = "ExistingObjectBeingDeleted"
)

// How long requests are repeated that may come to succeed; [Options.Patience] bounds the others.
const (
	unservedPatience  = 15 * time.Second // discovery and API server agree on a new definition within seconds
	laterPatience     = 3 * time.Second  // per object; then it is put off until all waves are done
	vanishingPatience = time.Minute      // for a namesake that is being deleted; a namespace may take as long as Patience
	maxDeferred       = 1000             // objects put off, which are held in memory
)

// creation is one object to be created.
type creation struct {
	kind     kind
	object   map[string]any
	decision plan.Decision
	resource string
}

func (c creation) unstructured() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: c.object}
}
func (c creation) name() string      { return c.unstructured().GetName() }
func (c creation) namespace() string { return c.unstructured().GetNamespace() }

func (r *Restore) client(c creation) dynamic.ResourceInterface {
	return r.Cluster.Dynamic.Resource(c.kind.GroupVersionResource()).Namespace(c.namespace())
}

// create creates one object and notes what came of it. An object that needs something else first is tried for a while, and then handed to
// later, which says whether it takes it.
func (r *Restore) create(ctx context.Context, c creation, while time.Duration, later func(creation) bool) error {
	if c.decision.Source == plan.FromSnapshot {
		stop, err := r.snapshotFor(ctx, c)
		if stop || err != nil {
			return err
		}
	}
	began := r.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		_, err := r.client(c).Create(ctx, c.unstructured(), metav1.CreateOptions{FieldManager: FieldManager(r.UID)})
		spent := r.Now().Sub(began)
		var limit time.Duration
		switch Classify(err) {
		case Done:
			return r.created(c)
		case GivenUp:
			return ctx.Err()
		case Exists:
			gone, finished, findErr := r.existing(ctx, c)
			if finished || findErr != nil {
				return findErr
			}
			if err = fmt.Errorf("an object of this name is being deleted"); gone {
				err = fmt.Errorf("an object of this name comes and goes")
			}
			if limit = vanishingPatience; c.kind.Resource.String() == "namespaces" {
				limit = r.Patience
			}
		case PortTaken: // the API server looks at the ports before it looks at the name
			if _, finished, findErr := r.existing(ctx, c); finished || findErr != nil {
				return findErr
			}
			if !plan.DropNodePorts(c.object) {
				return r.refused(ctx, c, err)
			}
			r.tally.warn(v1alpha1.Issue{Code: plan.NodePortReassigned, Resource: c.resource,
				Message: "a node port of the service is taken; it gets new ones: " + err.Error(), Action: "tell those who use the old ports"})
			continue
		case Unserved:
			limit = unservedPatience
		case Later:
			if limit = while; spent >= limit && later(c) {
				return nil
			}
		case Vanishing: // the namespace was deleted since it was restored, or did not go away before
			limit = laterPatience
		case Again:
			limit = r.Patience
		default:
			return r.refused(ctx, c, err)
		}
		if spent >= min(limit, r.Patience) {
			return r.refused(ctx, c, err)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// created notes an object that is there through this restore.
func (r *Restore) created(c creation) error {
	r.tally.outcome(bundle.RestoreCreated, c.resource, "", "")
	r.tally.warn(c.decision.Warnings...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(c.decision.Owners) > 0 {
		r.orphans = append(r.orphans, orphan{c.kind, c.namespace(), c.name(), c.decision.Owners})
	}
	r.waiting.add(c, r)
	return nil
}

// refused notes an object that could not be created. An API server that is away is no such answer: the restore itself cannot go on.
func (r *Restore) refused(ctx context.Context, c creation, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	code := CodeCreateRefused
	switch Classify(err) {
	case Again:
		if r.tally.stuck() >= r.Patience {
			return fmt.Errorf("create %s: the API server did not answer for %s: %w", c.resource, r.Patience, err)
		}
	case Unserved:
		code = plan.KindNotServed
	case Vanishing:
		code = CodeBeingDeleted
	}
	r.tally.outcome(bundle.RestoreFailed, c.resource, code, err.Error())
	if c.decision.Source == plan.FromSnapshot {
		r.removeSnapshot(ctx, c.namespace(), snapshotName(r.UID, c.namespace(), c.name()))
	}
	return nil
}

// existing finds out about an object that is in the way: finished says that its outcome is noted; otherwise it is going away (or gone)
// and can be created soon.
func (r *Restore) existing(ctx context.Context, c creation) (gone, finished bool, err error) {
	found, err := r.client(c).Get(ctx, c.name(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true, false, nil
	case err != nil && Classify(err) == Again:
		return false, false, nil // the creation is repeated, which asks again
	case err != nil:
		return false, true, r.refused(ctx, c, err)
	case writtenBy(found, FieldManager(r.UID)):
		return false, true, r.created(c)
	case found.GetDeletionTimestamp() != nil:
		return false, false, nil
	}
	same := plan.Same(c.kind.Resource, c.object, found.DeepCopy().Object)
	switch {
	case untouchedDefaultAccount(c, found) && same:
		r.tally.outcome(bundle.RestoreSkipped, c.resource, plan.RecreatedByCluster, "every namespace gets this account")
	case untouchedDefaultAccount(c, found):
		return false, true, r.complete(ctx, c)
	default:
		r.exists(c, same)
	}
	return false, true, nil
}

// exists notes an object that is left as it is.
func (r *Restore) exists(c creation, same bool) {
	code, message := plan.AlreadyExists, "the target has the same object"
	if !same {
		code, message = plan.AlreadyExistsAndDiffers, "the target has an object of this name with other contents; it was left as it is"
	}
	r.tally.outcome(bundle.RestoreSkipped, c.resource, code, message)
	if c.decision.Source == "" {
		return
	}
	r.tally.change(func(t *Tally) { t.VolumesTotal-- })
	if r.Request.RestoreVolumeData {
		r.tally.warn(v1alpha1.Issue{Code: plan.VolumeDataNotRestored, Resource: c.resource,
			Message: "the claim exists in the target: the data that it holds was not replaced",
			Action:  "delete the claim, and restore again, if its data shall come from the recovery point"})
	}
}

// untouchedDefaultAccount tells the service account that the control plane makes in every new namespace, while nobody wrote into it.
func untouchedDefaultAccount(c creation, found *unstructured.Unstructured) bool {
	if c.kind.Resource.String() != "serviceaccounts" || found.GetName() != "default" {
		return false
	}
	for _, f := range found.GetManagedFields() { // as a rule there are none, since it has no fields
		if f.Manager != "kube-controller-manager" {
			return false
		}
	}
	return true
}

// complete adds what the recovery point has to an object that is nobody's.
func (r *Restore) complete(ctx context.Context, c creation) error {
	_, err := r.client(c).Apply(ctx, c.name(), c.unstructured(), metav1.ApplyOptions{FieldManager: FieldManager(r.UID)})
	if err != nil {
		return r.refused(ctx, c, err)
	}
	return r.created(c)
}

func writtenBy(o *unstructured.Unstructured, manager string) bool {
	for _, f := range o.GetManagedFields() {
		if f.Manager == manager {
			return true
		}
	}
	return false
}

// putOff keeps an object for createDeferred, if there is room.
func (r *Restore) putOff(c creation) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.deferred) >= maxDeferred {
		return false
	}
	r.deferred = append(r.deferred, c)
	return true
}

// createDeferred creates what waited for a webhook or a quota, again and again until nothing more gets through for Patience.
func (r *Restore) createDeferred(ctx context.Context) error {
	r.tally.got()
	for len(r.deferred) > 0 {
		list := r.deferred
		r.deferred = nil
		later := r.putOff
		if r.tally.stuck() >= r.Patience {
			later = func(creation) bool { return false }
		}
		group, groupCtx := errgroup.WithContext(ctx)
		group.SetLimit(r.Workers)
		for _, c := range list {
			group.Go(func() error { return r.create(groupCtx, c, 0, later) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if err := sleep(ctx, r.Interval); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
