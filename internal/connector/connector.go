// Package connector joins a cluster to the Backup service from inside: it asks the service what the cluster should have,
// makes it so, and reports what the cluster has. It installs the extension and carries requests; it does none of the
// extension's work, and it has no state of its own, so that it may be killed at any moment.
//
// Four loops share what they know through a view: listen keeps the desired state up to date, install brings the extension
// in line with it, carry does so for the request objects, and tell reports changes. All are level-triggered: each looks
// at what should be and at what is, and never at what happened.
package connector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/apiserver"
	"github.com/cairn-backup/cairn/internal/link"
)

// fieldManager owns the fields that the connector applies.
const fieldManager = v1alpha1.ManagedByConnector

const (
	// pollTime is how long the service may hold a question when nothing has changed.
	pollTime = 30 * time.Second
	// silence is how long the service may be silent before the connector is not ready anymore: a poll and its retries.
	silence = 90 * time.Second
	// checkTime is how often everything is looked at although nothing is known to have changed.
	checkTime = 5 * time.Minute
	// farewell is how long an extension may take to end its requests before it is uninstalled.
	farewell = 2 * time.Minute
	// firstBackoff and longestBackoff bound the pauses after something failed in the cluster.
	firstBackoff   = time.Second
	longestBackoff = time.Minute
	// reconnectTime is the longest pause before the service is called again: it is soon noticed when it is back.
	reconnectTime = 10 * time.Second
)

// Connector is one cluster's connector.
type Connector struct {
	// Link is the way to the service.
	Link *link.Client
	// Cluster is the way to the API server.
	Cluster *rest.Config
	// Image is what the extension runs from.
	Image string
	// Version is the connector's, for reports; the chart gets it too, made a semantic version.
	Version string
	Log     *slog.Logger
	Now     func() time.Time

	health health
}

// run is what the loops share.
type run struct {
	*Connector
	typed   kubernetes.Interface
	dynamic dynamic.Interface
	helm    *helm
	watch   *watch

	mu        sync.Mutex
	desired   *link.Desired // nil until the service answered once
	installed installation
	looked    bool                      // installed says what is, not what the zero value says
	ended     map[key]link.RequestState // requests that have ended, until the service knows: their objects may be gone, or never have been

	leaving time.Time // install's own: since when the extension is to go; zero while it is to stay

	tied map[key]types.UID // carry's own: the objects whose Secrets are known to be owned by them

	toInstall, toCarry, toTell, toTellNow signal
}

// key names a request.
type key struct{ kind, name string }

// Run works until the context ends. It returns an error only when it cannot begin.
func (c *Connector) Run(ctx context.Context) error {
	r, err := c.begin()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, loop := range []func(context.Context) error{r.listen, r.install, r.carry, r.tell} {
		g.Go(func() error { return loop(ctx) })
	}
	err = g.Wait()
	r.watch.stop()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (c *Connector) begin() (*run, error) {
	cluster := rest.CopyConfig(c.Cluster)
	cluster.QPS, cluster.Burst = 50, 100
	cluster.UserAgent = "cairn-connector/" + c.Version
	cluster.Wrap(apiserver.NewAsker().Wrap)
	r := &run{
		Connector: c,
		ended:     map[key]link.RequestState{},
		tied:      map[key]types.UID{},
		toInstall: newSignal(), toCarry: newSignal(), toTell: newSignal(), toTellNow: newSignal(),
	}
	var err error
	if r.typed, err = kubernetes.NewForConfig(cluster); err != nil {
		return nil, fmt.Errorf("connector: API server client: %w", err)
	}
	if r.dynamic, err = dynamic.NewForConfig(cluster); err != nil {
		return nil, fmt.Errorf("connector: API server client: %w", err)
	}
	if r.helm, err = newHelm(cluster, c.Version, c.Image, c.Log); err != nil {
		return nil, err
	}
	if r.watch, err = newWatch(r); err != nil {
		return nil, err
	}
	return r, nil
}

// listen keeps the desired state up to date.
func (r *run) listen(ctx context.Context) error {
	etag, failures := "", 0
	for {
		wait := pollTime
		if failures > 0 {
			wait = 0 // whether the service is back is known at once, and not after a poll
		}
		d, err := r.Link.Desired(ctx, etag, wait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.health.heard(r.Now(), err)
		if err != nil {
			failures++
			r.Log.Error("the service does not tell what this cluster should have", "error", err, "failures", failures)
			if err := sleep(ctx, min(backoff(failures), reconnectTime)); err != nil {
				return err
			}
			continue
		}
		if failures > 0 {
			r.Log.Info("the service answers again", "failures", failures)
			failures = 0
		}
		if d != nil {
			etag = d.ETag
			r.wish(d)
		}
	}
}

// wish takes a new desired state in.
func (r *run) wish(d *link.Desired) {
	r.mu.Lock()
	r.desired = d
	r.mu.Unlock()
	r.Log.Info("desired state", "cluster", d.ClusterID, "etag", d.ETag, "extension", d.Extension != nil, "requests", len(d.Requests))
	r.toInstall.set()
	r.toCarry.set()
	r.toTell.set()
}

func (r *run) wished() *link.Desired {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.desired
}

// resource is where a request kind's objects are; ok is false for a kind that is none.
func resource(kind string) (schema.GroupVersionResource, bool) {
	plural, ok := map[string]string{
		"Backup":             "backups",
		"Restore":            "restores",
		"DeleteBackup":       "deletebackups",
		"ValidateForBackup":  "validateforbackups",
		"ValidateForRestore": "validateforrestores",
	}[kind]
	return v1alpha1.GroupVersion.WithResource(plural), ok
}

// kinds are all request kinds.
var kinds = []string{"Backup", "Restore", "DeleteBackup", "ValidateForBackup", "ValidateForRestore"}

// signal wakes one loop. Setting it twice before the loop looks is setting it once.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// wait returns when the signal is set or the time is over.
func (s signal) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s:
	case <-t.C:
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	return signal(nil).wait(ctx, d)
}

// backoff is the pause after so many failures in a row.
func backoff(failures int) time.Duration {
	return min(firstBackoff<<min(failures-1, 10), longestBackoff)
}
