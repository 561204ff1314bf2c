package service

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// GuardAction is the first part of the names of what can be done with resource guards. That it has the path in it is Azure's way.
const GuardAction = "Microsoft.DataProtection/subscriptions/resourceGroups/providers/resourceGuards/"

// ProxyResource is a vault's link to a resource guard as it is sent.
type ProxyResource = backup.Resource[backup.GuardProxy]

// storedProxy is a link as it is stored.
type storedProxy struct {
	ProxyResource
	// Unlocked are deletions that somebody with rights on the guard has given leave for.
	Unlocked []unlocked `json:"unlocked,omitempty"`
}

// unlocked is leave for one deletion.
type unlocked struct {
	Operation string `json:"operation"`
	// Resource is what may be deleted; empty is whatever is deleted next.
	Resource arm.ID    `json:"resource,omitempty"`
	Until    time.Time `json:"until"`
}

// unlockLife is how long leave for a deletion holds.
const unlockLife = 30 * time.Minute

var guardName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{1,62}$`)

// PutGuard makes a resource guard or replaces its properties.
func (s *Service) PutGuard(ctx context.Context, by Ref, id arm.ID, in *backup.Input[backup.Guard], match func(etag string) error) (backup.GuardResource, error) {
	var guard backup.GuardResource
	if !guardName.MatchString(id.Name()) {
		return guard, arm.Invalid("name", "'%s' is not a resource guard's name.", id.Name()).WithAction("Use 2 to 63 letters, digits and dashes.")
	}
	if err := in.Properties.Validate().Err(); err != nil {
		return guard, err
	}
	in.Properties.Complete()
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		old, row, err := store.Load[backup.GuardResource](tx, id)
		if errors.Is(err, store.ErrNotFound) {
			row.ID = id
		} else if err != nil {
			return err
		}
		if err := match(row.ETag); err != nil {
			return err
		}
		where, err := placed(in.Location, old.Location, row.ID)
		if err != nil {
			return err
		}
		guard = backup.GuardResource{Resource: backup.NewResource(row.ID, backup.GuardType, *in.Properties), Location: where}
		guard.Properties.ProvisioningState = backup.Succeeded
		guard.Tags, guard.SystemData = in.Tags, old.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		err = tx.Save(&row, guard)
		guard.ETag = weak(row.ETag)
		return err
	})
	return guard, err
}

// placed is the location that a resource gets: it is required at first, and never changes.
func placed(asked, old string, id arm.ID) (string, error) {
	switch {
	case asked == "" && old == "":
		return "", arm.BadRequest("LocationRequired", "The location property is required for this definition.").WithTarget("location").
			WithAction("Set it to a region, such as eastus.")
	case asked != "" && old != "" && Location(asked) != Location(old):
		return "", arm.Conflict("InvalidResourceLocation", "'%s' is in '%s' and cannot be moved to '%s'.", id.Name(), old, Location(asked)).
			WithTarget("location").WithAction("Keep the location, or make another one.")
	case asked == "":
		return old, nil
	}
	return Location(asked), nil
}

// TagGuard replaces a guard's tags, which is all that can be patched; nil leaves them.
func (s *Service) TagGuard(ctx context.Context, by Ref, id arm.ID, tags map[string]string, match func(etag string) error) (backup.GuardResource, error) {
	var guard backup.GuardResource
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		var row store.Resource
		var err error
		if guard, row, err = Load[backup.GuardResource](tx, id); err != nil {
			return err
		}
		if err := match(row.ETag); err != nil {
			return err
		}
		if tags != nil {
			guard.Tags = tags
		}
		guard.SystemData = guard.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		err = tx.Save(&row, guard)
		guard.ETag = weak(row.ETag)
		return err
	})
	return guard, err
}

// Guard finds a resource guard.
func (s *Service) Guard(ctx context.Context, id arm.ID) (backup.GuardResource, error) {
	return read(ctx, s.DB, id, func(r *backup.GuardResource) *string { return &r.ETag })
}

// Guards are those within a subscription or a resource group.
func (s *Service) Guards(ctx context.Context, scope arm.ID) ([]backup.GuardResource, error) {
	var guards []backup.GuardResource
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Under(scope, backup.GuardType)
		if err != nil {
			return err
		}
		guards, err = Documents[backup.GuardResource](rows, nil)
		for i := range guards {
			guards[i].ETag = weak(rows[i].ETag)
		}
		return err
	})
	return guards, err
}

// DeleteGuard removes a guard that no vault is linked to. Found is false when there is none.
func (s *Service) DeleteGuard(ctx context.Context, id arm.ID, match func(etag string) error) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		row, err := tx.Get(id)
		if found = err == nil; err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := match(row.ETag); err != nil || !found {
			return err
		}
		return s.remove(tx, id)
	})
	return found, err
}

// unguarding is the 409 when a guard that is to be removed protects a vault that stays.
func unguarding(tx *store.Tx, guard, with arm.ID) error {
	proxies, err := Documents[storedProxy](tx.ByType(backup.ProxyType))
	if err != nil {
		return err
	}
	for _, p := range proxies {
		if p.Properties.GuardID.Equal(guard) && !p.ID.Within(with) {
			return arm.Conflict("UserErrorResourceGuardInUse", "The resource guard '%s' cannot be deleted: it protects the vault '%s'.", guard.Name(), p.ID.Parent()).
				WithTarget(string(guard)).WithAction("Delete the vault's link to it first: az dataprotection backup-vault resource-guard-mapping delete.")
		}
	}
	return nil
}

// GuardRequest is one of a guard's requests: an ID to name, nothing more.
type GuardRequest struct {
	ID   arm.ID `json:"id"`
	Name string `json:"name"`
	Type string `json:"type"`
}

// GuardRequests are a guard's requests of a kind: one, named default.
func (s *Service) GuardRequests(ctx context.Context, id arm.ID, kind string) ([]GuardRequest, error) {
	guard, err := s.Guard(ctx, id)
	if err != nil {
		return nil, err
	}
	if !guard.Serves(kind) {
		return []GuardRequest{}, nil
	}
	return []GuardRequest{{ID: guard.ID.Child(kind, "default"), Name: "default", Type: backup.GuardType + "/" + kind}}, nil
}

// proxyOf is the ID of a vault's link to its guard.
func proxyOf(vault arm.ID) arm.ID { return vault.Child("backupResourceGuardProxies", backup.ProxyName) }

// PutProxy links a vault to a resource guard, which the caller must be allowed to see. From then on the guard's operations need rights on it. A
// vault that is linked stays with its guard until the link is deleted, which the guard protects.
func (s *Service) PutProxy(ctx context.Context, by Ref, id arm.ID, in *backup.Input[backup.GuardProxy], match func(etag string) error) (ProxyResource, string, error) {
	var proxy storedProxy
	var etag string
	if !strings.EqualFold(id.Name(), backup.ProxyName) {
		return proxy.ProxyResource, "", arm.Invalid("name", "'%s' is not the name of a vault's link to a resource guard.", id.Name()).WithAction("Use " + backup.ProxyName + ".")
	}
	const target = "properties.resourceGuardResourceId"
	guardID, err := arm.ParseID(string(in.Properties.GuardID))
	if err != nil || !strings.EqualFold(guardID.Type(), backup.GuardType) {
		return proxy.ProxyResource, "", arm.Invalid(target, "'%s' is not the ID of a resource guard.", in.Properties.GuardID).
			WithAction("Set it to /subscriptions/{id}/resourceGroups/{name}/providers/" + backup.GuardType + "/{name}.")
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		vault, vaultRow, err := Load[backup.VaultResource](tx, id.Parent())
		if err != nil {
			return err
		}
		old, row, err := store.Load[storedProxy](tx, proxyOf(vault.ID))
		exists := err == nil
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := match(row.ETag); err != nil {
			return err
		}
		if err := s.mayUseGuard(tx, by, "read", guardID); err != nil {
			return err
		}
		guard, _, err := store.Load[backup.GuardResource](tx, guardID)
		if errors.Is(err, store.ErrNotFound) {
			return arm.Invalid(target, "There is no resource guard '%s'.", guardID).WithAction("Make it first: az dataprotection resource-guard create.")
		} else if err != nil {
			return err
		}
		switch {
		case exists && !old.Properties.GuardID.Equal(guard.ID):
			return arm.Conflict("UserErrorResourceGuardProxyExists", "The vault '%s' is linked to the resource guard '%s' already.", vault.Name, old.Properties.GuardID).
				WithTarget(string(old.ID)).WithAction("Delete that link first.")
		case guard.Location != vault.Location:
			return arm.Invalid(target, "The resource guard is in '%s', the vault in '%s'.", guard.Location, vault.Location).WithAction("Use a guard in the vault's region.")
		}
		row.ID = proxyOf(vault.ID)
		proxy = storedProxy{ProxyResource: backup.NewResource(row.ID, backup.ProxyWireType, backup.GuardProxy{
			GuardID: guard.ID, Description: in.Properties.Description, LastUpdatedTime: tx.Now().UTC().Format(time.RFC3339Nano)}), Unlocked: old.Unlocked}
		proxy.SystemData = old.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		if err := tx.Save(&row, proxy); err != nil {
			return err
		}
		etag, proxy.Properties.Operations = row.ETag, guard.Protected()
		vault.Properties.IsVaultProtectedByResourceGuard = true
		return tx.Save(&vaultRow, vault)
	})
	return proxy.ProxyResource, etag, err
}

// Proxies are a vault's links to guards: one or none.
func (s *Service) Proxies(ctx context.Context, vault arm.ID) ([]ProxyResource, error) {
	if _, err := s.Vault(ctx, vault); err != nil {
		return nil, err
	}
	proxy, _, err := s.Proxy(ctx, proxyOf(vault))
	if missing := (*arm.Error)(nil); errors.As(err, &missing) && missing.Status == 404 {
		return []ProxyResource{}, nil
	}
	return []ProxyResource{proxy}, err
}

// Proxy finds a vault's link to its guard.
func (s *Service) Proxy(ctx context.Context, id arm.ID) (proxy ProxyResource, etag string, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		stored, row, err := Load[storedProxy](tx, id)
		if err != nil {
			return err
		}
		guard, _, err := store.Load[backup.GuardResource](tx, stored.Properties.GuardID)
		proxy, etag = stored.ProxyResource, row.ETag
		proxy.Properties.Operations = guard.Protected()
		return err
	})
	return proxy, etag, err
}

// DeleteProxy takes a vault's guard away, which the guard always protects. Found is false when it has none.
func (s *Service) DeleteProxy(ctx context.Context, by Ref, id arm.ID, match func(etag string) error) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		vault, vaultRow, err := Load[backup.VaultResource](tx, id.Parent())
		if err != nil {
			return err
		}
		row, err := tx.Get(id)
		if found = err == nil; err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := match(row.ETag); err != nil || !found {
			return err
		}
		if err := s.approve(tx, by, vault.ID, backup.CriticalDeleteProxy, row.ID); err != nil {
			return err
		}
		vault.Properties.IsVaultProtectedByResourceGuard = false
		if err := tx.Save(&vaultRow, vault); err != nil {
			return err
		}
		return s.remove(tx, row.ID)
	})
	return found, err
}

// UnlockDelete gives leave, for half an hour, for the next deletion of what the requests stand for: of the resource that is named, or of any. The
// caller needs the rights on the guard; who deletes then does not.
func (s *Service) UnlockDelete(ctx context.Context, by Ref, id arm.ID, in *backup.UnlockDeleteRequest) (until time.Time, err error) {
	if len(in.GuardRequests) == 0 {
		return until, arm.Invalid("resourceGuardOperationRequests", "resourceGuardOperationRequests is required.").
			WithAction("Name the request of the deletion: resourceGuardOperationDetails of the vault's link to its guard has them.")
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		proxy, row, err := Load[storedProxy](tx, id)
		if err != nil {
			return err
		}
		guard, _, err := store.Load[backup.GuardResource](tx, proxy.Properties.GuardID)
		if err != nil {
			return err
		}
		until = tx.Now().UTC().Add(unlockLife)
		proxy.Unlocked = slices.DeleteFunc(proxy.Unlocked, func(u unlocked) bool { return !tx.Now().Before(u.Until) })
		for i, name := range in.GuardRequests {
			operation := ""
			for _, o := range []string{backup.CriticalDeleteInstance, backup.CriticalDeleteProxy} {
				if request, ok := guard.Request(o); ok && request.Equal(arm.ID(name)) {
					operation = o
				}
			}
			if operation == "" {
				return arm.Invalid(fmt.Sprintf("resourceGuardOperationRequests[%d]", i), "'%s' is no request of the guard '%s' for a deletion.", name, guard.ID).
					WithAction("Use one of those that resourceGuardOperationDetails of the vault's link to its guard has for delete; others are named in the request itself.")
			}
			if err := s.mayUseGuard(tx, by, requestKind(arm.ID(name))+"/action", guard.ID); err != nil {
				return err
			}
			proxy.Unlocked = append(proxy.Unlocked, unlocked{Operation: operation, Resource: arm.ID(in.ResourceToBeDeleted), Until: until})
		}
		return tx.Save(&row, proxy)
	})
	return until, err
}

// requestKind is the collection that a guard's request is in.
func requestKind(request arm.ID) string {
	return strings.TrimPrefix(request.Type(), backup.GuardType+"/")
}

// approve is the 403 for a critical operation on a vault whose guard protects it, unless the caller names the guard's request and has the rights on
// the guard, or the deletion of the resource was unlocked, which is used up by it.
func (s *Service) approve(tx *store.Tx, by Ref, vault arm.ID, operation string, resource arm.ID) error {
	proxy, row, err := store.Load[storedProxy](tx, proxyOf(vault))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	guard, _, err := store.Load[backup.GuardResource](tx, proxy.Properties.GuardID)
	if err != nil {
		return err
	}
	request, protected := guard.Request(operation)
	if !protected {
		return nil
	}
	if slices.ContainsFunc(by.GuardRequests, func(name string) bool { return request.Equal(arm.ID(name)) }) {
		return s.mayUseGuard(tx, by, requestKind(request)+"/action", guard.ID)
	}
	for i, u := range proxy.Unlocked {
		if u.Operation == operation && tx.Now().Before(u.Until) && (u.Resource == "" || u.Resource.Equal(resource)) {
			proxy.Unlocked = slices.Delete(proxy.Unlocked, i, i+1)
			return tx.Save(&row, proxy)
		}
	}
	refusal := &arm.Error{Status: 403, Code: "UserErrorResourceGuardApprovalRequired", Target: string(resource), Message: fmt.Sprintf(
		"The operation '%s' on the vault '%s' is protected by the resource guard '%s'.", operation, vault.Name(), guard.ID)}
	switch operation {
	case backup.CriticalDeleteInstance, backup.CriticalDeleteProxy:
		return refusal.WithAction("Have somebody with the role Backup MUA Operator on the guard unlock it: POST "+string(proxy.ID)+"/unlockDelete with the request "+string(request)+".",
			"Repeat the deletion within half an hour.")
	}
	return refusal.WithAction("Get the role Backup MUA Operator on the guard, and name the request " + string(request) + " in resourceGuardOperationRequests.")
}

// mayUseGuard is the 403 unless the caller, or whoever vouches for it with a second token, may do something with a guard.
func (s *Service) mayUseGuard(tx *store.Tx, by Ref, what string, guard arm.ID) error {
	for _, principal := range []string{by.ObjectID, by.Second} {
		if principal == "" {
			continue
		}
		if ok, err := s.HasAction(tx, principal, GuardAction+what, guard); err != nil || ok {
			return err
		}
	}
	role := "Backup MUA Operator"
	if what == "read" {
		role = "Reader"
	}
	return &arm.Error{Status: 403, Code: "LinkedAuthorizationFailed", Target: string(guard), Message: fmt.Sprintf(
		"The client with object id '%s' has permission for what it asks, but not for the action '%s' on the linked scope '%s'.", by.ObjectID, GuardAction+what, guard),
		RecommendedAction: []string{"Ask for the role " + role + " on the resource guard."}}
}
