package cli

import (
	"context"
	_ "embed"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	policyPath    = vaultPath + "/backupPolicies/{name}"
	policyColumns = "[].{Name:name, ResourceGroup:resourceGroup, Rules:join(', ', properties.policyRules[].name)}"
)

// policyTemplate is the policy that get-default-policy-template prints: every four hours, kept for a week.
//
//go:embed policy-template.json
var policyTemplate []byte

var (
	policyArg     = Arg{Names: "--name -n --backup-policy-name --policy-name", Required: true, Help: "The policy's name."}
	datasourceArg = Arg{Names: "--datasource-type", Required: true, Choices: []string{"AzureKubernetesService"}, Help: "What is backed up."}
)

var policyCommands = []Command{
	{Path: "dataprotection backup-policy create", Help: "Create a policy.", Run: policyCreate, Columns: policyColumns,
		Args:     []Arg{policyArg, vaultArg, groupArg, policyDocArg},
		Examples: []string{"dataprotection backup-policy create -n daily --vault-name v -g rg --policy policy.json"}},
	{Path: "dataprotection backup-policy update", Help: "Change a policy; recovery points that there are keep their time.", Run: policyUpdate, Columns: policyColumns,
		Args: []Arg{policyArg, vaultArg, groupArg, policyDocArg}},
	{Path: "dataprotection backup-policy show", Help: "Show a policy.", ID: policyPath, Run: show(backupVersion), Columns: policyColumns,
		Args: []Arg{policyArg, vaultArg, groupArg}},
	{Path: "dataprotection backup-policy list", Help: "List a vault's policies.", Run: list(vaultPath+"/backupPolicies", "", backupVersion),
		Columns: policyColumns, Args: []Arg{vaultArg, groupArg}},
	{Path: "dataprotection backup-policy delete", Help: "Delete a policy.", ID: policyPath, Confirm: true, Run: remove(backupVersion),
		Args: []Arg{policyArg, vaultArg, groupArg}},
	{Path: "dataprotection backup-policy get-default-policy-template", Help: "Print a policy to begin with.", Args: []Arg{datasourceArg},
		Run: func(context.Context, *Input) (any, error) { return client.Decode(policyTemplate) }},
}

// policyUpdate changes a policy that is there.
func policyUpdate(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, policyPath)
	if err != nil {
		return nil, err
	}
	if _, err := in.get(ctx, path, backupVersion); err != nil {
		return nil, err
	}
	return policyCreate(ctx, in)
}

// policyCreate takes the policy itself, or the resource around it.
func policyCreate(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, policyPath)
	if err != nil {
		return nil, err
	}
	policy, err := in.Object("policy")
	if err != nil {
		return nil, err
	}
	if inner := at(policy, "properties"); inner != nil {
		policy = inner
	}
	return in.put(ctx, "Writing policy "+in.Text("name"), path, backupVersion, map[string]any{"properties": policy})
}
