package plan

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Resource is one kind of object as the recovery point holds it.
type Resource struct {
	Group, Version string
	// Resource is the plural name in lower case, as in URLs.
	Resource string
	// Kind is the name in an object's kind field.
	Kind       string
	Namespaced bool
}

// GroupResource names the kind without its version.
func (r Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Resource}
}

// GroupVersionResource is what a dynamic client asks for.
func (r Resource) GroupVersionResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Resource}
}

// String is the kind's name as Kubernetes writes it: "pods", "deployments.apps".
func (r Resource) String() string { return r.GroupResource().String() }

// Name says which object of the kind is meant, as in an Issue's Resource: "deployments.apps/shop/web".
func (r Resource) Name(namespace, name string) string {
	if namespace == "" {
		return r.String() + "/" + name
	}
	return r.String() + "/" + namespace + "/" + name
}

// Wave is a step of a restore: all objects of a wave are created before the first one of the next.
type Wave int

// The waves, in order. Within a wave the order does not matter.
const (
	WaveDefinitions   Wave = iota // CustomResourceDefinitions; awaited until Established
	WaveNamespaces                // Namespaces
	WaveFoundations               // cluster-scoped things that others name: classes, priorities, cluster roles
	WaveConfiguration             // ServiceAccounts, Secrets, ConfigMaps, LimitRanges
	WaveVolumes                   // static PersistentVolumes, snapshots to restore from, claims
	WaveAccess                    // Roles, NetworkPolicies, and Services: pods get them as environment variables
	WaveWorkloads                 // what runs pods, and what watches over them
	WaveCustom                    // custom resources: their operators run by now, and find their Secrets and claims
	WaveGuards                    // what may refuse the others: webhooks, policies, quotas, API services
	WaveCount                     // not a wave: how many there are
)

var waveNames = [WaveCount]string{
	"Definitions", "Namespaces", "Foundations", "Configuration", "Volumes", "Access", "Workloads", "Custom resources", "Guards",
}

// String is the wave's name in logs and messages.
func (w Wave) String() string {
	if w < 0 || w >= WaveCount {
		return "unknown"
	}
	return waveNames[w]
}

// waves lists the kinds that have a place of their own; WaveOf says where the others go. A ResourceQuota comes last because it refuses
// everything until its controller has counted; a LimitRange early because it writes defaults into pods.
var waves = map[string]Wave{
	"customresourcedefinitions.apiextensions.k8s.io": WaveDefinitions,

	"namespaces": WaveNamespaces,

	"serviceaccounts": WaveConfiguration,
	"secrets":         WaveConfiguration,
	"configmaps":      WaveConfiguration,
	"limitranges":     WaveConfiguration,

	"persistentvolumes":      WaveVolumes,
	"persistentvolumeclaims": WaveVolumes,

	"roles.rbac.authorization.k8s.io":        WaveAccess,
	"rolebindings.rbac.authorization.k8s.io": WaveAccess,
	"networkpolicies.networking.k8s.io":      WaveAccess,
	"services":                               WaveAccess,
	"endpoints":                              WaveAccess,
	"endpointslices.discovery.k8s.io":        WaveAccess,

	"resourcequotas": WaveGuards,
	"validatingwebhookconfigurations.admissionregistration.k8s.io":   WaveGuards,
	"mutatingwebhookconfigurations.admissionregistration.k8s.io":     WaveGuards,
	"validatingadmissionpolicies.admissionregistration.k8s.io":       WaveGuards,
	"validatingadmissionpolicybindings.admissionregistration.k8s.io": WaveGuards,
	"mutatingadmissionpolicies.admissionregistration.k8s.io":         WaveGuards,
	"mutatingadmissionpolicybindings.admissionregistration.k8s.io":   WaveGuards,
	"apiservices.apiregistration.k8s.io":                             WaveGuards,
}

// builtIn lists the API groups without a dot or with the k8s.io suffix that belong to Kubernetes itself or to its snapshot
// controller; every other group is custom, also other groups below k8s.io, such as gateway.networking.k8s.io.
var builtIn = map[string]bool{
	"": true, "apps": true, "batch": true, "autoscaling": true, "policy": true,
	"networking.k8s.io": true, "rbac.authorization.k8s.io": true, "storage.k8s.io": true, "scheduling.k8s.io": true,
	"apiextensions.k8s.io": true, "admissionregistration.k8s.io": true, "apiregistration.k8s.io": true,
	"coordination.k8s.io": true, "discovery.k8s.io": true, "node.k8s.io": true, "flowcontrol.apiserver.k8s.io": true,
	"certificates.k8s.io": true, "events.k8s.io": true, "resource.k8s.io": true, "snapshot.storage.k8s.io": true,
	"groupsnapshot.storage.k8s.io": true, "internal.apiserver.k8s.io": true, "storagemigration.k8s.io": true,
}

// WaveOf says in which wave a kind is restored.
func WaveOf(r Resource) Wave {
	if w, ok := waves[r.String()]; ok {
		return w
	}
	switch {
	case !builtIn[r.Group]:
		return WaveCustom
	case !r.Namespaced:
		return WaveFoundations
	default:
		return WaveWorkloads
	}
}

// SortByWave orders kinds as they are restored: by wave, within a wave by name, so that two runs go the same way. PersistentVolumes
// come before the claims that name them, and ServiceAccounts before their tokens: a token without an account is deleted at once.
func SortByWave(resources []Resource) {
	slices.SortFunc(resources, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(WaveOf(a), WaveOf(b)), cmp.Compare(rank(a), rank(b)),
			strings.Compare(a.String(), b.String()), strings.Compare(a.Version, b.Version))
	})
}

func rank(r Resource) int {
	if r.String() == "persistentvolumes" || r.String() == "serviceaccounts" {
		return 0
	}
	return 1
}
