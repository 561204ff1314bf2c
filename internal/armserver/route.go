package armserver

import (
	"context"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/service"
)

// The scopes that most paths begin with.
const (
	subscription  = "/subscriptions/{subscription}"
	resourceGroup = subscription + "/resourceGroups/{resourceGroup}"
	// anyScope stands for any number of segments: extension resources such as role assignments live everywhere.
	anyScope = "{scope}"
)

// NoPermission, as a Route's Permission, lets every authenticated caller in, connectors excepted: the handler decides.
const NoPermission = "-"

// Handler answers a request. An error that is an *arm.Error is told as it is.
type Handler func(ctx context.Context, r *Request) (*Response, error)

// Route is a row of the table.
type Route struct {
	// Method is GET (which serves HEAD too), PUT, PATCH, POST, DELETE.
	Method string
	// Path is a template such as /subscriptions/{subscription}/resourceGroups/{resourceGroup}. Its words are matched in any
	// letter case; a {parameter} matches one segment. A leading {scope} matches any scope, the root too. The first row that
	// matches serves.
	Path string
	// Handle answers.
	Handle Handler
	// Permission is the action that the caller needs at the request's ID. Empty means the one that Azure derives: the
	// resource type and read, write, delete, or the POST's own name and action.
	Permission string
	// Unversioned routes need no api-version: they are not the resource manager's.
	Unversioned bool
	// Connector routes are for clusters' connectors, and for nobody else.
	Connector bool
	// Directory routes are Graph's that change something: what they need is needed at the subscription, whoever may give roles there rules the directory.
	Directory bool
	// AnyGroup routes are served in a resource group that does not exist, too.
	AnyGroup bool
	// Ours is a row that Azure does not have.
	Ours bool
	// Refuses is the code of the error that every request ends with, however right it is: of what Azure has and Cairn has not.
	Refuses string
	// MaxBody bounds the body in bytes; 0 means 4 MiB.
	MaxBody int64

	segments []string
	open     bool
}

// ours marks a row that Azure does not have.
func ours(r Route) Route {
	r.Ours = true
	return r
}

// compile splits the template and derives what is left to derive.
func (r Route) compile() Route {
	path, open := strings.CutPrefix(r.Path, anyScope)
	r.open = open
	r.segments = strings.Split(strings.TrimPrefix(path, "/"), "/")
	if r.Permission == "" {
		r.Permission = permission(r.Method, r.segments)
	}
	return r
}

// permission is Azure's name of what a row does.
func permission(method string, segments []string) string {
	var words []string
	for _, s := range segments {
		switch {
		case strings.EqualFold(s, "providers"):
			words = nil
		case !isParameter(s):
			words = append(words, s)
		}
	}
	if len(words) > 0 && words[0] == "subscriptions" {
		words = append([]string{"Microsoft.Resources"}, words...)
	}
	verb := map[string]string{"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete", "POST": "action"}[method]
	return strings.Join(append(words, verb), "/")
}

// readAction is Azure's name of reading a resource.
func readAction(id arm.ID) string {
	typ := id.Type()
	if strings.EqualFold(typ, service.TypeResourceGroup) {
		typ = "Microsoft.Resources/subscriptions/resourceGroups"
	}
	return typ + "/read"
}

// readable are the items that the caller may read: a list over a subscription refuses nobody, and shows to each what is theirs to see.
func readable[T any](ctx context.Context, r *Request, items []T, id func(T) arm.ID) ([]T, error) {
	out := []T{}
	for _, item := range items {
		ok, err := r.server.service.Allowed(ctx, r.Caller.ObjectID, readAction(id(item)), id(item))
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, item)
		}
	}
	return out, nil
}

func isParameter(segment string) bool { return strings.HasPrefix(segment, "{") }

// match reads the parameters and the ID out of a path's segments.
func (r *Route) match(path []string) (params map[string]string, id arm.ID, ok bool) {
	scope := len(path) - len(r.segments)
	if scope < 0 || scope > 0 && !r.open {
		return nil, "", false
	}
	params = map[string]string{}
	head, tail := path[:scope], path[scope:]
	for i, s := range r.segments {
		if isParameter(s) {
			params[strings.Trim(s, "{}")] = tail[i]
		} else if !strings.EqualFold(s, tail[i]) {
			return nil, "", false
		}
	}
	return params, r.id(head, tail), true
}

// id is the address of the resource that the path names: without a collection's or an action's name at the end, with the
// words as Azure spells them and the names as they were written.
func (r *Route) id(head, tail []string) arm.ID {
	n := len(r.segments)
	if n > 0 && !isParameter(r.segments[n-1]) {
		n--
		if n >= 2 && strings.EqualFold(r.segments[n-2], "providers") {
			n -= 2 // ".../providers/Namespace/type" is a collection of what is before it
		}
	}
	var b strings.Builder
	for i, s := range head {
		switch {
		case i == 0 && strings.EqualFold(s, "subscriptions"):
			s = "subscriptions"
		case i == 2 && strings.EqualFold(s, "resourceGroups"):
			s = "resourceGroups"
		case i%2 == 0 && strings.EqualFold(s, "providers"):
			s = "providers"
		}
		b.WriteString("/" + s)
	}
	for i, s := range r.segments[:n] {
		if isParameter(s) {
			s = tail[i]
		}
		b.WriteString("/" + s)
	}
	return arm.ID(b.String())
}

// operation is what the row is called in the audit log: its permission, or what that would be.
func (r *Route) operation() string {
	if r.Permission != NoPermission {
		return r.Permission
	}
	return permission(r.Method, r.segments)
}

// changes says whether the row is to be in the audit log when it was let in: it changes something, or gives out a secret. Connectors' reports are not what
// anybody decided to do.
func (r *Route) changes() bool {
	return !r.Connector && r.Method != "GET" && (r.Method != "POST" || r.Permission != NoPermission)
}

// provider is the namespace that the row belongs to.
func (r *Route) provider() string {
	provider := "Microsoft.Resources"
	for i, s := range r.segments[:len(r.segments)-1] {
		if s == "providers" && !isParameter(r.segments[i+1]) {
			provider = r.segments[i+1]
		}
	}
	return provider
}

// split turns an escaped path into segments: empty ones are dropped, since clients double slashes; a name with an escaped
// slash in it is no name.
func split(escaped string) ([]string, bool) {
	var segments []string
	for _, s := range strings.Split(escaped, "/") {
		if s == "" {
			continue
		}
		plain, err := url.PathUnescape(s)
		if err != nil || strings.ContainsAny(plain, "/\x00") || !utf8.ValidString(plain) {
			return nil, false
		}
		segments = append(segments, plain)
	}
	return segments, true
}
