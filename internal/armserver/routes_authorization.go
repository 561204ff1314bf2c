package armserver

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/service"
)

// authorization answers for Microsoft.Authorization, and for the little of Graph that role commands need.
type authorization struct{ s *service.Service }

func authorizationRoutes(s *service.Service) []Route {
	h := authorization{s}
	const provider = anyScope + "/providers/Microsoft.Authorization"
	rows := []Route{
		// What the built-in roles are is no secret.
		{Method: "GET", Path: provider + "/roleDefinitions", Permission: NoPermission, Handle: h.definitions},
		{Method: "GET", Path: provider + "/roleDefinitions/{role}", Permission: NoPermission, Handle: h.definition},
		{Method: "GET", Path: provider + "/roleAssignments", Handle: h.assignments},
		{Method: "PUT", Path: provider + "/roleAssignments/{assignment}", Handle: h.putAssignment},
		{Method: "GET", Path: provider + "/roleAssignments/{assignment}", Handle: h.assignment},
		{Method: "DELETE", Path: provider + "/roleAssignments/{assignment}", Handle: h.deleteAssignment},

		{Method: "GET", Path: "/v1.0/me", Permission: NoPermission, Unversioned: true, Handle: h.me},
		{Method: "GET", Path: "/v1.0/servicePrincipals", Permission: NoPermission, Unversioned: true, Handle: h.principals},
		{Method: "GET", Path: "/v1.0/servicePrincipals/{id}", Permission: NoPermission, Unversioned: true, Handle: h.principal},
		{Method: "POST", Path: "/v1.0/directoryObjects/getByIds", Permission: NoPermission, Unversioned: true, Handle: h.byIDs},

		{Method: "GET", Path: "/v1.0/applications", Permission: NoPermission, Unversioned: true, Handle: h.applications},
		{Method: "GET", Path: "/v1.0/applications/{id}", Permission: NoPermission, Unversioned: true, Handle: h.application},
		{Method: "POST", Path: "/v1.0/applications", Permission: writeApplications, Unversioned: true, Directory: true, Handle: h.addApplication},
		{Method: "POST", Path: "/v1.0/servicePrincipals", Permission: writeApplications, Unversioned: true, Directory: true, Handle: h.addPrincipal},

		{Method: "POST", Path: "/providers/Microsoft.ResourceGraph/resources", Permission: NoPermission, Handle: graph{s}.resources},
	}
	for _, path := range []string{"/v1.0/applications/{id}", "/v1.0/servicePrincipals/{id}"} {
		rows = append(rows,
			Route{Method: "DELETE", Path: path, Permission: "Microsoft.Authorization/applications/delete", Unversioned: true, Directory: true, Handle: h.deleteApplication},
			Route{Method: "POST", Path: path + "/addPassword", Permission: "Microsoft.Authorization/applications/passwords/write", Unversioned: true, Directory: true, Handle: h.addPassword},
			Route{Method: "POST", Path: path + "/removePassword", Permission: "Microsoft.Authorization/applications/passwords/delete", Unversioned: true, Directory: true, Handle: h.removePassword})
	}
	return rows
}

// writeApplications is what making an application needs. Whoever may give roles at the subscription has it, Contributor has not: a secret of an Owner's
// application is as good as the role.
const writeApplications = "Microsoft.Authorization/applications/write"

func (h authorization) definitions(_ context.Context, r *Request) (*Response, error) {
	f, err := r.equalities()
	if err != nil {
		return nil, err
	}
	name, _ := f.Equal("roleName")
	return Answer(200, arm.NewList(h.s.RoleDefinitions(name))), nil
}

func (h authorization) definition(_ context.Context, r *Request) (*Response, error) {
	out, err := h.s.RoleDefinition(r.Param("role"))
	return Answer(200, out), err
}

func (h authorization) assignments(ctx context.Context, r *Request) (*Response, error) {
	f, err := r.equalities()
	if err != nil {
		return nil, err
	}
	_, atScope := f.Equal("atScope")
	principal, _ := f.Equal("principalId")
	if assigned, given := f.Equal("assignedTo"); given {
		principal = assigned
	}
	out, err := h.s.RoleAssignments(ctx, r.ID, principal, !atScope)
	return Answer(200, arm.NewList(out)), err
}

func (h authorization) putAssignment(ctx context.Context, r *Request) (*Response, error) {
	// Old versions of the API have the properties at the top.
	var in struct {
		Properties *service.RoleAssignmentProperties `json:"properties"`
		service.RoleAssignmentProperties
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	if in.Properties == nil {
		in.Properties = &in.RoleAssignmentProperties
	}
	out, created, err := h.s.PutRoleAssignment(ctx, r.ID, *in.Properties, r.By)
	return Answer(put(created), out), err
}

func (h authorization) assignment(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.RoleAssignment(ctx, r.ID)
	return Answer(200, out), err
}

func (h authorization) deleteAssignment(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.DeleteRoleAssignment(ctx, r.ID)
	if err != nil || out == nil {
		return Answer(204, nil), err
	}
	return Answer(200, out), nil
}

// quotedWord is a string in a Graph filter. Its filters have forms that OData's comparisons do not cover:
// servicePrincipalNames/any(c:c eq 'x').
var quotedWord = regexp.MustCompile(`'((?:[^']|'')*)'`)

// named says whether a Graph filter names one of the texts, or is none.
func named(r *Request, texts ...string) bool {
	filter := r.Query.Get("$filter")
	if filter == "" {
		return true
	}
	for _, m := range quotedWord.FindAllStringSubmatch(filter, -1) {
		if slices.ContainsFunc(texts, func(t string) bool { return strings.EqualFold(t, strings.ReplaceAll(m[1], "''", "'")) }) {
			return true
		}
	}
	return false
}

func (h authorization) principals(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.DirectoryObjects(ctx, func(o service.DirectoryObject) bool { return named(r, o.ID, o.AppID, o.DisplayName) })
	return Answer(200, arm.NewList(out)), err
}

func (h authorization) applications(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.Applications(ctx, func(a service.Application) bool { return named(r, a.ID, a.AppID, a.DisplayName) })
	return Answer(200, arm.NewList(out)), err
}

func (h authorization) application(ctx context.Context, r *Request) (*Response, error) {
	id := r.Param("id")
	out, err := h.s.Applications(ctx, func(a service.Application) bool { return strings.EqualFold(id, a.ID) || strings.EqualFold(id, a.AppID) })
	if err == nil && len(out) == 0 {
		err = noDirectoryObject(id)
	}
	if err != nil {
		return nil, err
	}
	return Answer(200, out[0]), nil
}

func noDirectoryObject(id string) error {
	return &arm.Error{Status: 404, Code: "Request_ResourceNotFound", Message: "Resource '" + id + "' does not exist or one of its queried reference-property objects are not present."}
}

func (h authorization) addApplication(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		Name string `json:"displayName"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, err := h.s.AddApplication(ctx, in.Name)
	return Answer(201, out), err
}

// addPrincipal answers the principal of an application, which has been there since the application is.
func (h authorization) addPrincipal(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		AppID string `json:"appId"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, err := h.s.DirectoryObjects(ctx, func(o service.DirectoryObject) bool { return strings.EqualFold(in.AppID, o.AppID) })
	if err == nil && len(out) == 0 {
		err = arm.BadRequest("Request_BadRequest", "The appId '%s' of the service principal does not reference a valid application object.", in.AppID).WithTarget("appId").
			WithAction("Make the application first: POST /v1.0/applications.")
	}
	if err != nil {
		return nil, err
	}
	return Answer(201, out[0]), nil
}

func (h authorization) deleteApplication(ctx context.Context, r *Request) (*Response, error) {
	return Answer(204, nil), h.s.DeleteApplication(ctx, r.Param("id"))
}

func (h authorization) addPassword(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		Credential struct {
			End *time.Time `json:"endDateTime"`
		} `json:"passwordCredential"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, err := h.s.AddPassword(ctx, r.Param("id"), in.Credential.End)
	return Answer(200, out), err
}

func (h authorization) removePassword(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		KeyID string `json:"keyId"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	return Answer(204, nil), h.s.RemovePassword(ctx, r.Param("id"), in.KeyID)
}

func (h authorization) principal(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.DirectoryObjects(ctx, func(o service.DirectoryObject) bool { return strings.EqualFold(r.Param("id"), o.ID) })
	if err == nil && len(out) == 0 {
		err = noDirectoryObject(r.Param("id"))
	}
	if err != nil {
		return nil, err
	}
	return Answer(200, out[0]), nil
}

func (h authorization) byIDs(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		IDs []string `json:"ids"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, err := h.s.DirectoryObjects(ctx, func(o service.DirectoryObject) bool {
		return slices.ContainsFunc(in.IDs, func(id string) bool { return strings.EqualFold(id, o.ID) })
	})
	return Answer(200, arm.NewList(out)), err
}

// me tells callers who they are: above all the object ID that roles are assigned to.
func (h authorization) me(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.Me(ctx, r.Caller)
	return Answer(200, out), err
}
