package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/store"
)

// auditKept is how long the audit log keeps an event: as long as Azure's activity log.
const auditKept = 90 * 24 * time.Hour

// ReadAudit is the action that the activity log asks for.
const ReadAudit = "Microsoft.Insights/eventtypes/values/read"

// issueToken is the operation of asking for a token; Azure has no name for it.
const issueToken = "Cairn.Directory/tokens/action"

// audit is what is to be written into the audit log. Of many calls at the same time, one transaction writes all that have come meanwhile.
type audit struct {
	mu sync.Mutex
	// next is what nobody writes yet, last the newest batch of all, busy whether somebody writes.
	next, last *auditBatch
	busy       bool
}

type auditBatch struct {
	events []store.AuditEvent
	done   chan struct{}
	err    error
}

// Audit writes an event into the audit log and waits until it is there.
func (s *Service) Audit(e store.AuditEvent) error {
	b := s.enqueue(e)
	<-b.done
	return b.err
}

// AuditEnd writes the end of an event that is in the log. Nobody waits for it: if the service is killed meanwhile, the call is seen not to have ended.
func (s *Service) AuditEnd(e store.AuditEvent) { s.enqueue(e) }

func (s *Service) enqueue(e store.AuditEvent) *auditBatch {
	a := &s.audit
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		a.next = &auditBatch{done: make(chan struct{})}
		a.last = a.next
	}
	a.next.events = append(a.next.events, tidy(e))
	if !a.busy {
		a.busy = true
		go s.writeAudit()
	}
	return a.next
}

// longest is how many bytes of a text that a caller chose are kept.
const longest = 2000

// tidy makes what callers chose storable.
func tidy(e store.AuditEvent) store.AuditEvent {
	resource := string(e.Resource)
	for _, text := range []*string{&resource, &e.CallerName, &e.Caller, &e.Client, &e.Method} {
		*text = strings.ReplaceAll(strings.ToValidUTF8((*text)[:min(len(*text), longest)], "�"), "\x00", "�")
	}
	e.Resource = arm.ID(resource)
	return e
}

// writeAudit writes batch after batch until there is none.
func (s *Service) writeAudit() {
	a := &s.audit
	for {
		a.mu.Lock()
		b := a.next
		a.next, a.busy = nil, b != nil
		a.mu.Unlock()
		if b == nil {
			return
		}
		b.err = s.DB.Update(context.Background(), func(tx *store.Tx) error {
			tx.Silently()
			for _, e := range b.events {
				if err := tx.PutAuditEvent(e); err != nil {
					return err
				}
			}
			return nil
		})
		if b.err != nil {
			s.Log.Error("the audit log could not be written", "events", len(b.events), "error", b.err)
		}
		close(b.done)
	}
}

// FlushAudit waits until all is written, or could not be, that was given to Audit and AuditEnd before.
func (s *Service) FlushAudit() {
	s.audit.mu.Lock()
	last := s.audit.last
	s.audit.mu.Unlock()
	if last != nil {
		<-last.done
	}
}

// PruneAudit forgets events that are older than 90 days.
func (s *Service) PruneAudit(ctx context.Context) error {
	before, any := s.Now().Add(-auditKept), false
	if err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		any, err = tx.AuditedBefore(before)
		return err
	}); err != nil || !any {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error { return tx.ForgetAudit(before) })
}

// AuditRefusedLogin notes that somebody showed a wrong secret for an application that exists.
func (s *Service) AuditRefusedLogin(ctx context.Context, clientID, correlation, address string) {
	var p store.Principal
	if err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		p, err = tx.PrincipalByClient(clientID)
		return err
	}); err != nil {
		s.Log.ErrorContext(ctx, "a refused login could not be noted", "client", clientID, "error", err)
		return
	}
	now := s.Now()
	// What it returns is in the log already, and the caller is refused anyway.
	_ = s.Audit(store.AuditEvent{Name: newID(), Began: now, Ended: now, Correlation: correlation, Request: correlation, Caller: p.ID, CallerName: p.Name, CallerKind: p.Kind,
		Client: p.Client, Address: address, Method: http.MethodPost, Operation: issueToken, Resource: arm.Subscription(s.SubscriptionID), Status: http.StatusUnauthorized, Code: "AADSTS7000215"})
}

// ActivityEvent is an event of the audit log in the shape of Azure's activity log.
type ActivityEvent struct {
	Authorization    ActivityAuthorization `json:"authorization"`
	Caller           string                `json:"caller"`
	Channels         string                `json:"channels"`
	Claims           map[string]string     `json:"claims"`
	CorrelationID    string                `json:"correlationId"`
	Description      string                `json:"description"`
	EventDataID      string                `json:"eventDataId"`
	EventName        ActivityText          `json:"eventName"`
	Category         ActivityText          `json:"category"`
	HTTPRequest      ActivityRequest       `json:"httpRequest"`
	ID               string                `json:"id"`
	Level            string                `json:"level"`
	ResourceGroup    string                `json:"resourceGroupName"`
	ResourceProvider ActivityText          `json:"resourceProviderName"`
	ResourceID       arm.ID                `json:"resourceId"`
	ResourceType     ActivityText          `json:"resourceType"`
	OperationID      string                `json:"operationId"`
	OperationName    ActivityText          `json:"operationName"`
	Properties       map[string]string     `json:"properties"`
	Status           ActivityText          `json:"status"`
	SubStatus        ActivityText          `json:"subStatus"`
	EventTimestamp   time.Time             `json:"eventTimestamp"`
	Submitted        time.Time             `json:"submissionTimestamp"`
	SubscriptionID   string                `json:"subscriptionId"`
	TenantID         string                `json:"tenantId"`
}

// ActivityAuthorization is what the call needed.
type ActivityAuthorization struct {
	Action string `json:"action"`
	Role   string `json:"role"`
	Scope  arm.ID `json:"scope"`
}

// ActivityRequest is how the call came.
type ActivityRequest struct {
	ClientRequestID string `json:"clientRequestId"`
	ClientIPAddress string `json:"clientIpAddress"`
	Method          string `json:"method"`
}

// ActivityText is a word and how people read it.
type ActivityText struct {
	Value     string `json:"value"`
	Localized string `json:"localizedValue"`
}

func activityText(value string) ActivityText { return ActivityText{value, value} }

// The statuses of events.
const (
	activityStarted   = "Started"
	activityAccepted  = "Accepted"
	activitySucceeded = "Succeeded"
	activityFailed    = "Failed"
)

// activityStatuses are the HTTP statuses that each status stands for.
var activityStatuses = map[string][]store.StatusRange{
	activityStarted:   {{First: 0, Last: 0}},
	activityAccepted:  {{First: 202, Last: 202}},
	activitySucceeded: {{First: 200, Last: 201}, {First: 203, Last: 399}},
	activityFailed:    {{First: 400, Last: 599}},
}

func activityStatus(status int) string {
	for name, ranges := range activityStatuses {
		if slices.ContainsFunc(ranges, func(r store.StatusRange) bool { return r.First <= status && status <= r.Last }) {
			return name
		}
	}
	return activityFailed
}

// ActivityLog are the events that the filter chooses, newest first, a page of them: those of what the caller's roles let it read the log of. It is
// the 403 when that is nothing.
func (s *Service) ActivityLog(ctx context.Context, caller string, f store.AuditFilter, status string, p store.Page) (out []ActivityEvent, next string, err error) {
	if status != "" {
		ranges, known := activityStatuses[status]
		if !known {
			return nil, "", arm.BadFilter("there is no status '%s', but Started, Accepted, Succeeded and Failed", status)
		}
		f.Statuses = ranges
	}
	s.FlushAudit()
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		if f.Within, err = readable(tx, caller); err != nil {
			return err
		}
		if len(f.Within) == 0 {
			return arm.Forbidden(caller, ReadAudit, arm.Subscription(s.SubscriptionID))
		}
		events, after, err := tx.AuditEvents(f, p)
		next = after
		for _, e := range events {
			out = append(out, s.activity(e))
		}
		if errors.Is(err, store.ErrPosition) {
			return arm.Invalid("$skipToken", "The $skipToken is none that this list gave.").WithAction("Follow nextLink as it is.")
		}
		return err
	})
	return out, next, err
}

// readable are the scopes at which a principal may read the activity log.
func readable(tx *store.Tx, principal string) ([]arm.ID, error) {
	grants, err := grantsOf(tx, principal)
	var scopes []arm.ID
	for _, g := range grants {
		if auth.Allowed([]auth.Grant{g}, ReadAudit, g.Scope, false) {
			scopes = append(scopes, g.Scope)
		}
	}
	return scopes, err
}

func (s *Service) activity(e store.AuditEvent) ActivityEvent {
	status, sub := activityStatus(e.Status), strings.ReplaceAll(http.StatusText(e.Status), " ", "")
	out := ActivityEvent{
		Authorization: ActivityAuthorization{Action: e.Operation, Scope: e.Resource},
		Caller:        e.Caller, Channels: "Operation",
		Claims:        map[string]string{"http://schemas.microsoft.com/identity/claims/objectidentifier": e.Caller, "name": e.CallerName, "idtyp": "app", "appid": e.Client},
		CorrelationID: e.Correlation, OperationID: e.Correlation, EventDataID: e.Name,
		EventName: ActivityText{"EndRequest", "End request"}, Category: activityText("Administrative"),
		HTTPRequest: ActivityRequest{ClientRequestID: e.Correlation, ClientIPAddress: e.Address, Method: e.Method},
		ID:          fmt.Sprintf("%s/events/%s/ticks/%d", e.Resource, e.Name, ticks(e.Began)),
		Level:       "Informational", ResourceGroup: e.Resource.ResourceGroup(), ResourceID: e.Resource,
		ResourceProvider: activityText(namespace(e.Operation)), ResourceType: activityText(e.Operation[:max(strings.LastIndexByte(e.Operation, '/'), 0)]),
		OperationName: activityText(e.Operation),
		Properties:    map[string]string{"serviceRequestId": e.Request},
		Status:        activityText(status), EventTimestamp: e.Began, Submitted: e.Began, SubscriptionID: s.SubscriptionID, TenantID: s.TenantID,
	}
	if e.CallerKind == KindUser {
		out.Caller = e.CallerName
		delete(out.Claims, "idtyp")
		delete(out.Claims, "appid")
	}
	switch {
	case status == activityStarted:
		out.EventName = ActivityText{"BeginRequest", "Begin request"}
	default:
		out.Submitted = e.Ended
		out.SubStatus = ActivityText{sub, sub + " (HTTP Status Code: " + strconv.Itoa(e.Status) + ")"}
		out.Properties["statusCode"] = sub
	}
	if status == activityFailed {
		out.Level = "Error"
		out.Properties["errorCode"] = e.Code
	}
	return out
}

func namespace(operation string) string {
	name, _, _ := strings.Cut(operation, "/")
	return name
}
