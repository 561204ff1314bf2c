package apply

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/plan"
)

// The codes of warnings about what was created and did not come up.
const (
	// CodeWorkloadNotReady marks workloads whose pods did not become ready.
	CodeWorkloadNotReady = "WorkloadNotReady"
	// CodeVolumeNotBound marks claims that did not get a volume.
	CodeVolumeNotBound = "VolumeNotBound"
	// CodeClaimWaitsForConsumer marks claims whose storage class makes the volume when a pod needs it.
	CodeClaimWaitsForConsumer = "ClaimWaitsForConsumer"
	// CodeDefinitionNotEstablished marks definitions that the API server does not accept.
	CodeDefinitionNotEstablished = "DefinitionNotEstablished"
)

// named is an object in a namespace.
type named struct{ namespace, name string }

// claimWait is what is waited for with a claim.
type claimWait struct {
	// snapshot names the objects to remove once the claim is bound; "" if it has none.
	snapshot string
	late     bool
}

// waiting is what was created and has yet to come up. It has an entry per claim and workload.
type waiting struct {
	definitions map[string]plan.Resource
	claims      map[named]claimWait
	workloads   map[plan.Resource]map[named]bool
}

// workloadKinds run pods of their own accord, and tell whether these are ready.
var workloadKinds = []string{"deployments.apps", "statefulsets.apps", "daemonsets.apps", "replicasets.apps", "replicationcontrollers", "jobs.batch", "pods"}

func (w *waiting) add(c creation, r *Restore) {
	key := named{c.namespace(), c.name()}
	switch kind := c.kind.Resource.String(); {
	case kind == definitions.GroupResource().String():
		if w.definitions == nil {
			w.definitions = map[string]plan.Resource{}
		}
		w.definitions[c.name()] = definedBy(c.object)
	case kind == claims.GroupResource().String():
		if w.claims == nil {
			w.claims = map[named]claimWait{}
		}
		wait := claimWait{}
		if class, _, err := unstructured.NestedString(c.object, "spec", "storageClassName"); err == nil {
			wait.late = r.classes[class].late
		}
		if c.decision.Source == plan.FromSnapshot {
			wait.snapshot = snapshotName(r.UID, c.namespace(), c.name())
		}
		w.claims[key] = wait
	case slices.Contains(workloadKinds, kind):
		if w.workloads == nil {
			w.workloads = map[plan.Resource]map[named]bool{}
		}
		if w.workloads[c.kind.Resource] == nil {
			w.workloads[c.kind.Resource] = map[named]bool{}
		}
		w.workloads[c.kind.Resource][key] = true
	}
}

// definedBy is the kind that a definition defines, in a version that it serves.
func definedBy(o map[string]any) plan.Resource {
	text := func(path ...string) string {
		s, _, err := unstructured.NestedString(o, path...)
		if err != nil {
			return ""
		}
		return s
	}
	r := plan.Resource{Group: text("spec", "group"), Resource: text("spec", "names", "plural"), Kind: text("spec", "names", "kind")}
	for _, v := range list(o, "spec", "versions") {
		if v["served"] == true {
			r.Version, _ = v["name"].(string)
		}
	}
	return r
}

// definitionsServed waits until the API server serves what the restored definitions define, and asks it anew what it serves.
func (r *Restore) definitionsServed(ctx context.Context) error {
	r.tally.got()
	for {
		t, err := r.Cluster.discover()
		if err == nil {
			r.target = t
			maps.DeleteFunc(r.waiting.definitions, func(_ string, d plan.Resource) bool {
				return slices.Contains(t.Kinds[d.GroupResource()].Versions, d.Version)
			})
		}
		switch {
		case err == nil && len(r.waiting.definitions) == 0:
			return nil
		case err == nil && r.tally.stuck() >= min(r.Patience, unservedPatience):
			return r.warnDefinitions(ctx)
		case err != nil && r.tally.stuck() >= r.Patience:
			return err
		}
		if err := sleep(ctx, r.Interval); err != nil {
			return err
		}
	}
}

func (r *Restore) warnDefinitions(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(r.waiting.definitions)) {
		why := "the API server does not serve it"
		if found, err := r.Cluster.Dynamic.Resource(definitions).Get(ctx, name, metav1.GetOptions{}); err == nil {
			for _, c := range list(found.Object, "status", "conditions") {
				if c["status"] == "False" && c["message"] != "" {
					why = fmt.Sprint(c["message"])
				}
			}
		}
		r.tally.warn(v1alpha1.Issue{Code: CodeDefinitionNotEstablished, Resource: definitions.GroupResource().String() + "/" + name, Message: why})
	}
	return ctx.Err()
}

// Wait waits until the claims are bound and the workloads ready, or nothing has got on for Patience. It removes the snapshot objects of
// bound claims. That something did not come up is no error but a warning.
func (r *Restore) Wait(ctx context.Context) error {
	r.tally.got()
	last, over := "", false
	for pause := r.Interval; ; pause = min(pause*5/4, 5*r.Interval) {
		state, err := r.look(ctx)
		if err == nil {
			over, err = r.over(ctx)
		}
		if err != nil && Classify(err) != Again {
			return err
		}
		if err == nil && over {
			break
		}
		if err == nil && state != last {
			r.tally.got()
			last = state
		}
		if r.tally.stuck() >= r.Patience {
			if err != nil {
				return err
			}
			break
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	if err := r.warnClaims(ctx); err != nil {
		return err
	}
	if err := r.warnWorkloads(ctx); err != nil {
		return err
	}
	ready := r.waiting.workloadsReady()
	r.tally.change(func(t *Tally) { t.WorkloadsReady = &ready })
	return r.tally.reportError()
}

// over reports whether nothing is left to wait for. A claim that gets its volume with its first pod has nothing to wait for if no pod uses
// it once the workloads are ready.
func (r *Restore) over(ctx context.Context) (bool, error) {
	if !r.waiting.workloadsReady() {
		return false, nil
	}
	for key, c := range r.waiting.claims {
		if !c.late {
			return false, nil
		}
		if used, err := r.hasConsumer(ctx, key); used || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w *waiting) workloadsReady() bool {
	for _, set := range w.workloads {
		if len(set) > 0 {
			return false
		}
	}
	return true
}

// look takes what has come up off the list, and describes the rest.
func (r *Restore) look(ctx context.Context) (string, error) {
	state, err := r.lookAtClaims(ctx)
	if err != nil {
		return "", err
	}
	for _, kind := range slices.SortedFunc(maps.Keys(r.waiting.workloads), func(a, b plan.Resource) int { return strings.Compare(a.String(), b.String()) }) {
		set := r.waiting.workloads[kind]
		for _, namespace := range namespaces(set) {
			err := r.Cluster.each(ctx, kind.GroupVersionResource(), namespace, metav1.ListOptions{}, func(o *unstructured.Unstructured) error {
				key := named{namespace, o.GetName()}
				if !set[key] {
					return nil
				}
				done, s := ready(kind.String(), o.Object)
				if done {
					delete(set, key)
				}
				state += kind.Name(namespace, o.GetName()) + s + "\n"
				return nil
			})
			if err != nil {
				return "", err
			}
		}
	}
	return state, nil
}

func (r *Restore) lookAtClaims(ctx context.Context) (string, error) {
	for _, namespace := range namespaces(r.waiting.claims) {
		var bound []named
		err := r.Cluster.each(ctx, claims, namespace, metav1.ListOptions{}, func(o *unstructured.Unstructured) error {
			if key := (named{namespace, o.GetName()}); phaseOf(o) == "Bound" {
				if _, waited := r.waiting.claims[key]; waited {
					bound = append(bound, key)
				}
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		for _, key := range bound {
			if s := r.waiting.claims[key].snapshot; s != "" {
				r.removeSnapshot(ctx, key.namespace, s)
			}
			delete(r.waiting.claims, key)
			r.tally.change(func(t *Tally) { t.Volumes++ })
		}
	}
	return fmt.Sprintf("%d claims\n", len(r.waiting.claims)), nil
}

func namespaces[V any](m map[named]V) []string {
	set := map[string]bool{}
	for key := range m {
		set[key.namespace] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func sortedKeys[V any](m map[named]V) []named {
	return slices.SortedFunc(maps.Keys(m), func(a, b named) int {
		return cmp.Or(strings.Compare(a.namespace, b.namespace), strings.Compare(a.name, b.name))
	})
}

// warnClaims says which claims have no volume, and why as far as their snapshot says.
func (r *Restore) warnClaims(ctx context.Context) error {
	for _, key := range sortedKeys(r.waiting.claims) {
		wait := r.waiting.claims[key]
		w := v1alpha1.Issue{Code: CodeVolumeNotBound, Resource: "persistentvolumeclaims/" + key.namespace + "/" + key.name,
			Message: "the claim got no volume", Action: "see the claim's events"}
		consumer, err := r.hasConsumer(ctx, key)
		if err != nil {
			return err
		}
		if wait.late && !consumer {
			w.Code, w.Message = CodeClaimWaitsForConsumer, "the claim's storage class makes the volume when the first pod uses it; none does yet"
			w.Action = "start the pod that uses it; the objects of its snapshot stay until then, and the recovery point must not be deleted"
		} else if wait.snapshot != "" {
			found, err := r.Cluster.Dynamic.Resource(snapshots).Namespace(key.namespace).Get(ctx, wait.snapshot, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			if err == nil {
				if text, _, err := unstructured.NestedString(found.Object, "status", "error", "message"); err == nil && text != "" {
					w.Message += ": its snapshot: " + text
				}
			}
		}
		r.tally.warn(w)
	}
	return nil
}

// hasConsumer reports whether a pod uses a claim.
func (r *Restore) hasConsumer(ctx context.Context, claim named) (bool, error) {
	found := false
	err := r.Cluster.each(ctx, pods, claim.namespace, metav1.ListOptions{}, func(o *unstructured.Unstructured) error {
		for _, v := range list(o.Object, "spec", "volumes") {
			source, ok := v["persistentVolumeClaim"].(map[string]any)
			found = found || ok && source["claimName"] == claim.name
		}
		return nil
	})
	return found, err
}

// warnWorkloads says which workloads are not ready, and what the first of their pods with trouble says.
func (r *Restore) warnWorkloads(ctx context.Context) error {
	for kind, set := range r.waiting.workloads {
		for _, key := range sortedKeys(set) {
			why, err := r.whyNotReady(ctx, kind.GroupVersionResource(), key)
			if err != nil {
				return err
			}
			r.tally.warn(v1alpha1.Issue{Code: CodeWorkloadNotReady, Resource: kind.Name(key.namespace, key.name), Message: why,
				Action: "see the events of its pods"})
		}
	}
	return nil
}

func (r *Restore) whyNotReady(ctx context.Context, resource schema.GroupVersionResource, key named) (string, error) {
	found, err := r.Cluster.Dynamic.Resource(resource).Namespace(key.namespace).Get(ctx, key.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "it was deleted while the restore waited for it", nil
	}
	if err != nil {
		return "", err
	}
	if resource == pods {
		return cmp.Or(trouble(found.Object), "the pod did not become ready"), nil
	}
	selector, err := selectorOf(found)
	if err != nil {
		return err.Error(), nil // shown to the user: it is about the user's object
	}
	seen, why := 0, ""
	err = r.Cluster.each(ctx, pods, key.namespace, metav1.ListOptions{LabelSelector: selector.String()}, func(o *unstructured.Unstructured) error {
		seen++
		if t := trouble(o.Object); why == "" && t != "" {
			why = "pod " + o.GetName() + ": " + t
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if seen == 0 {
		return "it has no pods", nil
	}
	return cmp.Or(why, "its pods did not become ready"), nil
}

// selectorOf reads which pods belong to a workload. ReplicationControllers have a plain map.
func selectorOf(o *unstructured.Unstructured) (labels.Selector, error) {
	raw, _, err := unstructured.NestedMap(o.Object, "spec", "selector")
	if err != nil {
		return nil, err
	}
	if o.GetKind() == "ReplicationController" {
		plain, _, err := unstructured.NestedStringMap(o.Object, "spec", "selector")
		return labels.SelectorFromSet(plain), err
	}
	var s metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &s); err != nil {
		return nil, err
	}
	return metav1.LabelSelectorAsSelector(&s)
}
