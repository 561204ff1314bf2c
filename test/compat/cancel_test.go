package compat_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// cancel cancels a job.
func (w *world) cancel(t *testing.T, job string) {
	t.Helper()
	a := w.Do("POST", job+"/cancel", nil).Want(202)
	if got := w.Do("GET", a.Header.Get("Azure-AsyncOperation"), nil).Want(200); got.At("status") != "Succeeded" || got.At("properties", "jobId") != job {
		t.Errorf("the operation: %v", got.JSON)
	}
	w.Do("GET", a.Header.Get("Location"), nil).Want(200)
}

// over waits until a job that was cancelled has ended.
func (w *world) over(t *testing.T, job string) daemontest.Answer {
	t.Helper()
	var a daemontest.Answer
	eventually(t, "job "+job, func() error {
		if a = w.Do("GET", job, nil).Want(200); a.At("properties", "endTime") == nil {
			return errors.New("it has not ended")
		}
		return nil
	})
	return a
}

func note(a daemontest.Answer) string {
	return fmt.Sprint(a.At("properties", "extendedInfo", "additionalDetails", "Cancellation"))
}

// TestCancelledBackupIsUndone cancels a backup in its third step.
func TestCancelledBackupIsUndone(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	w.cluster.hold("Backup")
	w.cluster.hold("Withdrawn")
	job := w.start(t, "/backup", adhoc)
	if got := w.Do("GET", job, nil).Want(200).At("properties", "supportedActions", 0); got != "Cancel" {
		t.Errorf("what can be done with a job that runs: %v", got)
	}
	r := w.cluster.next("Backup")
	w.cluster.say(r, uploading(40))
	w.cancel(t, job)
	cancelling := w.Do("GET", job, nil).Want(200)
	if cancelling.At("properties", "status") != "Cancelling" || cancelling.At("properties", "supportedActions", 0) != "" || cancelling.At("properties", "endTime") != nil {
		t.Errorf("the job that is cancelled: %v", cancelling.JSON)
	}
	w.Do("POST", job+"/cancel", nil).Want(200)
	if got := w.cluster.next("Withdrawn"); got.Name != r.Name || got.Secret != nil {
		t.Errorf("what the cluster is to stop: %+v", got)
	}
	// Until the cluster has undone it, it is in the way of another.
	w.Do("POST", w.instance+"/backup", adhoc).Want(409)
	w.cluster.say(r, uploading(60))
	if got := w.Do("GET", job, nil).Want(200).At("properties", "status"); got != "Cancelling" {
		t.Errorf("after more progress it is %v", got)
	}
	undone := uploading(60)
	undone.Phase, undone.Ended = v1alpha1.PhaseFailed, &cut
	undone.Errors = []v1alpha1.Issue{{Code: v1alpha1.CodeDeleted, Message: "the backup was stopped"}}
	w.cluster.say(r, undone)
	got := w.over(t, job)
	if got.At("properties", "status") != "Cancelled" || got.At("properties", "errorDetails") != nil || !strings.Contains(note(got), "was removed") ||
		got.At("properties", "extendedInfo", "subTasks", 3, "taskStatus") != "Cancelled" || len(w.points(t)) != 0 {
		t.Errorf("the cancelled job: %v", got.JSON)
	}
	wantRefusal(t, w.Do("POST", job+"/cancel", nil), 409, "UserErrorJobNotCancellable", job, "has ended already: Cancelled")
	w.cluster.answer("Backup", backedUp)
	w.finish(t, w.start(t, "/backup", adhoc))
}

// TestCancelComesTooLate cancels a backup whose commit object is on its way: there is a recovery point, and the job says so.
func TestCancelComesTooLate(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	w.cluster.hold("Backup")
	w.cluster.hold("Withdrawn")
	job := w.start(t, "/backup", adhoc)
	r := w.cluster.next("Backup")
	w.cluster.say(r, uploading(100))
	w.cancel(t, job)
	w.cluster.say(w.cluster.next("Withdrawn"), committed(v1alpha1.PhaseCompleted))
	if got := w.over(t, job); got.At("properties", "status") != "Completed" || !strings.Contains(note(got), "too late: the recovery point had been committed") || len(w.points(t)) != 1 {
		t.Errorf("the job: %v", got.JSON)
	}
}

// TestCancelledRestoreSaysWhatStays cancels a restore that has created something.
func TestCancelledRestoreSaysWhatStays(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	w.cluster.hold("Restore")
	w.cluster.hold("Withdrawn")
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	job := w.start(t, "/restore", strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", point).Replace(guideRestore))
	r := w.cluster.next("Restore")
	w.cancel(t, job)
	w.cluster.next("Withdrawn")
	w.cluster.say(r, v1alpha1.RestoreStatus{Created: 7, Status: v1alpha1.Status{Phase: v1alpha1.PhaseFailed, Attempt: 1, Errors: []v1alpha1.Issue{{Code: v1alpha1.CodeDeleted, Message: "stopped"}},
		Progress: v1alpha1.Progress{Steps: steps([]string{v1alpha1.StepPlan, v1alpha1.StepApply}, false), ObjectsDone: 7, ObjectsTotal: 12}}})
	if got := w.over(t, job); got.At("properties", "status") != "Cancelled" || !strings.Contains(note(got), "The 7 objects that the restore had created stay") {
		t.Errorf("the job: %v", got.JSON)
	}
}

// TestCancelWhileTheClusterIsAway cancels one job that the cluster has not taken, and one that it has begun.
func TestCancelWhileTheClusterIsAway(t *testing.T) {
	w := setUpAway(t)
	w.cluster.hold("Backup")
	w.cluster.hold("Withdrawn")
	job := w.start(t, "/backup", adhoc)
	r := w.cluster.next("Backup")
	w.cluster.stop()
	w.now.advance(10 * time.Minute)
	w.cancel(t, job)
	if got := w.Do("GET", job, nil).Want(200).At("properties", "status"); got != "Cancelled" {
		t.Errorf("a job that the cluster has not begun is %v", got)
	}
	// What the cluster made of it meanwhile is not lost.
	w.cluster.run()
	w.cluster.say(r, committed(v1alpha1.PhaseCompleted))
	if n := len(w.points(t)); n != 1 {
		t.Errorf("%d recovery points", n)
	}
	job = w.start(t, "/backup", adhoc)
	w.cluster.say(w.cluster.next("Backup"), uploading(10))
	w.cancel(t, job)
	w.cluster.next("Withdrawn")
	w.now.advance(61 * time.Minute)
	if err := w.Service.GiveUp(t.Context(), w.began); err != nil {
		t.Fatal(err)
	}
	w.LogIn()
	if got := w.over(t, job); got.At("properties", "status") != "Cancelled" || got.At("properties", "errorDetails", 0, "code") != "KubernetesBackupCustomResourcesTrackingTimeOutError" {
		t.Errorf("a job that the cluster never told the end of: %v", got.JSON)
	}
}
