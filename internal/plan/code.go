package plan

// The reasons why an object is not created. They are stable: scripts and the report's readers compare them.
const (
	// RecreatedByOwner marks objects that a controller makes from an object that is restored: pods of a ReplicaSet, jobs of a CronJob.
	RecreatedByOwner = "RecreatedByOwner"
	// RecreatedByCluster marks objects that every cluster makes by itself: Leases, Events, Nodes, built-in roles.
	RecreatedByCluster = "RecreatedByCluster"
	// VolumeProvisionedAnew marks PersistentVolumes that the provisioner makes anew for the restored claim.
	VolumeProvisionedAnew = "VolumeProvisionedAnew"
	// PointInTimeObject marks volume snapshots: made anew they would show today's data under the old name.
	PointInTimeObject = "PointInTimeObject"
	// RequestOfExtension marks the extension's own requests and their definitions.
	RequestOfExtension = "RequestOfExtension"
	// BeingDeleted marks objects that were being deleted when the backup was taken, and objects of such namespaces.
	BeingDeleted = "BeingDeleted"
	// AlreadyCompleted marks jobs and bare pods that had ended: created anew they would run again.
	AlreadyCompleted = "AlreadyCompleted"
	// AlreadyExists marks objects that the target has, with the same contents.
	AlreadyExists = "AlreadyExists"
	// AlreadyExistsAndDiffers marks objects that the target has, with other contents; they are left as they are.
	AlreadyExistsAndDiffers = "AlreadyExistsAndDiffers"
	// NotSelected marks objects that the request's filter leaves out.
	NotSelected = "NotSelected"
)

// The reasons why an object is blocked: it should be created and cannot be. It counts as failed.
const (
	// KindNotServed is Azure's code for a kind that the target does not know in the version of the recovery point.
	KindNotServed = "UserErrorSourceandTargetClusterCRDVersionMismatch"
	// KindNotCreatable marks kinds that the target serves but does not let anyone create.
	KindNotCreatable = "KindNotCreatable"
	// VolumeDriverMismatch marks claims whose storage class belongs to another driver than their snapshot.
	VolumeDriverMismatch = "VolumeDriverMismatch"
	// MalformedObject marks what is not a Kubernetes object; a bundle of ours has none.
	MalformedObject = "MalformedObject"
)

// What a created object lacks or differs in. These are warnings, but for OwnerReferenceDropped, which is told in the report only.
const (
	// VolumeDataNotInRecoveryPoint marks claims created empty since the backup did not take their data.
	VolumeDataNotInRecoveryPoint = "VolumeDataNotInRecoveryPoint"
	// VolumeDataNotRestored marks claims that exist in the target: the data that they hold was not replaced.
	VolumeDataNotRestored = "VolumeDataNotRestored"
	// VolumeReattached marks claims bound to their original, statically made volume: its data was not replaced.
	VolumeReattached = "VolumeReattached"
	// StorageClassMissing is Azure's code for a claim whose storage class is not there; it stays Pending.
	StorageClassMissing = "UserErrorStorageClassMissingForPVC"
	// NodePortReassigned marks services whose explicit node port is taken in the target by another service.
	NodePortReassigned = "NodePortReassigned"
	// NamespaceNotFound is Azure's code for a namespace that the request names and the recovery point does not have.
	NamespaceNotFound = "UserErrorNamespaceNotFound"
	// OwnerReferenceDropped marks objects whose owner is not in the target.
	OwnerReferenceDropped = "OwnerReferenceDropped"
)
