package plan

import (
	"strings"

	"github.com/cairn-backup/cairn/api/v1alpha1"
)

// reason is why an object is not created: one of the codes of this package, and a sentence.
type reason struct{ code, message string }

// transient lists the kinds of which every cluster makes its own objects, and why.
var transient = map[string]string{
	"events":                                           "events tell what happened; they are not state",
	"events.events.k8s.io":                             "events tell what happened; they are not state",
	"leases.coordination.k8s.io":                       "leases are held by running processes",
	"leasecandidates.coordination.k8s.io":              "leases are held by running processes",
	"nodes":                                            "nodes register themselves",
	"componentstatuses":                                "component statuses are computed",
	"csinodes.storage.k8s.io":                          "the kubelet makes CSINode objects",
	"volumeattachments.storage.k8s.io":                 "volumes are attached anew",
	"csistoragecapacities.storage.k8s.io":              "storage drivers publish their capacity",
	"resourceslices.resource.k8s.io":                   "resource drivers publish their devices",
	"ipaddresses.networking.k8s.io":                    "addresses are allocated with their services",
	"certificatesigningrequests.certificates.k8s.io":   "certificate requests are answered once",
	"podcertificaterequests.certificates.k8s.io":       "certificate requests are answered once",
	"storageversions.internal.apiserver.k8s.io":        "API servers publish their storage versions",
	"storageversionmigrations.storagemigration.k8s.io": "a migration concerns the storage of one cluster",
	"pods.metrics.k8s.io":                              "metrics are computed",
	"nodes.metrics.k8s.io":                             "metrics are computed",
}

var pointInTime = map[string]bool{
	"volumesnapshots.snapshot.storage.k8s.io":                  true,
	"volumesnapshotcontents.snapshot.storage.k8s.io":           true,
	"volumegroupsnapshots.groupsnapshot.storage.k8s.io":        true,
	"volumegroupsnapshotcontents.groupsnapshot.storage.k8s.io": true,
}

// derived says why an object that the request asks for is not created all the same. The second result is false if it is.
func (p *Plan) derived(r Resource, o object) (reason, bool) {
	namespace := o.str("metadata", "namespace")
	switch {
	case o.str("metadata", "deletionTimestamp") != "":
		return reason{BeingDeleted, "the object was being deleted when the backup was taken"}, true
	case p.facts.terminating[namespace]:
		return reason{BeingDeleted, "the namespace was being deleted when the backup was taken"}, true
	case transient[r.String()] != "":
		return reason{RecreatedByCluster, transient[r.String()]}, true
	case pointInTime[r.String()]:
		return reason{PointInTimeObject, "a snapshot made anew would show today's data under the old name"}, true
	case isOwnRequest(r, o):
		return reason{RequestOfExtension, "the extension's requests and their definitions belong to its installation"}, true
	}
	if msg, ok := madeByCluster(r, o); ok {
		return reason{RecreatedByCluster, msg}, true
	}
	if msg, ok := p.madeByOwner(r, o); ok {
		return reason{RecreatedByOwner, msg}, true
	}
	if completed(r, o) {
		return reason{AlreadyCompleted, "it had ended when the backup was taken, and would run again"}, true
	}
	if r.String() == "persistentvolumes" && !p.facts.reattach(p.request, o.str("metadata", "name")) {
		return reason{VolumeProvisionedAnew, "the claim gets a new volume"}, true
	}
	return reason{}, false
}

// isOwnRequest reports whether the object is one of our five request kinds, or the definition of one. Users' hooks, which share the
// group, are restored.
func isOwnRequest(r Resource, o object) bool {
	requests := oneOf("backups", "restores", "deletebackups", "validateforbackups", "validateforrestores")
	if r.Group == v1alpha1.Group {
		return requests(r.Resource)
	}
	return r.String() == "customresourcedefinitions.apiextensions.k8s.io" &&
		o.str("spec", "group") == v1alpha1.Group && requests(o.str("spec", "names", "plural"))
}

// madeByCluster tells the objects that the control plane makes in every cluster, or in every namespace, by itself.
func madeByCluster(r Resource, o object) (string, bool) {
	name, namespace := o.str("metadata", "name"), o.str("metadata", "namespace")
	switch r.String() {
	case "configmaps":
		return "every namespace gets the cluster's root certificate", name == "kube-root-ca.crt"
	case "services", "endpoints", "endpointslices.discovery.k8s.io":
		if namespace == "default" && name == "kubernetes" {
			return "the API server publishes its own address", true
		}
		return "the control plane derives it from a service and its pods", managedEndpoints(o)
	case "clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io",
		"roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io":
		return "the API server keeps its built-in roles", o.label("kubernetes.io/bootstrapping") != ""
	case "priorityclasses.scheduling.k8s.io":
		return "the API server makes the system's priorities", strings.HasPrefix(name, "system-")
	case "flowschemas.flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io":
		return "the API server keeps its own flow control", o.annotation("apf.kubernetes.io/autoupdate-spec") == "true"
	case "apiservices.apiregistration.k8s.io":
		return "the API server registers the APIs that it serves itself", o.obj("spec", "service") == nil
	case "servicecidrs.networking.k8s.io":
		return "the API server publishes its own service addresses", name == "kubernetes"
	case "clustertrustbundles.certificates.k8s.io":
		return "the cluster's signers publish their certificates", strings.HasPrefix(name, "kubernetes.io:")
	case "pods":
		return "the kubelet shows the static pods of its node", o.annotation("kubernetes.io/config.mirror") != ""
	}
	return "", false
}

func managedEndpoints(o object) bool {
	by := o.label("endpointslice.kubernetes.io/managed-by")
	return by == "endpointslice-controller.k8s.io" || by == "endpointslicemirroring-controller.k8s.io" ||
		o.label("endpoints.kubernetes.io/managed-by") == "endpoint-controller" ||
		o.annotation("endpoints.kubernetes.io/last-change-trigger-time") != ""
}

// recreated lists the kinds that a controller makes from its own object without loss: nothing in them is state. Pods are always so,
// whoever owns them; Deployments, Secrets or claims that an operator made are not, as they hold what it will not make twice (generated
// passwords, data), and are restored before it sees its custom resource again.
var recreated = map[string][]string{
	"pods":                            nil, // nil: by any owner
	"controllerrevisions.apps":        nil,
	"resourceclaims.resource.k8s.io":  {"Pod"},
	"replicasets.apps":                {"Deployment"},
	"jobs.batch":                      {"CronJob"},
	"endpointslices.discovery.k8s.io": {"Service", "Endpoints"},
}

// madeByOwner reports whether the object's controller makes it anew. It does not if the recovery point does not have the
// controller's kind: the object is restored on its own then.
func (p *Plan) madeByOwner(r Resource, o object) (string, bool) {
	owners, ok := recreated[r.String()]
	if !ok {
		return "", false
	}
	ref, ok := controllerOf(o)
	if !ok || !p.bundleHas(group(ref.APIVersion), ref.Kind) {
		return "", false
	}
	if owners != nil && !oneOf(owners...)(ref.Kind) {
		return "", false
	}
	return ref.Kind + " " + ref.Name + " makes it anew", true
}

// completed tells jobs that ended and pods without an owner that ended.
func completed(r Resource, o object) bool {
	switch r.String() {
	case "pods":
		phase := o.str("status", "phase")
		return phase == "Succeeded" || phase == "Failed"
	case "jobs.batch":
		for _, c := range o.objs("status", "conditions") {
			if t := c.str("type"); c.str("status") == "True" && (t == "Complete" || t == "Failed") {
				return true
			}
		}
	}
	return false
}
