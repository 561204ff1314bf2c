package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	policyDocArg = Arg{Names: "--policy", Kind: Object, Required: true, Help: "The policy: JSON or a file with JSON."}
	ruleNameArg  = Arg{Names: "--name -n", Required: true, Help: "Name of the retention rule, which is that of its tag: Default, Daily, Weekly, Monthly, Yearly."}
	tagNameArg   = Arg{Names: "--name -n", Required: true, Help: "Name of the tag: Daily, Weekly, Monthly, Yearly."}
	storeChoices = []string{"ArchiveStore", "OperationalStore", "VaultStore"}
)

// policyEditCommands work on documents and ask nobody: they print the policy, or a part of one for the next command.
var policyEditCommands = []Command{
	{Path: "dataprotection backup-policy trigger create-schedule", Help: "Print a schedule, for `trigger set`.", Run: createSchedule, Verbatim: true,
		Args: []Arg{
			{Names: "--interval-type", Required: true, Choices: []string{"Daily", "Hourly", "Weekly"}, Help: "How often."},
			{Names: "--interval-count", Required: true, Help: "Every so many: 4, 6, 8 or 12 hours, 1 day, 1 week."},
			{Names: "--schedule-days", Kind: Texts, Required: true, Help: "From when on, UTC: 2026-02-16T04:00:00."}},
		Examples: []string{"dataprotection backup-policy trigger create-schedule --interval-type Hourly --interval-count 4 --schedule-days 2026-02-16T04:00:00"}},
	{Path: "dataprotection backup-policy trigger set", Help: "Print the policy with another schedule.", Run: editPolicy(setSchedule), Verbatim: true,
		Args: []Arg{policyDocArg, {Names: "--schedule", Kind: Texts, Required: true, Help: "Repeating intervals, such as R/2026-02-16T04:00:00+00:00/P1D, or the output of `create-schedule`."}}},
	{Path: "dataprotection backup-policy retention-rule create-lifecycle", Help: "Print a lifecycle, for `retention-rule set`.", Run: createLifecycle, Verbatim: true,
		Args: []Arg{
			{Names: "--source-datastore", Required: true, Choices: storeChoices, Help: "Where the backup is."},
			{Names: "--retention-duration-type --type", Required: true, Choices: []string{"Days", "Months", "Weeks", "Years"}, Help: "The unit of how long it is kept."},
			{Names: "--retention-duration-count --count", Required: true, Help: "How many of them."},
			{Names: "--target-datastore", Choices: storeChoices, Help: "Where it is copied to."},
			{Names: "--copy-option", Choices: []string{"CopyOnExpiryOption", "CustomCopyOption", "ImmediateCopyOption"}, Help: "When it is copied."}},
		Examples: []string{"dataprotection backup-policy retention-rule create-lifecycle --source-datastore OperationalStore --type Days --count 30"}},
	{Path: "dataprotection backup-policy retention-rule set", Help: "Print the policy with a retention rule added or changed.", Run: editPolicy(setRetention), Verbatim: true,
		Args: []Arg{policyDocArg, ruleNameArg, {Names: "--lifecycles", Kind: Texts, Required: true, Help: "Outputs of `create-lifecycle`: JSON or files with JSON."}}},
	{Path: "dataprotection backup-policy retention-rule remove", Help: "Print the policy without a retention rule.", Verbatim: true, Args: []Arg{policyDocArg, ruleNameArg},
		Run: editPolicy(func(in *Input, policy map[string]any) error {
			return removeNamed(policy, "policyRules", func(r any) bool { return isRetention(r) && text(r, "name") == in.Text("name") })
		})},
	{Path: "dataprotection backup-policy tag create-absolute-criteria", Help: "Print criteria, for `tag set`.", Verbatim: true,
		Args: []Arg{{Names: "--absolute-criteria", Required: true, Choices: []string{"AllBackup", "FirstOfDay", "FirstOfMonth", "FirstOfWeek", "FirstOfYear"}, Help: "Which backups get the tag."}},
		Run: func(_ context.Context, in *Input) (any, error) {
			return snakeKeys(map[string]any{"objectType": "ScheduleBasedBackupCriteria", "absoluteCriteria": []any{in.Text("absolute-criteria")}}), nil
		}},
	{Path: "dataprotection backup-policy tag create-generic-criteria", Help: "Print criteria, for `tag set`.", Run: createGenericCriteria, Verbatim: true,
		Args: []Arg{
			{Names: "--days-of-week", Kind: Texts, Choices: []string{"Friday", "Monday", "Saturday", "Sunday", "Thursday", "Tuesday", "Wednesday"}, Help: "Days of the week."},
			{Names: "--weeks-of-month", Kind: Texts, Choices: []string{"First", "Fourth", "Last", "Second", "Third"}, Help: "Weeks of the month."},
			{Names: "--months-of-year", Kind: Texts, Choices: []string{"April", "August", "December", "February", "January", "July", "June", "March", "May", "November", "October", "September"}, Help: "Months of the year."},
			{Names: "--days-of-month", Kind: Texts, Help: "Days of the month: 1 to 28, and Last."}}},
	{Path: "dataprotection backup-policy tag set", Help: "Print the policy with a tag added or changed.", Run: editPolicy(setTag), Verbatim: true,
		Args: []Arg{policyDocArg, tagNameArg, {Names: "--criteria", Kind: Texts, Required: true, Help: "Outputs of `create-absolute-criteria`: JSON or files with JSON."}}},
	{Path: "dataprotection backup-policy tag remove", Help: "Print the policy without a tag.", Verbatim: true, Args: []Arg{policyDocArg, tagNameArg},
		Run: editPolicy(func(in *Input, policy map[string]any) error {
			trigger, err := triggerOf(policy)
			if err != nil {
				return err
			}
			return removeNamed(trigger, "taggingCriteria", func(t any) bool { return text(t, "tagInfo", "tagName") == in.Text("name") })
		})},
}

// editPolicy reads the policy, itself or in the resource around it, lets edit change it, and answers it as it came.
func editPolicy(edit func(in *Input, policy map[string]any) error) handler {
	return func(_ context.Context, in *Input) (any, error) {
		doc, err := in.Object("policy")
		if err != nil {
			return nil, err
		}
		inner := doc
		if p := at(doc, "properties"); p != nil {
			inner = p
		}
		policy, err := object(inner)
		if err != nil {
			return nil, usagef("argument --policy: %s", err)
		}
		if err := edit(in, policy); err != nil {
			return nil, usagef("argument --policy: %s", err)
		}
		return doc, nil
	}
}

func isRetention(rule any) bool { return text(rule, "objectType") == "AzureRetentionRule" }

// triggerOf is the trigger of the policy's backup rule.
func triggerOf(policy map[string]any) (map[string]any, error) {
	rules, _ := policy["policyRules"].([]any)
	for _, r := range rules {
		if text(r, "objectType") == "AzureBackupRule" {
			return object(at(r, "trigger"))
		}
	}
	return nil, fmt.Errorf("the policy has no backup rule")
}

// removeNamed takes the elements that match out of a list.
func removeNamed(of map[string]any, list string, match func(any) bool) error {
	all, _ := of[list].([]any)
	left := slices.DeleteFunc(slices.Clone(all), match)
	if len(left) == len(all) {
		return fmt.Errorf("%s has no element of that name", list)
	}
	of[list] = left
	return nil
}

// documents are the documents of an option's words, each JSON or a file; lists are taken apart.
func (in *Input) documents(key string) ([]any, error) {
	var out []any
	for _, word := range in.Texts(key) {
		v, err := decodeDocument(word)
		if err != nil {
			return nil, usagef("argument --%s: %s", key, err)
		}
		v = camelKeys(v)
		if list, ok := v.([]any); ok {
			out = append(out, list...)
		} else {
			out = append(out, v)
		}
	}
	return out, nil
}

func createSchedule(_ context.Context, in *Input) (any, error) {
	count := in.Text("interval-count")
	every, allowed := "P1D", []string{"1"}
	switch in.Text("interval-type") {
	case "Hourly":
		every, allowed = "PT"+count+"H", []string{"4", "6", "8", "12"}
	case "Weekly":
		every = "P1W"
	}
	if !slices.Contains(allowed, count) {
		return nil, usagef("Interval Count for %s Backup must be one of %s.", in.Text("interval-type"), strings.Join(allowed, ", "))
	}
	schedule := []any{}
	for _, from := range in.Texts("schedule-days") {
		start, err := time.Parse("2006-01-02T15:04:05", from)
		if err != nil {
			return nil, usagef("argument --schedule-days: '%s' is not of the form 2026-02-16T04:00:00", from)
		}
		schedule = append(schedule, "R/"+start.Format("2006-01-02T15:04:05")+"+00:00/"+every)
	}
	return schedule, nil
}

func setSchedule(in *Input, policy map[string]any) error {
	trigger, err := triggerOf(policy)
	if err != nil {
		return err
	}
	intervals := []any{}
	for _, word := range in.Texts("schedule") {
		if strings.HasPrefix(word, "R") && strings.Count(word, "/") == 2 {
			intervals = append(intervals, word)
			continue
		}
		list, err := decodeDocument(word)
		if err != nil || len(words(list)) == 0 {
			return fmt.Errorf("the schedule '%s' is neither a repeating interval nor a list of them", word)
		}
		intervals = append(intervals, list.([]any)...)
	}
	assign(trigger, intervals, "schedule", "repeatingTimeIntervals")
	return nil
}

func createLifecycle(_ context.Context, in *Input) (any, error) {
	count, err := strconv.Atoi(in.Text("retention-duration-count"))
	if err != nil || count < 1 {
		return nil, usagef("argument --retention-duration-count: '%s' is not a positive number", in.Text("retention-duration-count"))
	}
	copies := []any{}
	if in.Has("target-datastore") != in.Has("copy-option") {
		return nil, usagef("--target-datastore and --copy-option go together")
	}
	if in.Has("target-datastore") {
		copies = append(copies, map[string]any{"copyAfter": map[string]any{"objectType": in.Text("copy-option")},
			"dataStore": map[string]any{"objectType": "DataStoreInfoBase", "dataStoreType": in.Text("target-datastore")}})
	}
	return map[string]any{
		"deleteAfter":                 map[string]any{"objectType": "AbsoluteDeleteOption", "duration": fmt.Sprintf("P%d%.1s", count, in.Text("retention-duration-type"))},
		"sourceDataStore":             map[string]any{"objectType": "DataStoreInfoBase", "dataStoreType": in.Text("source-datastore")},
		"targetDataStoreCopySettings": copies,
	}, nil
}

func setRetention(in *Input, policy map[string]any) error {
	lifecycles, err := in.documents("lifecycles")
	if err != nil {
		return err
	}
	rules, _ := policy["policyRules"].([]any)
	for _, r := range rules {
		if isRetention(r) && text(r, "name") == in.Text("name") {
			r.(map[string]any)["lifecycles"] = lifecycles
			return nil
		}
	}
	policy["policyRules"] = append(rules, map[string]any{"objectType": "AzureRetentionRule", "name": in.Text("name"), "isDefault": in.Text("name") == "Default",
		"lifecycles": lifecycles})
	return nil
}

// tagPriorities are az's; a tag of another name comes after those and before Default.
var tagPriorities = map[string]int{"Default": 99, "Daily": 25, "Weekly": 20, "Monthly": 15, "Yearly": 10}

func setTag(in *Input, policy map[string]any) error {
	criteria, err := in.documents("criteria")
	if err != nil {
		return err
	}
	trigger, err := triggerOf(policy)
	if err != nil {
		return err
	}
	name := in.Text("name")
	tags, _ := trigger["taggingCriteria"].([]any)
	for _, t := range tags {
		if text(t, "tagInfo", "tagName") == name {
			t.(map[string]any)["criteria"] = criteria
			return nil
		}
	}
	priority := tagPriorities[name]
	if priority == 0 {
		priority = 50
	}
	trigger["taggingCriteria"] = append(tags, map[string]any{"isDefault": false, "taggingPriority": priority, "criteria": criteria,
		"tagInfo": map[string]any{"id": name + "_", "tagName": name}})
	return nil
}

func createGenericCriteria(_ context.Context, in *Input) (any, error) {
	var days any
	if in.Has("days-of-month") {
		list := []any{}
		for _, word := range in.Texts("days-of-month") {
			day, err := strconv.Atoi(word)
			switch {
			case strings.EqualFold(word, "last"):
				list = append(list, map[string]any{"isLast": true})
			case err != nil || day < 1 || day > 28:
				return nil, usagef("Day of month should either be between 1 and 28 or it should be last")
			default:
				list = append(list, map[string]any{"date": day, "isLast": false})
			}
		}
		days = list
	}
	return snakeKeys(map[string]any{"objectType": "ScheduleBasedBackupCriteria", "daysOfMonth": days, "daysOfTheWeek": orNil(in.Texts("days-of-week")),
		"monthsOfYear": orNil(in.Texts("months-of-year")), "weeksOfTheMonth": orNil(in.Texts("weeks-of-month"))}), nil
}
