package apply

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/plan"
)

// The codes of what a check foresees.
const (
	// CodeDriverMissing marks volume drivers of the recovery point that the target does not have.
	CodeDriverMissing = "VolumeDriverMissing"
	// CodeCreationWouldBeRefused marks objects whose creation, tried without effect, the API server refuses.
	CodeCreationWouldBeRefused = "CreationWouldBeRefused"
)

// reason is why objects of a kind are blocked.
type reason struct{ code, message string }

// samples is how many objects of a kind are tried without effect.
const samples = 3

var drivers = schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "csidrivers"}

// Check foresees what a restore of the recovery point would warn of, and changes nothing: it makes the plan for every object, looks for
// claims that exist, for the drivers of the volumes, and lets the API server try the creation of some objects of each kind. Its findings
// are the Tally's warnings.
func (r *Restore) Check(ctx context.Context, bundled *bundle.Reader) error {
	if err := r.prepare(ctx, bundled); err != nil {
		return err
	}
	if err := r.checkDrivers(ctx); err != nil {
		return err
	}
	for _, k := range r.kinds {
		blocked, tried := map[reason]int64{}, 0
		for line, err := range bundled.Objects(ctx, k.stored) {
			if err != nil {
				return err
			}
			o, err := decode(k, line)
			if err != nil {
				return err
			}
			c := creation{kind: k, object: o}
			c.resource = k.Name(c.namespace(), c.name())
			switch c.decision = r.plan.Decide(k.Resource, o); c.decision.Action {
			case plan.Exclude, plan.Skip:
				continue
			case plan.Block:
				if c.decision.Code == plan.VolumeDriverMismatch {
					r.tally.warn(v1alpha1.Issue{Code: c.decision.Code, Resource: c.resource, Message: c.decision.Message})
				} else {
					blocked[reason{c.decision.Code, c.decision.Message}]++
				}
				continue
			}
			r.tally.change(func(t *Tally) { t.Total++ })
			if err := r.checkObject(ctx, c, &tried); err != nil {
				return err
			}
		}
		r.warnBlocked(k, blocked)
	}
	return r.tally.reportError()
}

// warnBlocked warns once per kind and reason.
func (r *Restore) warnBlocked(k kind, blocked map[reason]int64) {
	for why, n := range blocked {
		r.tally.warn(v1alpha1.Issue{Code: why.code, Resource: k.Resource.String(), Message: fmt.Sprintf("%s; %d objects cannot be restored", why.message, n),
			Action: "install what defines the kind, in the version of the recovery point"})
	}
}

// checkObject looks whether a claim exists, and tries the creation of the first few objects of a kind.
func (r *Restore) checkObject(ctx context.Context, c creation, tried *int) error {
	if c.decision.Source != "" {
		found, err := r.client(c).Get(ctx, c.name(), metav1.GetOptions{})
		if err == nil && found != nil && r.Request.RestoreVolumeData {
			r.tally.warn(v1alpha1.Issue{Code: plan.VolumeDataNotRestored, Resource: c.resource,
				Message: "the claim exists in the target: the data that it holds will not be replaced",
				Action:  "delete the claim before the restore if its data shall come from the recovery point"})
			return nil
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("get %s: %w", c.resource, err)
		}
	}
	r.tally.warn(c.decision.Warnings...)
	if *tried >= samples {
		return nil
	}
	*tried++
	_, err := r.client(c).Create(ctx, c.unstructured(), metav1.CreateOptions{FieldManager: FieldManager(r.UID), DryRun: []string{metav1.DryRunAll}})
	switch Classify(err) {
	case Refused, Later, PortTaken:
		if apierrors.IsNotFound(err) {
			return nil // its namespace is restored too
		}
		r.tally.warn(v1alpha1.Issue{Code: CodeCreationWouldBeRefused, Resource: c.resource, Message: err.Error()})
	case GivenUp:
		return ctx.Err()
	}
	return nil
}

// checkDrivers warns of volumes whose driver is not installed.
func (r *Restore) checkDrivers(ctx context.Context) error {
	if !r.Request.RestoreVolumeData {
		return nil
	}
	installed := map[string]bool{}
	err := r.Cluster.each(ctx, drivers, "", metav1.ListOptions{}, func(o *unstructured.Unstructured) error {
		installed[o.GetName()] = true
		return nil
	})
	if err != nil {
		return err
	}
	missing := map[string]int{}
	for v, err := range r.bundled.Volumes(ctx) {
		if err != nil {
			return err
		}
		if plan.SelectsNamespace(r.Request.Filter, v.Namespace) && !installed[v.Driver] {
			missing[v.Driver]++
		}
	}
	for driver, n := range missing {
		r.tally.warn(v1alpha1.Issue{Code: CodeDriverMissing, Resource: drivers.GroupResource().String() + "/" + driver,
			Message: fmt.Sprintf("the target does not have the driver of %d volumes", n), Action: "install the driver"})
	}
	return nil
}
