package apply

import (
	"sync"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
)

// MaxWarnings is how many warnings are kept for the status; the report has all of them.
const MaxWarnings = 200

// Tally is how far a restore has come. It is a copy: nothing changes it.
type Tally struct {
	Created, Skipped, Failed, NotSelected int64
	// Total is the number of objects that were selected; 0 until it is known.
	Total int64
	// Volumes and VolumesTotal count claims to be filled or made, and those of them that are bound.
	Volumes, VolumesTotal int64
	// Bytes were read from storage.
	Bytes int64
	// Warnings are the first MaxWarnings ones, WarningCount counts all.
	Warnings     []v1alpha1.Issue
	WarningCount int64
	// Failures are the first failures, as issues; at most 10.
	Failures []v1alpha1.Issue
	// WorkloadsReady is nil until it is known.
	WorkloadsReady *bool
}

const maxFailures = 10

// tally counts, and hands outcomes on, one at a time.
type tally struct {
	mu     sync.Mutex
	now    Tally
	report func(bundle.RestoreOutcome) error
	failed error     // the report's first error
	moved  time.Time // when something last got on
	clock  func() time.Time
}

func (t *tally) snapshot() Tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.now
	c.Warnings = append([]v1alpha1.Issue(nil), c.Warnings...)
	c.Failures = append([]v1alpha1.Issue(nil), c.Failures...)
	return c
}

func (t *tally) change(f func(*Tally)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.now)
}

// got notes that the restore got on.
func (t *tally) got() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved = t.clock()
}

// stuck is how long nothing has got on.
func (t *tally) stuck() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clock().Sub(t.moved)
}

func (t *tally) reportError() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

func (t *tally) line(o bundle.RestoreOutcome) {
	if t.failed == nil {
		t.failed = t.report(o)
	}
}

// outcome notes what became of one object.
func (t *tally) outcome(result bundle.RestoreResult, resource, code, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved = t.clock()
	switch result {
	case bundle.RestoreCreated:
		t.now.Created++
	case bundle.RestoreSkipped:
		t.now.Skipped++
	case bundle.RestoreFailed:
		t.now.Failed++
		t.keep(v1alpha1.Issue{Code: code, Resource: resource, Message: message})
		if len(t.now.Failures) < maxFailures {
			t.now.Failures = append(t.now.Failures, v1alpha1.Issue{Code: code, Resource: resource, Message: message})
		}
	}
	t.line(bundle.RestoreOutcome{Resource: resource, Result: result, Code: code, Message: message})
}

// warn notes something that the user should know.
func (t *tally) warn(issues ...v1alpha1.Issue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range issues {
		t.keep(w)
		t.line(bundle.RestoreOutcome{Resource: w.Resource, Result: bundle.RestoreWarning, Code: w.Code, Message: w.Message, Action: w.Action})
	}
}

// keep counts a warning. A failed object is one too.
func (t *tally) keep(w v1alpha1.Issue) {
	t.now.WarningCount++
	if len(t.now.Warnings) < MaxWarnings {
		t.now.Warnings = append(t.now.Warnings, w)
	}
}

// note puts something into the report that is no warning.
func (t *tally) note(resource, code, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.line(bundle.RestoreOutcome{Resource: resource, Result: bundle.RestoreNote, Code: code, Message: message})
}
