package arm

import (
	"net/http"
	"net/url"
	"time"
)

// List is the envelope of every list, or of a page of one.
type List[T any] struct {
	Value []T `json:"value"`
	// NextLink is the address of the next page, null on the last.
	NextLink *string `json:"nextLink"`
}

// NewList never has a null value.
func NewList[T any](items []T) List[T] {
	if items == nil {
		items = []T{}
	}
	return List[T]{Value: items}
}

// SystemData says who made and who changed a resource last.
type SystemData struct {
	CreatedAt          time.Time `json:"createdAt"`
	CreatedBy          string    `json:"createdBy"`
	CreatedByType      string    `json:"createdByType"`
	LastModifiedAt     time.Time `json:"lastModifiedAt"`
	LastModifiedBy     string    `json:"lastModifiedBy"`
	LastModifiedByType string    `json:"lastModifiedByType"`
}

// Touched is the system data after a change: nil is that of a new resource. The type is Application, ManagedIdentity or
// User.
func (s *SystemData) Touched(by, byType string, now time.Time) *SystemData {
	now = now.UTC()
	next := SystemData{CreatedAt: now, CreatedBy: by, CreatedByType: byType}
	if s != nil {
		next = *s
	}
	next.LastModifiedAt, next.LastModifiedBy, next.LastModifiedByType = now, by, byType
	return &next
}

// Identity is a resource's managed identity.
type Identity struct {
	Type        string `json:"type"`
	PrincipalID string `json:"principalId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`
	// UserAssigned has the assigned identities by their IDs.
	UserAssigned map[string]UserAssignedIdentity `json:"userAssignedIdentities,omitempty"`
}

// UserAssignedIdentity is what a resource knows of an identity that exists beside it.
type UserAssignedIdentity struct {
	PrincipalID string `json:"principalId,omitempty"`
	ClientID    string `json:"clientId,omitempty"`
}

// RetryAfter is how many seconds a client is asked to wait between two polls. Without it, az waits 30.
const RetryAfter = "1"

// Async is where a client follows a long-running operation: absolute URLs are made of the address that the client
// itself used, since it sends its token there again.
type Async struct {
	// BaseURL is the service's, as the client knows it: https://host:port.
	BaseURL    string
	APIVersion string
	// Operation is the path of Azure-AsyncOperation, or empty.
	Operation string
	// Location is the path of Location, or empty.
	Location string
}

// Set adds the headers: Azure-AsyncOperation, Location and Retry-After.
func (a Async) Set(h http.Header) {
	if a.Operation != "" {
		h.Set("Azure-AsyncOperation", a.URL(a.Operation, nil))
	}
	if a.Location != "" {
		h.Set("Location", a.URL(a.Location, nil))
	}
	h.Set("Retry-After", RetryAfter)
}

// URL is an absolute URL of the service with its api-version and more query parameters.
func (a Async) URL(path string, query url.Values) string {
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	q.Set("api-version", a.APIVersion)
	u := url.URL{Path: path, RawQuery: q.Encode()}
	return a.BaseURL + u.String()
}

// Operation is an operation's status: what Azure-AsyncOperation answers.
type Operation struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	// Error is an Error's Wire.
	Error      any       `json:"error,omitempty"`
	StartTime  time.Time `json:"startTime"`
	EndTime    time.Time `json:"endTime"`
	Properties any       `json:"properties,omitempty"`
}

// The states of an Operation.
const (
	OperationInProgress = "Inprogress"
	OperationSucceeded  = "Succeeded"
	OperationFailed     = "Failed"
)
