package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/internal/bundle"
)

// parallel is the number of requests sent at once. The snapshots themselves are all under way at once.
const parallel = 16

// Taker takes and removes the snapshots of one attempt at a recovery point.
type Taker struct {
	Client          client.WithWatch
	RecoveryPointID string
	Attempt         int32
	Now             func() time.Time
	// Stall is how long to wait while no snapshot makes progress; 0 means 10 minutes, Azure's time.
	Stall time.Duration
	// GiveUp is how long the driver may go on failing for one volume; 0 means 2 minutes. The CSI sidecars try again by themselves.
	GiveUp time.Duration
	// Removal is how long to wait for objects that are to go away while none does; 0 means 5 minutes.
	Removal time.Duration
}

// Taken is what became of one target.
type Taken struct {
	// Index is the target's place in the list.
	Index int
	// Volume is complete if the snapshot was taken.
	Volume bundle.Volume
	// Taken says whether there is a snapshot that may go into the recovery point. Its content is retained: it outlives its namespace.
	Taken bool
	// Outcome is what the report says; its Result is empty if there is nothing to say.
	Outcome bundle.Outcome
}

// Take takes snapshots of all targets and returns when each was taken or given up. It calls report once per target, from one goroutine. An error means
// that the attempt cannot go on, such as the API server being unreachable.
func (t *Taker) Take(ctx context.Context, targets []Target, report func(Taken)) error {
	if len(targets) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	run := &run{Taker: t, targets: targets, report: report, events: make(chan *snapshotv1.VolumeSnapshot), results: make(chan Taken),
		pending: map[client.ObjectKey]*waiting{}, lastProgress: t.Now(), group: group}
	for i, target := range targets {
		run.pending[client.ObjectKey{Namespace: target.Record.Namespace, Name: target.Record.SnapshotName}] = &waiting{index: i}
	}
	group.Go(func() error { run.watch(ctx); return nil })
	group.Go(func() error { return run.create(ctx) })
	group.Go(func() error {
		defer cancel()
		return run.collect(ctx)
	})
	err := group.Wait()
	if len(run.pending) == 0 && errors.Is(err, context.Canceled) {
		return nil // the goroutines were told to stop since all was done
	}
	return err
}

// run is one call of Take. Only collect's goroutine touches pending and lastProgress.
type run struct {
	*Taker
	targets      []Target
	report       func(Taken)
	events       chan *snapshotv1.VolumeSnapshot
	results      chan Taken
	pending      map[client.ObjectKey]*waiting
	lastProgress time.Time
	group        *errgroup.Group
}

// waiting is a target without an end yet.
type waiting struct {
	index      int
	fetching   bool // its content is being read
	firstError time.Time
	lastError  string
}

// create asks for all snapshots.
func (r *run) create(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, target := range r.targets {
		group.Go(func() error {
			err := r.createOne(ctx, target)
			if err == nil || ctx.Err() != nil {
				return ctx.Err()
			}
			return r.send(ctx, r.failed(i, failureCode(err.Error()), fmt.Sprintf("the VolumeSnapshot could not be created: %v", err)))
		})
	}
	return group.Wait()
}

func (r *run) createOne(ctx context.Context, target Target) error {
	class, claim := target.Volume.SnapshotClass, target.Record.Claim
	snapshot := &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: target.Record.Namespace, Name: target.Record.SnapshotName, Labels: r.labels()},
		Spec: snapshotv1.VolumeSnapshotSpec{VolumeSnapshotClassName: &class,
			Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim}},
	}
	err := retry.OnError(wait.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Steps: 5, Jitter: 0.2}, transient, func() error {
		return r.Client.Create(ctx, snapshot.DeepCopy())
	})
	// The name is ours alone, so it can only be there from a request whose answer was lost.
	return client.IgnoreAlreadyExists(err)
}

func (t *Taker) labels() map[string]string {
	return map[string]string{LabelRecoveryPoint: t.RecoveryPointID, LabelAttempt: strconv.Itoa(int(t.Attempt))}
}

// transient reports whether a request may succeed when sent again.
func transient(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var answer apierrors.APIStatus
	return !errors.As(err, &answer) || answer.Status().Code >= 500 || apierrors.IsTooManyRequests(err)
}

// watch hands the snapshots' changes to collect until ctx ends.
func (r *run) watch(ctx context.Context) {
	forward := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		snapshot, ok := object.(*snapshotv1.VolumeSnapshot)
		if !ok {
			return
		}
		select {
		case r.events <- snapshot:
		case <-ctx.Done():
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: r.listWatch(ctx, &snapshotv1.VolumeSnapshotList{}, client.MatchingLabels(r.labels())),
		ObjectType:    &snapshotv1.VolumeSnapshot{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    forward,
			UpdateFunc: func(_, object any) { forward(object) },
			DeleteFunc: func(object any) {
				if snapshot, ok := object.(*snapshotv1.VolumeSnapshot); ok {
					snapshot = snapshot.DeepCopy()
					snapshot.DeletionTimestamp = &metav1.Time{Time: r.Now()}
					object = snapshot
				}
				forward(object)
			},
		},
	})
	controller.RunWithContext(ctx)
}

// collect waits until nothing is pending.
func (r *run) collect(ctx context.Context) error {
	tick := time.NewTicker(min(time.Second, r.stall()/10))
	defer tick.Stop()
	for len(r.pending) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case snapshot := <-r.events:
			r.event(ctx, snapshot)
		case taken := <-r.results:
			r.done(taken)
		case <-tick.C:
			r.overdue(ctx)
		}
	}
	return nil
}

func (r *run) done(taken Taken) {
	record := r.targets[taken.Index].Record
	key := client.ObjectKey{Namespace: record.Namespace, Name: record.SnapshotName}
	if r.pending[key] == nil {
		return
	}
	delete(r.pending, key)
	r.lastProgress = r.Now()
	r.report(taken)
}

// event looks at a snapshot that changed.
func (r *run) event(ctx context.Context, snapshot *snapshotv1.VolumeSnapshot) {
	w := r.pending[client.ObjectKeyFromObject(snapshot)]
	if w == nil || w.fetching {
		return
	}
	status := snapshot.Status
	switch {
	case snapshot.DeletionTimestamp != nil:
		r.done(r.failed(w.index, CodeFailed, "the VolumeSnapshot was deleted while it was being made; the namespace may have been deleted"))
	case status == nil:
	case status.ReadyToUse != nil && *status.ReadyToUse && status.BoundVolumeSnapshotContentName != nil:
		w.fetching = true
		r.fetch(ctx, w.index, *status.BoundVolumeSnapshotContentName, bundle.Outcome{})
	case status.Error != nil:
		if w.lastError = "the driver gives no reason"; status.Error.Message != nil {
			w.lastError = *status.Error.Message
		}
		if w.firstError.IsZero() {
			w.firstError = r.Now()
		}
	default:
		w.firstError = time.Time{}
	}
}

// fetch reads a content in a goroutine and hands the result to collect.
func (r *run) fetch(ctx context.Context, index int, content string, outcome bundle.Outcome) {
	r.group.Go(func() error {
		taken, err := r.keep(ctx, index, content)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			taken = r.failed(index, CodeFailed, fmt.Sprintf("the VolumeSnapshotContent could not be kept: %v", err))
		default:
			taken.Outcome = outcome
		}
		return r.send(ctx, taken)
	})
}

// keep makes a content outlive its snapshot object, and reads what storage says. It must be retained at once: deleting the claim's
// namespace would else delete the data with it.
func (r *run) keep(ctx context.Context, index int, name string) (Taken, error) {
	var content snapshotv1.VolumeSnapshotContent
	err := retry.OnError(wait.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Steps: 5, Jitter: 0.2}, transient, func() error {
		content = snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: name}}
		return r.Client.Patch(ctx, &content, r.policyPatch(snapshotv1.VolumeSnapshotContentRetain, false))
	})
	if err != nil {
		return Taken{}, err
	}
	status := content.Status
	if status == nil || status.SnapshotHandle == nil {
		return Taken{}, fmt.Errorf("the VolumeSnapshotContent %s has no snapshot handle", name)
	}
	taken := Taken{Index: index, Taken: true, Volume: r.targets[index].Volume}
	taken.Volume.SnapshotHandle, taken.Volume.ReadyTime = *status.SnapshotHandle, r.Now().UTC()
	if status.RestoreSize != nil {
		taken.Volume.RestoreSizeBytes = *status.RestoreSize
	}
	if status.CreationTime != nil {
		taken.Volume.CreationTime = time.Unix(0, *status.CreationTime).UTC()
	}
	return taken, nil
}

// overdue gives up volumes whose driver goes on failing, and all that are left when nothing moves any more.
func (r *run) overdue(ctx context.Context) {
	now := r.Now()
	stalled := now.Sub(r.lastProgress) > r.stall()
	for key, w := range r.pending {
		switch {
		case w.fetching:
		case stalled:
			w.fetching = true
			r.settle(ctx, key, w)
		case !w.firstError.IsZero() && now.Sub(w.firstError) > r.patience(w.lastError):
			r.done(r.failed(w.index, failureCode(w.lastError), "the driver could not take the snapshot: "+w.lastError))
		}
	}
}

// settle ends the wait for a snapshot: one that storage has taken but not finished is accepted with a warning.
func (r *run) settle(ctx context.Context, key client.ObjectKey, w *waiting) {
	index, lastError := w.index, w.lastError
	r.group.Go(func() error {
		var snapshot snapshotv1.VolumeSnapshot
		err := r.Client.Get(ctx, key, &snapshot)
		if err == nil && snapshot.Status != nil && snapshot.Status.BoundVolumeSnapshotContentName != nil {
			if taken, err := r.keep(ctx, index, *snapshot.Status.BoundVolumeSnapshotContentName); err == nil {
				taken.Outcome = r.outcome(index, bundle.Degraded, CodeNotReady, "storage has taken the snapshot but not finished it; it may still fail",
					"Check with the driver that the snapshot becomes ready before relying on it.")
				return r.send(ctx, taken)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		message := fmt.Sprintf("no snapshot within %s without progress", r.stall())
		if lastError != "" {
			message += "; the driver's last error: " + lastError
		}
		return r.send(ctx, r.failed(index, CodeTimedOut, message))
	})
}

func (r *run) send(ctx context.Context, taken Taken) error {
	select {
	case r.results <- taken:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *run) failed(index int, code, message string) Taken {
	return Taken{Index: index, Volume: r.targets[index].Volume,
		Outcome: r.outcome(index, bundle.Skipped, code, message, "See the events of the CSI driver and its snapshotter, and back up again.")}
}

func (r *run) outcome(index int, result bundle.Result, code, message, action string) bundle.Outcome {
	record := r.targets[index].Record
	return bundle.Outcome{Resource: "persistentvolumeclaims/" + record.Namespace + "/" + record.Claim, Result: result, Code: code, Message: message, Action: action}
}

// failureCode finds the code that fits what a driver or the API server says.
func failureCode(message string) string {
	lower := strings.ToLower(message)
	switch {
	case strings.Contains(lower, "resourceexhausted"), strings.Contains(lower, "quota"), strings.Contains(lower, "limit"):
		return CodeLimitReached
	case strings.Contains(lower, "denied the request"), strings.Contains(lower, "disallowed"):
		return CodeDisallowed
	}
	return CodeFailed
}

// finalCodes are answers of a driver that stay the same however often it is asked.
var finalCodes = []string{"code = InvalidArgument", "code = Unimplemented", "code = PermissionDenied", "code = Unauthenticated"}

// patience is how long a volume's driver may go on failing with an error.
func (t *Taker) patience(lastError string) time.Duration {
	for _, code := range finalCodes {
		if strings.Contains(lastError, code) {
			return t.giveUp() / 10
		}
	}
	return t.giveUp()
}

func (t *Taker) stall() time.Duration   { return orDefault(t.Stall, 10*time.Minute) }
func (t *Taker) giveUp() time.Duration  { return orDefault(t.GiveUp, 2*time.Minute) }
func (t *Taker) removal() time.Duration { return orDefault(t.Removal, 5*time.Minute) }

func orDefault(d, standard time.Duration) time.Duration {
	if d == 0 {
		return standard
	}
	return d
}
