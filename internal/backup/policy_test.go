package backup_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
)

// guidePolicy is a policy as people write it by hand: no objectType, no tag IDs.
const guidePolicy = `{
  "policyRules": [
    {"name": "Default", "objectType": "AzureRetentionRule", "isDefault": true, "lifecycles": [
      {"deleteAfter": {"objectType": "AbsoluteDeleteOption", "duration": "P30D"},
       "sourceDataStore": {"dataStoreType": "OperationalStore", "objectType": "DataStoreInfoBase"}}]},
    {"name": "BackupDaily", "objectType": "AzureBackupRule",
     "backupParameters": {"objectType": "AzureBackupParams", "backupType": "Incremental"},
     "dataStore": {"dataStoreType": "OperationalStore", "objectType": "DataStoreInfoBase"},
     "trigger": {"objectType": "ScheduleBasedTriggerContext",
       "schedule": {"repeatingTimeIntervals": ["R/2026-02-16T04:00:00+00:00/P1D"]},
       "taggingCriteria": [{"isDefault": true, "tagInfo": {"tagName": "Default"}, "taggingPriority": 99}]}}],
  "datasourceTypes": ["Microsoft.ContainerService/managedClusters"]}`

func readPolicy(t *testing.T, body string) *backup.Policy {
	t.Helper()
	var p backup.Policy
	if err := backup.Decode([]byte(body), &p); err != nil {
		t.Fatalf("%v", err)
	}
	p.Complete()
	return &p
}

func TestGuidesPolicyIsCompleted(t *testing.T) {
	p := readPolicy(t, guidePolicy)
	if err := p.Validate().Err(); err != nil {
		t.Fatal(err)
	}
	if p.ObjectType != "BackupPolicy" {
		t.Errorf("objectType is %q", p.ObjectType)
	}
	if id := p.BackupRule("backupdaily").Trigger.Tagging[0].Tag.ID; id != "Default_" {
		t.Errorf("the tag's id is %q", id)
	}
}

func TestPolicyIsReadInAnyLetterCase(t *testing.T) {
	odd := strings.NewReplacer(`"policyRules"`, `"POLICYRULES"`, `"tagName"`, `"tag_name"`, `"AzureBackupRule"`, `"azurebackuprule"`,
		`"OperationalStore"`, `"operationalstore"`, `"Microsoft.ContainerService/managedClusters"`, `"AzureKubernetesService"`).Replace(guidePolicy)
	want, got := readPolicy(t, guidePolicy), readPolicy(t, odd)
	if err := got.Validate().Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(encode(t, want), encode(t, got)); diff != "" {
		t.Error(diff)
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWrongPoliciesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ old, new, target, says string }{
		"no rules":               {guidePolicy, `{"objectType":"BackupPolicy","datasourceTypes":["AzureKubernetesService"]}`, "properties.policyRules", "policyRules is required"},
		"unknown rule":           {`"AzureBackupRule"`, `"AzureMagicRule"`, "properties.policyRules[1].objectType", "AzureMagicRule"},
		"unknown policy type":    {`"policyRules"`, `"objectType":"Sorcery","policyRules"`, "properties.objectType", "Sorcery"},
		"no rule type":           {`"objectType": "AzureRetentionRule", `, ``, "properties.policyRules[0].objectType", "required"},
		"wrong store":            {`"dataStoreType": "OperationalStore"`, `"dataStoreType": "ShoeBox"`, "properties.policyRules[0].lifecycles[0].sourceDataStore.dataStoreType", "ShoeBox"},
		"vault store":            {`"dataStoreType": "OperationalStore"`, `"dataStoreType": "VaultStore"`, "properties.policyRules[0].lifecycles[0].sourceDataStore.dataStoreType", "vault tier"},
		"no default":             {`"name": "Default", "objectType": "AzureRetentionRule", "isDefault": true`, `"name": "Other", "objectType": "AzureRetentionRule", "isDefault": false`, "properties.policyRules", "no retention rule named Default"},
		"default that is not":    {`"isDefault": true, "lifecycles"`, `"isDefault": false, "lifecycles"`, "properties.policyRules[0].isDefault", "isDefault"},
		"bad duration":           {`"P30D"`, `"thirty days"`, "properties.policyRules[0].lifecycles[0].deleteAfter.duration", "thirty days"},
		"no time":                {`"P30D"`, `"P0D"`, "properties.policyRules[0].lifecycles[0].deleteAfter.duration", "zero"},
		"bad interval":           {`R/2026-02-16T04:00:00+00:00/P1D`, `every day`, "properties.policyRules[1].trigger.schedule.repeatingTimeIntervals[0]", "every day"},
		"too often":              {`+00:00/P1D`, `+00:00/PT5M`, "properties.policyRules[1].trigger.schedule.repeatingTimeIntervals[0]", "PT5M"},
		"no interval":            {`"R/2026-02-16T04:00:00+00:00/P1D"`, ``, "properties.policyRules[1].trigger.schedule.repeatingTimeIntervals", "required"},
		"unknown tag":            {`{"isDefault": true, "tagInfo"`, `{"isDefault": false, "taggingPriority": 1, "tagInfo": {"tagName": "Gold"}}, {"isDefault": true, "tagInfo"`, "properties.policyRules[1].trigger.taggingCriteria[0].tagInfo.tagName", "Gold"},
		"no default criteria":    {`{"isDefault": true, "tagInfo": {"tagName": "Default"}, "taggingPriority": 99}`, ``, "properties.policyRules[1].trigger.taggingCriteria", "exactly one"},
		"wrong backup type":      {`"Incremental"`, `"Differential"`, "properties.policyRules[1].backupParameters.backupType", "Differential"},
		"other trigger":          {`"ScheduleBasedTriggerContext"`, `"AdhocBasedTriggerContext"`, "properties.policyRules[1].trigger.objectType", "AdhocBasedTriggerContext"},
		"other datasource":       {`"Microsoft.ContainerService/managedClusters"`, `"Microsoft.Compute/disks"`, "properties.datasourceTypes[0]", "Microsoft.Compute/disks"},
		"no datasource":          {`["Microsoft.ContainerService/managedClusters"]`, `[]`, "properties.datasourceTypes", "required"},
		"rules of the same name": {`"BackupDaily"`, `"Default"`, "properties.policyRules[1].name", "Two rules"},
		"rule without a name":    {`"name": "BackupDaily", `, ``, "properties.policyRules[1].name", "required"},
	} {
		t.Run(name, func(t *testing.T) {
			body := strings.Replace(guidePolicy, c.old, c.new, 1)
			problems := readPolicy(t, body).Validate()
			for _, p := range problems {
				if p.Target == c.target {
					if p.Status != 400 || p.Code == "" || !strings.Contains(p.Message, c.says) || len(p.RecommendedAction) == 0 {
						t.Errorf("%+v", p)
					}
					return
				}
			}
			t.Errorf("no problem with %s among %v", c.target, problems)
		})
	}
}

func TestAllProblemsAreToldAtOnce(t *testing.T) {
	p := readPolicy(t, strings.NewReplacer("P30D", "soon", "AbsoluteDeleteOption", "Never", "P1D", "P1M").Replace(guidePolicy))
	var e *arm.Error
	if !errors.As(p.Validate().Err(), &e) || len(e.Details) != 3 {
		t.Fatalf("%+v", e)
	}
}

func TestAdhocBackupNamesARule(t *testing.T) {
	p := readPolicy(t, guidePolicy)
	for body, want := range map[string]string{
		`{"backupRuleOptions":{"ruleName":"BackupDaily","triggerOption":{}}}`:                                 "default",
		`{"backupRuleOptions":{"ruleName":"backupdaily"}}`:                                                    "default",
		`{"backupRuleOptions":{"ruleName":"BackupDaily","triggerOption":{"retentionTagOverride":"default"}}}`: "Default",
		`{"backupRuleOptions":{"ruleName":"BackupHourly","triggerOption":{}}}`:                                "backupRuleOptions.ruleName",
		`{"backupRuleOptions":{"ruleName":"BackupDaily","triggerOption":{"retentionTagOverride":"Gold"}}}`:    "backupRuleOptions.triggerOption.retentionTagOverride",
		`{}`:                         "backupRuleOptions.ruleName",
		`{"backupRuleOptions":null}`: "backupRuleOptions.ruleName",
	} {
		var r backup.AdhocRequest
		if err := backup.Decode([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		tag, problems := r.Validate(p)
		if len(problems) > 0 {
			tag = problems[0].Target
		}
		if tag != want {
			t.Errorf("%s: %s, want %s", body, tag, want)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(guidePolicy))
	f.Add([]byte(`{"policyRules":[null,{}],"datasource_types":[null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var p backup.Policy
		if err := backup.Decode(body, &p); err != nil {
			requireBadRequest(t, err)
			return
		}
		p.Complete()
		if err := p.Validate().Err(); err != nil {
			requireBadRequest(t, err)
			return
		}
		again := readPolicy(t, encode(t, p))
		if diff := cmp.Diff(encode(t, p), encode(t, again)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func requireBadRequest(t *testing.T, err error) {
	t.Helper()
	var e *arm.Error
	if !errors.As(err, &e) || e.Status != 400 || e.Code == "" || e.Message == "" {
		t.Fatalf("not a bad request: %v", err)
	}
}
