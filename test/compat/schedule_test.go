package compat_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// TestScheduledBackups lets three days pass: the service starts a backup on each by itself, and tells of it.
func TestScheduledBackups(t *testing.T) {
	now := &clock{at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: now.Now}))
	w.protect(t)
	for day := 1; day <= 3; day++ {
		w.later(now, map[bool]time.Duration{true: 16 * time.Hour, false: 24 * time.Hour}[day == 1])
		eventually(t, "the backup of the day", func() error {
			w.cluster.tell(t.Context())
			a := w.Do("GET", w.instance+"/schedule", nil).Want(200)
			runs, _ := a.At("properties", "runs").([]any)
			if len(runs) != day || a.At("properties", "runs", 0, "outcome") != "Started" {
				return fmt.Errorf("the schedule: %v", a.JSON)
			}
			job := w.Do("GET", fmt.Sprint(a.At("properties", "runs", 0, "jobId")), nil).Want(200)
			if job.At("properties", "status") != "Completed" || job.At("properties", "isUserTriggered") != false {
				return fmt.Errorf("its job: %v", job.JSON)
			}
			return nil
		})
	}
	a := w.Do("GET", w.instance+"/schedule", nil).Want(200)
	if a.At("properties", "nextSlots", 0) != "2026-11-26T04:00:00Z" || a.At("properties", "nextSlots", 4) != "2026-11-30T04:00:00Z" || a.At("properties", "active") != true {
		t.Errorf("the schedule: %v", a.JSON)
	}
	if n := len(w.points(t)); n != 3 {
		t.Errorf("%d recovery points", n)
	}
}
