package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/client"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
)

const (
	// perVault is how many clusters share a vault, perCluster how many instances each cluster has at most: one of each of a vault's policies.
	perVault   = 10
	perCluster = 10
	// atOnce is how many calls set things up at the same time.
	atOnce = 8
	// backupTakes is about how long a simulated backup runs.
	backupTakes = 20 * time.Second
	version     = "2024-04-01"
	reader      = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
)

// fleet is one cairnd, as a process of its own, and the clusters that are played.
type fleet struct {
	dir     string
	program string
	args    []string
	// database is what cairnd keeps its state in, as store.Open takes it.
	database string
	cairnd   *exec.Cmd
	log      *os.File
	client   *client.Client
	group    string
	members  []*member
	// slot is that of the measurement under way.
	slot atomic.Pointer[measurement]
}

// member is a cluster as its connector shows it.
type member struct {
	fleet  *fleet
	number int
	id     string
	link   *link.Client
	states chan link.RequestState
	ext    atomic.Pointer[link.ExtensionState]
	taken  map[string]bool
}

// measurement is one slot, or slots that are spread.
type measurement struct {
	mu sync.Mutex
	// arrived are, for each backup, how long after its slot the cluster had its request; started, how long after it its job began.
	arrived, started []time.Duration
	gets             []time.Duration
	ended            int
}

// scale measures slots of a growing number of instances.
func scale(ctx context.Context, clusters int, sizes []int, database string) (err error) {
	f := &fleet{}
	if f.dir, err = os.MkdirTemp("", "cairn-scale-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(f.dir)) }()
	if err := f.start(ctx, database); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.end()) }()
	ctx, cancel := context.WithCancel(ctx)
	connectors := &errgroup.Group{}
	defer func() { cancel(); err = errors.Join(err, connectors.Wait()) }()
	began := time.Now()
	if err := f.build(ctx, clusters, connectors); err != nil {
		return fmt.Errorf("%w\n%s", err, f.tail())
	}
	fmt.Fprintf(os.Stderr, "%d clusters are connected after %s\n", clusters, time.Since(began).Round(time.Second))
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "instances\tslots\tjob p50\tjob p99\tjob max\tcluster p50\tcluster p99\tGET p50\tGET p99\tCPU\tmemory\tpeak\tstatements/slot\t")
	have := 0
	for _, size := range sizes {
		if size > clusters*perCluster {
			return fmt.Errorf("%d clusters have at most %d instances", clusters, clusters*perCluster)
		}
		began := time.Now()
		if err := f.protect(ctx, have, size); err != nil {
			return fmt.Errorf("%w\n%s", err, f.tail())
		}
		fmt.Fprintf(os.Stderr, "%d instances are protected after %s more\n", size, time.Since(began).Round(time.Second))
		have = size
		for _, spread := range []time.Duration{0, time.Minute} {
			if err := f.measure(ctx, out, size, spread); err != nil {
				return fmt.Errorf("%w\n%s", err, f.tail())
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// start builds cairnd and starts it.
func (f *fleet) start(ctx context.Context, database string) error {
	f.program = filepath.Join(f.dir, "cairnd")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", f.program, "github.com/cairn-backup/cairn/cmd/cairnd").CombinedOutput(); err != nil {
		return fmt.Errorf("build cairnd: %w\n%s", err, out)
	}
	data := filepath.Join(f.dir, "data")
	api, err := freePort()
	if err != nil {
		return err
	}
	blobs, err := freePort()
	if err != nil {
		return err
	}
	f.args, f.database = []string{"--data", data, "--listen", api, "--blob-listen", blobs}, filepath.Join(data, "state.db")
	if database != "" {
		f.args, f.database = append(f.args, "--database", database), database
	}
	if err := f.launch(ctx); err != nil {
		return err
	}
	env, err := daemon.ReadEnv(filepath.Join(data, "admin.env"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(env["SSL_CERT_FILE"])
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 16 * atOnce}}
	tokens, err := azidentity.NewClientSecretCredential(env["AZURE_TENANT_ID"], env["AZURE_CLIENT_ID"], env["AZURE_CLIENT_SECRET"], &azidentity.ClientSecretCredentialOptions{
		ClientOptions:            azcore.ClientOptions{Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: env["AZURE_AUTHORITY_HOST"]}, Transport: transport},
		DisableInstanceDiscovery: true,
	})
	if err != nil {
		return err
	}
	f.group = "/subscriptions/" + env["AZURE_SUBSCRIPTION_ID"] + "/resourceGroups/scale"
	f.client, err = client.New(tokens, client.Options{Endpoint: env["CAIRN_ENDPOINT"], Transport: transport, UserAgent: "bench"})
	return err
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// launch starts cairnd and waits until it serves. Its log begins anew.
func (f *fleet) launch(ctx context.Context) (err error) {
	if f.log, err = os.Create(filepath.Join(f.dir, "log")); err != nil {
		return err
	}
	f.cairnd = exec.CommandContext(ctx, f.program, f.args...)
	f.cairnd.Stderr = f.log
	f.cairnd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := f.cairnd.Start(); err != nil {
		return err
	}
	for {
		text, err := os.ReadFile(f.log.Name())
		if err != nil || strings.Contains(string(text), "msg=serving") {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if err := f.cairnd.Process.Signal(syscall.Signal(0)); err != nil {
			return fmt.Errorf("cairnd: %w\n%s", err, text)
		}
	}
}

// tail is the end of cairnd's log, but for its requests.
func (f *fleet) tail() string {
	file, err := os.Open(f.log.Name())
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	var lines []string
	for s := bufio.NewScanner(file); s.Scan(); {
		if strings.Contains(s.Text(), "level=ERROR") {
			lines = append(lines, s.Text())
		}
	}
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// end ends cairnd.
func (f *fleet) end() error {
	if err := f.cairnd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return errors.Join(f.cairnd.Wait(), f.log.Close())
}

func (f *fleet) put(ctx context.Context, path string, body any) (any, error) {
	doc, err := f.client.Do(ctx, client.Request{Method: "PUT", Path: path, APIVersion: version, Body: body, NoWait: true})
	if err != nil {
		return nil, fmt.Errorf("PUT %s: %w", path, err)
	}
	return doc, nil
}

func (f *fleet) vault(cluster int) string {
	return fmt.Sprintf("%s/providers/Microsoft.DataProtection/backupVaults/vault-%d", f.group, cluster/perVault)
}

// build makes everything but instances, and lets the connectors run.
func (f *fleet) build(ctx context.Context, clusters int, connectors *errgroup.Group) error {
	location := map[string]any{"location": "eastus"}
	account := f.group + "/providers/Microsoft.Storage/storageAccounts/scale"
	for _, step := range []struct {
		path string
		body any
	}{{f.group, location}, {account, map[string]any{"location": "eastus", "kind": "StorageV2", "sku": map[string]any{"name": "Standard_LRS"}}},
		{account + "/blobServices/default/containers/backups", map[string]any{}}} {
		if _, err := f.put(ctx, step.path, step.body); err != nil {
			return err
		}
	}
	principals := make([]string, (clusters+perVault-1)/perVault)
	for v := range principals {
		doc, err := f.put(ctx, f.vault(v*perVault), map[string]any{"location": "eastus", "identity": map[string]any{"type": "SystemAssigned"},
			"properties": map[string]any{"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}})
		if err != nil {
			return err
		}
		principals[v] = doc.(map[string]any)["identity"].(map[string]any)["principalId"].(string)
	}
	if err := f.schedule(ctx, clusters, func(int, int) time.Time { return time.Now().Add(24 * time.Hour) }); err != nil {
		return err
	}
	f.members = make([]*member, clusters)
	return each(clusters, atOnce, func(n int) error {
		m := &member{fleet: f, number: n, id: fmt.Sprintf("%s/providers/Microsoft.ContainerService/managedClusters/cluster-%d", f.group, n),
			states: make(chan link.RequestState, 4*perCluster), taken: map[string]bool{}}
		f.members[n] = m
		return m.join(ctx, principals[n/perVault], connectors)
	})
}

// each does n things, so many at a time.
func each(n, atOnce int, f func(int) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

// join makes the cluster and lets its connector run.
func (m *member) join(ctx context.Context, principal string, connectors *errgroup.Group) error {
	f := m.fleet
	if _, err := f.put(ctx, m.id, map[string]any{"location": "eastus"}); err != nil {
		return err
	}
	doc, err := f.client.Do(ctx, client.Request{Method: "POST", Path: m.id + "/connect", APIVersion: version, NoWait: true})
	if err != nil {
		return err
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	var credential link.Credential
	if err := json.Unmarshal(text, &credential); err != nil {
		return err
	}
	m.link = &link.Client{UserAgent: "bench", Credential: func() (link.Credential, error) { return credential, nil }}
	if _, err := f.put(ctx, m.id+"/providers/Microsoft.KubernetesConfiguration/extensions/azure-aks-backup", map[string]any{"properties": map[string]any{
		"extensionType": "microsoft.dataprotection.kubernetes", "configurationSettings": map[string]any{
			"blobContainer": "backups", "storageAccount": "scale", "storageAccountResourceGroup": "scale"}}}); err != nil {
		return err
	}
	if _, err := f.put(ctx, fmt.Sprintf("%s/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-%012d", m.id, m.number), map[string]any{"properties": map[string]any{
		"principalId": principal, "principalType": "ServicePrincipal",
		"roleDefinitionId": strings.Split(f.group, "/resourceGroups/")[0] + "/providers/Microsoft.Authorization/roleDefinitions/" + reader}}); err != nil {
		return err
	}
	m.ext.Store(&link.ExtensionState{Name: "azure-aks-backup", Generation: 1, State: link.ExtensionReady, Version: "0.1.0"})
	if err := m.report(ctx, nil); err != nil {
		return err
	}
	connectors.Go(func() error { m.poll(ctx); return nil })
	connectors.Go(func() error { m.tell(ctx); return nil })
	return nil
}

// poll asks what the cluster should have, and begins what is new.
func (m *member) poll(ctx context.Context) {
	etag := ""
	for ctx.Err() == nil {
		d, err := m.link.Desired(ctx, etag, 30*time.Second)
		if err != nil || d == nil {
			continue // the client has paused
		}
		etag = d.ETag
		now := time.Now()
		for _, r := range d.Requests {
			if !m.taken[r.Name] {
				m.taken[r.Name] = true
				m.begin(ctx, r, now)
			}
		}
	}
}

func (m *member) begin(ctx context.Context, r link.Request, now time.Time) {
	if r.Kind != "Backup" {
		m.say(r, v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1})
		return
	}
	current := m.fleet.slot.Load()
	var spec v1alpha1.BackupSpec
	slot := time.Time{}
	if err := json.Unmarshal(r.Spec, &spec); err == nil {
		slot, _ = time.Parse(time.RFC3339, spec.Origin["scheduledTime"]) // a wrong one shows as an absurd delay
	}
	current.mu.Lock()
	current.arrived = append(current.arrived, now.Sub(slot))
	current.mu.Unlock()
	cut := metav1.NewTime(now)
	status := v1alpha1.BackupStatus{Status: v1alpha1.Status{Phase: v1alpha1.PhaseInProgress, Attempt: 1, Started: &cut,
		Progress: v1alpha1.Progress{Step: v1alpha1.StepCut, Steps: []v1alpha1.Step{{Name: v1alpha1.StepCut, Started: cut}}}}}
	m.say(r, status)
	time.AfterFunc(backupTakes/2+rand.N(backupTakes), func() {
		if ctx.Err() != nil {
			return
		}
		end := metav1.Now()
		status.Phase, status.Ended, status.Committed, status.RecoveryPointTime = v1alpha1.PhaseCompleted, &end, true, &cut
		status.Snapshots = []v1alpha1.VolumeSnapshotRecord{{Namespace: "shop", Claim: "data", Driver: "disk.csi.azure.com", Handle: "/snapshots/" + spec.RecoveryPointID, RestoreSizeBytes: 1 << 30}}
		m.say(r, status)
		current.mu.Lock()
		current.ended++
		current.mu.Unlock()
	})
}

func (m *member) say(r link.Request, status any) {
	body, err := json.Marshal(status)
	if err != nil {
		panic(err) // our own types
	}
	m.states <- link.RequestState{Kind: r.Kind, Name: r.Name, Status: body}
}

// tell reports what there is to say, as a connector does: all at once, one report at a time.
func (m *member) tell(ctx context.Context) {
	for {
		var states []link.RequestState
		select {
		case <-ctx.Done():
			return
		case s := <-m.states:
			states = append(states, s)
		}
		for more := true; more; {
			select {
			case s := <-m.states:
				states = append(states, s)
			default:
				more = false
			}
		}
		for ctx.Err() == nil && m.report(ctx, states) != nil {
			continue // the client has paused
		}
	}
}

func (m *member) report(ctx context.Context, states []link.RequestState) error {
	return m.link.Report(ctx, &link.Report{ConnectorVersion: "bench", KubernetesVersion: "v1.37.1", NodeCount: 3, Extension: m.ext.Load(), Requests: states})
}

// schedule gives each policy of each vault its next slot.
func (f *fleet) schedule(ctx context.Context, clusters int, slot func(vault, policy int) time.Time) error {
	return each((clusters+perVault-1)/perVault*perCluster, atOnce, func(n int) error {
		v, p := n/perCluster, n%perCluster
		start := slot(v, p).UTC().Format(time.RFC3339)
		_, err := f.put(ctx, fmt.Sprintf("%s/backupPolicies/policy-%d", f.vault(v*perVault), p), json.RawMessage(`{"properties":{"objectType":"BackupPolicy",
 "datasourceTypes":["Microsoft.ContainerService/managedClusters"],"policyRules":[
 {"objectType":"AzureBackupRule","name":"BackupHourly","backupParameters":{"objectType":"AzureBackupParams","backupType":"Incremental"},
  "dataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"},
  "trigger":{"objectType":"ScheduleBasedTriggerContext","schedule":{"repeatingTimeIntervals":["R/`+start+`/PT4H"]},
   "taggingCriteria":[{"isDefault":true,"taggingPriority":99,"tagInfo":{"tagName":"Default"}}]}},
 {"objectType":"AzureRetentionRule","name":"Default","isDefault":true,"lifecycles":[{"deleteAfter":{"objectType":"AbsoluteDeleteOption","duration":"P30D"},
  "sourceDataStore":{"objectType":"DataStoreInfoBase","dataStoreType":"OperationalStore"}}]}]}}`))
		return err
	})
}

func (f *fleet) instance(n int) string {
	cluster := n % len(f.members)
	return fmt.Sprintf("%s/backupInstances/cluster-%d-%d", f.vault(cluster), cluster, n/len(f.members))
}

// protect makes instances until there are that many. Each cluster's first is made as a user would; the others are copies of it, which only differ
// in name, policy and GUID, written into the database while cairnd is away.
func (f *fleet) protect(ctx context.Context, have, want int) error {
	if err := each(min(want, len(f.members))-have, 4*atOnce, func(i int) error {
		n := have + i
		_, err := f.client.Do(ctx, client.Request{Method: "PUT", Path: f.instance(n), APIVersion: version, Body: map[string]any{"properties": map[string]any{"objectType": "BackupInstance",
			"dataSourceInfo": map[string]any{"objectType": "Datasource", "resourceID": f.members[n].id},
			"policyInfo":     map[string]any{"policyId": f.vault(n) + "/backupPolicies/policy-0"}}}})
		if err != nil {
			return fmt.Errorf("PUT %s: %w", f.instance(n), err)
		}
		return nil
	}); err != nil || want <= len(f.members) {
		return err
	}
	if err := f.end(); err != nil {
		return err
	}
	if err := f.copies(ctx, max(have, len(f.members)), want); err != nil {
		return err
	}
	return f.launch(ctx)
}

func (f *fleet) copies(ctx context.Context, have, want int) (err error) {
	db, err := store.Open(ctx, f.database, time.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.Update(ctx, func(tx *store.Tx) error {
		for n := have; n < want; n++ {
			doc, _, err := store.Load[map[string]any](tx, arm.ID(f.instance(n%len(f.members))))
			if err != nil {
				return err
			}
			id := arm.ID(f.instance(n))
			doc["id"], doc["name"], doc["guid"] = string(id), id.Name(), uuid.NewString()
			policy := doc["properties"].(map[string]any)["policyInfo"].(map[string]any)
			policy["policyId"] = fmt.Sprintf("%s/backupPolicies/policy-%d", f.vault(n%len(f.members)), n/len(f.members))
			r := store.Resource{ID: id}
			if err := tx.Save(&r, doc); err != nil {
				return err
			}
		}
		return nil
	})
}

// measure lets all instances' slots come at one time, or spread over a while, and prints how that went.
func (f *fleet) measure(ctx context.Context, out io.Writer, instances int, spread time.Duration) error {
	m := &measurement{}
	f.slot.Store(m)
	vaults := (len(f.members) + perVault - 1) / perVault
	// The policies are changed before, of which there are as many as clusters, each with a part of the instances.
	first := time.Now().Add(45*time.Second + time.Duration(instances)*12*time.Millisecond).Truncate(time.Second)
	if err := f.schedule(ctx, len(f.members), func(v, p int) time.Time {
		return first.Add(time.Duration(v+vaults*p) * spread / time.Duration(vaults*perCluster))
	}); err != nil {
		return err
	}
	if late := time.Since(first); late > 0 {
		return fmt.Errorf("the policies were ready %s after the slot: the machine is too slow or too busy", late)
	}
	cpu, err := cpuTime(f.cairnd.Process.Pid)
	if err != nil {
		return err
	}
	statements, err := f.statements()
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Until(first)); err != nil {
		return err
	}
	probing, stop := context.WithCancel(ctx)
	prober := &errgroup.Group{}
	prober.Go(func() error { return f.probe(probing, m, instances) })
	for deadline := time.Now().Add(10 * time.Minute); ; {
		m.mu.Lock()
		ended, arrived := m.ended, len(m.arrived)
		m.mu.Unlock()
		if ended >= instances {
			break
		}
		if time.Now().After(deadline) {
			stop()
			return errors.Join(fmt.Errorf("of %d backups %d came to their clusters and %d ended", instances, arrived, ended), prober.Wait())
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			stop()
			return errors.Join(err, prober.Wait())
		}
	}
	stop()
	if err := prober.Wait(); err != nil {
		return err
	}
	return f.print(ctx, out, m, instances, spread, cpu, statements)
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// probe asks as a user would, 20 times a second, until ctx ends.
func (f *fleet) probe(ctx context.Context, m *measurement, instances int) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		path := f.instance(rand.N(instances))
		vault := strings.Split(path, "/backupInstances/")[0]
		path = []string{path, path + "/recoveryPoints", path + "/schedule", vault, vault + "/backupJobs?$top=20", f.members[rand.N(len(f.members))].id}[rand.N(6)]
		began := time.Now()
		if _, err := f.client.Get(ctx, path, version); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("GET %s: %w", path, err)
		}
		m.mu.Lock()
		m.gets = append(m.gets, time.Since(began))
		m.mu.Unlock()
	}
}

// print adds what jobs say, and writes the line.
func (f *fleet) print(ctx context.Context, out io.Writer, m *measurement, instances int, spread time.Duration, cpu time.Duration, statements int64) error {
	after, err := cpuTime(f.cairnd.Process.Pid)
	if err != nil {
		return err
	}
	done, err := f.statements()
	if err != nil {
		return err
	}
	resident, peak, err := memory(f.cairnd.Process.Pid)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	if err := each(instances, atOnce, func(n int) error {
		doc, err := f.client.Get(ctx, f.instance(n)+"/schedule", version)
		if err != nil {
			return err
		}
		run := doc.(map[string]any)["properties"].(map[string]any)["runs"].([]any)[0].(map[string]any)
		slot, err := time.Parse(time.RFC3339, run["slot"].(string))
		if err != nil {
			return err
		}
		decided, err := time.Parse(time.RFC3339Nano, run["decided"].(string))
		if err != nil {
			return err
		}
		mu.Lock()
		m.started = append(m.started, decided.Sub(slot))
		mu.Unlock()
		return nil
	}); err != nil {
		return err
	}
	slots := "at once"
	if spread > 0 {
		slots = "over " + spread.String()
	}
	for _, d := range [][]time.Duration{m.started, m.arrived, m.gets} {
		slices.Sort(d)
	}
	_, err = fmt.Fprintf(out, "%d\t%s\t%.1f s\t%.1f s\t%.1f s\t%.1f s\t%.1f s\t%.0f ms\t%.0f ms\t%.0f s\t%d MiB\t%d MiB\t%.1f\t\n", instances, slots,
		at(m.started, 50).Seconds(), at(m.started, 99).Seconds(), at(m.started, 100).Seconds(), at(m.arrived, 50).Seconds(), at(m.arrived, 99).Seconds(),
		at(m.gets, 50).Seconds()*1000, at(m.gets, 99).Seconds()*1000, (after - cpu).Seconds(), resident>>10, peak>>10, float64(done-statements)/float64(instances))
	return err
}

// at is a percentile of what is sorted.
func at(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*percent/100]
}

// statements is how many SQL statements the starts of scheduled backups have taken, as cairnd's log has it.
func (f *fleet) statements() (n int64, err error) {
	file, err := os.Open(f.log.Name())
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !strings.Contains(lines.Text(), `msg="slots decided on"`) {
			continue
		}
		for _, word := range strings.Fields(lines.Text()) {
			if text, ok := strings.CutPrefix(word, "statements="); ok {
				some, err := strconv.ParseInt(text, 10, 64)
				if err != nil {
					return 0, err
				}
				n += some
			}
		}
	}
	return n, lines.Err()
}

// memory is what a process has resident now and has had at most, in KiB.
func memory(pid int) (now, peak int64, err error) {
	if peak, err = peakMemory(pid); err != nil {
		return 0, 0, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	return pages * int64(os.Getpagesize()) / 1024, peak, err
}

// cpuTime is what a process has used.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, i := range []int{11, 12} { // utime, stime
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
