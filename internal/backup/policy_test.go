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
		"no time":                {`"P30D"`, `"P0D"`, "properties.policyRules[0].lifecycles[0].deleteAfter.duration", "P0D is less than a day"},
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
		"second interval":        {`R/2026-02-16T04:00:00+00:00/P1D"`, `R/2026-02-16T04:00:00+00:00/P1D", "R/2026-02-16T04:00:00+00:00/P2D"`, "properties.policyRules[1].trigger.schedule.repeatingTimeIntervals[1]", "P2D"},
		"unknown time zone":      {`"schedule": {`, `"schedule": {"timeZone": "Middle-earth", `, "properties.policyRules[1].trigger.schedule.timeZone", "Middle-earth"},
		"days of the week":       {`"taggingCriteria": [`, `"taggingCriteria": [{"tagInfo": {"tagName": "Default"}, "criteria": [{"daysOfTheWeek": ["Monday"]}]}, `, "properties.policyRules[1].trigger.taggingCriteria[0].criteria[0].daysOfTheWeek", "not supported"},
		"days of the month":      {`"taggingCriteria": [`, `"taggingCriteria": [{"tagInfo": {"tagName": "Default"}, "criteria": [{"daysOfMonth": [{"date": 1}]}]}, `, "properties.policyRules[1].trigger.taggingCriteria[0].criteria[0].daysOfMonth", "not supported"},
		"criteria of nothing":    {`"taggingCriteria": [`, `"taggingCriteria": [{"tagInfo": {"tagName": "Default"}, "criteria": [{}]}, `, "properties.policyRules[1].trigger.taggingCriteria[0].criteria[0].absoluteCriteria", "required"},
		"unknown criterion":      {`"taggingCriteria": [`, `"taggingCriteria": [{"tagInfo": {"tagName": "Default"}, "criteria": [{"absoluteCriteria": ["LastOfDay"]}]}, `, "properties.policyRules[1].trigger.taggingCriteria[0].criteria[0].absoluteCriteria[0]", "LastOfDay"},
		"default with criteria":  {`"taggingPriority": 99`, `"taggingPriority": 99, "criteria": [{"absoluteCriteria": ["FirstOfDay"]}]`, "properties.policyRules[1].trigger.taggingCriteria[0].criteria[0].absoluteCriteria[0]", "FirstOfDay"},
		"no criteria":            {`"taggingCriteria": [`, `"taggingCriteria": [{"tagInfo": {"tagName": "Default"}}, `, "properties.policyRules[1].trigger.taggingCriteria[0].criteria", "required"},
		"no priority":            {`, "taggingPriority": 99`, ``, "properties.policyRules[1].trigger.taggingCriteria[0].taggingPriority", "required"},
		"priority twice":         {`"taggingCriteria": [`, `"taggingCriteria": [{"tagInfo": {"tagName": "Default"}, "taggingPriority": 99, "criteria": [{"absoluteCriteria": ["FirstOfDay"]}]}, `, "properties.policyRules[1].trigger.taggingCriteria[1].taggingPriority", "99"},
		"two defaults":           {`"taggingCriteria": [`, `"taggingCriteria": [{"isDefault": true, "tagInfo": {"tagName": "Default"}, "taggingPriority": 98}, `, "properties.policyRules[1].trigger.taggingCriteria", "exactly one"},
		"kept too short":         {`"P30D"`, `"PT23H59M"`, "properties.policyRules[0].lifecycles[0].deleteAfter.duration", "less than a day"},
		"kept too long":          {`"P30D"`, `"P361D"`, "properties.policyRules[0].lifecycles[0].deleteAfter.duration", "360 days"},
		"kept for a year":        {`"P30D"`, `"P1Y"`, "properties.policyRules[0].lifecycles[0].deleteAfter.duration", "360 days"},
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

func TestWhatTheServiceTakesIsValid(t *testing.T) {
	for name, c := range map[string]struct{ old, new string }{
		"several intervals": {`["R/2026-02-16T04:00:00+00:00/P1D"]`, `["R/2026-02-16T04:00:00+00:00/P1W", "R5/2026-02-18T04:00:00Z/P7D", "R/1970-01-01/PT4H"]`},
		"a Windows zone":    {`"schedule": {`, `"schedule": {"timeZone": "W. Europe Standard Time", `},
		"an IANA zone":      {`"schedule": {`, `"schedule": {"timeZone": "Asia/Kathmandu", `},
		"no zone":           {`"schedule": {`, `"schedule": {"timeZone": "", `},
		"a day":             {`"P30D"`, `"PT24H"`},
		"360 days":          {`"P30D"`, `"P360D"`},
		"months":            {`"P30D"`, `"P11M"`},
		"what SDKs send":    {`"taggingPriority": 99`, `"taggingPriority": 99, "criteria": [{"absoluteCriteria": ["allbackup"], "daysOfTheWeek": null, "monthsOfYear": null, "scheduleTimes": []}]`},
		"the day's first": {`"taggingCriteria": [`, `"taggingCriteria": [{"tagInfo": {"tagName": "default"}, "taggingPriority": 1,
			"criteria": [{"absoluteCriteria": ["FirstOfDay"]}, {"absoluteCriteria": ["FirstOfYear"]}]}, `},
	} {
		if err := readPolicy(t, strings.Replace(guidePolicy, c.old, c.new, 1)).Validate().Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
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
