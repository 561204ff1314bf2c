package compat_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/service"
)

// inTurn posts an action when nothing else runs: a clock that passes a slot of the policy starts a scheduled backup.
func (w *world) inTurn(t *testing.T, action string, body any) (a daemontest.Answer) {
	t.Helper()
	eventually(t, "the turn of "+action, func() error {
		if a = w.Do("POST", w.instance+action, body); a.Status == 409 {
			return fmt.Errorf("%v", a.At("error", "message"))
		}
		return nil
	})
	return a
}

// run starts a job in its turn and waits for its end.
func (w *world) run(t *testing.T, action string, body any) {
	t.Helper()
	begun := w.inTurn(t, action, body).Want(202)
	w.finish(t, fmt.Sprint(w.Do("GET", begun.Header.Get("Azure-AsyncOperation"), nil).Want(200).At("properties", "jobId")))
}

// TestLimitsOfADay starts more backups and restores than a rolling day has room for.
func TestLimitsOfADay(t *testing.T) {
	now := &clock{at: time.Now()}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: now.Now, Limits: service.Limits{OnDemandBackups: 2, Restores: 1}}))
	w.protect(t)
	begun := now.Now()
	w.run(t, "/backup", adhoc)
	w.later(now, 20*time.Minute)
	w.cluster.answer("Backup", refused("UserErrorBackupStorageLocationNotReady", "the container does not answer", "Start it."))
	w.run(t, "/backup", adhoc)
	next := begun.Add(24 * time.Hour).UTC().Truncate(time.Second).Add(time.Second).Format(time.RFC3339)
	refusal := w.inTurn(t, "/backup", adhoc).Want(400)
	if refusal.At("error", "code") != "CloudDosTimeboudLimitReached" || !strings.Contains(fmt.Sprint(refusal.At("error", "message")), "The next is possible at "+next) {
		t.Errorf("the third backup of a day: %v, want it to be possible at %s", refusal.JSON, next)
	}
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	restore := strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", point).Replace(guideRestore)
	w.run(t, "/restore", restore)
	if got := w.inTurn(t, "/restore", restore).Want(400); got.At("error", "code") != "CloudDosTimeboudLimitReached" {
		t.Errorf("the second restore of a day: %v", got.JSON)
	}
	// The day rolls: the first backup is out of it, the second is not.
	w.later(now, 24*time.Hour-10*time.Minute)
	w.run(t, "/backup", adhoc)
	w.inTurn(t, "/backup", adhoc).Want(400)
}

// TestOldJobsAreForgotten looks at a job for 90 days, and not for longer.
func TestOldJobsAreForgotten(t *testing.T) {
	now := &clock{at: time.Now()}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: now.Now}))
	w.protect(t)
	job := w.start(t, "/backup", adhoc)
	w.finish(t, job)
	w.Do("POST", w.instance+"/stopProtection", nil).Want(202) // what it has made stays, and its schedule makes no more
	prune := func(after time.Duration) {
		t.Helper()
		w.later(now, after)
		if err := w.Service.PruneJobs(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	prune(89 * 24 * time.Hour)
	w.Do("GET", job, nil).Want(200)
	prune(2 * 24 * time.Hour)
	w.Do("GET", job, nil).Want(404)
	if n := len(w.points(t)); n != 1 {
		t.Errorf("%d recovery points are left of the backup", n)
	}
}
