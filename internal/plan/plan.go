package plan

import (
	"maps"
	"slices"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Request is what a restore asks for.
type Request struct {
	Filter v1alpha1.Filter
	// RestoreVolumeData fills claims from their snapshots; without it they are created empty.
	RestoreVolumeData bool
}

// Served is what the target's discovery says about a kind.
type Served struct {
	// Versions are all that are served.
	Versions []string
	// Creatable says whether anyone can create objects of the kind.
	Creatable bool
}

// Target is what the plan knows of the cluster that it restores to.
type Target struct {
	Kinds map[schema.GroupResource]Served
}

// Action is what happens to an object.
type Action string

// The actions. Exclude is for objects that the request does not ask for: they are neither counted nor listed one by one.
const (
	Create  Action = "create"
	Skip    Action = "skip"
	Block   Action = "block"
	Exclude Action = "exclude"
)

// Decision says what becomes of one object.
type Decision struct {
	Action Action
	// Code and Message say why an object is not created.
	Code, Message string
	Wave          Wave
	// Owners are the references that the object had to objects that are restored too; whoever creates them knows their new UIDs.
	Owners []metav1.OwnerReference
	// Source and Record say where a claim's data comes from; Record is set with FromSnapshot only.
	Source VolumeSource
	Record VolumeRecord
	// Warnings are what the user should know about an object that is created.
	Warnings []v1alpha1.Issue
}

func (d *Decision) warn(code, resource, message, action string) {
	d.Warnings = append(d.Warnings, v1alpha1.Issue{Code: code, Resource: resource, Message: message, Action: action})
}

// Plan decides for one restore.
type Plan struct {
	request Request
	facts   *Facts
	target  Target
	kinds   map[schema.GroupKind]Resource
}

// New makes the plan of a restore of the given kinds of a recovery point.
func New(req Request, resources []Resource, facts *Facts, target Target) *Plan {
	p := &Plan{request: req, facts: facts, target: target, kinds: map[schema.GroupKind]Resource{}}
	for _, r := range resources {
		p.kinds[schema.GroupKind{Group: r.Group, Kind: r.Kind}] = r
	}
	return p
}

func (p *Plan) bundleHas(group, kind string) bool {
	_, ok := p.kinds[schema.GroupKind{Group: group, Kind: kind}]
	return ok
}

// Decide says what becomes of an object. If the answer is Create, the object was changed into what is to be created: without anything
// that the old cluster allotted.
func (p *Plan) Decide(r Resource, o map[string]any) Decision {
	obj := object(o)
	d := Decision{Action: Create, Wave: WaveOf(r)}
	if obj.str("metadata", "name") == "" || r.Namespaced != (obj.str("metadata", "namespace") != "") {
		d.Action, d.Code, d.Message = Block, MalformedObject, "the recovery point has something here that is not a Kubernetes object"
		return d
	}
	if !p.selects(r, obj) {
		d.Action, d.Code, d.Message = Exclude, NotSelected, "the request does not ask for it"
		return d
	}
	if why, ok := p.derived(r, obj); ok {
		d.Action, d.Code, d.Message = Skip, why.code, why.message
		return d
	}
	if why, ok := p.unserved(r); ok {
		d.Action, d.Code, d.Message = Block, why.code, why.message
		return d
	}
	d.Owners = ownerReferences(obj)
	Transform(r, o)
	if r.String() == "persistentvolumeclaims" {
		p.decideClaim(r, obj, &d)
	}
	return d
}

// unserved says why objects of a kind cannot be created in the target.
func (p *Plan) unserved(r Resource) (reason, bool) {
	if slices.Contains(p.facts.served[r.String()], r.Version) {
		return reason{}, false
	}
	served, ok := p.target.Kinds[r.GroupResource()]
	switch {
	case !ok && p.facts.defined[r.String()] && !p.request.Filter.IncludeClusterScopeResources:
		return reason{KindNotServed, "the target does not know the kind " + r.String() + "; its definition is in the recovery point, but the request leaves cluster-scoped resources out"}, true
	case !ok:
		return reason{KindNotServed, "the target does not know the kind " + r.String()}, true
	case !slices.Contains(served.Versions, r.Version):
		return reason{KindNotServed, "the target does not serve version " + r.Version + " of " + r.String()}, true
	case !served.Creatable:
		return reason{KindNotCreatable, "the target does not let anyone create " + r.String()}, true
	}
	return reason{}, false
}

// Same reports whether an object that the target has equals what would be created, so far as users write it: without what API server
// and controllers allot. It changes existing.
func Same(r Resource, wanted, existing map[string]any) bool {
	Transform(r, existing)
	if r.String() != "persistentvolumeclaims" {
		return equality.Semantic.DeepEqual(wanted, existing)
	}
	w, e := maps.Clone(wanted), maps.Clone(existing)
	for _, o := range []map[string]any{w, e} {
		if spec, ok := o["spec"].(map[string]any); ok {
			spec = maps.Clone(spec)
			object(spec).drop("volumeName", "dataSource", "dataSourceRef", "selector")
			o["spec"] = spec
		}
	}
	return equality.Semantic.DeepEqual(w, e)
}
