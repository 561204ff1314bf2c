package arm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// Error is what a caller is told, and can act upon: it says what happened, to what, and what to do. Its JSON form is
// the one to store; Wire is the one to send.
type Error struct {
	// Status is the HTTP status.
	Status int `json:"status,omitempty"`
	// Code is Azure's where there is one (facts: Azure Backup's public error codes), else one word of ours in that style.
	Code    string `json:"code"`
	Message string `json:"message"`
	// Target is the path of the property, or the ID of the resource, that is wrong; may be empty.
	Target  string   `json:"target,omitempty"`
	Details []*Error `json:"details,omitempty"`
	// RecommendedAction is what to do, in sentences.
	RecommendedAction []string `json:"recommendedAction,omitempty"`
}

// Error is code, message and target.
func (e *Error) Error() string {
	if e.Target != "" {
		return e.Code + ": " + e.Message + " (" + e.Target + ")"
	}
	return e.Code + ": " + e.Message
}

// WithTarget returns a copy that names what is wrong.
func (e *Error) WithTarget(target string) *Error {
	c := *e
	c.Target = target
	return &c
}

// WithAction returns a copy that says what to do.
func (e *Error) WithAction(actions ...string) *Error {
	c := *e
	c.RecommendedAction = actions
	return &c
}

// UserFacing is the form in which Microsoft.DataProtection tells of an error: within an Error's additionalInfo, and as it
// is in a job's errorDetails and warnings.
type UserFacing struct {
	Message           string            `json:"message"`
	RecommendedAction []string          `json:"recommendedAction"`
	Details           []UserFacing      `json:"details"`
	Code              string            `json:"code"`
	Target            string            `json:"target"`
	InnerError        any               `json:"innerError"`
	IsRetryable       bool              `json:"isRetryable"`
	IsUserError       bool              `json:"isUserError"`
	Properties        map[string]string `json:"properties"`
}

// UserFacing is the error in that form. The activity is the request's correlation ID.
func (e *Error) UserFacing(activity string) UserFacing {
	u := UserFacing{
		Message: e.Message, RecommendedAction: e.RecommendedAction, Code: e.Code, Target: e.Target,
		Properties: map[string]string{"ActivityId": activity},
	}
	if len(u.RecommendedAction) == 0 {
		u.RecommendedAction = []string{"None."}
	}
	for _, d := range e.Details {
		u.Details = append(u.Details, d.UserFacing(activity))
	}
	return u
}

// Wire is the value of "error" in an answer or an operation's status. What Microsoft.DataProtection answers has the
// UserFacing form within, except that a missing resource is told plainly; other providers tell everything plainly.
func (e *Error) Wire(provider, activity string) any {
	if strings.EqualFold(provider, "Microsoft.DataProtection") && e.Status != 404 {
		return backupError{
			AdditionalInfo: []additionalInfo{{Type: "UserFacingError", Info: e.UserFacing(activity)}},
			Code:           e.Code, Message: e.Message, Target: pointer(e.Target), Details: plains(e.Details),
		}
	}
	return e.plain()
}

type backupError struct {
	AdditionalInfo []additionalInfo `json:"additionalInfo"`
	Code           string           `json:"code"`
	Message        string           `json:"message"`
	Target         *string          `json:"target"`
	Details        []plainError     `json:"details"`
}

type additionalInfo struct {
	Type string     `json:"type"`
	Info UserFacing `json:"info"`
}

type plainError struct {
	Code    string       `json:"code"`
	Message string       `json:"message"`
	Target  string       `json:"target,omitempty"`
	Details []plainError `json:"details,omitempty"`
}

func (e *Error) plain() plainError {
	message := e.Message
	if len(e.RecommendedAction) > 0 {
		message += " " + strings.Join(e.RecommendedAction, " ")
	}
	return plainError{Code: e.Code, Message: message, Target: e.Target, Details: plains(e.Details)}
}

func plains(errs []*Error) []plainError {
	var out []plainError
	for _, e := range errs {
		out = append(out, e.plain())
	}
	return out
}

func pointer(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// ErrorBody is the envelope of an answer that failed.
type ErrorBody struct {
	Error any `json:"error"`
}

// NotFound is the 404 for a resource that does not exist.
func NotFound(id ID) *Error {
	if id.Type() == "Microsoft.Resources/resourceGroups" {
		return &Error{Status: 404, Code: "ResourceGroupNotFound", Target: string(id),
			Message: fmt.Sprintf("Resource group '%s' could not be found.", id.Name())}
	}
	// Azure names a nested resource by its path within the provider, as in Microsoft.X/vaults/v/instances.
	under := ""
	if g := id.ResourceGroup(); g != "" {
		under = fmt.Sprintf(" under resource group '%s'", g)
	}
	path := string(id)
	if i := strings.LastIndex(strings.ToLower(path), "/providers/"); i >= 0 {
		path = path[i+len("/providers/"):]
	}
	return &Error{Status: 404, Code: "ResourceNotFound", Target: string(id),
		Message: fmt.Sprintf("The Resource '%s'%s was not found.", path, under)}
}

// BadRequest is a 400 with a code.
func BadRequest(code, format string, args ...any) *Error {
	return &Error{Status: 400, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid is the 400 for a property with a wrong value: BMSUserErrorInvalidInput.
func Invalid(target, format string, args ...any) *Error {
	return &Error{Status: 400, Code: "BMSUserErrorInvalidInput", Message: fmt.Sprintf(format, args...), Target: target}
}

// Unauthorized is a 401: no token, or one that is not good.
func Unauthorized(format string, args ...any) *Error {
	return &Error{Status: 401, Code: "AuthenticationFailed", Target: "Authorization", Message: fmt.Sprintf(format, args...)}
}

// Forbidden is the 403 for a caller that has no role with the action at the scope.
func Forbidden(principal, action string, scope ID) *Error {
	where := string(scope)
	if where == "" {
		where = "/"
	}
	return &Error{Status: 403, Code: "AuthorizationFailed", Target: where, Message: fmt.Sprintf(
		"The client '%[1]s' with object id '%[1]s' does not have authorization to perform action '%[2]s' over scope '%[3]s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
		principal, action, where), RecommendedAction: []string{
		"Ask an owner of the scope to assign a role that allows the action to the object id " + principal + "."}}
}

// Conflict is a 409 with a code.
func Conflict(code, format string, args ...any) *Error {
	return &Error{Status: 409, Code: code, Message: fmt.Sprintf(format, args...)}
}

// PreconditionFailed is the 412 for an If-Match that is not the resource's ETag.
func PreconditionFailed(id ID) *Error {
	return &Error{Status: 412, Code: "PreconditionFailed", Target: string(id), Message: fmt.Sprintf(
		"The If-Match or If-None-Match condition of the request does not hold for '%s': it was changed meanwhile, or exists already.", id), RecommendedAction: []string{"Read it again and repeat the change."}}
}

// IsFull says whether an error, of a file, of SQLite or of PostgreSQL, means that the disk has no space left.
func IsFull(err error) bool {
	const sqliteFull, postgresFull = 13, "53100"
	var sqlite interface{ Code() int }
	var postgres interface{ SQLState() string }
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		errors.As(err, &sqlite) && sqlite.Code() == sqliteFull || errors.As(err, &postgres) && postgres.SQLState() == postgresFull
}

// InsufficientStorage is the 507 for a full disk.
func InsufficientStorage() *Error {
	return &Error{Status: 507, Code: "InsufficientStorage", Message: "The disk of the service is full; nothing was changed.",
		RecommendedAction: []string{"Free space in the service's data folder, or on its database's server, then repeat the request."}}
}

// Unavailable is the 503 for a database that cannot be reached.
func Unavailable() *Error {
	return &Error{Status: 503, Code: "ServiceUnavailable", Message: "The service cannot reach its database at the moment.",
		RecommendedAction: []string{"Repeat the request after a while; if it fails again, see the service's log and whether its database's server runs."}}
}

// Problems collects what is wrong with a document, so that its author learns everything at once. The zero value is
// ready to use.
type Problems []*Error

// Add notes a property with a wrong value.
func (p *Problems) Add(target, format string, args ...any) {
	*p = append(*p, Invalid(target, format, args...))
}

// AddError notes an error with a code of its own.
func (p *Problems) AddError(e *Error) { *p = append(*p, e) }

// Append takes over another document's problems, which stand below target.
func (p *Problems) Append(target string, others Problems) {
	for _, o := range others {
		switch {
		case o.Target == "":
			o = o.WithTarget(target)
		case strings.HasPrefix(o.Target, "["):
			o = o.WithTarget(target + o.Target)
		default:
			o = o.WithTarget(target + "." + o.Target)
		}
		*p = append(*p, o)
	}
}

// Err is nil without problems, the problem if it is one, and else one error that has them all as details.
func (p Problems) Err() error {
	switch len(p) {
	case 0:
		return nil
	case 1:
		return p[0]
	}
	texts := make([]string, len(p))
	var actions []string
	for i, e := range p {
		texts[i] = e.Message
		if e.Target != "" {
			texts[i] = e.Target + ": " + e.Message
		}
		for _, action := range e.RecommendedAction {
			if !slices.Contains(actions, action) {
				actions = append(actions, action)
			}
		}
	}
	return &Error{Status: p[0].Status, Code: p[0].Code, Target: p[0].Target, Details: p, RecommendedAction: actions,
		Message: fmt.Sprintf("The request has %d problems. %s", len(p), strings.Join(texts, " "))}
}
