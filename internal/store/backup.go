package store

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// VaultKey is a vault's secret; when it has none yet, it gets the one that make returns.
func (tx *Tx) VaultKey(vault arm.ID, make func() (string, error)) (string, error) {
	var secret string
	err := tx.row(`SELECT secret FROM vault_keys WHERE vault = $1`, []any{vault.Key()}, &secret)
	if errors.Is(err, ErrNotFound) && make != nil {
		if secret, err = make(); err == nil {
			_, err = tx.exec(`INSERT INTO vault_keys (vault, secret) VALUES ($1, $2)`, vault.Key(), secret)
		}
	}
	if err != nil {
		return "", fmt.Errorf("secret of %s: %w", vault, err)
	}
	return secret, nil
}

// ForgetVault removes a vault's secret, jobs and exports, and the restores that were given up: they cannot go on without the secret, and
// a vault made later under the same name has another. Its backups go on, so that what they leave is heard of. What is still to be
// deleted of its recovery points stays in the ledger.
func (tx *Tx) ForgetVault(vault arm.ID) error {
	tx.touched.all = true
	for _, statement := range []string{`DELETE FROM vault_keys WHERE vault = $1`, `DELETE FROM jobs WHERE vault = $1`,
		`DELETE FROM requests WHERE vault = $1 AND given_up > 0 AND kind IN ('Restore', 'ValidateForRestore')`} {
		if _, err := tx.exec(statement, vault.Key()); err != nil {
			return fmt.Errorf("forget %s: %w", vault, err)
		}
	}
	return tx.forgetExports(vault)
}

// Operation is a long-running operation of Microsoft.DataProtection.
type Operation struct {
	ID string
	// Kind is one of service's.
	Kind string
	// Resource is what it works on.
	Resource arm.ID
	// Status is one of arm's.
	Status string
	// Job is the full ID of the job that it started, or empty.
	Job     arm.ID
	Error   *arm.Error
	Started time.Time
	Ended   time.Time
}

// operationKept is how long an operation can be asked for after it has ended.
const operationKept = 7 * 24 * time.Hour

// PutOperation adds an operation, or stores how it has ended. Operations that ended long ago are removed on this occasion.
func (tx *Tx) PutOperation(o Operation) error {
	text := ""
	if o.Error != nil {
		body, err := json.Marshal(o.Error)
		if err != nil {
			return fmt.Errorf("operation %s: %w", o.ID, err)
		}
		text = string(body)
	}
	if _, err := tx.exec(`INSERT INTO operations (id, kind, resource, status, job, error, started, ended) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (id) DO UPDATE SET status = excluded.status, job = excluded.job, error = excluded.error, ended = excluded.ended`,
		o.ID, o.Kind, string(o.Resource), o.Status, string(o.Job), text, micros(o.Started), micros(o.Ended)); err != nil {
		return fmt.Errorf("operation %s: %w", o.ID, err)
	}
	if _, err := tx.exec(`DELETE FROM operations WHERE ended > 0 AND ended < $1`, micros(tx.now.Add(-operationKept))); err != nil {
		return fmt.Errorf("old operations: %w", err)
	}
	return nil
}

// Operation finds an operation: ErrNotFound.
func (tx *Tx) Operation(id string) (Operation, error) {
	o := Operation{ID: id}
	var resource, job, text string
	var started, ended int64
	err := tx.row(`SELECT kind, resource, status, job, error, started, ended FROM operations WHERE id = $1`, []any{id},
		&o.Kind, &resource, &o.Status, &job, &text, &started, &ended)
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), &o.Error)
	}
	if err != nil {
		return o, fmt.Errorf("operation %s: %w", id, err)
	}
	o.Resource, o.Job, o.Started, o.Ended = arm.ID(resource), arm.ID(job), timeOf(started), timeOf(ended)
	return o, nil
}

// Job is a job's row.
type Job struct {
	// Name is a GUID.
	Name string
	// Vault and Instance are keys.
	Vault, Instance string
	// Source is the key of the cluster that it is about.
	Source string
	// Operation is OnDemandBackup, ScheduledBackup or Restore.
	Operation      string
	Status         string
	Started, Ended time.Time
	// Body is a backup.Job.
	Body json.RawMessage
}

// PutJob adds a job or stores how far it is.
func (tx *Tx) PutJob(j Job) error {
	_, err := tx.exec(`INSERT INTO jobs (name, vault, instance, source, operation, status, started, ended, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (name) DO UPDATE SET status = excluded.status, ended = excluded.ended, body = excluded.body`,
		j.Name, j.Vault, j.Instance, j.Source, j.Operation, j.Status, micros(j.Started), micros(j.Ended), string(j.Body))
	if err != nil {
		return fmt.Errorf("job %s: %w", j.Name, err)
	}
	return nil
}

// Job finds a job: ErrNotFound.
func (tx *Tx) Job(name string) (Job, error) {
	found, err := tx.jobs(`WHERE name = lower($1)`, name)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Job{}, fmt.Errorf("job %s: %w", name, err)
	}
	return found[0], nil
}

// JobStarted says whether an instance has had at least n jobs of an operation since a time, and when the n-th of them, counted from the newest, began.
func (tx *Tx) JobStarted(instance arm.ID, operation string, since time.Time, n int) (began time.Time, full bool, err error) {
	var started int64
	err = tx.row(`SELECT started FROM jobs WHERE instance = $1 AND operation = $2 AND started > $3 ORDER BY started DESC LIMIT 1 OFFSET $4`,
		[]any{instance.Key(), operation, micros(since), n - 1}, &started)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, fmt.Errorf("jobs of %s: %w", instance, err)
	}
	return timeOf(started), true, nil
}

// JobsEnded says whether there are jobs that ended before a time.
func (tx *Tx) JobsEnded(before time.Time) (bool, error) {
	var n int
	if err := tx.row(`SELECT count(*) FROM (SELECT 1 FROM jobs WHERE ended > 0 AND ended < $1 LIMIT 1) AS old`, []any{micros(before)}, &n); err != nil {
		return false, fmt.Errorf("old jobs: %w", err)
	}
	return n > 0, nil
}

// ForgetJobs removes the jobs that ended before a time.
func (tx *Tx) ForgetJobs(before time.Time) error {
	if _, err := tx.exec(`DELETE FROM jobs WHERE ended > 0 AND ended < $1`, micros(before)); err != nil {
		return fmt.Errorf("old jobs: %w", err)
	}
	return nil
}

func (tx *Tx) jobs(where string, args ...any) ([]Job, error) {
	var found []Job
	err := tx.query(func(rows *sql.Rows) error {
		var j Job
		var started, ended int64
		var body string
		if err := rows.Scan(&j.Name, &j.Vault, &j.Instance, &j.Source, &j.Operation, &j.Status, &started, &ended, &body); err != nil {
			return err
		}
		j.Started, j.Ended, j.Body = timeOf(started), timeOf(ended), json.RawMessage(body)
		found = append(found, j)
		return nil
	}, `SELECT name, vault, instance, source, operation, status, started, ended, body FROM jobs `+where, args...)
	return found, err
}

// Request is what a cluster is asked to do.
type Request struct {
	// Name is a GUID, and the request object's name in the cluster.
	Name string
	// Kind is a kind of api/v1alpha1.
	Kind string
	// Cluster, Vault and Instance are keys; Instance is empty when there is none yet.
	Cluster, Vault, Instance string
	// Point is the recovery point that it makes, restores or deletes, or empty.
	Point string
	// Operation and Job are the names of what waits for it, or empty.
	Operation, Job string
	// Spec is the kind's spec.
	Spec json.RawMessage
	// Status is the kind's status as the cluster reported it last, or empty.
	Status  json.RawMessage
	Created time.Time
	// Progressed is when the status last changed.
	Progressed time.Time
	// GivenUp is when the service stopped waiting for it, or zero.
	GivenUp time.Time
	// Withdrawn is when the work was not wished for any more, or zero: the cluster is to stop and to report how it ended.
	Withdrawn time.Time
	// Ended is when the cluster reported that it is over, or zero.
	Ended time.Time
}

// requestKept is how long a request is remembered after its end.
const requestKept = 30 * 24 * time.Hour

// AddRequest adds a request. A second backup or restore of an instance that has one running is ErrConflict.
func (tx *Tx) AddRequest(r Request) error {
	added, err := tx.exec(`INSERT INTO requests (name, kind, cluster, vault, instance, point, operation, job, spec, status, created, progressed, given_up, ended)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', $10, $11, 0, 0) ON CONFLICT DO NOTHING`,
		r.Name, r.Kind, r.Cluster, r.Vault, r.Instance, r.Point, r.Operation, r.Job, string(r.Spec), micros(r.Created), micros(r.Progressed))
	if err == nil && added == 0 {
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("request %s: %w", r.Name, err)
	}
	tx.touchCluster(r.Cluster)
	return nil
}

// PutRequest stores how far a request is. A slot that waits for its end is looked at.
func (tx *Tx) PutRequest(r Request) error {
	_, err := tx.exec(`UPDATE requests SET status = $1, progressed = $2, given_up = $3, withdrawn = $4, ended = $5 WHERE name = $6`,
		string(r.Status), micros(r.Progressed), micros(r.GivenUp), micros(r.Withdrawn), micros(r.Ended), r.Name)
	over := !r.Ended.IsZero() || !r.GivenUp.IsZero()
	if over || !r.Withdrawn.IsZero() {
		tx.touchCluster(r.Cluster) // progress does not concern what the cluster should have
	}
	if err == nil && over && r.Job != "" {
		err = tx.wakeInstance(r.Instance)
	}
	if err != nil {
		return fmt.Errorf("request %s: %w", r.Name, err)
	}
	return nil
}

// ForgetRequests removes the requests that ended long ago.
func (tx *Tx) ForgetRequests() error {
	if _, err := tx.exec(`DELETE FROM requests WHERE ended > 0 AND ended < $1 OR given_up > 0 AND given_up < $1`, micros(tx.now.Add(-requestKept))); err != nil {
		return fmt.Errorf("old requests: %w", err)
	}
	return nil
}

// Request finds a request: ErrNotFound.
func (tx *Tx) Request(name string) (Request, error) {
	found, err := tx.requests(`WHERE name = $1`, name)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Request{}, fmt.Errorf("request %s: %w", name, err)
	}
	return found[0], nil
}

// WantedRequests are those that the cluster should have, oldest first: which have not ended, and which the service still
// waits for or the cluster has begun.
func (tx *Tx) WantedRequests(cluster arm.ID) ([]Request, error) {
	found, err := tx.requests(`WHERE cluster = $1 AND ended = 0 AND (given_up = 0 OR status <> '') ORDER BY created, name`, cluster.Key())
	if err != nil {
		return nil, fmt.Errorf("requests of %s: %w", cluster, err)
	}
	return found, nil
}

// IdleRequests are those that the service waits for and that have made no progress since a time, oldest first.
func (tx *Tx) IdleRequests(since time.Time) ([]Request, error) {
	found, err := tx.requests(`WHERE ended = 0 AND given_up = 0 AND progressed <= $1 ORDER BY created, name`, micros(since))
	if err != nil {
		return nil, fmt.Errorf("idle requests: %w", err)
	}
	return found, nil
}

// OpenRequestsOf are those of an instance that the service waits for, oldest first.
func (tx *Tx) OpenRequestsOf(instance arm.ID) ([]Request, error) {
	found, err := tx.requests(`WHERE instance = $1 AND ended = 0 AND given_up = 0 ORDER BY created, name`, instance.Key())
	if err != nil {
		return nil, fmt.Errorf("requests of %s: %w", instance, err)
	}
	return found, nil
}

// RequestsOfOperation are those that an operation waits for, oldest first.
func (tx *Tx) RequestsOfOperation(operation string) ([]Request, error) {
	found, err := tx.requests(`WHERE operation = $1 ORDER BY created, name`, operation)
	if err != nil {
		return nil, fmt.Errorf("requests of operation %s: %w", operation, err)
	}
	return found, nil
}

func (tx *Tx) requests(where string, args ...any) ([]Request, error) {
	var found []Request
	err := tx.query(func(rows *sql.Rows) error {
		var r Request
		var spec, status string
		var created, progressed, givenUp, withdrawn, ended int64
		if err := rows.Scan(&r.Name, &r.Kind, &r.Cluster, &r.Vault, &r.Instance, &r.Point, &r.Operation, &r.Job, &spec, &status,
			&created, &progressed, &givenUp, &withdrawn, &ended); err != nil {
			return err
		}
		r.Spec, r.Status = json.RawMessage(spec), json.RawMessage(status)
		r.Created, r.Progressed, r.GivenUp, r.Ended = timeOf(created), timeOf(progressed), timeOf(givenUp), timeOf(ended)
		r.Withdrawn = timeOf(withdrawn)
		found = append(found, r)
		return nil
	}, `SELECT name, kind, cluster, vault, instance, point, operation, job, spec, status, created, progressed, given_up, withdrawn, ended FROM requests `+where, args...)
	return found, err
}

// RecoveryPoint is a recovery point's row.
type RecoveryPoint struct {
	// Name is 32 hexadecimal digits.
	Name string
	// Vault, Instance and Cluster are keys.
	Vault, Instance, Cluster string
	// GUID is that of the instance which made it.
	GUID string
	// Job is the name of the job that made it.
	Job  string
	Time time.Time
	// Container is the URL of the blob container that it lies in, Prefix the folder of the instance.
	Container, Prefix string
	// Snapshots are the storage snapshots that belong to it: a list of v1alpha1.VolumeSnapshotRecord.
	Snapshots json.RawMessage
	// Slot is that of the schedule, zero for a backup on demand.
	Slot time.Time
	// Expires is zero while it is not known.
	Expires time.Time
	// Body is a backup.RecoveryPoint.
	Body json.RawMessage
}

// PutRecoveryPoint adds a recovery point; one that exists stays as it is.
func (tx *Tx) PutRecoveryPoint(p RecoveryPoint) error {
	_, err := tx.exec(`INSERT INTO recovery_points (name, vault, instance, guid, cluster, job, point, container, prefix, snapshots, slot, expires, look, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13) ON CONFLICT (name) DO NOTHING`,
		p.Name, p.Vault, p.Instance, p.GUID, p.Cluster, p.Job, micros(p.Time), p.Container, p.Prefix, string(p.Snapshots), micros(p.Slot), micros(p.Expires), string(p.Body))
	if err != nil {
		return fmt.Errorf("recovery point %s: %w", p.Name, err)
	}
	return nil
}

// ExpireRecoveryPoint stores when a recovery point expires that did not know it.
func (tx *Tx) ExpireRecoveryPoint(name string, expires time.Time) error {
	if _, err := tx.exec(`UPDATE recovery_points SET expires = $1, look = $1 WHERE name = $2 AND expires = 0`, micros(expires), name); err != nil {
		return fmt.Errorf("recovery point %s: %w", name, err)
	}
	return nil
}

// TimelessPoints are the recovery points of which it is not known when they expire.
func (tx *Tx) TimelessPoints() ([]RecoveryPoint, error) {
	found, err := tx.recoveryPoints(`WHERE expires = 0 ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("recovery points: %w", err)
	}
	return found, nil
}

// Expiring are the GUIDs of up to n instances with recovery points that are to be decided on now, and their instances' keys.
func (tx *Tx) Expiring(n int) (map[string]string, error) {
	found := map[string]string{}
	err := tx.query(func(rows *sql.Rows) error {
		var guid, instance string
		err := rows.Scan(&guid, &instance)
		found[guid] = instance
		return err
	}, `SELECT guid, instance FROM recovery_points WHERE look > 0 AND look <= $1 ORDER BY look, name LIMIT $2`, micros(tx.now), n)
	if err != nil {
		return nil, fmt.Errorf("expiring recovery points: %w", err)
	}
	return found, nil
}

// NextLook is when a recovery point is to be decided on next; zero when none is.
func (tx *Tx) NextLook() (time.Time, error) { return tx.first("recovery_points", "look") }

// LookAgain puts the next decision on those recovery points of an instance that are due for one off until then.
func (tx *Tx) LookAgain(guid string, then time.Time) error {
	if _, err := tx.exec(`UPDATE recovery_points SET look = $1 WHERE guid = $2 AND look > 0 AND look <= $3`, micros(then), guid, micros(tx.now)); err != nil {
		return fmt.Errorf("recovery points of instance %s: %w", guid, err)
	}
	return nil
}

// LookNow lets all recovery points of an instance be decided on when they expire, or at once if they have: something that kept them has changed.
func (tx *Tx) LookNow(guid string) error {
	if _, err := tx.exec(`UPDATE recovery_points SET look = expires WHERE guid = $1 AND look > expires`, guid); err != nil {
		return fmt.Errorf("recovery points of instance %s: %w", guid, err)
	}
	return nil
}

// PointTimes are an instance's recovery points, named by its GUID, with no more than Name, Time and Expires.
func (tx *Tx) PointTimes(guid string) ([]RecoveryPoint, error) {
	var found []RecoveryPoint
	err := tx.query(func(rows *sql.Rows) error {
		var p RecoveryPoint
		var at, expires int64
		err := rows.Scan(&p.Name, &at, &expires)
		p.Time, p.Expires = timeOf(at), timeOf(expires)
		found = append(found, p)
		return err
	}, `SELECT name, point, expires FROM recovery_points WHERE guid = $1`, guid)
	if err != nil {
		return nil, fmt.Errorf("recovery points of instance %s: %w", guid, err)
	}
	return found, nil
}

// PointsBeingRead are the recovery points of an instance that restores read, or may still read in the cluster.
func (tx *Tx) PointsBeingRead(instance arm.ID) (map[string]bool, error) {
	read := map[string]bool{}
	err := tx.query(func(rows *sql.Rows) error {
		var point string
		err := rows.Scan(&point)
		read[point] = true
		return err
	}, `SELECT point FROM requests WHERE instance = $1 AND ended = 0 AND kind = 'Restore' AND (given_up = 0 OR status <> '')`, instance.Key())
	if err != nil {
		return nil, fmt.Errorf("restores of %s: %w", instance, err)
	}
	return read, nil
}

// DeleteRecoveryPoint removes a recovery point's row, if there is one.
func (tx *Tx) DeleteRecoveryPoint(name string) error {
	if _, err := tx.exec(`DELETE FROM recovery_points WHERE name = $1`, name); err != nil {
		return fmt.Errorf("recovery point %s: %w", name, err)
	}
	return nil
}

// RecoveryPoint finds an instance's recovery point, the instance by its GUID: ErrNotFound.
func (tx *Tx) RecoveryPoint(guid, name string) (RecoveryPoint, error) {
	found, err := tx.recoveryPoints(`WHERE guid = $1 AND name = lower($2)`, guid, name)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return RecoveryPoint{}, fmt.Errorf("recovery point %s: %w", name, err)
	}
	return found[0], nil
}

// RecoveryPoints are those of an instance, named by its GUID, newest first.
func (tx *Tx) RecoveryPoints(guid string) ([]RecoveryPoint, error) {
	found, err := tx.recoveryPoints(`WHERE guid = $1 ORDER BY point DESC, name`, guid)
	if err != nil {
		return nil, fmt.Errorf("recovery points of instance %s: %w", guid, err)
	}
	return found, nil
}

func (tx *Tx) recoveryPoints(where string, args ...any) ([]RecoveryPoint, error) {
	var found []RecoveryPoint
	err := tx.query(func(rows *sql.Rows) error {
		var p RecoveryPoint
		var at, slot, expires int64
		var snapshots, body string
		if err := rows.Scan(&p.Name, &p.Vault, &p.Instance, &p.GUID, &p.Cluster, &p.Job, &at, &p.Container, &p.Prefix, &snapshots, &slot, &expires, &body); err != nil {
			return err
		}
		p.Time, p.Slot, p.Expires, p.Snapshots, p.Body = timeOf(at), timeOf(slot), timeOf(expires), json.RawMessage(snapshots), json.RawMessage(body)
		found = append(found, p)
		return nil
	}, `SELECT name, vault, instance, guid, cluster, job, point, container, prefix, snapshots, slot, expires, body FROM recovery_points `+where, args...)
	return found, err
}
