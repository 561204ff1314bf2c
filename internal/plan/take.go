package plan

// The reasons why a backup does not take the data of a volume. Those with UserError in them are Azure's.
const (
	// ClaimNotBound marks claims without a volume: there is no data to take.
	ClaimNotBound = "UserErrorPVCNotBoundToVolume"
	// VolumeNotFound marks claims whose volume does not exist.
	VolumeNotFound = "UserErrorPVNotFound"
	// VolumeTypeNotSupported marks volumes that no snapshot can be taken of.
	VolumeTypeNotSupported = "VolumeTypeNotSupported"
	// SnapshotClassNotFound marks volumes whose driver has no VolumeSnapshotClass.
	SnapshotClassNotFound = "VolumeSnapshotClassNotFound"
	// SnapshotNotRequested marks volumes of which the backup takes no snapshots by the user's wish.
	SnapshotNotRequested = "VolumeSnapshotNotRequested"
)

// Claim is what decides whether a snapshot can be taken of a claim's volume.
type Claim struct {
	// Volume is the name of the claim's volume; empty when it has none.
	Volume string
	// Bound says whether the claim is bound to it, Found whether it exists.
	Bound, Found bool
	// Driver is the volume's CSI driver; empty when it is of another type.
	Driver string
	// HasClass says whether there is a VolumeSnapshotClass for the driver.
	HasClass bool
}

// Untaken says why no snapshot can be taken, and what to do about it; the code is empty when one can.
func (c Claim) Untaken() (code, message, action string) {
	switch {
	case c.Volume == "" || !c.Bound:
		return ClaimNotBound, "the claim is not bound to a volume, so there is no data to take", "Bind the claim, or delete it if it is not needed."
	case !c.Found:
		return VolumeNotFound, "the claim is bound to the volume " + c.Volume + ", which does not exist", "Restore the volume or delete the claim."
	case c.Driver == "":
		return VolumeTypeNotSupported, "the volume " + c.Volume + " is not of a CSI driver; only the claim itself is taken",
			"Move the data to a volume of a CSI driver that can take snapshots."
	case !c.HasClass:
		return SnapshotClassNotFound, "no VolumeSnapshotClass is for the driver " + c.Driver + "; only the claim itself is taken",
			"Create a VolumeSnapshotClass for the driver."
	}
	return "", "", ""
}

// PodVolume says what becomes of the data of a pod's volume.
type PodVolume int

// What becomes of it. A type of volume that is not known holds data that is lost to the backup.
const (
	PodVolumeLost      PodVolume = iota // it holds data that no backup takes
	PodVolumeTaken                      // it holds no data of its own, or is taken as a claim
	PodVolumeEphemeral                  // it ends with the pod by design
)

var podVolumes = map[string]PodVolume{
	"persistentVolumeClaim": PodVolumeTaken, "ephemeral": PodVolumeTaken, "configMap": PodVolumeTaken, "secret": PodVolumeTaken,
	"downwardAPI": PodVolumeTaken, "projected": PodVolumeTaken, "image": PodVolumeTaken,
	"emptyDir": PodVolumeEphemeral, "gitRepo": PodVolumeEphemeral, "csi": PodVolumeEphemeral,
}

// PodVolumeOf answers for a type of volume, as pods name it: emptyDir, hostPath.
func PodVolumeOf(source string) PodVolume { return podVolumes[source] }
