package service_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

// TestASlotBecomesABackup follows a slot to its recovery point.
func TestASlotBecomesABackup(t *testing.T) {
	w := newWorld(t)
	if got := w.next(); got != "2026-03-02T04:00:00Z" {
		t.Fatalf("the next slot is %s", got)
	}
	w.tick("2026-03-02T03:59:59Z")
	w.wantRuns()
	w.clock.set(t, "2026-03-02T04:00:01Z")
	w.call()
	w.work()
	w.wantRuns("03-02T04:00 Started")
	if got := w.next(); got != "2026-03-03T04:00:00Z" {
		t.Errorf("the next slot is %s", got)
	}
	s, err := w.Schedule(t.Context(), instanceID)
	w.check(err)
	job, err := w.Job(t.Context(), s.Properties.Runs[0].JobID)
	w.check(err)
	p := job.Properties
	if p.IsUserTriggered || p.Operation != "Backup" || p.ExtendedInfo.AdditionalDetails["RetentionTag"] != "Default" || p.ExtendedInfo.AdditionalDetails["ScheduledTime"] != "2026-03-02T04:00:00Z" {
		t.Errorf("the job: user %t, %s, %v", p.IsUserTriggered, p.Operation, p.ExtendedInfo.AdditionalDetails)
	}
	w.clock.set(t, "2026-03-02T04:05:00Z")
	w.made()
	points := w.points()
	if len(points) != 1 {
		t.Fatalf("%d recovery points", len(points))
	}
	point := points[0].Properties
	if point.ExpiryTime == nil || point.ExpiryTime.Format(time.RFC3339) != "2026-04-01T04:05:00Z" || !point.DataStores[0].ExpiryTime.Equal(*point.ExpiryTime) || point.RetentionTagName != "Default" {
		t.Errorf("the recovery point: %+v", point)
	}
	if !point.Cairn.ScheduledTime.Equal(at(t, "2026-03-02T04:00:00Z")) || point.Cairn.Retention.State != "Kept" || point.Cairn.Retention.Reasons[0].Code != "NotExpired" {
		t.Errorf("why it is there: %+v", point.Cairn)
	}
	if s, err = w.Schedule(t.Context(), instanceID); err != nil || s.Properties.LastSuccessfulSlot == nil || !s.Properties.LastSuccessfulSlot.Equal(at(t, "2026-03-02T04:00:00Z")) {
		t.Errorf("the last successful slot: %v, %v", s.Properties.LastSuccessfulSlot, err)
	}
}

// TestASlotRunsOnce does everything again, on a service that was restarted in between, with the clock set back, and on both databases.
func TestASlotRunsOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, database string) {
		w := newWorldOn(t, database)
		w.clock.set(t, "2026-03-02T04:00:00Z")
		w.call()
		w.work()
		w.restart()
		w.work()
		w.wantRuns("03-02T04:00 Started")
		w.made()
		w.restart()
		for _, again := range []string{"2026-03-02T04:00:01Z", "2026-03-02T03:00:00Z", "2026-03-01T13:00:00Z", "2026-03-02T04:00:00Z", "2026-03-02T05:00:00Z"} {
			w.clock.set(t, again)
			w.restart()
			w.call()
			w.work()
		}
		w.wantRuns("03-02T04:00 Started")
		if n := len(w.points()); n != 1 {
			t.Errorf("%d recovery points", n)
		}
		w.clock.set(t, "2026-03-03T04:00:00Z")
		w.call()
		w.work()
		w.wantRuns("03-02T04:00 Started", "03-03T04:00 Started")
	})
}

// TestACutOffTransactionStartsNothing breaks off between a slot's steps: nothing of it is there, and it is done later.
func TestACutOffTransactionStartsNothing(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	ctx, cut := context.WithCancelCause(t.Context())
	cut(errors.New("killed"))
	if _, err := w.StartDue(ctx); err == nil {
		t.Error("a transaction that was cut off succeeded")
	}
	w.restart()
	w.wantRuns()
	if n := len(w.wanted("Backup")); n != 0 {
		t.Errorf("%d requests", n)
	}
	w.work()
	w.wantRuns("03-02T04:00 Started")
	if n := len(w.wanted("Backup")); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestAfterDowntimeOneRunCatchesUp starts the service after three slots.
func TestAfterDowntimeOneRunCatchesUp(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2026-03-04T22:00:00Z")
	w.restart()
	w.work()
	w.wantRuns() // the cluster has not called yet
	w.clock.set(t, "2026-03-04T22:00:20Z")
	w.call()
	w.work()
	w.wantRuns("03-04T04:00 Started missed=2")
	if got := w.next(); got != "2026-03-05T04:00:00Z" {
		t.Errorf("the next slot is %s", got)
	}
}

// TestAClusterThatIsAway is waited for, and its slot skipped.
func TestAClusterThatIsAway(t *testing.T) {
	w := newWorld(t)
	w.tick("2026-03-02T04:00:00Z")
	w.wantRuns()
	s, err := w.Schedule(t.Context(), instanceID)
	w.check(err)
	waiting := s.Properties.Waiting
	if waiting == nil || !waiting.Until.Equal(at(t, "2026-03-02T06:00:00Z")) || waiting.Code != "UserErrorKubernetesBackupClusterIsStopped" {
		t.Fatalf("waiting: %+v", waiting)
	}
	w.tick("2026-03-02T05:59:59Z")
	w.wantRuns()
	w.restart()
	w.tick("2026-03-02T06:00:00Z")
	w.wantRuns("03-02T04:00 Skipped UserErrorKubernetesBackupClusterIsStopped")
	jobs, _, err := w.Jobs(t.Context(), vaultID, nil, store.Page{Limit: 10})
	if err != nil || len(jobs) != 0 {
		t.Errorf("a cluster that is switched off has %d jobs, %v", len(jobs), err)
	}
	w.clock.set(t, "2026-03-02T06:00:01Z")
	w.call()
	w.work()
	w.wantRuns("03-02T04:00 Skipped UserErrorKubernetesBackupClusterIsStopped")
}

// TestAClusterThatComesBack runs what waited for it, by a call of either kind.
func TestAClusterThatComesBack(t *testing.T) {
	for name, call := range map[string]func(*world){
		"report": func(w *world) { w.call() },
		"poll":   func(w *world) { w.check(w.ClusterSeen(w.t.Context(), clusterID)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.tick("2026-03-02T04:00:00Z")
			w.wantRuns()
			w.clock.set(t, "2026-03-02T04:10:00Z")
			call(w)
			w.work()
			w.wantRuns("03-02T04:00 Started")
		})
	}
}

// TestAWaitEndsWithTheNextSlot has slots every four hours and a cluster that is away for a day: each is skipped once.
func TestAWaitEndsWithTheNextSlot(t *testing.T) {
	w := newWorld(t)
	w.putPolicy(`"repeatingTimeIntervals":["R/2026-03-01T00:00:00Z/P1D","R/2026-03-01T01:00:00Z/P1D"]`, "")
	w.tick("2026-03-02T00:00:00Z")
	w.tick("2026-03-02T01:00:00Z")
	w.wantRuns("03-02T00:00 Skipped UserErrorKubernetesBackupClusterIsStopped")
	w.tick("2026-03-02T03:00:00Z")
	w.wantRuns("03-02T00:00 Skipped UserErrorKubernetesBackupClusterIsStopped", "03-02T01:00 Skipped UserErrorKubernetesBackupClusterIsStopped")
}

// TestABusyInstanceWaits lets a slot wait for a backup on demand.
func TestABusyInstanceWaits(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2026-03-02T03:59:00Z")
	w.call()
	in := &backup.AdhocRequest{Options: &backup.AdhocOptions{RuleName: "BackupDaily"}}
	_, _, err := w.BackupNow(t.Context(), instanceID, in)
	w.check(err)
	w.tick("2026-03-02T04:00:00Z")
	w.wantRuns()
	w.clock.set(t, "2026-03-02T04:20:00Z")
	w.made()
	w.work()
	w.wantRuns("03-02T04:00 Started")
	w.clock.set(t, "2026-03-02T04:21:00Z")
	w.made()
	if n := len(w.points()); n != 2 {
		t.Errorf("%d recovery points", n)
	}
}

// TestABusyInstanceIsSkipped has a job that takes longer than the slot waits.
func TestABusyInstanceIsSkipped(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2026-03-02T03:59:00Z")
	w.call()
	_, _, err := w.BackupNow(t.Context(), instanceID, &backup.AdhocRequest{Options: &backup.AdhocOptions{RuleName: "BackupDaily"}})
	w.check(err)
	w.tick("2026-03-02T04:00:00Z")
	w.clock.set(t, "2026-03-02T06:00:00Z")
	w.call()
	w.work()
	w.wantRuns("03-02T04:00 Skipped UserErrorConflictingOperationInProgress")
}

// TestAMissingRoleIsAFailedJob takes the vault's role away.
func TestAMissingRoleIsAFailedJob(t *testing.T) {
	w := newWorld(t)
	roles, err := w.RoleAssignments(t.Context(), clusterID, w.vault.Identity.PrincipalID, false)
	w.check(err)
	for _, r := range roles {
		if _, err := w.DeleteRoleAssignment(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
	}
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	w.wantRuns("03-02T04:00 Failed UserErrorMissingRequiredPermissions")
	s, err := w.Schedule(t.Context(), instanceID)
	w.check(err)
	job, err := w.Job(t.Context(), s.Properties.Runs[0].JobID)
	w.check(err)
	p := job.Properties
	if p.Status != "Failed" || p.IsUserTriggered || len(p.ErrorDetails) != 1 || p.ErrorDetails[0].Code != "UserErrorMissingRequiredPermissions" || len(p.ErrorDetails[0].RecommendedAction) == 0 || p.EndTime == nil {
		t.Errorf("the job: %+v", p)
	}
}

// TestAnExtensionThatStarts is waited for; one that does not become ready is a failed job.
func TestAnExtensionThatStarts(t *testing.T) {
	for name, ready := range map[string]bool{"ready in time": true, "not ready in time": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.clock.set(t, "2026-03-02T04:00:00Z")
			w.state = &link.ExtensionState{Name: "azure-aks-backup", Generation: 1, State: link.ExtensionInstalling, Message: "the pod is pulling its image"}
			w.call()
			w.work()
			w.wantRuns()
			if ready {
				w.clock.set(t, "2026-03-02T04:01:00Z")
				w.state = &link.ExtensionState{Name: "azure-aks-backup", Generation: 1, State: link.ExtensionReady}
				w.call()
				w.work()
				w.wantRuns("03-02T04:00 Started")
				return
			}
			w.clock.set(t, "2026-03-02T06:00:00Z")
			w.call()
			w.work()
			w.wantRuns("03-02T04:00 Failed UserErrorKubernetesBackupExtensionUnhealthy")
		})
	}
}

// TestTheClockIsSet forward by a year and back: no slot runs twice, none of the right time is lost.
func TestTheClockIsSet(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2027-03-05T10:00:00Z")
	w.call()
	w.work()
	w.wantRuns("03-05T04:00 Started missed=368")
	w.clock.set(t, "2026-03-02T03:00:00Z")
	w.check(w.RescheduleAll(t.Context()))
	if got := w.next(); got != "2026-03-02T04:00:00Z" {
		t.Fatalf("the next slot is %s", got)
	}
	w.made()
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	w.wantRuns("03-02T04:00 Started", "03-05T04:00 Started missed=368")
}

// TestForgottenRunsDoNotComeBack removes the run of a slot while the clock is wrong, and sets it right to just before that slot.
func TestForgottenRunsDoNotComeBack(t *testing.T) {
	w := newWorld(t)
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	w.made()
	w.clock.set(t, "2030-01-01T00:00:00Z")
	w.check(w.ForgetRuns(t.Context()))
	w.wantRuns()
	w.clock.set(t, "2026-03-02T03:59:00Z")
	w.restart()
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	w.wantRuns()
	w.clock.set(t, "2026-03-03T04:00:00Z")
	w.call()
	w.work()
	w.wantRuns("03-03T04:00 Started")
}

// TestDaysOfDaylightSaving runs each wall time once, on the days when clocks go forward and back.
func TestDaysOfDaylightSaving(t *testing.T) {
	w := newWorld(t)
	w.putPolicy(`"timeZone":"W. Europe Standard Time","repeatingTimeIntervals":["R/2026-03-01T02:30:00+01:00/P1D"]`, "")
	for _, day := range []string{"2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"} {
		w.clock.set(t, day)
		w.call()
		w.work()
		w.made2()
	}
	runs := w.runs()
	if len(runs) != 3 || !strings.HasPrefix(runs[0], "03-28T01:30 Started") || runs[1] != "03-29T01:00 Started" || !strings.HasPrefix(runs[2], "10-25T00:30 Started") {
		t.Errorf("the runs: %q", runs)
	}
}

// made2 ends the backup that runs, if there is one.
func (w *world) made2() {
	if len(w.wanted("Backup")) > 0 {
		w.made()
	}
}

// TestJitter starts a slot at a time that is always the same, within the jitter.
func TestJitter(t *testing.T) {
	w := newWorld(t)
	w.ScheduleJitter = time.Hour
	w.check(w.RescheduleAll(t.Context()))
	slot := at(t, "2026-03-02T04:00:00Z")
	begins := time.Time{}
	for minute := range 61 {
		w.clock.set(t, slot.Add(time.Duration(minute)*time.Minute).Format(time.RFC3339))
		w.call()
		w.work()
		if len(w.runs()) == 1 {
			begins = w.Now()
			break
		}
	}
	if begins.IsZero() || begins.Equal(slot) {
		t.Fatalf("it began at %s", begins)
	}
	w.wantRuns("03-02T04:00 Started")
}

// TestChangesOfTheSchedule hold at once; a slot that is waiting and that the new schedule does not have is not lost without a word.
func TestChangesOfTheSchedule(t *testing.T) {
	w := newWorld(t)
	w.putPolicy(`"repeatingTimeIntervals":["R/2026-03-01T18:00:00Z/PT6H"]`, "")
	if got := w.next(); got != "2026-03-01T18:00:00Z" {
		t.Fatalf("the next slot is %s", got)
	}
	w.tick("2026-03-01T18:00:00Z") // the cluster is away
	w.putPolicy(`"repeatingTimeIntervals":["R/2026-03-01T18:00:00Z/PT12H"]`, "")
	if got := w.next(); got != "2026-03-01T18:00:00Z" {
		t.Errorf("a waiting slot that the new schedule has too became %s", got)
	}
	w.putPolicy(daily, "")
	w.wantRuns("03-01T18:00 Skipped ScheduleChanged")
	if got := w.next(); got != "2026-03-02T04:00:00Z" {
		t.Errorf("the next slot is %s", got)
	}
}

// TestStoppedProtectionHasNoSlots stops, resumes and suspends.
func TestStoppedProtectionHasNoSlots(t *testing.T) {
	w := newWorld(t)
	move := func(action string) {
		t.Helper()
		_, _, err := w.MoveProtection(t.Context(), w.by, instanceID, action)
		w.check(err)
	}
	move("stopProtection")
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	if got := w.next(); got != "never" {
		t.Errorf("a stopped instance has the slot %s", got)
	}
	w.clock.set(t, "2026-03-02T05:00:00Z")
	move("resumeProtection")
	w.work()
	w.wantRuns() // what passed while it was stopped is not missed
	w.tick("2026-03-03T04:00:00Z")
	move("suspendBackups")
	w.wantRuns("03-03T04:00 Skipped ProtectionStopped")
	if got := w.next(); got != "never" {
		t.Errorf("a suspended instance has the slot %s", got)
	}
}

const firstOfMonth = `{"isDefault":false,"taggingPriority":15,"tagInfo":{"tagName":"Monthly"},"criteria":[{"objectType":"ScheduleBasedBackupCriteria","absoluteCriteria":["FirstOfMonth"]}]},|
 {"objectType":"AzureRetentionRule","name":"Monthly","isDefault":false,"lifecycles":[{"deleteAfter":{"objectType":"AbsoluteDeleteOption","duration":"P2D"},
  "sourceDataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"}}]},`

// TestTheFirstOfTheMonth is the first one that succeeds, and stays it when its recovery point is gone.
func TestTheFirstOfTheMonth(t *testing.T) {
	w := newWorld(t)
	w.putPolicy(daily, firstOfMonth)
	tag := func() string {
		s, err := w.Schedule(t.Context(), instanceID)
		w.check(err)
		job, err := w.Job(t.Context(), s.Properties.Runs[0].JobID)
		w.check(err)
		return job.Properties.ExtendedInfo.AdditionalDetails["RetentionTag"]
	}
	var got []string
	for day := 2; day <= 6; day++ {
		w.clock.set(t, fmt.Sprintf("2026-03-%02dT04:00:00Z", day))
		w.call()
		w.work()
		got = append(got, tag())
		if day == 2 {
			w.answer("Backup", failedStatus)
			continue
		}
		w.made()
		if len(w.wanted("DeleteBackup")) > 0 {
			w.answer("DeleteBackup", v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1})
		}
	}
	if !slices.Equal(got, []string{"Monthly", "Monthly", "Default", "Default", "Default"}) {
		t.Errorf("the tags: %q", got)
	}
	for _, p := range w.points() {
		if p.Properties.RetentionTagName == "Monthly" {
			t.Error("the monthly recovery point has not been pruned: the test shows nothing")
		}
	}
}

// TestManyInstancesAreStartedInBatches has more than fit one transaction, of which one cannot be started.
func TestManyInstancesAreStartedInBatches(t *testing.T) {
	w := newWorld(t)
	const many = 600
	w.update(func(tx *store.Tx) error {
		r, err := tx.Get(instanceID)
		if err != nil {
			return err
		}
		for n := range many {
			id := vaultID.Child("backupInstances", fmt.Sprintf("i%03d", n))
			body := strings.NewReplacer(`"id":"`+string(instanceID), `"id":"`+string(id), `"guid":"`, fmt.Sprintf(`"guid":"%03d-`, n)).Replace(string(r.Body))
			if err := tx.Put(&store.Resource{ID: id, Body: []byte(body)}); err != nil {
				return err
			}
		}
		return nil
	})
	w.check(w.RescheduleAll(t.Context()))
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	if n := len(w.wanted("Backup")); n != many+1 {
		t.Errorf("%d backups were started, want %d", n, many+1)
	}
}

// TestAnInstanceThatIsGoneHasNoSchedule deletes one without recovery points.
func TestAnInstanceThatIsGoneHasNoSchedule(t *testing.T) {
	w := newWorld(t)
	_, found, err := w.DeleteInstance(t.Context(), w.by, instanceID, anyETag)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	w.clock.set(t, "2026-03-02T04:00:00Z")
	w.call()
	w.work()
	if n := len(w.wanted("Backup")); n != 0 {
		t.Errorf("%d backups of an instance that is gone", n)
	}
	var gone *arm.Error
	if _, err := w.Schedule(t.Context(), instanceID); !errors.As(err, &gone) || gone.Status != 404 {
		t.Errorf("its schedule: %v", err)
	}
}
