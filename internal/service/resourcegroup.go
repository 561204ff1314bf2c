package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// Types of resources, as they are written in IDs.
const (
	TypeResourceGroup  = "Microsoft.Resources/resourceGroups"
	TypeStorageAccount = "Microsoft.Storage/storageAccounts"
	TypeCluster        = "Microsoft.ContainerService/managedClusters"
	TypeTrustedAccess  = "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings"
	TypeExtension      = "Microsoft.KubernetesConfiguration/extensions"
	TypeRoleAssignment = "Microsoft.Authorization/roleAssignments"
	TypeRoleDefinition = "Microsoft.Authorization/roleDefinitions"
	TypeVault          = "Microsoft.DataProtection/backupVaults"
	TypeBackupInstance = "Microsoft.DataProtection/backupVaults/backupInstances"
	typeDeleted        = "Microsoft.DataProtection/backupVaults/deletedBackupInstances"
)

// ResourceGroup is Microsoft.Resources/resourceGroups.
type ResourceGroup struct {
	ID         arm.ID            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
	ManagedBy  string            `json:"managedBy,omitempty"`
	Properties Provisioning      `json:"properties"`
}

// Provisioning is the one property that every resource has.
type Provisioning struct {
	ProvisioningState string `json:"provisioningState"`
}

// The provisioning states.
const (
	Succeeded = "Succeeded"
	Creating  = "Creating"
	Updating  = "Updating"
	Deleting  = "Deleting"
	Failed    = "Failed"
)

var groupName = regexp.MustCompile(`^[-\p{L}\p{N}_().]{1,90}$`)

func checkGroupName(name string) error {
	if !groupName.MatchString(name) || strings.HasSuffix(name, ".") {
		return arm.BadRequest("InvalidResourceGroup", "The resource group name '%s' is not valid: use up to 90 letters, digits, and -_().; the last must not be a dot.", name)
	}
	return nil
}

// Location is a location as it is stored: "East US" is eastus.
func Location(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }

var locationName = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

// checkLocation is the error for a new resource's location that is missing, or that cannot be one's name.
func checkLocation(s string) error {
	switch {
	case s == "":
		return arm.BadRequest("LocationRequired", "The location property is required for this definition.").WithTarget("location").
			WithAction("Set it to a region, such as eastus.")
	case !locationName.MatchString(Location(s)):
		return arm.BadRequest("LocationNotAvailableForResourceType", "The provided location '%s' is not the name of a location.", s).WithTarget("location").
			WithAction("Use letters and digits, such as eastus.")
	}
	return nil
}

// PutResourceGroup makes a group or changes its tags.
func (s *Service) PutResourceGroup(ctx context.Context, id arm.ID, in ResourceGroup) (out ResourceGroup, created bool, err error) {
	if err := checkGroupName(id.Name()); err != nil {
		return out, false, err
	}
	if err := checkLocation(in.Location); err != nil {
		return out, false, err
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		out, created, err = putGroup(tx, id, in)
		return err
	})
	return out, created, err
}

func putGroup(tx *store.Tx, id arm.ID, in ResourceGroup) (ResourceGroup, bool, error) {
	old, r, err := store.Load[ResourceGroup](tx, id)
	created := errors.Is(err, store.ErrNotFound)
	if err != nil && !created {
		return old, false, err
	}
	if created {
		r = store.Resource{ID: id}
		old = ResourceGroup{ID: id, Name: id.Name(), Type: TypeResourceGroup, Location: Location(in.Location),
			ManagedBy: in.ManagedBy, Properties: Provisioning{Succeeded}}
	}
	if Location(in.Location) != old.Location {
		return old, false, arm.Conflict("InvalidResourceGroupLocation", "Invalid resource group location '%s'. The Resource group already exists in location '%s'.", in.Location, old.Location)
	}
	old.Tags = in.Tags
	return old, created, tx.Save(&r, old)
}

// ResourceGroup finds a group.
func (s *Service) ResourceGroup(ctx context.Context, id arm.ID) (out ResourceGroup, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		out, _, err = Load[ResourceGroup](tx, id)
		return err
	})
	return out, err
}

// ResourceGroups are all of a subscription.
func (s *Service) ResourceGroups(ctx context.Context, subscription arm.ID) (out []ResourceGroup, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		out, err = Documents[ResourceGroup](tx.Under(subscription, TypeResourceGroup))
		return err
	})
	return out, err
}

// TagResourceGroup changes a group's tags; nil leaves them.
func (s *Service) TagResourceGroup(ctx context.Context, id arm.ID, tags map[string]string) (ResourceGroup, error) {
	return Change(ctx, s.DB, id, func(_ *store.Tx, g *ResourceGroup, _ store.Resource) error {
		if tags != nil {
			g.Tags = tags
		}
		return nil
	})
}

// DeleteResourceGroup removes a group and everything in it, the data in its storage accounts included. A group with
// backup instances is refused: their recovery points would be lost.
func (s *Service) DeleteResourceGroup(ctx context.Context, id arm.ID) (operation string, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		if _, _, err := Load[ResourceGroup](tx, id); err != nil {
			return err
		}
		operation, err = ended(tx, id)
		if err != nil {
			return err
		}
		return s.remove(tx, id)
	})
	if err != nil {
		return "", err
	}
	s.clearAccounts(ctx)
	return operation, nil
}

// ended notes an operation that is over when its client first asks for it.
func ended(tx *store.Tx, id arm.ID) (string, error) {
	op := store.Async{ID: newID(), Resource: id, Status: arm.OperationSucceeded, Started: tx.Now(), Ended: tx.Now()}
	return op.ID, tx.PutAsync(op)
}

// Async finds a neighbour's operation.
func (s *Service) Async(ctx context.Context, id string) (out store.Async, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		out, err = tx.Async(id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = &arm.Error{Status: 404, Code: "ResourceNotFound", Message: fmt.Sprintf("There is no operation '%s'. Operations can be asked for until 7 days after they have ended.", id)}
	}
	return out, err
}

// remove takes away a resource and all that lies below it: principals, role assignments, links, node resource groups. What storage
// accounts hold is only noted: it does not come back, and so clearAccounts removes it after the commit.
func (s *Service) remove(tx *store.Tx, id arm.ID) error {
	doomed, err := tx.Under(id, "")
	if err != nil {
		return err
	}
	if self, err := tx.Get(id); err == nil {
		doomed = append(doomed, self)
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	for _, r := range doomed {
		if strings.EqualFold(r.ID.Type(), backup.GuardType) {
			if err := unguarding(tx, r.ID, id); err != nil {
				return err
			}
		}
		if strings.EqualFold(r.ID.Type(), TypeBackupInstance) && !r.ID.Equal(id) {
			return arm.Conflict("ResourceGroupDeletionBlocked", "'%s' cannot be deleted, because the backup instance '%s' is in it. Delete the backup instance first.", id.Name(), r.ID)
		}
		if strings.EqualFold(r.ID.Type(), typeDeleted) {
			return arm.Conflict("ResourceGroupDeletionBlocked", "'%s' cannot be deleted, because the deleted backup instance '%s' is in it, which is kept so that it can be brought back.", id.Name(), r.ID).
				WithAction("See until when: az dataprotection backup-instance deleted-backup-instance show.")
		}
	}
	for _, r := range doomed {
		if err := tx.Delete(r.ID); err != nil {
			return err
		}
		switch typ := r.ID.Type(); {
		case strings.EqualFold(typ, TypeRoleAssignment):
			err = tx.DeleteGrant(r.ID)
		case strings.EqualFold(typ, TypeStorageAccount):
			err = tx.DoomAccount(strings.ToLower(r.ID.Name()))
		case strings.EqualFold(typ, TypeVault):
			err = tx.ForgetVault(r.ID)
		case strings.EqualFold(typ, TypeCluster):
			err = errors.Join(tx.AbandonDeletions(r.ID), s.removeNodeGroup(tx, r, id))
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(tx.DeletePrincipalsOf(id), tx.DeleteLinksUnder(id))
}

// removeNodeGroup removes a cluster's node resource group, if it is not being removed already.
func (s *Service) removeNodeGroup(tx *store.Tx, r store.Resource, with arm.ID) error {
	var c Cluster
	if err := r.Decode(&c); err != nil {
		return err
	}
	group := arm.ResourceGroup(r.ID.Subscription(), c.Properties.NodeResourceGroup)
	g, _, err := store.Load[ResourceGroup](tx, group)
	if errors.Is(err, store.ErrNotFound) || err == nil && (g.ManagedBy == "" || group.Within(with)) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.remove(tx, group)
}

// GenericResource is a resource as a list of all kinds of them shows it.
type GenericResource struct {
	ID       arm.ID            `json:"id"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Location string            `json:"location"`
	Kind     string            `json:"kind,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	SKU      json.RawMessage   `json:"sku,omitempty"`
	Identity json.RawMessage   `json:"identity,omitempty"`
}

// Resources are those with a location below a scope: what Azure calls tracked. Type may be empty for all.
func (s *Service) Resources(ctx context.Context, scope arm.ID, typ string) (out []GenericResource, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		found, err := tx.Under(scope, typ)
		if err != nil {
			return err
		}
		for _, r := range found {
			var g GenericResource
			if err := r.Decode(&g); err != nil {
				return err
			}
			if g.Location == "" || strings.EqualFold(r.ID.Type(), TypeResourceGroup) {
				continue
			}
			g.ID, g.Name, g.Type = r.ID, r.ID.Name(), r.ID.Type()
			out = append(out, g)
		}
		return nil
	})
	return out, err
}
