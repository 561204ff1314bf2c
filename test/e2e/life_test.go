package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/api/v1alpha1"
)

// TestBackupsRunByThemselves gives a policy a slot that comes soon: at it there is a backup that nobody asked for, its recovery point has its rule's tag
// and says when it goes, and the schedule says what happened and what comes next.
func TestBackupsRunByThemselves(t *testing.T) {
	protect(t)
	prepareWorkload(t, "nightly")
	t.Cleanup(func() { destroyWorkload(t, "nightly") })
	slot := time.Now().UTC().Add(40 * time.Second).Truncate(time.Second)
	makeInstanceAt(t, "nightly", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["nightly"]}`, slot)

	var s struct {
		Properties struct {
			NextSlots []time.Time
			Runs      []struct {
				Slot           time.Time
				Outcome, JobID string
			}
		}
	}
	eventually(t, 2*time.Minute, "the scheduled backup", func() error {
		shJSON(t, &s, "cairn schedule show"+where+"-n nightly -o json")
		if len(s.Properties.Runs) == 0 {
			return fmt.Errorf("no run at %s yet", slot)
		}
		return nil
	})
	if len(s.Properties.Runs) != 1 || !s.Properties.Runs[0].Slot.Equal(slot) || s.Properties.Runs[0].Outcome != "Started" {
		t.Fatalf("the runs are %+v, not one at %s", s.Properties.Runs, slot)
	}
	if len(s.Properties.NextSlots) == 0 || !s.Properties.NextSlots[0].Equal(slot.Add(24*time.Hour)) {
		t.Errorf("what comes is %+v, not %s first", s.Properties.NextSlots, slot.Add(24*time.Hour))
	}
	j := finish(t, s.Properties.Runs[0].JobID)
	if j.Properties.Status != "Completed" || j.Properties.IsUserTriggered {
		t.Errorf("the job ended as %s, triggered by a user: %v", j.Properties.Status, j.Properties.IsUserTriggered)
	}
	var points []struct {
		Properties struct {
			RetentionTagName              string
			RecoveryPointTime, ExpiryTime time.Time
		}
	}
	shJSON(t, &points, "az dataprotection recovery-point list"+where+"--backup-instance-name nightly")
	if len(points) != 1 {
		t.Fatalf("there are %d recovery points, not 1", len(points))
	}
	p := points[0].Properties
	if !strings.EqualFold(p.RetentionTagName, "Default") || !p.ExpiryTime.Equal(p.RecoveryPointTime.Add(7*24*time.Hour)) {
		t.Errorf("the recovery point of %s is tagged %s and goes at %s", p.RecoveryPointTime, p.RetentionTagName, p.ExpiryTime)
	}
	destroyWorkload(t, "nightly")
	if j := restore(t, "nightly", j.Properties.ExtendedInfo.TargetRecoverPoint.RecoveryPointID, "nightly"); j.Properties.Status != "Completed" {
		t.Errorf("the restore ended as %s: %+v", j.Properties.Status, j.Properties)
	}
	checkWorkload(t, "nightly")
	sh(t, "az dataprotection backup-instance delete"+where+"-n nightly --yes")
}

// TestWhatIsOutOfReachIsDeletedLater deletes an instance while its cluster is away: its blobs go at once, its snapshots are in a list until the cluster is
// back, and go then.
func TestWhatIsOutOfReachIsDeletedLater(t *testing.T) {
	protect(t)
	prepareWorkload(t, "away")
	t.Cleanup(func() { destroyWorkload(t, "away") })
	snapshotsBefore, blobsBefore := snapshots(t), blobNames(t)
	makeInstanceOnce(t, "away", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["away"]}`)
	if j, _ := backup(t, "away"); j.Properties.Status != "Completed" {
		t.Fatalf("the backup ended as %s: %+v", j.Properties.Status, j.Properties)
	}
	sh(t, "kubectl -n dataprotection-microsoft scale deployment cairn-connector --replicas=0")
	back := func() { sh(t, "kubectl -n dataprotection-microsoft scale deployment cairn-connector --replicas=1") }
	t.Cleanup(back)
	eventually(t, 5*time.Minute, "the cluster to be away", func() error {
		if sh(t, "az aks show -g "+group+" -n "+armName+" --query powerState.code -o tsv") != "Stopped" {
			return fmt.Errorf("it is running")
		}
		return nil
	})
	sh(t, "az dataprotection backup-instance delete"+where+"-n away --yes")
	pending := func() string {
		t.Helper()
		return sh(t, "cairn pending-deletions list"+where+"-o json")
	}
	eventually(t, time.Minute, "the blobs to go", func() error {
		if d := cmp.Diff(blobsBefore, blobNames(t)); d != "" {
			return fmt.Errorf("the blobs (-before +after):\n%s", d)
		}
		return nil
	})
	if list := pending(); !strings.Contains(list, "away") {
		t.Errorf("what is still to be deleted does not name the instance: %s", list)
	}
	if len(snapshots(t)) != len(snapshotsBefore)+1 {
		t.Errorf("the snapshot is gone, though nobody could delete it")
	}
	back()
	eventually(t, 3*time.Minute, "the snapshots to go", func() error {
		if d := cmp.Diff(snapshotsBefore, snapshots(t)); d != "" {
			return fmt.Errorf("the snapshots (-before +after):\n%s", d)
		}
		if list := pending(); strings.Contains(list, "away") {
			return fmt.Errorf("still to be deleted: %s", list)
		}
		return nil
	})
	checkNothingLeft(t)
}

// TestCancelledBackupLeavesNothing cancels a backup that has taken its snapshots and uploads.
func TestCancelledBackupLeavesNothing(t *testing.T) {
	protect(t)
	prepareWorkload(t, "cancelled")
	t.Cleanup(func() { destroyWorkload(t, "cancelled") })
	makeInstanceOnce(t, "cancelled", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["cancelled"]}`)
	snapshotsBefore, blobsBefore := snapshots(t), blobNames(t)
	id := killAt(t, &v1alpha1.BackupList{}, v1alpha1.StepUpload, holdBlobs(writesOther), func() {
		sh(t, "az dataprotection backup-instance adhoc-backup"+where+"-n cancelled --rule-name BackupDaily --no-wait")
	}, func(t *testing.T) {
		jobs := sh(t, "az dataprotection job list"+where+`--query "[?properties.status=='InProgress'].name" -o tsv`)
		sh(t, "cairn dataprotection job cancel"+where+"--job-id "+jobs)
	})
	j := finish(t, id)
	if j.Properties.Status != "Cancelled" || j.Properties.ExtendedInfo.TargetRecoverPoint != nil {
		t.Errorf("the job ended as %s: %+v", j.Properties.Status, j.Properties)
	}
	checkNothingLeft(t)
	if d := cmp.Diff(snapshotsBefore, snapshots(t)); d != "" {
		t.Errorf("the snapshots (-before +after):\n%s", d)
	}
	if d := cmp.Diff(blobsBefore, blobNames(t)); d != "" {
		t.Errorf("the blobs (-before +after):\n%s", d)
	}
	if j, _ := backup(t, "cancelled"); j.Properties.Status != "Completed" {
		t.Errorf("the next backup ended as %s: %+v", j.Properties.Status, j.Properties)
	}
}

// TestCancelledRestoreCanBeRepeated cancels a restore that has just begun; what it had not made, the next one makes.
func TestCancelledRestoreCanBeRepeated(t *testing.T) {
	protect(t)
	prepareWorkload(t, "halfway")
	t.Cleanup(func() { destroyWorkload(t, "halfway") })
	makeInstanceOnce(t, "halfway", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["halfway"]}`)
	_, recoveryPoint := backup(t, "halfway")
	destroyWorkload(t, "halfway")
	id := killAt(t, &v1alpha1.RestoreList{}, v1alpha1.StepPlan, holdBlobs(readsCommit), func() {
		sh(t, restoreLine(t, "halfway", recoveryPoint, "halfway")+" --no-wait")
	}, func(t *testing.T) {
		jobs := sh(t, "az dataprotection job list"+where+`--query "[?properties.status=='InProgress'].name" -o tsv`)
		sh(t, "cairn dataprotection job cancel"+where+"--job-id "+jobs)
	})
	if j := finish(t, id); j.Properties.Status != "Cancelled" {
		t.Errorf("the job ended as %s: %+v", j.Properties.Status, j.Properties)
	}
	if j := restore(t, "halfway", recoveryPoint, "halfway"); j.Properties.Status != "Completed" {
		t.Errorf("the next restore ended as %s: %+v", j.Properties.Status, j.Properties)
	}
	checkWorkload(t, "halfway")
	checkNothingLeft(t)
}

// TestADeletedInstanceComesBack deletes an instance of a vault with soft delete, by mistake: undeleted, its recovery point restores.
func TestADeletedInstanceComesBack(t *testing.T) {
	protect(t)
	prepareWorkload(t, "mistake")
	t.Cleanup(func() { destroyWorkload(t, "mistake") })
	makeInstanceOnce(t, "mistake", `{"snapshotVolumes":true,"includeClusterScopeResources":false,"includedNamespaces":["mistake"]}`)
	_, recoveryPoint := backup(t, "mistake")
	sh(t, "az dataprotection backup-vault update"+where+"--soft-delete-state On --retention-duration-in-days 14")
	t.Cleanup(func() { sh(t, "az dataprotection backup-vault update"+where+"--soft-delete-state Off") })
	sh(t, "az dataprotection backup-instance delete"+where+"-n mistake --yes")
	if out, err := bash(t.Context(), "az dataprotection backup-instance show"+where+"-n mistake"); err == nil {
		t.Errorf("the deleted instance is still there: %s", out)
	}
	if got := sh(t, "az dataprotection backup-instance deleted-backup-instance list"+where+`--query "[].name" -o tsv`); got != "mistake" {
		t.Errorf("the deleted instances are %q", got)
	}
	sh(t, "az dataprotection backup-instance deleted-backup-instance undelete"+where+"-n mistake")
	destroyWorkload(t, "mistake")
	if j := restore(t, "mistake", recoveryPoint, "mistake"); j.Properties.Status != "Completed" {
		t.Errorf("the restore ended as %s: %+v", j.Properties.Status, j.Properties)
	}
	checkWorkload(t, "mistake")
}
