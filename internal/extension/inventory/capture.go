package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"

	"github.com/cairn-backup/cairn/internal/bundle"
)

const (
	// workers is the number of kinds listed at once. More add nothing on a small control plane, and each holds the buffers of an upload.
	workers = 4
	// tries is how often a kind is listed before it is left out. With pauses of 1, 2, 4 and 8 seconds an API server has the time to restart.
	tries = 5
)

// Capture streams all objects in scope at one revision into a bundle.
type Capture struct {
	Lister   *Lister
	Writer   *bundle.Writer
	Kinds    []bundle.Kind
	Scope    Scope
	Revision string
	// Volumes holds the names of the PersistentVolumes of chosen claims; without cluster-scoped resources only these are taken.
	Volumes map[string]bool
	// Progress is called with changes of the number of objects done; by many goroutines. A negative change is a kind begun again.
	Progress func(objects int64)
	// Retry is the pause before a kind is listed again the first time; it doubles. 0 means one second.
	Retry time.Duration
}

// Run lists all kinds and returns the report. An error means that the bundle is not usable: ErrExpired, or storage's. A kind that could
// not be listed is no error but a warning in the report.
func (c *Capture) Run(ctx context.Context) ([]bundle.Outcome, error) {
	var mu sync.Mutex
	var report []bundle.Outcome
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, kind := range c.Kinds {
		if !c.Scope.Kind(kind) {
			continue
		}
		group.Go(func() error {
			outcomes, err := c.kind(ctx, kind)
			mu.Lock()
			defer mu.Unlock()
			report = append(report, outcomes...)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(report, func(a, b bundle.Outcome) int {
		if a.Resource < b.Resource {
			return -1
		}
		if a.Resource > b.Resource {
			return 1
		}
		return 0
	})
	return report, nil
}

// kind captures one kind, again if the list breaks off: a file holds all of a kind or does not exist.
func (c *Capture) kind(ctx context.Context, kind bundle.Kind) ([]bundle.Outcome, error) {
	pause := c.Retry
	if pause == 0 {
		pause = time.Second
	}
	for try := 1; ; try++ {
		one := &oneKind{capture: c, kind: kind, lines: c.Writer.Kind(ctx, kind)}
		err := one.run(ctx)
		if err == nil {
			return one.report, nil
		}
		one.lines.Abort(err)
		c.Progress(-one.lines.Count())

		var stopped errStopped
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &stopped):
			return nil, stopped.cause
		case !kind.Live && expired(err):
			return nil, fmt.Errorf("list %s: %w", resource(kind), ErrExpired)
		case try == tries && !kind.Live && apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge):
			// The kind lies in a store of its own, with revisions of its own.
			kind.Live, try = true, 0
		case try == tries || hopeless(err):
			if _, away := c.Lister.Revision(ctx); away != nil {
				return nil, away // it is the API server that is missing, and not one kind
			}
			return []bundle.Outcome{notListed(kind, err)}, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
			pause *= 2
		}
	}
}

// hopeless reports whether listing again would give the same answer.
func hopeless(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsNotAcceptable(err)
}

func notListed(kind bundle.Kind, err error) bundle.Outcome {
	action := "Repair what serves the kind (its conversion webhook or API service), and back up again."
	if apierrors.IsForbidden(err) {
		action = "Allow the extension's service account to list the kind, and back up again."
	}
	return bundle.Outcome{Resource: resource(kind), Result: bundle.Skipped, Code: kindNotListed,
		Message: fmt.Sprintf("%s could not be listed: %v", resource(kind), err), Action: action}
}

// oneKind is one try at one kind.
type oneKind struct {
	capture *Capture
	kind    bundle.Kind
	lines   *bundle.Lines
	report  []bundle.Outcome
	managed int64           // objects that the control plane makes itself
	seen    map[string]bool // chosen namespaces that exist
	volumes podVolumes
	typed   []byte // memory for objects that need their type put in
}

func (o *oneKind) run(ctx context.Context) error {
	c := o.capture
	revision := c.Revision
	if o.kind.Live {
		revision = ""
	}
	o.seen = map[string]bool{}
	for _, namespace := range c.Scope.paths(o.kind) {
		pinned, err := c.Lister.list(ctx, o.kind, namespace, revision, o.take)
		if err != nil {
			return err
		}
		if !pinned && !o.kind.Live {
			o.kind.Live = true
			o.lines.MarkLive()
		}
	}
	if err := o.lines.Close(); err != nil {
		return errStopped{err}
	}
	o.finish()
	return nil
}

// take writes an object if it is chosen.
func (o *oneKind) take(item []byte) error {
	h := scan(item)
	switch {
	case o.kind.Namespaced && !o.capture.Scope.Namespace(h.namespace):
		return nil
	case isNamespaces(o.kind) && !o.capture.Scope.Namespace(h.name):
		return nil
	case isVolumes(o.kind) && !o.capture.Scope.clusterScoped && !o.capture.Volumes[h.name]:
		return nil
	case h.ours || ownContent(o.kind, item):
		return nil
	case managedByControlPlane(o.kind, h):
		o.managed++
		return nil
	case h.excluded:
		o.report = append(o.report, bundle.Outcome{Resource: objectName(o.kind, h), Result: bundle.Info, Code: "ExcludedByLabel",
			Message: excludeKey + " is true"})
		return nil
	}
	if isNamespaces(o.kind) {
		o.seen[h.name] = true
	}
	if isPods(o.kind) {
		if err := o.volumes.add(h, item); err != nil {
			return err
		}
	}
	if !h.hasAPIVersion || !h.hasKind {
		o.typed = withType(o.typed, item, h, o.kind.APIVersion, o.kind.Kind)
		item = o.typed
	}
	if err := o.lines.Write(item); err != nil {
		return err
	}
	o.capture.Progress(1)
	return nil
}

// finish adds what is known at the end to the kind's report.
func (o *oneKind) finish() {
	name := resource(o.kind)
	if n := o.lines.Count(); n > 0 {
		o.report = append(o.report, bundle.Outcome{Resource: name, Result: bundle.Saved, Count: n})
	}
	if o.managed > 0 {
		o.report = append(o.report, bundle.Outcome{Resource: name, Result: bundle.Info, Code: "ManagedByControlPlane", Count: o.managed,
			Message: "the cluster's controllers make these objects from others, and will again"})
	}
	if o.kind.Live {
		o.report = append(o.report, bundle.Outcome{Resource: name, Result: bundle.Info, Code: "KindListedLive",
			Message: "the kind's server cannot list at a given revision: the objects are from shortly after the cut"})
	}
	o.report = append(o.report, o.volumes.report...)
	if !isNamespaces(o.kind) {
		return
	}
	for _, namespace := range o.capture.Scope.included {
		if o.capture.Scope.Namespace(namespace) && !o.seen[namespace] {
			o.report = append(o.report, NamespaceNotFound(namespace))
		}
	}
}

// CodeNamespaceNotFound is Azure's code for a namespace that is asked for but does not exist.
const CodeNamespaceNotFound = "UserErrorNamespaceNotFound"

// NamespaceNotFound is the outcome of a namespace that is asked for but does not exist.
func NamespaceNotFound(namespace string) bundle.Outcome {
	return bundle.Outcome{Resource: "namespaces/" + namespace, Result: bundle.Skipped, Code: CodeNamespaceNotFound,
		Message: fmt.Sprintf("the namespace %s does not exist", namespace), Action: "Create the namespace or take it out of the backup instance's list."}
}

func objectName(k bundle.Kind, h head) string {
	if h.namespace == "" {
		return resource(k) + "/" + h.name
	}
	return resource(k) + "/" + h.namespace + "/" + h.name
}

// managedByControlPlane reports whether a controller of the control plane makes the object from others.
func managedByControlPlane(k bundle.Kind, h head) bool {
	switch resource(k) {
	case "endpointslices.discovery.k8s.io", "endpoints":
		return h.managedBy == "endpointslice-controller.k8s.io" || h.managedBy == "endpointslicemirroring-controller.k8s.io" || h.managedBy == "endpoint-controller"
	}
	return false
}

// ownContent reports whether an object is a VolumeSnapshotContent of one of our snapshots; the snapshot controller gives it no labels.
func ownContent(k bundle.Kind, item []byte) bool {
	if resource(k) != "volumesnapshotcontents.snapshot.storage.k8s.io" {
		return false
	}
	var content struct {
		Spec struct {
			VolumeSnapshotRef struct{ Name string }
		}
	}
	return json.Unmarshal(item, &content) == nil && isOwnSnapshotName(content.Spec.VolumeSnapshotRef.Name)
}
