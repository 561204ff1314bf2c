package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// DeletedResource is a deleted backup instance as it is sent.
type DeletedResource = backup.Resource[backup.DeletedInstance]

// storedDeleted is a deleted backup instance as it is stored.
type storedDeleted struct {
	DeletedResource
	// GUID is the instance's: its recovery points have it.
	GUID string `json:"guid"`
}

// deletedID is where an instance goes when it is deleted.
func deletedID(instance arm.ID) arm.ID {
	return instance.Parent().Child("deletedBackupInstances", instance.Name())
}

// softDelete moves an instance to the deleted ones, with all its recovery points. Nothing in the cluster changes.
func (s *Service) softDelete(tx *store.Tx, by Ref, vault *backup.VaultResource, instance *storedInstance) error {
	kept, _ := vault.Properties.SoftDeletes()
	d := storedDeleted{GUID: instance.GUID, DeletedResource: backup.NewResource(deletedID(instance.ID), backup.DeletedInstanceType,
		instance.Properties.Delete(tx.Now(), kept, newID()))}
	d.Tags, d.SystemData = instance.Tags, instance.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
	instance.Properties.SetState(backup.SoftDeleting, nil)
	if err := s.reschedule(tx, instance); err != nil {
		return err
	}
	if err := s.remove(tx, instance.ID); err != nil {
		return err
	}
	return tx.Save(&store.Resource{ID: d.ID}, d)
}

// notSoftDeleted is the 409 when there is a deleted instance of a name: it would be in the way of bringing that one back.
func notSoftDeleted(tx *store.Tx, instance arm.ID) error {
	d, _, err := store.Load[storedDeleted](tx, deletedID(instance))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return arm.Conflict("UserErrorBackupInstanceSoftDeleted", "The backup instance '%s' was deleted at %s and is kept until %s; no other can be made under its name.",
		d.Name, d.Properties.DeletionInfo.DeletionTime.Format(time.RFC3339), d.Properties.DeletionInfo.ScheduledPurgeTime.Format(time.RFC3339)).WithTarget(string(d.ID)).
		WithAction("Bring it back: az dataprotection backup-instance deleted-backup-instance undelete. Or use another name.")
}

// softDeleted says whether an instance, named as it was and by its GUID, can be brought back.
func softDeleted(tx *store.Tx, instance arm.ID, guid string) (bool, error) {
	d, _, err := store.Load[storedDeleted](tx, deletedID(instance))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && d.GUID == guid, err
}

// DeletedInstances are a vault's that can be brought back.
func (s *Service) DeletedInstances(ctx context.Context, vault arm.ID, page store.Page) ([]DeletedResource, string, error) {
	return inVault[DeletedResource](ctx, s, vault, backup.DeletedInstanceType, page)
}

// DeletedInstance finds a deleted instance.
func (s *Service) DeletedInstance(ctx context.Context, id arm.ID) (DeletedResource, error) {
	var d storedDeleted
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		d, _, err = Load[storedDeleted](tx, id)
		return err
	})
	return d.DeletedResource, err
}

// Undelete brings a deleted instance back, with its recovery points; its protection is stopped.
func (s *Service) Undelete(ctx context.Context, by Ref, id arm.ID) error {
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		d, row, err := store.Load[storedDeleted](tx, id)
		if errors.Is(err, store.ErrNotFound) {
			return (&arm.Error{Status: 404, Code: "UserErrorGenericResourceNotFound", Target: string(id),
				Message: fmt.Sprintf("The vault has no deleted backup instance '%s'.", id.Name())}).
				WithAction("List what can be brought back: az dataprotection backup-instance deleted-backup-instance list.")
		} else if err != nil {
			return err
		}
		vault, err := vaultOf(tx, row.ID)
		if err != nil {
			return err
		}
		i := storedInstance{GUID: d.GUID, InstanceResource: backup.NewResource(vault.ID.Child("backupInstances", d.Name), backup.InstanceType, d.Properties.Undelete())}
		i.Tags, i.SystemData = d.Tags, d.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		if err := tx.Delete(row.ID); err != nil {
			return err
		}
		return errors.Join(tx.Save(&store.Resource{ID: i.ID}, i), s.reschedule(tx, &i))
	})
}

// PurgeDeleted deletes the instances, with their recovery points, whose time to be brought back is over.
func (s *Service) PurgeDeleted(ctx context.Context) error {
	due := func(tx *store.Tx) ([]storedDeleted, error) {
		all, err := Documents[storedDeleted](tx.ByType(backup.DeletedInstanceType))
		var out []storedDeleted
		for _, d := range all {
			if !d.Properties.DeletionInfo.ScheduledPurgeTime.After(tx.Now()) {
				out = append(out, d)
			}
		}
		return out, err
	}
	any := false
	if err := s.DB.View(ctx, func(tx *store.Tx) error {
		found, err := due(tx)
		any = len(found) > 0
		return err
	}); err != nil || !any {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		found, err := due(tx)
		if err != nil {
			return err
		}
		for _, d := range found {
			if err := s.purge(tx, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) purge(tx *store.Tx, d storedDeleted) error {
	s.Log.Info("deleted backup instance is purged", "instance", d.ID, "deleted", d.Properties.DeletionInfo.DeletionTime)
	points, err := tx.RecoveryPoints(d.GUID)
	if err != nil {
		return err
	}
	for _, p := range points {
		if err := tx.Discard(p, whyPurged); err != nil {
			return err
		}
	}
	return errors.Join(tx.Delete(d.ID), tx.DeleteSchedule(d.GUID))
}

// immutable is the refusal to delete recovery points of an immutable vault that have not expired.
func immutable(vault *backup.VaultResource, instance *storedInstance, points []store.RecoveryPoint, now time.Time) error {
	state := vault.Properties.Immutability()
	if state != backup.ImmutabilityUnlocked && state != backup.ImmutabilityLocked {
		return nil
	}
	valid, until := 0, time.Time{}
	for _, p := range points {
		if p.Expires.IsZero() || p.Expires.After(now) {
			valid++
		}
		if p.Expires.After(until) {
			until = p.Expires
		}
	}
	if valid == 0 {
		return nil
	}
	action := "Suspend its backups (az dataprotection backup-instance suspend-backup), and delete it when its recovery points have expired"
	if !until.IsZero() {
		action += ", the last of them at " + until.UTC().Format(time.RFC3339)
	}
	action += "."
	if state == backup.ImmutabilityUnlocked {
		action += " Or disable the vault's immutability, which is not locked."
	}
	return arm.BadRequest("UserErrorOperationDeniedOnImmutableItem", "The vault '%s' is immutable (%s), and %d recovery points of the backup instance '%s' have not expired.",
		vault.Name, strings.ToLower(state), valid, instance.Name).WithTarget(string(instance.ID)).WithAction(action)
}
