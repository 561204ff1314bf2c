package service_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/blobserver"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

const (
	subscriptionID = "00000000-0000-0000-0000-000000000001"
	groupID        = arm.ID("/subscriptions/" + subscriptionID + "/resourceGroups/g")
)

// fateOf is what becomes of a job, by the instance and the true minute at which its cluster takes it: the model and the clusters both ask.
func fateOf(seed uint64, instance string, minute int64, restore bool) fate {
	h := fnv.New64a()
	fmt.Fprint(h, seed, instance, minute, restore)
	r := rand.New(rand.NewPCG(h.Sum64(), seed))
	f := fate{minutes: 1 + r.Int64N(20), committed: true}
	switch n := r.IntN(100); {
	case n < 8:
		f.committed, f.failed = false, true
	case n < 11:
		f.failed = true // after the commit
	case n < 16:
		f.minutes = 20 + r.Int64N(200)
	case n < 19:
		f.minutes, f.silent = 61+r.Int64N(100), true
	case n < 21:
		f.minutes, f.silent, f.committed, f.failed = 61+r.Int64N(100), true, false, true
	}
	if restore {
		f.committed = false
	}
	return f
}

// simulation is the service with its clusters, and the model of them.
type simulation struct {
	t        *testing.T
	ctx      context.Context
	database string
	rng      *rand.Rand
	log      []string

	model   *model
	by      service.Ref
	db      *store.DB
	blobs   *blobserver.Server
	service *service.Service
	// now is what the service's clock shows.
	now time.Time
	// seen is what it showed when the service looked last.
	seen time.Time
	// here is what it knows of the time in which it was there.
	here service.Presence
	// due is when the service has something to start or to delete next, zero for never.
	due      time.Time
	clusters map[string]*simulatedCluster
	// soft says that the vault keeps deleted instances.
	soft bool
	// The true minutes at which outages end, and since when each cluster can call.
	serviceBack                    int64
	clusterBack, roleBack, upSince map[string]int64
	walls                          map[string]*wallClock
	// prefixes are the instances' names by their folders in storage.
	prefixes   map[string]string
	begin, end int64
}

// simulatedCluster does what it is asked for, as the fates have it.
type simulatedCluster struct {
	id        arm.ID
	extension *link.ExtensionState
	jobs      map[string]*simulatedJob
	done      map[string]bool
	snapshots map[string]bool
}

type simulatedJob struct {
	request link.Request
	at      int64
	told    int64
	fate    fate
}

func (s *simulation) Now() time.Time { return s.now }

func (s *simulation) must(err error) {
	s.t.Helper()
	if err != nil {
		s.fail("%v", err)
	}
}

func (s *simulation) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("seed %d, %s (the service's clock shows %s): %s\n%s", s.model.seed, stamp(s.model.trueTime), s.now.Format(time.RFC3339), fmt.Sprintf(format, args...),
		strings.Join(s.log[max(0, len(s.log)-60):], "\n"))
}

func (s *simulation) note(format string, args ...any) {
	s.log = append(s.log, stamp(s.model.trueTime)+" "+fmt.Sprintf(format, args...))
}

func newSimulation(t *testing.T, database string, seed uint64, days int64) *simulation {
	s := &simulation{t: t, ctx: t.Context(), database: database, rng: rand.New(rand.NewPCG(seed, 0)), clusters: map[string]*simulatedCluster{}, walls: map[string]*wallClock{},
		clusterBack: map[string]int64{}, roleBack: map[string]int64{}, upSince: map[string]int64{}, prefixes: map[string]string{}}
	s.begin = time.Date(2026, time.Month(1+s.rng.IntN(24)), 1+s.rng.IntN(28), 0, 0, 0, 0, time.UTC).Unix() / 60
	s.end = s.begin + days*24*60
	s.model = &model{seed: seed, trueTime: s.begin, clock: s.begin, up: true, since: s.begin, clusters: map[string]*modelCluster{},
		policies: map[string]*modelPolicy{}, instances: map[string]*modelInstance{}, deleted: map[string]*modelInstance{}, clusterUp: map[string]bool{}}
	s.now = time.Unix(s.begin*60, 0)
	s.start()
	s.build()
	return s
}

// start opens the database and makes a service of it, as a new process would.
func (s *simulation) start() {
	var err error
	s.db, err = store.Open(s.ctx, s.database, s.Now)
	s.must(err)
	s.t.Cleanup(func() { s.db.Close() })
	if s.blobs == nil {
		s.blobs, err = blobserver.Open(blobserver.Config{Root: s.t.TempDir(), Now: s.Now})
		s.must(err)
		s.t.Cleanup(func() { s.blobs.Close() })
	}
	log := slog.New(slog.DiscardHandler)
	s.service = &service.Service{DB: s.db, Now: s.Now, Log: log, Blobs: s.blobs, PublicURL: "https://cairn", BlobURL: "https://blob",
		TenantID: "00000000-0000-0000-0000-000000000002", SubscriptionID: subscriptionID}
	s.seen, s.here = s.now, service.Presence{}
	s.must(s.service.RescheduleAll(s.ctx))
}

// build makes everything but policies and instances.
func (s *simulation) build() {
	ctx := s.ctx
	s.must(s.db.Update(ctx, func(tx *store.Tx) error {
		p, _, err := s.service.AddPrincipal(tx, "administrator")
		if err != nil {
			return err
		}
		owner, _ := auth.RoleByName("Owner")
		s.by = service.Ref{ObjectID: p.ID, Type: "Application"}
		id := arm.Subscription(subscriptionID).Extension(service.TypeRoleAssignment, "00000000-0000-4000-8000-000000000001")
		_, _, err = s.service.Assign(tx, id, owner, service.RoleAssignmentProperties{PrincipalID: p.ID, PrincipalType: service.KindServicePrincipal}, s.by)
		return err
	}))
	_, _, err := s.service.PutResourceGroup(ctx, groupID, service.ResourceGroup{Location: "eastus"})
	s.must(err)
	account := groupID + "/providers/Microsoft.Storage/storageAccounts/acc"
	_, _, err = s.service.PutStorageAccount(ctx, account, service.StorageAccount{Location: "eastus", SKU: service.SKU{Name: "Standard_LRS"}, Kind: "StorageV2"})
	s.must(err)
	_, _, err = s.service.PutContainer(ctx, account, "aks")
	s.must(err)
	s.soft = s.rng.IntN(2) == 0
	vault, err := backup.DecodeInput[backup.Vault](fmt.Appendf(nil, `{"location":"eastus","identity":{"type":"SystemAssigned"},"properties":{
		"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}],"securitySettings":{"softDeleteSettings":{"state":%q}}}}`, map[bool]string{true: "On", false: "Off"}[s.soft]))
	s.must(err)
	_, _, err = s.service.PutVault(ctx, s.by, vaultID, vault, anyETag)
	s.must(err)
	for _, name := range []string{"c1", "c2"} {
		c := &simulatedCluster{id: groupID + arm.ID("/providers/Microsoft.ContainerService/managedClusters/"+name),
			jobs: map[string]*simulatedJob{}, done: map[string]bool{}, snapshots: map[string]bool{}}
		s.clusters[name] = c
		s.model.clusters[name] = &modelCluster{readable: true}
		s.model.clusterUp[name] = true
		s.upSince[name] = s.begin
		_, _, err := s.service.PutCluster(ctx, c.id, service.Cluster{Location: "eastus"}, s.by, anyETag)
		s.must(err)
		extension := service.Extension{Properties: service.ExtensionProperties{ExtensionType: service.ExtensionType,
			ConfigurationSettings: map[string]*string{"blobContainer": new("aks"), "storageAccount": new("acc"), "storageAccountResourceGroup": new("g")}}}
		_, _, err = s.service.PutExtension(ctx, c.id+"/providers/Microsoft.KubernetesConfiguration/extensions/azure-aks-backup", extension, s.by, func(arm.ID) error { return nil })
		s.must(err)
		s.readable(name, true)
		s.talk(name)
		s.talk(name)
	}
}

func (s *simulation) readable(cluster string, yes bool) {
	vault, err := s.service.Vault(s.ctx, vaultID)
	s.must(err)
	id := s.clusters[cluster].id.Extension(service.TypeRoleAssignment, "00000000-0000-4000-8000-00000000000"+cluster[1:])
	if !yes {
		_, err := s.service.DeleteRoleAssignment(s.ctx, id)
		s.must(err)
		return
	}
	_, _, err = s.service.PutRoleAssignment(s.ctx, id, service.RoleAssignmentProperties{PrincipalID: vault.Identity.PrincipalID,
		PrincipalType: service.KindServicePrincipal, RoleDefinitionID: "/subscriptions/" + subscriptionID + "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7"}, s.by)
	s.must(err)
}

// talk lets a cluster's connector report, take what is new and answer what takes no time.
func (s *simulation) talk(name string) {
	c := s.clusters[name]
	var states []link.RequestState
	say := func(r link.Request, status any) {
		body, err := json.Marshal(status)
		s.must(err)
		states = append(states, link.RequestState{Kind: r.Kind, Name: r.Name, Status: body})
	}
	t := s.model.trueTime
	for id, j := range c.jobs {
		if t >= j.at+j.fate.minutes {
			say(j.request, s.final(c, j))
			delete(c.jobs, id)
			c.done[id] = true
		} else if (t-j.at)%progressEvery == 0 && !j.fate.silent && t > j.told {
			j.told = t
			say(j.request, v1alpha1.Status{Phase: v1alpha1.PhaseInProgress, Attempt: 1, Progress: v1alpha1.Progress{ObjectsDone: t - j.at}})
		}
	}
	report := func() {
		s.must(s.service.Reported(s.ctx, c.id.Key(), &link.Report{ConnectorVersion: "1", KubernetesVersion: "v1.37.1", NodeCount: 1, Extension: c.extension, Requests: states}))
		states = nil
	}
	report()
	desired, err := s.service.Desired(s.ctx, c.id.Key())
	s.must(err)
	if e := desired.Extension; e != nil && c.extension == nil {
		c.extension = &link.ExtensionState{Name: e.Name, Generation: e.Generation, State: link.ExtensionReady, Version: "1"}
	}
	for _, r := range desired.Requests {
		if c.done[r.Name] || c.jobs[r.Name] != nil {
			continue
		}
		switch r.Kind {
		case "Backup", "Restore":
			j := &simulatedJob{request: r, at: t, told: t}
			j.fate = fateOf(s.model.seed, s.instanceOf(r), t, r.Kind == "Restore")
			c.jobs[r.Name] = j
			say(r, v1alpha1.Status{Phase: v1alpha1.PhaseInProgress, Attempt: 1})
		case "DeleteBackup":
			var spec v1alpha1.DeleteBackupSpec
			s.must(json.Unmarshal(r.Spec, &spec))
			for _, snapshot := range spec.Snapshots {
				delete(c.snapshots, snapshot.Handle)
			}
			fallthrough
		default:
			c.done[r.Name] = true
			say(r, v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1})
		}
	}
	if len(states) > 0 {
		report()
	}
}

// instanceOf is the name of the instance that a backup or restore is of: both name its folder.
func (s *simulation) instanceOf(r link.Request) string {
	var spec v1alpha1.BackupSpec
	s.must(json.Unmarshal(r.Spec, &spec))
	if id := spec.Origin["instanceId"]; id != "" {
		s.prefixes[spec.Location.Prefix] = arm.ID(id).Name()
	}
	return s.prefixes[spec.Location.Prefix]
}

// final is what a cluster says at the end of a job.
func (s *simulation) final(c *simulatedCluster, j *simulatedJob) any {
	status := v1alpha1.Status{Phase: v1alpha1.PhaseCompleted, Attempt: 1}
	if j.fate.failed {
		status.Phase, status.Errors = v1alpha1.PhaseFailed, []v1alpha1.Issue{{Code: "Simulated", Message: "It failed."}}
	}
	if j.request.Kind == "Restore" {
		return v1alpha1.RestoreStatus{Status: status}
	}
	b := v1alpha1.BackupStatus{Status: status, Committed: j.fate.committed}
	if b.Committed {
		made := metav1.NewTime(time.Unix((j.at+j.fate.minutes)*60, 0).UTC())
		handle := "/snapshots/" + j.request.Name
		c.snapshots[handle] = true
		b.RecoveryPointTime = &made
		b.Snapshots = []v1alpha1.VolumeSnapshotRecord{{Namespace: "shop", Claim: "data", Volume: "pv", Driver: "disk.csi.azure.com", Handle: handle, RestoreSizeBytes: 1}}
	}
	return b
}

// clusterEvent says whether a cluster that can call has something to tell.
func (s *simulation) clusterEvent(c *simulatedCluster) bool {
	t := s.model.trueTime
	for _, j := range c.jobs {
		if t >= j.at+j.fate.minutes || (t-j.at)%progressEvery == 0 && !j.fate.silent && t > j.told {
			return true
		}
	}
	return false
}

// patienceOver says whether the service is to give up a job.
func (s *simulation) patienceOver() bool {
	for _, c := range s.model.clusters {
		for _, j := range c.jobs {
			if !j.givenUp && s.model.clock-max(j.progressed, s.model.since) >= patienceOf {
				return true
			}
		}
	}
	return false
}

// asked says whether there is something that a cluster was not told of yet.
func (s *simulation) asked(c *simulatedCluster) bool {
	fresh := false
	s.must(s.db.View(s.ctx, func(tx *store.Tx) error {
		wanted, err := tx.WantedRequests(c.id)
		fresh = slices.ContainsFunc(wanted, func(r store.Request) bool { return !c.done[r.Name] && c.jobs[r.Name] == nil })
		return err
	}))
	return fresh
}

func (s *simulation) reachable(cluster string) bool { return s.model.up && s.model.clusterUp[cluster] }

// work lets the service do what is due by time alone, as its loops do; when nothing happens, only the model.
func (s *simulation) work(event bool) {
	if !s.model.up {
		return
	}
	s.model.work()
	if !event {
		return
	}
	if s.now.Before(s.seen) {
		s.must(s.service.RescheduleAll(s.ctx))
	}
	s.seen = s.now
	s.must(s.service.ExpireExtensions(s.ctx))
	s.must(s.service.PurgeDeleted(s.ctx))
	s.must(s.service.ForgetRuns(s.ctx))
	s.must(s.service.PruneJobs(s.ctx))
	s.must(s.service.GiveUp(s.ctx, s.here.Since(s.now)))
	_, err := s.service.Prune(s.ctx)
	s.must(err)
	s.due = time.Time{}
	for _, f := range []func(context.Context) (time.Time, error){s.service.StartDue, s.service.Delete} {
		next, err := f(s.ctx)
		s.must(err)
		if !next.IsZero() && (s.due.IsZero() || next.Before(s.due)) {
			s.due = next
		}
	}
}

// run lets the time pass, minute by minute in the model, and where something happens in the service.
func (s *simulation) run() {
	next := s.model.trueTime + 1
	check := s.model.trueTime + 24*60
	for s.model.trueTime < s.end {
		m := s.model
		before, could := s.now, map[string]bool{}
		for name := range s.clusters {
			could[name] = s.reachable(name)
		}
		m.tick()
		s.now = s.now.Add(time.Minute)
		s.here.Since(s.now)
		event := m.trueTime >= next || m.trueTime >= check || m.trueTime == s.serviceBack || m.up && (!s.due.IsZero() && !s.due.After(s.now) || s.patienceOver())
		for name, c := range s.clusters {
			event = event || s.clusterBack[name] == m.trueTime || s.roleBack[name] == m.trueTime || s.reachable(name) && s.clusterEvent(c)
		}
		for _, i := range m.instances {
			event = event || m.up && m.anyGoes(i)
		}
		for _, i := range m.deleted {
			event = event || m.up && m.clock >= i.purged
		}
		if event {
			// Clusters called in the minutes that were passed over too; what counts is when they did last.
			now := s.now
			s.now = before
			for name, yes := range could {
				if yes {
					s.must(s.service.ClusterSeen(s.ctx, s.clusters[name].id))
				}
			}
			s.now = now
			s.comeBack()
		}
		if m.trueTime >= next {
			s.work(event)
			s.act()
			next = m.trueTime + 1 + s.gap()
		}
		s.call(event)
		s.work(event)
		s.call(event)
		if m.trueTime >= check {
			s.compare()
			check = m.trueTime + 60 + s.rng.Int64N(8*24*60)
		}
	}
	s.compare()
}

// call lets the clusters call; when nothing happens, only those of the model.
func (s *simulation) call(event bool) {
	s.model.clustersCall()
	for name, c := range s.clusters {
		if event && s.reachable(name) {
			s.must(s.service.ClusterSeen(s.ctx, c.id))
			if s.clusterEvent(c) || s.asked(c) {
				s.talk(name)
			}
		}
	}
}

// gap is how long nothing is done from outside: minutes, or days.
func (s *simulation) gap() int64 {
	if s.rng.IntN(3) == 0 {
		return s.rng.Int64N(120)
	}
	return s.rng.Int64N(5 * 24 * 60)
}

// comeBack ends the outages that end now.
func (s *simulation) comeBack() {
	m := s.model
	for name := range s.clusters {
		if s.clusterBack[name] == m.trueTime {
			s.note("cluster %s is back", name)
			m.clusterUp[name], s.upSince[name] = true, m.trueTime
		}
	}
	if s.serviceBack == m.trueTime {
		s.note("the service is back")
		s.start()
		m.up = true
		defer s.work(true) // before any cluster calls
		for name := range s.clusters {
			s.upSince[name] = m.trueTime
		}
		m.notice()
	}
	for _, name := range slices.Sorted(maps.Keys(s.clusters)) {
		if m.up && s.roleBack[name] != 0 && s.roleBack[name] <= m.trueTime {
			s.note("the vault may read %s again", name)
			s.readable(name, true)
			m.clusters[name].readable, s.roleBack[name] = true, 0
		}
	}
}

// compare holds what the service tells to the model.
func (s *simulation) compare() {
	m := s.model
	if !m.up {
		return
	}
	for _, name := range m.names() {
		i := m.instances[name]
		if m.trueTime-i.restored <= 61 {
			continue // what a restore kept goes within an hour
		}
		if diff := cmp.Diff(m.lines(i), s.lines(name)); diff != "" {
			s.fail("%s is not as the model has it (-model +service):\n%s", name, diff)
		}
	}
	pending, err := s.service.PendingDeletions(s.ctx, vaultID)
	s.must(err)
	left := map[string]int{}
	for _, p := range pending {
		left[p.Properties.DataSourceID.Name()]++
	}
	for name, c := range m.clusters {
		if m.clusterUp[name] && m.trueTime-s.upSince[name] < 120 {
			continue // there is much to be done
		}
		if left[name] != c.ledger {
			s.fail("%d deletions are pending for %s, want %d: %+v", left[name], name, c.ledger, pending)
		}
		s.compareSnapshots(name, c.ledger)
	}
}

// compareSnapshots checks that each storage snapshot belongs to a recovery point or is in the ledger.
func (s *simulation) compareSnapshots(cluster string, pending int) {
	want := pending
	for _, i := range slices.Concat(slices.Collect(maps.Values(s.model.instances)), slices.Collect(maps.Values(s.model.deleted))) {
		if i.cluster == cluster {
			want += len(i.points)
			if s.model.trueTime-i.restored <= 61 {
				return
			}
		}
	}
	if got := len(s.clusters[cluster].snapshots); got != want {
		s.fail("the cluster %s has %d storage snapshots, want %d", cluster, got, want)
	}
}

// lines are what the service tells of an instance, as the model's.
func (s *simulation) lines(name string) []string {
	id := vaultID.Child("backupInstances", name)
	var lines []string
	at := func(t *time.Time) string {
		if t == nil || t.IsZero() {
			return "-"
		}
		return t.UTC().Format("2006-01-02T15:04")
	}
	page := store.Page{Limit: 1000}
	for {
		points, next, err := s.service.RecoveryPoints(s.ctx, id, backup.Filter{}, page)
		s.must(err)
		for _, p := range points {
			c := p.Properties.Cairn
			lines = append(lines, pointLine(at(&p.Properties.RecoveryPointTime), p.Properties.RetentionTagName, at(c.ScheduledTime), at(c.Retention.Expires),
				c.Retention.State, c.Retention.Reasons[0].Code))
		}
		if next == "" {
			break
		}
		page.After = next
	}
	sortPoints(lines)
	told, err := s.service.Schedule(s.ctx, id)
	s.must(err)
	p := told.Properties
	if w := p.Waiting; w != nil {
		lines = append(lines, "waiting until "+at(&w.Until)+": "+w.Code)
	}
	for _, slot := range p.NextSlots[:min(3, len(p.NextSlots))] {
		lines = append(lines, "next "+at(&slot))
	}
	lines = append(lines, "last success "+at(p.LastSuccessfulSlot))
	for _, r := range p.Runs {
		lines = append(lines, runLine(at(&r.Slot), r.Outcome, r.Code, r.MissedSlots))
	}
	return lines
}

// act does something from outside.
func (s *simulation) act() {
	m := s.model
	kinds := []string{"service", "restart", "cluster", "cluster", "clock", "move", "move", "backup", "backup", "restore", "restore", "delete", "create", "undelete",
		"policy", "policy", "role", "switch"}
	kind := kinds[s.rng.IntN(len(kinds))]
	if len(m.policies) < 3 {
		for _, name := range []string{"daily", "hourly", "weekly"} {
			s.putPolicy(name)
		}
	}
	if len(m.instances) == 0 {
		kind = "create"
	}
	outage := 1 + s.rng.Int64N(600)
	if s.rng.IntN(4) == 0 {
		outage *= 20
	}
	cluster := []string{"c1", "c2"}[s.rng.IntN(2)]
	var i *modelInstance
	if names := m.names(); len(names) > 0 {
		i = m.instances[names[s.rng.IntN(len(names))]]
	}
	switch kind {
	case "service", "restart":
		if m.up {
			if kind == "restart" {
				outage = 1
			}
			s.note("the service is away for %d minutes", outage)
			s.must(s.db.Close())
			m.up, s.serviceBack = false, m.trueTime+outage
		}
	case "cluster":
		if m.clusterUp[cluster] {
			s.note("cluster %s is away for %d minutes", cluster, outage)
			m.clusterUp[cluster], s.clusterBack[cluster] = false, m.trueTime+outage
		}
	case "clock":
		s.setClock()
	case "role":
		if m.up && m.clusters[cluster].readable {
			s.note("the vault may not read %s for %d minutes", cluster, outage)
			s.readable(cluster, false)
			m.clusters[cluster].readable, s.roleBack[cluster] = false, m.trueTime+outage
		}
	case "policy":
		if m.up {
			names := slices.Sorted(maps.Keys(m.policies))
			s.putPolicy(names[s.rng.IntN(len(names))])
		}
	case "create":
		s.create()
	case "undelete":
		if !s.undelete() {
			s.create()
		}
	default:
		if m.up {
			s.actOn(kind, i)
		}
	}
}

// setClock sets the service's clock forward or back.
func (s *simulation) setClock() {
	minutes := 3 + s.rng.Int64N(600)
	if s.rng.IntN(3) == 0 {
		minutes = 3 + s.rng.Int64N(12*24*60)
	}
	if s.rng.IntN(2) == 0 {
		minutes = -minutes
	}
	s.note("the clock is set by %d minutes", minutes)
	s.model.step(minutes)
	s.now = s.now.Add(time.Duration(minutes) * time.Minute)
	if s.model.up {
		if minutes < 0 {
			s.model.notice()
		}
		s.model.since = s.model.clock
		s.work(true)
	}
}

var simulatedLives = map[string]modelLife{"P2D": {days: 2}, "P7D": {days: 7}, "P30D": {days: 30}, "P1M": {months: 1}, "P3M": {months: 3}, "P11M": {months: 11},
	"PT36H": {minutes: 36 * 60}, "P2W": {days: 14}, "P360D": {days: 360}}

var simulatedPeriods = map[string]int64{"PT4H": 240, "PT6H": 360, "PT8H": 480, "PT12H": 720, "PT24H": 1440, "P1D": 1440, "P1W": 10080, "P7D": 10080}

// simulatedZones are names as policies have them, and IANA's.
var simulatedZones = [][2]string{{"", "UTC"}, {"UTC", "UTC"}, {"W. Europe Standard Time", "Europe/Berlin"}, {"Europe/Berlin", "Europe/Berlin"}, {"Pacific Standard Time", "America/Los_Angeles"},
	{"AUS Eastern Standard Time", "Australia/Sydney"}, {"Australia/Lord_Howe", "Australia/Lord_Howe"}, {"Asia/Kathmandu", "Asia/Kathmandu"}, {"America/Santiago", "America/Santiago"}}

// putPolicy makes or changes a policy: another one at random.
func (s *simulation) putPolicy(name string) {
	pick := func(from []string) string { return from[s.rng.IntN(len(from))] }
	lives := slices.Sorted(maps.Keys(simulatedLives))
	zone := simulatedZones[s.rng.IntN(len(simulatedZones))]
	p := &modelPolicy{lives: map[string]modelLife{}, wall: s.wall(zone[1])}
	var intervals, rules, tagging []string
	everys := []string{"PT24H", "PT12H", "P1W", "P7D", "PT8H", "PT6H", "PT4H"}
	for range 1 + s.rng.IntN(5)/4 {
		every := "P1D" // as most are
		if s.rng.IntN(2) == 0 {
			every = pick(everys)
		}
		start := s.model.trueTime + s.rng.Int64N(8*24*60) - 4*24*60
		if s.rng.IntN(3) == 0 {
			start -= s.rng.Int64N(50*365) * 24 * 60
		}
		intervals = append(intervals, fmt.Sprintf("%q", "R/"+time.Unix(start*60, 0).UTC().Format(time.RFC3339)+"/"+every))
		p.intervals = append(p.intervals, modelInterval{start: start, first: p.wall.wall(start), every: simulatedPeriods[every]})
	}
	rule := func(tag string) {
		life := pick(lives)
		p.lives[strings.ToLower(tag)] = simulatedLives[life]
		rules = append(rules, fmt.Sprintf(`{"objectType":"AzureRetentionRule","name":%q,"isDefault":%t,"lifecycles":[{"deleteAfter":{"duration":%q},"sourceDataStore":{"dataStoreType":"OperationalStore"}}]}`,
			tag, tag == "Default", life))
	}
	rule("Default")
	for n, tag := range []string{"Daily", "Weekly", "Monthly", "Yearly", "Every"} {
		if s.rng.IntN(2) == 0 {
			continue
		}
		period := []string{"FirstOfDay", "FirstOfWeek", "FirstOfMonth", "FirstOfYear", "AllBackup"}[n]
		priority := 10*s.rng.IntN(9) + n
		p.tags = append(p.tags, modelTag{tag, priority, period})
		tagging = append(tagging, fmt.Sprintf(`{"tagInfo":{"tagName":%q},"taggingPriority":%d,"criteria":[{"absoluteCriteria":[%q]}]}`, tag, priority, period))
		rule(tag)
	}
	tagging = append(tagging, `{"isDefault":true,"tagInfo":{"tagName":"Default"},"taggingPriority":99}`)
	body := fmt.Sprintf(`{"datasourceTypes":["Microsoft.ContainerService/managedClusters"],"policyRules":[%s,{"objectType":"AzureBackupRule","name":"Backup","trigger":{
		"schedule":{"timeZone":%q,"repeatingTimeIntervals":[%s]},"taggingCriteria":[%s]}}]}`, strings.Join(rules, ","), zone[0], strings.Join(intervals, ","), strings.Join(tagging, ","))
	in, err := backup.DecodeInput[backup.Policy]([]byte(body))
	s.must(err)
	_, err = s.service.PutPolicy(s.ctx, s.by, vaultID.Child("backupPolicies", name), in, anyETag)
	s.must(err)
	s.note("policy %s: %s", name, strings.Join(strings.Fields(body), " "))
	s.model.policies[name] = p
	for _, i := range s.model.instances {
		if i.policy == name {
			s.model.schedule(i)
		}
	}
}

func (s *simulation) wall(zone string) *wallClock {
	if s.walls[zone] == nil {
		location, err := time.LoadLocation(zone)
		s.must(err)
		s.walls[zone] = newWallClock(location, s.begin-30*24*60, s.end+400*24*60)
	}
	return s.walls[zone]
}

// create makes an instance of a cluster with a policy that has none.
func (s *simulation) create() {
	m := s.model
	if !m.up {
		return
	}
	for _, pair := range [][2]string{{"c1", "daily"}, {"c1", "hourly"}, {"c2", "daily"}} {
		name := pair[0] + "-" + pair[1]
		if m.instances[name] != nil || m.deleted[name] != nil || !m.connected(pair[0]) || !m.clusters[pair[0]].readable || !m.clusterUp[pair[0]] {
			continue
		}
		s.note("instance %s is made", name)
		s.putInstance(name, pair[0], pair[1])
		m.instances[name] = &modelInstance{name: name, cluster: pair[0], policy: pair[1], state: "ProtectionConfigured", from: m.clock, runs: map[int64]modelRun{}}
		return
	}
}

// undelete brings one of the deleted instances back.
func (s *simulation) undelete() bool {
	m := s.model
	if !m.up || len(m.deleted) == 0 {
		return false
	}
	name := slices.Sorted(maps.Keys(m.deleted))[0]
	s.want(true, s.service.Undelete(s.ctx, s.by, vaultID.Child("deletedBackupInstances", name)), "undeletion of %s", name)
	i := m.deleted[name]
	delete(m.deleted, name)
	m.instances[name], i.gone, i.state = i, false, "ProtectionStopped"
	return true
}

func (s *simulation) putInstance(name, cluster, policy string) {
	body := fmt.Sprintf(`{"dataSourceInfo":{"objectType":"Datasource","resourceID":%q},"objectType":"BackupInstance","policyInfo":{"policyId":%q}}`,
		s.clusters[cluster].id, vaultID.Child("backupPolicies", policy))
	in, err := backup.DecodeInput[backup.Instance]([]byte(body))
	s.must(err)
	id := vaultID.Child("backupInstances", name)
	_, _, _, err = s.service.PutInstance(s.ctx, s.by, id, in, anyETag)
	s.must(err)
	s.talk(cluster)
	got, err := s.service.Instance(s.ctx, id)
	s.must(err)
	if got.Properties.Policy.PolicyID != string(vaultID.Child("backupPolicies", policy)) || got.Properties.ProvisioningState != backup.Succeeded {
		s.fail("instance %s is %+v", name, got.Properties)
	}
}

// want checks whether the service takes what the model says that it takes.
func (s *simulation) want(taken bool, err error, what string, args ...any) {
	s.t.Helper()
	what = fmt.Sprintf(what, args...)
	s.note("%s: taken %t", what, taken)
	if (err == nil) != taken {
		s.fail("%s: the model says %t, the service %v", what, taken, err)
	}
}

// actOn does something with an instance.
func (s *simulation) actOn(kind string, i *modelInstance) {
	m := s.model
	id := vaultID.Child("backupInstances", i.name)
	usable := m.connected(i.cluster) && m.clusters[i.cluster].readable
	switch kind {
	case "move":
		s.move(i, id)
	case "backup":
		tags := slices.Sorted(maps.Keys(m.policies[i.policy].lives))
		tag := tags[s.rng.IntN(len(tags))]
		var in backup.AdhocRequest
		s.must(backup.Decode(fmt.Appendf(nil, `{"backupRuleOptions":{"ruleName":"Backup","triggerOption":{"retentionTagOverride":%q}}}`, tag), &in))
		_, _, err := s.service.BackupNow(s.ctx, id, &in)
		taken := i.job == nil && usable && i.state == "ProtectionConfigured"
		s.want(taken, err, "backup of %s with the tag %s", i.name, tag)
		if taken {
			m.start(i, 0, tag)
		}
	case "restore":
		s.restore(i, id, usable)
	case "delete":
		soft := s.soft && len(i.points) > 0
		if !soft && (!m.clusterUp[i.cluster] && m.connected(i.cluster) || m.clusterUp[i.cluster] && !usable) {
			return // it would be waited for
		}
		_, _, err := s.service.DeleteInstance(s.ctx, s.by, id, anyETag)
		s.want(i.job == nil, err, "deletion of %s", i.name)
		if err != nil {
			return
		}
		i.gone = true
		if soft {
			m.move(i, "")
			i.purged = m.clock + 14*24*60
			m.deleted[i.name] = i
		} else if !m.clusterUp[i.cluster] {
			m.clusters[i.cluster].ledger += len(i.points)
		}
		delete(m.instances, i.name)
		if m.clusterUp[i.cluster] {
			s.talk(i.cluster)
		}
	case "switch":
		if i.name != "c1-hourly" || !usable || !m.clusterUp[i.cluster] {
			return
		}
		to := map[string]string{"hourly": "weekly", "weekly": "hourly"}[i.policy]
		s.note("%s gets the policy %s", i.name, to)
		s.putInstance(i.name, i.cluster, to)
		i.policy = to
		m.schedule(i)
	}
}

func (s *simulation) move(i *modelInstance, id arm.ID) {
	actions := map[string][]string{
		"ProtectionConfigured": {"stopProtection", "suspendBackups"}, "ProtectionStopped": {"resumeProtection"},
		"BackupsSuspended": {"resumeProtection", "resumeBackups", "stopProtection"},
	}[i.state]
	action := actions[s.rng.IntN(len(actions))]
	to := map[string]string{"stopProtection": "ProtectionStopped", "suspendBackups": "BackupsSuspended", "resumeProtection": "ProtectionConfigured",
		"resumeBackups": "ProtectionConfigured"}[action]
	_, _, err := s.service.MoveProtection(s.ctx, s.by, id, action)
	s.want(true, err, "%s of %s", action, i.name)
	s.model.move(i, to)
}

func (s *simulation) restore(i *modelInstance, id arm.ID, usable bool) {
	m := s.model
	if len(i.points) == 0 || m.trueTime-i.restored <= 61 {
		return
	}
	points, _, err := s.service.RecoveryPoints(s.ctx, id, backup.Filter{}, store.Page{Limit: 1000})
	s.must(err)
	if len(points) != len(i.points) {
		s.fail("%s has %d recovery points, want %d", i.name, len(points), len(i.points))
	}
	point := points[len(points)-1]
	if s.rng.IntN(3) == 0 {
		point = points[0]
	}
	var in backup.RestoreRequest
	s.must(backup.Decode(fmt.Appendf(nil, `{"objectType":"AzureKubernetesServiceRestoreRequest","recoveryPointId":%q}`, point.Name), &in))
	_, _, err = s.service.Restore(s.ctx, s.by, id, &in)
	taken := i.job == nil && usable
	s.want(taken, err, "restore of %s to %s", i.name, point.Properties.FriendlyName)
	if taken {
		j := &modelJob{restore: true, of: i, reads: point.Properties.RecoveryPointTime.Unix() / 60, progressed: m.clock}
		i.job = j
		m.clusters[i.cluster].jobs = append(m.clusters[i.cluster].jobs, j)
	}
}

// More simulations, with other seeds, are for the command line.
var (
	simulations = flag.Int("simulations", 1, "how many times TestTwoYearsOfPolicies simulates two years")
	firstSeed   = flag.Uint64("simulation-seed", 1, "the seed of the first of them")
)

// TestTwoYearsOfPolicies lets random policies, outages, restarts, clocks that are set and deletions go on for two years, and holds what there is
// then, and in between, to a naive model.
func TestTwoYearsOfPolicies(t *testing.T) {
	for n := range *simulations {
		seed := *firstSeed + uint64(n)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			database := storetest.SQLite(t)
			if dir, err := os.MkdirTemp("/dev/shm", "simulation"); err == nil { // in memory, where there is such a folder: there is much to be written
				database = filepath.Join(dir, "state.db")
				t.Cleanup(func() { os.RemoveAll(dir) })
			}
			newSimulation(t, database, seed, 730).run()
		})
	}
}

// TestAMonthOfPoliciesOnPostgreSQL does so for a month on the other engine.
func TestAMonthOfPoliciesOnPostgreSQL(t *testing.T) {
	newSimulation(t, storetest.PostgreSQL(t), *firstSeed, 30).run()
}
