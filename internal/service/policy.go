package service

import (
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// PolicyResource is a policy as it is sent and stored.
type PolicyResource = backup.Resource[backup.Policy]

var policyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{2,149}$`)

// maxPolicies and maxInstances are how many a vault holds at most: Azure's numbers.
const (
	maxPolicies  = 5000
	maxInstances = 5000
)

// PutPolicy makes a policy, or changes one. A changed schedule holds at once for all instances of the policy, a changed retention for the
// recovery points that are made from now on: those that exist were promised theirs. Putting a policy as it is changes nothing.
func (s *Service) PutPolicy(ctx context.Context, by Ref, id arm.ID, in *backup.Input[backup.Policy], match func(etag string) error) (PolicyResource, error) {
	var policy PolicyResource
	if !policyName.MatchString(id.Name()) {
		return policy, arm.Invalid("name", "'%s' is not a policy's name.", id.Name()).
			WithAction("Use 3 to 150 letters, digits and dashes, beginning with a letter or digit.")
	}
	in.Properties.Complete()
	if err := in.Properties.Validate().Err(); err != nil {
		return policy, err
	}
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		vault, err := vaultOf(tx, id)
		if err != nil {
			return err
		}
		old, row, err := store.Load[PolicyResource](tx, id)
		isNew := errors.Is(err, store.ErrNotFound)
		if err != nil && !isNew {
			return err
		}
		if err := match(row.ETag); err != nil {
			return err
		}
		if isNew {
			if err := checkRoom(tx, vault.ID, backup.PolicyType, maxPolicies, "backup policies"); err != nil {
				return err
			}
			row.ID = vault.ID.Child("backupPolicies", id.Name())
		}
		policy = old
		if isNew || !same(old.Properties, *in.Properties) {
			if err := s.approvePolicy(tx, by, vault.ID, &old); err != nil {
				return err
			}
			policy = backup.NewResource(row.ID, backup.PolicyType, *in.Properties)
			policy.SystemData = old.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
			if err := tx.Save(&row, policy); err != nil {
				return err
			}
			if err := s.reschedulePolicy(tx, row.ID); err != nil {
				return err
			}
		}
		policy.ETag = weak(row.ETag)
		return nil
	})
	return policy, err
}

// approvePolicy is the 403 when an instance has the policy that is to be changed, and the vault's resource guard protects that: it is as if the instance
// were given another policy.
func (s *Service) approvePolicy(tx *store.Tx, by Ref, vault arm.ID, old *PolicyResource) error {
	instances, err := Documents[storedInstance](tx.Children(vault, backup.InstanceType))
	if err != nil {
		return err
	}
	for _, i := range instances {
		if i.uses(old.ID) {
			return s.approve(tx, by, vault, backup.CriticalModifyPolicy, old.ID)
		}
	}
	return nil
}

// checkRoom says why a vault cannot have another resource of a type, or returns nil.
func checkRoom(tx *store.Tx, vault arm.ID, typ string, limit int, what string) error {
	n, err := tx.CountChildren(vault, typ)
	if err != nil || n < limit {
		return err
	}
	return arm.BadRequest("UserErrorVaultLimitReached", "The vault '%s' has %d %s, as many as a vault can have.", vault.Name(), n, what).
		WithTarget(string(vault)).WithAction("Delete some that are not used any more, or use another vault.")
}

// Policy finds a policy.
func (s *Service) Policy(ctx context.Context, id arm.ID) (PolicyResource, error) {
	return read(ctx, s.DB, id, func(r *PolicyResource) *string { return &r.ETag })
}

// Policies are a vault's.
func (s *Service) Policies(ctx context.Context, vault arm.ID, page store.Page) ([]PolicyResource, string, error) {
	return inVault[PolicyResource](ctx, s, vault, backup.PolicyType, page)
}

// DeletePolicy removes a policy that no instance uses. Found is false when there is none.
func (s *Service) DeletePolicy(ctx context.Context, id arm.ID, match func(etag string) error) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		row, err := tx.Get(id)
		if found = err == nil; err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := match(row.ETag); err != nil || !found {
			return err
		}
		instances, err := Documents[storedInstance](tx.Children(id.Parent(), backup.InstanceType))
		if err != nil {
			return err
		}
		for _, i := range instances {
			if i.uses(id) {
				return arm.Conflict("UserErrorPolicyInUse", "The policy '%s' cannot be deleted: the backup instance '%s' uses it.", id.Name(), i.Name).
					WithTarget(string(i.ID)).WithAction("Give the instance another policy, or delete it.")
			}
		}
		deleted, err := Documents[storedDeleted](tx.Children(id.Parent(), backup.DeletedInstanceType))
		if err != nil {
			return err
		}
		for _, d := range deleted {
			if d.Properties.PolicyID().Equal(id) {
				return arm.Conflict("UserErrorPolicyInUse", "The policy '%s' cannot be deleted: the deleted backup instance '%s' has it, which can be brought back until %s.",
					id.Name(), d.Name, d.Properties.DeletionInfo.ScheduledPurgeTime.Format(time.RFC3339)).WithTarget(string(d.ID)).
					WithAction("Wait until then, or bring the instance back and give it another policy.")
			}
		}
		return s.remove(tx, id)
	})
	return found, err
}
