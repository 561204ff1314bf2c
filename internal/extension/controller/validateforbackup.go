package controller

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/inventory"
	"github.com/cairn-backup/cairn/internal/extension/snapshot"
	"github.com/cairn-backup/cairn/internal/extension/storage"
)

// BackupValidations carries out ValidateForBackup objects: what would end a backup is an error, what would be left out of it a warning.
type BackupValidations struct {
	Backups *Backups
}

// SetupWithManager makes a manager call Reconcile for ValidateForBackups.
func (r *BackupValidations) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.ValidateForBackup{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
}

// Reconcile validates; a failure that may pass is tried again a few times.
func (r *BackupValidations) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var v v1alpha1.ValidateForBackup
	if err := r.Backups.Reader.Get(ctx, request.NamespacedName, &v); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := &v.Status
	if s.Phase.Final() || v.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	now := metav1.NewTime(r.Backups.Now())
	if s.Started == nil {
		s.Started = &now
	}
	s.Phase, s.Attempt = v1alpha1.PhaseInProgress, s.Attempt+1
	if err := replaceStatus(ctx, r.Backups.Client, &v, v.Status); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	report, err := r.check(ctx, v.Spec)
	if ctx.Err() != nil {
		return ctrl.Result{}, nil // the extension stops; the next one begins anew
	}
	if err != nil {
		why := backupCause(err)
		r.Backups.Log.Warn("validation for a backup failed", "request", v.Name, "code", why.issue.Code, "error", err)
		if !why.permanent && s.Attempt < maxValidationAttempts {
			return ctrl.Result{RequeueAfter: r.Backups.pause()}, nil
		}
		s.Phase, s.Errors = v1alpha1.PhaseFailed, []v1alpha1.Issue{why.issue}
	} else {
		warnings(s, report)
		s.Phase = completed(*s)
	}
	s.Ended = &metav1.Time{Time: r.Backups.Now()}
	return ctrl.Result{}, client.IgnoreNotFound(replaceStatus(ctx, r.Backups.Client, &v, v.Status))
}

// check does what a backup would do first, and changes nothing but a probe in storage.
func (r *BackupValidations) check(ctx context.Context, spec v1alpha1.ValidateForBackupSpec) ([]bundle.Outcome, error) {
	b := r.Backups
	store, err := storage.Open(ctx, b.Reader, spec.Location)
	if err != nil {
		return nil, err
	}
	if err := store.Probe(ctx, spec.Location.Prefix, b.Now()); err != nil {
		return nil, err
	}
	report, err := missingNamespaces(ctx, b.Reader, spec.Filter)
	if err != nil || !spec.SnapshotVolumes {
		return report, err
	}
	lister, err := inventory.NewLister(b.Config)
	if err != nil {
		return nil, err
	}
	revision, err := lister.Revision(ctx)
	if err != nil {
		return nil, err
	}
	claims, volumes, err := lister.Claims(ctx, inventory.NewScope(spec.Filter), revision)
	if err != nil {
		return nil, err
	}
	classes, err := b.classes(ctx)
	if err != nil {
		return nil, err
	}
	_, left := snapshot.Choose("", 0, claims, volumes, classes)
	return append(report, left...), nil
}

// missingNamespaces reports the namespaces that are asked for but do not exist.
func missingNamespaces(ctx context.Context, reader client.Reader, filter v1alpha1.Filter) ([]bundle.Outcome, error) {
	var report []bundle.Outcome
	scope := inventory.NewScope(filter)
	for _, name := range slices.Compact(slices.Sorted(slices.Values(filter.IncludedNamespaces))) {
		if !scope.Namespace(name) {
			continue
		}
		err := reader.Get(ctx, client.ObjectKey{Name: name}, &corev1.Namespace{})
		if apierrors.IsNotFound(err) {
			report = append(report, inventory.NamespaceNotFound(name))
		} else if err != nil {
			return nil, fmt.Errorf("read namespace %s: %w", name, err)
		}
	}
	return report, nil
}
