// Package coverage says which namespaces and volumes of a cluster its backup instances protect, and why the others are not protected.
// It is pure: who has the cluster and the instances (the command `cairn coverage`) asks it.
//
// Protected means that it could be restored now: an instance takes it, its protection works, and a recovery point has it that is not older than
// two of the policy's intervals. What a backup can take of a volume is [plan]'s to say; here it is only told.
package coverage

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/plan"
)

// Instance is a backup instance of the cluster.
type Instance struct {
	// ID is its resource ID, Name, Vault and Policy the names in it.
	ID, Name, Vault, Policy string
	// State is its protection's, Azure's word; Problem is what it says about an error.
	State, Problem string
	// IncludedNamespaces, when empty, means all but the ExcludedNamespaces.
	IncludedNamespaces, ExcludedNamespaces []string
	SnapshotVolumes                        bool
	// Interval is the longest time between two backups of the policy; 0 when it makes none by itself.
	Interval time.Duration
	// LastPoint is the newest recovery point's time; zero when there is none.
	LastPoint time.Time
	// Trouble says why no backup is made now, or why the last one failed; empty when nothing is known.
	Trouble string
	// LeftOut says, by "namespace/claim", what the newest recovery point's backup left out.
	LeftOut map[string]Reason
}

// Namespace is one of the cluster's.
type Namespace struct {
	Name    string
	Created time.Time
}

// Claim is a PersistentVolumeClaim.
type Claim struct {
	Namespace, Name string
	Created         time.Time
	// Bytes is the size of its volume, or what it asks for.
	Bytes        int64
	StorageClass string
	// Excluded says that its label or annotation velero.io/exclude-from-backup is "true".
	Excluded bool
	// Volume is what decides whether a snapshot can be taken.
	Volume plan.Claim
}

// PodVolume is a volume of pods that is no claim's. Alike pods of one owner share one.
type PodVolume struct {
	Namespace string
	// Name is the volume's in the pod, Owner the pod's controller or itself: "DaemonSet agent".
	Name, Owner string
	// Source is its type: emptyDir, hostPath.
	Source string
}

// Cluster is what there is to protect.
type Cluster struct {
	Namespaces []Namespace
	Claims     []Claim
	PodVolumes []PodVolume
}

// Reason says why something is not protected.
type Reason struct {
	// Code is stable: Azure's where one exists, else ours.
	Code string `json:"code,omitempty"`
	// Message says why, Action what to do about it.
	Message string `json:"message,omitempty"`
	Action  string `json:"action,omitempty"`
}

// The reasons that are not a volume's own (see plan) and not a state of protection.
const (
	NoInstance          = "NoBackupInstance"
	NamespaceExcluded   = "NamespaceExcluded"
	NamespaceNotChosen  = "NamespaceNotIncluded"
	SystemNamespace     = "SystemNamespace"
	ExcludedByLabel     = "ExcludedByLabel"
	NoRecoveryPoint     = "NoRecoveryPoint"
	RecoveryPointTooOld = "RecoveryPointTooOld"
	EphemeralByDesign   = "EphemeralByDesign"
)

// Status says whether something is protected.
type Status string

// The statuses. What is NotCounted needs no backup: the cluster makes it itself, or it ends with its pod.
const (
	Protected    Status = "Protected"
	NotProtected Status = "NotProtected"
	NotCounted   Status = "NotCounted"
)

// The kinds of items.
const (
	KindNamespace = "Namespace"
	KindClaim     = "PersistentVolumeClaim"
	KindPodVolume = "PodVolume"
)

// Item is one namespace or volume.
type Item struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	// Name is the claim's, or owner and volume of a pod's; empty for a namespace.
	Name         string `json:"name,omitempty"`
	Bytes        int64  `json:"bytes,omitempty"`
	StorageClass string `json:"storageClass,omitempty"`
	Status       Status `json:"status"`
	// Instance, Vault and Policy name who protects it, or whose fault it is that nobody does.
	Instance string `json:"backupInstance,omitempty"`
	Vault    string `json:"vault,omitempty"`
	Policy   string `json:"policy,omitempty"`
	// LastRecoveryPoint is that instance's newest one.
	LastRecoveryPoint *time.Time `json:"lastRecoveryPoint,omitempty"`
	Reason
}

// Summary counts what is counted.
type Summary struct {
	Namespaces          int   `json:"namespaces"`
	ProtectedNamespaces int   `json:"protectedNamespaces"`
	Volumes             int   `json:"volumes"`
	ProtectedVolumes    int   `json:"protectedVolumes"`
	Bytes               int64 `json:"bytes"`
	ProtectedBytes      int64 `json:"protectedBytes"`
	// Complete says that all of it is protected.
	Complete bool `json:"complete"`
}

// Report is the answer: items by namespace, each namespace before its volumes.
type Report struct {
	Summary Summary `json:"summary"`
	Items   []Item  `json:"items"`
}

// Of says what the instances protect at a time.
func Of(c Cluster, instances []Instance, now time.Time) Report {
	d := decider{instances: slices.Clone(instances), now: now}
	slices.SortFunc(d.instances, func(a, b Instance) int { return cmp.Compare(a.ID, b.ID) })
	var r Report
	for _, n := range c.Namespaces {
		r.Items = append(r.Items, d.namespace(n))
	}
	for _, claim := range c.Claims {
		r.Items = append(r.Items, d.claim(claim))
	}
	for _, v := range c.PodVolumes {
		if !plan.IsSystemNamespace(v.Namespace) && plan.PodVolumeOf(v.Source) != plan.PodVolumeTaken {
			r.Items = append(r.Items, podVolume(v))
		}
	}
	order := []string{KindNamespace, KindClaim, KindPodVolume}
	slices.SortStableFunc(r.Items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	r.Summary = summarize(r.Items)
	return r
}

func summarize(items []Item) Summary {
	s := Summary{Complete: true}
	for _, i := range items {
		if i.Status == NotCounted {
			continue
		}
		s.Complete = s.Complete && i.Status == Protected
		all, safe := &s.Volumes, &s.ProtectedVolumes
		if i.Kind == KindNamespace {
			all, safe = &s.Namespaces, &s.ProtectedNamespaces
		}
		*all++
		s.Bytes += i.Bytes
		if i.Status == Protected {
			*safe++
			s.ProtectedBytes += i.Bytes
		}
	}
	return s
}

type decider struct {
	instances []Instance
	now       time.Time
}

func (d decider) namespace(n Namespace) Item {
	item := Item{Kind: KindNamespace, Namespace: n.Name}
	if plan.IsSystemNamespace(n.Name) {
		item.Status, item.Reason = NotCounted, systemNamespace
		return item
	}
	d.judge(&item, n.Created, func(*Instance) Reason { return Reason{} })
	return item
}

var systemNamespace = Reason{Code: SystemNamespace, Message: "backups never take this namespace: a cluster makes what is in it by itself"}

func (d decider) claim(c Claim) Item {
	item := Item{Kind: KindClaim, Namespace: c.Namespace, Name: c.Name, Bytes: c.Bytes, StorageClass: c.StorageClass}
	if plan.IsSystemNamespace(c.Namespace) {
		item.Status, item.Reason = NotProtected, systemNamespace
		item.Action = "Keep data that must be saved in another namespace."
		return item
	}
	code, message, action := c.Volume.Untaken()
	d.judge(&item, c.Created, func(i *Instance) Reason {
		left, isLeft := i.LeftOut[c.Namespace+"/"+c.Name]
		switch {
		case c.Excluded:
			return Reason{ExcludedByLabel, "its label or annotation velero.io/exclude-from-backup keeps it out of backups", "Remove that if it is to be saved."}
		case !i.SnapshotVolumes:
			return Reason{plan.SnapshotNotRequested, "the backup instance takes no snapshots of volumes", "Set snapshotVolumes of the backup instance to true."}
		case code != "":
			return Reason{code, message, action}
		case isLeft:
			return left
		}
		return Reason{}
	})
	return item
}

func podVolume(v PodVolume) Item {
	item := Item{Kind: KindPodVolume, Namespace: v.Namespace, Name: v.Owner + " " + v.Name, Status: NotProtected,
		Reason: Reason{plan.VolumeTypeNotSupported, "the volume is of type " + v.Source + ", which no backup takes",
			"Keep data that must be saved on a PersistentVolumeClaim of a CSI driver."}}
	if plan.PodVolumeOf(v.Source) == plan.PodVolumeEphemeral {
		item.Status, item.Reason = NotCounted, Reason{Code: EphemeralByDesign, Message: "the volume is of type " + v.Source + " and ends with its pod"}
	}
	return item
}

// judge finds an instance that protects the item. When none does, it tells the reason of the one that is nearest to it: one that takes the namespace
// before one that does not, and of these the one with the newest recovery point. own is what keeps an instance from taking this very item.
func (d decider) judge(item *Item, created time.Time, own func(*Instance) Reason) {
	var nearest *Instance
	why := Reason{NoInstance, "the cluster has no backup instance", "Run cairn enable, or create a backup instance."}
	rank := 0
	for n := range d.instances {
		i := &d.instances[n]
		reason, near := d.namespaceReason(i, item.Namespace), 1
		if reason.Code == "" {
			reason, near = own(i), 2
			if reason.Code == "" {
				reason, near = d.stateReason(i, created), 3
			}
		}
		if reason.Code == "" {
			near = 4
		}
		if near > rank || near == rank && i.LastPoint.After(nearest.LastPoint) {
			nearest, why, rank = i, reason, near
		}
	}
	item.Status, item.Reason = NotProtected, why
	if rank == 4 {
		item.Status = Protected
	}
	if nearest == nil {
		return
	}
	item.Instance, item.Vault, item.Policy = nearest.Name, nearest.Vault, nearest.Policy
	if !nearest.LastPoint.IsZero() && rank > 1 {
		item.LastRecoveryPoint = &nearest.LastPoint
	}
}

func (d decider) namespaceReason(i *Instance, namespace string) Reason {
	switch {
	case plan.SelectsNamespace(v1alpha1.Filter{IncludedNamespaces: i.IncludedNamespaces, ExcludedNamespaces: i.ExcludedNamespaces}, namespace):
		return Reason{}
	case slices.Contains(i.ExcludedNamespaces, namespace):
		return Reason{NamespaceExcluded, "the backup instance excludes the namespace", "Take it off excludedNamespaces of the backup instance."}
	}
	return Reason{NamespaceNotChosen, "the backup instance includes other namespaces only", "Add it to includedNamespaces of the backup instance."}
}

func (d decider) stateReason(i *Instance, created time.Time) Reason {
	switch i.State {
	case "ProtectionConfigured", "UpdatingProtection":
	case "ProtectionStopped", "BackupsSuspended":
		return Reason{i.State, "backups of the backup instance were stopped; what it has is of " + date(i.LastPoint), "Resume its protection."}
	default:
		return Reason{i.State, cmp.Or(i.Problem, "protection does not work yet"), "See the backup instance."}
	}
	switch {
	case i.LastPoint.IsZero():
		return Reason{NoRecoveryPoint, "there is no recovery point yet" + because(i.Trouble), "Wait for the first backup, or make one now."}
	case !created.Before(i.LastPoint.Truncate(time.Second)): // Kubernetes tells the second only
		return Reason{NoRecoveryPoint, "it is newer than the newest recovery point, of " + date(i.LastPoint), "Wait for the next backup, or make one now."}
	case i.Interval > 0 && d.now.Sub(i.LastPoint) > 2*i.Interval:
		return Reason{RecoveryPointTooOld, fmt.Sprintf("the newest recovery point is of %s, more than two intervals of %g hours ago", date(i.LastPoint), i.Interval.Hours()) + because(i.Trouble),
			"See the jobs since then."}
	}
	return Reason{}
}

func because(trouble string) string {
	if trouble == "" {
		return ""
	}
	return ": " + trouble
}

func date(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
