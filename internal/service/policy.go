package service

import (
	"context"
	"errors"
	"regexp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// PolicyResource is a policy as it is sent and stored.
type PolicyResource = backup.Resource[backup.Policy]

var policyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{2,149}$`)

// PutPolicy makes a policy. Putting it again as it is changes nothing; another body is refused, as it is by Azure, since
// recovery points were promised the retention that they were made under.
func (s *Service) PutPolicy(ctx context.Context, by Ref, id arm.ID, in *backup.Input[backup.Policy]) (PolicyResource, error) {
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
		if err == nil {
			if !same(old.Properties, *in.Properties) {
				return arm.BadRequest("UserErrorPolicyUpdateNotSupported", "The policy '%s' exists and differs; update of existing policy is not supported.", old.Name).
					WithTarget(string(old.ID)).WithAction("Make a policy of another name, and give the backup instances that one.")
			}
			policy = old
			return nil
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		policy = backup.NewResource(vault.ID.Child("backupPolicies", id.Name()), backup.PolicyType, *in.Properties)
		policy.SystemData = policy.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		row.ID = policy.ID
		return tx.Save(&row, policy)
	})
	return policy, err
}

// Policy finds a policy.
func (s *Service) Policy(ctx context.Context, id arm.ID) (PolicyResource, error) {
	var policy PolicyResource
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		policy, _, err = Load[PolicyResource](tx, id)
		return err
	})
	return policy, err
}

// Policies are a vault's.
func (s *Service) Policies(ctx context.Context, vault arm.ID, page store.Page) ([]PolicyResource, string, error) {
	return inVault[PolicyResource](ctx, s, vault, backup.PolicyType, page)
}

// DeletePolicy removes a policy that no instance uses. Found is false when there is none.
func (s *Service) DeletePolicy(ctx context.Context, id arm.ID) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		if found, err = tx.Exists(id); err != nil || !found {
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
		return s.remove(tx, id)
	})
	return found, err
}
