package service

import (
	"context"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// How long a request may go without any progress before the service stops waiting for it.
const (
	jobPatience        = 60 * time.Minute
	validationPatience = 5 * time.Minute
	// absencePatience is how long a deletion waits for a cluster that is away: then the ledger takes it over.
	absencePatience = 5 * time.Minute
)

// codeTimeout is Azure's: nothing is heard of the request object in the cluster.
const codeTimeout = "KubernetesBackupCustomResourcesTrackingTimeOutError"

// GiveUp ends the jobs and operations whose requests have made no progress for too long. The time before since does not
// count: the service was not there to hear of any.
func (s *Service) GiveUp(ctx context.Context, since time.Time) error {
	var stale []store.Request
	now := s.Now()
	if err := s.DB.View(ctx, func(tx *store.Tx) error {
		open, err := tx.IdleRequests(now.Add(-min(validationPatience, absencePatience)))
		if err != nil {
			return err
		}
		for _, r := range open {
			patience, err := s.patience(tx, r)
			if err != nil {
				return err
			}
			if idleFor(r, since, now) >= patience {
				stale = append(stale, r)
			}
		}
		return nil
	}); err != nil || len(stale) == 0 {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		for _, r := range stale {
			fresh, err := tx.Request(r.Name)
			if err != nil {
				return err
			}
			patience, err := s.patience(tx, fresh)
			if err != nil {
				return err
			}
			if !fresh.Ended.IsZero() || !fresh.GivenUp.IsZero() || idleFor(fresh, since, now) < patience {
				continue
			}
			if err := s.giveUp(tx, fresh, idleFor(fresh, since, now)); err != nil {
				return err
			}
		}
		return nil
	})
}

// patience is how long a request may go without progress.
func (s *Service) patience(tx *store.Tx, r store.Request) (time.Duration, error) {
	switch r.Kind {
	case "ValidateForBackup", "ValidateForRestore":
		return validationPatience, nil
	case "DeleteBackup":
		_, connected, err := s.reach(tx, arm.ID(r.Cluster))
		if !connected {
			return absencePatience, err
		}
		return jobPatience, err
	}
	return jobPatience, nil
}

// idleFor is how long nothing was heard of a request.
func idleFor(r store.Request, since, now time.Time) time.Duration {
	last := r.Progressed
	if since.After(last) {
		last = since
	}
	return now.Sub(last)
}

func (s *Service) giveUp(tx *store.Tx, r store.Request, idle time.Duration) error {
	s.Log.Warn("request given up", "cluster", r.Cluster, "kind", r.Kind, "request", r.Name, "job", r.Job, "idle", idle)
	cause := timeoutError(r, idle)
	r.GivenUp = tx.Now()
	if err := tx.PutRequest(r); err != nil {
		return err
	}
	switch {
	case r.Kind == "DeleteBackup":
		return s.deletionEndedWith(tx, r)
	case r.Job == "":
		return s.validationEnded(tx, r, cause)
	}
	row, job, err := loadJob(tx, r.Job)
	if err != nil {
		return err
	}
	if job.Status == backup.JobCancelling {
		endCancelled(job, []arm.UserFacing{cause.UserFacing(job.ActivityID)}, tx.Now())
		return putJob(tx, row, job)
	}
	for i := range job.ExtendedInfo.SubTasks {
		if t := &job.ExtendedInfo.SubTasks[i]; t.TaskStatus == "InProgress" {
			t.TaskStatus = "Failed"
		}
	}
	endJob(job, "Failed", []arm.UserFacing{cause.UserFacing(job.ActivityID)}, tx.Now())
	return putJob(tx, row, job)
}

// timeoutError says what was waited for.
func timeoutError(r store.Request, idle time.Duration) *arm.Error {
	since := "too long"
	if idle > 0 {
		since = idle.Round(time.Second).String()
	}
	what := "has not taken the request"
	if len(r.Status) > 0 {
		what = "has not reported any progress of the request"
	}
	return (&arm.Error{Status: 400, Code: codeTimeout, Target: r.Cluster,
		Message: fmt.Sprintf("The cluster '%s' %s %s '%s' for %s.", arm.ID(r.Cluster).Name(), what, r.Kind, r.Name, since)}).
		WithAction("See whether the cluster runs and its connector reaches this service: kubectl get pods -n dataprotection-microsoft. What the cluster reports later is still taken over.")
}
