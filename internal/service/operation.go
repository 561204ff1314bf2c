package service

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
)

// The kinds of operations that are about jobs, and of those that wait for a cluster.
const (
	operationBackup          = "Backup"
	operationRestore         = "Restore"
	operationConfigure       = "ConfigureProtection"
	operationValidateBackup  = "ValidateForBackup"
	operationValidateRestore = "ValidateForRestore"
	operationDelete          = "DeleteInstance"
	operationSync            = "SyncInstance"
)

// beginOperation adds an operation that is in progress.
func beginOperation(tx *store.Tx, kind string, resource arm.ID) (store.Operation, error) {
	op := store.Operation{ID: newOperationID(), Kind: kind, Resource: resource, Status: arm.OperationInProgress, Started: tx.Now()}
	return op, tx.PutOperation(op)
}

// endedOperation adds an operation that has ended in the transaction that it began in; the job, if any, carries on alone.
func endedOperation(tx *store.Tx, kind string, resource arm.ID, job *arm.ID) (store.Operation, error) {
	op := store.Operation{ID: newOperationID(), Kind: kind, Resource: resource, Status: arm.OperationSucceeded, Started: tx.Now(), Ended: tx.Now()}
	if job != nil {
		op.Job = *job
	}
	return op, tx.PutOperation(op)
}

// endOperation stores how an operation ended; one that has ended before stays as it is.
func endOperation(tx *store.Tx, id string, failure *arm.Error) error {
	op, err := tx.Operation(id)
	if errors.Is(err, store.ErrNotFound) || err == nil && op.Status != arm.OperationInProgress {
		return nil
	} else if err != nil {
		return err
	}
	op.Status, op.Ended = arm.OperationSucceeded, tx.Now()
	if failure != nil {
		op.Status, op.Error = arm.OperationFailed, failure
	}
	return tx.PutOperation(op)
}

// newOperationID has the form of Azure's, which clients treat as opaque.
func newOperationID() string {
	return base64.StdEncoding.EncodeToString([]byte(newID() + ";" + newID()))
}

// Operation finds an operation on something within a scope. gone says that what it works on is there no more.
func (s *Service) Operation(ctx context.Context, scope arm.ID, id string) (op store.Operation, gone bool, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		op, err = tx.Operation(id)
		if errors.Is(err, store.ErrNotFound) || err == nil && !op.Resource.Within(scope) {
			return &arm.Error{Status: 404, Code: "UserErrorGenericResourceNotFound",
				Message: fmt.Sprintf("There is no operation '%s' here. Operations can be asked for until a week after their end.", id)}
		}
		if err != nil {
			return err
		}
		exists, err := tx.Exists(op.Resource)
		gone = !exists
		return err
	})
	return op, gone, err
}
