// Package snapshot takes CSI volume snapshots of all claims of a backup, lets go of the Kubernetes objects while storage keeps the
// snapshots, and deletes snapshots that no recovery point owns.
//
// All snapshots are asked for at once and watched, not polled. Names are derived from the recovery point, the attempt and the claim, and the
// caller writes them down before Take, so that whatever a killed extension leaves behind can be found and removed. Choose decides; Taker acts.
// The package does not move data and does not restore.
package snapshot

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/inventory"
	"github.com/cairn-backup/cairn/internal/plan"
)

// The labels of the snapshot objects that a backup makes.
const (
	LabelRecoveryPoint = inventory.OwnLabelPrefix + "recovery-point"
	LabelAttempt       = inventory.OwnLabelPrefix + "attempt"
)

// The codes of volumes that are left out or degraded. Those with UserError or PV in them, and CSISnapshottingTimedOut, are Azure's.
const (
	CodeClaimNotBound  = plan.ClaimNotBound
	CodeVolumeNotFound = plan.VolumeNotFound
	CodeClassNotFound  = plan.SnapshotClassNotFound
	CodeNotRequested   = plan.SnapshotNotRequested
	CodeTimedOut       = "CSISnapshottingTimedOut"
	CodeLimitReached   = "UserErrorPVSnapshotLimitReached"
	CodeDisallowed     = "UserErrorPVSnapshotDisallowedByPolicy"
	CodeFailed         = "VolumeSnapshotFailed"
	CodeNotReady       = "VolumeSnapshotNotReady"
	CodeNotRemoved     = "VolumeSnapshotNotRemoved"
)

// defaultClass is the annotation that makes a VolumeSnapshotClass its driver's default.
const defaultClass = "snapshot.storage.kubernetes.io/is-default-class"

// Target is a volume to take a snapshot of, by the name in Record.
type Target struct {
	Record v1alpha1.VolumeSnapshotRecord
	// Volume is what the bundle says about the volume; what only the snapshot can tell is still missing.
	Volume bundle.Volume
}

// Name returns the name of the VolumeSnapshot of a claim.
func Name(recoveryPointID string, attempt int32, namespace, claim string) string {
	sum := sha256.Sum256([]byte(namespace + "/" + claim))
	return fmt.Sprintf("%s%s-a%d-%x", inventory.OwnSnapshotPrefix, recoveryPointID, attempt, sum[:6])
}

// Choose decides for every claim whether a snapshot is taken; for each of the others it says why not.
func Choose(recoveryPointID string, attempt int32, claims []corev1.PersistentVolumeClaim, volumes map[string]corev1.PersistentVolume, classes []snapshotv1.VolumeSnapshotClass) ([]Target, []bundle.Outcome) {
	var targets []Target
	var report []bundle.Outcome
	for _, claim := range claims {
		volume, found := volumes[claim.Spec.VolumeName]
		known := plan.Claim{Volume: claim.Spec.VolumeName, Bound: claim.Status.Phase == corev1.ClaimBound, Found: found}
		var class snapshotv1.VolumeSnapshotClass
		if volume.Spec.CSI != nil {
			known.Driver = volume.Spec.CSI.Driver
			class, known.HasClass = ClassOf(known.Driver, classes)
		}
		if code, message, action := known.Untaken(); code != "" {
			report = append(report, bundle.Outcome{Resource: "persistentvolumeclaims/" + claim.Namespace + "/" + claim.Name, Result: bundle.Skipped,
				Code: code, Message: message, Action: action})
			continue
		}
		targets = append(targets, target(recoveryPointID, attempt, claim, volume, class.Name))
	}
	return targets, report
}

// ClassOf returns the class to take a driver's snapshots with: the driver's default, or the first by name.
func ClassOf(driver string, classes []snapshotv1.VolumeSnapshotClass) (snapshotv1.VolumeSnapshotClass, bool) {
	var of []snapshotv1.VolumeSnapshotClass
	for _, class := range classes {
		if class.Driver == driver {
			of = append(of, class)
		}
	}
	if len(of) == 0 {
		return snapshotv1.VolumeSnapshotClass{}, false
	}
	return slices.MinFunc(of, func(a, b snapshotv1.VolumeSnapshotClass) int {
		return cmp.Or(-cmp.Compare(a.Annotations[defaultClass], b.Annotations[defaultClass]), cmp.Compare(a.Name, b.Name))
	}), true
}

func target(id string, attempt int32, claim corev1.PersistentVolumeClaim, volume corev1.PersistentVolume, class string) Target {
	source := volume.Spec.CSI
	v := bundle.Volume{
		Namespace: claim.Namespace, Claim: claim.Name, Volume: volume.Name, Driver: source.Driver, VolumeHandle: source.VolumeHandle,
		SnapshotClass: class, RequestedBytes: claim.Spec.Resources.Requests.Storage().Value(), VolumeMode: string(corev1.PersistentVolumeFilesystem),
		FSType: source.FSType,
	}
	if claim.Spec.StorageClassName != nil {
		v.StorageClass = *claim.Spec.StorageClassName
	}
	if claim.Spec.VolumeMode != nil {
		v.VolumeMode = string(*claim.Spec.VolumeMode)
	}
	if v.VolumeMode == string(corev1.PersistentVolumeBlock) {
		v.FSType = ""
	}
	for _, mode := range claim.Spec.AccessModes {
		v.AccessModes = append(v.AccessModes, string(mode))
	}
	return Target{Volume: v, Record: v1alpha1.VolumeSnapshotRecord{Namespace: claim.Namespace, Claim: claim.Name, Volume: volume.Name,
		Driver: source.Driver, SnapshotName: Name(id, attempt, claim.Namespace, claim.Name)}}
}
