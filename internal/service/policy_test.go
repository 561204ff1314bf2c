package service_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

const vaultID arm.ID = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/g/providers/Microsoft.DataProtection/backupVaults/vault"

// TestAVaultHasRoomFor5000Policies fills a vault's table, but for the last policy.
func TestAVaultHasRoomFor5000Policies(t *testing.T) {
	ctx := context.Background()
	db, err := store.Open(ctx, filepath.Join(t.TempDir(), "state.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(ctx, func(tx *store.Tx) error {
		vault := store.Resource{ID: vaultID}
		if err := tx.Save(&vault, backup.VaultResource{Resource: backup.NewResource(vaultID, backup.VaultType, backup.Vault{})}); err != nil {
			return err
		}
		for i := range 4999 {
			r := store.Resource{ID: vaultID.Child("backupPolicies", fmt.Sprintf("p%d", i)), Body: []byte("{}")}
			if err := tx.Put(&r); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s := &service.Service{DB: db, Now: time.Now}
	put := func(name string) error {
		_, err := s.PutPolicy(ctx, service.Ref{}, vaultID.Child("backupPolicies", name), policyInput(t), func(string) error { return nil })
		return err
	}
	if err := put("last"); err != nil {
		t.Fatal(err)
	}
	var refused *arm.Error
	if err := put("toomany"); !errors.As(err, &refused) || refused.Status != 400 || refused.Code != "UserErrorVaultLimitReached" {
		t.Errorf("one too many: %v", err)
	}
	if err := put("last"); err != nil {
		t.Errorf("a policy of a full vault cannot be put again: %v", err)
	}
}

func policyInput(t *testing.T) *backup.Input[backup.Policy] {
	t.Helper()
	in, err := backup.DecodeInput[backup.Policy]([]byte(`{"policyRules":[
	 {"objectType":"AzureBackupRule","name":"BackupDaily","trigger":{"schedule":{"repeatingTimeIntervals":["R/2026-02-16T04:00:00+00:00/P1D"]},
	  "taggingCriteria":[{"isDefault":true,"taggingPriority":99,"tagInfo":{"tagName":"Default"}}]}},
	 {"objectType":"AzureRetentionRule","name":"Default","isDefault":true,"lifecycles":[
	  {"deleteAfter":{"duration":"P30D"},"sourceDataStore":{"dataStoreType":"OperationalStore"}}]}],
	 "datasourceTypes":["Microsoft.ContainerService/managedClusters"]}`))
	if err != nil {
		t.Fatal(err)
	}
	return in
}
