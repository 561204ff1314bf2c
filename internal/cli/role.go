package cli

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	authorizationVersion = "2022-04-01"
	assignmentsPath      = "/providers/Microsoft.Authorization/roleAssignments"
	definitionsPath      = "/providers/Microsoft.Authorization/roleDefinitions"
	assignmentColumns    = "[].{Principal:principalId, Role:roleDefinitionName, Scope:scope}"
	definitionColumns    = "[].{Name:roleName, Type:roleType, Description:description}"
)

var (
	roleArg     = Arg{Names: "--role", Required: true, Help: "The role's name or ID."}
	scopeArg    = Arg{Names: "--scope", Required: true, Help: "Where it holds: the ID of a subscription, a resource group or a resource."}
	assigneeArg = Arg{Names: "--assignee", Help: "Object ID of who gets the role."}
)

var roleCommands = []Command{
	{Path: "role assignment create", Help: "Give a principal a role.", Run: assignmentCreate, Columns: assignmentColumns,
		Args: []Arg{roleArg, scopeArg, assigneeArg,
			{Names: "--assignee-object-id", Help: "Object ID of who gets the role."},
			{Names: "--assignee-principal-type", Help: "Kind of principal.", Choices: []string{"ForeignGroup", "Group", "ServicePrincipal", "User"}},
			{Names: "--description", Help: "Why."},
			{Names: "--name -n", Help: "GUID for the assignment. Default: a new one."}},
		Examples: []string{"role assignment create --role Reader --assignee-object-id ID --assignee-principal-type ServicePrincipal --scope CLUSTER_ID"}},
	{Path: "role assignment list", Help: "List role assignments.", Run: assignmentList, Columns: assignmentColumns,
		Args: []Arg{optional(roleArg), optional(scopeArg), assigneeArg, optional(groupArg),
			{Names: "--all", Kind: Flag, Help: "Everywhere in the subscription."},
			{Names: "--include-inherited", Kind: Flag, Help: "Also those of the scopes above."}}},
	{Path: "role assignment delete", Help: "Take roles away.", Run: assignmentDelete,
		Args: []Arg{optional(roleArg), optional(scopeArg), assigneeArg, optional(groupArg),
			{Names: "--ids", Kind: Texts, Help: "IDs of role assignments."},
			{Names: "--include-inherited", Kind: Flag, Help: "Also those of the scopes above."},
			{Names: "--yes -y", Kind: Flag, Help: "Do not ask for confirmation."}}},
	{Path: "role definition list", Help: "List roles.", Run: definitionList, Columns: definitionColumns,
		Args: []Arg{optional(scopeArg), optional(groupArg), {Names: "--name -n", Help: "The role's name."},
			{Names: "--custom-role-only", Kind: Bool, Help: "Only roles that are not built in."}}},
}

// scope is where the command works: its option, its resource group, or the subscription.
func (in *Input) scope(ctx context.Context) (string, error) {
	switch {
	case in.Has("scope"):
		return "/" + strings.Trim(in.Text("scope"), "/"), nil
	case in.Has("resource-group"):
		return in.path(ctx, groupPath)
	}
	return in.path(ctx, subscriptionPath)
}

// roleID is the role's ID at the scope.
func (in *Input) roleID(ctx context.Context, scope, role string) (string, error) {
	if strings.HasPrefix(role, "/") {
		return role, nil
	}
	if _, err := uuid.Parse(role); err == nil {
		return in.path(ctx, subscriptionPath+definitionsPath+"/"+role)
	}
	found, err := in.list(ctx, scope+definitionsPath, authorizationVersion,
		filter("roleName eq "+quote(role)))
	if err != nil {
		return "", err
	}
	for _, d := range found {
		if strings.EqualFold(text(d, "properties", "roleName"), role) {
			return text(d, "id"), nil
		}
	}
	return "", usagef("Role '%s' doesn't exist.", role)
}

func assignmentCreate(ctx context.Context, in *Input) (any, error) {
	principal := in.textOr("assignee-object-id", in.Text("assignee"))
	if principal == "" {
		return nil, usagef("usage error: --assignee STRING | --assignee-object-id GUID")
	}
	scope, err := in.scope(ctx)
	if err != nil {
		return nil, err
	}
	return in.assign(ctx, scope, in.Text("role"), principal, in.Text("assignee-principal-type"))
}

// assign gives the role. One that the principal has already is answered as it is.
func (in *Input) assign(ctx context.Context, scope, role, principal, kind string) (any, error) {
	roleID, err := in.roleID(ctx, scope, role)
	if err != nil {
		return nil, err
	}
	properties := map[string]any{"roleDefinitionId": roleID, "principalId": principal}
	if kind != "" {
		properties["principalType"] = kind
	}
	if in.Has("description") {
		properties["description"] = in.Text("description")
	}
	name := in.textOr("name", uuid.NewString())
	made, err := in.call(ctx, "Assigning "+role, client.Request{Method: http.MethodPut, Path: scope + assignmentsPath + "/" + url.PathEscape(name),
		APIVersion: authorizationVersion, Body: map[string]any{"properties": properties}, NoWait: true})
	var refused *client.Error
	if errors.As(err, &refused) && refused.Code == "RoleAssignmentExists" {
		there, listErr := in.granted(ctx, scope, roleID, principal)
		if there != nil || listErr != nil {
			return flatten(there), listErr
		}
	}
	return flatten(made), err
}

// granted is the assignment that gives the principal the role at the scope, or above it when there is none at the scope itself; nil when it has none.
func (in *Input) granted(ctx context.Context, scope, roleID, principal string) (any, error) {
	all, err := in.list(ctx, scope+assignmentsPath, authorizationVersion, url.Values{"$filter": {"atScope()"}})
	if err != nil {
		return nil, err
	}
	var found any
	for _, a := range all {
		if !strings.EqualFold(text(a, "properties", "principalId"), principal) || !strings.EqualFold(lastSegment(text(a, "properties", "roleDefinitionId")), lastSegment(roleID)) {
			continue
		}
		if found == nil || strings.EqualFold(text(a, "properties", "scope"), scope) {
			found = a
		}
	}
	return found, nil
}

// assignments are those that the options select, flattened, with the roles' names.
func (in *Input) assignments(ctx context.Context) ([]any, error) {
	scope, err := in.scope(ctx)
	if err != nil {
		return nil, err
	}
	query := url.Values{"$filter": {"atScope()"}}
	if in.Flag("all") {
		query = nil
	}
	all, err := in.list(ctx, scope+assignmentsPath, authorizationVersion, query)
	if err != nil {
		return nil, err
	}
	definitions, err := in.list(ctx, scope+definitionsPath, authorizationVersion, nil)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, d := range definitions {
		names[strings.ToLower(text(d, "name"))] = text(d, "properties", "roleName")
	}
	out := []any{}
	for _, a := range all {
		a := flatten(a).(map[string]any)
		a["roleDefinitionName"] = names[strings.ToLower(lastSegment(text(a, "roleDefinitionId")))]
		here := strings.EqualFold(text(a, "scope"), scope) || in.Flag("all") || in.Flag("include-inherited")
		whom := !in.Has("assignee") || strings.EqualFold(text(a, "principalId"), in.Text("assignee"))
		role := in.Text("role")
		what := role == "" || strings.EqualFold(text(a, "roleDefinitionName"), role) || strings.EqualFold(lastSegment(text(a, "roleDefinitionId")), lastSegment(role))
		if here && whom && what {
			out = append(out, a)
		}
	}
	return out, nil
}

func assignmentList(ctx context.Context, in *Input) (any, error) {
	found, err := in.assignments(ctx)
	if err != nil {
		return nil, err
	}
	return found, nil
}

func assignmentDelete(ctx context.Context, in *Input) (any, error) {
	ids := in.Texts("ids")
	if len(ids) == 0 {
		if !in.Has("assignee") && !in.Has("role") && !in.Has("scope") && !in.Has("resource-group") && !in.Flag("yes") {
			if err := in.program.confirm(); err != nil {
				return nil, err
			}
		}
		found, err := in.assignments(ctx)
		if err != nil {
			return nil, err
		}
		for _, a := range found {
			ids = append(ids, text(a, "id"))
		}
	}
	for _, id := range ids {
		_, err := in.call(ctx, "Deleting "+lastSegment(id), client.Request{Method: http.MethodDelete, Path: id, APIVersion: authorizationVersion})
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func definitionList(ctx context.Context, in *Input) (any, error) {
	scope, err := in.scope(ctx)
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if in.Has("name") {
		query = filter("roleName eq " + quote(in.Text("name")))
	}
	all, err := in.list(ctx, scope+definitionsPath, authorizationVersion, query)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, d := range all {
		flat := flatten(d).(map[string]any)
		flat["roleType"] = at(d, "properties", "type")
		named := !in.Has("name") || strings.EqualFold(text(flat, "roleName"), in.Text("name"))
		if named && (!in.Flag("custom-role-only") || text(flat, "roleType") == "CustomRole") {
			out = append(out, flat)
		}
	}
	return out, nil
}
