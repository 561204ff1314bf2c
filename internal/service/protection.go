package service

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/store"
)

// protectionMoves are the states from which an instance may go where an action takes it. While protection is stopped, recovery points are kept for ever;
// while backups are suspended, they expire by their tags.
var protectionMoves = map[string]struct {
	operation, to string
	from          []string
	// critical is what a resource guard knows the action as, or empty.
	critical string
}{
	"stopProtection":   {"StopProtection", backup.ProtectionStopped, []string{backup.ProtectionConfigured, backup.BackupsSuspended, backup.ProtectionError}, backup.CriticalStopProtection},
	"suspendBackups":   {"SuspendBackups", backup.BackupsSuspended, []string{backup.ProtectionConfigured, backup.ProtectionStopped}, backup.CriticalSuspendBackups},
	"resumeProtection": {"ResumeProtection", backup.ProtectionConfigured, []string{backup.ProtectionStopped, backup.BackupsSuspended}, ""},
	"resumeBackups":    {"ResumeBackups", backup.ProtectionConfigured, []string{backup.BackupsSuspended}, ""},
}

// MoveProtection stops, suspends or resumes an instance's protection. Changed is false when it is there already.
func (s *Service) MoveProtection(ctx context.Context, by Ref, id arm.ID, action string) (op store.Operation, changed bool, err error) {
	move := protectionMoves[action]
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		instance, row, err := Load[storedInstance](tx, id)
		if err != nil {
			return err
		}
		state := instance.Properties.CurrentProtectionState
		if state == move.to {
			return nil
		}
		if !slices.Contains(move.from, state) {
			return notAllowed(move.operation, &instance, state)
		}
		if move.critical != "" {
			if err := s.approve(tx, by, instance.ID.Parent(), move.critical, instance.ID); err != nil {
				return err
			}
		}
		to := move.to
		if to == backup.ProtectionConfigured {
			if err := alone(tx, row.ID.Parent(), row.ID, &instance.Properties, "properties"); err != nil {
				return err
			}
			if instance.Properties.ProtectionErrorDetails != nil {
				to = backup.ProtectionError // as it was when it was stopped: resuming repairs nothing
			}
		}
		changed = true
		instance.Properties.SetState(to, instance.Properties.ProtectionErrorDetails)
		instance.Properties.ProvisioningState = backup.Succeeded
		instance.SystemData = instance.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		if op, err = endedOperation(tx, move.operation, row.ID, nil); err != nil {
			return err
		}
		return errors.Join(tx.Save(&row, instance), s.reschedule(tx, &instance))
	})
	return op, changed, err
}

// SyncRequest is the body of sync.
type SyncRequest struct {
	SyncType string `json:"syncType"`
}

// Sync asks the cluster anew whether backups of an instance can be made; the operation ends with the answer, and so does a protection error that is over,
// or one begins.
func (s *Service) Sync(ctx context.Context, id arm.ID, in SyncRequest) (op store.Operation, location string, err error) {
	if !slices.ContainsFunc([]string{"", "Default", "ForceResync"}, func(t string) bool { return strings.EqualFold(t, in.SyncType) }) {
		return op, "", arm.Invalid("syncType", "'%s' is not a value of syncType.", in.SyncType).WithAction("Use Default or ForceResync.")
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		w, err := loadWork(tx, id)
		if err != nil {
			return err
		}
		location = w.vault.Location
		switch state := w.instance.Properties.CurrentProtectionState; state {
		case backup.ConfiguringProtection, backup.UpdatingProtection, backup.SoftDeleting:
			return notAllowed("Sync", &w.instance, state)
		}
		extension, err := s.usableCluster(tx, &w.vault, w.cluster)
		if err != nil {
			return err
		}
		if op, err = beginOperation(tx, operationSync, w.instance.ID); err != nil {
			return err
		}
		return askValidateBackup(tx, &op, &w.instance, w.instance.Properties.Scope(), extension)
	})
	return op, location, err
}

// proven takes over what the cluster says of an instance that nothing changes in. A protection that was stopped or suspended stays so.
func (i *storedInstance) proven(failure *arm.Error) {
	state, p := i.Properties.CurrentProtectionState, &i.Properties
	if failure != nil {
		why := failure.UserFacing(newID())
		if state == backup.ProtectionConfigured {
			state = backup.ProtectionError
		}
		p.SetState(state, &why)
		return
	}
	if state == backup.ProtectionError {
		state, p.ProvisioningState = backup.ProtectionConfigured, backup.Succeeded
	}
	p.SetState(state, nil)
}
