package compat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/link"
)

const (
	group      = "rg-prod"
	vaultName  = "bkv-prod"
	policyName = "daily"
	location   = "eastus"
)

// cluster plays a cluster: it asks what it should have and reports what it has, over the real protocol. Requests are answered
// by kind; a kind without an answer is held until the test reports on it.
type cluster struct {
	t      testing.TB
	id     string
	name   string
	client *link.Client
	// credential is the connector's.
	credential link.Credential

	mu        sync.Mutex
	extension *link.ExtensionState
	answers   map[string]func(link.Request) []any
	taken     map[string]bool
	arrived   map[string]chan link.Request

	stop func()
}

// join makes a cluster with storage and the extension, and lets its connector run.
func join(t testing.TB, w *daemontest.World, name string) *cluster {
	t.Helper()
	c := connect(t, w, name)
	installExtension(t, w, c)
	return c
}

// connect makes a cluster whose connector runs, without the extension.
func connect(t testing.TB, w *daemontest.World, name string) *cluster {
	t.Helper()
	rg := w.Subscription + "/resourceGroups/" + group
	w.Do("PUT", rg, map[string]any{"location": location}).Want(200, 201)
	id := rg + "/providers/Microsoft.ContainerService/managedClusters/" + name
	w.Do("PUT", id, map[string]any{"location": location, "properties": map[string]any{}}).Want(200, 201)
	body, err := json.Marshal(w.Do("POST", id+"/connect", nil).Want(200).JSON)
	if err != nil {
		t.Fatal(err)
	}
	var credential link.Credential
	if err := json.Unmarshal(body, &credential); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, id: id, name: name, credential: credential, taken: map[string]bool{}, arrived: map[string]chan link.Request{},
		client: &link.Client{UserAgent: "compat", Credential: func() (link.Credential, error) { return credential, nil }},
		answers: map[string]func(link.Request) []any{
			"ValidateForBackup": completed, "ValidateForRestore": completed, "DeleteBackup": completed, "Backup": backedUp, "Restore": restored, "Withdrawn": stopped,
		}}
	for _, kind := range []string{"ValidateForBackup", "ValidateForRestore", "DeleteBackup", "Backup", "Restore", "Withdrawn"} {
		c.arrived[kind] = make(chan link.Request, 100)
	}
	c.run()
	return c
}

// installExtension makes storage and the extension, and waits until it is there.
func installExtension(t testing.TB, w *daemontest.World, c *cluster) {
	t.Helper()
	rg := w.Subscription + "/resourceGroups/" + group
	account := rg + "/providers/Microsoft.Storage/storageAccounts/backupstore"
	w.Do("PUT", account, map[string]any{"location": location, "sku": map[string]any{"name": "Standard_LRS"}, "kind": "StorageV2"}).Want(200, 202)
	w.Do("PUT", account+"/blobServices/default/containers/aks", map[string]any{}).Want(200, 201)
	extension := c.id + "/providers/Microsoft.KubernetesConfiguration/extensions/azure-aks-backup"
	w.Do("PUT", extension, map[string]any{"properties": map[string]any{"extensionType": "microsoft.dataprotection.kubernetes",
		"configurationSettings": map[string]any{"blobContainer": "aks", "storageAccount": "backupstore", "storageAccountResourceGroup": group}}}).Want(200, 201)
	eventually(t, "the extension", func() error {
		if state := w.Do("GET", extension, nil).Want(200).At("properties", "provisioningState"); state != "Succeeded" {
			return fmt.Errorf("it is %v", state)
		}
		return nil
	})
}

// run starts the connector; stop ends it.
func (c *cluster) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.loop(ctx)
	}()
	c.stop = sync.OnceFunc(func() { cancel(); <-done })
	c.t.Cleanup(func() { c.stop() })
}

func (c *cluster) loop(ctx context.Context) {
	etag := ""
	c.tell(ctx)
	for ctx.Err() == nil {
		desired, err := c.client.Desired(ctx, etag, 20*time.Second)
		if err != nil || desired == nil {
			continue // the client has paused already; a service that restarts is asked again
		}
		etag = desired.ETag
		c.take(ctx, desired)
	}
}

// take installs what is wished and removes what is not, and answers new requests.
func (c *cluster) take(ctx context.Context, desired *link.Desired) {
	c.mu.Lock()
	if e := desired.Extension; e != nil && (c.extension == nil || c.extension.Generation != e.Generation) {
		c.extension = &link.ExtensionState{Name: e.Name, Generation: e.Generation, State: link.ExtensionReady, Version: "0.1.0"}
	} else if e == nil {
		c.extension = nil
	}
	var fresh []link.Request
	for _, r := range desired.Requests {
		if key := fmt.Sprint(r.Name, r.Withdrawn); !c.taken[key] {
			c.taken[key] = true
			fresh = append(fresh, r)
		}
	}
	c.mu.Unlock()
	c.tell(ctx)
	for _, r := range fresh {
		what := r.Kind
		if r.Withdrawn {
			what = "Withdrawn"
		}
		c.mu.Lock()
		answer := c.answers[what]
		c.mu.Unlock()
		if answer != nil {
			for _, status := range answer(r) {
				c.tell(ctx, state(c.t, r, status))
			}
		}
		select {
		case c.arrived[what] <- r:
		default: // no test looks at so many
		}
	}
}

// tell reports.
func (c *cluster) tell(ctx context.Context, states ...link.RequestState) {
	c.mu.Lock()
	report := &link.Report{ConnectorVersion: "test", KubernetesVersion: "v1.37.1", NodeCount: 1, Extension: c.extension, Requests: states}
	c.mu.Unlock()
	for ctx.Err() == nil {
		err := c.client.Report(ctx, report)
		if err == nil {
			return
		}
		var refused *link.StatusError
		if errors.As(err, &refused) && refused.Status/100 == 4 {
			c.t.Errorf("report: %v", err)
			return
		}
	}
}

// say reports on a request that was held.
func (c *cluster) say(r link.Request, status any) {
	c.t.Helper()
	c.tell(c.t.Context(), state(c.t, r, status))
}

// hold lets requests of a kind wait for the test.
func (c *cluster) hold(kind string) { c.answer(kind, nil) }

func (c *cluster) answer(kind string, f func(link.Request) []any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[kind] = f
}

// next is the next request of a kind that the cluster was given.
func (c *cluster) next(kind string) link.Request {
	c.t.Helper()
	select {
	case r := <-c.arrived[kind]:
		return r
	case <-time.After(30 * time.Second):
		c.t.Fatalf("no %s came to the cluster", kind)
		return link.Request{}
	}
}

// become lets the extension have another state from now on.
func (c *cluster) become(state, message string) {
	c.mu.Lock()
	changed := *c.extension
	changed.State, changed.Message = state, message
	c.extension = &changed
	c.mu.Unlock()
	c.tell(c.t.Context())
}

func state(t testing.TB, r link.Request, status any) link.RequestState {
	body, err := json.Marshal(status)
	if err != nil {
		t.Error(err)
	}
	return link.RequestState{Kind: r.Kind, Name: r.Name, Status: body}
}

func completed(link.Request) []any {
	return []any{v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1}}
}

// stopped is a request that was withdrawn before it had done anything.
func stopped(link.Request) []any {
	return []any{v1alpha1.Status{Phase: v1alpha1.PhaseFailed, Errors: []v1alpha1.Issue{{Code: v1alpha1.CodeDeleted, Message: "the request was withdrawn"}}}}
}

func refused(code, message, action string) func(link.Request) []any {
	return func(link.Request) []any {
		return []any{v1alpha1.Status{Phase: v1alpha1.PhaseFailed, Attempt: 1,
			Errors: []v1alpha1.Issue{{Code: code, Resource: "storage", Message: message, Action: action}}}}
	}
}

var cut = metav1.NewTime(time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC))

func steps(names []string, running bool) []v1alpha1.Step {
	var out []v1alpha1.Step
	for i, name := range names {
		s := v1alpha1.Step{Name: name, Started: cut}
		if !running || i < len(names)-1 {
			s.Ended = &cut
		}
		out = append(out, s)
	}
	return out
}

var backupSteps = []string{v1alpha1.StepCut, v1alpha1.StepSnapshot, v1alpha1.StepUpload, v1alpha1.StepCommit, v1alpha1.StepRelease}

// uploading is a backup in its third step.
func uploading(objects int64) v1alpha1.BackupStatus {
	return v1alpha1.BackupStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseInProgress, Attempt: 1, Started: &cut, Progress: v1alpha1.Progress{
		Step: v1alpha1.StepUpload, Steps: steps(backupSteps[:3], true), ObjectsDone: objects, ObjectsTotal: 100, VolumesDone: 1, VolumesTotal: 1, Bytes: objects * 10,
	}}}
}

// committed is a backup that is over.
func committed(phase v1alpha1.Phase) v1alpha1.BackupStatus {
	s := uploading(100)
	s.Phase, s.Committed, s.Ended, s.RecoveryPointTime, s.ResourceVersion = phase, true, &cut, &cut, "4711"
	s.Progress.Steps = steps(backupSteps, false)
	s.Snapshots = []v1alpha1.VolumeSnapshotRecord{{Namespace: "shop", Claim: "data", Volume: "pv-1", Driver: "disk.csi.azure.com", Handle: "/snapshots/1", RestoreSizeBytes: 1 << 30}}
	return s
}

func backedUp(link.Request) []any { return []any{uploading(40), committed(v1alpha1.PhaseCompleted)} }

func restored(link.Request) []any {
	ready := true
	return []any{v1alpha1.RestoreStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1, Progress: v1alpha1.Progress{
		Steps: steps([]string{v1alpha1.StepPlan, v1alpha1.StepApply, v1alpha1.StepWait}, false), ObjectsDone: 12, ObjectsTotal: 12, Bytes: 999}},
		Created: 11, Skipped: 1, WorkloadsReady: &ready}}
}

// eventually waits until f has no error.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// world is cairnd with one cluster and, for it, a vault that may read it, a policy, and paths to all of them.
type world struct {
	*daemontest.World
	cluster  *cluster
	vault    string
	instance string
}

const policyBody = `{"properties":{"objectType":"BackupPolicy","datasourceTypes":["Microsoft.ContainerService/managedClusters"],"policyRules":[
 {"objectType":"AzureBackupRule","name":"BackupDaily","backupParameters":{"objectType":"AzureBackupParams","backupType":"Incremental"},
  "dataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"},
  "trigger":{"objectType":"ScheduleBasedTriggerContext","schedule":{"repeatingTimeIntervals":["R/2026-02-16T04:00:00+00:00/P1D"]},
   "taggingCriteria":[{"isDefault":true,"taggingPriority":99,"tagInfo":{"tagName":"Default"}}]}},
 {"objectType":"AzureRetentionRule","name":"Default","isDefault":true,"lifecycles":[{"deleteAfter":{"objectType":"AbsoluteDeleteOption","duration":"P30D"},
  "sourceDataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"}}]}]}}`

// setUp makes a world without a backup instance.
func setUp(t testing.TB, w *daemontest.World) *world {
	t.Helper()
	c := join(t, w, "prod")
	v := w.Subscription + "/resourceGroups/" + group + "/providers/Microsoft.DataProtection/backupVaults/" + vaultName
	made := w.Do("PUT", v, map[string]any{"location": location, "identity": map[string]any{"type": "SystemAssigned"},
		"properties": map[string]any{"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}}).Want(201)
	principal, ok := made.At("identity", "principalId").(string)
	if !ok {
		t.Fatalf("the vault has no identity: %v", made.JSON)
	}
	grant(t, w, principal, "acdd72a7-3385-48ef-bd42-f606fba81ae7", c.id, "00000000-0000-4000-8000-000000000001")
	w.Do("PUT", v+"/backupPolicies/"+policyName, policyBody).Want(200)
	return &world{World: w, cluster: c, vault: v, instance: v + "/backupInstances/prod"}
}

// grant assigns a role.
func grant(t testing.TB, w *daemontest.World, principal, role, scope, name string) {
	t.Helper()
	w.Do("PUT", scope+"/providers/Microsoft.Authorization/roleAssignments/"+name, map[string]any{"properties": map[string]any{
		"principalId": principal, "principalType": "ServicePrincipal", "roleDefinitionId": w.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/" + role}}).Want(201)
}

// instanceBody is the least that makes an instance of the cluster.
func (w *world) instanceBody() map[string]any {
	return map[string]any{"properties": map[string]any{"objectType": "BackupInstance",
		"dataSourceInfo": map[string]any{"objectType": "Datasource", "resourceID": w.cluster.id},
		"policyInfo":     map[string]any{"policyId": w.vault + "/backupPolicies/" + policyName}}}
}

// protect makes the instance and waits until it is configured.
func (w *world) protect(t testing.TB) {
	t.Helper()
	w.Do("PUT", w.instance, w.instanceBody()).Want(201)
	w.awaitState(t, w.instance, "ProtectionConfigured")
}

// later lets time pass, after which the administrator has logged in again and the cluster has been heard of.
func (w *world) later(now *clock, d time.Duration) {
	now.advance(d)
	w.LogIn()
	w.cluster.tell(w.cluster.t.Context())
}

func (w *world) awaitState(t testing.TB, instance string, want ...any) {
	t.Helper()
	eventually(t, "protection of "+instance, func() error {
		a := w.Do("GET", instance, nil).Want(200)
		if got := a.At("properties", "currentProtectionState"); !slices.Contains(want, got) {
			return fmt.Errorf("it is %v: %v", got, a.At("properties", "protectionErrorDetails"))
		}
		return nil
	})
}

const adhoc = `{"backupRuleOptions":{"ruleName":"BackupDaily","triggerOption":{}}}`

// start posts an action that starts a job and returns the job's path.
func (w *world) start(t testing.TB, action string, body any) string {
	t.Helper()
	a := w.Do("POST", w.instance+action, body).Want(202)
	job, ok := w.Do("GET", a.Header.Get("Azure-AsyncOperation"), nil).Want(200).At("properties", "jobId").(string)
	if !ok {
		t.Fatal("the operation tells no job")
	}
	return job
}

// finish waits for a job to end.
func (w *world) finish(t testing.TB, job string) daemontest.Answer {
	t.Helper()
	var a daemontest.Answer
	eventually(t, "job "+job, func() error {
		a = w.Do("GET", job, nil).Want(200)
		if s := a.At("properties", "status"); s == "InProgress" {
			return errors.New("it is in progress")
		}
		return nil
	})
	return a
}

// points are the instance's recovery points.
func (w *world) points(t testing.TB) []any {
	t.Helper()
	list, ok := w.Do("GET", w.instance+"/recoveryPoints", nil).Want(200).At("value").([]any)
	if !ok {
		t.Fatal("the list has no value")
	}
	return list
}

// nothing is a request for answers that do not look at it.
func (w *world) nothing() link.Request { return link.Request{} }

var warnings = []v1alpha1.Issue{{Code: "VolumeTypeNotSupported", Resource: "persistentvolumeclaims/shop/share", Message: "the volume is of a kind that has no snapshots", Action: "Use a CSI driver with snapshots."}}
