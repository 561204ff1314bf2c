package store

import (
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// AuditEvent is a call that changes something, or was refused.
type AuditEvent struct {
	// Name is the event's own GUID.
	Name string
	// Began and Ended are when the call came and when it was answered; Ended is zero until then, and for ever when the service was killed meanwhile.
	Began, Ended time.Time
	// Correlation and Request are the GUIDs that the caller was told.
	Correlation, Request string
	// Caller is the object ID of who called, CallerName and CallerKind what is known of it, Client its application's ID, Address where the call came from.
	Caller, CallerName, CallerKind, Client, Address string
	Method                                          string
	// Operation is the permission that the call needs.
	Operation string
	Resource  arm.ID
	// Status is the HTTP status of the answer, Code its error's code; zero and empty before the end.
	Status int
	Code   string
}

// PutAuditEvent adds an event, or ends one that is there.
func (tx *Tx) PutAuditEvent(e AuditEvent) error {
	_, err := tx.exec(`INSERT INTO audit (name, began, ended, correlation, request, caller, caller_name, caller_kind, client, address, method, operation,
			resource, resource_key, resource_group, status, code)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
		ON CONFLICT (name) DO UPDATE SET ended = excluded.ended, status = excluded.status, code = excluded.code`,
		e.Name, micros(e.Began), micros(e.Ended), e.Correlation, e.Request, e.Caller, e.CallerName, e.CallerKind, e.Client, e.Address, e.Method, e.Operation,
		string(e.Resource), e.Resource.Key(), strings.ToLower(e.Resource.ResourceGroup()), e.Status, e.Code)
	if err != nil {
		return fmt.Errorf("audit event %s: %w", e.Name, err)
	}
	return nil
}

// AuditFilter chooses events; what is zero chooses all.
type AuditFilter struct {
	// From and To bound when the call came, both included.
	From, To time.Time
	// Within are the scopes of which an event's resource must be in one; none chooses nothing.
	Within []arm.ID
	// ResourceGroup is a name, Resource an ID: events of what is in it are chosen too. Provider is a namespace.
	ResourceGroup string
	Resource      arm.ID
	Provider      string
	Correlation   string
	// Caller is an object ID or a name.
	Caller string
	// Statuses are ranges of HTTP statuses; 0 is a call that has not ended.
	Statuses []StatusRange
}

// StatusRange is the statuses from the first to the last.
type StatusRange struct{ First, Last int }

// AuditEvents are those that the filter chooses, newest first, a page of them.
func (tx *Tx) AuditEvents(f AuditFilter, p Page) ([]AuditEvent, string, error) {
	q := query{where: "1 = 1"}
	q.bounds("began", f.From, f.To)
	q.within(f.Within)
	q.and("resource_group = %s", strings.ToLower(f.ResourceGroup))
	if f.Resource != "" {
		q.within([]arm.ID{f.Resource})
	}
	if f.Provider != "" {
		// The names in a path cannot have a slash, so that this is the provider's and nobody's name.
		q.and("resource_key || '/' LIKE %s ESCAPE '\\'", "%/providers/"+escapeLike(strings.ToLower(f.Provider))+"/%")
	}
	q.and("correlation = %s", strings.ToLower(f.Correlation))
	if f.Caller != "" {
		q.where += fmt.Sprintf(" AND (caller = %s OR lower(caller_name) = %[1]s)", q.arg(strings.ToLower(f.Caller)))
	}
	if f.Statuses != nil {
		var any []string
		for _, r := range f.Statuses {
			any = append(any, fmt.Sprintf("status >= %s AND status <= %s", q.arg(r.First), q.arg(r.Last)))
		}
		q.where += " AND (" + strings.Join(any, " OR ") + ")"
	}
	if err := q.newestFirst("began", p.After); err != nil {
		return nil, "", fmt.Errorf("audit events: %w", err)
	}
	var found []AuditEvent
	if err := tx.query(func(rows *sql.Rows) error {
		var e AuditEvent
		var began, ended int64
		if err := rows.Scan(&e.Name, &began, &ended, &e.Correlation, &e.Request, &e.Caller, &e.CallerName, &e.CallerKind, &e.Client, &e.Address,
			&e.Method, &e.Operation, &e.Resource, &e.Status, &e.Code); err != nil {
			return err
		}
		e.Began, e.Ended = timeOf(began), timeOf(ended)
		found = append(found, e)
		return nil
	}, `SELECT name, began, ended, correlation, request, caller, caller_name, caller_kind, client, address, method, operation, resource, status, code FROM audit `+
		q.page(p.Limit), q.args...); err != nil {
		return nil, "", fmt.Errorf("audit events: %w", err)
	}
	events, next := cut(found, p.Limit, func(e AuditEvent) string { return newestPosition(e.Began, e.Name) })
	return events, next, nil
}

// within adds the condition that the resource is in one of the scopes.
func (q *query) within(scopes []arm.ID) {
	any := []string{"1 = 0"}
	for _, s := range scopes {
		if s == "" {
			return
		}
		any = append(any, fmt.Sprintf("resource_key = %s OR resource_key >= %s AND resource_key < %s", q.arg(s.Key()), q.arg(s.Key()+"/"), q.arg(s.Key()+"0")))
	}
	q.where += " AND (" + strings.Join(any, " OR ") + ")"
}

func escapeLike(text string) string {
	return strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(text)
}

// AuditedBefore says whether there are events of calls that came before a time.
func (tx *Tx) AuditedBefore(at time.Time) (bool, error) {
	var n int
	err := tx.row(`SELECT count(*) FROM (SELECT 1 FROM audit WHERE began < $1 LIMIT 1) AS old`, []any{micros(at)}, &n)
	return n > 0, err
}

// ForgetAudit removes the events of calls that came before a time.
func (tx *Tx) ForgetAudit(before time.Time) error {
	if _, err := tx.exec(`DELETE FROM audit WHERE began < $1`, micros(before)); err != nil {
		return fmt.Errorf("old audit events: %w", err)
	}
	return nil
}
