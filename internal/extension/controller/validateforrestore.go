package controller

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/apply"
)

// RestoreValidations carries out ValidateForRestore objects: it makes the very plan that a Restore would follow, and changes nothing.
type RestoreValidations struct {
	Restores
}

// SetupWithManager makes a manager call Reconcile for ValidateForRestores.
func (r *RestoreValidations) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.ValidateForRestore{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(r)
}

// Reconcile validates once. An error that may pass by itself is tried again a few times, as a restore would.
func (r *RestoreValidations) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var v v1alpha1.ValidateForRestore
	if err := r.Reader.Get(ctx, req.NamespacedName, &v); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if v.Status.Phase.Final() || v.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	s := &v.Status
	now := metav1.NewTime(r.Now())
	if s.Started == nil {
		s.Started = &now
	}
	s.Phase, s.Attempt = v1alpha1.PhaseInProgress, s.Attempt+1
	if err := replaceStatus(ctx, r.Client, &v, v.Status); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	tally, err := r.check(ctx, &v)
	if ctx.Err() != nil {
		return ctrl.Result{}, nil // the extension stops; the next one begins anew
	}
	if err != nil {
		issue, retry := restoreIssue(err)
		r.Log.Info("validation of a restore failed", "validation", v.Name, "code", issue.Code, "error", err)
		if retry && s.Attempt < maxValidationAttempts {
			return ctrl.Result{RequeueAfter: r.Interval}, nil
		}
		s.Phase, s.Errors = v1alpha1.PhaseFailed, []v1alpha1.Issue{issue}
	} else {
		s.Phase, s.Warnings, s.WarningCount = v1alpha1.PhaseCompleted, tally.Warnings, tally.WarningCount
		if s.WarningCount > 0 {
			s.Phase = v1alpha1.PhaseCompletedWithWarnings
		}
		s.Progress.ObjectsTotal, s.Progress.Bytes = tally.Total, tally.Bytes
	}
	ended := metav1.NewTime(r.Now())
	s.Ended = &ended
	return ctrl.Result{}, client.IgnoreNotFound(replaceStatus(ctx, r.Client, &v, v.Status))
}

// maxValidationAttempts is small: a user waits for the answer.
const maxValidationAttempts = 3

func (r *RestoreValidations) check(ctx context.Context, v *v1alpha1.ValidateForRestore) (apply.Tally, error) {
	opened, err := openRecoveryPoint(ctx, r.Reader, v.Spec)
	if err != nil {
		return apply.Tally{}, err
	}
	restore := apply.New(r.options(v.UID, v.Spec, func(bundle.RestoreOutcome) error { return nil }))
	rp, err := opened.read(ctx, restore.CountBytes)
	if err != nil {
		return apply.Tally{}, err
	}
	err = restore.Check(ctx, rp)
	return restore.Tally(), err
}
