package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/inventory"
	"github.com/cairn-backup/cairn/internal/extension/snapshot"
	"github.com/cairn-backup/cairn/internal/extension/storage"
)

// The codes of why a backup failed as a whole; storage has its own.
const (
	// CodeBackupRestarted is Azure's code for an extension that was killed again and again.
	CodeBackupRestarted = "UserErrorBackupPluginPodRestartedDuringBackup"
	// CodeRecoveryPointExists says that storage has a recovery point of this ID that this request did not make.
	CodeRecoveryPointExists = "RecoveryPointExists"
	// CodeCutExpired says that the API server forgot the revision of the cut before all was listed.
	CodeCutExpired = "ResourceVersionExpired"
	// CodeCommitUnknown says that storage could not be asked whether the recovery point was committed.
	CodeCommitUnknown = "CommitUnknown"
	// CodeMissingPermission says that the API server refused what a backup cannot do without.
	CodeMissingPermission = "ExtensionMissingPermissions"
	// CodeInvalidRequest says that the request itself is wrong.
	CodeInvalidRequest = "InvalidRequest"
	// CodeBackupFailed is for all other causes.
	CodeBackupFailed = "BackupFailed"
)

const (
	// maxBackupAttempts is how often a backup is begun.
	maxBackupAttempts = 3
	// commitPatience is how long storage may be away while it alone knows whether the recovery point was committed.
	commitPatience = 30 * time.Minute
	// backupFinalizer holds a Backup until nothing is left of it that no recovery point owns.
	backupFinalizer = v1alpha1.Group + "/backup"
)

// Backups carries out Backup objects. An attempt is all or nothing: one that this process did not begin is undone, and the next begun, since objects and
// volumes must be of one instant; unless its commit object is in storage, then only the snapshot objects are still to be released.
type Backups struct {
	// Client writes, and watches snapshots; Reader reads requests and credentials past any cache.
	Client client.WithWatch
	Reader client.Reader
	// Config is for listing objects as bytes.
	Config *rest.Config
	Log    *slog.Logger
	Now    func() time.Time
	// Generator names this program and its version in bundles.
	Generator string
	// Snapshots holds the time limits of snapshots; its other fields are set for each attempt.
	Snapshots snapshot.Taker
	// Pause is the time between an attempt and its undoing; 0 means 2 seconds.
	Pause time.Duration

	causes sync.Map // types.UID → cause: why the last attempt of this process failed
}

// cause is why an attempt failed.
type cause struct {
	issue     v1alpha1.Issue
	permanent bool // another attempt would fail alike
}

// SetupWithManager makes a manager call Reconcile for Backups; two are carried out at once.
func (r *Backups) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.Backup{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(r)
}

// Reconcile carries a Backup from where it stands to its end, or to the end of an attempt.
func (r *Backups) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var backup v1alpha1.Backup
	if err := r.Reader.Get(ctx, request.NamespacedName, &backup); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	b := &backupRun{Backups: r, log: r.Log.With("backup", backup.Name), ledger: &ledger{client: r.Client, now: r.Now, log: r.Log, backup: &backup},
		name: backup.Name, uid: backup.UID, spec: backup.Spec}
	result, err := b.advance(ctx)
	if ctx.Err() != nil {
		return ctrl.Result{}, nil // the extension stops; the next one finds the Backup where it stands
	}
	return result, err
}

// backupRun is one reconciliation of a Backup.
type backupRun struct {
	*Backups
	log    *slog.Logger
	ledger *ledger
	name   string
	uid    types.UID
	spec   v1alpha1.BackupSpec
}

// advance decides by the status what is to be done.
func (b *backupRun) advance(ctx context.Context) (ctrl.Result, error) {
	status := b.ledger.status()
	switch {
	case status.Phase.Final():
		return ctrl.Result{}, b.letGo(ctx)
	case status.Committed:
		return ctrl.Result{}, b.release(ctx)
	case status.Phase == v1alpha1.PhaseInProgress:
		return b.resume(ctx, status)
	case b.deleted():
		return ctrl.Result{}, b.letGo(ctx)
	}
	return b.attempt(ctx)
}

func (b *backupRun) deleted() bool { return b.ledger.backup.DeletionTimestamp != nil }

// resume deals with an attempt that did not come to its end: it was committed, or it is undone.
func (b *backupRun) resume(ctx context.Context, status v1alpha1.BackupStatus) (ctrl.Result, error) {
	why, known := b.lastCause()
	if begun(status.Progress, v1alpha1.StepCommit) {
		rp, err := b.committed(ctx)
		switch {
		case err == nil && rp.Attempt == status.Attempt:
			return ctrl.Result{}, b.acknowledge(ctx, rp)
		case err == nil:
			why, known = cause{issue: recoveryPointExists(b.spec.RecoveryPointID), permanent: true}, true
		case !errors.Is(err, bundle.ErrNoCommit):
			return b.uncertain(ctx, status, err)
		}
	}
	if err := b.undo(ctx, status); err != nil {
		return ctrl.Result{}, err
	}
	switch {
	case b.deleted():
		return ctrl.Result{}, b.fail(ctx, deletedIssue("backup", "What it had made is removed."))
	case status.Attempt >= maxBackupAttempts || why.permanent:
		if !known {
			why.issue = v1alpha1.Issue{Code: CodeBackupRestarted, Message: fmt.Sprintf("the backup was begun %d times, and each time the extension was restarted before its end", status.Attempt),
				Action: "See in the pod's state why it ended; for lack of memory, set a higher resources.limits.memory for the extension."}
		}
		return ctrl.Result{}, b.fail(ctx, why.issue)
	}
	return b.attempt(ctx)
}

func (b *backupRun) lastCause() (cause, bool) {
	value, found := b.causes.Load(b.uid)
	if !found {
		return cause{}, false
	}
	c, ok := value.(cause)
	return c, ok
}

// committed reads the commit object.
func (b *backupRun) committed(ctx context.Context) (bundle.RecoveryPoint, error) {
	store, err := storage.Open(ctx, b.Reader, b.spec.Location)
	if err != nil {
		return bundle.RecoveryPoint{}, err
	}
	return bundle.ReadRecoveryPoint(ctx, store, b.spec.Location.Prefix, b.spec.RecoveryPointID)
}

// uncertain waits for storage, which alone knows whether the commit object was stored. Until then nothing may be deleted.
func (b *backupRun) uncertain(ctx context.Context, status v1alpha1.BackupStatus, err error) (ctrl.Result, error) {
	for _, step := range status.Progress.Steps {
		if step.Name == v1alpha1.StepCommit && b.Now().Sub(step.Started.Time) > commitPatience {
			return ctrl.Result{}, b.fail(ctx, v1alpha1.Issue{Code: CodeCommitUnknown, Resource: "storage",
				Message: fmt.Sprintf("storage was lost while the recovery point was being committed, so its %d snapshots were kept: %v", len(status.Snapshots), err),
				Action:  "When storage is back, delete the recovery point " + b.spec.RecoveryPointID + " and back up again."})
		}
	}
	b.log.Warn("storage cannot say whether the recovery point was committed, it is asked again", "error", err)
	return ctrl.Result{RequeueAfter: 10 * b.pause()}, nil
}

// acknowledge notes a commit that the status does not know of.
func (b *backupRun) acknowledge(ctx context.Context, rp bundle.RecoveryPoint) error {
	err := b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) {
		b.noteCommit(s, rp)
	})
	if err != nil {
		return err
	}
	return b.release(ctx)
}

func (b *backupRun) noteCommit(s *v1alpha1.BackupStatus, rp bundle.RecoveryPoint) {
	s.Committed = true
	s.Progress.ObjectsDone, s.Progress.ObjectsTotal, s.Progress.Bytes = rp.Totals.Objects, rp.Totals.Objects, rp.Totals.Bytes
	end(&s.Progress, b.Now(), v1alpha1.StepCommit)
	begin(&s.Progress, b.Now(), v1alpha1.StepRelease)
}

// undo removes what an attempt left: its snapshots, and its blobs. Blobs of an attempt that was not committed mean nothing, so storage that is away does not
// hold the undoing up.
func (b *backupRun) undo(ctx context.Context, status v1alpha1.BackupStatus) error {
	b.log.Info("attempt is undone", "attempt", status.Attempt, "snapshots", len(status.Snapshots))
	left, err := b.taker(status.Attempt).Abandon(ctx, status.Snapshots)
	if err != nil {
		return fmt.Errorf("undo attempt %d of backup %s: %w", status.Attempt, b.name, err)
	}
	if len(left) > 0 {
		b.log.Warn("snapshots of an attempt are still being removed by their controllers", "attempt", status.Attempt, "error", &snapshot.NotRemovedError{Objects: left})
	}
	if err := b.deleteBlobs(ctx, status.Attempt); err != nil && ctx.Err() == nil {
		b.log.Warn("blobs of an attempt stay in storage", "attempt", status.Attempt, "error", err)
	}
	return nil
}

// deleteBlobs removes the blobs of all attempts up to one: storage may have been away when an earlier one was undone. It does so only if storage says that none of
// them was committed, since another request may have made a recovery point of this ID, with attempts of the same numbers.
func (b *backupRun) deleteBlobs(ctx context.Context, last int32) error {
	store, err := storage.Open(ctx, b.Reader, b.spec.Location)
	if err != nil {
		return err
	}
	_, err = bundle.ReadRecoveryPoint(ctx, store, b.spec.Location.Prefix, b.spec.RecoveryPointID)
	if err == nil {
		return nil
	}
	if !errors.Is(err, bundle.ErrNoCommit) {
		return err
	}
	for attempt := int32(1); attempt <= last; attempt++ {
		if err := store.DeleteAll(ctx, bundle.AttemptFolder(b.spec.Location.Prefix, b.spec.RecoveryPointID, attempt)); err != nil {
			return err
		}
	}
	return nil
}

func (b *backupRun) taker(attempt int32) *snapshot.Taker {
	limits := &b.Snapshots
	return &snapshot.Taker{Client: b.Client, RecoveryPointID: b.spec.RecoveryPointID, Attempt: attempt, Now: b.Now,
		Stall: limits.Stall, GiveUp: limits.GiveUp, Removal: limits.Removal}
}

func (r *Backups) pause() time.Duration {
	if r.Pause == 0 {
		return 2 * time.Second
	}
	return r.Pause
}

// attempt begins the next attempt and carries it out. A failed one is left for resume to deal with, as it does after a crash.
func (b *backupRun) attempt(ctx context.Context) (ctrl.Result, error) {
	if err := b.hold(ctx); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	err := b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) {
		now := metav1.NewTime(b.Now())
		started := s.Started
		if started == nil {
			started = &now
		}
		*s = v1alpha1.BackupStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseInProgress, Attempt: s.Attempt + 1, Started: started}}
		begin(&s.Progress, now.Time, v1alpha1.StepCut)
	})
	if err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	attempt := b.ledger.status().Attempt
	b.log.Info("attempt begins", "attempt", attempt)
	making, stop := b.ledger.stoppable(ctx)
	defer stop()
	err = b.make(making, attempt)
	if ctx.Err() != nil {
		return ctrl.Result{}, ctx.Err()
	}
	if err == nil {
		return ctrl.Result{}, b.release(ctx)
	}
	if errors.Is(context.Cause(making), errDeleted) {
		b.log.Info("backup was deleted, its attempt stops", "attempt", attempt)
	} else {
		why := backupCause(err)
		b.log.Error("attempt failed", "attempt", attempt, "code", why.issue.Code, "error", err)
		b.causes.Store(b.uid, why)
	}
	// It is not undone at once: storage may still be carrying out what it was asked for before the attempt stopped.
	return ctrl.Result{RequeueAfter: b.pause()}, nil
}

// hold puts the finalizer on the Backup.
func (b *backupRun) hold(ctx context.Context) error {
	return setFinalizer(ctx, b.Reader, b.Client, b.ledger.backup, backupFinalizer, controllerutil.AddFinalizer)
}

// letGo takes the finalizer off.
func (b *backupRun) letGo(ctx context.Context) error {
	b.causes.Delete(b.uid)
	return client.IgnoreNotFound(setFinalizer(ctx, b.Reader, b.Client, b.ledger.backup, backupFinalizer, controllerutil.RemoveFinalizer))
}

// release removes the snapshot objects of a committed recovery point and writes the final status.
func (b *backupRun) release(ctx context.Context) error {
	status := b.ledger.status()
	var kept, failed []v1alpha1.VolumeSnapshotRecord
	for _, record := range status.Snapshots {
		if record.Handle != "" {
			kept = append(kept, record)
		} else {
			failed = append(failed, record)
		}
	}
	taker := b.taker(status.Attempt)
	var slow snapshot.NotRemovedError
	err := patiently(ctx, func() error {
		released, err := taker.Release(ctx, kept)
		if err != nil {
			return err
		}
		abandoned, err := taker.Abandon(ctx, failed)
		slow.Objects = append(released, abandoned...)
		return err
	})
	if err != nil {
		return fmt.Errorf("release the snapshots of backup %s: %w", b.name, err)
	}
	err = b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) {
		if len(slow.Objects) > 0 {
			s.Warnings = append(s.Warnings, v1alpha1.Issue{Code: snapshot.CodeNotRemoved, Resource: "volumesnapshots.snapshot.storage.k8s.io", Message: slow.Error(),
				Action: "The recovery point is whole. Repair the snapshot controller or the driver; the objects then go away."})
			s.WarningCount++
		}
		for i := range kept {
			kept[i].SnapshotName = ""
		}
		s.Snapshots = kept
		end(&s.Progress, b.Now(), v1alpha1.StepRelease)
		s.Phase, s.Ended = completed(s.Status), &metav1.Time{Time: b.Now()}
	})
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	b.log.Info("backup ended", "phase", b.ledger.status().Phase, "objects", status.Progress.ObjectsDone, "volumes", len(kept))
	return b.letGo(ctx)
}

// fail writes that the backup failed. What it made has been removed, or the issue says so.
func (b *backupRun) fail(ctx context.Context, issue v1alpha1.Issue) error {
	err := b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) {
		if issue.Code != CodeCommitUnknown {
			s.Snapshots = nil
		}
		now := b.Now()
		for _, step := range s.Progress.Steps {
			end(&s.Progress, now, step.Name)
		}
		s.Phase, s.Errors, s.Ended = v1alpha1.PhaseFailed, []v1alpha1.Issue{issue}, &metav1.Time{Time: now}
	})
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	b.log.Error("backup failed", "code", issue.Code, "message", issue.Message)
	return b.letGo(ctx)
}

func recoveryPointExists(id string) v1alpha1.Issue {
	return v1alpha1.Issue{Code: CodeRecoveryPointExists, Resource: "storage", Message: "storage has a recovery point " + id + " already, which another request made",
		Action: "Start a new backup."}
}

// errRecoveryPointExists ends a backup whose ID is taken.
var errRecoveryPointExists = errors.New("the recovery point exists already")

// invalidRequest is a request that no attempt can carry out.
type invalidRequest struct{ error }

// backupCause finds the code that fits a failure, and whether trying again may help.
func backupCause(err error) cause {
	if issue, ok := storage.AsIssue(err); ok {
		return cause{issue: issue, permanent: storage.Permanent(err)}
	}
	issue := v1alpha1.Issue{Code: CodeBackupFailed, Message: err.Error(), Action: "Start the backup again; if it fails again, see the extension's log."}
	var invalid invalidRequest
	var status apierrors.APIStatus
	switch {
	case errors.Is(err, errRecoveryPointExists):
		return cause{issue: v1alpha1.Issue{Code: CodeRecoveryPointExists, Resource: "storage", Message: err.Error(), Action: "Start a new backup."}, permanent: true}
	case errors.As(err, &invalid):
		issue.Code = CodeInvalidRequest
		return cause{issue: issue, permanent: true}
	case errors.Is(err, inventory.ErrExpired):
		issue.Code, issue.Action = CodeCutExpired, "Storage or the API server is too slow for this cluster: back up fewer namespaces at once, or give the extension more processor time."
	case apierrors.IsForbidden(err):
		issue.Code, issue.Action = CodeMissingPermission, "Connect the cluster again, which renews the extension's role."
		return cause{issue: issue, permanent: true}
	case errors.As(err, &status), isNetwork(err):
		issue.Code, issue.Action = CodeClusterUnavailable, "See whether the cluster's API server answers, and start the backup again."
	}
	return cause{issue: issue}
}

// clusterOf reads what a bundle says about the cluster.
func (r *Backups) clusterOf(ctx context.Context, lister *inventory.Lister) (bundle.Cluster, error) {
	var system corev1.Namespace
	if err := r.Reader.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, &system); err != nil {
		return bundle.Cluster{}, fmt.Errorf("read the namespace %s: %w", metav1.NamespaceSystem, err)
	}
	version, err := lister.Version(ctx)
	if err != nil {
		return bundle.Cluster{}, err
	}
	return bundle.Cluster{UID: string(system.UID), GitVersion: version.GitVersion, Platform: version.Platform}, nil
}
