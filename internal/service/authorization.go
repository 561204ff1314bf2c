package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/store"
)

// RoleAssignment is Microsoft.Authorization/roleAssignments: who has which role where.
type RoleAssignment struct {
	ID         arm.ID                   `json:"id"`
	Name       string                   `json:"name"`
	Type       string                   `json:"type"`
	Properties RoleAssignmentProperties `json:"properties"`
}

// RoleAssignmentProperties are an assignment's.
type RoleAssignmentProperties struct {
	RoleDefinitionID arm.ID    `json:"roleDefinitionId"`
	PrincipalID      string    `json:"principalId"`
	PrincipalType    string    `json:"principalType"`
	Scope            arm.ID    `json:"scope"`
	Condition        *string   `json:"condition"`
	ConditionVersion *string   `json:"conditionVersion"`
	Description      *string   `json:"description"`
	CreatedOn        time.Time `json:"createdOn"`
	UpdatedOn        time.Time `json:"updatedOn"`
	CreatedBy        string    `json:"createdBy"`
	UpdatedBy        string    `json:"updatedBy"`
}

// RoleDefinition is Microsoft.Authorization/roleDefinitions.
type RoleDefinition struct {
	ID         arm.ID                   `json:"id"`
	Name       string                   `json:"name"`
	Type       string                   `json:"type"`
	Properties RoleDefinitionProperties `json:"properties"`
}

// RoleDefinitionProperties are a role's.
type RoleDefinitionProperties struct {
	RoleName         string           `json:"roleName"`
	Type             string           `json:"type"`
	Description      string           `json:"description"`
	AssignableScopes []string         `json:"assignableScopes"`
	Permissions      []RolePermission `json:"permissions"`
}

// RolePermission is what a role allows.
type RolePermission struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// RoleDefinitions are the built-in roles; name may be empty for all.
func (s *Service) RoleDefinitions(name string) []RoleDefinition {
	out := []RoleDefinition{}
	for _, role := range auth.Roles {
		if name == "" || strings.EqualFold(name, role.Name) {
			out = append(out, s.definition(role))
		}
	}
	return out
}

// RoleDefinition finds a built-in role by its GUID.
func (s *Service) RoleDefinition(id string) (RoleDefinition, error) {
	role, ok := auth.RoleByID(id)
	if !ok {
		return RoleDefinition{}, &arm.Error{Status: 404, Code: "RoleDefinitionDoesNotExist", Message: fmt.Sprintf("The specified role definition with ID '%s' does not exist.", id)}
	}
	return s.definition(role), nil
}

func (s *Service) definition(role auth.Role) RoleDefinition {
	return RoleDefinition{
		ID: arm.Subscription(s.SubscriptionID).Extension(TypeRoleDefinition, role.ID), Name: role.ID, Type: TypeRoleDefinition,
		Properties: RoleDefinitionProperties{RoleName: role.Name, Type: "BuiltInRole", Description: role.Description, AssignableScopes: []string{"/"},
			Permissions: []RolePermission{{Actions: list(role.Actions), NotActions: list(role.NotActions), DataActions: list(role.DataActions), NotDataActions: []string{}}}},
	}
}

func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// PutRoleAssignment gives a role. The scope is the ID's parent, and must exist.
func (s *Service) PutRoleAssignment(ctx context.Context, id arm.ID, in RoleAssignmentProperties, by Ref) (out RoleAssignment, created bool, err error) {
	if uuid.Validate(id.Name()) != nil {
		return out, false, arm.BadRequest("InvalidRoleAssignmentId", "The role assignment ID '%s' is not valid. The role assignment ID must be a GUID.", id.Name())
	}
	role, ok := auth.RoleByID(in.RoleDefinitionID.Name())
	if !ok {
		return out, false, arm.BadRequest("RoleDefinitionDoesNotExist", "The specified role definition with ID '%s' does not exist.", in.RoleDefinitionID.Name()).WithTarget("properties.roleDefinitionId")
	}
	if uuid.Validate(in.PrincipalID) != nil {
		return out, false, arm.BadRequest("InvalidPrincipalId", "A valid principal ID must be provided for role assignment: '%s' is not a GUID.", in.PrincipalID).WithTarget("properties.principalId")
	}
	if in.Condition != nil && *in.Condition != "" {
		return out, false, arm.BadRequest("RoleAssignmentConditionNotSupported", "The role assignment '%s' has a condition, and conditions are not supported.", id.Name()).
			WithTarget("properties.condition").WithAction("Without its condition the role would give more than was meant: assign it at a narrower scope, such as one container, or assign a role that gives less.")
	}
	if !slices.Contains([]string{"", KindServicePrincipal, KindUser}, in.PrincipalType) {
		return out, false, arm.BadRequest("UnsupportedPrincipalType", "Principals of type '%s' cannot be assigned roles: there are none of them here.", in.PrincipalType).
			WithTarget("properties.principalType").WithAction("Assign the role to each user or service principal itself.")
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		if err := s.checkAssignment(tx, id, in); err != nil {
			return err
		}
		out, created, err = s.Assign(tx, id, role, in, by)
		return err
	})
	return out, created, err
}

// checkAssignment checks what the assignment refers to. A principal that is given with its type need not exist (yet), as in
// Azure, where the directory is eventually consistent.
func (s *Service) checkAssignment(tx *store.Tx, id arm.ID, in RoleAssignmentProperties) error {
	scope := id.Parent()
	if scope.Type() != "Microsoft.Resources/subscriptions" && scope != "" {
		exists, err := tx.Exists(scope)
		// A container is no resource of its own here: its account must do.
		if account, _, inside := strings.Cut(string(scope), "/blobServices/"); err == nil && !exists && inside {
			exists, err = tx.Exists(arm.ID(account))
		}
		if err != nil {
			return err
		}
		if !exists {
			return arm.NotFound(scope)
		}
	}
	p, err := tx.PrincipalByID(in.PrincipalID)
	switch {
	case errors.Is(err, store.ErrNotFound) && in.PrincipalType != "":
		return nil
	case errors.Is(err, store.ErrNotFound):
		return arm.BadRequest("PrincipalNotFound", "Principal %s does not exist in the directory %s. Check that you have the correct principal ID; if it was created just now, or is of the external issuer, give its principalType too.", in.PrincipalID, s.TenantID).WithTarget("properties.principalId")
	case err == nil && in.PrincipalType == KindUser:
		return arm.BadRequest("UnmatchedPrincipalType", "The PrincipalId '%s' has type 'ServicePrincipal', which is different from the specified PrincipalType 'User'.", p.ID).
			WithTarget("properties.principalType").WithAction("Give the principalType ServicePrincipal, or leave it out.")
	}
	return err
}

// Assign is PutRoleAssignment within a transaction, without its checks.
func (s *Service) Assign(tx *store.Tx, id arm.ID, role auth.Role, in RoleAssignmentProperties, by Ref) (RoleAssignment, bool, error) {
	scope, principal := id.Parent(), strings.ToLower(in.PrincipalID)
	grants, err := tx.Grants(principal)
	if err != nil {
		return RoleAssignment{}, false, err
	}
	for _, g := range grants {
		if g.Role == role.ID && g.Scope.Equal(scope) && !g.Assignment.Equal(id) {
			return RoleAssignment{}, false, arm.Conflict("RoleAssignmentExists", "The role assignment already exists. The ID of the existing role assignment is %s.", strings.ReplaceAll(g.Assignment.Name(), "-", ""))
		}
	}
	old, r, err := store.Load[RoleAssignment](tx, id)
	created := errors.Is(err, store.ErrNotFound)
	switch {
	case created:
		r, old = store.Resource{ID: id}, RoleAssignment{}
		old.Properties.CreatedOn, old.Properties.CreatedBy = tx.Now().UTC(), by.ObjectID
	case err != nil:
		return old, false, err
	case old.Properties.PrincipalID != principal || !strings.EqualFold(old.Properties.RoleDefinitionID.Name(), role.ID):
		return old, false, arm.BadRequest("RoleAssignmentUpdateNotPermitted", "Tenant ID, application ID, principal ID, role and scope of the role assignment '%s' are not allowed to be updated. Delete it and create another.", id.Name())
	}
	if in.PrincipalType == "" {
		in.PrincipalType = KindServicePrincipal
	}
	in.RoleDefinitionID, in.PrincipalID, in.Scope = s.definition(role).ID, principal, scope
	in.CreatedOn, in.CreatedBy, in.UpdatedOn, in.UpdatedBy = old.Properties.CreatedOn, old.Properties.CreatedBy, tx.Now().UTC(), by.ObjectID
	out := RoleAssignment{ID: r.ID, Name: r.ID.Name(), Type: TypeRoleAssignment, Properties: in}
	if err := tx.Save(&r, out); err != nil {
		return out, created, err
	}
	return out, created, tx.PutGrant(store.Grant{Assignment: id, Principal: principal, Role: role.ID, Scope: scope})
}

// RoleAssignment finds an assignment.
func (s *Service) RoleAssignment(ctx context.Context, id arm.ID) (out RoleAssignment, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		out, _, err = store.Load[RoleAssignment](tx, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = &arm.Error{Status: 404, Code: "RoleAssignmentNotFound", Message: fmt.Sprintf("The role assignment '%s' is not found.", id.Name())}
	}
	return out, err
}

// DeleteRoleAssignment takes a role away: nil when there is no such assignment.
func (s *Service) DeleteRoleAssignment(ctx context.Context, id arm.ID) (out *RoleAssignment, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		a, _, err := store.Load[RoleAssignment](tx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		out = &a
		if err := tx.DeleteGrant(id); err != nil {
			return err
		}
		return tx.Delete(id)
	})
	return out, err
}

// RoleAssignments are those that hold at a scope: made there or above. With below, those made below it too. Principal may be
// empty for everybody's.
func (s *Service) RoleAssignments(ctx context.Context, scope arm.ID, principal string, below bool) (out []RoleAssignment, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		found, err := assignmentsAt(tx, scope, below)
		if err != nil {
			return err
		}
		all, err := Documents[RoleAssignment](found, nil)
		for _, a := range all {
			if principal == "" || strings.EqualFold(a.Properties.PrincipalID, principal) {
				out = append(out, a)
			}
		}
		return err
	})
	return out, err
}

func assignmentsAt(tx *store.Tx, scope arm.ID, below bool) ([]store.Resource, error) {
	var found []store.Resource
	for at := scope; ; at = at.Parent() {
		here, err := tx.Children(at, TypeRoleAssignment)
		if err != nil {
			return nil, err
		}
		found = append(found, here...)
		if at == "" {
			break
		}
	}
	if !below {
		return found, nil
	}
	under, err := tx.Under(scope, TypeRoleAssignment)
	if err != nil {
		return nil, err
	}
	for _, r := range under {
		// Those of the scope itself are below it by their keys, and have been found.
		if !r.ID.Parent().Equal(scope) {
			found = append(found, r)
		}
	}
	return found, nil
}

// DirectoryObject is a principal as Graph shows it.
type DirectoryObject struct {
	ODataType            string   `json:"@odata.type"`
	ID                   string   `json:"id"`
	AppID                string   `json:"appId"`
	DisplayName          string   `json:"displayName"`
	ServicePrincipalType string   `json:"servicePrincipalType"`
	AccountEnabled       bool     `json:"accountEnabled"`
	AlternativeNames     []string `json:"alternativeNames"`
	PrincipalNames       []string `json:"servicePrincipalNames"`
}

// DirectoryObjects are the principals that match; connectors are not shown.
func (s *Service) DirectoryObjects(ctx context.Context, match func(DirectoryObject) bool) (out []DirectoryObject, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Principals()
		for _, p := range all {
			o := DirectoryObject{ODataType: "#microsoft.graph.servicePrincipal", ID: p.ID, AppID: p.Client, DisplayName: p.Name,
				ServicePrincipalType: "Application", AccountEnabled: true, AlternativeNames: []string{}, PrincipalNames: []string{p.Client}}
			if p.Kind == KindManagedIdentity {
				o.ServicePrincipalType, o.AlternativeNames = "ManagedIdentity", []string{"isExplicit=False", p.Owner}
			}
			if p.Kind != KindConnector && match(o) {
				out = append(out, o)
			}
		}
		return err
	})
	return out, err
}

// User is somebody of the external issuer as Graph shows it.
type User struct {
	ODataType     string `json:"@odata.type"`
	ID            string `json:"id"`
	DisplayName   string `json:"displayName"`
	PrincipalName string `json:"userPrincipalName"`
}

// Me is the caller as Graph shows it: a User, or a DirectoryObject.
func (s *Service) Me(ctx context.Context, c auth.Caller) (any, error) {
	if c.Kind == KindUser {
		return User{ODataType: "#microsoft.graph.user", ID: c.ObjectID, DisplayName: c.Name, PrincipalName: c.Name}, nil
	}
	found, err := s.DirectoryObjects(ctx, func(o DirectoryObject) bool { return o.ID == c.ObjectID })
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		// It was there when its token was checked.
		return nil, fmt.Errorf("principal %s: %w", c.ObjectID, store.ErrNotFound)
	}
	return found[0], nil
}
