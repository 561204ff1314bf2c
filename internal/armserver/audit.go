package armserver

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

// auditEvent is a request as the audit log has it: who, what and where, never what was sent along.
func (s *Server) auditEvent(r *Request) store.AuditEvent {
	e := store.AuditEvent{Name: uuid.NewString(), Began: r.began, Correlation: r.CorrelationID, Request: r.requestID,
		Caller: r.Caller.ObjectID, CallerName: r.Caller.Name, CallerKind: r.Caller.Kind, Client: r.Caller.ClientID,
		Address: RemoteAddress(r.HTTP), Method: r.HTTP.Method, Resource: r.ID}
	if r.route != nil {
		e.Operation = r.route.operation()
	}
	return e
}

// RemoteAddress is where a request came from, without the port.
func RemoteAddress(h *http.Request) string {
	host, _, err := net.SplitHostPort(h.RemoteAddr)
	if err != nil {
		return h.RemoteAddr
	}
	return host
}

// auditStart writes a call into the audit log before it changes anything, so that a call that the service does not survive is there too. What cannot be
// written there is not done.
func (s *Server) auditStart(r *Request) error {
	e := s.auditEvent(r)
	if err := s.service.Audit(e); err != nil {
		return err
	}
	r.event = &e
	return nil
}

// audited ends what auditStart has begun. A call that came not so far is written now, if it was refused, or would have changed something; it must be
// known who called.
func (s *Server) audited(r *Request, status int, fault string) {
	if r.event != nil {
		r.event.Ended, r.event.Status, r.event.Code = s.service.Now(), status, fault
		s.service.AuditEnd(*r.event)
		return
	}
	if r.Caller.ObjectID == "" {
		return
	}
	if r.route == nil && status == http.StatusUnauthorized {
		// It was refused before it was looked what it wants. What there is not, nobody was kept from.
		_ = s.route(r)
	}
	denied := status == http.StatusUnauthorized || status == http.StatusForbidden
	if r.route == nil || !denied && !r.route.changes() {
		return
	}
	e := s.auditEvent(r)
	e.Ended, e.Status, e.Code = s.service.Now(), status, fault
	// That it could not be written is in the log; the caller is refused all the same.
	_ = s.service.Audit(e)
}

// insights answers for Microsoft.Insights: the activity log.
type insights struct{ s *service.Service }

func insightsRoutes(s *service.Service) []Route {
	h := insights{s}
	return []Route{
		// Who may read the log of a resource group only sees that.
		{Method: "GET", Path: subscription + "/providers/Microsoft.Insights/eventtypes/management/values", Permission: NoPermission, Handle: h.events},
	}
}

func (h insights) events(ctx context.Context, r *Request) (*Response, error) {
	filter, err := parseFilter(r.Query.Get("$filter"))
	if err != nil {
		return nil, err
	}
	f, status, err := auditFilter(filter)
	if err != nil {
		return nil, err
	}
	return page(r, func(p store.Page) ([]service.ActivityEvent, string, error) {
		return h.s.ActivityLog(ctx, r.Caller.ObjectID, f, status, p)
	})
}

// auditFilter is what an activity log's $filter says.
func auditFilter(filter arm.Filter) (f store.AuditFilter, status string, err error) {
	for _, c := range filter {
		bound := map[string]*time.Time{arm.FilterGreaterOrEqual: &f.From, arm.FilterLessOrEqual: &f.To}[c.Operator]
		text := map[string]*string{"resourcegroupname": &f.ResourceGroup, "resourceprovider": &f.Provider, "correlationid": &f.Correlation, "caller": &f.Caller,
			"status": &status}[c.Name]
		switch {
		case c.Name == "eventtimestamp" && bound != nil:
			if *bound, err = eventTime(c.Value); err != nil {
				return f, "", err
			}
		case c.Operator != arm.FilterEqual:
			return f, "", arm.BadFilter("'%s' cannot be compared by %s here", c.Name, c.Operator)
		case c.Name == "resourceuri" || c.Name == "resourceid":
			if f.Resource, err = arm.ParseID(c.Value); err != nil {
				return f, "", err
			}
		case c.Name == "eventchannels":
			// There is one channel.
		case text != nil:
			*text = c.Value
		default:
			return f, "", arm.BadFilter("'%s' cannot be compared here; eventTimestamp, resourceGroupName, resourceUri, resourceProvider, correlationId, caller and status can", c.Name)
		}
	}
	return f, status, nil
}

// eventTime reads a time as clients write it; without a zone it is UTC.
func eventTime(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, arm.BadFilter("'%s' is not a time; write it as 2026-01-31T12:00:00Z", text)
}
