package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/sealing"
	"github.com/cairn-backup/cairn/internal/store"
)

var vaultName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{1,49}$`)

// PutVault makes a vault or replaces its properties. The operation has ended already; the answer says Provisioning or
// Updating, so that clients follow it to the vault as it is.
func (s *Service) PutVault(ctx context.Context, by Ref, id arm.ID, in *backup.Input[backup.Vault], match func(etag string) error) (backup.VaultResource, store.Operation, error) {
	var vault backup.VaultResource
	var op store.Operation
	if !vaultName.MatchString(id.Name()) {
		return vault, op, arm.Invalid("name", "'%s' is not a vault's name.", id.Name()).
			WithAction("Use 2 to 50 letters, digits and dashes, beginning with a letter.")
	}
	in.Properties.Complete()
	if err := in.Properties.Validate().Err(); err != nil {
		return vault, op, err
	}
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		old, row, err := store.Load[backup.VaultResource](tx, id)
		exists := err == nil
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := match(row.ETag); err != nil {
			return err
		}
		state := backup.Provisioning
		if exists {
			state, id = backup.Updating, row.ID
			if err := s.checkVaultChange(tx, by, &old, in.Properties); err != nil {
				return err
			}
		} else {
			row.ID = id
		}
		vault = backup.VaultResource{Resource: backup.NewResource(id, backup.VaultType, *in.Properties), Location: in.Location, Identity: in.Identity}
		vault.Tags, vault.SystemData = in.Tags, old.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		if err := s.saveVault(tx, &row, &vault, old); err != nil {
			return err
		}
		vault.Properties.ProvisioningState = state
		op, err = endedOperation(tx, "PutVault", id, nil)
		return err
	})
	return vault, op, err
}

// checkVaultChange says why a vault cannot become what is asked for, or returns nil.
func (s *Service) checkVaultChange(tx *store.Tx, by Ref, old *backup.VaultResource, next *backup.Vault) error {
	if err := old.Properties.CheckChange(next); err != nil {
		return err
	}
	for _, operation := range old.Properties.CriticalChanges(next) {
		if err := s.approve(tx, by, old.ID, operation, old.ID); err != nil {
			return err
		}
	}
	return nil
}

// saveVault checks location and identity, sees to the vault's secret and stores it as Succeeded.
func (s *Service) saveVault(tx *store.Tx, row *store.Resource, vault *backup.VaultResource, old backup.VaultResource) error {
	vault.Location = Location(cmp.Or(vault.Location, old.Location))
	if err := checkLocation(vault.Location); err != nil {
		return err
	}
	if old.Location != "" && Location(old.Location) != vault.Location {
		return arm.Conflict("InvalidResourceLocation", "The vault '%s' is in '%s' and cannot be moved to '%s'.", vault.Name, old.Location, vault.Location).
			WithTarget("location").WithAction("Keep the location, or make another vault.")
	}
	if err := s.identify(tx, vault, old.Identity); err != nil {
		return err
	}
	if _, err := tx.VaultKey(vault.ID, sealing.NewSecret); err != nil {
		return err
	}
	vault.Properties.ProvisioningState = backup.Succeeded
	vault.Properties.IsVaultProtectedByResourceGuard, vault.Properties.GuardRequests = old.Properties.IsVaultProtectedByResourceGuard, nil
	vault.ETag = ""
	if err := tx.Save(row, vault); err != nil {
		return err
	}
	vault.ETag = weak(row.ETag)
	return nil
}

// identify gives the vault the identity that it asks for; one that it has stays when it asks for none.
func (s *Service) identify(tx *store.Tx, vault *backup.VaultResource, old *arm.Identity) error {
	if vault.Identity == nil {
		vault.Identity = old
	}
	if vault.Identity == nil {
		return nil
	}
	switch typ := strings.ToLower(strings.ReplaceAll(vault.Identity.Type, " ", "")); typ {
	case "", "none":
		vault.Identity = &arm.Identity{Type: "None"}
		return nil
	case "systemassigned":
		p, err := s.AddIdentity(tx, vault.ID)
		vault.Identity = &arm.Identity{Type: "SystemAssigned", PrincipalID: p.ID, TenantID: s.TenantID}
		return err
	case "userassigned", "systemassigned,userassigned":
		return arm.BadRequest(backup.CodeNotSupported, "User-assigned identities are not supported.").WithTarget("identity.type").WithAction("Use SystemAssigned.")
	default:
		return arm.Invalid("identity.type", "'%s' is not a value of type.", vault.Identity.Type).WithAction("Use SystemAssigned or None.")
	}
}

func weak(etag string) string { return `W/"` + etag + `"` }

// VaultPatch is the body of a vault's PATCH: what it names is replaced, setting by setting, the rest stays.
type VaultPatch struct {
	Tags       *map[string]string `json:"tags"`
	Identity   *arm.Identity      `json:"identity"`
	Properties *struct {
		FeatureSettings    *backup.FeatureSettings    `json:"featureSettings"`
		MonitoringSettings *backup.MonitoringSettings `json:"monitoringSettings"`
		SecuritySettings   *backup.SecuritySettings   `json:"securitySettings"`
		GuardRequests      []string                   `json:"resourceGuardOperationRequests"`
	} `json:"properties"`
}

// GuardRequests are the resource guard's requests that the patch names.
func (p *VaultPatch) GuardRequests() []string {
	if p.Properties == nil {
		return nil
	}
	return p.Properties.GuardRequests
}

// PatchVault changes parts of a vault.
func (s *Service) PatchVault(ctx context.Context, by Ref, id arm.ID, patch *VaultPatch, match func(etag string) error) (backup.VaultResource, error) {
	var vault backup.VaultResource
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		old, row, err := Load[backup.VaultResource](tx, id)
		if err != nil {
			return err
		}
		if err := match(row.ETag); err != nil {
			return err
		}
		vault = old
		vault.SystemData = old.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		if patch.Tags != nil {
			vault.Tags = maps.Clone(*patch.Tags)
		}
		if patch.Identity != nil {
			vault.Identity = patch.Identity
		}
		if p := patch.Properties; p != nil {
			vault.Properties.Merge(p.FeatureSettings, p.MonitoringSettings, p.SecuritySettings)
		}
		vault.Properties.Complete()
		if err := vault.Properties.Validate().Err(); err != nil {
			return err
		}
		if err := s.checkVaultChange(tx, by, &old, &vault.Properties); err != nil {
			return err
		}
		return s.saveVault(tx, &row, &vault, old)
	})
	return vault, err
}

// Vault finds a vault.
func (s *Service) Vault(ctx context.Context, id arm.ID) (backup.VaultResource, error) {
	return read(ctx, s.DB, id, func(r *backup.VaultResource) *string { return &r.ETag })
}

// Vaults are those within a subscription or a resource group.
func (s *Service) Vaults(ctx context.Context, scope arm.ID, page store.Page) (vaults []backup.VaultResource, next string, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		var rows []store.Resource
		rows, next, err = tx.UnderPage(scope, backup.VaultType, page)
		if err != nil {
			return err
		}
		vaults, err = Documents[backup.VaultResource](rows, nil)
		for i := range vaults {
			vaults[i].ETag = weak(rows[i].ETag)
		}
		return err
	})
	return vaults, next, err
}

// DeleteVault removes a vault that holds no instances, with its policies, jobs and secret. Found is false when there is
// none.
func (s *Service) DeleteVault(ctx context.Context, id arm.ID, match func(etag string) error) (vault backup.VaultResource, op store.Operation, found bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		var row store.Resource
		var err error
		vault, row, err = store.Load[backup.VaultResource](tx, id)
		if found = err == nil; err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := match(row.ETag); err != nil || !found {
			return err
		}
		instances, err := tx.Children(id, backup.InstanceType)
		if err != nil {
			return err
		}
		if len(instances) > 0 {
			return arm.Conflict("ServiceResourceNotEmpty", "The vault '%s' cannot be deleted: it holds %d backup instances, of which the first is '%s'.",
				vault.Name, len(instances), instances[0].ID.Name()).WithTarget(string(row.ID)).
				WithAction("Delete the vault's backup instances, and then the vault.")
		}
		deleted, err := Documents[storedDeleted](tx.Children(id, backup.DeletedInstanceType))
		if err != nil {
			return err
		}
		if len(deleted) > 0 {
			last := slices.MaxFunc(deleted, func(a, b storedDeleted) int {
				return a.Properties.DeletionInfo.ScheduledPurgeTime.Compare(b.Properties.DeletionInfo.ScheduledPurgeTime)
			})
			return arm.Conflict("ServiceResourceNotEmpty", "The vault '%s' cannot be deleted: it keeps %d deleted backup instances, the last of which, '%s', until %s.",
				vault.Name, len(deleted), last.Name, last.Properties.DeletionInfo.ScheduledPurgeTime.Format(time.RFC3339)).WithTarget(string(row.ID)).
				WithAction("Delete the vault then. To lose their recovery points now, turn the vault's soft delete off, bring the instances back, and delete them again.")
		}
		if op, err = endedOperation(tx, "DeleteVault", row.ID, nil); err != nil {
			return err
		}
		return s.remove(tx, row.ID)
	})
	return vault, op, found, err
}

// NameAvailability is whether a name may be used, and if not, why.
type NameAvailability struct {
	NameAvailable bool   `json:"nameAvailable"`
	Reason        string `json:"reason,omitempty"`
	Message       string `json:"message,omitempty"`
}

// CheckVaultName says whether a resource group has room for a vault of that name.
func (s *Service) CheckVaultName(ctx context.Context, group arm.ID, name, typ string) (NameAvailability, error) {
	if !strings.EqualFold(typ, backup.VaultType) {
		return NameAvailability{}, arm.Invalid("type", "'%s' is not a type whose names can be checked.", typ).WithAction("Use " + backup.VaultType + ".")
	}
	if !vaultName.MatchString(name) {
		return NameAvailability{Reason: "Invalid", Message: "Use 2 to 50 letters, digits and dashes, beginning with a letter."}, nil
	}
	var taken bool
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		taken, err = tx.Exists(group.Extension(backup.VaultType, name))
		return err
	})
	if taken {
		return NameAvailability{Reason: "AlreadyExists", Message: fmt.Sprintf("The resource group has a vault named '%s' already.", name)}, err
	}
	return NameAvailability{NameAvailable: true}, err
}

// vaultOf loads the vault that a resource lies in.
func vaultOf(tx *store.Tx, id arm.ID) (backup.VaultResource, error) {
	vault, _, err := Load[backup.VaultResource](tx, id.Parent())
	return vault, err
}

// same says whether two documents are the same but for what the service itself fills in.
func same(a, b any) bool { return reflect.DeepEqual(a, b) }
