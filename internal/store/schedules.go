package store

import (
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Schedule is an instance's row of the schedule.
type Schedule struct {
	// GUID is the instance's own, which no later instance of the same name has.
	GUID string
	// Instance and Cluster are keys.
	Instance, Cluster string
	// Slot is the next one that nothing was decided about, zero while there is no schedule.
	Slot time.Time
	// Missed is how many slots before it passed while the service was away.
	Missed int
	// Due is when to look at it, zero for never.
	Due time.Time
	// Until is when waiting for the cluster or for another job ends; zero when nothing is waited for. Code and Message say what.
	Until         time.Time
	Code, Message string
	// Last is the slot of the last scheduled backup that made a recovery point, or zero.
	Last time.Time
	// Forgotten is the latest slot whose run was removed, or zero: no slot up to it is run.
	Forgotten time.Time
}

// Schedule finds an instance's row: ErrNotFound.
func (tx *Tx) Schedule(guid string) (Schedule, error) {
	found, err := tx.schedules(`WHERE guid = $1`, guid)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Schedule{}, fmt.Errorf("schedule of instance %s: %w", guid, err)
	}
	return found[0], nil
}

// PutSchedule stores an instance's row, but for Last and Forgotten, which have writers of their own.
func (tx *Tx) PutSchedule(r Schedule) error {
	_, err := tx.exec(`INSERT INTO schedules (guid, instance, cluster, slot, due, until, code, message, missed, last, forgotten) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0)
		ON CONFLICT (guid) DO UPDATE SET instance = excluded.instance, cluster = excluded.cluster, slot = excluded.slot, due = excluded.due,
			until = excluded.until, code = excluded.code, message = excluded.message, missed = excluded.missed`,
		r.GUID, r.Instance, r.Cluster, micros(r.Slot), micros(r.Due), micros(r.Until), r.Code, r.Message, r.Missed)
	if err != nil {
		return fmt.Errorf("schedule of instance %s: %w", r.GUID, err)
	}
	return nil
}

// ScheduleSucceeded notes that the backup of a slot made its recovery point.
func (tx *Tx) ScheduleSucceeded(guid string, slot time.Time) error {
	if _, err := tx.exec(`UPDATE schedules SET last = $1 WHERE guid = $2 AND last < $1`, micros(slot), guid); err != nil {
		return fmt.Errorf("schedule of instance %s: %w", guid, err)
	}
	return nil
}

// DeleteSchedule forgets an instance's row and runs.
func (tx *Tx) DeleteSchedule(guid string) error {
	for _, statement := range []string{`DELETE FROM schedules WHERE guid = $1`, `DELETE FROM runs WHERE guid = $1`} {
		if _, err := tx.exec(statement, guid); err != nil {
			return fmt.Errorf("schedule of instance %s: %w", guid, err)
		}
	}
	return nil
}

// DueSchedules are up to n rows that are to be looked at, those that are due longest first.
func (tx *Tx) DueSchedules(n int) ([]Schedule, error) {
	found, err := tx.schedules(`WHERE due > 0 AND due <= $1 ORDER BY due, cluster, guid LIMIT $2`, micros(tx.now), n)
	if err != nil {
		return nil, fmt.Errorf("due schedules: %w", err)
	}
	return found, nil
}

// NextDue is when the next row is to be looked at; zero when none is.
func (tx *Tx) NextDue() (time.Time, error) {
	return tx.first("schedules", "due")
}

// first is the least time in a column, without zeros; zero when there is none.
func (tx *Tx) first(table, column string) (time.Time, error) {
	var at int64
	if err := tx.row(fmt.Sprintf(`SELECT coalesce(min(%[2]s), 0) FROM %[1]s WHERE %[2]s > 0`, table, column), nil, &at); err != nil {
		return time.Time{}, fmt.Errorf("next of %s: %w", table, err)
	}
	return timeOf(at), nil
}

// WakeCluster lets everything that waits for a cluster be looked at now: slots, and deletions that no request is under way for.
func (tx *Tx) WakeCluster(cluster arm.ID) error {
	for _, statement := range []string{
		`UPDATE schedules SET due = $2 WHERE cluster = $1 AND until > 0`,
		`UPDATE deletions SET due = $2 WHERE cluster = $1 AND request = ''`,
	} {
		if _, err := tx.exec(statement, cluster.Key(), micros(tx.now)); err != nil {
			return fmt.Errorf("what waits for %s: %w", cluster, err)
		}
	}
	return nil
}

// wakeInstance lets a slot that waits for another job of its instance be looked at now.
func (tx *Tx) wakeInstance(instance string) error {
	_, err := tx.exec(`UPDATE schedules SET due = $2 WHERE instance = $1 AND until > 0`, instance, micros(tx.now))
	return err
}

func (tx *Tx) schedules(where string, args ...any) ([]Schedule, error) {
	var found []Schedule
	err := tx.query(func(rows *sql.Rows) error {
		var r Schedule
		var slot, due, until, last, forgotten int64
		if err := rows.Scan(&r.GUID, &r.Instance, &r.Cluster, &slot, &due, &until, &r.Code, &r.Message, &r.Missed, &last, &forgotten); err != nil {
			return err
		}
		r.Slot, r.Due, r.Until, r.Last, r.Forgotten = timeOf(slot), timeOf(due), timeOf(until), timeOf(last), timeOf(forgotten)
		found = append(found, r)
		return nil
	}, `SELECT guid, instance, cluster, slot, due, until, code, message, missed, last, forgotten FROM schedules `+where, args...)
	return found, err
}

// The outcomes of a run.
const (
	RunStarted = "Started"
	RunFailed  = "Failed"
	RunSkipped = "Skipped"
)

// Run is what became of a slot.
type Run struct {
	GUID string
	Slot time.Time
	// Decided is when that was.
	Decided time.Time
	// Outcome is RunStarted or RunFailed, with the name of the job, or RunSkipped.
	Outcome, Job string
	// Code and Message say why it was skipped or has failed.
	Code, Message string
	// Missed is how many slots before this one passed while the service was away.
	Missed int
}

// AddRun takes down what becomes of a slot, and says whether that was open: a slot is decided about once.
func (tx *Tx) AddRun(r Run) (bool, error) {
	added, err := tx.exec(`INSERT INTO runs (guid, slot, decided, outcome, job, code, message, missed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
		r.GUID, micros(r.Slot), micros(tx.now), r.Outcome, r.Job, r.Code, r.Message, r.Missed)
	if err != nil {
		return false, fmt.Errorf("run of instance %s: %w", r.GUID, err)
	}
	return added > 0, nil
}

// Runs are the latest n of an instance, newest slot first.
func (tx *Tx) Runs(guid string, n int) ([]Run, error) {
	var found []Run
	err := tx.query(func(rows *sql.Rows) error {
		r := Run{GUID: guid}
		var slot, decided int64
		if err := rows.Scan(&slot, &decided, &r.Outcome, &r.Job, &r.Code, &r.Message, &r.Missed); err != nil {
			return err
		}
		r.Slot, r.Decided = timeOf(slot), timeOf(decided)
		found = append(found, r)
		return nil
	}, `SELECT slot, decided, outcome, job, code, message, missed FROM runs WHERE guid = $1 ORDER BY slot DESC LIMIT $2`, guid, n)
	if err != nil {
		return nil, fmt.Errorf("runs of instance %s: %w", guid, err)
	}
	return found, nil
}

// CountRuns is how many slots of an instance were decided about, from one up to another and without it.
func (tx *Tx) CountRuns(guid string, from, to time.Time) (n int, err error) {
	if err := tx.row(`SELECT count(*) FROM runs WHERE guid = $1 AND slot >= $2 AND slot < $3`, []any{guid, micros(from), micros(to)}, &n); err != nil {
		return 0, fmt.Errorf("runs of instance %s: %w", guid, err)
	}
	return n, nil
}

// HasRuns says whether there are runs of slots before a time.
func (tx *Tx) HasRuns(before time.Time) (bool, error) {
	first, err := tx.first("runs", "slot")
	return !first.IsZero() && first.Before(before), err
}

// ForgetRuns removes the runs of slots before a time. Their instances' rows remember the latest of them, so that none runs again when the
// clock was wrong.
func (tx *Tx) ForgetRuns(before time.Time) error {
	if _, err := tx.exec(`UPDATE schedules SET forgotten = (SELECT max(slot) FROM runs WHERE runs.guid = schedules.guid AND runs.slot < $1)
		WHERE guid IN (SELECT guid FROM runs WHERE slot < $1)`, micros(before)); err != nil {
		return fmt.Errorf("old runs: %w", err)
	}
	if _, err := tx.exec(`DELETE FROM runs WHERE slot < $1`, micros(before)); err != nil {
		return fmt.Errorf("old runs: %w", err)
	}
	return nil
}

// Busy are the jobs that run, of instances given by their keys: one of each.
func (tx *Tx) Busy(instances []string) (map[string]string, error) {
	busy := map[string]string{}
	if len(instances) == 0 {
		return busy, nil
	}
	marks, args := make([]string, len(instances)), make([]any, len(instances))
	for i, key := range instances {
		marks[i], args[i] = "$"+strconv.Itoa(i+1), key
	}
	err := tx.query(func(rows *sql.Rows) error {
		var instance, job string
		err := rows.Scan(&instance, &job)
		busy[instance] = job
		return err
	}, `SELECT instance, job FROM requests WHERE ended = 0 AND given_up = 0 AND job <> '' AND instance IN (`+strings.Join(marks, ", ")+`)`, args...)
	if err != nil {
		return nil, fmt.Errorf("running jobs: %w", err)
	}
	return busy, nil
}
