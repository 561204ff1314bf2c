package store

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Page says which part of a list is wanted. A list is read on from where its last page ended, not from a count of rows, so that rows that come or go
// meanwhile neither hide others nor repeat them.
type Page struct {
	// Limit is how many rows at most.
	Limit int
	// After is the position that the page before returned, or empty for the beginning.
	After string
}

// ErrPosition is a Page.After that no list returned.
var ErrPosition = errors.New("not a position in this list")

// cut takes the row that shows whether there are more off the end, and tells the position of the last that stays: empty on the last page.
func cut[T any](rows []T, limit int, position func(T) string) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	return rows[:limit], position(rows[limit-1])
}

// ChildrenPage is Children, a page of them.
func (tx *Tx) ChildrenPage(parent arm.ID, typ string, p Page) ([]Resource, string, error) {
	found, err := tx.resources(`WHERE parent = $1 AND type = $2 AND key > $3 ORDER BY key LIMIT $4`, parent.Key(), strings.ToLower(typ), p.After, p.Limit+1)
	rows, next := cut(found, p.Limit, func(r Resource) string { return r.ID.Key() })
	return rows, next, err
}

// UnderPage is Under, a page of them.
func (tx *Tx) UnderPage(scope arm.ID, typ string, p Page) ([]Resource, string, error) {
	found, err := tx.resources(`WHERE key >= $1 AND key < $2 AND type = $3 AND key > $4 ORDER BY key LIMIT $5`,
		scope.Key()+"/", scope.Key()+"0", strings.ToLower(typ), p.After, p.Limit+1)
	rows, next := cut(found, p.Limit, func(r Resource) string { return r.ID.Key() })
	return rows, next, err
}

// JobFilter chooses jobs; what is zero chooses all.
type JobFilter struct {
	// Instance and Source are keys of a backup instance and of a cluster.
	Instance, Source string
	// Operations are any of OnDemandBackup, ScheduledBackup and Restore, Status is as in the job; all in any letter case.
	Operations []string
	Status     string
	// StartedFrom and StartedTo, EndedFrom and EndedTo are bounds that are included. A job that runs has not ended, at any time.
	StartedFrom, StartedTo, EndedFrom, EndedTo time.Time
}

// JobsPage are a vault's jobs, newest first, a page of them.
func (tx *Tx) JobsPage(vault arm.ID, f JobFilter, p Page) ([]Job, string, error) {
	q := query{where: "vault = $1", args: []any{vault.Key()}}
	q.and("instance = %s", f.Instance)
	q.and("source = %s", f.Source)
	q.oneOf("lower(operation)", f.Operations)
	q.and("lower(status) = %s", strings.ToLower(f.Status))
	q.bounds("started", f.StartedFrom, f.StartedTo)
	q.bounds("ended", f.EndedFrom, f.EndedTo)
	if err := q.newestFirst("started", p.After); err != nil {
		return nil, "", fmt.Errorf("jobs of %s: %w", vault, err)
	}
	found, err := tx.jobs(q.page(p.Limit), q.args...)
	if err != nil {
		return nil, "", fmt.Errorf("jobs of %s: %w", vault, err)
	}
	rows, next := cut(found, p.Limit, func(j Job) string { return newestPosition(j.Started, j.Name) })
	return rows, next, nil
}

// RecoveryPointsPage are those of an instance, named by its GUID, from and to a time, newest first, a page of them; a zero time is no bound.
func (tx *Tx) RecoveryPointsPage(guid string, from, to time.Time, p Page) ([]RecoveryPoint, string, error) {
	q := query{where: "guid = $1", args: []any{guid}}
	q.bounds("point", from, to)
	if err := q.newestFirst("point", p.After); err != nil {
		return nil, "", fmt.Errorf("recovery points of instance %s: %w", guid, err)
	}
	found, err := tx.recoveryPoints(q.page(p.Limit), q.args...)
	if err != nil {
		return nil, "", fmt.Errorf("recovery points of instance %s: %w", guid, err)
	}
	rows, next := cut(found, p.Limit, func(r RecoveryPoint) string { return newestPosition(r.Time, r.Name) })
	return rows, next, nil
}

// query is a WHERE clause that grows. Only this file's own words come into its text; values are arguments.
type query struct {
	where, order string
	args         []any
}

func (q *query) arg(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

// and adds a condition on a text unless that is empty.
func (q *query) and(condition, value string) {
	if value != "" {
		q.where += " AND " + fmt.Sprintf(condition, q.arg(value))
	}
}

// oneOf adds a condition on a text that is in lower case, unless there are no values.
func (q *query) oneOf(column string, values []string) {
	var places []string
	for _, v := range values {
		places = append(places, q.arg(strings.ToLower(v)))
	}
	if len(places) > 0 {
		q.where += " AND " + column + " IN (" + strings.Join(places, ", ") + ")"
	}
}

// bounds adds conditions on a time, which must be one when there is a bound.
func (q *query) bounds(column string, from, to time.Time) {
	if !from.IsZero() {
		q.where += fmt.Sprintf(" AND %s >= %s", column, q.arg(micros(from)))
	}
	if !to.IsZero() {
		q.where += fmt.Sprintf(" AND %[1]s > 0 AND %[1]s <= %[2]s", column, q.arg(micros(to)))
	}
}

// newestFirst orders by a time, newest first, and by name, and begins after a position.
func (q *query) newestFirst(column, after string) error {
	q.order = column + " DESC, name"
	if after == "" {
		return nil
	}
	at, name, _ := strings.Cut(after, " ")
	n, err := strconv.ParseInt(at, 10, 64)
	if err != nil || name == "" {
		return ErrPosition
	}
	when := q.arg(n)
	q.where += fmt.Sprintf(" AND (%[1]s < %[2]s OR %[1]s = %[2]s AND name > %[3]s)", column, when, q.arg(name))
	return nil
}

func newestPosition(at time.Time, name string) string {
	return strconv.FormatInt(micros(at), 10) + " " + name
}

// page is the whole clause; one row more than asked for shows whether there are more.
func (q *query) page(limit int) string {
	return "WHERE " + q.where + " ORDER BY " + q.order + " LIMIT " + q.arg(limit+1)
}
