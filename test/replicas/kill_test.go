package replicas_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

const (
	clusterCount = 4
	perCluster   = 5
	// spacing is the time between two slots of an instance; policies are staggered within it.
	spacing     = 2 * time.Minute
	policyCount = 5
)

// number is a number of the environment, or the given one.
func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// TestKilledReplicas lets two replicas serve for ten minutes of a clock that is faster than the wall's, while they are killed at random, and the
// database's server is once. CAIRN_CHAOS_SEED repeats what is random about the harm, CAIRN_CHAOS_MINUTES makes it longer.
func TestKilledReplicas(t *testing.T) {
	seed := number(t, "CAIRN_CHAOS_SEED", rand.Uint64N(1_000_000))
	span := time.Duration(number(t, "CAIRN_CHAOS_MINUTES", 10)) * time.Minute
	t.Logf("CAIRN_CHAOS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	server := storetest.Start(t)
	data, file := t.TempDir(), filepath.Join(t.TempDir(), "clock")
	c := startClock(t, file, time.Now().UTC().Truncate(24*time.Hour).Add(-12*time.Hour)) // certificates of then are good now
	all := startReplicas(t, data, server.Database(t), file)
	w := setUp(t, all, data, c)
	slots := w.schedule(t, span)
	end := slots[policyCount-1][len(slots[policyCount-1])-1]

	k := startKiller(&killer{random: random, all: all, clock: c, first: slots[0][0], every: spacing / policyCount})
	user := w.startUser(t, rand.New(rand.NewPCG(seed, 1)))
	await(t, c, end.Add(-span/2))
	server.Restart(t, func() {})
	await(t, c, end.Add(spacing/4))
	user.stop()
	if err := k.stop(); err != nil {
		t.Fatal(err)
	}
	w.settle(t, slots)
	w.check(t, slots, user)
	t.Logf("%d slots, %d on-demand backups of which %d were acknowledged; replicas were killed %d times and stopped %d times, and none lived for %v at most",
		len(slots[0])*clusterCount*perCluster, w.onDemand, len(user.operations), k.kills, k.stops, k.dead)
	if k.kills == 0 || len(user.operations) == 0 {
		t.Error("nothing happened")
	}
}

// await waits until it is that late.
func await(t *testing.T, c *clock, at time.Time) {
	t.Helper()
	for tick := time.NewTicker(step); c.now().Before(at); {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// world is what the replicas serve.
type world struct {
	*daemontest.World
	clock    *clock
	clusters []*cluster
	vault    string
	// instances are the paths of all; instance i has policy i % policyCount.
	instances []string
	onDemand  int
}

// setUp makes clusters with the extension, and instances whose first slots are far away.
func setUp(t *testing.T, all replicas, data string, c *clock) *world {
	t.Helper()
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		t.Fatal("the default transport is another one")
	}
	transport.DialContext = all.dial // link.Client's are copies of it
	w := &world{World: daemontest.ConnectThrough(t, data, all.dial), clock: c}
	group := w.Subscription + "/resourceGroups/g"
	w.Do("PUT", group, `{"location":"eastus"}`).Want(201)
	account := group + "/providers/Microsoft.Storage/storageAccounts/acc"
	w.Do("PUT", account, `{"location":"eastus","sku":{"name":"Standard_LRS"}}`).Want(202)
	w.Do("PUT", account+"/blobServices/default/containers/aks", `{}`).Want(201)
	w.vault = group + "/providers/Microsoft.DataProtection/backupVaults/vault"
	principal := w.Do("PUT", w.vault, `{"location":"eastus","identity":{"type":"SystemAssigned"},
		"properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`).Want(201).At("identity", "principalId")
	w.Do("PUT", group+"/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-000000000001", map[string]any{"properties": map[string]any{
		"principalId": principal, "principalType": "ServicePrincipal", "roleDefinitionId": "acdd72a7-3385-48ef-bd42-f606fba81ae7"}}).Want(201)
	for p := range policyCount {
		w.Do("PUT", w.policy(p), policyBody([]time.Time{c.now().AddDate(1, 0, 0)})).Want(200)
	}
	for n := range clusterCount {
		id := fmt.Sprintf("%s/providers/Microsoft.ContainerService/managedClusters/cluster%d", group, n)
		w.Do("PUT", id, `{"location":"eastus","properties":{}}`).Want(201)
		body, err := json.Marshal(w.Do("POST", id+"/connect", nil).Want(200).JSON)
		if err != nil {
			t.Fatal(err)
		}
		var credential link.Credential
		if err := json.Unmarshal(body, &credential); err != nil {
			t.Fatal(err)
		}
		w.clusters = append(w.clusters, startCluster(t, credential, c))
		extension := id + "/providers/Microsoft.KubernetesConfiguration/extensions/azure-aks-backup"
		w.Do("PUT", extension, `{"properties":{"extensionType":"microsoft.dataprotection.kubernetes",
			"configurationSettings":{"blobContainer":"aks","storageAccount":"acc","storageAccountResourceGroup":"g"}}}`).Want(200, 201)
		w.eventually(t, "the extension", func() error {
			return want(w.Do("GET", extension, nil).Want(200).At("properties", "provisioningState"), "Succeeded")
		})
		for i := range perCluster {
			instance := fmt.Sprintf("%s/backupInstances/instance-%d-%d", w.vault, n, i)
			w.Do("PUT", instance, map[string]any{"properties": map[string]any{"objectType": "BackupInstance", "friendlyName": fmt.Sprintf("cluster%d/n%d", n, i),
				"dataSourceInfo": map[string]any{"objectType": "Datasource", "resourceID": id},
				"policyInfo":     map[string]any{"policyId": w.policy(len(w.instances) % policyCount)}}}).Want(201)
			w.instances = append(w.instances, instance)
		}
	}
	for _, instance := range w.instances {
		w.eventually(t, instance, func() error {
			return want(w.Do("GET", instance, nil).Want(200).At("properties", "currentProtectionState"), "ProtectionConfigured")
		})
	}
	return w
}

func (w *world) policy(n int) string { return fmt.Sprintf("%s/backupPolicies/policy%d", w.vault, n) }

// policyBody is a policy whose rule has an interval for each slot: it comes again after four hours.
func policyBody(slots []time.Time) map[string]any {
	var intervals []string
	for _, s := range slots {
		intervals = append(intervals, "R/"+s.Format(time.RFC3339)+"/PT4H")
	}
	operational := map[string]any{"objectType": "DataStoreInfoBase", "dataStoreType": "OperationalStore"}
	return map[string]any{"properties": map[string]any{"objectType": "BackupPolicy", "datasourceTypes": []string{"Microsoft.ContainerService/managedClusters"},
		"policyRules": []any{
			map[string]any{"objectType": "AzureBackupRule", "name": "Backup", "dataStore": operational,
				"backupParameters": map[string]any{"objectType": "AzureBackupParams", "backupType": "Incremental"},
				"trigger": map[string]any{"objectType": "ScheduleBasedTriggerContext", "schedule": map[string]any{"repeatingTimeIntervals": intervals},
					"taggingCriteria": []any{map[string]any{"isDefault": true, "taggingPriority": 99, "tagInfo": map[string]any{"tagName": "Default"}}}}},
			map[string]any{"objectType": "AzureRetentionRule", "name": "Default", "isDefault": true, "lifecycles": []any{map[string]any{
				"deleteAfter": map[string]any{"objectType": "AbsoluteDeleteOption", "duration": "P30D"}, "sourceDataStore": operational}}},
		}}}
}

// schedule gives the policies slots within the span, and tells them: those of each policy, in order.
func (w *world) schedule(t *testing.T, span time.Duration) [][]time.Time {
	t.Helper()
	first := w.clock.now().Truncate(time.Second).Add(2 * time.Minute)
	slots := make([][]time.Time, policyCount)
	for p := range slots {
		for at := time.Duration(0); at < span; at += spacing {
			slots[p] = append(slots[p], first.Add(at+time.Duration(p)*spacing/policyCount))
		}
		w.Do("PUT", w.policy(p), policyBody(slots[p])).Want(200)
	}
	if now := w.clock.now(); !now.Before(first) {
		t.Fatalf("it took until %v to set the slots that begin at %v", now, first)
	}
	return slots
}

func want(got, want any) error {
	if got != want {
		return fmt.Errorf("it is %v, not %v", got, want)
	}
	return nil
}

// eventually waits until f has no error.
func (w *world) eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
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

// logIn is the administrator's token; it is tried until a replica answers.
func (w *world) logIn(ctx context.Context) string {
	for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
		token, err := w.Admin().GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com/.default"}})
		if err == nil || ctx.Err() != nil {
			return token.Token
		}
	}
}

// user starts backups on demand.
type user struct {
	// operations are those that were acknowledged, by their URL.
	operations []string
	cancel     func()
	wait       sync.WaitGroup
}

// startUser starts backups of any instances at any time, until it is told to stop.
func (w *world) startUser(t *testing.T, random *rand.Rand) *user {
	ctx, cancel := context.WithCancel(t.Context())
	u := &user{cancel: cancel}
	u.wait.Go(func() {
		token, got := w.logIn(ctx), w.clock.now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(100*time.Millisecond + time.Duration(random.Int64N(int64(900*time.Millisecond)))):
			}
			if w.clock.now().Sub(got) > 30*time.Minute {
				token, got = w.logIn(ctx), w.clock.now()
			}
			u.start(ctx, t, w, token, w.instances[random.IntN(len(w.instances))])
		}
	})
	return u
}

func (u *user) stop() {
	u.cancel()
	u.wait.Wait()
}

// start starts one. When no answer comes, nobody knows what became of it.
func (u *user) start(ctx context.Context, t *testing.T, w *world, token, instance string) {
	request, err := http.NewRequestWithContext(ctx, "POST", publicURL+instance+"/backup?api-version="+daemontest.APIVersion,
		strings.NewReader(`{"backupRuleOptions":{"ruleName":"Backup","triggerOption":{}}}`))
	if err != nil {
		t.Error(err)
		return
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := w.HTTP.Do(request)
	if err != nil {
		return
	}
	text, err := io.ReadAll(response.Body)
	if errors.Join(err, response.Body.Close()) != nil {
		return
	}
	switch response.StatusCode {
	case 202:
		u.operations = append(u.operations, response.Header.Get("Azure-AsyncOperation"))
	case 409, 503: // another backup of it runs; the database is away
	default:
		t.Errorf("a backup on demand: %d %s", response.StatusCode, text)
	}
}

// list reads a list to its end.
func (w *world) list(path string) []daemontest.Answer {
	var items []daemontest.Answer
	for next := path; next != ""; {
		a := w.Do("GET", next, nil).Want(200)
		values, _ := a.At("value").([]any)
		for _, v := range values {
			items = append(items, daemontest.Answer{JSON: v})
		}
		next, _ = a.At("nextLink").(string)
	}
	return items
}

// settle waits until every slot was decided about and every job has ended.
func (w *world) settle(t *testing.T, slots [][]time.Time) {
	t.Helper()
	w.LogIn()
	w.eventually(t, "the end", func() error {
		for i, instance := range w.instances {
			a := w.Do("GET", instance+"/schedule", nil).Want(200)
			last := slots[i%policyCount][len(slots[i%policyCount])-1]
			if got, _ := a.At("properties", "runs", 0, "slot").(string); got != last.Format(time.RFC3339) {
				return fmt.Errorf("the latest run of %s is %v, and the last slot %v", instance, got, last)
			}
		}
		for _, j := range w.list(w.vault + "/backupJobs") {
			if j.At("properties", "status") == "InProgress" {
				return fmt.Errorf("job %v is in progress", j.At("name"))
			}
		}
		return nil
	})
}

// check looks at what became of everything.
func (w *world) check(t *testing.T, slots [][]time.Time, u *user) {
	t.Helper()
	jobs := map[string]daemontest.Answer{}
	completed := map[string]int{} // by instance
	for _, j := range w.list(w.vault + "/backupJobs") {
		name := fmt.Sprint(j.At("name"))
		if _, twice := jobs[name]; twice {
			t.Errorf("job %s is listed twice", name)
		}
		jobs[name] = j
		if j.At("properties", "status") != "Completed" {
			t.Errorf("job %s is %v: %v", name, j.At("properties", "status"), j.At("properties", "errorDetails"))
		}
		completed[strings.ToLower(fmt.Sprint(j.At("properties", "backupInstanceId")))]++
	}
	byRun := map[string]bool{}
	points := map[string]bool{}
	for i, instance := range w.instances {
		ran := map[string]int{}
		runs, _ := w.Do("GET", instance+"/schedule", nil).Want(200).At("properties", "runs").([]any)
		for _, r := range runs {
			run := daemontest.Answer{JSON: r}
			ran[fmt.Sprint(run.At("slot"))]++
			if run.At("outcome") != "Started" || run.At("missedSlots") != 0.0 {
				t.Errorf("%s: %v", instance, r)
				continue
			}
			name := filepath.Base(fmt.Sprint(run.At("jobId")))
			if byRun[name] {
				t.Errorf("job %s is of two slots", name)
			}
			byRun[name] = true
			if j, exists := jobs[name]; !exists || j.At("properties", "isUserTriggered") != false {
				t.Errorf("the job %s of %s, slot %v, is lost, or is not the schedule's", name, instance, run.At("slot"))
			}
		}
		for _, slot := range slots[i%policyCount] {
			if n := ran[slot.Format(time.RFC3339)]; n != 1 {
				t.Errorf("%s, slot %v: %d runs", instance, slot, n)
			}
		}
		if len(ran) != len(slots[i%policyCount]) {
			t.Errorf("%s: runs of %d slots, want %d", instance, len(ran), len(slots[i%policyCount]))
		}
		of := w.list(instance + "/recoveryPoints")
		for _, p := range of {
			if name := fmt.Sprint(p.At("name")); points[name] {
				t.Errorf("recovery point %s is listed twice", name)
			} else {
				points[name] = true
			}
		}
		id := strings.ToLower(fmt.Sprint(w.Do("GET", instance, nil).Want(200).At("id")))
		if len(of) != completed[id] || len(of) == 0 {
			t.Errorf("%s: %d recovery points of %d jobs", instance, len(of), completed[id])
		}
	}
	for name, j := range jobs {
		if j.At("properties", "isUserTriggered") == true {
			w.onDemand++
		} else if !byRun[name] {
			t.Errorf("job %s is the schedule's, and of no slot", name)
		}
	}
	for _, operation := range u.operations {
		id, _ := w.Do("GET", operation, nil).Want(200).At("properties", "jobId").(string)
		if j, exists := jobs[filepath.Base(id)]; !exists || j.At("properties", "isUserTriggered") != true {
			t.Errorf("the job %q of operation %s, which was acknowledged, is lost", id, operation)
		}
	}
	asked := map[string]int{}
	for _, c := range w.clusters {
		for _, name := range c.asked() {
			asked[name]++
			if _, exists := jobs[name]; !exists {
				t.Errorf("a cluster was asked for the backup %s, which is no job", name)
			}
		}
	}
	for name := range jobs {
		if asked[name] != 1 {
			t.Errorf("job %s came to %d clusters", name, asked[name])
		}
	}
}
