package apply

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/plan"
)

// Options say what is restored, and how.
type Options struct {
	Cluster Cluster
	// UID is the restore's; its field manager and the names of what it makes follow from it.
	UID     types.UID
	Request plan.Request
	// Report takes what became of each object, one call at a time. Its first error ends the restore.
	Report func(bundle.RestoreOutcome) error
	Log    *slog.Logger
	Now    func() time.Time
	// Workers is how many objects are created at once; more than 16 do not make a small API server faster.
	Workers int
	// Patience is how long a restore goes on while nothing gets on: an API server away, a claim not bound, a pod not ready.
	Patience time.Duration
	// Interval is the pause between two looks at something that is waited for.
	Interval time.Duration
}

// Restore is one attempt at a restore. Its steps are called in order: Plan, Apply, Wait.
type Restore struct {
	Options
	bundled *bundle.Reader
	kinds   []kind
	tally   tally

	facts   *plan.Facts
	classes map[string]class
	// target and plan are replaced once the definitions are restored.
	target target
	plan   *plan.Plan

	mu       sync.Mutex
	orphans  []orphan
	deferred []creation
	waiting  waiting
}

// New prepares an attempt. The reader's storage should count with [CountReads] into [Restore.CountBytes].
func New(opts Options) *Restore {
	r := &Restore{Options: opts}
	r.tally = tally{report: opts.Report, clock: opts.Now, moved: opts.Now()}
	return r
}

// FieldManager names the writer of the objects that a restore creates.
func FieldManager(restore types.UID) string { return "cairn-restore-" + string(restore) }

// CountBytes adds to the bytes read from storage.
func (r *Restore) CountBytes(n int64) {
	r.tally.change(func(t *Tally) { t.Bytes += n })
}

// Tally says how far the restore has come. It may be called at any time.
func (r *Restore) Tally() Tally { return r.tally.snapshot() }

// Plan reads the whole recovery point once, without touching the cluster: so that its damage shows before anything is created, and
// that the number of objects is known.
func (r *Restore) Plan(ctx context.Context, bundled *bundle.Reader) error {
	if err := r.prepare(ctx, bundled); err != nil {
		return err
	}
	var total, volumes int64
	for _, k := range r.kinds {
		for line, err := range bundled.Objects(ctx, k.stored) {
			if err != nil {
				return err
			}
			o, err := decode(k, line)
			if err != nil {
				return err
			}
			switch d := r.plan.Decide(k.Resource, o); {
			case d.Action == plan.Exclude:
			case d.Action == plan.Create && d.Source != "":
				volumes++
				total++
			default:
				total++
			}
		}
	}
	r.tally.change(func(t *Tally) { t.Total, t.VolumesTotal = total, volumes })
	return nil
}

// prepare learns what the plan needs.
func (r *Restore) prepare(ctx context.Context, bundled *bundle.Reader) error {
	r.bundled, r.kinds = bundled, kindsOf(bundled.RecoveryPoint())
	var err error
	if r.target, err = r.Cluster.discover(); err != nil {
		return err
	}
	if r.classes, err = r.Cluster.storageClasses(ctx); err != nil {
		return err
	}
	if r.facts, err = facts(ctx, bundled, r.kinds, r.Request, provisioners(r.classes)); err != nil {
		return err
	}
	r.plan = plan.New(r.Request, resourcesOf(r.kinds), r.facts, r.target.Target)
	for _, n := range r.facts.MissingNamespaces(r.Request.Filter) {
		r.tally.warn(v1alpha1.Issue{Code: plan.NamespaceNotFound, Resource: "namespaces/" + n, Message: "the recovery point has no such namespace",
			Action: "name a namespace that was there when the backup was taken"})
	}
	return nil
}

// Apply creates the objects, wave by wave. An error means that the restore could not go on; that single objects could not be created
// is no error but in the Tally.
func (r *Restore) Apply(ctx context.Context) error {
	for wave := range plan.WaveCount {
		if err := r.wave(ctx, wave); err != nil {
			return fmt.Errorf("wave %s: %w", wave, err)
		}
		if wave != plan.WaveDefinitions {
			continue
		}
		if err := r.definitionsServed(ctx); err != nil {
			return err
		}
		r.facts.ForgetDefinitions()
		r.plan = plan.New(r.Request, resourcesOf(r.kinds), r.facts, r.target.Target)
	}
	if err := r.createDeferred(ctx); err != nil {
		return err
	}
	if err := r.adopt(ctx); err != nil {
		return err
	}
	if n := r.Tally().NotSelected; n > 0 {
		r.tally.mu.Lock()
		r.tally.line(bundle.RestoreOutcome{Result: bundle.RestoreNotSelected, Code: plan.NotSelected, Message: "the request does not ask for these objects", Count: n})
		r.tally.mu.Unlock()
	}
	return r.tally.reportError()
}

// wave creates the objects of one wave. The reader waits for the workers, so that no more than one object per worker is in memory.
func (r *Restore) wave(ctx context.Context, wave plan.Wave) error {
	for _, k := range r.kinds {
		if plan.WaveOf(k.Resource) != wave {
			continue
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(r.Workers)
		for line, err := range r.bundled.Objects(ctx, k.stored) {
			if err != nil {
				group.Go(func() error { return err })
				break
			}
			if ctx.Err() != nil {
				break // a worker failed
			}
			group.Go(func() error { return r.object(ctx, k, line) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if err := r.tally.reportError(); err != nil {
			return err
		}
	}
	return nil
}

// object restores one object.
func (r *Restore) object(ctx context.Context, k kind, line []byte) error {
	o, err := decode(k, line)
	if err != nil {
		return err
	}
	c := creation{kind: k, object: o}
	c.resource = k.Name(c.namespace(), c.name())
	c.decision = r.plan.Decide(k.Resource, o)
	switch c.decision.Action {
	case plan.Exclude:
		r.tally.change(func(t *Tally) { t.NotSelected++ })
		return nil
	case plan.Skip:
		r.tally.outcome(bundle.RestoreSkipped, c.resource, c.decision.Code, c.decision.Message)
		return nil
	case plan.Block:
		r.tally.outcome(bundle.RestoreFailed, c.resource, c.decision.Code, c.decision.Message)
		return nil
	default:
		return r.create(ctx, c, laterPatience, r.putOff)
	}
}
