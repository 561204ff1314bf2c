package service

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/iso8601"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/retention"
	"github.com/cairn-backup/cairn/internal/schedule"
	"github.com/cairn-backup/cairn/internal/store"
)

const (
	// startWindow is how long a slot waits for what may come: as long as Azure takes to start a backup.
	startWindow = 2 * time.Hour
	// startBatch is how many instances are started in one transaction.
	startBatch = 250
	// runsKept is how long it is remembered what became of a slot.
	runsKept = 366 * 24 * time.Hour
)

// The codes of slots that were skipped without an error of Azure's.
const (
	codeScheduleChanged   = "ScheduleChanged"
	codeProtectionStopped = "ProtectionStopped"
)

// plan is a policy as the schedule needs it.
type plan struct {
	policy   PolicyResource
	modified time.Time
	rule     *backup.BackupRule
	slots    *schedule.Schedule
}

// newPlan reads a policy's backup rule.
func newPlan(policy PolicyResource, modified time.Time) (*plan, error) {
	p := &plan{policy: policy, modified: modified}
	for _, r := range policy.Properties.Rules {
		if r.Backup != nil {
			p.rule = r.Backup
		}
	}
	if p.rule == nil || p.rule.Trigger == nil || p.rule.Trigger.Schedule == nil {
		return nil, fmt.Errorf("policy %s: it has no schedule", policy.ID)
	}
	var err error
	if p.slots, err = schedule.New(p.rule.Trigger.Schedule.TimeZone, p.rule.Trigger.Schedule.Intervals); err != nil {
		return nil, fmt.Errorf("policy %s: %w", policy.ID, err)
	}
	return p, nil
}

// tag is the retention tag of the backup of a slot; last is the slot of the last one that succeeded.
func (p *plan) tag(slot, last time.Time) string {
	tag := backup.DefaultTag
	var taggings []retention.Tagging
	for _, c := range p.rule.Trigger.Tagging {
		if c.IsDefault {
			tag = c.Tag.Name
			continue
		}
		t := retention.Tagging{Tag: c.Tag.Name}
		if c.Priority != nil {
			t.Priority = *c.Priority
		}
		for _, b := range c.Criteria {
			for _, marker := range b.AbsoluteCriteria {
				t.Criteria = append(t.Criteria, retention.Criterion(marker))
			}
		}
		taggings = append(taggings, t)
	}
	return retention.Tag(taggings, tag, slot, last, p.slots.Location())
}

// lifetime is how long the policy keeps what has a tag; false when it does not say.
func lifetime(policy *backup.Policy, tag string) (iso8601.Duration, bool) {
	rule := policy.RetentionRule(tag)
	if rule == nil {
		rule = policy.RetentionRule(backup.DefaultTag)
	}
	if rule == nil {
		return iso8601.Duration{}, false
	}
	for _, l := range rule.Lifecycles {
		if l.Source != nil && l.Source.DataStoreType == backup.OperationalStore && l.DeleteAfter != nil {
			d, err := iso8601.ParseDuration(l.DeleteAfter.Duration)
			return d, err == nil
		}
	}
	return iso8601.Duration{}, false
}

// scheduled says whether the instance is backed up by its schedule: its protection works, and a change of it does not stop that.
func (i *storedInstance) scheduled() bool { return i.protection() == backup.ProtectionConfigured }

// protection is the state of the protection, which a change that is under way leaves as it is.
func (i *storedInstance) protection() string {
	if i.Change != nil {
		return i.Change.State
	}
	return i.Properties.CurrentProtectionState
}

// reschedule brings the instance's row of the schedule, and the look at its recovery points, in line with its protection and its policy. It is
// called in every transaction that changes either; when nothing has changed, it changes nothing.
func (s *Service) reschedule(tx *store.Tx, i *storedInstance) error {
	return s.newStarts(tx).reschedule(i)
}

// reschedulePolicy does so for all instances of a policy that was changed.
func (s *Service) reschedulePolicy(tx *store.Tx, policy arm.ID) error {
	instances, err := Documents[storedInstance](tx.Children(policy.Parent(), backup.InstanceType))
	if err != nil {
		return err
	}
	starts := s.newStarts(tx)
	for i := range instances {
		if !instances[i].Properties.PolicyID().Equal(policy) {
			continue
		}
		if err := starts.reschedule(&instances[i]); err != nil {
			return err
		}
	}
	return nil
}

// RescheduleAll looks at every instance, and lets deletions that wait be tried: when the service starts, and when the clock went back.
func (s *Service) RescheduleAll(ctx context.Context) error {
	var all []store.Resource
	if err := s.DB.Update(ctx, func(tx *store.Tx) error {
		var err error
		all, err = tx.ByType(backup.InstanceType)
		return errors.Join(err, tx.RetryDeletions())
	}); err != nil {
		return err
	}
	for len(all) > 0 {
		batch := all[:min(len(all), 2*startBatch)]
		all = all[len(batch):]
		if err := s.DB.Update(ctx, func(tx *store.Tx) error {
			starts := s.newStarts(tx)
			for _, r := range batch {
				i, _, err := store.Load[storedInstance](tx, r.ID)
				if errors.Is(err, store.ErrNotFound) {
					continue
				}
				if err == nil {
					err = starts.reschedule(&i)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// starts is one transaction's work on the schedule. What many instances share is read once.
type starts struct {
	s        *Service
	tx       *store.Tx
	vaults   map[string]*backup.VaultResource
	secrets  map[string]string
	plans    map[string]*plan
	clusters map[[2]string]*clusterAnswer
	// busy are the jobs that run, by instance.
	busy map[string]string
}

// clusterAnswer is whether a cluster can be asked for work for a vault.
type clusterAnswer struct {
	extension *link.Extension
	err       *arm.Error
}

func (s *Service) newStarts(tx *store.Tx) *starts {
	return &starts{s: s, tx: tx, vaults: map[string]*backup.VaultResource{}, secrets: map[string]string{}, plans: map[string]*plan{}, clusters: map[[2]string]*clusterAnswer{}}
}

// plan is an instance's policy; nil, which is logged, when it has no schedule that can be read: policies of old could have such.
func (b *starts) plan(i *storedInstance) (*plan, error) {
	id := i.Properties.PolicyID()
	if p, ok := b.plans[id.Key()]; ok {
		return p, nil
	}
	policy, row, err := store.Load[PolicyResource](b.tx, id)
	if err != nil {
		return nil, err
	}
	p, err := newPlan(policy, row.Modified)
	if err != nil {
		b.s.Log.Error("no backups are scheduled", "instance", i.ID, "error", err)
	}
	b.plans[id.Key()] = p
	return p, nil
}

func (b *starts) vault(i *storedInstance) (*backup.VaultResource, error) {
	id := i.ID.Parent()
	if v, ok := b.vaults[id.Key()]; ok {
		return v, nil
	}
	v, err := vaultOf(b.tx, i.ID)
	b.vaults[id.Key()] = &v
	return &v, err
}

func (b *starts) secret(vault arm.ID) (string, error) {
	if secret, ok := b.secrets[vault.Key()]; ok {
		return secret, nil
	}
	secret, err := b.tx.VaultKey(vault, nil)
	b.secrets[vault.Key()] = secret
	return secret, err
}

// cluster says whether an instance's cluster can be asked for work.
func (b *starts) cluster(i *storedInstance, vault *backup.VaultResource) (*clusterAnswer, error) {
	id := i.Properties.ClusterID()
	key := [2]string{vault.ID.Key(), id.Key()}
	if a, ok := b.clusters[key]; ok {
		return a, nil
	}
	a := &clusterAnswer{}
	var err error
	a.extension, err = b.s.usableCluster(b.tx, vault, id)
	if errors.As(err, &a.err) {
		err = nil
	}
	b.clusters[key] = a
	return a, err
}

func (b *starts) reschedule(i *storedInstance) error {
	row, err := b.tx.Schedule(i.GUID)
	known := err == nil
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	if err != nil {
		return err
	}
	before := row
	row.GUID, row.Instance, row.Cluster = i.GUID, i.ID.Key(), i.Properties.ClusterID().Key()
	var p *plan
	if i.scheduled() {
		if p, err = b.plan(i); err != nil {
			return err
		}
	}
	now := b.tx.Now()
	pending := !row.Slot.IsZero() && !row.Slot.After(now)
	switch {
	case p == nil:
		if pending {
			err = b.skip(row, codeProtectionStopped, "The protection was stopped, suspended or removed before the backup could start.")
		}
		row.Slot, row.Due, row.Until, row.Code, row.Message, row.Missed = time.Time{}, time.Time{}, time.Time{}, "", "", 0
	case pending && isSlot(p.slots, row.Slot):
		// it is being waited with, or about to be started
	case pending:
		err = b.skip(row, codeScheduleChanged, "The policy's schedule was changed before the backup could start.")
		b.await(&row, p.slots, p.slots.Next(now))
	default:
		b.await(&row, p.slots, p.slots.Next(now))
	}
	if err != nil {
		return err
	}
	if known && row != before || !known && p != nil {
		err = b.tx.PutSchedule(row)
	}
	return errors.Join(err, b.tx.LookNow(i.GUID))
}

func isSlot(s *schedule.Schedule, at time.Time) bool {
	last, ok := s.Last(at)
	return ok && last.Equal(at)
}

// await makes a slot the row's next one.
func (b *starts) await(row *store.Schedule, slots *schedule.Schedule, slot time.Time) {
	row.Slot, row.Due = slot, b.s.dueAt(row.GUID, slots, slot)
	row.Until, row.Code, row.Message, row.Missed = time.Time{}, "", "", 0
}

// dueAt is when a slot is started: after its part of the jitter, which follows from instance and slot, and before the next slot.
func (s *Service) dueAt(guid string, slots *schedule.Schedule, slot time.Time) time.Time {
	spread := min(s.ScheduleJitter, slots.Next(slot).Sub(slot))
	if spread <= 0 {
		return slot
	}
	h := fnv.New64a()
	// A hash takes all that it is given.
	_, _ = h.Write([]byte(guid + strconv.FormatInt(slot.Unix(), 10)))
	return slot.Add(time.Duration(h.Sum64() % uint64(spread)).Truncate(time.Microsecond))
}

// StartDue decides about all slots that are due, a batch in each transaction, and says when the next one is due: zero for never.
func (s *Service) StartDue(ctx context.Context) (next time.Time, err error) {
	defer s.DB.Hold()()
	for {
		if err := s.DB.ViewFirst(ctx, func(tx *store.Tx) error {
			next, err = tx.NextDue()
			return err
		}); err != nil || next.IsZero() || next.After(s.Now()) {
			return next, err
		}
		if err := s.DB.UpdateFirst(ctx, s.startBatch); err != nil {
			return next, err
		}
	}
}

func (s *Service) startBatch(tx *store.Tx) error {
	rows, err := tx.DueSchedules(startBatch)
	if err != nil {
		return err
	}
	keys := make([]string, len(rows))
	for i, r := range rows {
		keys[i] = r.Instance
	}
	b := s.newStarts(tx)
	if b.busy, err = tx.Busy(keys); err != nil {
		return err
	}
	for _, row := range rows {
		if err := b.start(row); err != nil {
			return fmt.Errorf("schedule of %s: %w", row.Instance, err)
		}
	}
	s.Log.Info("slots decided on", "slots", len(rows), "statements", tx.Statements())
	return nil
}

// start decides about a row that is due.
func (b *starts) start(row store.Schedule) error {
	i, _, err := store.Load[storedInstance](b.tx, arm.ID(row.Instance))
	if errors.Is(err, store.ErrNotFound) || err == nil && i.GUID != row.GUID {
		return b.tx.DeleteSchedule(row.GUID)
	} else if err != nil {
		return err
	}
	var p *plan
	if i.scheduled() {
		if p, err = b.plan(&i); err != nil {
			return err
		}
	}
	now := b.tx.Now()
	latest, ok := time.Time{}, false
	if p != nil {
		latest, ok = p.slots.Last(now)
	}
	if !ok || latest.Before(row.Slot) {
		return b.reschedule(&i) // the clock went back, or there is no schedule any more
	}
	if latest.After(row.Slot) {
		missed := row.Missed
		if !row.Until.IsZero() {
			missed = 0
			if err := b.skip(row, row.Code, row.Message); err != nil {
				return err
			}
		}
		decided, err := b.tx.CountRuns(row.GUID, row.Slot, latest)
		if err != nil {
			return err
		}
		missed += max(0, p.slots.Count(row.Slot, latest)-decided) // as many as from the row's slot up to before the latest
		b.await(&row, p.slots, latest)
		row.Missed = missed
	}
	if !row.Due.After(now) {
		if err := b.decide(&row, &i, p); err != nil {
			return err
		}
	}
	return b.tx.PutSchedule(row)
}

// decide starts the backup of the row's slot, or says why there is none, and goes on to the next slot; or it lets the slot wait.
func (b *starts) decide(row *store.Schedule, i *storedInstance, p *plan) error {
	now, slot := b.tx.Now(), row.Slot
	ran, err := b.tx.CountRuns(row.GUID, slot, slot.Add(time.Microsecond))
	if err != nil {
		return err
	}
	if ran > 0 || !slot.After(row.Forgotten) {
		b.await(row, p.slots, p.slots.Next(slot))
		return nil
	}
	vault, err := b.vault(i)
	if err != nil {
		return err
	}
	cluster, err := b.cluster(i, vault)
	if err != nil {
		return err
	}
	problem := cluster.err
	if job := b.busy[row.Instance]; job != "" {
		problem = busy(i, "job", job)
	}
	if problem != nil && passing(problem) {
		if row.Until.IsZero() {
			row.Until = earlier(now.Add(startWindow), p.slots.Next(slot))
		}
		if now.Before(row.Until) {
			row.Due, row.Code, row.Message = row.Until, problem.Code, problem.Message
			b.s.Log.Info("scheduled backup waits", "instance", i.ID, "slot", slot, "until", row.Until, "code", problem.Code)
			return nil
		}
	}
	decided := *row
	b.await(row, p.slots, p.slots.Next(slot))
	if problem != nil && skipping(problem) {
		return b.skip(decided, problem.Code, problem.Message)
	}
	run := store.Run{GUID: row.GUID, Slot: slot, Outcome: store.RunStarted, Job: newID(), Missed: decided.Missed}
	if problem != nil {
		run.Outcome, run.Code, run.Message = store.RunFailed, problem.Code, problem.Message
	}
	if open, err := b.tx.AddRun(run); err != nil || !open {
		return err
	}
	w := &work{vault: *vault, policy: p.policy, instance: *i, cluster: i.Properties.ClusterID(), policyModified: p.modified}
	l := launch{name: run.Job, tag: p.tag(slot, row.Last), slot: slot}
	if problem != nil {
		return b.s.failedBackup(b.tx, w, l, problem)
	}
	secret, err := b.secret(vault.ID)
	if err != nil {
		return err
	}
	b.busy[row.Instance] = run.Job
	return b.s.startBackup(b.tx, w, l, cluster.extension, secret)
}

// skip takes down that the row's slot is passed over.
func (b *starts) skip(row store.Schedule, code, message string) error {
	b.s.Log.Warn("scheduled backup skipped", "instance", row.Instance, "slot", row.Slot, "code", code, "reason", message)
	_, err := b.tx.AddRun(store.Run{GUID: row.GUID, Slot: row.Slot, Outcome: store.RunSkipped, Code: code, Message: message, Missed: row.Missed})
	return err
}

// passing says whether a condition may well be met soon, so that a slot waits for it.
func passing(e *arm.Error) bool {
	return skipping(e) || e.Code == codeExtensionUnhealthy
}

// skipping says whether a slot whose condition was not met in time is passed over rather than failed: nothing is wrong with a cluster that is
// switched off, nor with a restore that takes long.
func skipping(e *arm.Error) bool {
	return e.Code == codeClusterStopped || e.Code == codeBusy
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// failedBackup adds the job of a scheduled backup that cannot be asked for.
func (s *Service) failedBackup(tx *store.Tx, w *work, l launch, cause *arm.Error) error {
	job := newBackupJob(tx.Now(), w, l)
	job.ExtendedInfo.SubTasks = subTasks("Backup", job.ActivityID, v1alpha1.Status{Phase: v1alpha1.PhaseFailed})
	endJob(job, backup.JobFailed, []arm.UserFacing{cause.UserFacing(job.ActivityID)}, tx.Now())
	return putJob(tx, store.Job{Name: l.name, Vault: w.vault.ID.Key(), Instance: w.instance.ID.Key()}, job)
}

// ForgetRuns removes the runs of slots of long ago.
func (s *Service) ForgetRuns(ctx context.Context) error {
	before := s.Now().Add(-runsKept)
	var old bool
	if err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		old, err = tx.HasRuns(before)
		return err
	}); err != nil || !old {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error { return tx.ForgetRuns(before) })
}

// InstanceSchedule is an instance's schedule as it is told: a resource of ours below the instance.
type InstanceSchedule struct {
	ID         arm.ID                     `json:"id"`
	Name       string                     `json:"name"`
	Type       string                     `json:"type"`
	Properties InstanceScheduleProperties `json:"properties"`
}

// InstanceScheduleProperties say when backups are due, and what became of those that were.
type InstanceScheduleProperties struct {
	// Active is false while the protection does not work, is stopped or suspended: then there are no next slots.
	Active   bool   `json:"active"`
	TimeZone string `json:"timeZone"`
	// NextSlots are up to five.
	NextSlots []time.Time `json:"nextSlots"`
	// Waiting is the slot that waits, nil when none does.
	Waiting *WaitingSlot `json:"waiting"`
	// LastSuccessfulSlot is that of the last scheduled backup which made a recovery point.
	LastSuccessfulSlot *time.Time `json:"lastSuccessfulSlot"`
	// Runs are the latest, newest slot first.
	Runs []SlotRun `json:"runs"`
}

// WaitingSlot is a slot whose backup cannot start yet.
type WaitingSlot struct {
	Slot    time.Time `json:"slot"`
	Until   time.Time `json:"until"`
	Code    string    `json:"code"`
	Message string    `json:"message"`
}

// SlotRun is what became of a slot.
type SlotRun struct {
	Slot    time.Time `json:"slot"`
	Decided time.Time `json:"decided"`
	// Outcome is Started, Failed or Skipped.
	Outcome string `json:"outcome"`
	// JobID is empty for a slot that was skipped.
	JobID arm.ID `json:"jobId,omitempty"`
	// MissedSlots is how many slots before this one passed while the service was away.
	MissedSlots int    `json:"missedSlots"`
	Code        string `json:"code,omitempty"`
	Message     string `json:"message,omitempty"`
}

const (
	shownSlots = 5
	shownRuns  = 50
)

// Schedule tells an instance's schedule.
func (s *Service) Schedule(ctx context.Context, id arm.ID) (InstanceSchedule, error) {
	var out InstanceSchedule
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		i, _, err := Load[storedInstance](tx, id)
		if err != nil {
			return err
		}
		row, err := tx.Schedule(i.GUID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		p, err := s.newStarts(tx).plan(&i)
		if err != nil {
			return err
		}
		out = InstanceSchedule{ID: i.ID + "/schedule", Name: "schedule", Type: backup.InstanceType + "/schedule"}
		out.Properties = InstanceScheduleProperties{NextSlots: []time.Time{}, Runs: []SlotRun{}}
		if p != nil {
			out.Properties.TimeZone = p.slots.Location().String()
		}
		if !row.Slot.IsZero() && p != nil {
			out.Properties.Active = true
			for slot := row.Slot; len(out.Properties.NextSlots) < shownSlots; slot = p.slots.Next(slot) {
				out.Properties.NextSlots = append(out.Properties.NextSlots, slot)
			}
		}
		if !row.Until.IsZero() {
			out.Properties.Waiting = &WaitingSlot{Slot: row.Slot, Until: row.Until, Code: row.Code, Message: row.Message}
		}
		if !row.Last.IsZero() {
			out.Properties.LastSuccessfulSlot = &row.Last
		}
		runs, err := tx.Runs(i.GUID, shownRuns)
		for _, r := range runs {
			run := SlotRun{Slot: r.Slot, Decided: r.Decided, Outcome: r.Outcome, MissedSlots: r.Missed, Code: r.Code, Message: r.Message}
			if r.Job != "" {
				run.JobID = i.ID.Parent().Child("backupJobs", r.Job)
			}
			out.Properties.Runs = append(out.Properties.Runs, run)
		}
		return err
	})
	return out, err
}
