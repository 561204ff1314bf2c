package armserver

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/service"
)

// authorization answers for Microsoft.Authorization, and for the little of Graph that role commands need.
type authorization struct{ s *service.Service }

func authorizationRoutes(s *service.Service) []Route {
	h := authorization{s}
	const provider = anyScope + "/providers/Microsoft.Authorization"
	return []Route{
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

		{Method: "POST", Path: "/providers/Microsoft.ResourceGraph/resources", Permission: NoPermission, Handle: graph{s}.resources},
	}
}

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

func (h authorization) principals(ctx context.Context, r *Request) (*Response, error) {
	var wanted []string
	filtered := r.Query.Get("$filter") != ""
	for _, m := range quotedWord.FindAllStringSubmatch(r.Query.Get("$filter"), -1) {
		wanted = append(wanted, strings.ReplaceAll(m[1], "''", "'"))
	}
	out, err := h.s.DirectoryObjects(ctx, func(o service.DirectoryObject) bool {
		return !filtered || slices.ContainsFunc(wanted, func(w string) bool {
			return strings.EqualFold(w, o.ID) || strings.EqualFold(w, o.AppID) || strings.EqualFold(w, o.DisplayName)
		})
	})
	return Answer(200, arm.NewList(out)), err
}

func (h authorization) principal(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.DirectoryObjects(ctx, func(o service.DirectoryObject) bool { return strings.EqualFold(r.Param("id"), o.ID) })
	if err == nil && len(out) == 0 {
		err = &arm.Error{Status: 404, Code: "Request_ResourceNotFound", Message: "Resource '" + r.Param("id") + "' does not exist or one of its queried reference-property objects are not present."}
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
