package plan

import (
	"encoding/json"
	"strings"
)

// Transform makes an object fit for creation: it drops what the API server and the cluster's controllers wrote, and leaves what the
// user wrote. It changes the object in place, and changes nothing more when it is applied again. Claims and volumes need more than
// that; see Decide.
func Transform(r Resource, o map[string]any) {
	obj := object(o)
	ports := explicitNodePorts(r, obj) // read from what is dropped next
	metadata(r, obj)
	delete(o, "status")
	if t := transforms[r.String()]; t != nil {
		t(obj)
	}
	if r.String() == "services" {
		service(obj, ports)
	}
	if m := obj.obj("metadata"); m != nil {
		m.dropIfEmpty("annotations")
		m.dropIfEmpty("labels")
	}
}

// transforms has what is special about a kind, beside its metadata and status.
var transforms = map[string]func(object){
	"namespaces":                             func(o object) { o.obj("spec").drop("finalizers"); o.dropIfEmpty("spec") },
	"secrets":                                secret,
	"pods":                                   func(o object) { podSpec(o.obj("spec")); podAnnotations(o.obj("metadata")) },
	"persistentvolumeclaims":                 claim,
	"persistentvolumes":                      volume,
	"jobs.batch":                             job,
	"deployments.apps":                       func(o object) { dropAnnotations(o, "deployment.kubernetes.io/") },
	"replicasets.apps":                       func(o object) { dropAnnotations(o, "deployment.kubernetes.io/") },
	"daemonsets.apps":                        func(o object) { dropAnnotations(o, "deprecated.daemonset.template.generation") },
	"clusterroles.rbac.authorization.k8s.io": aggregatedRole,
	"endpoints":                              endpoints,
	"endpointslices.discovery.k8s.io":        endpointSlice,
}

// metadata drops what the API server allots, the references to owners (their UIDs are new; see Decision.Owners), and the finalizers
// that the cluster's own controllers set. Users' and operators' finalizers stay: they say what shall happen on deletion.
func metadata(r Resource, o object) {
	m := o.obj("metadata")
	m.drop("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink", "deletionTimestamp",
		"deletionGracePeriodSeconds", "ownerReferences")
	if m.str("name") != "" {
		m.drop("generateName")
	}
	list, ok := m["finalizers"].([]any)
	if !ok {
		return
	}
	kept := make([]any, 0, len(list))
	for _, v := range list {
		if s, ok := v.(string); !ok || !clusterFinalizer(s) {
			kept = append(kept, v)
		}
	}
	m["finalizers"] = kept
	m.dropIfEmpty("finalizers")
}

// clusterFinalizer tells the finalizers that Kubernetes and its storage controllers set, and set again where they are needed.
func clusterFinalizer(name string) bool {
	switch domain, _, qualified := strings.Cut(name, "/"); {
	case !qualified:
		return name == "foregroundDeletion" || name == "orphan" || name == "customresourcecleanup.apiextensions.k8s.io"
	case domain == "kubernetes.io", domain == "service.kubernetes.io", domain == "batch.kubernetes.io":
		return true
	default:
		return strings.HasSuffix(domain, "snapshot.storage.kubernetes.io") || strings.HasPrefix(domain, "external-provisioner.") ||
			strings.HasPrefix(domain, "external-attacher") || strings.HasPrefix(domain, "resource.kubernetes.io")
	}
}

func dropAnnotations(o object, names ...string) {
	o.obj("metadata").dropKeys("annotations", oneOf(names...))
}

// secret empties the tokens of service accounts: they are bound to the old account's UID, and the token controller fills them anew.
func secret(o object) {
	if o.str("type") != "kubernetes.io/service-account-token" {
		return
	}
	o.drop("data")
	dropAnnotations(o, "kubernetes.io/service-account.uid")
	o.obj("metadata").dropKeys("labels", oneOf("kubernetes.io/legacy-token-last-used", "kubernetes.io/legacy-token-invalid-since"))
}

// podSpec drops what the scheduler, the kubelet and admission wrote into a pod. They refuse some of it from anyone else.
func podSpec(spec object) {
	spec.drop("nodeName", "ephemeralContainers", "priority", "preemptionPolicy")
	if spec.str("serviceAccountName") != "" {
		spec.drop("serviceAccount") // the old name of the same field
	}
	if spec.str("runtimeClassName") != "" {
		spec.drop("overhead")
	}
	injected := map[string]bool{}
	for _, v := range spec.objs("volumes") {
		if name := v.str("name"); strings.HasPrefix(name, "kube-api-access-") && v.obj("projected") != nil {
			injected[name] = true
		}
	}
	if len(injected) == 0 {
		return
	}
	spec.filterList("volumes", func(v object) bool { return !injected[v.str("name")] })
	for _, list := range []string{"containers", "initContainers"} {
		for _, c := range spec.objs(list) {
			c.filterList("volumeMounts", func(m object) bool { return !injected[m.str("name")] })
		}
	}
}

// podAnnotations drops what network plugins wrote about the old pod.
func podAnnotations(m object) {
	m.dropKeys("annotations", oneOf("k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status",
		"cni.projectcalico.org/containerID", "cni.projectcalico.org/podIP", "cni.projectcalico.org/podIPs",
		"k8s.ovn.org/pod-networks"))
}

// claim drops what binding and provisioning wrote. Decide gives the claim its new source.
func claim(o object) {
	dropAnnotations(o, "pv.kubernetes.io/", "volume.kubernetes.io/selected-node", "volume.kubernetes.io/storage-provisioner",
		"volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-resizer")
}

// volume lets a static volume bind to its claim again, whose UID is new.
func volume(o object) {
	dropAnnotations(o, "pv.kubernetes.io/bound-by-controller")
	o.obj("spec", "claimRef").drop("uid", "resourceVersion")
}

// job drops the selector and labels that the API server made from the job's UID, unless the user chose them.
func job(o object) {
	dropAnnotations(o, "batch.kubernetes.io/job-tracking")
	if o.flag("spec", "manualSelector") {
		return
	}
	generated := oneOf("controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name")
	o.obj("metadata").dropKeys("labels", generated)
	o.obj("spec").drop("selector")
	template := o.obj("spec", "template", "metadata")
	template.dropKeys("labels", generated)
	template.drop("creationTimestamp")
}

// aggregatedRole drops the rules that a controller gathers from other roles.
func aggregatedRole(o object) {
	if o.obj("aggregationRule") != nil {
		o["rules"] = nil
	}
}

// endpoints and endpointSlice are made by users here (see managedEndpoints); targets that are pods have new UIDs.
func endpoints(o object) {
	for _, subset := range o.objs("subsets") {
		for _, list := range []string{"addresses", "notReadyAddresses"} {
			for _, a := range subset.objs(list) {
				a.obj("targetRef").drop("uid", "resourceVersion")
			}
		}
	}
}

func endpointSlice(o object) {
	for _, e := range o.objs("endpoints") {
		e.obj("targetRef").drop("uid", "resourceVersion")
	}
}

// portKey names a port of a service as managedFields do.
type portKey struct {
	port     int64
	protocol string
}

// nodePorts says which of a service's node ports its user asked for.
type nodePorts struct {
	ports       map[portKey]bool
	healthCheck bool
}

// explicitNodePorts finds the node ports that a user wrote, as against those that the API server allotted: the latter are in no
// manager's fields, as they are allotted after the fields were noted. Objects without managedFields, as this package's
// own output, are taken as written by the user, so that a transformation applied twice changes nothing.
func explicitNodePorts(r Resource, o object) nodePorts {
	found := nodePorts{ports: map[portKey]bool{}}
	if r.String() != "services" {
		return found
	}
	fields := o.objs("metadata", "managedFields")
	if len(fields) == 0 {
		for _, p := range o.objs("spec", "ports") {
			found.ports[keyOfPort(p)] = true
		}
		found.healthCheck = true
		return found
	}
	for _, f := range fields {
		spec := f.obj("fieldsV1", "f:spec")
		if _, ok := spec["f:healthCheckNodePort"]; ok {
			found.healthCheck = true
		}
		for key, v := range spec.obj("f:ports") {
			m, ok := v.(map[string]any)
			if !ok {
				continue
			}
			if _, ok := m["f:nodePort"]; ok {
				found.ports[parsePortKey(key)] = true
			}
		}
	}
	for _, p := range lastApplied(o).objs("spec", "ports") {
		if number(p["nodePort"]) != 0 {
			found.ports[keyOfPort(p)] = true
		}
	}
	return found
}

// lastApplied is the object as "kubectl apply" last wrote it, or nil.
func lastApplied(o object) object {
	text := o.annotation("kubectl.kubernetes.io/last-applied-configuration")
	if text == "" {
		return nil
	}
	var out map[string]any
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil // not ours to judge: then nothing is known to be explicit
	}
	return out
}

func parsePortKey(key string) portKey {
	var k struct {
		Port     int64  `json:"port"`
		Protocol string `json:"protocol"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(key, "k:")), &k); err != nil {
		return portKey{} // no port has this key
	}
	return portKey{k.Port, k.Protocol}
}

func keyOfPort(p object) portKey {
	protocol := p.str("protocol")
	if protocol == "" {
		protocol = "TCP"
	}
	return portKey{number(p["port"]), protocol}
}

// number reads an integer however it was decoded.
func number(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	default:
		return 0
	}
}

// service drops the addresses and ports that the API server allotted. A headless service keeps "None"; a node port stays if the user
// chose it.
func service(o object, explicit nodePorts) {
	spec := o.obj("spec")
	if spec.str("clusterIP") != "None" {
		spec.drop("clusterIP", "clusterIPs")
	}
	if !explicit.healthCheck {
		spec.drop("healthCheckNodePort")
	}
	for _, p := range spec.objs("ports") {
		if !explicit.ports[keyOfPort(p)] {
			p.drop("nodePort")
		}
	}
}

// DropNodePorts removes all node ports of a service, explicit ones too, and reports whether there were any. It is for services whose
// ports are taken in the target.
func DropNodePorts(o map[string]any) bool {
	spec := object(o).obj("spec")
	_, dropped := spec["healthCheckNodePort"]
	spec.drop("healthCheckNodePort")
	for _, p := range spec.objs("ports") {
		if _, ok := p["nodePort"]; ok {
			dropped = true
			p.drop("nodePort")
		}
	}
	return dropped
}
