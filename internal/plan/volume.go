package plan

import (
	"fmt"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// VolumeRecord says which storage snapshot of the recovery point holds a claim's data.
type VolumeRecord struct {
	Namespace, Claim string
	Driver           string
	// Handle is the snapshot's ID in storage.
	Handle string
	// RestoreSizeBytes is the least size of a volume made from the snapshot; 0 if the driver did not say.
	RestoreSizeBytes int64
}

// claimKey names a claim.
type claimKey struct{ namespace, name string }

// pv is what the plan must know about a PersistentVolume of the recovery point.
type pv struct {
	claim   claimKey
	dynamic bool
}

// Facts is what one object's fate needs to know of others. It grows with the number of volumes, classes, definitions and
// namespaces, not with the number of objects.
type Facts struct {
	volumes     map[string]pv
	volumeOf    map[claimKey]string // the claim's PersistentVolume
	claimClass  map[claimKey]string
	records     map[claimKey]VolumeRecord
	classes     map[string]string   // storage class: its provisioner
	served      map[string][]string // what the recovery point's definitions will serve: kind to versions
	defined     map[string]bool     // the kinds that the recovery point has definitions of
	namespaces  map[string]bool
	terminating map[string]bool
}

// NewFacts starts with the volume records of a recovery point and the storage classes of the target (name to provisioner).
func NewFacts(records []VolumeRecord, classes map[string]string) *Facts {
	f := &Facts{
		volumes: map[string]pv{}, volumeOf: map[claimKey]string{}, claimClass: map[claimKey]string{},
		records: map[claimKey]VolumeRecord{}, classes: map[string]string{}, served: map[string][]string{}, defined: map[string]bool{},
		namespaces: map[string]bool{}, terminating: map[string]bool{},
	}
	for _, r := range records {
		if r.Handle != "" {
			f.records[claimKey{r.Namespace, r.Claim}] = r
		}
	}
	for name, provisioner := range classes {
		f.classes[name] = provisioner
	}
	return f
}

// Wanted reports whether Learn needs to see the objects of a kind.
func (f *Facts) Wanted(r Resource) bool {
	switch r.String() {
	case "persistentvolumes", "persistentvolumeclaims", "namespaces", "storageclasses.storage.k8s.io",
		"customresourcedefinitions.apiextensions.k8s.io":
		return true
	}
	return false
}

// Learn notes what matters about one object of the recovery point. withClusterScope says whether the request restores cluster-scoped
// objects: only then the recovery point's classes and definitions will be there.
func (f *Facts) Learn(r Resource, o map[string]any, withClusterScope bool) {
	obj := object(o)
	name, namespace := obj.str("metadata", "name"), obj.str("metadata", "namespace")
	switch r.String() {
	case "persistentvolumes":
		key := claimKey{obj.str("spec", "claimRef", "namespace"), obj.str("spec", "claimRef", "name")}
		f.volumes[name] = pv{claim: key, dynamic: obj.annotation("pv.kubernetes.io/provisioned-by") != ""}
		if key.name != "" && obj.str("status", "phase") != "Released" {
			f.volumeOf[key] = name
		}
	case "persistentvolumeclaims":
		f.claimClass[claimKey{namespace, name}] = obj.str("spec", "storageClassName")
	case "namespaces":
		f.namespaces[name] = true
		if obj.str("metadata", "deletionTimestamp") != "" {
			f.terminating[name] = true
		}
	case "storageclasses.storage.k8s.io":
		if _, exists := f.classes[name]; !exists && withClusterScope {
			f.classes[name] = obj.str("provisioner")
		}
	case "customresourcedefinitions.apiextensions.k8s.io":
		kind := obj.str("spec", "names", "plural") + "." + obj.str("spec", "group")
		f.defined[kind] = true
		if !withClusterScope {
			return
		}
		for _, v := range obj.objs("spec", "versions") {
			if v.flag("served") {
				f.served[kind] = append(f.served[kind], v.str("name"))
			}
		}
	}
}

// ForgetDefinitions drops what Learn noted about definitions: once they are restored, the target itself says what it serves.
func (f *Facts) ForgetDefinitions() { f.served = map[string][]string{} }

// MissingNamespaces lists the namespaces that a filter names and the recovery point does not have.
func (f *Facts) MissingNamespaces(filter v1alpha1.Filter) []string {
	var missing []string
	for _, n := range filter.IncludedNamespaces {
		if !f.namespaces[n] {
			missing = append(missing, n)
		}
	}
	return missing
}

// reattach reports whether a PersistentVolume is restored as an object, so that its claim gets the very same storage again. So it is for
// volumes made by hand, unless the claim is filled from a snapshot; a provisioned volume is made anew.
func (f *Facts) reattach(req Request, volume string) bool {
	v, ok := f.volumes[volume]
	if !ok || v.dynamic {
		return false
	}
	if v.claim.name == "" {
		return true
	}
	if _, bound := f.claimClass[v.claim]; !bound {
		return false // the claim is gone: the volume was released, and nobody waits for it
	}
	_, provisionable := f.classes[f.claimClass[v.claim]]
	_, hasSnapshot := f.records[v.claim]
	return !(req.RestoreVolumeData && hasSnapshot && provisionable)
}

// VolumeSource says where a claim's data comes from.
type VolumeSource string

// The sources of a claim's data.
const (
	FromSnapshot VolumeSource = "Snapshot" // a new volume with the snapshot's data
	FromNothing  VolumeSource = "Nothing"  // a new, empty volume
	FromVolume   VolumeSource = "Volume"   // the original volume, attached again
)

// decideClaim finds the source of a claim's data and writes it into the claim, as far as it is known here: for a snapshot the
// size only, since the snapshot's name belongs to whoever makes the snapshot object.
func (p *Plan) decideClaim(r Resource, o object, d *Decision) {
	spec := o.obj("spec")
	key := claimKey{o.str("metadata", "namespace"), o.str("metadata", "name")}
	resourceName := r.Name(key.namespace, key.name)
	record, hasSnapshot := p.facts.records[key]
	class := spec.str("storageClassName")
	provisioner, classThere := p.facts.classes[class]
	bound := spec.str("volumeName") != ""

	if volume := spec.str("volumeName"); volume != "" && p.facts.reattach(p.request, volume) {
		d.Source = FromVolume
		if p.request.RestoreVolumeData {
			d.warn(VolumeReattached, resourceName, "the claim is bound to its original volume "+volume+"; its data was not replaced",
				"use a storage class that can make volumes from snapshots if the data has to come from the recovery point")
		}
		return
	}
	spec.drop("volumeName", "dataSource", "dataSourceRef", "selector")
	d.Source = FromNothing
	if class != "" && !classThere {
		d.warn(StorageClassMissing, resourceName, "the target has no storage class "+class+"; the claim stays Pending",
			"create the storage class")
	}
	switch {
	case !p.request.RestoreVolumeData:
		return
	case !hasSnapshot:
		if bound {
			d.warn(VolumeDataNotInRecoveryPoint, resourceName, "the recovery point has no data of this claim; it is created empty",
				"see the backup's report for why the volume was left out")
		}
		return
	case classThere && provisioner != record.Driver:
		d.Action, d.Code = Block, VolumeDriverMismatch
		d.Message = fmt.Sprintf("storage class %s belongs to driver %s, but the snapshot was made by %s", class, provisioner, record.Driver)
		return
	}
	d.Source, d.Record = FromSnapshot, record
	growRequest(spec, record.RestoreSizeBytes)
}

// growRequest makes a claim ask for at least size bytes: drivers refuse volumes smaller than their snapshot.
func growRequest(spec object, size int64) {
	requests := spec.obj("resources", "requests")
	if requests == nil || size <= 0 {
		return
	}
	asked, err := resource.ParseQuantity(requests.str("storage"))
	if err != nil || asked.Value() >= size {
		return // what cannot be parsed is for the API server to refuse
	}
	requests["storage"] = resource.NewQuantity(size, resource.BinarySI).String()
}
