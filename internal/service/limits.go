package service

import (
	"context"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// Limits are how many jobs of an instance can be started within 24 hours by hand; 0 is no limit. Scheduled backups do not count.
type Limits struct {
	OnDemandBackups int
	Restores        int
}

// limitedTime is what the limits are for.
const limitedTime = 24 * time.Hour

// within is the 400 when an instance has had as many jobs of a kind as there may be, whatever became of them: each took its time of the cluster.
func (l Limits) within(tx *store.Tx, instance *storedInstance, operation string) error {
	limit, what := l.OnDemandBackups, "on-demand backups"
	if operation == backup.OperationRestore {
		limit, what = l.Restores, "restores"
	}
	if limit <= 0 {
		return nil
	}
	first, full, err := tx.JobStarted(instance.ID, operation, tx.Now().Add(-limitedTime), limit)
	if err != nil || !full {
		return err
	}
	next := first.Add(limitedTime).UTC().Truncate(time.Second).Add(time.Second)
	return arm.BadRequest("CloudDosTimeboudLimitReached", "The backup instance '%s' has had %d %s within 24 hours, which is the limit. The next is possible at %s.",
		instance.Name, limit, what, next.Format(time.RFC3339)).WithTarget(string(instance.ID)).
		WithAction(fmt.Sprintf("Start it again then, in %s.", next.Sub(tx.Now()).Round(time.Minute)))
}

// jobsKept is how long a job can be looked at after its end.
const jobsKept = 90 * 24 * time.Hour

// PruneJobs forgets the jobs that ended long ago.
func (s *Service) PruneJobs(ctx context.Context) error {
	before, any := s.Now().Add(-jobsKept), false
	if err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		any, err = tx.JobsEnded(before)
		return err
	}); err != nil || !any {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error { return tx.ForgetJobs(before) })
}
