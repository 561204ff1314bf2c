package plan

import (
	"slices"

	"github.com/cairn-backup/cairn/api/v1alpha1"
)

// systemNamespaces are never restored: the cluster makes and keeps what is in them.
var systemNamespaces = []string{"kube-system", "kube-public", "kube-node-lease", v1alpha1.Namespace}

// IsSystemNamespace reports whether a namespace is one that is never backed up nor restored.
func IsSystemNamespace(namespace string) bool { return slices.Contains(systemNamespaces, namespace) }

// SelectsNamespace reports whether a filter takes the objects of a namespace.
func SelectsNamespace(f v1alpha1.Filter, namespace string) bool {
	if IsSystemNamespace(namespace) || slices.Contains(f.ExcludedNamespaces, namespace) {
		return false
	}
	return len(f.IncludedNamespaces) == 0 || slices.Contains(f.IncludedNamespaces, namespace)
}

// selects reports whether the request asks for the object. Without cluster-scoped objects the chosen namespaces still get their
// Namespace objects and the volumes of their claims. A volume bound to a claim goes with the claim in any case.
func (p *Plan) selects(r Resource, o object) bool {
	f := p.request.Filter
	switch {
	case r.Namespaced:
		return SelectsNamespace(f, o.str("metadata", "namespace"))
	case r.String() == "namespaces":
		return SelectsNamespace(f, o.str("metadata", "name"))
	case r.String() == "persistentvolumes" && o.str("spec", "claimRef", "namespace") != "":
		return SelectsNamespace(f, o.str("spec", "claimRef", "namespace"))
	default:
		return f.IncludeClusterScopeResources
	}
}
