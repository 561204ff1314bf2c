package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/iso8601"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/retention"
	"github.com/cairn-backup/cairn/internal/sealing"
	"github.com/cairn-backup/cairn/internal/store"
)

// Desired is what a cluster should have. Owner is the cluster's key, as the connector's principal has it.
func (s *Service) Desired(ctx context.Context, owner string) (*link.Desired, error) {
	d := &link.Desired{Requests: []link.Request{}}
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		cluster, _, err := s.ClusterOf(tx, owner)
		if err != nil {
			return err
		}
		d.ClusterID = string(cluster.ID)
		if d.Extension, err = s.DesiredExtension(tx, cluster.ID); err != nil {
			return err
		}
		requests, err := tx.WantedRequests(cluster.ID)
		if err != nil {
			return err
		}
		for _, r := range requests {
			if !r.Withdrawn.IsZero() {
				d.Requests = append(d.Requests, link.Request{Kind: r.Kind, Name: r.Name, Spec: r.Spec, Withdrawn: true})
				continue
			}
			secret, err := requestSecret(tx, r)
			if errors.Is(err, store.ErrNotFound) {
				continue // its vault is gone; that must not keep the cluster from everything else
			} else if err != nil {
				return err
			}
			d.Requests = append(d.Requests, link.Request{Kind: r.Kind, Name: r.Name, Spec: r.Spec, Secret: secret})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("desired state of %s: %w", d.ClusterID, err)
	}
	sum := sha256.Sum256(body)
	d.ETag = hex.EncodeToString(sum[:16])
	return d, nil
}

// requestSecret is what a request needs and its spec must not hold: a restore's age identity.
func requestSecret(tx *store.Tx, r store.Request) (map[string]string, error) {
	if r.Kind != "Restore" && r.Kind != "ValidateForRestore" {
		return nil, nil
	}
	secret, err := tx.VaultKey(arm.ID(r.Vault), nil)
	if err != nil {
		return nil, err
	}
	keys, err := sealing.For(secret, r.Point)
	return map[string]string{"identity": keys.Identity}, err
}

// AwaitDesired is Desired, as soon as its ETag is another than the given one; nil when that has not happened after wait.
func (s *Service) AwaitDesired(ctx context.Context, owner, etag string, wait time.Duration) (*link.Desired, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		changed := s.DB.Watch(arm.ID(owner))
		d, err := s.Desired(ctx, owner)
		if err != nil || d.ETag != etag {
			return d, err
		}
		select {
		case <-changed:
		case <-deadline.C:
			return nil, nil
		case <-s.Closing:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Reported takes over what a cluster says, all of it in one transaction. What it says again, late or out of order changes
// nothing.
func (s *Service) Reported(ctx context.Context, owner string, report *link.Report) error {
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		cluster, _, err := s.ClusterOf(tx, owner)
		if err != nil {
			return err
		}
		if err := s.ClusterReported(tx, cluster.ID, *report); err != nil {
			return err
		}
		for _, state := range report.Requests {
			if err := s.requestReported(tx, cluster.ID, state); err != nil {
				return err
			}
		}
		return nil
	})
}

// lateness is how late a report may come that is older than another. What seems older after that is news: the extension
// went back to do something again.
const lateness = time.Minute

// requestReported takes over one request's status. A request that is not the cluster's, or whose status makes no sense, is
// noted and passed over: refusing the report would keep the cluster from reporting anything else.
func (s *Service) requestReported(tx *store.Tx, cluster arm.ID, state link.RequestState) error {
	r, err := tx.Request(state.Name)
	if errors.Is(err, store.ErrNotFound) {
		s.Log.Info("status of an unknown request", "cluster", cluster, "kind", state.Kind, "request", state.Name)
		return nil
	} else if err != nil {
		return err
	}
	if r.Cluster != cluster.Key() || r.Kind != state.Kind {
		s.Log.Warn("status of another cluster's request", "cluster", cluster, "kind", state.Kind, "request", state.Name)
		return nil
	}
	if !r.Ended.IsZero() {
		return nil
	}
	var known, status v1alpha1.BackupStatus // every kind's status begins with the same fields
	if err := json.Unmarshal(state.Status, &status); err != nil {
		s.Log.Error("status of a request is not understood", "cluster", cluster, "kind", state.Kind, "request", state.Name, "error", err.Error())
		return nil
	}
	if len(r.Status) > 0 {
		if err := json.Unmarshal(r.Status, &known); err != nil {
			return fmt.Errorf("stored status of request %s: %w", r.Name, err)
		}
	}
	if status.Phase == "" || older(known.Status, status.Status) && tx.Now().Sub(r.Progressed) < lateness {
		return nil
	}
	if string(r.Status) != string(state.Status) {
		r.Status, r.Progressed = state.Status, tx.Now()
	}
	if status.Phase.Final() {
		r.Ended = tx.Now()
		s.Log.Info("request ended", "cluster", cluster, "kind", r.Kind, "request", r.Name, "job", r.Job, "phase", status.Phase)
	}
	if err := tx.PutRequest(r); err != nil {
		return err
	}
	switch {
	case r.Job != "":
		return s.jobReported(tx, r, status)
	case !status.Phase.Final():
		return nil
	case r.Kind == "DeleteBackup":
		return s.deletionEnded(tx, r, status.Status)
	}
	return s.validationEnded(tx, r, failureOf(status.Status, r.Kind))
}

// failureOf is nil unless the request failed.
func failureOf(status v1alpha1.Status, kind string) *arm.Error {
	if status.Phase != v1alpha1.PhaseFailed {
		return nil
	}
	return failure(status, kind)
}

// jobReported takes a request's status over into its job, and ends it with the request.
func (s *Service) jobReported(tx *store.Tx, r store.Request, status v1alpha1.BackupStatus) error {
	row, job, err := loadJob(tx, r.Job)
	if errors.Is(err, store.ErrNotFound) {
		return s.strayReport(tx, r, status)
	} else if err != nil {
		return err
	}
	if job.Ended() {
		return s.lateReport(tx, r, row, job, status)
	}
	showProgress(job, r.Kind, status.Status)
	if r.Kind == "Restore" {
		if err := showRestore(job, r); err != nil {
			return err
		}
	}
	if !status.Phase.Final() {
		return putJob(tx, row, job)
	}
	if r.Kind == "Backup" {
		if err := s.backupEnded(tx, r, job, &status); err != nil {
			return err
		}
	}
	var errs []arm.UserFacing
	if status.Phase == v1alpha1.PhaseFailed {
		for _, issue := range status.Errors {
			errs = append(errs, userFacing(issue, job.ActivityID))
		}
		if len(errs) == 0 {
			errs = append(errs, failure(status.Status, r.Kind).UserFacing(job.ActivityID))
		}
	}
	if job.Status == backup.JobCancelling {
		cancelled(job, r.Kind, status.Status, errs, tx.Now())
	} else {
		endJob(job, string(status.Phase), errs, tx.Now())
	}
	return putJob(tx, row, job)
}

// backupEnded inserts the recovery point of a backup that was committed. What counts is the commit: a backup that failed
// after it has a recovery point, and warnings; one that completed without it has none, and has failed.
func (s *Service) backupEnded(tx *store.Tx, r store.Request, job *backup.Job, status *v1alpha1.BackupStatus) error {
	trigger := job.ExtendedInfo.SubTasks[0].AdditionalDetails
	var size int64
	for _, snapshot := range status.Snapshots {
		size += snapshot.RestoreSizeBytes
	}
	trigger["OriginalDatasourceSizeInBytes"] = strconv.FormatInt(size, 10)
	if !status.Committed {
		if status.Phase != v1alpha1.PhaseFailed {
			status.Phase = v1alpha1.PhaseFailed
			status.Errors = append(status.Errors, v1alpha1.Issue{Code: "KubernetesBackupGenericError",
				Message: "The cluster says that the backup has completed, but not that its commit object is in storage.", Action: "Look at the extension's log."})
		}
		return nil
	}
	if status.Phase == v1alpha1.PhaseFailed {
		status.Phase = v1alpha1.PhaseCompletedWithWarnings
		for _, issue := range status.Errors {
			job.ExtendedInfo.WarningDetails = append(job.ExtendedInfo.WarningDetails, backup.Warning{ResourceName: issue.Resource, Warning: userFacing(issue, job.ActivityID)})
		}
	}
	_, err := recordPoint(tx, r, job, status)
	return err
}

// newRecoveryPoint is the recovery point's row, of what the backup was asked and what it said, with the request's origin; it is named in the job.
func newRecoveryPoint(tx *store.Tx, r store.Request, job *backup.Job, status *v1alpha1.BackupStatus) (store.RecoveryPoint, map[string]string, error) {
	var spec v1alpha1.BackupSpec
	if err := json.Unmarshal(r.Spec, &spec); err != nil {
		return store.RecoveryPoint{}, nil, fmt.Errorf("stored spec of request %s: %w", r.Name, err)
	}
	at, began := tx.Now().UTC(), job.StartTime
	if status.RecoveryPointTime != nil {
		at = status.RecoveryPointTime.UTC()
	}
	if status.Started != nil {
		began = status.Started.UTC()
	}
	state := "Completed"
	if status.Phase == v1alpha1.PhaseCompletedWithWarnings {
		state = "Partial"
	}
	body, err := json.Marshal(backup.RecoveryPoint{
		ObjectType: "AzureBackupDiscreteRecoveryPoint", RecoveryPointID: r.Point, RecoveryPointTime: at, RecoveryPointType: "Incremental",
		FriendlyName: at.Format(time.RFC3339), RetentionTagName: spec.Origin[originTag], RetentionTagVersion: spec.Origin[originTagVersion],
		PolicyName: job.PolicyName, RecoveryPointState: state,
		DataStores: []backup.DataStoreDetails{{ID: newID(), Type: backup.OperationalStore, CreationTime: began, Visible: true, State: "COMMITTED"}},
	})
	if err != nil {
		return store.RecoveryPoint{}, nil, fmt.Errorf("recovery point %s: %w", r.Point, err)
	}
	snapshots := status.Snapshots
	if snapshots == nil {
		snapshots = []v1alpha1.VolumeSnapshotRecord{}
	}
	ledger, err := json.Marshal(snapshots)
	if err != nil {
		return store.RecoveryPoint{}, nil, fmt.Errorf("recovery point %s: %w", r.Point, err)
	}
	job.ExtendedInfo.TargetRecoverPoint = &backup.JobRecoveryPoint{RecoveryPointID: r.Point, RecoveryPointTime: at}
	return store.RecoveryPoint{
		Name: r.Point, Vault: r.Vault, Instance: r.Instance, Cluster: r.Cluster, GUID: spec.Origin[originGUID], Job: r.Job, Time: at,
		Container: spec.Location.ContainerURL, Prefix: spec.Location.Prefix, Snapshots: ledger, Body: body,
	}, spec.Origin, nil
}

// addRecoveryPoint makes the recovery point, which expires when its tag's lifetime is over. What expired before it may go now, since it is the newest.
func addRecoveryPoint(tx *store.Tx, p store.RecoveryPoint, origin map[string]string) error {
	if text := origin[originLifetime]; text != "" {
		d, err := iso8601.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("lifetime of recovery point %s: %w", p.Name, err)
		}
		p.Expires = retention.Expiry(p.Time, d)
	}
	if text := origin[originSlot]; text != "" {
		var err error
		if p.Slot, err = time.Parse(time.RFC3339, text); err != nil {
			return fmt.Errorf("slot of recovery point %s: %w", p.Name, err)
		}
		if err := tx.ScheduleSucceeded(p.GUID, p.Slot); err != nil {
			return err
		}
	}
	return errors.Join(tx.PutRecoveryPoint(p), tx.LookNow(p.GUID))
}

// lateReport takes over what comes after the job was given up: the job stays as it ended, but a recovery point that was
// made after all is recorded, and the job says so.
func (s *Service) lateReport(tx *store.Tx, r store.Request, row store.Job, job *backup.Job, status v1alpha1.BackupStatus) error {
	if !status.Phase.Final() {
		return nil
	}
	late := v1alpha1.Issue{Code: codeTimeout, Resource: r.Point,
		Message: fmt.Sprintf("The cluster reported at %s, after the job had been given up, that the %s ended as %s.", tx.Now().UTC().Format(time.RFC3339), r.Kind, status.Phase),
		Action:  "Look at the cluster's workloads, and repeat the job if that is needed."}
	if r.Kind == "Backup" && status.Committed {
		stays, err := recordPoint(tx, r, job, &status)
		if err != nil {
			return err
		}
		if stays {
			late.Message += " Its recovery point is recorded and can be restored."
		} else {
			late.Message += " Its recovery point is deleted, as its backup instance was."
		}
		late.Action = "No action is needed."
	}
	job.ExtendedInfo.SubTasks = subTasks(r.Kind, job.ActivityID, status.Status)
	job.ExtendedInfo.WarningDetails = append(job.ExtendedInfo.WarningDetails, backup.Warning{ResourceName: r.Point, Warning: userFacing(late, job.ActivityID)})
	return putJob(tx, row, job)
}

// strayReport passes over what comes after the job's vault was deleted; a recovery point that was made after all must not stay.
func (s *Service) strayReport(tx *store.Tx, r store.Request, status v1alpha1.BackupStatus) error {
	s.Log.Info("status of a request whose vault is gone", "cluster", r.Cluster, "kind", r.Kind, "request", r.Name, "phase", status.Phase)
	if r.Kind != "Backup" || !status.Phase.Final() || !status.Committed {
		return nil
	}
	_, err := recordPoint(tx, r, &backup.Job{StartTime: r.Created}, &status)
	return err
}

// recordPoint records the recovery point of a backup, and says whether it stays. It does not when its instance has been deleted or is being
// deleted: then it goes into the ledger.
func recordPoint(tx *store.Tx, r store.Request, job *backup.Job, status *v1alpha1.BackupStatus) (stays bool, err error) {
	p, origin, err := newRecoveryPoint(tx, r, job, status)
	if err != nil {
		return false, err
	}
	instance, _, err := store.Load[storedInstance](tx, arm.ID(r.Instance))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	if err == nil && instance.GUID == p.GUID && instance.Properties.CurrentProtectionState != backup.SoftDeleting {
		return true, addRecoveryPoint(tx, p, origin)
	}
	if deleted, err := softDeleted(tx, arm.ID(r.Instance), p.GUID); err != nil || deleted {
		return deleted, errors.Join(err, addRecoveryPoint(tx, p, origin))
	}
	return false, tx.Discard(p, whyInstanceDeleted)
}

// showRestore writes a restore's counts into its job.
func showRestore(job *backup.Job, r store.Request) error {
	var status v1alpha1.RestoreStatus
	if err := json.Unmarshal(r.Status, &status); err != nil {
		return fmt.Errorf("stored status of request %s: %w", r.Name, err)
	}
	detail(job, "ObjectsCreated", strconv.FormatInt(status.Created, 10))
	detail(job, "ObjectsSkipped", strconv.FormatInt(status.Skipped, 10))
	detail(job, "ObjectsFailed", strconv.FormatInt(status.Failed, 10))
	if status.ReportName != "" {
		detail(job, "Report", status.ReportName)
	}
	if status.WorkloadsReady != nil {
		detail(job, "WorkloadsReady", strconv.FormatBool(*status.WorkloadsReady))
	}
	if status.Phase.Final() {
		job.ExtendedInfo.SubTasks[0].AdditionalDetails["DataTransferredInBytes"] = strconv.FormatInt(status.Progress.Bytes, 10)
	}
	return nil
}

func loadJob(tx *store.Tx, name string) (store.Job, *backup.Job, error) {
	row, err := tx.Job(name)
	if err != nil {
		return row, nil, err
	}
	job := &backup.Job{}
	if err := json.Unmarshal(row.Body, job); err != nil {
		return row, nil, fmt.Errorf("stored job %s: %w", name, err)
	}
	return row, job, nil
}

// validationEnded ends the operation that waits for the answer, and the configuration of the instance that it is about.
func (s *Service) validationEnded(tx *store.Tx, r store.Request, failure *arm.Error) error {
	op, err := tx.Operation(r.Operation)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if (op.Kind == operationConfigure || op.Kind == operationSync) && op.Status == arm.OperationInProgress {
		if err := s.configured(tx, op, failure); err != nil {
			return err
		}
	}
	return endOperation(tx, op.ID, failure)
}

// configured tells an instance what an operation on it came to.
func (s *Service) configured(tx *store.Tx, op store.Operation, failure *arm.Error) error {
	instance, row, err := store.Load[storedInstance](tx, op.Resource)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if op.Kind == operationSync {
		instance.proven(failure)
	} else {
		instance.settle(failure)
	}
	return errors.Join(tx.Save(&row, instance), s.reschedule(tx, &instance))
}

// deletionEnded removes what is known of a recovery point when the cluster has deleted it, and ends the instance's deletion with the
// last one.
func (s *Service) deletionEnded(tx *store.Tx, r store.Request, status v1alpha1.Status) error {
	if status.Phase != v1alpha1.PhaseFailed {
		if err := errors.Join(tx.DeleteRecoveryPoint(r.Point), tx.Deleted(r.Point)); err != nil {
			return err
		}
	}
	return s.deletionEndedWith(tx, r)
}

// deletionEndedWith tells of a DeleteBackup that is over the ledger, or the operation that waits for it when it was the last one.
func (s *Service) deletionEndedWith(tx *store.Tx, r store.Request) error {
	if r.Operation == "" {
		return s.deletionTried(tx, r)
	}
	requests, err := tx.RequestsOfOperation(r.Operation)
	if err != nil {
		return err
	}
	_, connected, err := s.reach(tx, arm.ID(r.Cluster))
	if err != nil {
		return err
	}
	var failed *arm.Error
	for _, other := range requests {
		if other.Ended.IsZero() && other.GivenUp.IsZero() {
			return nil
		}
		cause, err := deletionFailure(other)
		if err != nil {
			return err
		}
		if other.Ended.IsZero() && !connected {
			cause = nil // the cluster has disappeared: what it was asked for goes into the ledger
		}
		if cause != nil && failed == nil {
			failed = &arm.Error{Status: 400, Code: "BackupPluginDeleteBackupOperationFailed", Target: other.Instance,
				Message:           fmt.Sprintf("The recovery point '%s' could not be deleted, and so the backup instance stays: %s", other.Point, cause.Message),
				RecommendedAction: []string{"Remove the cause and delete the backup instance again."}, Details: []*arm.Error{cause}}
		}
	}
	return s.instanceDeleted(tx, r, failed)
}

// deletionFailure is why a DeleteBackup did not delete, or nil.
func deletionFailure(r store.Request) (*arm.Error, error) {
	if r.Ended.IsZero() {
		return timeoutError(r, 0), nil
	}
	var status v1alpha1.Status
	if err := json.Unmarshal(r.Status, &status); err != nil {
		return nil, fmt.Errorf("stored status of request %s: %w", r.Name, err)
	}
	return failureOf(status, r.Kind), nil
}

// instanceDeleted removes the instance, or says why it stays.
func (s *Service) instanceDeleted(tx *store.Tx, r store.Request, failed *arm.Error) error {
	op, err := tx.Operation(r.Operation)
	if errors.Is(err, store.ErrNotFound) || err == nil && op.Status != arm.OperationInProgress {
		return nil
	} else if err != nil {
		return err
	}
	if err := endOperation(tx, op.ID, failed); err != nil {
		return err
	}
	if failed != nil {
		return s.configured(tx, op, failed)
	}
	instance, _, err := store.Load[storedInstance](tx, op.Resource)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	points, err := tx.RecoveryPoints(instance.GUID)
	if err != nil {
		return err
	}
	return s.removeInstance(tx, &instance, points)
}

func duration(d time.Duration) iso8601.Duration {
	return iso8601.Exactly(d.Round(100 * time.Nanosecond))
}
