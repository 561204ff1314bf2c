package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// actionCancel is what a job's supportedActions say while it can be cancelled.
const actionCancel = "Cancel"

// CancelJob withdraws a job's request from the cluster. The operation has ended; the job ends when the cluster has told how far it came: a backup is
// undone unless it is committed, a restore stops and what it created stays. Changed is false when the job is being cancelled already.
func (s *Service) CancelJob(ctx context.Context, id arm.ID) (op store.Operation, location string, changed bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		vault, err := vaultOf(tx, id)
		if err != nil {
			return err
		}
		location = vault.Location
		row, job, err := loadJob(tx, id.Name())
		if errors.Is(err, store.ErrNotFound) || err == nil && row.Vault != vault.ID.Key() {
			return arm.NotFound(id)
		} else if err != nil {
			return err
		}
		jobID := vault.ID.Child("backupJobs", row.Name)
		switch {
		case job.Ended():
			return arm.Conflict("UserErrorJobNotCancellable", "The job '%s' has ended already: %s.", row.Name, job.Status).WithTarget(string(jobID)).
				WithAction("No action is needed; a recovery point can be deleted with its backup instance only.")
		case job.Status == backup.JobCancelling:
			return nil
		}
		changed = true
		r, err := tx.Request(row.Name)
		if err != nil {
			return err
		}
		r.Withdrawn, r.Progressed = tx.Now(), tx.Now()
		job.Status, job.SupportedActions = backup.JobCancelling, []string{""}
		detail(job, "Cancellation", "Cancelled at "+tx.Now().UTC().Format(time.RFC3339)+".")
		_, connected, err := s.reach(tx, arm.ID(r.Cluster))
		if err != nil {
			return err
		}
		if !connected && len(r.Status) == 0 {
			// The cluster is away and has told of nothing: what it may have made of it goes when it is back.
			r.GivenUp = tx.Now()
			endCancelled(job, nil, tx.Now())
		}
		if err := errors.Join(tx.PutRequest(r), putJob(tx, row, job)); err != nil {
			return err
		}
		op, err = endedOperation(tx, "CancelJob", vault.ID, &jobID)
		return err
	})
	return op, location, changed, err
}

// cancelled ends a job that was being cancelled as its request ended in the cluster: it may have been too late. Errs are the request's.
func cancelled(job *backup.Job, kind string, status v1alpha1.Status, errs []arm.UserFacing, now time.Time) {
	note := job.ExtendedInfo.AdditionalDetails["Cancellation"]
	if status.Phase != v1alpha1.PhaseFailed {
		what := "the restore had come to its end"
		if kind == "Backup" {
			what = "the recovery point had been committed"
		}
		detail(job, "Cancellation", note+" It was too late: "+what+".")
		endJob(job, string(status.Phase), errs, now)
		return
	}
	var other []arm.UserFacing
	for _, e := range errs {
		if e.Code != v1alpha1.CodeDeleted {
			other = append(other, e)
		}
	}
	if kind == "Restore" {
		created := job.ExtendedInfo.AdditionalDetails["ObjectsCreated"]
		if created == "" {
			created = "0"
		}
		detail(job, "Cancellation", fmt.Sprintf("%s The %s objects that the restore had created stay in the cluster.", note, created))
	} else {
		detail(job, "Cancellation", note+" What the backup had made was removed.")
	}
	endCancelled(job, other, now)
}

func endCancelled(job *backup.Job, errs []arm.UserFacing, now time.Time) {
	for i := range job.ExtendedInfo.SubTasks {
		if t := &job.ExtendedInfo.SubTasks[i]; t.TaskStatus == backup.JobInProgress || t.TaskStatus == backup.JobFailed {
			t.TaskStatus = backup.JobCancelled
		}
	}
	endJob(job, backup.JobCancelled, errs, now)
}
