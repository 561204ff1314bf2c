package cli

import (
	"context"
	"encoding/json"
)

const (
	backupVersion = "2025-07-01"
	vaultsPath    = "/providers/Microsoft.DataProtection/backupVaults"
	vaultPath     = groupPath + vaultsPath + "/{vault-name}"
	vaultColumns  = "[].{Name:name, ResourceGroup:resourceGroup, Location:location, Redundancy:properties.storageSettings[0].type, Identity:identity.principalId, State:properties.provisioningState}"
)

var vaultArg = Arg{Names: "--vault-name -v", Required: true, Help: "The vault's name."}

// vaultSettings are the options of `create` and `update` that are one property each.
var vaultSettings = []struct {
	arg  Arg
	path []string
}{
	{Arg{Names: "--soft-delete-state", Choices: []string{"AlwaysOn", "Off", "On"}, Help: "Whether deleted backups can be brought back."},
		[]string{"properties", "securitySettings", "softDeleteSettings", "state"}},
	{Arg{Names: "--soft-delete-retention --retention-duration-in-days", Help: "For how many days deleted backups can be brought back: 14 to 180."},
		[]string{"properties", "securitySettings", "softDeleteSettings", "retentionDurationInDays"}},
	{Arg{Names: "--immutability-state", Choices: []string{"Disabled", "Locked", "Unlocked"}, Help: "Whether backups can be deleted before they expire."},
		[]string{"properties", "securitySettings", "immutabilitySettings", "state"}},
	{Arg{Names: "--cross-region-restore-state --crr-state", Choices: []string{"Disabled", "Enabled"}, Help: "Restore in the paired region."},
		[]string{"properties", "featureSettings", "crossRegionRestoreSettings", "state"}},
	{Arg{Names: "--cross-subscription-restore-state --csr-state", Choices: []string{"Disabled", "Enabled", "PermanentlyDisabled"}, Help: "Restore into other subscriptions."},
		[]string{"properties", "featureSettings", "crossSubscriptionRestoreSettings", "state"}},
	{Arg{Names: "--azure-monitor-alerts-for-job-failures --job-failure-alerts", Choices: []string{"Disabled", "Enabled"}, Help: "Alert when a job fails."},
		[]string{"properties", "monitoringSettings", "azureMonitorAlertSettings", "alertsForAllJobFailures"}},
	{Arg{Names: "--cmk-encryption-state", Choices: []string{"Disabled", "Enabled", "Inconsistent"}, Help: "Encrypt with a key of your own."},
		[]string{"properties", "securitySettings", "encryptionSettings", "state"}},
	{Arg{Names: "--cmk-encryption-key-uri", Help: "That key's address."}, []string{"properties", "securitySettings", "encryptionSettings", "keyVaultProperties", "keyUri"}},
	{Arg{Names: "--cmk-identity-type", Choices: []string{"SystemAssigned", "UserAssigned"}, Help: "Which identity may use that key."},
		[]string{"properties", "securitySettings", "encryptionSettings", "kekIdentity", "identityType"}},
	{Arg{Names: "--cmk-uami --cmk-user-assigned-identity-id", Help: "The user assigned identity that may."}, []string{"properties", "securitySettings", "encryptionSettings", "kekIdentity", "identityId"}},
	{Arg{Names: "--cmk-infra-encryption --cmk-infrastructure-encryption", Choices: []string{"Disabled", "Enabled"}, Help: "Encrypt twice."},
		[]string{"properties", "securitySettings", "encryptionSettings", "infrastructureEncryption"}},
}

// identityArgs choose the vault's identity.
var identityArgs = []Arg{
	{Names: "--type --identity-type", Help: "The vault's identity: None, SystemAssigned, UserAssigned, or SystemAssigned,UserAssigned."},
	{Names: "--user-assigned-identities --uami", Kind: Object, Help: "User assigned identities: their resource IDs."},
	tagsArg, noWaitArg,
}

func settingArgs() []Arg {
	var args []Arg
	for _, s := range vaultSettings {
		args = append(args, s.arg)
	}
	return append(args, identityArgs...)
}

var vaultCommands = []Command{
	{Path: "dataprotection backup-vault create", Help: "Create a vault.", Run: vaultCreate, Columns: vaultColumns,
		Args: append([]Arg{vaultArg, groupArg, locationArg,
			{Names: "--storage-setting", Kind: Object, Help: "Redundancy of the vault tier: a list of {type, datastore-type}."},
			{Names: "--storage-settings", Kind: Object, Help: "One element of that list: type=LocallyRedundant datastore-type=VaultStore."},
		}, settingArgs()...),
		Examples: []string{`dataprotection backup-vault create --vault-name v -g rg -l eastus --type SystemAssigned --storage-setting "[{type:LocallyRedundant,datastore-type:VaultStore}]"`}},
	{Path: "dataprotection backup-vault show", Help: "Show a vault.", ID: vaultPath, Run: show(backupVersion), Columns: vaultColumns, Args: []Arg{vaultArg, groupArg}},
	{Path: "dataprotection backup-vault list", Help: "List vaults.", Columns: vaultColumns, Args: []Arg{optional(groupArg)},
		Run: list(groupPath+vaultsPath, subscriptionPath+vaultsPath, backupVersion)},
	{Path: "dataprotection backup-vault update", Help: "Change a vault.", ID: vaultPath, Run: vaultUpdate, Columns: vaultColumns,
		Args: append([]Arg{vaultArg, groupArg, requestsArg}, settingArgs()...)},
	{Path: "dataprotection backup-vault wait", Help: "Wait until a vault is as it should be.", ID: vaultPath, Run: waitFor(backupVersion),
		Args: append([]Arg{vaultArg, groupArg}, waitArgs...)},
	{Path: "dataprotection backup-vault delete", Help: "Delete a vault.", ID: vaultPath, Confirm: true, Run: remove(backupVersion),
		Args: []Arg{vaultArg, groupArg, noWaitArg}},
}

func vaultCreate(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, vaultPath)
	if err != nil {
		return nil, err
	}
	vault := map[string]any{}
	assign(vault, "On", "properties", "securitySettings", "softDeleteSettings", "state")
	assign(vault, json.Number("14.0"), "properties", "securitySettings", "softDeleteSettings", "retentionDurationInDays")
	if vault["location"], err = in.location(ctx); err != nil {
		return nil, err
	}
	storage, err := in.storageSettings()
	if err != nil {
		return nil, err
	}
	assign(vault, storage, "properties", "storageSettings")
	if err := in.applySettings(vault); err != nil {
		return nil, err
	}
	return in.put(ctx, "Creating vault "+in.Text("vault-name"), path, backupVersion, vault)
}

// storageSettings is the list of either option; one element stands for a list of one.
func (in *Input) storageSettings() (any, error) {
	for _, option := range []string{"storage-setting", "storage-settings"} {
		v, err := in.Object(option)
		if err != nil {
			return nil, err
		}
		if one, ok := v.(map[string]any); ok {
			v = []any{one}
		}
		if v != nil {
			return v, nil
		}
	}
	return nil, usagef("the following arguments are required: --storage-setting")
}

// applySettings puts the options that were given into the vault.
func (in *Input) applySettings(vault map[string]any) error {
	for _, s := range vaultSettings {
		key := s.arg.key()
		if !in.Has(key) {
			continue
		}
		var v any = in.Text(key)
		if key == "soft-delete-retention" {
			var days float64
			if err := json.Unmarshal([]byte(in.Text(key)), &days); err != nil {
				return usagef("argument --%s: '%s' is not a number", key, in.Text(key))
			}
			v = days
		}
		assign(vault, v, s.path...)
	}
	if in.Has("tags") {
		vault["tags"] = in.Pairs("tags")
	}
	if in.Has("type") {
		assign(vault, in.Text("type"), "identity", "type")
	}
	if !in.Has("user-assigned-identities") {
		return nil
	}
	users := map[string]any{}
	for _, id := range in.Texts("user-assigned-identities") {
		users[id] = map[string]any{}
	}
	if v, err := in.rawObject("user-assigned-identities"); err == nil {
		if m, ok := v.(map[string]any); ok {
			users = m
		}
	}
	assign(vault, users, "identity", "userAssignedIdentities")
	return nil
}

// vaultUpdate changes what there is, as az does: read, change, write.
func vaultUpdate(ctx context.Context, in *Input) (any, error) {
	return in.change(ctx, "Updating vault", func(vault map[string]any) error {
		properties, err := object(vault["properties"])
		if err != nil {
			return err
		}
		if err := in.addRequests(ctx, text(vault, "id"), properties); err != nil {
			return err
		}
		return in.applySettings(vault)
	})
}
