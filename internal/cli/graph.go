package cli

import (
	"context"
	"slices"
	"strings"
)

// graphArgs choose vaults, as az's commands do that ask Resource Graph.
var graphArgs = []Arg{
	{Names: "--subscriptions", Kind: Texts, Help: "Subscriptions to look in. Default: the current one."},
	{Names: "--resource-groups", Kind: Texts, Help: "Only vaults of these resource groups."},
	{Names: "--vaults", Kind: Texts, Help: "Only these vaults."},
}

// graphMatch is one more option of these commands, and how an item is held against its values.
type graphMatch struct {
	arg Arg
	of  func(item any) string
}

var (
	graphInstances = []graphMatch{
		{Arg{Names: "--protection-status", Kind: Texts, Help: "Only those in these states."}, func(i any) string { return text(i, "properties", "currentProtectionState") }},
		{Arg{Names: "--datasource-id", Kind: Texts, Help: "Only those of these clusters."}, func(i any) string { return datasourceID(at(i, "properties", "dataSourceInfo")) }},
		{Arg{Names: "--backup-instance-id", Kind: Texts, Help: "Only these, by ID."}, func(i any) string { return text(i, "id") }},
		{Arg{Names: "--backup-instance-name", Kind: Texts, Help: "Only these, by name."}, func(i any) string { return text(i, "name") }},
	}
	graphJobs = []graphMatch{
		{Arg{Names: "--status", Kind: Texts, Help: "Only those with these statuses: InProgress, Completed, CompletedWithWarnings, Failed, Cancelled."},
			func(j any) string { return text(j, "properties", "status") }},
		{Arg{Names: "--operation", Kind: Texts, Help: "Only these: OnDemandBackup, ScheduledBackup, Restore."}, jobOperation},
		{Arg{Names: "--datasource-id", Kind: Texts, Help: "Only those of these clusters."}, func(j any) string { return text(j, "properties", "dataSourceId") }},
	}
)

var graphCommands = []Command{
	{Path: "dataprotection backup-instance list-from-resourcegraph", Help: "List backup instances of many vaults.", Columns: instanceColumns,
		Run: fromGraph("backupInstances", graphInstances), Args: withMatches(graphInstances, optional(datasourceArg))},
	{Path: "dataprotection job list-from-resourcegraph", Help: "List jobs of many vaults.", Columns: jobColumns,
		Run: fromGraph("backupJobs", graphJobs), Args: withMatches(graphJobs, optional(datasourceArg), jobStartArg, jobEndArg)},
	{Path: "dataprotection backup-vault list-from-resourcegraph", Help: "List vaults.", Columns: vaultColumns, Run: fromGraph("", nil),
		Args: append([]Arg{{Names: "--vault-id", Kind: Texts, Help: "Only these, by ID."}}, graphArgs...)},
}

func withMatches(matches []graphMatch, more ...Arg) []Arg {
	args := append(slices.Clone(graphArgs), more...)
	for _, m := range matches {
		args = append(args, m.arg)
	}
	return args
}

// jobOperation tells backups by who has started them, as Azure's queries do.
func jobOperation(job any) string {
	category := text(job, "properties", "operationCategory")
	if category != "Backup" {
		return category
	}
	if byUser, _ := at(job, "properties", "isUserTriggered").(bool); byUser {
		return "OnDemandBackup"
	}
	return "ScheduledBackup"
}

// fromGraph lists the children of all vaults that the options choose; without children, the vaults. It asks the vaults themselves, which know the latest.
func fromGraph(children string, matches []graphMatch) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		subscriptions := in.Texts("subscriptions")
		if len(subscriptions) == 0 {
			subscriptions = []string{in.Text("subscription")}
		}
		terms, err := in.jobTimes()
		if err != nil {
			return nil, err
		}
		found := []any{}
		for _, s := range subscriptions {
			id, err := in.session.subscriptionID(ctx, s)
			if err != nil {
				return nil, err
			}
			vaults, err := in.list(ctx, "/subscriptions/"+id+vaultsPath, backupVersion, nil)
			if err != nil {
				return nil, err
			}
			for _, v := range vaults {
				group := inGroup.FindStringSubmatch(text(v, "id"))
				if !in.wants("resource-groups", group[1]) || !in.wants("vaults", text(v, "name")) || !in.wants("vault-id", text(v, "id")) {
					continue
				}
				if children == "" {
					found = append(found, v)
					continue
				}
				items, err := in.list(ctx, text(v, "id")+"/"+children, backupVersion, filter(terms...))
				if err != nil {
					return nil, err
				}
				for _, i := range items {
					if !slices.ContainsFunc(matches, func(m graphMatch) bool { return !in.wants(m.arg.key(), m.of(i)) }) {
						found = append(found, i)
					}
				}
			}
		}
		return found, nil
	}
}

// wants says whether the option, if it was given, has the value.
func (in *Input) wants(key, value string) bool {
	return !in.Has(key) || slices.ContainsFunc(in.Texts(key), func(w string) bool { return strings.EqualFold(w, value) })
}
