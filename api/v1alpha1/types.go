package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Phase is where a request stands. Completed, CompletedWithWarnings and Failed are final: the extension never touches a
// request again that has one of them.
type Phase string

// The phases every request kind goes through. The empty phase means that the extension has not seen the request yet.
const (
	PhaseInProgress            Phase = "InProgress"
	PhaseCompleted             Phase = "Completed"
	PhaseCompletedWithWarnings Phase = "CompletedWithWarnings"
	PhaseFailed                Phase = "Failed"
)

// Final reports whether nothing more will happen to a request in this phase.
func (p Phase) Final() bool {
	return p == PhaseCompleted || p == PhaseCompletedWithWarnings || p == PhaseFailed
}

// ManagedByLabel marks the requests that the connector made; it deletes only such.
const ManagedByLabel = "app.kubernetes.io/managed-by"

// ManagedByConnector is the value of ManagedByLabel on the connector's requests.
const ManagedByConnector = "cairn-connector"

// CodeDeleted is the code of a request that failed because its object was deleted before it had ended.
const CodeDeleted = "RequestDeleted"

// StorageLocation says where recovery points lie: a folder of a blob container. The credentials are not here but in the
// extension's Secret (see SecretStorage).
type StorageLocation struct {
	// ContainerURL is the container's address without a query, such as https://10.0.0.1:8444/account/container.
	// Empty means the container that the extension was installed with.
	// +optional
	ContainerURL string `json:"containerURL,omitempty"`
	// Prefix is the folder of one backup instance inside the container, ending with a slash. A recovery point lies in
	// the folder Prefix + its ID + "/".
	Prefix string `json:"prefix"`
}

// Issue is one thing that a person should know about: why something was left out, failed, or differs.
type Issue struct {
	// Code is stable and without spaces: Azure's where one exists (UserErrorPVCNotBoundToVolume), else ours (VolumeTypeNotSupported).
	Code string `json:"code"`
	// Resource names what it is about: "persistentvolumeclaims/shop/data", or a kind such as "widgets.example.com".
	// +optional
	Resource string `json:"resource,omitempty"`
	// Message says what happened.
	Message string `json:"message"`
	// Action says what to do about it.
	// +optional
	Action string `json:"action,omitempty"`
}

// Progress is what a person watches. Totals are 0 while they are not known.
type Progress struct {
	// Step is the name of the step that runs, as in the kind's list of steps.
	// +optional
	Step string `json:"step,omitempty"`
	// Steps lists the steps that ended and the one that runs, in order.
	// +optional
	Steps []Step `json:"steps,omitempty"`
	// ObjectsDone and ObjectsTotal count Kubernetes objects.
	// +optional
	ObjectsDone int64 `json:"objectsDone,omitempty"`
	// +optional
	ObjectsTotal int64 `json:"objectsTotal,omitempty"`
	// VolumesDone and VolumesTotal count volumes.
	// +optional
	VolumesDone int64 `json:"volumesDone,omitempty"`
	// +optional
	VolumesTotal int64 `json:"volumesTotal,omitempty"`
	// Bytes counts the bytes written to (backup) or read from (restore) storage.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
}

// Step is one named step of a request.
type Step struct {
	Name string `json:"name"`
	// Started and Ended are RFC 3339; Ended is absent while the step runs.
	Started metav1.Time `json:"started"`
	// +optional
	Ended *metav1.Time `json:"ended,omitempty"`
}

// Status is what every request kind reports.
type Status struct {
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Attempt counts how often the work was begun, the current one included.
	// +optional
	Attempt int32 `json:"attempt,omitempty"`
	// +optional
	Started *metav1.Time `json:"started,omitempty"`
	// +optional
	Ended *metav1.Time `json:"ended,omitempty"`
	// +optional
	Progress Progress `json:"progress,omitempty"`
	// Errors is why the request failed; empty otherwise.
	// +optional
	Errors []Issue `json:"errors,omitempty"`
	// Warnings lists the first 200 things left out or degraded; WarningCount counts all of them, and the report in storage
	// lists all of them.
	// +optional
	Warnings []Issue `json:"warnings,omitempty"`
	// +optional
	WarningCount int64 `json:"warningCount,omitempty"`
}

// Filter selects objects. The zero value selects all namespaces but the system's and no cluster-scoped objects.
type Filter struct {
	// IncludedNamespaces, when empty, means all namespaces, also those made later.
	// kube-system, kube-public, kube-node-lease and the extension's own namespace are never included.
	// +optional
	IncludedNamespaces []string `json:"includedNamespaces,omitempty"`
	// +optional
	ExcludedNamespaces []string `json:"excludedNamespaces,omitempty"`
	// IncludeClusterScopeResources takes cluster-scoped objects too. Without it only those are taken that the chosen
	// namespaces cannot do without: the Namespace objects, and the PersistentVolumes of chosen claims.
	IncludeClusterScopeResources bool `json:"includeClusterScopeResources"`
}

// The steps of a Backup, in order. docs/design.md draws the state machine.
const (
	StepCut      = "Cut"      // read the revision, list what is in scope
	StepSnapshot = "Snapshot" // take and await volume snapshots
	StepUpload   = "Upload"   // write the objects to storage
	StepCommit   = "Commit"   // write the commit object
	StepRelease  = "Release"  // remove VolumeSnapshot objects; storage keeps the snapshots
)

// BackupSpec asks for one recovery point.
type BackupSpec struct {
	// RecoveryPointID is 32 lower-case hexadecimal digits; it names the folder in storage.
	RecoveryPointID string          `json:"recoveryPointID"`
	Location        StorageLocation `json:"location"`
	// Recipient is the age X25519 public key ("age1…") that the bundle is encrypted to.
	Recipient string `json:"recipient"`
	// +optional
	Filter Filter `json:"filter,omitempty"`
	// SnapshotVolumes takes the volumes' data too; without it only the objects are taken.
	SnapshotVolumes bool `json:"snapshotVolumes"`
	// Origin is copied into the commit object as it is, so that the service's database can be rebuilt from storage
	// (vault, instance and policy IDs, retention tag, …).
	// +optional
	Origin map[string]string `json:"origin,omitempty"`
}

// VolumeSnapshotRecord says which storage snapshot holds a volume's data.
type VolumeSnapshotRecord struct {
	Namespace string `json:"namespace"`
	// Claim is the PersistentVolumeClaim's name.
	Claim string `json:"claim"`
	// Volume is the PersistentVolume's name.
	Volume string `json:"volume"`
	Driver string `json:"driver"`
	// SnapshotName is the VolumeSnapshot object's name while it exists (until StepRelease).
	SnapshotName string `json:"snapshotName,omitempty"`
	// Handle is the snapshot's ID in storage; empty until it is known.
	// +optional
	Handle string `json:"handle,omitempty"`
	// RestoreSizeBytes is the least size of a volume made from the snapshot.
	// +optional
	RestoreSizeBytes int64 `json:"restoreSizeBytes,omitempty"`
}

// BackupStatus is what the extension knows about a Backup.
type BackupStatus struct {
	Status `json:",inline"`
	// ResourceVersion is the revision at which all kinds were listed.
	// +optional
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// RecoveryPointTime is the moment of the cut, RFC 3339.
	// +optional
	RecoveryPointTime *metav1.Time `json:"recoveryPointTime,omitempty"`
	// Snapshots is the ledger: a snapshot is named here before it is asked for.
	// +optional
	Snapshots []VolumeSnapshotRecord `json:"snapshots,omitempty"`
	// Committed is true once the commit object is in storage: the recovery point exists.
	// +optional
	Committed bool `json:"committed,omitempty"`
}

// Backup makes one recovery point.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.status.progress.step`
// +kubebuilder:printcolumn:name="Objects",type=integer,JSONPath=`.status.progress.objectsDone`
// +kubebuilder:printcolumn:name="Volumes",type=integer,JSONPath=`.status.progress.volumesDone`
// +kubebuilder:printcolumn:name="Warnings",type=integer,JSONPath=`.status.warningCount`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Backup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a request cannot be changed; make a new one"
	Spec   BackupSpec   `json:"spec"`
	Status BackupStatus `json:"status,omitempty"`
}

// BackupList is a list of Backups.
//
// +kubebuilder:object:root=true
type BackupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Backup `json:"items"`
}

// The steps of a Restore, in order.
const (
	StepPlan  = "Plan"  // read the bundle's index, decide for every object
	StepApply = "Apply" // create objects, wave by wave
	StepWait  = "Wait"  // claims bound, workloads ready
)

// ConflictPolicy says what becomes of an object that exists already.
type ConflictPolicy string

// ConflictSkip leaves an existing object as it is, and says so.
const ConflictSkip ConflictPolicy = "Skip"

// RestoreSpec asks for the objects and volumes of one recovery point.
type RestoreSpec struct {
	RecoveryPointID string          `json:"recoveryPointID"`
	Location        StorageLocation `json:"location"`
	// IdentitySecret names a Secret in the extension's namespace whose key "identity" holds the age identity
	// ("AGE-SECRET-KEY-1…") of this one recovery point.
	IdentitySecret string `json:"identitySecret"`
	// +optional
	Filter Filter `json:"filter,omitempty"`
	// +kubebuilder:validation:Enum=Skip
	ConflictPolicy ConflictPolicy `json:"conflictPolicy"`
	// RestoreVolumeData fills claims from their snapshots; without it claims are created empty.
	RestoreVolumeData bool `json:"restoreVolumeData"`
}

// RestoreStatus is what the extension knows about a Restore.
type RestoreStatus struct {
	Status `json:",inline"`
	// Created, Skipped and Failed count objects; Report in storage lists each of them with its reason.
	// +optional
	Created int64 `json:"created,omitempty"`
	// +optional
	Skipped int64 `json:"skipped,omitempty"`
	// +optional
	Failed int64 `json:"failed,omitempty"`
	// ReportName is the blob that lists the outcome of every object.
	// +optional
	ReportName string `json:"reportName,omitempty"`
	// WorkloadsReady says whether every restored workload became ready; a fact of its own beside "objects created".
	// +optional
	WorkloadsReady *bool `json:"workloadsReady,omitempty"`
}

// Restore brings back objects and volumes from a recovery point.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.status.progress.step`
// +kubebuilder:printcolumn:name="Created",type=integer,JSONPath=`.status.created`
// +kubebuilder:printcolumn:name="Skipped",type=integer,JSONPath=`.status.skipped`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.failed`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Restore struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a request cannot be changed; make a new one"
	Spec   RestoreSpec   `json:"spec"`
	Status RestoreStatus `json:"status,omitempty"`
}

// RestoreList is a list of Restores.
//
// +kubebuilder:object:root=true
type RestoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Restore `json:"items"`
}

// DeleteBackupSpec asks for a recovery point to be removed: its storage snapshots and its blobs.
type DeleteBackupSpec struct {
	RecoveryPointID string          `json:"recoveryPointID"`
	Location        StorageLocation `json:"location"`
	// Snapshots are the storage snapshots to delete; the service's ledger knows them, since the extension cannot read
	// an old bundle.
	// +optional
	Snapshots []VolumeSnapshotRecord `json:"snapshots,omitempty"`
}

// DeleteBackup removes a recovery point.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type DeleteBackup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a request cannot be changed; make a new one"
	Spec   DeleteBackupSpec `json:"spec"`
	Status Status           `json:"status,omitempty"`
}

// DeleteBackupList is a list of DeleteBackups.
//
// +kubebuilder:object:root=true
type DeleteBackupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DeleteBackup `json:"items"`
}

// ValidateForBackupSpec asks whether a backup could be made: storage reachable and writable, snapshot classes present,
// namespaces there.
type ValidateForBackupSpec struct {
	Location StorageLocation `json:"location"`
	// +optional
	Filter          Filter `json:"filter,omitempty"`
	SnapshotVolumes bool   `json:"snapshotVolumes"`
}

// ValidateForBackup checks that a backup could be made. It changes nothing but a probe blob that it removes again.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ValidateForBackup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a request cannot be changed; make a new one"
	Spec   ValidateForBackupSpec `json:"spec"`
	Status Status                `json:"status,omitempty"`
}

// ValidateForBackupList is a list of ValidateForBackups.
//
// +kubebuilder:object:root=true
type ValidateForBackupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ValidateForBackup `json:"items"`
}

// ValidateForRestore checks that a restore could be made, and warns of what it would skip. It changes nothing.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ValidateForRestore struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a request cannot be changed; make a new one"
	Spec   RestoreSpec `json:"spec"`
	Status Status      `json:"status,omitempty"`
}

// ValidateForRestoreList is a list of ValidateForRestores.
//
// +kubebuilder:object:root=true
type ValidateForRestoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ValidateForRestore `json:"items"`
}

// The Secrets and ConfigMap in the extension's namespace that the connector keeps and the extension reads.
const (
	// SecretStorage holds the storage credentials: key "sas" (a container SAS query without "?"), and key "ca.crt"
	// (PEM, the storage endpoint's certificate authority; absent for a public one). The connector renews it.
	SecretStorage = "cairn-storage"
	// ConfigMapStorage holds key "containerURL".
	ConfigMapStorage = "cairn-storage"
)
