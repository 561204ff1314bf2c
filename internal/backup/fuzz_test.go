package backup_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
)

// body is properties of a resource that a client may send.
type body interface {
	Complete()
	Validate() arm.Problems
}

// fuzzBody reads anything as one: an error is a 400, and what is valid is the same when it was written and read again.
func fuzzBody(t *testing.T, text []byte, make func() body) body {
	t.Helper()
	read := func(text []byte) body {
		b := make()
		if err := backup.Decode(text, b); err != nil {
			requireBadRequest(t, err)
			return nil
		}
		b.Complete()
		if err := b.Validate().Err(); err != nil {
			requireBadRequest(t, err)
			return nil
		}
		return b
	}
	first := read(text)
	if first == nil {
		return nil
	}
	written := encode(t, first)
	second := read([]byte(written))
	if second == nil {
		t.Fatalf("what was written cannot be read: %s", written)
	}
	if diff := cmp.Diff(written, encode(t, second)); diff != "" {
		t.Fatal(diff)
	}
	return second
}

func FuzzVault(f *testing.F) {
	f.Add([]byte(`{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}],"securitySettings":{"softDeleteSettings":{"state":"On","retentionDurationInDays":14.5}}}`))
	f.Add([]byte(`{"storage_settings":[{"datastore_type":"vaultstore","type":"geoRedundant"}],"featureSettings":{"crossRegionRestoreSettings":{"state":"enabled"}},"monitoringSettings":{"azureMonitorAlertSettings":{}}}`))
	f.Add([]byte(`{"storageSettings":[null],"securitySettings":{"softDeleteSettings":null,"immutabilitySettings":{},"encryptionSettings":{"state":"x"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if v, ok := fuzzBody(t, text, func() body { return &backup.Vault{} }).(*backup.Vault); ok {
			if err := v.CheckChange(v); err != nil {
				t.Fatalf("it may not stay as it is: %v", err)
			}
		}
	})
}

func FuzzGuard(f *testing.F) {
	f.Add([]byte(`{"vaultCriticalOperationExclusionList":["Microsoft.DataProtection/backupVaults/backupInstances/delete"]}`))
	f.Add([]byte(`{"vaultCriticalOperationExclusionList":[null,""],"resourceGuardOperations":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) { fuzzBody(t, text, func() body { return &backup.Guard{} }) })
}

// FuzzActions reads anything as the bodies of a vault's and an instance's actions.
func FuzzActions(f *testing.F) {
	f.Add([]byte(`{"backupRuleOptions":{"ruleName":"BackupDaily","triggerOption":{"retentionTagOverride":"Default"}}}`))
	f.Add([]byte(`{"backupInstance":` + guideInstance + `}`))
	f.Add([]byte(`{"restoreRequestObject":` + azureRestore + `}`))
	f.Add([]byte(`{"backup_rule_options":null,"backupInstance":{"policyInfo":{"policyParameters":{"dataStoreParametersList":[null]}}},"restoreRequestObject":{"restoreTargetInfo":{"restoreCriteria":[null]}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		policy := readPolicy(t, guidePolicy)
		var adhoc backup.AdhocRequest
		if err := backup.Decode(text, &adhoc); err != nil {
			requireBadRequest(t, err)
		} else if tag, problems := adhoc.Validate(policy); problems.Err() != nil {
			requireBadRequest(t, problems.Err())
		} else if tag == "" {
			t.Fatal("a backup without a tag")
		}
		var validation backup.ValidateRequest
		if err := backup.Decode(text, &validation); err != nil {
			requireBadRequest(t, err)
		} else if i := validation.Instance; i != nil {
			i.Complete()
			if err := i.Validate("backupInstance").Err(); err != nil {
				requireBadRequest(t, err)
			}
		}
		var restore backup.ValidateRestoreRequest
		if err := backup.Decode(text, &restore); err != nil {
			requireBadRequest(t, err)
		} else if r := restore.Request; r != nil {
			r.Complete(&backup.Datasource{ResourceID: clusterID})
			if err := r.Validate("restoreRequestObject").Err(); err != nil {
				requireBadRequest(t, err)
			}
		}
	})
}
