package connector

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/link"
)

const (
	// tellPause is the least time between two reports, unless a request has ended.
	tellPause = time.Second
	// lookTime is how often is looked for news that no event announces: a pod that has been stuck for too long.
	lookTime = 10 * time.Second
	// reportSize is how many bytes of states go into one report, the last one more than fits included.
	reportSize = 1 << 20
)

// told is what the service has acknowledged.
type told struct {
	base     [sha256.Size]byte
	requests map[key][sha256.Size]byte
	anything bool
	etag     string // of the desired state that was last compared
}

// tell reports what changed. Nothing is reported before everything has been looked at once, so that a restart does not
// look like a change.
func (r *run) tell(ctx context.Context) error {
	t := told{requests: map[key][sha256.Size]byte{}}
	kubernetes := ""
	for failures := 0; ; {
		if err := r.toTell.wait(ctx, lookTime); err != nil {
			return err
		}
		if !r.seen() {
			continue
		}
		if kubernetes == "" {
			kubernetes = r.kubernetesVersion()
		}
		report, rest := r.next(&t, kubernetes)
		if report == nil {
			continue
		}
		err := r.Link.Report(ctx, report)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.health.heard(r.Now(), err)
		pause := tellPause
		failures++
		if err != nil {
			r.Log.Error("the service does not take a report; trying again", "error", err, "failures", failures)
			pause = min(backoff(failures), reconnectTime)
		} else {
			failures = 0
			t.acknowledge(report)
		}
		if err != nil || rest {
			r.toTell.set()
		}
		if err == nil && rest {
			continue
		}
		if err := r.toTellNow.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// seen reports whether install and carry have looked at the cluster.
func (r *run) seen() bool {
	r.mu.Lock()
	looked := r.looked
	r.mu.Unlock()
	if !looked {
		return false
	}
	for _, i := range r.watch.ofKind {
		if !i.HasSynced() {
			return false
		}
	}
	return true
}

func (r *run) kubernetesVersion() string {
	v, err := r.typed.Discovery().ServerVersion()
	if err != nil {
		return "" // asked again for the next report
	}
	return v.GitVersion
}

// next makes a report of what the service has not acknowledged, or nil; rest says that there is more.
func (r *run) next(t *told, kubernetes string) (report *link.Report, rest bool) {
	r.mu.Lock()
	installed, desired := r.installed, r.desired
	r.mu.Unlock()
	deployment, pods := r.watch.extension()
	report = &link.Report{
		ConnectorVersion:  r.Version,
		KubernetesVersion: kubernetes,
		NodeCount:         r.watch.readyNodes(),
		Extension:         extensionState(installed, r.helm.chart.Metadata.Version, deployment, pods, r.Now()),
	}
	r.forgetEnds(t, desired)
	states := r.states()
	t.compare(desired, states)
	size := 0
	for _, s := range states {
		if sum, ok := t.requests[key{s.Kind, s.Name}]; ok && sum == sumOf(s) {
			continue
		}
		if size > reportSize {
			rest = true
			break
		}
		size += len(s.Status)
		report.Requests = append(report.Requests, s)
	}
	if t.anything && len(report.Requests) == 0 && t.base == baseOf(report) {
		return nil, false
	}
	return report, rest
}

// states are all requests' states, in the order of their names. One that has ended stays so, though somebody made an object of its name.
func (r *run) states() []link.RequestState {
	own := r.watch.own()
	var states []link.RequestState
	r.mu.Lock()
	for k, s := range r.ended {
		states = append(states, s)
		delete(own, k)
	}
	r.mu.Unlock()
	for k, u := range own {
		s, err := status(u)
		if err != nil {
			r.Log.Error("a request's status cannot be encoded", "kind", k.kind, "name", k.name, "error", err)
			continue
		}
		states = append(states, link.RequestState{Kind: k.kind, Name: k.name, Status: s})
	}
	slices.SortFunc(states, func(a, b link.RequestState) int { return strings.Compare(a.Kind+a.Name, b.Kind+b.Name) })
	return states
}

// forgetEnds drops the ends that the service has acknowledged, and does not wish for anymore.
func (r *run) forgetEnds(t *told, d *link.Desired) {
	if d == nil {
		return
	}
	wanted := wantedBy(d)
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.ended, func(k key, s link.RequestState) bool { return !wanted[k] && t.requests[k] == sumOf(s) })
}

func wantedBy(d *link.Desired) map[key]bool {
	wanted := map[key]bool{}
	for _, q := range d.Requests {
		wanted[key{q.Kind, q.Name}] = true
	}
	return wanted
}

// compare forgets what need not be remembered, and what the service seems not to know although it was told: a request
// that it still wishes for, in a new desired state, after its end.
func (t *told) compare(d *link.Desired, states []link.RequestState) {
	present := map[key]bool{}
	for _, s := range states {
		present[key{s.Kind, s.Name}] = true
	}
	for k := range t.requests {
		if !present[k] {
			delete(t.requests, k)
		}
	}
	if d == nil || d.ETag == t.etag {
		return
	}
	t.etag = d.ETag
	wanted := wantedBy(d)
	for _, s := range states {
		var st v1alpha1.Status
		if k := (key{s.Kind, s.Name}); wanted[k] && json.Unmarshal(s.Status, &st) == nil && st.Phase.Final() {
			delete(t.requests, k)
		}
	}
}

func (t *told) acknowledge(report *link.Report) {
	t.anything = true
	t.base = baseOf(report)
	for _, s := range report.Requests {
		t.requests[key{s.Kind, s.Name}] = sumOf(s)
	}
}

func sumOf(s link.RequestState) [sha256.Size]byte { return sha256.Sum256(s.Status) }

// baseOf is of everything in a report but the requests.
func baseOf(report *link.Report) [sha256.Size]byte {
	b := *report
	b.Requests = nil
	data, err := json.Marshal(b)
	if err != nil {
		return [sha256.Size]byte{} // a Report of strings and numbers always encodes
	}
	return sha256.Sum256(data)
}
