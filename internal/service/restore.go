package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/retention"
	"github.com/cairn-backup/cairn/internal/store"
)

// RecoveryPointResource is a recovery point as it is sent.
type RecoveryPointResource = backup.Resource[backup.RecoveryPoint]

// Restore starts a restore. The operation has ended: it tells the job.
func (s *Service) Restore(ctx context.Context, by Ref, id arm.ID, in *backup.RestoreRequest) (op store.Operation, location string, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		w, point, spec, err := s.planRestore(tx, by, id, in, "")
		if err != nil {
			return err
		}
		location = w.vault.Location
		if err := idle(tx, &w.instance); err != nil {
			return err
		}
		if err := s.Limits.within(tx, &w.instance, backup.OperationRestore); err != nil {
			return err
		}
		if err := s.approve(tx, by, w.vault.ID, backup.CriticalRestore, w.instance.ID); err != nil {
			return err
		}
		job := newJob(tx.Now(), w, backup.OperationRestore)
		source, destination := in.SourceDataStoreType, string(in.ClusterID())
		job.SourceDataStoreType = &source
		job.ExtendedInfo.RecoveryDestination = &destination
		job.ExtendedInfo.SourceRecoverPoint = &backup.JobRecoveryPoint{RecoveryPointID: point.Name, RecoveryPointTime: point.Time}
		if in.Target.Details != nil && in.Target.Details.FileShareOption != "" {
			job.ExtendedInfo.AdditionalDetails = map[string]string{"FileShareOption": in.Target.Details.FileShareOption}
		}
		jobID := w.vault.ID.Child("backupJobs", newID())
		spec.IdentitySecret = jobID.Name()
		if err := startJob(tx, w, job, jobID, store.Request{Kind: "Restore", Cluster: in.ClusterID().Key(), Point: point.Name}, spec); err != nil {
			return err
		}
		op, err = endedOperation(tx, operationRestore, w.instance.ID, &jobID)
		return err
	})
	return op, location, err
}

// ValidateRestore asks the cluster whether a restore could be made; the operation ends with the answer.
func (s *Service) ValidateRestore(ctx context.Context, by Ref, id arm.ID, in *backup.ValidateRestoreRequest) (op store.Operation, location string, err error) {
	if in.Request == nil {
		return op, "", arm.Invalid("restoreRequestObject", "restoreRequestObject is required.").WithAction("Set it to what restore would be sent.")
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		w, point, spec, err := s.planRestore(tx, by, id, in.Request, "restoreRequestObject")
		if err != nil {
			return err
		}
		location = w.vault.Location
		if op, err = beginOperation(tx, operationValidateRestore, w.instance.ID); err != nil {
			return err
		}
		name := newID()
		spec.IdentitySecret = name
		return ask(tx, store.Request{
			Name: name, Kind: "ValidateForRestore", Cluster: in.Request.ClusterID().Key(), Vault: w.vault.ID.Key(), Instance: w.instance.ID.Key(),
			Point: point.Name, Operation: op.ID,
		}, spec)
	})
	return op, location, err
}

// planRestore checks all that can be known here, and says what the cluster is to do.
func (s *Service) planRestore(tx *store.Tx, by Ref, id arm.ID, in *backup.RestoreRequest, prefix string) (*work, store.RecoveryPoint, *v1alpha1.RestoreSpec, error) {
	none := store.RecoveryPoint{}
	w, err := loadWork(tx, id)
	if err != nil {
		return nil, none, nil, err
	}
	in.Complete(w.instance.Properties.DataSource)
	if err := in.Validate(prefix).Err(); err != nil {
		return nil, none, nil, err
	}
	switch state := w.instance.Properties.CurrentProtectionState; state {
	case backup.ConfiguringProtection, backup.SoftDeleting:
		return nil, none, nil, notAllowed("Restore", &w.instance, state)
	}
	point, err := tx.RecoveryPoint(w.instance.GUID, in.RecoveryPointID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, none, nil, (&arm.Error{Status: 404, Code: "UserErrorRecoveryPointNotFound", Target: below(prefix, "recoveryPointId"),
			Message: fmt.Sprintf("The backup instance '%s' has no recovery point '%s'.", w.instance.Name, in.RecoveryPointID)}).
			WithAction("Use one of: az dataprotection recovery-point list.")
	} else if err != nil {
		return nil, none, nil, err
	}
	cluster := in.ClusterID()
	if !cluster.Equal(w.cluster) {
		return nil, none, nil, arm.BadRequest(backup.CodeNotSupported, "A restore to another cluster than '%s' is not supported.", w.cluster.Name()).
			WithTarget(below(prefix, "restoreTargetInfo.datasourceInfo.resourceID")).WithAction("Name the cluster that the recovery point is of: " + string(w.cluster) + ".")
	}
	if err := s.mayRead(tx, by, cluster); err != nil {
		return nil, none, nil, err
	}
	extension, err := s.usableCluster(tx, &w.vault, cluster)
	if err != nil {
		return nil, none, nil, err
	}
	if extension.ContainerURL != point.Container {
		return nil, none, nil, userError("UserErrorBackupStorageLocationNotReady", cluster,
			"The recovery point lies in %s, but the backup extension of the cluster '%s' uses %s.", point.Container, cluster.Name(), extension.ContainerURL).
			WithAction("Install the extension with the container that the recovery point lies in.")
	}
	c := in.Target.Criteria[0]
	return w, point, &v1alpha1.RestoreSpec{
		RecoveryPointID: point.Name, Location: v1alpha1.StorageLocation{ContainerURL: point.Container, Prefix: point.Prefix},
		Filter:         filter(c.IncludedNamespaces, c.ExcludedNamespaces, c.IncludeClusterScopeResources),
		ConflictPolicy: v1alpha1.ConflictSkip, RestoreVolumeData: in.RestoresVolumeData(),
	}, nil
}

func below(prefix, target string) string {
	if prefix == "" {
		return target
	}
	return prefix + "." + target
}

// RecoveryPoints are an instance's that a filter chooses, newest first.
func (s *Service) RecoveryPoints(ctx context.Context, instanceID arm.ID, f backup.Filter, page store.Page) (found []RecoveryPointResource, next string, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		instance, _, err := Load[storedInstance](tx, instanceID)
		if err != nil || f.None {
			return err
		}
		var rows []store.RecoveryPoint
		if rows, next, err = tx.RecoveryPointsPage(instance.GUID, f.Start, f.End, page); err != nil {
			return err
		}
		found, err = s.recoveryPointResources(tx, &instance, rows)
		return err
	})
	return found, next, err
}

// RecoveryPoint finds an instance's recovery point.
func (s *Service) RecoveryPoint(ctx context.Context, instanceID arm.ID, name string) (RecoveryPointResource, error) {
	var found []RecoveryPointResource
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		instance, _, err := Load[storedInstance](tx, instanceID)
		if err != nil {
			return err
		}
		row, err := tx.RecoveryPoint(instance.GUID, name)
		if errors.Is(err, store.ErrNotFound) {
			return arm.NotFound(instance.ID.Child("recoveryPoints", name))
		} else if err != nil {
			return err
		}
		found, err = s.recoveryPointResources(tx, &instance, []store.RecoveryPoint{row})
		return err
	})
	if err != nil {
		return RecoveryPointResource{}, err
	}
	return found[0], nil
}

// recoveryPointResources are an instance's recovery points as they are told, with the verdict on each.
func (s *Service) recoveryPointResources(tx *store.Tx, instance *storedInstance, rows []store.RecoveryPoint) ([]RecoveryPointResource, error) {
	decided, err := verdicts(tx, s.Now(), instance)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]retention.Verdict, len(decided))
	for _, v := range decided {
		byName[v.ID] = v
	}
	var out []RecoveryPointResource
	for _, row := range rows {
		p, err := recoveryPointResource(instance.ID, row)
		if err != nil {
			return nil, err
		}
		tellRetention(&p, row, byName[row.Name])
		out = append(out, p)
	}
	return out, nil
}

func recoveryPointResource(instance arm.ID, row store.RecoveryPoint) (RecoveryPointResource, error) {
	p := backup.NewResource(instance.Child("recoveryPoints", row.Name), backup.RecoveryPointType, backup.RecoveryPoint{})
	if err := json.Unmarshal(row.Body, &p.Properties); err != nil {
		return p, fmt.Errorf("stored recovery point %s: %w", row.Name, err)
	}
	return p, nil
}
