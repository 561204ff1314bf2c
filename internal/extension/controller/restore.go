package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/apply"
	"github.com/cairn-backup/cairn/internal/extension/storage"
	"github.com/cairn-backup/cairn/internal/plan"
)

// The codes of why a restore failed as a whole; storage has its own, and failed objects those of package apply.
const (
	// CodeRecoveryPointNotFound says that storage has no such recovery point.
	CodeRecoveryPointNotFound = "UserErrorRecoveryPointNotFound"
	// CodeRecoveryPointUnreadable says that the recovery point is damaged, or encrypted to another identity.
	CodeRecoveryPointUnreadable = "RecoveryPointUnreadable"
	// CodeIdentityNotFound says that the Secret with the recovery point's identity is not there.
	CodeIdentityNotFound = "IdentitySecretNotFound"
	// CodeClusterUnavailable says that the API server did not answer, or refused what a restore cannot do without.
	CodeClusterUnavailable = "ClusterUnavailable"
	// CodeRestarted is Azure's code for an extension that was killed again and again.
	CodeRestarted = "UserErrorBackupPluginPodRestartedDuringRestore"
)

// maxRestoreAttempts bounds how often a restore begins anew, be it that the extension was killed or that storage was away.
const maxRestoreAttempts = 10

// Restores carries out Restore objects. An attempt runs within one reconciliation: what it did is in the cluster itself, where the
// next attempt recognises it, so that nothing is needed of an attempt that was killed.
type Restores struct {
	// Client reads requests and writes their status; reads must not come from a cache, which may be older than the last status.
	Client  client.Client
	Reader  client.Reader
	Cluster apply.Cluster
	Log     *slog.Logger
	Now     func() time.Time
	// Patience is how long a restore waits while nothing gets on; Interval is between two looks, and between two status updates.
	Patience, Interval time.Duration
}

// restoreFinalizer holds a Restore until it is told how it ended.
const restoreFinalizer = v1alpha1.Group + "/restore"

// restoreWorkers is how many objects are created at once.
const restoreWorkers = 16

// SetupWithManager makes a manager call Reconcile for Restores; two are carried out at once.
func (r *Restores) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.Restore{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(r)
}

// Reconcile carries a Restore out, from its beginning or after a crash.
func (r *Restores) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var restore v1alpha1.Restore
	if err := r.Reader.Get(ctx, req.NamespacedName, &restore); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	switch {
	case restore.Status.Phase.Final(), restore.DeletionTimestamp != nil && restore.Status.Phase == "":
		return ctrl.Result{}, r.letGo(ctx, &restore)
	case restore.DeletionTimestamp != nil:
		return ctrl.Result{}, r.stopped(ctx, &restore)
	}
	if err := setFinalizer(ctx, r.Reader, r.Client, &restore, restoreFinalizer, controllerutil.AddFinalizer); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	a := r.begin(&restore)
	if restore.Status.Attempt > maxRestoreAttempts {
		return ctrl.Result{}, a.end(ctx, v1alpha1.PhaseFailed, v1alpha1.Issue{Code: CodeRestarted,
			Message: fmt.Sprintf("the restore was begun %d times and did not come to its end", maxRestoreAttempts),
			Action:  "see whether the extension's pod is killed for lack of memory, and whether storage can be reached"})
	}
	if err := patiently(ctx, func() error { return a.write(ctx) }); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	err := a.run(ctx)
	switch {
	case ctx.Err() != nil:
		return ctrl.Result{}, nil // the extension stops; the next one carries on
	case errors.Is(err, errRequestGone):
		a.progress()
		return ctrl.Result{}, r.stopped(ctx, &restore)
	case err == nil:
		return ctrl.Result{}, a.finish(ctx)
	}
	issue, retry := restoreIssue(err)
	r.Log.Error("attempt of a restore failed", "restore", restore.Name, "attempt", restore.Status.Attempt, "code", issue.Code, "error", err, "again", retry)
	if !retry || restore.Status.Attempt >= maxRestoreAttempts {
		return ctrl.Result{}, a.end(ctx, v1alpha1.PhaseFailed, issue)
	}
	return ctrl.Result{RequeueAfter: time.Duration(restore.Status.Attempt) * 5 * r.Interval}, nil
}

// stopped writes how a restore ended whose object was deleted: what it had created stays, as what was there before it does.
func (r *Restores) stopped(ctx context.Context, restore *v1alpha1.Restore) error {
	r.Log.Info("restore was deleted, it stops", "restore", restore.Name, "created", restore.Status.Created)
	now := metav1.NewTime(r.Now())
	s := &restore.Status
	for _, step := range s.Progress.Steps {
		end(&s.Progress, now.Time, step.Name)
	}
	s.Phase, s.Ended = v1alpha1.PhaseFailed, &now
	s.Errors = []v1alpha1.Issue{deletedIssue("restore", fmt.Sprintf("The %d objects that it had created stay.", s.Created))}
	if err := patiently(ctx, func() error { return replaceStatus(ctx, r.Client, restore, restore.Status) }); err != nil {
		return client.IgnoreNotFound(err)
	}
	return r.letGo(ctx, restore)
}

// letGo takes the finalizer off.
func (r *Restores) letGo(ctx context.Context, restore *v1alpha1.Restore) error {
	return client.IgnoreNotFound(setFinalizer(ctx, r.Reader, r.Client, restore, restoreFinalizer, controllerutil.RemoveFinalizer))
}

// attempt is one run of a restore.
type attempt struct {
	*Restores
	object  *v1alpha1.Restore
	restore *apply.Restore
	report  *bundle.Lines
}

// begin counts the attempt and resets what it counts.
func (r *Restores) begin(restore *v1alpha1.Restore) *attempt {
	now := metav1.NewTime(r.Now())
	s := &restore.Status
	started := s.Started
	if started == nil {
		started = &now
	}
	*s = v1alpha1.RestoreStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseInProgress, Attempt: s.Attempt + 1, Started: started}}
	a := &attempt{Restores: r, object: restore}
	a.restore = apply.New(r.options(restore.UID, restore.Spec, a.line))
	a.step(v1alpha1.StepPlan)
	return a
}

func (r *Restores) options(uid types.UID, spec v1alpha1.RestoreSpec, report func(bundle.RestoreOutcome) error) apply.Options {
	return apply.Options{
		Cluster: r.Cluster, UID: uid, Request: plan.Request{Filter: spec.Filter, RestoreVolumeData: spec.RestoreVolumeData},
		Report: report, Log: r.Log, Now: r.Now, Workers: restoreWorkers, Patience: r.Patience, Interval: r.Interval,
	}
}

// line writes a line of the report.
func (a *attempt) line(o bundle.RestoreOutcome) error {
	text, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("report of restore %s: %w", a.object.Name, err)
	}
	return a.report.Write(text)
}

// errRequestGone ends the work on a request that was deleted.
var errRequestGone = errors.New("the request was deleted")

// run takes the steps, and writes the status beside them.
func (a *attempt) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	written := make(chan struct{})
	steps := make(chan string)
	ended := make(chan struct{})
	go func() {
		defer close(written)
		a.follow(ctx, steps, ended, cancel)
	}()
	err = a.steps(ctx, steps)
	close(ended)
	<-written
	if errors.Is(context.Cause(ctx), errRequestGone) {
		err = errRequestGone
	}
	cancel(nil)
	return err
}

// steps does the work. Only follow touches the status meanwhile.
func (a *attempt) steps(ctx context.Context, steps chan<- string) error {
	opened, err := openRecoveryPoint(ctx, a.Reader, a.object.Spec)
	if err != nil {
		return err
	}
	rp, err := opened.read(ctx, a.restore.CountBytes)
	if err != nil {
		return err
	}
	lines, err := bundle.RestoreReport(ctx, opened.store, a.object.Spec.Location.Prefix, rp.RecoveryPoint(), a.object.Name, a.object.Status.Attempt)
	if err != nil {
		return err
	}
	a.report = lines
	if err := a.restore.Plan(ctx, rp); err != nil {
		lines.Abort(err)
		return err
	}
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{{v1alpha1.StepApply, a.restore.Apply}, {v1alpha1.StepWait, a.restore.Wait}} {
		select {
		case steps <- s.name:
		case <-ctx.Done():
			lines.Abort(ctx.Err())
			return ctx.Err()
		}
		if err := s.do(ctx); err != nil {
			lines.Abort(err)
			return err
		}
	}
	// The name holds the attempt, so only an answer of storage that got lost can have taken it.
	if err := lines.Close(); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// follow writes the status whenever a step begins, and once per Interval, until the work has ended.
func (a *attempt) follow(ctx context.Context, steps <-chan string, ended <-chan struct{}, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(max(a.Interval, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			<-ended
			return
		case name := <-steps:
			a.step(name)
		case <-tick.C:
		}
		a.progress()
		deleted, err := writeStatus(ctx, a.Client, a.object, a.object.Status)
		if deleted || apierrors.IsNotFound(err) {
			cancel(errRequestGone)
		} else if err != nil && ctx.Err() == nil {
			a.Log.Warn("status of a restore cannot be written; it goes on", "restore", a.object.Name, "error", err)
		}
	}
}

// step ends the step that runs and begins the next.
func (a *attempt) step(name string) {
	now := metav1.NewTime(a.Now())
	p := &a.object.Status.Progress
	if n := len(p.Steps); n > 0 && p.Steps[n-1].Ended == nil {
		p.Steps[n-1].Ended = &now
	}
	p.Step = name
	if name != "" {
		p.Steps = append(p.Steps, v1alpha1.Step{Name: name, Started: now})
	}
}

// progress copies the tally into the status.
func (a *attempt) progress() apply.Tally {
	t := a.restore.Tally()
	s := &a.object.Status
	s.Created, s.Skipped, s.Failed = t.Created, t.Skipped, t.Failed
	s.Warnings, s.WarningCount, s.WorkloadsReady = t.Warnings, t.WarningCount, t.WorkloadsReady
	p := &s.Progress
	p.ObjectsDone, p.ObjectsTotal = t.Created+t.Skipped+t.Failed, t.Total
	p.VolumesDone, p.VolumesTotal, p.Bytes = t.Volumes, t.VolumesTotal, t.Bytes
	return t
}

// finish writes how a restore ended that was carried out.
func (a *attempt) finish(ctx context.Context) error {
	t := a.progress()
	if a.report.Count() > 0 {
		spec := a.object.Spec
		a.object.Status.ReportName = bundle.RestoreReportName(spec.Location.Prefix, spec.RecoveryPointID, a.object.Name, a.object.Status.Attempt)
	}
	phase, issues := RestoreOutcome(t)
	a.Log.Info("restore ended", "restore", a.object.Name, "phase", phase, "created", t.Created, "skipped", t.Skipped, "failed", t.Failed, "warnings", t.WarningCount)
	return a.end(ctx, phase, issues...)
}

// RestoreOutcome is the rule for a restore's phase: Failed if nothing could be created though something should have been, or if the
// request asked for nothing that the recovery point has; CompletedWithWarnings if an object or a volume is not as the recovery point
// has it; else Completed. Objects that exist already are no warning: the policy Skip asks for that.
func RestoreOutcome(t apply.Tally) (v1alpha1.Phase, []v1alpha1.Issue) {
	switch {
	case t.Created == 0 && t.Failed > 0:
		return v1alpha1.PhaseFailed, t.Failures
	case t.Created+t.Skipped == 0 && t.WarningCount > 0:
		return v1alpha1.PhaseFailed, t.Warnings[:min(len(t.Warnings), 10)]
	case t.WarningCount > 0:
		return v1alpha1.PhaseCompletedWithWarnings, nil
	default:
		return v1alpha1.PhaseCompleted, nil
	}
}

// end writes a final phase; it must get through.
func (a *attempt) end(ctx context.Context, phase v1alpha1.Phase, issues ...v1alpha1.Issue) error {
	a.progress()
	a.step("")
	now := metav1.NewTime(a.Now())
	a.object.Status.Phase, a.object.Status.Ended, a.object.Status.Errors = phase, &now, issues
	if err := patiently(ctx, func() error { return a.write(ctx) }); err != nil {
		return client.IgnoreNotFound(err)
	}
	return a.letGo(ctx, a.object)
}

// write replaces the status. Nobody else writes it, so that it needs no version.
func (a *attempt) write(ctx context.Context) error {
	return replaceStatus(ctx, a.Client, a.object, a.object.Status)
}

// replaceStatus replaces all of an object's status.
func replaceStatus(ctx context.Context, c client.Client, object client.Object, status any) error {
	_, err := writeStatus(ctx, c, object, status)
	return err
}

// writeStatus is replaceStatus, and says whether the object is being deleted.
func writeStatus(ctx context.Context, c client.Client, object client.Object, status any) (deleted bool, err error) {
	patch, err := statusPatch(object.GetName(), status)
	if err != nil {
		return false, err
	}
	target, ok := object.DeepCopyObject().(client.Object) // Patch writes the server's answer into it
	if !ok {
		return false, fmt.Errorf("status of %s: a copy of it is no object", object.GetName())
	}
	err = c.Status().Patch(ctx, target, patch)
	return err == nil && target.GetDeletionTimestamp() != nil, err
}

// statusPatch replaces all of a status: a merge would leave behind what an earlier attempt counted.
func statusPatch(name string, status any) (client.Patch, error) {
	patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/status", "value": status}})
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", name, err)
	}
	return client.RawPatch(types.JSONPatchType, patch), nil
}

// opened is storage, and the key to one recovery point in it.
type opened struct {
	store    *storage.Container
	spec     v1alpha1.RestoreSpec
	identity string
}

// identityMissing says why there is no identity.
type identityMissing struct{ why string }

func (e identityMissing) Error() string { return e.why }

func openRecoveryPoint(ctx context.Context, reader client.Reader, spec v1alpha1.RestoreSpec) (opened, error) {
	var secret corev1.Secret
	key := client.ObjectKey{Namespace: v1alpha1.Namespace, Name: spec.IdentitySecret}
	err := reader.Get(ctx, key, &secret)
	if apierrors.IsNotFound(err) {
		return opened{}, identityMissing{fmt.Sprintf("Secret %s does not exist", key)}
	}
	if err != nil {
		return opened{}, fmt.Errorf("read Secret %s: %w", key, err)
	}
	identity := strings.TrimSpace(string(secret.Data["identity"]))
	if identity == "" {
		return opened{}, identityMissing{fmt.Sprintf("Secret %s has no key identity", key)}
	}
	store, err := storage.Open(ctx, reader, spec.Location)
	if err != nil {
		return opened{}, err
	}
	return opened{store, spec, identity}, nil
}

// read opens the recovery point's bundle; count is told the bytes read.
func (o opened) read(ctx context.Context, count func(int64)) (*bundle.Reader, error) {
	return bundle.NewReader(ctx, apply.CountReads(o.store, count), o.spec.Location.Prefix, o.spec.RecoveryPointID, o.identity)
}

// restoreIssue says what an error means to the user, and whether another attempt may go better.
func restoreIssue(err error) (issue v1alpha1.Issue, retry bool) {
	if issue, ok := storage.AsIssue(err); ok {
		return issue, !storage.Permanent(err)
	}
	issue = v1alpha1.Issue{Message: err.Error()}
	var missing identityMissing
	var status apierrors.APIStatus
	switch {
	case errors.Is(err, bundle.ErrNoCommit):
		issue.Code, issue.Action = CodeRecoveryPointNotFound, "choose a recovery point that the vault lists"
		return issue, false
	case errors.As(err, &missing):
		issue.Code, issue.Action = CodeIdentityNotFound, "the service makes this Secret with the restore: start the restore again"
		return issue, false
	case errors.As(err, &status):
		issue.Code, issue.Action = CodeClusterUnavailable, "see whether the API server answers, and whether the extension has the rights that its chart grants"
		return issue, status.Status().Code >= http.StatusInternalServerError || apierrors.IsTooManyRequests(err)
	case isNetwork(err):
		issue.Code, issue.Action = CodeClusterUnavailable, "see whether the cluster's network and its API server work"
		return issue, true
	default:
		issue.Code, issue.Action = CodeRecoveryPointUnreadable, "restore another recovery point"
		return issue, false
	}
}

// isNetwork tells requests that got no answer.
func isNetwork(err error) bool {
	var request *url.Error
	var network net.Error
	return errors.As(err, &request) || errors.As(err, &network)
}
