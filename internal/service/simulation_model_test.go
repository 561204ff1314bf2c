package service_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The naive model of the simulation: what docs/design.md says of schedules and retention, once more and as simply as possible. It looks at
// every minute of the two years, and shares no code with the service. Times are minutes since 1970; "clock" is what the service's clock
// shows, "true" the time that passes whatever is done to that clock. Clusters have the true time.

// wallClock is how a zone's wall clock goes on: shown[i] is the furthest wall minute that it has shown up to the minute begin+i.
type wallClock struct {
	zone  *time.Location
	begin int64
	shown []int64
}

func newWallClock(zone *time.Location, begin, end int64) *wallClock {
	w := &wallClock{zone: zone, begin: begin, shown: make([]int64, end-begin)}
	furthest := w.wall(begin - 1)
	for i := range w.shown {
		furthest = max(furthest, w.wall(begin+int64(i)))
		w.shown[i] = furthest
	}
	return w
}

// wall is what the clock shows at a minute, as minutes of the calendar.
func (w *wallClock) wall(m int64) int64 {
	l := time.Unix(m*60, 0).In(w.zone)
	return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), 0, 0, time.UTC).Unix() / 60
}

type modelInterval struct {
	start, first, every int64 // minutes; first is the wall time of the start
}

// modelTag gives a tag to the first backup of a period, or to all.
type modelTag struct {
	name     string
	priority int
	period   string // FirstOfDay …
}

// modelLife is how long something is kept.
type modelLife struct {
	months, days, minutes int
}

type modelPolicy struct {
	wall      *wallClock
	intervals []modelInterval
	tags      []modelTag
	lives     map[string]modelLife // by tag in lower case
}

// isSlot says whether a backup is due at that minute: the wall clock shows one of its times for the first time, or has just jumped over one.
func (p *modelPolicy) isSlot(m int64) bool {
	now, before := p.wall.shown[m-p.wall.begin], p.wall.shown[m-1-p.wall.begin]
	for _, i := range p.intervals {
		if m == i.start {
			return true
		}
		for w := before + 1; w <= now && m > i.start; w++ {
			if w > i.first && (w-i.first)%i.every == 0 {
				return true
			}
		}
	}
	return false
}

func (p *modelPolicy) next(after int64) int64 {
	for m := after + 1; ; m++ {
		if p.isSlot(m) {
			return m
		}
	}
}

// tag is the tag of the backup of a slot; last is the slot of the last one that succeeded, or 0.
func (p *modelPolicy) tag(slot, last int64) string {
	tags := slices.SortedFunc(slices.Values(p.tags), func(a, b modelTag) int { return a.priority - b.priority })
	for _, t := range tags {
		if t.period == "AllBackup" || last == 0 || p.period(t.period, last) < p.period(t.period, slot) {
			return t.name
		}
	}
	return "Default"
}

// period names the day, week, month or year of a minute, so that later ones come later in the alphabet.
func (p *modelPolicy) period(kind string, m int64) string {
	l := time.Unix(m*60, 0).In(p.wall.zone)
	day := time.Date(l.Year(), l.Month(), l.Day(), 12, 0, 0, 0, time.UTC)
	switch kind {
	case "FirstOfWeek":
		for day.Weekday() != time.Sunday {
			day = day.AddDate(0, 0, -1)
		}
	case "FirstOfMonth":
		return day.Format("2006-01")
	case "FirstOfYear":
		return day.Format("2006")
	}
	return day.Format("2006-01-02")
}

func (p *modelPolicy) life(tag string) modelLife {
	if l, ok := p.lives[strings.ToLower(tag)]; ok {
		return l
	}
	return p.lives["default"]
}

// end is the minute at which what was made at m has been kept for the life, by the calendar.
func (l modelLife) end(m int64) int64 {
	t := time.Unix(m*60, 0).UTC()
	year, month := t.Year(), int(t.Month())-1+l.months
	year, month = year+month/12, month%12+1
	day := t.Day()
	for time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Month() != time.Month(month) {
		day--
	}
	return time.Date(year, time.Month(month), day+l.days, t.Hour(), t.Minute()+l.minutes, 0, 0, time.UTC).Unix() / 60
}

type modelPoint struct {
	made, expires, slot int64
	tag                 string
}

type modelRun struct {
	outcome, code string
	missed        int
}

type modelWait struct {
	slot, until int64
	code        string
}

// modelInstance is a backup instance. One that was deleted is another than one made later under its name.
type modelInstance struct {
	name, cluster, policy string
	state                 string // a protection state
	gone                  bool
	purged                int64 // clock, when it is, of one that was deleted
	// from is the slot up to which nothing will be decided any more.
	from int64
	// awaiting are slots that have passed, and which nothing was decided about.
	awaiting []int64
	waiting  *modelWait
	runs     map[int64]modelRun
	last     int64
	points   []modelPoint
	// job is what keeps it busy.
	job *modelJob
	// restored is the true minute at which a restore ended last: what it kept goes within an hour.
	restored int64
}

// modelJob is a backup or a restore.
type modelJob struct {
	restore        bool
	of             *modelInstance
	slot           int64 // 0 on demand
	tag            string
	life           modelLife
	reads          int64 // when the recovery point that is restored was made
	fate           fate
	progressed     int64 // clock
	taken, over    bool  // by the cluster
	at             int64 // true, when it was taken
	givenUp, ended bool  // by the service
}

type modelCluster struct {
	heard    int64 // clock
	readable bool  // the vault has its role
	jobs     []*modelJob
	// ledger is how many recovery points are to be deleted.
	ledger int
}

// fate is what becomes of a backup or restore in the cluster.
type fate struct {
	minutes int64
	// silent is one that tells nothing between its beginning and its end.
	silent bool
	// committed says that a recovery point comes of it, failed that it says so.
	committed, failed bool
}

const (
	waitsFor      = 120 // minutes that a slot waits for its cluster
	patienceOf    = 60  // minutes without news of a job
	heardFor      = 2   // minutes that a cluster counts as connected
	progressEvery = 25  // minutes between two reports of a job
)

const (
	codeStopped     = "UserErrorKubernetesBackupClusterIsStopped"
	codeBusy        = "UserErrorConflictingOperationInProgress"
	codeNoRole      = "UserErrorMissingRequiredPermissions"
	codeNewSchedule = "ScheduleChanged"
	codeNotActive   = "ProtectionStopped"
)

// model is the whole world.
type model struct {
	seed      uint64
	trueTime  int64
	clock     int64
	up        bool  // the service
	since     int64 // clock, when it started or its clock was set
	clusters  map[string]*modelCluster
	policies  map[string]*modelPolicy
	instances map[string]*modelInstance
	deleted   map[string]*modelInstance // those that can be brought back
	clusterUp map[string]bool
}

func (m *model) names() []string { return slices.Sorted(maps.Keys(m.instances)) }

func (m *model) connected(cluster string) bool {
	ago := m.clock - m.clusters[cluster].heard
	return ago < heardFor && ago > -heardFor
}

// tick lets a minute pass: slots are awaited from when they come, whether or not the service is there.
func (m *model) tick() {
	m.trueTime++
	m.clock++
	m.pass()
}

func (m *model) pass() {
	for _, name := range m.names() {
		i := m.instances[name]
		if i.state == "ProtectionConfigured" && m.clock > i.from && m.policies[i.policy].isSlot(m.clock) && !slices.Contains(i.awaiting, m.clock) {
			i.awaiting = append(i.awaiting, m.clock)
		}
	}
}

// step sets the service's clock.
func (m *model) step(minutes int64) {
	for range minutes {
		m.clock++
		m.pass()
	}
	if minutes < 0 {
		m.clock += minutes
	}
}

// notice is what the service does when it starts, and when its clock was set back: it looks at every schedule anew.
func (m *model) notice() {
	m.since = m.clock
	for _, i := range m.instances {
		i.awaiting = slices.DeleteFunc(i.awaiting, func(slot int64) bool { return slot > m.clock })
		if i.waiting != nil && i.waiting.slot > m.clock {
			i.waiting = nil
		}
		if len(i.awaiting) == 0 {
			i.from = m.clock
		}
	}
}

// work is what the service does by time alone.
func (m *model) work() {
	ended := map[*modelInstance]bool{}
	for _, c := range m.clusters {
		c.jobs = slices.DeleteFunc(c.jobs, func(j *modelJob) bool {
			if j.ended || j.givenUp || m.clock-max(j.progressed, m.since) < patienceOf {
				return false
			}
			j.givenUp = true
			m.endJob(j)
			ended[j.of] = true
			return !j.taken // the cluster never hears of it
		})
	}
	for name, i := range m.deleted {
		if m.clock >= i.purged {
			m.clusters[i.cluster].ledger += len(i.points)
			delete(m.deleted, name)
		}
	}
	for _, name := range m.names() {
		i := m.instances[name]
		m.decide(i, ended[i])
		m.prune(i)
	}
}

func (m *model) endJob(j *modelJob) {
	if j.of.job == j {
		j.of.job = nil
	}
}

// decide decides about the slots that an instance awaits: the latest one, of those that nothing has begun to wait for.
func (m *model) decide(i *modelInstance, look bool) {
	if w := i.waiting; w != nil && i.awaiting[len(i.awaiting)-1] != w.slot {
		i.settle(modelRun{"Skipped", w.code, 0})
	}
	if len(i.awaiting) == 0 || i.waiting != nil && !look && m.clock < i.waiting.until && !m.connected(i.cluster) {
		return
	}
	slot := i.awaiting[len(i.awaiting)-1]
	if _, decided := i.runs[slot]; decided { // the clock was set back
		i.from, i.awaiting = slot, nil
		return
	}
	problem, waits := "", false
	switch {
	case i.job != nil:
		problem, waits = codeBusy, true
	case !m.clusters[i.cluster].readable:
		problem = codeNoRole
	case !m.connected(i.cluster):
		problem, waits = codeStopped, true
	}
	if waits {
		if i.waiting == nil {
			i.waiting = &modelWait{slot: slot, until: min(m.clock+waitsFor, m.policies[i.policy].next(slot))}
		}
		if i.waiting.code = problem; m.clock >= i.waiting.until {
			i.settle(modelRun{"Skipped", problem, 0})
		}
		return
	}
	if i.waiting == nil {
		i.waiting = &modelWait{slot: slot}
	}
	if problem != "" {
		i.settle(modelRun{"Failed", problem, 0})
		return
	}
	m.start(i, slot, m.policies[i.policy].tag(slot, i.last))
	i.settle(modelRun{"Started", "", 0})
}

// settle takes down what became of the slot that is being waited with. It tells how many slots before it were missed.
func (i *modelInstance) settle(r modelRun) {
	at := slices.Index(i.awaiting, i.waiting.slot)
	for _, earlier := range i.awaiting[:at] {
		if _, decided := i.runs[earlier]; !decided {
			r.missed++
		}
	}
	i.runs[i.waiting.slot] = r
	i.from, i.awaiting, i.waiting = i.waiting.slot, i.awaiting[at+1:], nil
}

func (m *model) start(i *modelInstance, slot int64, tag string) {
	j := &modelJob{of: i, slot: slot, tag: tag, life: m.policies[i.policy].life(tag), progressed: m.clock}
	i.job = j
	m.clusters[i.cluster].jobs = append(m.clusters[i.cluster].jobs, j)
}

// goes says whether a recovery point's time has come.
func (m *model) goes(i *modelInstance, p modelPoint, newest int64) bool {
	if m.clock < p.expires {
		return false
	}
	state, _ := m.verdict(i, p, newest)
	return state == "Expiring"
}

// anyGoes says whether one of an instance does.
func (m *model) anyGoes(i *modelInstance) bool {
	newest := i.newest()
	return slices.ContainsFunc(i.points, func(p modelPoint) bool { return m.goes(i, p, newest) })
}

// prune removes the recovery points whose time has come.
func (m *model) prune(i *modelInstance) {
	newest, before := i.newest(), len(i.points)
	i.points = slices.DeleteFunc(i.points, func(p modelPoint) bool { return m.goes(i, p, newest) })
	m.clusters[i.cluster].ledger += before - len(i.points)
}

// newest is when the newest recovery point was made.
func (i *modelInstance) newest() int64 {
	newest := int64(0)
	for _, p := range i.points {
		newest = max(newest, p.made)
	}
	return newest
}

// verdict is what a recovery point says of itself, and why.
func (m *model) verdict(i *modelInstance, p modelPoint, newest int64) (state, code string) {
	switch {
	case m.reading(i, p):
		return "Kept", "RestoreRunning"
	case i.state == "ProtectionStopped":
		return "Kept", "ProtectionStopped"
	case m.clock < p.expires:
		return "Kept", "NotExpired"
	case p.made == newest:
		return "Kept", "Newest"
	}
	return "Expiring", "Expired"
}

func (m *model) reading(i *modelInstance, p modelPoint) bool {
	return slices.ContainsFunc(m.clusters[i.cluster].jobs, func(j *modelJob) bool { return j.restore && j.of == i && !j.over && j.reads == p.made })
}

// clustersCall lets every cluster that can reach the service take what it is asked for, and tell how far it is.
func (m *model) clustersCall() {
	for name, c := range m.clusters {
		if !m.up || !m.clusterUp[name] {
			continue
		}
		c.heard = m.clock
		for _, j := range c.jobs {
			switch {
			case !j.taken:
				j.taken, j.at, j.progressed = true, m.trueTime, m.clock
				j.fate = fateOf(m.seed, j.of.name, m.trueTime, j.restore)
			case m.trueTime >= j.at+j.fate.minutes:
				j.over = true
				m.over(j)
			case (m.trueTime-j.at)%progressEvery == 0 && !j.fate.silent && m.trueTime > j.at:
				j.progressed = m.clock
			}
		}
		c.jobs = slices.DeleteFunc(c.jobs, func(j *modelJob) bool { return j.over })
		c.ledger = 0
	}
}

// over takes down what came of a job, even when it was given up.
func (m *model) over(j *modelJob) {
	m.endJob(j)
	i := j.of
	switch {
	case j.restore:
		i.restored = m.trueTime
	case j.fate.committed && i.gone:
		// it is deleted at once
	case j.fate.committed:
		made := j.at + j.fate.minutes
		i.points = append(i.points, modelPoint{made: made, expires: j.life.end(made), slot: j.slot, tag: j.tag})
		i.last = max(i.last, j.slot)
	}
	j.ended = true
}

// move stops, suspends or resumes a protection.
func (m *model) move(i *modelInstance, state string) {
	if i.state == state {
		return
	}
	if i.waiting != nil {
		i.settle(modelRun{"Skipped", codeNotActive, 0})
	}
	i.state, i.from, i.awaiting, i.waiting = state, m.clock, nil, nil
}

// schedule is that an instance has another policy, or its policy another schedule.
func (m *model) schedule(i *modelInstance) {
	if i.state != "ProtectionConfigured" {
		return
	}
	if w := i.waiting; w != nil {
		if m.policies[i.policy].isSlot(w.slot) {
			return
		}
		i.settle(modelRun{"Skipped", codeNewSchedule, 0})
	}
	i.from, i.awaiting, i.waiting = m.clock, nil, nil
}

// lines are what an instance must tell, but for the names of things.
func (m *model) lines(i *modelInstance) []string {
	var lines []string
	for _, p := range i.points {
		state, code := m.verdict(i, p, i.newest())
		lines = append(lines, pointLine(stamp(p.made), p.tag, stamp(p.slot), stamp(p.expires), state, code))
	}
	sortPoints(lines)
	if i.state == "ProtectionConfigured" {
		for n, slot := 0, m.clock; n < 3; n++ {
			if n == 0 && i.waiting != nil {
				slot = i.waiting.slot
				lines = append(lines, "waiting until "+stamp(i.waiting.until)+": "+i.waiting.code)
			} else {
				slot = m.policies[i.policy].next(slot)
			}
			lines = append(lines, "next "+stamp(slot))
		}
	}
	lines = append(lines, "last success "+stamp(i.last))
	slots := slices.Sorted(maps.Keys(i.runs))
	slices.Reverse(slots)
	for _, slot := range slots[:min(len(slots), 50)] {
		r := i.runs[slot]
		lines = append(lines, runLine(stamp(slot), r.outcome, r.code, r.missed))
	}
	return lines
}

// sortPoints puts the lines of recovery points, which begin with their times, in order: a backup that was given up and the next one can be made in
// the same minute.
func sortPoints(lines []string) {
	slices.Sort(lines)
	slices.Reverse(lines)
}

func stamp(m int64) string {
	if m == 0 {
		return "-"
	}
	return time.Unix(m*60, 0).UTC().Format("2006-01-02T15:04")
}

func pointLine(made, tag, slot, expires, state, code string) string {
	return fmt.Sprintf("point %s tag %s slot %s expires %s: %s %s", made, strings.ToLower(tag), slot, expires, state, code)
}

func runLine(slot, outcome, code string, missed int) string {
	return fmt.Sprintf("run %s %s %s missed %d", slot, outcome, code, missed)
}
