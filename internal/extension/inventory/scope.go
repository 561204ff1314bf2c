package inventory

import (
	"slices"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
)

// OwnLabelPrefix begins the labels of the snapshot objects that the extension makes. No backup takes objects of theirs.
const OwnLabelPrefix = v1alpha1.Group + "/"

// systemNamespaces are never taken: a cluster's own make their objects themselves.
var systemNamespaces = []string{"kube-system", "kube-public", "kube-node-lease", v1alpha1.Namespace}

// Scope decides which objects a filter takes. It is made by NewScope.
type Scope struct {
	included, excluded []string
	clusterScoped      bool
}

// NewScope returns the scope of a filter.
func NewScope(f v1alpha1.Filter) Scope {
	return Scope{included: f.IncludedNamespaces, excluded: f.ExcludedNamespaces, clusterScoped: f.IncludeClusterScopeResources}
}

// Namespace reports whether objects in the namespace are taken.
func (s Scope) Namespace(name string) bool {
	return (len(s.included) == 0 || slices.Contains(s.included, name)) &&
		!slices.Contains(s.excluded, name) && !slices.Contains(systemNamespaces, name)
}

// Kind reports whether any object of the kind can be taken.
func (s Scope) Kind(k bundle.Kind) bool {
	return k.Namespaced || s.clusterScoped || isNamespaces(k) || isVolumes(k)
}

// fewNamespaces is up to how many chosen namespaces are listed one by one; beyond, all are listed and filtered here, which costs the
// API server fewer requests.
const fewNamespaces = 4

// paths returns the namespaces to list a kind in; the empty one means all.
func (s Scope) paths(k bundle.Kind) []string {
	if !k.Namespaced || len(s.included) == 0 || len(s.included) > fewNamespaces {
		return []string{""}
	}
	var chosen []string
	for _, name := range s.included {
		if s.Namespace(name) && !slices.Contains(chosen, name) {
			chosen = append(chosen, name)
		}
	}
	slices.Sort(chosen)
	return chosen
}

func isNamespaces(k bundle.Kind) bool { return k.APIVersion == "v1" && k.Plural == "namespaces" }
func isVolumes(k bundle.Kind) bool    { return k.APIVersion == "v1" && k.Plural == "persistentvolumes" }
func isPods(k bundle.Kind) bool       { return k.APIVersion == "v1" && k.Plural == "pods" }

// resource names a kind as the report does: "pods", "deployments.apps".
func resource(k bundle.Kind) string {
	if g := k.Group(); g != "" {
		return k.Plural + "." + g
	}
	return k.Plural
}
