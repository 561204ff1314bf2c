package replicas_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/link"
)

// cluster plays a cluster over the real protocol: it installs the extension when it is told to, and works on requests as the extension does,
// several at once. What a call that failed was to tell is told again, to whichever replica lives.
type cluster struct {
	t      *testing.T
	client *link.Client
	clock  *clock

	mu        sync.Mutex
	extension *link.ExtensionState
	// backups are the Backups that it was asked for, by name, as they came first.
	backups map[string]string
	working sync.WaitGroup
}

// startCluster lets a cluster's connector run until the test ends.
func startCluster(t *testing.T, credential link.Credential, clock *clock) *cluster {
	c := &cluster{t: t, clock: clock, backups: map[string]string{},
		client: &link.Client{UserAgent: "replicas", Credential: func() (link.Credential, error) { return credential, nil }}}
	ctx, cancel := context.WithCancel(context.Background())
	c.working.Go(func() { c.run(ctx) })
	t.Cleanup(func() {
		cancel()
		c.working.Wait()
	})
	return c
}

func (c *cluster) run(ctx context.Context) {
	etag := ""
	taken := map[string]bool{}
	for ctx.Err() == nil {
		desired, err := c.client.Desired(ctx, etag, 3*time.Second)
		if err != nil || desired == nil {
			continue // the client has paused; another replica is asked next
		}
		etag = desired.ETag
		c.install(ctx, desired.Extension)
		for _, r := range desired.Requests {
			c.keep(r)
			if !taken[r.Name] {
				taken[r.Name] = true
				c.working.Go(func() { c.work(ctx, r) })
			}
		}
	}
}

func (c *cluster) install(ctx context.Context, wished *link.Extension) {
	c.mu.Lock()
	changed := wished != nil && (c.extension == nil || c.extension.Generation != wished.Generation)
	if changed {
		c.extension = &link.ExtensionState{Name: wished.Name, Generation: wished.Generation, State: link.ExtensionReady, Version: "0.1.0"}
	}
	c.mu.Unlock()
	if changed {
		c.tell(ctx)
	}
}

// keep remembers a Backup; a later one of the same name must be the same.
func (c *cluster) keep(r link.Request) {
	if r.Kind != "Backup" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if before, known := c.backups[r.Name]; known && before != string(r.Spec) {
		c.t.Errorf("Backup %s came again with another spec: %s, before %s", r.Name, r.Spec, before)
	}
	c.backups[r.Name] = string(r.Spec)
}

// work does what a request asks for, in some seconds of the clock.
func (c *cluster) work(ctx context.Context, r link.Request) {
	if r.Kind != "Backup" {
		c.tell(ctx, c.state(r, v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1}))
		return
	}
	started := metav1.NewTime(c.clock.now())
	at := func(step string, bytes int64) v1alpha1.BackupStatus {
		return v1alpha1.BackupStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseInProgress, Attempt: 1, Started: &started,
			Progress: v1alpha1.Progress{Step: step, Steps: []v1alpha1.Step{{Name: step, Started: started}}, ObjectsTotal: 10, ObjectsDone: bytes / 10, Bytes: bytes}}}
	}
	c.tell(ctx, c.state(r, at(v1alpha1.StepCut, 0)))
	c.busy(ctx)
	c.tell(ctx, c.state(r, at(v1alpha1.StepUpload, 50)))
	c.busy(ctx)
	over := at(v1alpha1.StepRelease, 100)
	ended := metav1.NewTime(c.clock.now())
	over.Phase, over.Committed, over.Ended, over.RecoveryPointTime, over.ResourceVersion = v1alpha1.PhaseCompleted, true, &ended, &started, "1"
	over.Snapshots = []v1alpha1.VolumeSnapshotRecord{{Namespace: "shop", Claim: "data", Driver: "disk.test", Handle: "/snapshots/" + r.Name}}
	c.tell(ctx, c.state(r, over))
	// What is told late, or again, changes nothing.
	c.tell(ctx, c.state(r, at(v1alpha1.StepUpload, 70)))
	c.tell(ctx, c.state(r, over))
}

// busy lets a step of the work take its time.
func (c *cluster) busy(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(20*time.Millisecond + rand.N(300*time.Millisecond)):
	}
}

func (c *cluster) state(r link.Request, status any) link.RequestState {
	body, err := json.Marshal(status)
	if err != nil {
		c.t.Error(err)
	}
	return link.RequestState{Kind: r.Kind, Name: r.Name, Status: body}
}

// tell reports until it is heard.
func (c *cluster) tell(ctx context.Context, states ...link.RequestState) {
	c.mu.Lock()
	report := &link.Report{ConnectorVersion: "test", KubernetesVersion: "v1.37.1", NodeCount: 1, Extension: c.extension, Requests: states}
	c.mu.Unlock()
	for ctx.Err() == nil {
		if err := c.client.Report(ctx, report); err == nil {
			return
		}
	}
}

// asked are the names of the Backups.
func (c *cluster) asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name := range c.backups {
		names = append(names, name)
	}
	return names
}
