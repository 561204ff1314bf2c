package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
)

// Why recovery points are in the ledger.
const (
	whyExpired         = "Expired"
	whyInstanceDeleted = "InstanceDeleted"
	whyPurged          = "Purged"
)

const (
	// deletionBatch is how many entries of the ledger are tried in one transaction.
	deletionBatch = 100
	// askedAtOnce is how many deletions a cluster is asked for at once: it does eight at a time, and those that wait must not seem to stand still.
	askedAtOnce = 20
	// queuePause is when an entry is looked at again whose cluster has been asked for that many.
	queuePause = time.Minute
	// longestPause is between two attempts at an entry, after pauses that double from firstPause.
	firstPause   = time.Minute
	longestPause = 6 * time.Hour
)

// reach says whether a cluster exists, and whether it is connected.
func (s *Service) reach(tx *store.Tx, cluster arm.ID) (exists, connected bool, err error) {
	if exists, err = tx.Exists(cluster); err != nil || !exists {
		return exists, false, err
	}
	l, err := tx.Link(cluster)
	return true, s.connected(l), err
}

// deleter says whether a cluster can delete recovery points now, and if not, why.
func (s *Service) deleter(tx *store.Tx, cluster arm.ID) (able bool, why *arm.Error, err error) {
	exists, connected, err := s.reach(tx, cluster)
	if err != nil {
		return false, nil, err
	}
	if !exists {
		return false, userError("UserErrorGenericResourceNotFound", cluster, "The cluster '%s' does not exist.", cluster.Name()).
			WithAction("Delete the storage snapshots in storage, or connect the cluster again under the same name."), nil
	}
	state, _, err := s.ExtensionState(tx, cluster)
	if err != nil {
		return false, nil, err
	}
	switch {
	case !connected:
		why = userError(codeClusterStopped, cluster, "The cluster '%s' is not connected.", cluster.Name()).WithAction("Start the cluster: what is left is deleted then.")
	case state == nil || state.State != link.ExtensionReady:
		why = userError(codeExtensionUnhealthy, cluster, "The backup extension in the cluster '%s' is not ready.", cluster.Name()).
			WithAction("Install the extension, or see what is wrong with it: az k8s-extension show.")
	}
	return why == nil, why, nil
}

// Delete tries what is due in the ledger, and says when the next entry is due: zero for never.
func (s *Service) Delete(ctx context.Context) (next time.Time, err error) {
	for {
		if err := s.DB.View(ctx, func(tx *store.Tx) error {
			next, err = tx.NextDeletion()
			return err
		}); err != nil || next.IsZero() || next.After(s.Now()) {
			return next, err
		}
		var ours []store.Deletion
		if err := s.DB.Update(ctx, func(tx *store.Tx) error {
			ours, err = s.askDeletions(tx)
			return err
		}); err != nil {
			return next, err
		}
		for _, d := range ours {
			if err := s.removeBlobs(ctx, d); err != nil {
				return next, err
			}
		}
	}
}

// askDeletions asks clusters for what is due, and returns the entries whose blobs the service is to remove itself.
func (s *Service) askDeletions(tx *store.Tx) (ours []store.Deletion, err error) {
	due, err := tx.DueDeletions(deletionBatch)
	if err != nil {
		return nil, err
	}
	type cluster struct {
		able  bool
		why   *arm.Error
		asked int
	}
	clusters := map[string]*cluster{}
	for _, d := range due {
		c := clusters[d.Cluster]
		if c == nil {
			c = &cluster{}
			if c.able, c.why, err = s.deleter(tx, arm.ID(d.Cluster)); err != nil {
				return nil, err
			}
			if c.asked, err = tx.DeletionsAsked(d.Cluster); err != nil {
				return nil, err
			}
			clusters[d.Cluster] = c
		}
		switch {
		case c.able && c.asked < askedAtOnce:
			c.asked++
			d.Due = time.Time{}
			if d.Request, err = askDelete(tx, "", store.RecoveryPoint{Name: d.Point, Vault: d.Vault, Instance: d.Instance, Cluster: d.Cluster,
				Container: d.Container, Prefix: d.Prefix, Snapshots: d.Snapshots}); err != nil {
				return nil, err
			}
		case c.able:
			d.Due = tx.Now().Add(queuePause)
		default:
			// The pause bounds what a crash, or a failure to remove the blobs, delays.
			d.Due, d.Error = tx.Now().Add(pause(d.Attempts+1)), c.why
			if d.Blobs {
				ours = append(ours, d)
			} else {
				d.Due = tx.Now().Add(longestPause) // the cluster's next call comes before
			}
		}
		if err := tx.PutDeletion(d); err != nil {
			return nil, err
		}
	}
	return ours, nil
}

func pause(attempts int) time.Duration {
	p := firstPause
	for ; attempts > 1 && p < longestPause; attempts-- {
		p *= 2
	}
	return min(p, longestPause)
}

// removeBlobs removes a recovery point's blobs from the service's own blob endpoint, the commit object first, so that what a crash leaves is no
// recovery point; then the entry is over, or waits for its cluster to delete the snapshots.
func (s *Service) removeBlobs(ctx context.Context, d store.Deletion) error {
	account, container, err := ownContainer(d.Container)
	if err == nil {
		err = s.Blobs.DeleteBlobs(account, container, bundle.Folder(d.Prefix, d.Point), bundle.CommitName(d.Prefix, d.Point))
	}
	if err != nil {
		s.Log.ErrorContext(ctx, "removing a recovery point's blobs failed", "point", d.Point, "container", d.Container, "error", err)
	}
	failed := err
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		fresh, err := tx.Deletion(d.Point)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if failed != nil {
			if fresh.Attempts++; fresh.Request == "" {
				fresh.Due = tx.Now().Add(pause(fresh.Attempts))
			}
			fresh.Error = &arm.Error{Status: 500, Code: "InternalServerError", Target: d.Container, Message: fmt.Sprintf("The blobs of the recovery point could not be removed: %s.", failed),
				RecommendedAction: []string{"Look at the service's log; it is tried again."}}
			return tx.PutDeletion(fresh)
		}
		snapshots, err := snapshotsOf(fresh)
		if err != nil {
			return err
		}
		if len(snapshots) == 0 {
			s.Log.Info("recovery point deleted", "point", d.Point, "cluster", d.Cluster)
			return tx.Deleted(d.Point)
		}
		s.Log.Warn("storage snapshots are left until their cluster calls", "point", d.Point, "cluster", d.Cluster, "snapshots", len(snapshots))
		fresh.Blobs = false
		if fresh.Request == "" && fresh.Due.After(tx.Now()) {
			fresh.Due = tx.Now().Add(longestPause)
		}
		return tx.PutDeletion(fresh)
	})
}

// ownContainer reads a container's URL, whose host may have changed since.
func ownContainer(text string) (account, container string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", "", fmt.Errorf("container %q: %w", text, err)
	}
	account, container, ok := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if !ok || strings.Contains(container, "/") {
		return "", "", fmt.Errorf("container %q: its path is not /account/container", text)
	}
	return account, container, nil
}

func snapshotsOf(d store.Deletion) ([]v1alpha1.VolumeSnapshotRecord, error) {
	var snapshots []v1alpha1.VolumeSnapshotRecord
	if err := json.Unmarshal(d.Snapshots, &snapshots); err != nil {
		return nil, fmt.Errorf("snapshots of recovery point %s: %w", d.Point, err)
	}
	return snapshots, nil
}

// deletionTried takes down how a DeleteBackup of the ledger ended: what was deleted has left the ledger already.
func (s *Service) deletionTried(tx *store.Tx, r store.Request) error {
	cause, err := deletionFailure(r)
	if err != nil || cause == nil {
		return err
	}
	d, err := tx.Deletion(r.Point)
	if errors.Is(err, store.ErrNotFound) || err == nil && d.Request != r.Name {
		return nil
	} else if err != nil {
		return err
	}
	s.Log.Warn("deleting a recovery point failed", "cluster", r.Cluster, "point", r.Point, "request", r.Name, "attempts", d.Attempts+1, "error", cause)
	d.Request, d.Attempts, d.Error = "", d.Attempts+1, cause
	d.Due = tx.Now().Add(pause(d.Attempts))
	return tx.PutDeletion(d)
}

// PendingDeletion is an entry of the ledger as it is told: a resource of ours below the vault.
type PendingDeletion struct {
	ID         arm.ID                    `json:"id"`
	Name       string                    `json:"name"`
	Type       string                    `json:"type"`
	Properties PendingDeletionProperties `json:"properties"`
}

// PendingDeletionProperties say what is left of a recovery point, and when it will be tried to remove it.
type PendingDeletionProperties struct {
	RecoveryPointID   string    `json:"recoveryPointId"`
	RecoveryPointTime time.Time `json:"recoveryPointTime"`
	BackupInstanceID  arm.ID    `json:"backupInstanceId"`
	DataSourceID      arm.ID    `json:"dataSourceId"`
	// Reason is Expired, InstanceDeleted or Purged.
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	// Blobs is the folder that may hold blobs, empty when they are gone.
	Blobs string `json:"blobs,omitempty"`
	// Snapshots are the storage snapshots that may be left, by driver and handle.
	Snapshots []PendingSnapshot `json:"snapshots"`
	// InProgress says that the cluster has been asked.
	InProgress bool          `json:"inProgress"`
	Attempts   int           `json:"attempts"`
	LastError  *PendingError `json:"lastError"`
	// NextTry is nil while the cluster has been asked.
	NextTry *time.Time `json:"nextTry"`
}

// PendingSnapshot is a storage snapshot that may be left.
type PendingSnapshot struct {
	Driver string `json:"driver"`
	Handle string `json:"handle"`
}

// PendingError is why something is left.
type PendingError struct {
	Code              string   `json:"code"`
	Message           string   `json:"message"`
	RecommendedAction []string `json:"recommendedAction"`
}

// PendingDeletions are a vault's entries of the ledger, oldest first.
func (s *Service) PendingDeletions(ctx context.Context, vaultID arm.ID) ([]PendingDeletion, error) {
	var out []PendingDeletion
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		vault, _, err := Load[backup.VaultResource](tx, vaultID)
		if err != nil {
			return err
		}
		entries, err := tx.Deletions(vault.ID)
		for _, d := range entries {
			p := PendingDeletionProperties{RecoveryPointID: d.Point, RecoveryPointTime: d.Made, BackupInstanceID: arm.ID(d.Instance), DataSourceID: arm.ID(d.Cluster),
				Reason: d.Why, Since: d.Since, Snapshots: []PendingSnapshot{}, InProgress: d.Request != "", Attempts: d.Attempts}
			if d.Blobs {
				p.Blobs = d.Container + "/" + bundle.Folder(d.Prefix, d.Point)
			}
			snapshots, err := snapshotsOf(d)
			if err != nil {
				return err
			}
			for _, snapshot := range snapshots {
				p.Snapshots = append(p.Snapshots, PendingSnapshot{Driver: snapshot.Driver, Handle: snapshot.Handle})
			}
			if d.Error != nil {
				p.LastError = &PendingError{Code: d.Error.Code, Message: d.Error.Message, RecommendedAction: d.Error.RecommendedAction}
			}
			if !d.Due.IsZero() {
				p.NextTry = &d.Due
			}
			out = append(out, PendingDeletion{ID: vault.ID.Child("pendingDeletions", d.Point), Name: d.Point, Type: backup.VaultType + "/pendingDeletions", Properties: p})
		}
		return err
	})
	return out, err
}
