package controller

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
)

// maxWarnings is how many warnings a status lists; the report in storage has all of them.
const maxWarnings = 200

// ledger is a Backup's status while the backup runs. What a step relies on is written by record, at once; the rest by follow, at most once a
// second. The answers say whether the Backup was deleted meanwhile.
type ledger struct {
	client client.Client
	now    func() time.Time
	log    *slog.Logger

	writing sync.Mutex // held while the status is sent, so that an older one never comes after a newer one

	mu     sync.Mutex
	backup *v1alpha1.Backup
	dirty  bool
	stop   context.CancelCauseFunc // ends the attempt that runs when the Backup was deleted; nil if none runs
}

// errDeleted ends an attempt whose Backup was deleted.
var errDeleted = errors.New("the backup was deleted")

// stoppable returns a context for an attempt, which ends when the Backup is deleted.
func (l *ledger) stoppable(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop = stop
	return ctx, func() { stop(nil) }
}

// change changes the status; it will be written soon.
func (l *ledger) change(f func(*v1alpha1.BackupStatus)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.backup.Status)
	l.dirty = true
}

// finish makes the attempt go on to its end though the Backup be deleted.
func (l *ledger) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop = nil
}

// record changes the status and returns when the API server has it. It tries again for a while if the API server is away.
func (l *ledger) record(ctx context.Context, f func(*v1alpha1.BackupStatus)) error {
	l.change(f)
	return patiently(ctx, func() error { return l.write(ctx) })
}

// restTime is how many seconds pass without a write at most, so that a deletion is noticed soon.
const restTime = 10

// follow writes changes, and the number of bytes stored, once a second until the context ends. A failure is no harm: the next one has all.
func (l *ledger) follow(ctx context.Context, stored func() int64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for rested := 1; ; rested++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		if p, n := &l.backup.Status.Progress, stored(); p.Bytes != n {
			p.Bytes, l.dirty = n, true
		}
		dirty := l.dirty
		l.mu.Unlock()
		if !dirty && rested < restTime {
			continue
		}
		rested = 0
		if err := l.write(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("progress of a backup cannot be written, it is tried again", "backup", l.backup.Name, "error", err)
		}
	}
}

func (l *ledger) write(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	copied := l.backup.DeepCopy()
	l.dirty = false
	l.mu.Unlock()
	patch, err := statusPatch(copied.Name, copied.Status)
	if err == nil {
		err = l.client.Status().Patch(ctx, copied, patch)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.dirty = true
		return err
	}
	if l.backup.DeletionTimestamp = copied.DeletionTimestamp; l.backup.DeletionTimestamp != nil && l.stop != nil {
		l.stop(errDeleted)
	}
	return nil
}

// status returns a copy of the status.
func (l *ledger) status() v1alpha1.BackupStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.backup.Status.DeepCopy()
}

// begin and end are changes of the list of steps.
func begin(p *v1alpha1.Progress, now time.Time, names ...string) {
	for _, name := range names {
		p.Steps = append(p.Steps, v1alpha1.Step{Name: name, Started: metav1.NewTime(now)})
	}
	current(p)
}

func end(p *v1alpha1.Progress, now time.Time, name string) {
	for i, step := range p.Steps {
		if step.Name == name && step.Ended == nil {
			p.Steps[i].Ended = &metav1.Time{Time: now}
		}
	}
	current(p)
}

// current sets the step that runs: the first that has not ended.
func current(p *v1alpha1.Progress) {
	p.Step = ""
	for _, step := range p.Steps {
		if step.Ended == nil {
			p.Step = step.Name
			return
		}
	}
}

func begun(p v1alpha1.Progress, name string) bool {
	return slices.ContainsFunc(p.Steps, func(s v1alpha1.Step) bool { return s.Name == name })
}

// warnings sets a status's warnings from a report.
func warnings(s *v1alpha1.Status, report []bundle.Outcome) {
	s.Warnings, s.WarningCount = nil, 0
	for _, o := range report {
		if !o.Result.Warning() {
			continue
		}
		if s.WarningCount++; s.WarningCount <= maxWarnings {
			s.Warnings = append(s.Warnings, v1alpha1.Issue{Code: o.Code, Resource: o.Resource, Message: o.Message, Action: o.Action})
		}
	}
}

// completed is the final phase of a request that was carried out.
func completed(s v1alpha1.Status) v1alpha1.Phase {
	if s.WarningCount > 0 {
		return v1alpha1.PhaseCompletedWithWarnings
	}
	return v1alpha1.PhaseCompleted
}

// patiently calls do until it succeeds, is refused for good, or a minute has passed: an API server may be restarting.
func patiently(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := do()
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
