package service

import (
	"context"
	"fmt"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
)

// TrustedAccessRoleOperator is the role that lets a vault work on a cluster: make the request kinds, and read config maps.
const TrustedAccessRoleOperator = "Microsoft.DataProtection/backupVaults/backup-operator"

// TrustedAccessBinding is Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings: which vault may work on the
// cluster.
type TrustedAccessBinding struct {
	ID         arm.ID                  `json:"id"`
	Name       string                  `json:"name"`
	Type       string                  `json:"type"`
	Properties TrustedAccessProperties `json:"properties"`
	SystemData *arm.SystemData         `json:"systemData,omitempty"`
}

// TrustedAccessProperties are a binding's.
type TrustedAccessProperties struct {
	ProvisioningState string   `json:"provisioningState"`
	SourceResourceID  arm.ID   `json:"sourceResourceId"`
	Roles             []string `json:"roles"`
}

// TrustedAccessRole is a role that a binding can give.
type TrustedAccessRole struct {
	SourceResourceType string              `json:"sourceResourceType"`
	Name               string              `json:"name"`
	Rules              []TrustedAccessRule `json:"rules"`
}

// TrustedAccessRule is a rule in Kubernetes' terms.
type TrustedAccessRule struct {
	Verbs           []string `json:"verbs"`
	APIGroups       []string `json:"apiGroups"`
	Resources       []string `json:"resources"`
	ResourceNames   []string `json:"resourceNames"`
	NonResourceURLs []string `json:"nonResourceURLs"`
}

// TrustedAccessRoles are the roles there are.
func (s *Service) TrustedAccessRoles() []TrustedAccessRole {
	rule := func(group string, resources, verbs []string) TrustedAccessRule {
		return TrustedAccessRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources, ResourceNames: []string{}, NonResourceURLs: []string{}}
	}
	return []TrustedAccessRole{{
		SourceResourceType: TypeVault, Name: "backup-operator", Rules: []TrustedAccessRule{
			rule("clusterbackup.dataprotection.microsoft.com",
				[]string{"backups", "validateforbackups", "restores", "validateforrestores", "deletebackups"},
				[]string{"get", "list", "watch", "create", "update", "patch", "delete"}),
			rule("", []string{"configmaps"}, []string{"get", "list"}),
		},
	}}
}

// PutTrustedAccess makes a binding or changes it.
func (s *Service) PutTrustedAccess(ctx context.Context, id arm.ID, in TrustedAccessBinding, by Ref) (out TrustedAccessBinding, created bool, err error) {
	var problems arm.Problems
	source, err := arm.ParseID(string(in.Properties.SourceResourceID))
	if err != nil || source == "" {
		problems.AddError(arm.BadRequest("InvalidParameter", "sourceResourceId '%s' is not the ID of a backup vault.", in.Properties.SourceResourceID).WithTarget("properties.sourceResourceId"))
	}
	if len(in.Properties.Roles) == 0 {
		problems.AddError(arm.BadRequest("InvalidParameter", "roles is empty: use %s.", TrustedAccessRoleOperator).WithTarget("properties.roles"))
	}
	for i, role := range in.Properties.Roles {
		if !strings.EqualFold(role, TrustedAccessRoleOperator) {
			problems.AddError(arm.BadRequest("InvalidParameter", "'%s' is not a role: use %s.", role, TrustedAccessRoleOperator).WithTarget(fmt.Sprintf("properties.roles[%d]", i)))
		}
	}
	if err := problems.Err(); err != nil {
		return out, false, err
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		out, created, err = s.BindTrustedAccess(tx, id, source, by)
		return err
	})
	return out, created, err
}

// BindTrustedAccess is PutTrustedAccess within a transaction, for the role of a vault.
func (s *Service) BindTrustedAccess(tx *store.Tx, id, source arm.ID, by Ref) (out TrustedAccessBinding, created bool, err error) {
	if _, _, err := Load[Cluster](tx, id.Parent()); err != nil {
		return out, false, err
	}
	r := store.Resource{ID: id}
	exists, err := tx.Exists(id)
	if err != nil {
		return out, false, err
	}
	if exists {
		if out, r, err = store.Load[TrustedAccessBinding](tx, id); err != nil {
			return out, false, err
		}
		if !out.Properties.SourceResourceID.Equal(source) {
			return out, false, arm.BadRequest("PropertyChangeNotAllowed", "The sourceResourceId of the binding '%s' cannot be changed from '%s'. Delete the binding, or use another name.", id.Name(), out.Properties.SourceResourceID).WithTarget("properties.sourceResourceId")
		}
	}
	out = TrustedAccessBinding{ID: r.ID, Name: r.ID.Name(), Type: TypeTrustedAccess, SystemData: out.SystemData.Touched(by.ObjectID, by.Type, tx.Now()),
		Properties: TrustedAccessProperties{ProvisioningState: Succeeded, SourceResourceID: source, Roles: []string{TrustedAccessRoleOperator}}}
	return out, !exists, tx.Save(&r, out)
}

// HasTrustedAccess says whether a vault may work on a cluster.
func (s *Service) HasTrustedAccess(tx *store.Tx, cluster, vault arm.ID) (bool, error) {
	bindings, err := Documents[TrustedAccessBinding](tx.Children(cluster, TypeTrustedAccess))
	for _, b := range bindings {
		if b.Properties.SourceResourceID.Equal(vault) {
			return true, err
		}
	}
	return false, err
}

// TrustedAccess finds a binding.
func (s *Service) TrustedAccess(ctx context.Context, id arm.ID) (out TrustedAccessBinding, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		out, _, err = Load[TrustedAccessBinding](tx, id)
		return err
	})
	return out, err
}

// TrustedAccessBindings are those of a cluster.
func (s *Service) TrustedAccessBindings(ctx context.Context, cluster arm.ID) (out []TrustedAccessBinding, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		if _, _, err := Load[Cluster](tx, cluster); err != nil {
			return err
		}
		out, err = Documents[TrustedAccessBinding](tx.Children(cluster, TypeTrustedAccess))
		return err
	})
	return out, err
}

// DeleteTrustedAccess removes a binding; one that is not there is gone already.
func (s *Service) DeleteTrustedAccess(ctx context.Context, id arm.ID) error {
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		exists, err := tx.Exists(id)
		if err != nil || !exists {
			return err
		}
		return tx.Delete(id)
	})
}
