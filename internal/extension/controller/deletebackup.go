package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/snapshot"
	"github.com/cairn-backup/cairn/internal/extension/storage"
)

// CodeDeleteFailed is Azure's code for a recovery point that could not be deleted.
const CodeDeleteFailed = "BackupPluginDeleteBackupOperationFailed"

// The steps of a DeleteBackup. The commit object goes first: what is left after a crash is no recovery point any more.
const (
	stepDeleteCommit    = "DeleteCommit"
	stepDeleteSnapshots = "DeleteSnapshots"
	stepDeleteBlobs     = "DeleteBlobs"
)

// How often a deletion is begun; it goes on where the last one ended. One that waits in vain for snapshots to go takes minutes each time.
const maxDeleteAttempts, maxSlowDeleteAttempts = 5, 2

// deletionsAtOnce is how many deletions are carried out at once: those that wait for a driver that is away must not keep those of others.
const deletionsAtOnce = 8

// Deletions carries out DeleteBackup objects. Every step may be done again, so that nothing need be remembered.
type Deletions struct {
	Client client.WithWatch
	Reader client.Reader
	Log    *slog.Logger
	Now    func() time.Time
	// Removal is how long to wait for snapshots that are to be deleted while none is; 0 means 5 minutes.
	Removal time.Duration
	// Pause is the time between two attempts; 0 means 5 seconds.
	Pause time.Duration
}

// SetupWithManager makes a manager call Reconcile for DeleteBackups.
func (r *Deletions) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.DeleteBackup{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: deletionsAtOnce}).
		Complete(r)
}

// Reconcile deletes a recovery point.
func (r *Deletions) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var deletion v1alpha1.DeleteBackup
	if err := r.Reader.Get(ctx, request.NamespacedName, &deletion); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := &deletion.Status
	if s.Phase.Final() || deletion.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	now := metav1.NewTime(r.Now())
	if s.Started == nil {
		s.Started = &now
	}
	s.Phase, s.Attempt, s.Progress = v1alpha1.PhaseInProgress, s.Attempt+1, v1alpha1.Progress{VolumesTotal: int64(len(deletion.Spec.Snapshots))}
	err := r.run(ctx, &deletion)
	if ctx.Err() != nil {
		return ctrl.Result{}, nil // the extension stops; the next one begins anew
	}
	if err != nil {
		issue, attempts := deletionIssue(err, deletion.Spec.RecoveryPointID)
		r.Log.Error("recovery point cannot be deleted", "request", deletion.Name, "attempt", s.Attempt, "code", issue.Code, "error", err)
		if s.Attempt < attempts {
			pause := r.Pause
			if pause == 0 {
				pause = 5 * time.Second
			}
			return ctrl.Result{RequeueAfter: pause * time.Duration(s.Attempt)}, nil
		}
		s.Phase, s.Errors = v1alpha1.PhaseFailed, []v1alpha1.Issue{issue}
	} else {
		s.Phase = v1alpha1.PhaseCompleted
		r.Log.Info("recovery point deleted", "request", deletion.Name, "recoveryPoint", deletion.Spec.RecoveryPointID, "snapshots", len(deletion.Spec.Snapshots))
	}
	s.Ended = &metav1.Time{Time: r.Now()}
	return ctrl.Result{}, client.IgnoreNotFound(patiently(ctx, func() error { return replaceStatus(ctx, r.Client, &deletion, deletion.Status) }))
}

// run takes the steps, each in the status before it begins.
func (r *Deletions) run(ctx context.Context, deletion *v1alpha1.DeleteBackup) error {
	spec := deletion.Spec
	var store *storage.Container
	steps := []struct {
		name string
		do   func() error
	}{
		{stepDeleteCommit, func() (err error) {
			if store, err = storage.Open(ctx, r.Reader, spec.Location); err != nil {
				return err
			}
			return store.Delete(ctx, bundle.CommitName(spec.Location.Prefix, spec.RecoveryPointID))
		}},
		{stepDeleteSnapshots, func() error {
			taker := snapshot.Taker{Client: r.Client, RecoveryPointID: spec.RecoveryPointID, Now: r.Now, Removal: r.Removal}
			left, err := taker.DeleteHandles(ctx, spec.Snapshots)
			if err == nil && len(left) > 0 {
				err = &snapshot.NotRemovedError{Objects: left}
			}
			return err
		}},
		{stepDeleteBlobs, func() error {
			deletion.Status.Progress.VolumesDone = int64(len(spec.Snapshots))
			return store.DeleteAll(ctx, bundle.Folder(spec.Location.Prefix, spec.RecoveryPointID))
		}},
	}
	for _, step := range steps {
		begin(&deletion.Status.Progress, r.Now(), step.name)
		if err := patiently(ctx, func() error { return replaceStatus(ctx, r.Client, deletion, deletion.Status) }); err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("%s of recovery point %s: %w", step.name, spec.RecoveryPointID, err)
		}
		end(&deletion.Status.Progress, r.Now(), step.name)
	}
	return nil
}

// deletionIssue says what an error means to the user, and how many attempts there are if they end with it.
func deletionIssue(err error, id string) (issue v1alpha1.Issue, attempts int32) {
	if issue, ok := storage.AsIssue(err); ok {
		if storage.Permanent(err) {
			return issue, 1
		}
		return issue, maxDeleteAttempts
	}
	issue = v1alpha1.Issue{Code: CodeDeleteFailed, Resource: "recoverypoints/" + id, Message: err.Error(), Action: "See the extension's log, and delete the recovery point again."}
	var slow *snapshot.NotRemovedError
	if errors.As(err, &slow) {
		issue.Action = "Repair the CSI driver or the snapshot controller, and delete the recovery point again; else delete its snapshots by hand in storage."
		return issue, maxSlowDeleteAttempts
	}
	return issue, maxDeleteAttempts
}
