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

// TestAVaultHasRoomFor5000OfEach fills a vault with instances, and with policies but for the last one.
func TestAVaultHasRoomFor5000OfEach(t *testing.T) {
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
		for i := range 5000 {
			r := store.Resource{ID: vaultID.Child("backupInstances", fmt.Sprintf("i%d", i)), Body: []byte("{}")}
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
	if _, _, _, err := s.PutInstance(ctx, service.Ref{}, vaultID.Child("backupInstances", "toomany"), instanceInput(), anyETag); !errors.As(err, &refused) || refused.Code != "UserErrorVaultLimitReached" {
		t.Errorf("an instance too many: %v", err)
	}
	if err := put("last"); err != nil {
		t.Errorf("a policy of a full vault cannot be put again: %v", err)
	}
}

func instanceInput() *backup.Input[backup.Instance] {
	return &backup.Input[backup.Instance]{Properties: &backup.Instance{DataSource: &backup.Datasource{ResourceID: string(clusterID)},
		Policy: &backup.PolicyInfo{PolicyID: string(policyID)}}}
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
