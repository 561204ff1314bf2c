package service_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

var done = v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1}

// backups makes a recovery point on each of the given days of March, by the schedule.
func (w *world) backups(days ...int) {
	w.t.Helper()
	for _, day := range days {
		w.clock.set(w.t, fmt.Sprintf("2026-03-%02dT04:00:00Z", day))
		w.call()
		w.work()
		w.made()
	}
}

// TestRecoveryPointsExpire and are deleted by their cluster, but for the newest.
func TestRecoveryPointsExpire(t *testing.T) {
	storetest.Each(t, func(t *testing.T, database string) {
		w := newWorldOn(t, database)
		w.backups(2, 3)
		w.putPolicy(daily, "") // nothing changes for those that exist
		_, _, err := w.MoveProtection(t.Context(), w.by, instanceID, "suspendBackups")
		w.check(err)
		w.tick("2026-04-01T03:59:59Z")
		if n := len(w.points()); n != 2 {
			t.Fatalf("%d recovery points the second before one expires", n)
		}
		w.clock.set(t, "2026-04-01T04:00:00Z")
		w.call()
		w.work()
		points := w.points()
		if len(points) != 1 || len(w.ledger()) != 1 {
			t.Fatalf("%d recovery points, %d entries", len(points), len(w.ledger()))
		}
		entry := w.ledger()[0].Properties
		if entry.Reason != "Expired" || !entry.InProgress || entry.NextTry != nil || len(entry.Snapshots) != 1 || entry.Blobs == "" {
			t.Errorf("the entry: %+v", entry)
		}
		w.restart()
		w.work()
		if n := len(w.wanted("DeleteBackup")); n != 1 {
			t.Errorf("%d requests", n)
		}
		w.answer("DeleteBackup", done)
		if n := len(w.ledger()); n != 0 {
			t.Errorf("%d entries when all is deleted", n)
		}
		w.tick("2026-06-01T00:00:00Z")
		points = w.points()
		if len(points) != 1 || points[0].Properties.Cairn.Retention.Reasons[0].Code != "Newest" || points[0].Properties.Cairn.Retention.State != "Kept" {
			t.Errorf("the newest: %+v", points)
		}
	})
}

// TestTheNewestGoesWhenThereIsANewerOne at once, although it had been looked at in vain.
func TestTheNewestGoesWhenThereIsANewerOne(t *testing.T) {
	w := newWorld(t)
	w.backups(2)
	w.tick("2026-04-01T04:00:00Z")
	if n := len(w.points()); n != 1 {
		t.Fatalf("%d recovery points", n)
	}
	w.clock.set(t, "2026-04-01T04:01:00Z")
	w.call()
	w.work()
	w.made()
	w.work()
	if n := len(w.points()); n != 1 || len(w.ledger()) != 1 {
		t.Errorf("%d recovery points, %d entries", n, len(w.ledger()))
	}
}

// TestStoppedProtectionKeeps all for ever, and resuming it lets go at once what expired meanwhile.
func TestStoppedProtectionKeeps(t *testing.T) {
	w := newWorld(t)
	w.backups(2, 3)
	_, _, err := w.MoveProtection(t.Context(), w.by, instanceID, "stopProtection")
	w.check(err)
	w.tick("2026-07-01T00:00:00Z")
	points := w.points()
	if len(points) != 2 || points[1].Properties.Cairn.Retention.Reasons[0].Code != "ProtectionStopped" {
		t.Fatalf("the recovery points: %+v", points)
	}
	_, _, err = w.MoveProtection(t.Context(), w.by, instanceID, "resumeProtection")
	w.check(err)
	w.work()
	if n := len(w.points()); n != 1 {
		t.Errorf("%d recovery points after resuming", n)
	}
}

// TestARestoreHolds the recovery point that it reads.
func TestARestoreHolds(t *testing.T) {
	w := newWorld(t)
	w.backups(2, 3)
	w.clock.set(t, "2026-04-01T03:50:00Z")
	w.call()
	old := w.points()[1].Name
	_, _, err := w.Restore(t.Context(), w.by, instanceID, &backup.RestoreRequest{ObjectType: "AzureBackupRecoveryPointBasedRestoreRequest", RecoveryPointID: old, SourceDataStoreType: backup.OperationalStore,
		Target: restoreTarget()})
	w.check(err)
	w.clock.set(t, "2026-04-01T05:00:00Z")
	w.call()
	w.work()
	points := w.points()
	if len(points) != 2 || points[1].Properties.Cairn.Retention.Reasons[0].Code != "RestoreRunning" {
		t.Fatalf("while a restore reads it: %+v", points[len(points)-1].Properties.Cairn)
	}
	w.answer("Restore", v1alpha1.RestoreStatus{Status: done})
	w.tick("2026-04-01T06:00:00Z")
	if n := len(w.points()); n != 1 {
		t.Errorf("%d recovery points an hour after the restore", n)
	}
}

func restoreTarget() *backup.RestoreTarget {
	yes := true
	return &backup.RestoreTarget{ObjectType: "ItemLevelRestoreTargetInfo", RecoveryOption: "FailIfExists", Datasource: &backup.Datasource{ResourceID: string(clusterID)},
		Criteria: []backup.RestoreCriteria{{ObjectType: "KubernetesClusterRestoreCriteria", IncludeClusterScopeResources: &yes, PersistentVolumeRestoreMode: "RestoreWithVolumeData", ConflictPolicy: "Skip"}}}
}

// TestADeletionThatFails is shown and tried again, after growing pauses.
func TestADeletionThatFails(t *testing.T) {
	w := newWorld(t)
	w.backups(2, 3)
	w.clock.set(t, "2026-04-01T04:00:00Z")
	w.call()
	w.work() // the slot starts, too
	w.made()
	failed := v1alpha1.Status{Phase: v1alpha1.PhaseFailed, Attempt: 2, Errors: []v1alpha1.Issue{{Code: "SnapshotsLeft", Resource: "/snapshots/1", Message: "the driver is away", Action: "Bring it back."}}}
	var pauses []time.Duration
	for range 11 {
		w.answer("DeleteBackup", failed)
		w.work()
		entry := w.ledger()[0].Properties
		if entry.InProgress || entry.LastError == nil || entry.LastError.Code != "SnapshotsLeft" || entry.NextTry == nil {
			t.Fatalf("the entry: %+v", entry)
		}
		pauses = append(pauses, entry.NextTry.Sub(w.Now()))
		w.clock.set(t, entry.NextTry.Format(time.RFC3339))
		w.check(w.ClusterSeen(t.Context(), clusterID))
		w.call()
		if _, err := w.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for n, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360} {
		if pauses[n] != want*time.Minute {
			t.Errorf("pause %d is %s, want %d minutes", n, pauses[n], want)
		}
	}
	if n := w.ledger()[0].Properties.Attempts; n != 11 {
		t.Errorf("%d attempts", n)
	}
	w.answer("DeleteBackup", done)
	if n := len(w.ledger()); n != 0 {
		t.Errorf("%d entries", n)
	}
}

// TestExpiryWhileTheClusterIsAway removes the blobs, and asks for the snapshots when the cluster is back; everything may be cut off in between.
func TestExpiryWhileTheClusterIsAway(t *testing.T) {
	w := newWorld(t)
	w.backups(2, 3)
	if n := w.blobs(); n != 4 {
		t.Fatalf("%d blobs", n)
	}
	w.clock.set(t, "2026-04-01T10:00:00Z")
	if _, err := w.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.restart() // killed before the ledger was looked at
	folder := filepath.Join(w.folder, "blobs", "accounts", "backupstore", "aks", "blobs")
	w.check(os.Rename(folder, folder+".away"))
	w.check(os.WriteFile(folder, nil, 0o600)) // a folder that cannot be read
	if _, err := w.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := w.ledger()[0].Properties; e.Blobs == "" || e.LastError == nil || e.LastError.Code != "InternalServerError" || e.Attempts != 1 {
		t.Fatalf("with a blob folder that fails: %+v", e)
	}
	w.check(errors.Join(os.Remove(folder), os.Rename(folder+".away", folder)))
	w.restart()
	w.work()
	if n := w.blobs(); n != 2 {
		t.Fatalf("%d blobs are left, want those of the newest recovery point", n)
	}
	entry := w.ledger()[0].Properties
	if entry.Blobs != "" || len(entry.Snapshots) != 1 || entry.LastError == nil || entry.LastError.Code != "UserErrorKubernetesBackupClusterIsStopped" || entry.InProgress {
		t.Fatalf("the entry: %+v", entry)
	}
	w.clock.set(t, "2026-04-01T10:05:00Z")
	w.call()
	w.work()
	if requests := w.wanted("DeleteBackup"); len(requests) != 1 {
		t.Fatalf("%d requests when the cluster is back", len(requests))
	}
	w.answer("DeleteBackup", done)
	if n := len(w.ledger()); n != 0 {
		t.Errorf("%d entries", n)
	}
}

// TestAnInstanceGoesWithoutItsCluster deletes an instance whose cluster is away, or gone: it goes at once, with its blobs; the ledger
// keeps the snapshots, outlives the vault, and is emptied when the cluster is back.
func TestAnInstanceGoesWithoutItsCluster(t *testing.T) {
	for name, gone := range map[string]bool{"away": false, "gone": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.backups(2, 3)
			w.clock.set(t, "2026-03-03T10:00:00Z")
			if gone {
				w.must(w.DeleteCluster(t.Context(), clusterID, anyETag))
			}
			op, found, err := w.DeleteInstance(t.Context(), w.by, instanceID, anyETag)
			if err != nil || !found || op.Status != arm.OperationSucceeded {
				t.Fatal(op, found, err)
			}
			if _, err := w.Instance(t.Context(), instanceID); err == nil {
				t.Error("the instance is still there")
			}
			w.restart()
			w.work()
			if n := w.blobs(); n != 0 {
				t.Errorf("%d blobs are left", n)
			}
			left := w.ledger()
			if len(left) != 2 || left[0].Properties.Reason != "InstanceDeleted" || left[0].Properties.Blobs != "" || left[0].Properties.LastError == nil {
				t.Fatalf("the ledger: %+v", left)
			}
			if !gone {
				_, _, _, err = w.DeleteVault(t.Context(), vaultID, anyETag)
				w.check(err)
				w.clock.set(t, "2026-03-03T11:00:00Z")
				w.call()
			} else {
				w.connect()
			}
			w.work()
			if n := len(w.wanted("DeleteBackup")); n != 2 {
				t.Fatalf("%d requests when the cluster is back", n)
			}
			w.answer("DeleteBackup", done)
			if n := w.entries(); n != 0 {
				t.Errorf("%d entries are left", n)
			}
		})
	}
}

// entries is how many the ledger has that are due at some time, of whatever vault.
func (w *world) entries() (n int) {
	w.t.Helper()
	w.update(func(tx *store.Tx) error {
		found, err := tx.Deletions(vaultID)
		n = len(found)
		return err
	})
	return n
}

// TestAClusterThatDisappears while it deletes for an instance that waits for it, and while it deletes for the ledger.
func TestAClusterThatDisappears(t *testing.T) {
	t.Run("for an instance", func(t *testing.T) {
		w := newWorld(t)
		w.backups(2, 3)
		op, _, err := w.DeleteInstance(t.Context(), w.by, instanceID, anyETag)
		w.check(err)
		if op.Status != arm.OperationInProgress || len(w.wanted("DeleteBackup")) != 2 {
			t.Fatalf("the deletion is %s, with %d requests", op.Status, len(w.wanted("DeleteBackup")))
		}
		w.clock.set(t, "2026-03-03T04:15:00Z")
		w.check(w.GiveUp(t.Context(), time.Time{}))
		op, gone, err := w.Operation(t.Context(), vaultID, op.ID)
		if err != nil || op.Status != arm.OperationSucceeded || !gone {
			t.Fatal(op.Status, gone, err)
		}
		w.work()
		if left := w.ledger(); len(left) != 2 || w.blobs() != 0 {
			t.Errorf("the ledger: %+v; %d blobs", left, w.blobs())
		}
	})
	t.Run("for the ledger", func(t *testing.T) {
		w := newWorld(t)
		w.backups(2, 3)
		w.clock.set(t, "2026-04-01T04:00:00Z")
		w.call()
		w.work()
		if len(w.wanted("DeleteBackup")) != 1 {
			t.Fatal("the cluster was not asked")
		}
		w.must(w.DeleteCluster(t.Context(), clusterID, anyETag))
		w.work()
		entry := w.ledger()[0].Properties
		if entry.InProgress || entry.Blobs != "" || w.blobs() != 2 || entry.LastError.Code != "UserErrorGenericResourceNotFound" {
			t.Errorf("the entry: %+v, %d blobs", entry, w.blobs())
		}
	})
}

// TestAClusterThatIsConnectedDecides: as long as it calls, an instance whose recovery points cannot be deleted stays.
func TestAClusterThatIsConnectedDecides(t *testing.T) {
	w := newWorld(t)
	w.backups(2)
	_, _, err := w.DeleteInstance(t.Context(), w.by, instanceID, anyETag)
	w.check(err)
	w.answer("DeleteBackup", failedStatus.Status)
	i, err := w.Instance(t.Context(), instanceID)
	if err != nil || i.Properties.CurrentProtectionState != backup.ProtectionError || len(w.points()) != 1 || len(w.ledger()) != 0 {
		t.Errorf("the instance is %s, %v, with %d recovery points and %d entries", i.Properties.CurrentProtectionState, err, len(w.points()), len(w.ledger()))
	}
}

// TestALateRecoveryPointOfNobody is deleted: its instance went while the backup was given up.
func TestALateRecoveryPointOfNobody(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	running := w.wanted("Backup")[0]
	w.call(link.RequestState{Kind: "Backup", Name: running.Name, Status: []byte(`{"phase":"InProgress","attempt":1}`)})
	w.clock.set(t, "2026-03-02T05:01:00Z")
	w.check(w.GiveUp(t.Context(), time.Time{}))
	_, _, err := w.DeleteInstance(t.Context(), w.by, instanceID, anyETag)
	w.check(err)
	w.made()
	w.work()
	if n := len(w.wanted("DeleteBackup")); n != 1 {
		t.Fatalf("%d requests to delete", n)
	}
	w.answer("DeleteBackup", done)
	if n := len(w.ledger()); n != 0 {
		t.Errorf("%d entries", n)
	}
}

// TestACutOffDeletion breaks off between the steps of an entry.
func TestACutOffDeletion(t *testing.T) {
	w := newWorld(t)
	w.backups(2, 3)
	w.clock.set(t, "2026-04-01T10:00:00Z")
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Prune(cut); err == nil {
		t.Error("pruning was not cut off")
	}
	w.restart()
	if n := len(w.points()); n != 2 || len(w.ledger()) != 0 {
		t.Fatalf("%d recovery points, %d entries", n, len(w.ledger()))
	}
	w.work()
	// The blobs are gone, and the service is killed before it takes that down.
	entry := w.ledger()[0]
	w.update(func(tx *store.Tx) error {
		d, err := tx.Deletion(entry.Name)
		if err != nil {
			return err
		}
		d.Blobs, d.Due = true, tx.Now()
		return tx.PutDeletion(d)
	})
	w.restart()
	w.work()
	if e := w.ledger()[0].Properties; e.Blobs != "" || w.blobs() != 2 {
		t.Errorf("the entry: %+v, %d blobs", e, w.blobs())
	}
}

// TestOldRecoveryPoints of a database from before there were schedules get an expiry; what belongs to no instance is put into the ledger.
func TestOldRecoveryPoints(t *testing.T) {
	w := newWorld(t)
	w.backups(2)
	var p store.RecoveryPoint
	w.update(func(tx *store.Tx) error {
		i, _, err := store.Load[struct {
			GUID string `json:"guid"`
		}](tx, instanceID)
		if err != nil {
			return err
		}
		if p, err = tx.RecoveryPoint(i.GUID, w.points()[0].Name); err != nil {
			return err
		}
		for _, guid := range []string{p.GUID, "nobody"} {
			p.Name, p.GUID, p.Expires, p.Slot = "old of "+guid, guid, time.Time{}, time.Time{}
			if err := tx.PutRecoveryPoint(p); err != nil {
				return err
			}
		}
		return nil
	})
	for _, found := range w.points() {
		if found.Name != w.points()[0].Name && found.Properties.Cairn.Retention.Reasons[0].Code != "NoLifetime" {
			t.Errorf("before it is dated: %+v", found.Properties.Cairn)
		}
	}
	w.check(w.DateOldPoints(t.Context()))
	for _, found := range w.points() {
		if e := found.Properties.ExpiryTime; e == nil || !e.Equal(at(t, "2026-04-01T04:00:00Z")) {
			t.Errorf("%s expires %v", found.Name, e)
		}
	}
	if left := w.ledger(); len(left) != 1 || left[0].Name != "old of nobody" {
		t.Errorf("the ledger: %+v", left)
	}
}
