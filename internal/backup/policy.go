package backup

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/iso8601"
	"github.com/cairn-backup/cairn/internal/retention"
	"github.com/cairn-backup/cairn/internal/schedule"
)

// PolicyType is the resource type of a policy.
const PolicyType = VaultType + "/backupPolicies"

// DefaultTag names the retention rule that every policy has, and the tag of what no other rule takes.
const DefaultTag = "Default"

// Policy is the properties of a backup policy: one backup rule and its retention rules, one of them Default.
type Policy struct {
	ObjectType      string   `json:"objectType"`
	DatasourceTypes []string `json:"datasourceTypes"`
	Rules           []Rule   `json:"policyRules"`
}

// Rule is either a backup rule or a retention rule.
type Rule struct {
	Backup    *BackupRule
	Retention *RetentionRule
	// unknown is an objectType that is neither, for Validate to name.
	unknown string
}

// BackupRule is when to back up and how to tag what was made. Its name is what an ad-hoc backup refers to.
type BackupRule struct {
	ObjectType string            `json:"objectType"`
	Name       string            `json:"name"`
	Parameters *BackupParameters `json:"backupParameters,omitempty"`
	DataStore  *DataStore        `json:"dataStore,omitempty"`
	Trigger    *Trigger          `json:"trigger,omitempty"`
}

// BackupParameters say which kind of backup it is.
type BackupParameters struct {
	ObjectType string `json:"objectType"`
	BackupType string `json:"backupType"`
}

// DataStore names a data store.
type DataStore struct {
	ObjectType    string `json:"objectType"`
	DataStoreType string `json:"dataStoreType"`
}

// Trigger is a schedule with the criteria that tag its recovery points.
type Trigger struct {
	ObjectType string            `json:"objectType"`
	Schedule   *Schedule         `json:"schedule,omitempty"`
	Tagging    []TaggingCriteria `json:"taggingCriteria,omitempty"`
}

// Schedule lists repeating intervals, as iso8601.ParseRepeating reads them.
type Schedule struct {
	TimeZone  string   `json:"timeZone,omitempty"`
	Intervals []string `json:"repeatingTimeIntervals"`
}

// TaggingCriteria say which recovery points get a tag. The lower priority wins.
type TaggingCriteria struct {
	IsDefault bool              `json:"isDefault"`
	Priority  *int64            `json:"taggingPriority"`
	Tag       *TagInfo          `json:"tagInfo"`
	Criteria  []BackupCriterion `json:"criteria,omitempty"`
}

// TagInfo is a tag; its name is a retention rule's.
type TagInfo struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"tagName"`
}

// BackupCriterion selects recovery points by their time: the first one of a day, week, month or year.
type BackupCriterion struct {
	ObjectType       string   `json:"objectType"`
	AbsoluteCriteria []string `json:"absoluteCriteria,omitempty"`
	DaysOfTheWeek    []string `json:"daysOfTheWeek,omitempty"`
	WeeksOfTheMonth  []string `json:"weeksOfTheMonth,omitempty"`
	MonthsOfYear     []string `json:"monthsOfYear,omitempty"`
	DaysOfMonth      []struct {
		Date   *int64 `json:"date,omitempty"`
		IsLast *bool  `json:"isLast,omitempty"`
	} `json:"daysOfMonth,omitempty"`
	ScheduleTimes []string `json:"scheduleTimes,omitempty"`
}

// RetentionRule is how long what has the tag of its name is kept, in which store.
type RetentionRule struct {
	ObjectType string      `json:"objectType"`
	Name       string      `json:"name"`
	IsDefault  bool        `json:"isDefault"`
	Lifecycles []Lifecycle `json:"lifecycles"`
}

// Lifecycle is how long a recovery point stays in one store.
type Lifecycle struct {
	DeleteAfter *DeleteOption `json:"deleteAfter"`
	Source      *DataStore    `json:"sourceDataStore"`
	Copies      []CopySetting `json:"targetDataStoreCopySettings,omitzero"`
}

// DeleteOption is a lifetime, as iso8601.ParseDuration reads it.
type DeleteOption struct {
	ObjectType string `json:"objectType"`
	Duration   string `json:"duration"`
}

// CopySetting copies to another store.
type CopySetting struct {
	CopyAfter *struct {
		ObjectType string `json:"objectType"`
		Duration   string `json:"duration,omitempty"`
	} `json:"copyAfter,omitempty"`
	DataStore *DataStore `json:"dataStore,omitempty"`
}

const (
	backupRuleType    = "AzureBackupRule"
	retentionRuleType = "AzureRetentionRule"
)

// UnmarshalJSON reads the kind of rule that objectType names; Validate tells of any other.
func (r *Rule) UnmarshalJSON(raw []byte) error {
	var head struct {
		ObjectType string `json:"objectType"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err
	}
	*r = Rule{}
	switch {
	case strings.EqualFold(head.ObjectType, backupRuleType):
		r.Backup = &BackupRule{}
		return json.Unmarshal(raw, r.Backup)
	case strings.EqualFold(head.ObjectType, retentionRuleType):
		r.Retention = &RetentionRule{}
		return json.Unmarshal(raw, r.Retention)
	}
	r.unknown = head.ObjectType
	return nil
}

// MarshalJSON writes the rule with its objectType.
func (r Rule) MarshalJSON() ([]byte, error) {
	switch {
	case r.Backup != nil:
		return json.Marshal(r.Backup)
	case r.Retention != nil:
		return json.Marshal(r.Retention)
	}
	return json.Marshal(struct {
		ObjectType string `json:"objectType"`
	}{r.unknown})
}

// UnmarshalJSON reads a schedule's trigger; of any other it keeps the objectType, for Validate to tell of.
func (t *Trigger) UnmarshalJSON(raw []byte) error {
	var head struct {
		ObjectType string `json:"objectType"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err
	}
	if head.ObjectType != "" && !strings.EqualFold(head.ObjectType, triggerType) {
		*t = Trigger{ObjectType: head.ObjectType}
		return nil
	}
	type plain Trigger
	return json.Unmarshal(raw, (*plain)(t))
}

const triggerType = "ScheduleBasedTriggerContext"

// BackupRule is the policy's backup rule of that name, in any letter case, or nil.
func (p *Policy) BackupRule(name string) *BackupRule {
	for _, r := range p.Rules {
		if r.Backup != nil && strings.EqualFold(r.Backup.Name, name) {
			return r.Backup
		}
	}
	return nil
}

// RetentionRule is the policy's retention rule of that name, in any letter case, or nil.
func (p *Policy) RetentionRule(name string) *RetentionRule {
	for _, r := range p.Rules {
		if r.Retention != nil && strings.EqualFold(r.Retention.Name, name) {
			return r.Retention
		}
	}
	return nil
}

// RuleNames are the names of the backup rules, or of the retention rules.
func (p *Policy) RuleNames(retention bool) []string {
	var names []string
	for _, r := range p.Rules {
		switch {
		case retention && r.Retention != nil:
			names = append(names, r.Retention.Name)
		case !retention && r.Backup != nil:
			names = append(names, r.Backup.Name)
		}
	}
	return names
}

// Complete fills in the object types that can be only one thing, the tags' IDs, and Azure's letter case.
func (p *Policy) Complete() {
	p.ObjectType = spelling(p.ObjectType, "BackupPolicy")
	for i, t := range p.DatasourceTypes {
		p.DatasourceTypes[i] = datasourceType(t)
	}
	for _, r := range p.Rules {
		if r.Backup != nil {
			r.Backup.complete()
		}
		if r.Retention != nil {
			r.Retention.complete()
		}
	}
}

// datasourceType puts the type into Azure's letter case, and takes the az CLI's word for it too.
func datasourceType(t string) string {
	if strings.EqualFold(t, "AzureKubernetesService") {
		return ClusterType
	}
	return spelling(t, "", ClusterType)
}

func (r *BackupRule) complete() {
	r.ObjectType = backupRuleType
	if r.Parameters == nil {
		r.Parameters = &BackupParameters{}
	}
	r.Parameters.ObjectType = spelling(r.Parameters.ObjectType, "AzureBackupParams")
	r.Parameters.BackupType = spelling(r.Parameters.BackupType, "Incremental")
	if r.DataStore == nil {
		r.DataStore = &DataStore{DataStoreType: OperationalStore}
	}
	r.DataStore.complete()
	if r.Trigger == nil {
		return
	}
	r.Trigger.ObjectType = spelling(r.Trigger.ObjectType, triggerType)
	for i := range r.Trigger.Tagging {
		c := &r.Trigger.Tagging[i]
		if c.Tag != nil {
			c.Tag.Name = spelling(c.Tag.Name, "", DefaultTag)
			if c.Tag.ID == "" && c.Tag.Name != "" {
				c.Tag.ID = c.Tag.Name + "_"
			}
		}
		for j := range c.Criteria {
			c.Criteria[j].ObjectType = spelling(c.Criteria[j].ObjectType, "ScheduleBasedBackupCriteria")
		}
	}
}

func (r *RetentionRule) complete() {
	r.ObjectType = retentionRuleType
	r.Name = spelling(r.Name, "", DefaultTag)
	for i := range r.Lifecycles {
		l := &r.Lifecycles[i]
		if l.DeleteAfter != nil {
			l.DeleteAfter.ObjectType = spelling(l.DeleteAfter.ObjectType, "AbsoluteDeleteOption")
		}
		l.Source.complete()
	}
}

func (d *DataStore) complete() {
	if d != nil {
		d.ObjectType = spelling(d.ObjectType, "DataStoreInfoBase")
		d.DataStoreType = spelling(d.DataStoreType, "", OperationalStore, VaultStore, ArchiveStore)
	}
}

// Validate names everything that is wrong, with targets below "properties". Call Complete first.
func (p *Policy) Validate() arm.Problems {
	var problems arm.Problems
	choose(&problems, "properties.objectType", p.ObjectType, "BackupPolicy")
	if len(p.DatasourceTypes) == 0 {
		problems.AddError(arm.Invalid("properties.datasourceTypes", "datasourceTypes is required.").
			WithAction(`Use ["` + ClusterType + `"].`))
	}
	for i, t := range p.DatasourceTypes {
		choose(&problems, fmt.Sprintf("properties.datasourceTypes[%d]", i), t, ClusterType)
	}
	if len(p.Rules) == 0 {
		problems.AddError(arm.Invalid("properties.policyRules", "policyRules is required: a policy has one AzureBackupRule and an AzureRetentionRule named Default.").
			WithAction("Add the rules; a body whose rules were dropped usually lacked \"objectType\": \"BackupPolicy\"."))
		return problems
	}
	for i, r := range p.Rules {
		at := fmt.Sprintf("properties.policyRules[%d]", i)
		switch {
		case r.Backup != nil:
			r.Backup.validate(&problems, at, p)
		case r.Retention != nil:
			r.Retention.validate(&problems, at)
		default:
			choose(&problems, at+".objectType", r.unknown, backupRuleType, retentionRuleType)
		}
	}
	p.validateNames(&problems)
	return problems
}

// validateNames checks what the rules are to each other.
func (p *Policy) validateNames(problems *arm.Problems) {
	unknown := slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Backup == nil && r.Retention == nil })
	if names := p.RuleNames(false); len(names) != 1 && !unknown {
		problems.AddError(arm.Invalid("properties.policyRules", "The policy has %d backup rules; it must have exactly one.", len(names)).
			WithAction("Give it one rule with objectType AzureBackupRule."))
	}
	seen := map[string]bool{}
	for i, r := range p.Rules {
		name := r.name()
		if name == "" {
			continue // reported where it is
		}
		if seen[strings.ToLower(name)] {
			problems.AddError(arm.Invalid(fmt.Sprintf("properties.policyRules[%d].name", i), "Two rules are named '%s'.", name).
				WithAction("Give each rule a name of its own."))
		}
		seen[strings.ToLower(name)] = true
	}
	if p.RetentionRule(DefaultTag) == nil && !unknown {
		problems.AddError(arm.Invalid("properties.policyRules", "The policy has no retention rule named Default.").
			WithAction(`Add a rule with "objectType": "AzureRetentionRule", "name": "Default", "isDefault": true and a lifecycle for OperationalStore.`))
	}
}

func (r Rule) name() string {
	switch {
	case r.Backup != nil:
		return r.Backup.Name
	case r.Retention != nil:
		return r.Retention.Name
	}
	return ""
}

func (r *BackupRule) validate(problems *arm.Problems, at string, p *Policy) {
	required(problems, at+".name", r.Name)
	choose(problems, at+".backupParameters.objectType", r.Parameters.ObjectType, "AzureBackupParams")
	choose(problems, at+".backupParameters.backupType", r.Parameters.BackupType, "Incremental")
	r.DataStore.validate(problems, at+".dataStore", OperationalStore)
	if r.Trigger == nil {
		problems.AddError(arm.Invalid(at+".trigger", "trigger is required.").WithAction("Add a " + triggerType + " with a schedule and taggingCriteria."))
		return
	}
	if choose(problems, at+".trigger.objectType", r.Trigger.ObjectType, triggerType) == triggerType {
		r.Trigger.validate(problems, at+".trigger", p)
	}
}

func required(problems *arm.Problems, target, value string) {
	if value == "" {
		problems.AddError(arm.Invalid(target, "%s is required.", last(target)).WithAction("Set it."))
	}
}

func (d *DataStore) validate(problems *arm.Problems, at string, allowed ...string) {
	if d == nil {
		problems.AddError(arm.Invalid(at, "%s is required.", last(at)).
			WithAction(`Set it to {"objectType": "DataStoreInfoBase", "dataStoreType": "OperationalStore"}.`))
		return
	}
	choose(problems, at+".objectType", d.ObjectType, "DataStoreInfoBase")
	if d.DataStoreType == VaultStore {
		noVaultTier(problems, at+".dataStoreType")
		return
	}
	choose(problems, at+".dataStoreType", d.DataStoreType, allowed...)
}

// noVaultTier is Azure's own answer where a region has no vault tier.
func noVaultTier(problems *arm.Problems, target string) {
	problems.AddError((&arm.Error{Status: 400, Code: "DppUserErrorVaultTierPolicyNotSupported", Target: target,
		Message: "The vault tier is not available: no copy would be made to VaultStore."}).
		WithAction("Use OperationalStore alone, and leave targetDataStoreCopySettings empty."))
}

func (t *Trigger) validate(problems *arm.Problems, at string, p *Policy) {
	t.Schedule.validate(problems, at+".schedule")
	defaults, priorities := 0, map[int64]bool{}
	for i, c := range t.Tagging {
		c.validate(problems, fmt.Sprintf("%s.taggingCriteria[%d]", at, i), p)
		if c.IsDefault {
			defaults++
		}
		if c.Priority != nil {
			if priorities[*c.Priority] {
				problems.AddError(arm.Invalid(fmt.Sprintf("%s.taggingCriteria[%d].taggingPriority", at, i), "Two criteria have the priority %d.", *c.Priority).
					WithAction("Give each a priority of its own; the lower number wins."))
			}
			priorities[*c.Priority] = true
		}
	}
	if defaults != 1 {
		problems.AddError(arm.Invalid(at+".taggingCriteria", "%d of the taggingCriteria are the default one; it must be exactly one.", defaults).
			WithAction(`Add {"isDefault": true, "taggingPriority": 99, "tagInfo": {"tagName": "Default"}}.`))
	}
}

func (s *Schedule) validate(problems *arm.Problems, at string) {
	if s == nil || len(s.Intervals) == 0 {
		problems.AddError(arm.Invalid(at+".repeatingTimeIntervals", "repeatingTimeIntervals is required.").
			WithAction("Name one interval or more, as in R/2026-02-16T04:00:00+00:00/P1D."))
		return
	}
	for i, text := range s.Intervals {
		if _, err := schedule.ParseInterval(text); err != nil {
			problems.AddError(arm.Invalid(fmt.Sprintf("%s.repeatingTimeIntervals[%d]", at, i), "The %s.", err).
				WithAction("Write it as R/2026-02-16T04:00:00+00:00/P1D, with one of: " + strings.Join(schedule.Durations(), ", ") + "."))
		}
	}
	if _, err := schedule.Zone(s.TimeZone); err != nil {
		problems.AddError(arm.Invalid(at+".timeZone", "The %s.", err).WithAction("Use one of these, or leave it out for UTC."))
	}
}

func (c *TaggingCriteria) validate(problems *arm.Problems, at string, p *Policy) {
	if c.Priority == nil {
		problems.AddError(arm.Invalid(at+".taggingPriority", "taggingPriority is required.").
			WithAction("Set a number; Default usually has 99, and the lower number wins."))
	}
	if c.Tag == nil || c.Tag.Name == "" {
		required(problems, at+".tagInfo.tagName", "")
		return
	}
	rule := p.RetentionRule(c.Tag.Name)
	switch {
	case c.IsDefault && c.Tag.Name != DefaultTag:
		problems.AddError(arm.Invalid(at+".tagInfo.tagName", "The default criteria have the tag '%s'.", c.Tag.Name).WithAction("Use the tag Default."))
	case rule == nil:
		problems.AddError(arm.Invalid(at+".tagInfo.tagName", "The policy has no retention rule named '%s'.", c.Tag.Name).
			WithAction("Use one of: " + strings.Join(p.RuleNames(true), ", ") + "; or add the rule."))
	}
	if !c.IsDefault && len(c.Criteria) == 0 {
		problems.AddError(arm.Invalid(at+".criteria", "criteria is required for a tag that is not the default one.").
			WithAction(`Say which backups get the tag, as in [{"objectType": "ScheduleBasedBackupCriteria", "absoluteCriteria": ["FirstOfDay"]}].`))
	}
	for i := range c.Criteria {
		c.Criteria[i].validate(problems, fmt.Sprintf("%s.criteria[%d]", at, i), c.IsDefault)
	}
}

// validate takes the criteria that Azure takes for AKS; those of the default tag, which is for what no other takes, can only say so.
func (b *BackupCriterion) validate(problems *arm.Problems, at string, isDefault bool) {
	choose(problems, at+".objectType", b.ObjectType, "ScheduleBasedBackupCriteria")
	for _, given := range []struct {
		name string
		n    int
	}{{"daysOfTheWeek", len(b.DaysOfTheWeek)}, {"weeksOfTheMonth", len(b.WeeksOfTheMonth)}, {"monthsOfYear", len(b.MonthsOfYear)},
		{"daysOfMonth", len(b.DaysOfMonth)}, {"scheduleTimes", len(b.ScheduleTimes)}} {
		if given.n > 0 {
			problems.AddError(arm.BadRequest(CodeNotSupported, "%s is not supported for Kubernetes clusters, as in Azure.", given.name).WithTarget(at + "." + given.name).
				WithAction("Leave it out, and use absoluteCriteria with one of: " + strings.Join(markers(), ", ") + "."))
		}
	}
	if len(b.AbsoluteCriteria) == 0 {
		problems.AddError(arm.Invalid(at+".absoluteCriteria", "absoluteCriteria is required.").
			WithAction("Use one of: " + strings.Join(markers(), ", ") + "."))
	}
	allowed := markers()
	if isDefault {
		allowed = allowed[:1]
	}
	chooseAll(problems, at+".absoluteCriteria", b.AbsoluteCriteria, allowed)
}

// markers are Azure's words for the moments of the calendar; AllBackup is the first.
func markers() []string {
	var words []string
	for _, c := range retention.Criteria() {
		words = append(words, string(c))
	}
	return words
}

func chooseAll(problems *arm.Problems, at string, values, allowed []string) {
	for i := range values {
		values[i] = choose(problems, fmt.Sprintf("%s[%d]", at, i), values[i], allowed...)
	}
}

func (r *RetentionRule) validate(problems *arm.Problems, at string) {
	required(problems, at+".name", r.Name)
	if r.IsDefault != (r.Name == DefaultTag) && r.Name != "" {
		problems.AddError(arm.Invalid(at+".isDefault", "The rule '%s' has isDefault %t.", r.Name, r.IsDefault).
			WithAction("The rule named Default, and no other, has isDefault true."))
	}
	if len(r.Lifecycles) == 0 {
		problems.AddError(arm.Invalid(at+".lifecycles", "lifecycles is required.").
			WithAction("Say how long a recovery point stays in OperationalStore."))
	}
	sources := map[string]bool{}
	for i, l := range r.Lifecycles {
		at := fmt.Sprintf("%s.lifecycles[%d]", at, i)
		l.validate(problems, at)
		if l.Source == nil {
			continue
		}
		if sources[l.Source.DataStoreType] {
			problems.AddError(arm.Invalid(at+".sourceDataStore", "Two lifecycles are for %s.", l.Source.DataStoreType).
				WithAction("Keep one of them."))
		}
		sources[l.Source.DataStoreType] = true
	}
}

func (l *Lifecycle) validate(problems *arm.Problems, at string) {
	l.Source.validate(problems, at+".sourceDataStore", OperationalStore)
	if len(l.Copies) > 0 {
		noVaultTier(problems, at+".targetDataStoreCopySettings")
	}
	if l.DeleteAfter == nil {
		problems.AddError(arm.Invalid(at+".deleteAfter", "deleteAfter is required.").
			WithAction(`Set it to {"objectType": "AbsoluteDeleteOption", "duration": "P30D"}.`))
		return
	}
	choose(problems, at+".deleteAfter.objectType", l.DeleteAfter.ObjectType, "AbsoluteDeleteOption")
	target := at + ".deleteAfter.duration"
	d, err := iso8601.ParseDuration(l.DeleteAfter.Duration)
	if err != nil {
		problems.AddError(arm.Invalid(target, "The %s.", err).WithAction("Write it as P30D."))
		return
	}
	// Months and years are measured in a year of 365 days that begins on 1 January.
	begin := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	switch kept := d.AddTo(begin); {
	case kept.Before(begin.AddDate(0, 0, shortestLife)):
		problems.AddError(arm.Invalid(target, "%s is less than a day, the least that a recovery point is kept.", l.DeleteAfter.Duration).WithAction("Write it as P30D."))
	case kept.After(begin.AddDate(0, 0, longestLife)):
		problems.AddError(arm.Invalid(target, "%s is more than %d days, the most that OperationalStore keeps a recovery point, as in Azure.", l.DeleteAfter.Duration, longestLife).
			WithAction(fmt.Sprintf("Use P%dD or less.", longestLife)))
	}
}

// shortestLife and longestLife are Azure's limits of what OperationalStore keeps a recovery point for, in days.
const (
	shortestLife = 1
	longestLife  = 360
)
