// Package bundle writes and reads a recovery point's files in a blob container: the objects of a cluster, the list of its
// volumes, the report, and the commit object that makes a recovery point of them. docs/bundle-format.md describes the
// format for those who write another reader.
//
// Everything streams: neither writing nor reading holds more of a file than one line and the window of the compression.
// The package does not know Kubernetes: it neither decides what goes into a bundle (inventory does) nor what is done with
// it (plan and apply do), and it does not know which kind of storage lies below.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
)

// FormatVersion is the version of the format that this package writes, and the only one that it reads.
const FormatVersion = 1

// MaxLine is the greatest length of a line in bytes, its newline left out. It is far above what an API server accepts for
// one object (3 MiB by default) and bounds the memory of every reader.
const MaxLine = 32 << 20

// commitName is the commit object's name inside the recovery point's folder.
const commitName = "recoverypoint.json"

// suffix ends the name of every file but the commit object: JSON lines, compressed by zstd, encrypted by age.
const suffix = ".jsonl.zst.age"

// ErrNoCommit says that the folder holds no commit object, so that there is no recovery point.
var ErrNoCommit = errors.New("no commit object")

// RecoveryPoint is the commit object: it says what the recovery point is and which files belong to it. It is stored in
// clear text, so it holds nothing of the objects but their kinds and counts.
type RecoveryPoint struct {
	// FormatVersion is 1. A reader must refuse one that it does not know.
	FormatVersion int `json:"formatVersion"`
	// ID is 32 lower-case hexadecimal digits and the name of the folder.
	ID string `json:"recoveryPointID"`
	// Attempt numbers the run that made it, from 1; its files lie in the folder "a<attempt>".
	Attempt int32 `json:"attempt"`
	// Started, Cut and Committed are when the backup began, the instant whose state the objects show, and when the commit
	// object was written.
	Started   time.Time `json:"started"`
	Cut       time.Time `json:"cut"`
	Committed time.Time `json:"committed"`
	// ResourceVersion is the API server's revision at which all kinds were listed, but those marked live.
	ResourceVersion string `json:"resourceVersion"`
	// Cluster says where the objects come from.
	Cluster Cluster `json:"cluster"`
	// Generator names the program that wrote the bundle, and its version.
	Generator string `json:"generator"`
	// Recipient is the age X25519 public key ("age1…") that all files are encrypted to.
	Recipient string `json:"recipient"`
	// Origin is what the service knows of the recovery point; readers of bundles need not understand it.
	Origin map[string]string `json:"origin,omitempty"`
	// Scope is what was asked for.
	Scope Scope `json:"scope"`
	// Kinds lists the kinds that have objects in the bundle, ordered by file.
	Kinds []Kind `json:"kinds"`
	// Volumes and Report name the files of these; they are always there, even if empty.
	Volumes string `json:"volumes"`
	Report  string `json:"report"`
	// Files lists all files but the commit object, ordered by name.
	Files []File `json:"files"`
	// Totals sums up.
	Totals Totals `json:"totals"`
	// WarningCount is the number of outcomes in the report that are warnings.
	WarningCount int64 `json:"warningCount"`
}

// Cluster says where the objects of a bundle come from.
type Cluster struct {
	// UID is the UID of the namespace kube-system, which is a cluster's customary identity.
	UID string `json:"uid"`
	// GitVersion and Platform are the API server's, such as "v1.36.3" and "linux/amd64".
	GitVersion string `json:"gitVersion"`
	Platform   string `json:"platform"`
}

// Scope is what a backup was asked to take.
type Scope struct {
	IncludedNamespaces           []string `json:"includedNamespaces,omitempty"`
	ExcludedNamespaces           []string `json:"excludedNamespaces,omitempty"`
	IncludeClusterScopeResources bool     `json:"includeClusterScopeResources"`
	SnapshotVolumes              bool     `json:"snapshotVolumes"`
}

// Kind is one kind of object in the bundle.
type Kind struct {
	// APIVersion is "v1" or "group/version".
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Plural is the resource's name in addresses, such as "deployments".
	Plural     string `json:"plural"`
	Namespaced bool   `json:"namespaced"`
	// Live marks a kind whose server cannot list at a given revision: its objects are from shortly after the cut.
	Live bool `json:"live,omitempty"`
	// Objects counts the objects, which is the number of lines in File.
	Objects int64 `json:"objects"`
	// File is the name of the file inside the recovery point's folder.
	File string `json:"file"`
}

// Group returns the kind's API group, which is empty for the core group.
func (k Kind) Group() string {
	group, _, found := strings.Cut(k.APIVersion, "/")
	if !found {
		return ""
	}
	return group
}

// Version returns the kind's API version without the group.
func (k Kind) Version() string {
	return k.APIVersion[strings.LastIndex(k.APIVersion, "/")+1:]
}

// File is one stored file.
type File struct {
	// Name is the file's name inside the recovery point's folder, such as "a1/report.jsonl.zst.age".
	Name string `json:"name"`
	// Size is the number of stored bytes, and SHA256 their hash in lower-case hexadecimal digits.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Lines is the number of lines, and PlainSize the number of bytes before compression, newlines included.
	Lines     int64 `json:"lines"`
	PlainSize int64 `json:"plainSize"`
}

// Totals sums up a bundle.
type Totals struct {
	// Objects is the sum over the kinds, Volumes the number of volumes with a snapshot.
	Objects int64 `json:"objects"`
	Volumes int64 `json:"volumes"`
	// Bytes is the number of stored bytes without the commit object, PlainBytes that before compression.
	Bytes      int64 `json:"bytes"`
	PlainBytes int64 `json:"plainBytes"`
}

// Volume is one line of the volumes file: a persistent volume whose data lies in a storage snapshot.
type Volume struct {
	// Namespace and Claim name the PersistentVolumeClaim, Volume the PersistentVolume.
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	Volume    string `json:"volume"`
	// Driver is the CSI driver's name, VolumeHandle the source volume's ID with it, SnapshotHandle the snapshot's.
	Driver         string `json:"driver"`
	VolumeHandle   string `json:"volumeHandle"`
	SnapshotHandle string `json:"snapshotHandle"`
	// SnapshotClass is the VolumeSnapshotClass that the snapshot was made with.
	SnapshotClass string `json:"snapshotClass"`
	// RestoreSizeBytes is the least size of a volume made from the snapshot; 0 means that the driver did not say.
	RestoreSizeBytes int64 `json:"restoreSizeBytes,omitempty"`
	// RequestedBytes is what the claim asks for.
	RequestedBytes int64 `json:"requestedBytes"`
	// StorageClass is empty for a claim without one.
	StorageClass string `json:"storageClass,omitempty"`
	// VolumeMode is "Filesystem" or "Block". FSType is empty for Block and where the volume does not say.
	VolumeMode string `json:"volumeMode"`
	FSType     string `json:"fsType,omitempty"`
	// AccessModes are Kubernetes' names, such as "ReadWriteOnce".
	AccessModes []string `json:"accessModes"`
	// CreationTime is when storage took the snapshot, as the driver says; zero if it did not say. ReadyTime is when the
	// snapshot was seen to be ready for use.
	CreationTime time.Time `json:"creationTime,omitzero"`
	ReadyTime    time.Time `json:"readyTime"`
}

// Result says what became of the thing that an Outcome is about.
type Result string

// The results.
const (
	// Saved is the one outcome per kind that counts its objects.
	Saved Result = "Saved"
	// Skipped: it is not in the bundle, and it is a warning.
	Skipped Result = "Skipped"
	// Degraded: it is in the bundle but not as it should be, and it is a warning.
	Degraded Result = "Degraded"
	// Info: it is not in the bundle by design or by the user's wish; no warning.
	Info Result = "Info"
)

// Warning reports whether an outcome with this result counts as a warning.
func (r Result) Warning() bool { return r == Skipped || r == Degraded }

// Outcome is one line of the report.
type Outcome struct {
	// Resource is "plural.group" for a kind ("pods" in the core group), with "/namespace/name" or "/name" for an object.
	Resource string `json:"resource"`
	Result   Result `json:"outcome"`
	// Code is stable and without spaces; empty for Saved.
	Code string `json:"code,omitempty"`
	// Message says what happened, Action what to do about it.
	Message string `json:"message,omitempty"`
	Action  string `json:"action,omitempty"`
	// Count is the number of objects of a Saved kind.
	Count int64 `json:"count,omitempty"`
}

// Folder returns the folder of a recovery point, ending with a slash. All its blobs begin with it.
func Folder(prefix, id string) string { return prefix + id + "/" }

// AttemptFolder returns the folder of one attempt, ending with a slash. The commit object lies outside of it.
func AttemptFolder(prefix, id string, attempt int32) string {
	return fmt.Sprintf("%sa%d/", Folder(prefix, id), attempt)
}

// CommitName returns the full name of a recovery point's commit object.
func CommitName(prefix, id string) string { return Folder(prefix, id) + commitName }

var (
	idPattern   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hashPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ParseRecoveryPoint reads a commit object and checks that it is consistent in itself: a known format, plausible names,
// and for every kind a file. Fields that it does not know are ignored.
func ParseRecoveryPoint(data []byte) (RecoveryPoint, error) {
	var head struct {
		FormatVersion int `json:"formatVersion"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return RecoveryPoint{}, fmt.Errorf("commit object is not JSON: %w", err)
	}
	if head.FormatVersion != FormatVersion {
		return RecoveryPoint{}, fmt.Errorf("bundle has format version %d, and this program reads version %d only: use the program's version that made it or a later one",
			head.FormatVersion, FormatVersion)
	}
	var rp RecoveryPoint
	if err := json.Unmarshal(data, &rp); err != nil {
		return RecoveryPoint{}, fmt.Errorf("commit object: %w", err)
	}
	if err := rp.check(); err != nil {
		return RecoveryPoint{}, fmt.Errorf("commit object: %w", err)
	}
	return rp, nil
}

// check says what is wrong with a commit object. Names are checked so strictly since they are read from storage, and a
// reader with wide credentials must not be led out of the recovery point's folder.
func (rp RecoveryPoint) check() error {
	if !idPattern.MatchString(rp.ID) {
		return fmt.Errorf("recoveryPointID %q is not 32 lower-case hexadecimal digits", rp.ID)
	}
	folder := fmt.Sprintf("a%d/", rp.Attempt)
	files := make(map[string]File, len(rp.Files))
	for _, f := range rp.Files {
		if path.Clean(f.Name) != f.Name || !strings.HasPrefix(f.Name, folder) || !strings.HasSuffix(f.Name, suffix) {
			return fmt.Errorf("file %q does not lie in %s or has a strange name", f.Name, folder)
		}
		if !hashPattern.MatchString(f.SHA256) || f.Size < 0 || f.Lines < 0 {
			return fmt.Errorf("file %s: size, line count or hash is not one", f.Name)
		}
		if _, twice := files[f.Name]; twice {
			return fmt.Errorf("file %s is listed twice", f.Name)
		}
		files[f.Name] = f
	}
	for _, k := range rp.Kinds {
		f, found := files[k.File]
		if !found {
			return fmt.Errorf("kind %s %s: file %q is not listed", k.APIVersion, k.Kind, k.File)
		}
		if f.Lines != k.Objects {
			return fmt.Errorf("kind %s %s: %d objects, but %d lines in its file", k.APIVersion, k.Kind, k.Objects, f.Lines)
		}
	}
	for _, name := range []string{rp.Volumes, rp.Report} {
		if _, found := files[name]; !found {
			return fmt.Errorf("file %q is not listed", name)
		}
	}
	return nil
}
