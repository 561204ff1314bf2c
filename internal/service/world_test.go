package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/blobserver"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

const (
	subscription = arm.ID("/subscriptions/00000000-0000-0000-0000-000000000001")
	rg           = subscription + "/resourceGroups/g"
	clusterID    = rg + "/providers/Microsoft.ContainerService/managedClusters/prod"
	accountID    = rg + "/providers/Microsoft.Storage/storageAccounts/backupstore"
	extensionID  = clusterID + "/providers/Microsoft.KubernetesConfiguration/extensions/azure-aks-backup"
	policyID     = vaultID + "/backupPolicies/daily"
	instanceID   = vaultID + "/backupInstances/prod"
)

// world is the service on a real database and a real blob folder, with one protected cluster that the test plays, and a clock that it sets. Nothing
// happens by itself: the test calls what Run would.
type world struct {
	*service.Service
	t        *testing.T
	database string
	folder   string
	clock    *clock
	close    func()
	by       service.Ref
	vault    backup.VaultResource
	state    *link.ExtensionState
}

// clock is a time that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(t *testing.T, text string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at(t, text)
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return moment.UTC()
}

const daily = `"repeatingTimeIntervals":["R/2026-02-16T04:00:00+00:00/P1D"]`

// newWorld is a world in which the instance is protected since noon of 2026-03-01.
func newWorld(t *testing.T) *world { return newWorldOn(t, storetest.Database(t, t.TempDir())) }

func newWorldOn(t *testing.T, database string) *world {
	t.Helper()
	w := &world{t: t, database: database, folder: t.TempDir(), clock: &clock{}}
	w.clock.set(t, "2026-03-01T12:00:00Z")
	w.open()
	t.Cleanup(func() { w.close() })
	ctx := t.Context()
	var owner store.Principal
	w.update(func(tx *store.Tx) error {
		var err error
		if owner, _, err = w.AddPrincipal(tx, "owner"); err != nil {
			return err
		}
		for _, id := range []arm.ID{subscription} {
			if err := tx.Put(&store.Resource{ID: id, Body: json.RawMessage(`{}`)}); err != nil {
				return err
			}
		}
		return w.assign(tx, owner.ID, "Owner", subscription)
	})
	w.by = service.Ref{ObjectID: owner.ID, Type: "Application"}
	w.must(w.PutResourceGroup(ctx, rg, service.ResourceGroup{Location: "eastus"}))
	w.must(w.PutStorageAccount(ctx, accountID, service.StorageAccount{Location: "eastus", SKU: service.SKU{Name: "Standard_LRS"}, Kind: "StorageV2"}))
	w.must(w.PutContainer(ctx, accountID, "aks"))
	vault, _, err := w.PutVault(ctx, w.by, vaultID, &backup.Input[backup.Vault]{Location: "eastus", Identity: &arm.Identity{Type: "SystemAssigned"}, Properties: &backup.Vault{
		StorageSettings: []backup.StorageSetting{{DatastoreType: backup.VaultStore, Type: "LocallyRedundant"}}}}, anyETag)
	w.check(err)
	w.vault = vault
	w.putPolicy(daily, "")
	w.connect()
	w.protect()
	return w
}

// must is for calls whose results do not matter.
func (w *world) must(_, _ any, err error) {
	w.t.Helper()
	w.check(err)
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func anyETag(string) error { return nil }

func (w *world) update(f func(*store.Tx) error) {
	w.t.Helper()
	w.check(w.DB.Update(w.t.Context(), f))
}

func (w *world) assign(tx *store.Tx, principal, role string, scope arm.ID) error {
	r, ok := auth.RoleByName(role)
	if !ok {
		return errors.New("no role " + role)
	}
	_, _, err := w.Assign(tx, scope.Extension(service.TypeRoleAssignment, "00000000-0000-4000-8000-"+fmt.Sprintf("%012d", len(scope))), r,
		service.RoleAssignmentProperties{PrincipalID: principal, PrincipalType: service.KindServicePrincipal}, w.by)
	return err
}

// open starts the service as a process would.
func (w *world) open() {
	w.t.Helper()
	db, err := store.Open(w.t.Context(), w.database, w.clock.Now)
	w.check(err)
	w.Service = &service.Service{DB: db, Now: w.clock.Now, Log: slog.New(slog.DiscardHandler), PublicURL: "https://cairn.test:8443", BlobURL: "https://cairn.test:8444",
		SubscriptionID: subscription.Subscription(), TenantID: "tenant"}
	blobs, err := blobserver.Open(blobserver.Config{Root: filepath.Join(w.folder, "blobs"), Now: w.clock.Now, Log: w.Log,
		Accounts:  func(context.Context, string) (blobserver.Account, error) { return blobserver.Account{}, nil },
		Authorize: func(context.Context, string, blobserver.Access) error { return nil }})
	w.check(err)
	w.Blobs = blobs
	w.close = func() {
		if err := errors.Join(blobs.Close(), db.Close()); err != nil {
			w.t.Error(err)
		}
	}
}

// restart ends the service and starts it again.
func (w *world) restart() {
	w.t.Helper()
	w.close()
	w.open()
	w.check(w.RescheduleAll(w.t.Context()))
}

// policy is a body with a schedule, and retention rules and criteria beyond Default's, which keeps 30 days.
func policy(schedule, more string) string {
	criteria, rules, _ := strings.Cut(more, "|")
	return `{"objectType":"BackupPolicy","datasourceTypes":["Microsoft.ContainerService/managedClusters"],"policyRules":[
 {"objectType":"AzureBackupRule","name":"BackupDaily","backupParameters":{"objectType":"AzureBackupParams","backupType":"Incremental"},
  "dataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"},
  "trigger":{"objectType":"ScheduleBasedTriggerContext","schedule":{` + schedule + `},
   "taggingCriteria":[` + criteria + `{"isDefault":true,"taggingPriority":99,"tagInfo":{"tagName":"Default"}}]}},` + rules + `
 {"objectType":"AzureRetentionRule","name":"Default","isDefault":true,"lifecycles":[{"deleteAfter":{"objectType":"AbsoluteDeleteOption","duration":"P30D"},
  "sourceDataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"}}]}]}`
}

func (w *world) putPolicy(schedule, more string) {
	w.t.Helper()
	in, err := backup.DecodeInput[backup.Policy]([]byte(policy(schedule, more)))
	w.check(err)
	_, err = w.PutPolicy(w.t.Context(), w.by, policyID, in, anyETag)
	w.check(err)
}

// connect makes the cluster with its extension, and lets it call.
func (w *world) connect() {
	w.t.Helper()
	ctx := w.t.Context()
	w.must(w.PutCluster(ctx, clusterID, service.Cluster{Location: "eastus"}, w.by, anyETag))
	value := func(s string) *string { return &s }
	w.must(w.PutExtension(ctx, extensionID, service.Extension{Properties: service.ExtensionProperties{ExtensionType: service.ExtensionType,
		ConfigurationSettings: map[string]*string{"blobContainer": value("aks"), "storageAccount": value("backupstore"), "storageAccountResourceGroup": value("g")}}},
		w.by, func(arm.ID) error { return nil }))
	w.update(func(tx *store.Tx) error { return w.assign(tx, w.vault.Identity.PrincipalID, "Reader", clusterID) })
	w.state = &link.ExtensionState{Name: "azure-aks-backup", Generation: 1, State: link.ExtensionReady, Version: "0.1.0"}
	w.call()
}

// call is a report of the cluster, with the states of requests.
func (w *world) call(states ...link.RequestState) {
	w.t.Helper()
	w.check(w.Reported(w.t.Context(), clusterID.Key(), &link.Report{ConnectorVersion: "test", KubernetesVersion: "v1.37.1", NodeCount: 1, Extension: w.state, Requests: states}))
}

// protect makes the instance, and lets the cluster agree.
func (w *world) protect() {
	w.t.Helper()
	in := &backup.Input[backup.Instance]{Properties: &backup.Instance{DataSource: &backup.Datasource{ResourceID: string(clusterID)}, Policy: &backup.PolicyInfo{PolicyID: string(policyID)}}}
	_, _, _, err := w.PutInstance(w.t.Context(), w.by, instanceID, in, anyETag)
	w.check(err)
	w.answer("ValidateForBackup", v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1})
	if i, err := w.Instance(w.t.Context(), instanceID); err != nil || i.Properties.CurrentProtectionState != backup.ProtectionConfigured {
		w.t.Fatalf("the instance is %v, %v", i.Properties.CurrentProtectionState, err)
	}
}

// wanted are the requests of a kind that the cluster should have.
func (w *world) wanted(kind string) []link.Request {
	w.t.Helper()
	d, err := w.Desired(w.t.Context(), clusterID.Key())
	w.check(err)
	return slices.DeleteFunc(d.Requests, func(r link.Request) bool { return r.Kind != kind })
}

// answer lets all requests of a kind come to the same end.
func (w *world) answer(kind string, status any) {
	w.t.Helper()
	found := w.wanted(kind)
	if len(found) == 0 {
		w.t.Fatalf("there is no %s to answer", kind)
	}
	for _, r := range found {
		body, err := json.Marshal(status)
		w.check(err)
		w.call(link.RequestState{Kind: kind, Name: r.Name, Status: body})
	}
}

// made is a backup's end, at the time that the clock shows, with a snapshot. Its blobs are put into storage.
func (w *world) made() {
	w.t.Helper()
	for _, r := range w.wanted("Backup") {
		var spec v1alpha1.BackupSpec
		w.check(json.Unmarshal(r.Spec, &spec))
		w.putBlob(bundle.CommitName(spec.Location.Prefix, spec.RecoveryPointID))
		w.putBlob(bundle.Folder(spec.Location.Prefix, spec.RecoveryPointID) + "a1/volumes.jsonl.zst.age")
		cut := metav1.NewTime(w.Now())
		w.answer("Backup", v1alpha1.BackupStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1, Started: &cut, Ended: &cut}, Committed: true, RecoveryPointTime: &cut,
			Snapshots: []v1alpha1.VolumeSnapshotRecord{{Namespace: "shop", Claim: "data", Driver: "disk.csi.azure.com", Handle: "/snapshots/" + spec.RecoveryPointID}}})
	}
}

// storage asks the blob endpoint.
func (w *world) storage(method, path string, header map[string]string, want int) string {
	w.t.Helper()
	r := httptest.NewRequest(method, "https://cairn.test:8444/backupstore/aks"+path, strings.NewReader("x"))
	r.Header.Set("Authorization", "Bearer anybody")
	r.Header.Set("x-ms-version", "2023-11-03")
	for k, v := range header {
		r.Header.Set(k, v)
	}
	answer := httptest.NewRecorder()
	w.Blobs.(*blobserver.Server).ServeHTTP(answer, r)
	if answer.Code != want {
		w.t.Fatalf("%s %s: %d %s", method, path, answer.Code, answer.Body)
	}
	return answer.Body.String()
}

func (w *world) putBlob(name string) {
	w.t.Helper()
	w.storage("PUT", "/"+name, map[string]string{"x-ms-blob-type": "BlockBlob"}, 201)
}

// blobs is how many there are.
func (w *world) blobs() int {
	w.t.Helper()
	return strings.Count(w.storage("GET", "?restype=container&comp=list", nil, 200), "<Blob>")
}

// failedStatus is a request's end that its cluster could not help.
var failedStatus = v1alpha1.BackupStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseFailed, Attempt: 3, Errors: []v1alpha1.Issue{{Code: "StorageNotReachable", Message: "storage is away", Action: "Bring it back."}}}}

// tick does what the service does at that time.
func (w *world) tick(text string) {
	w.t.Helper()
	w.clock.set(w.t, text)
	w.work()
}

// work does what is due.
func (w *world) work() {
	w.t.Helper()
	for _, f := range []func() (time.Time, error){
		func() (time.Time, error) { return w.StartDue(w.t.Context()) },
		func() (time.Time, error) { return w.Prune(w.t.Context()) },
		func() (time.Time, error) { return w.Delete(w.t.Context()) },
	} {
		next, err := f()
		w.check(err)
		if !next.IsZero() && !next.After(w.Now()) {
			w.t.Fatalf("what is due at %s is left at %s", next, w.Now())
		}
	}
}

// runs are what became of the instance's slots, oldest first, as "slot outcome code".
func (w *world) runs() []string {
	w.t.Helper()
	s, err := w.Schedule(w.t.Context(), instanceID)
	w.check(err)
	var out []string
	for _, r := range slices.Backward(s.Properties.Runs) {
		line := r.Slot.Format("01-02T15:04") + " " + r.Outcome
		if r.Code != "" {
			line += " " + r.Code
		}
		if r.MissedSlots > 0 {
			line += fmt.Sprintf(" missed=%d", r.MissedSlots)
		}
		out = append(out, line)
	}
	return out
}

func (w *world) wantRuns(want ...string) {
	w.t.Helper()
	if got := w.runs(); !slices.Equal(got, want) {
		w.t.Fatalf("the runs are %q, want %q", got, want)
	}
}

// next is the instance's next slot.
func (w *world) next() string {
	w.t.Helper()
	s, err := w.Schedule(w.t.Context(), instanceID)
	w.check(err)
	if len(s.Properties.NextSlots) == 0 {
		return "never"
	}
	return s.Properties.NextSlots[0].Format(time.RFC3339)
}

// points are the instance's recovery points, newest first.
func (w *world) points() []service.RecoveryPointResource {
	w.t.Helper()
	found, _, err := w.RecoveryPoints(w.t.Context(), instanceID, backup.Filter{}, store.Page{Limit: 1000})
	w.check(err)
	return found
}

// ledger is what is to be deleted.
func (w *world) ledger() []service.PendingDeletion {
	w.t.Helper()
	found, err := w.PendingDeletions(w.t.Context(), vaultID)
	w.check(err)
	return found
}
