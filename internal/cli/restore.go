package cli

import (
	"context"
	"maps"
)

var recoveryArgs = []Arg{
	datasourceArg,
	{Names: "--restore-location", Required: true, Help: "The target cluster's location."},
	{Names: "--source-datastore", Required: true, Choices: []string{"ArchiveStore", "OperationalStore", "SnapshotStore", "VaultStore"}, Help: "Where the recovery point is."},
	{Names: "--recovery-point-id", Required: true, Help: "The recovery point's ID."},
	{Names: "--target-resource-id", Help: "The target cluster's resource ID."},
	{Names: "--backup-instance-id", Help: "The backup instance's resource ID: restore to where it came from."},
	{Names: "--restore-configuration", Kind: Object, Help: "The output of `initialize-restoreconfig`."},
}

var restoreCommands = []Command{
	{Path: "dataprotection backup-instance initialize-restoreconfig", Help: "Print what to restore, for `restore initialize-for-item-recovery`.", Run: initializeRestoreConfig,
		Args: append([]Arg{datasourceArg,
			{Names: "--conflict-policy", Choices: []string{"Patch", "Skip"}, Help: "What to do with objects that exist. Default: Skip."},
			{Names: "--persistent-restoremode --persistent-volume-restore-mode", Choices: []string{"RestoreWithVolumeData", "RestoreWithoutVolumeData"},
				Help: "Volumes with their data or empty. Default: RestoreWithVolumeData."},
			{Names: "--namespace-mappings", Kind: Object, Help: "Restore into other namespaces: old=new ..."},
			{Names: "--restore-hook-refs --restore-hook-references", Kind: Object, Help: "Hooks to run: a list of {name, namespace}."},
			{Names: "--resource-modifier --resource-modifier-reference", Kind: Object, Help: "ConfigMap with changes to make: name=N namespace=NS."},
			{Names: "--staging-resource-group-id --staging-rg-id", Help: "Where disks of the vault tier are staged."},
			{Names: "--staging-storage-account-id --staging-storage-id", Help: "Where objects of the vault tier are staged."},
		}, namespacesArgs...)},
	{Path: "dataprotection backup-instance restore initialize-for-item-recovery", Help: "Print a restore request, for `restore trigger`.", Run: initializeRestore, Args: recoveryArgs},
	{Path: "dataprotection backup-instance restore initialize-for-data-recovery", Help: "Print a restore request, for `restore trigger`.", Run: initializeRestore, Args: recoveryArgs},
	{Path: "dataprotection backup-instance restore trigger", Help: "Restore. Answers the job's ID at once.", ID: instancePath, Run: restoreTrigger,
		Args:     []Arg{instanceArg, vaultArg, groupArg, requestDocArg, noWaitArg, requestsArg},
		Examples: []string{"dataprotection backup-instance restore trigger -n aks --vault-name v -g rg --restore-request-object request.json"}},
	{Path: "dataprotection backup-instance validate-for-restore", Help: "Check whether a restore can work.", ID: instancePath, Run: validateForRestore,
		Args: []Arg{instanceArg, vaultArg, groupArg, requestDocArg, noWaitArg}},
}

func initializeRestoreConfig(_ context.Context, in *Input) (any, error) {
	hooks, err := in.references("restore-hook-refs")
	if err != nil {
		return nil, err
	}
	modifier, err := in.Object("resource-modifier")
	if err != nil {
		return nil, err
	}
	mappings, err := in.rawObject("namespace-mappings")
	if err != nil {
		return nil, err
	}
	config := in.scopeConfig()
	maps.Copy(config, map[string]any{
		"objectType": "KubernetesClusterRestoreCriteria", "conflictPolicy": in.textOr("conflict-policy", "Skip"),
		"persistentVolumeRestoreMode": in.textOr("persistent-restoremode", "RestoreWithVolumeData"), "namespaceMappings": mappings,
		"restoreHookReferences": hooks, "resourceModifierReference": modifier,
		"stagingResourceGroupId": nil, "stagingStorageAccountId": nil,
	})
	for option, field := range map[string]string{"staging-resource-group-id": "stagingResourceGroupId", "staging-storage-account-id": "stagingStorageAccountId"} {
		if in.Has(option) {
			config[field] = in.Text(option)
		}
	}
	return snakeKeys(config), nil
}

// initializeRestore prints a request. Without a configuration it asks for everything.
func initializeRestore(ctx context.Context, in *Input) (any, error) {
	target := in.Text("target-resource-id")
	if in.Has("backup-instance-id") {
		instance, err := in.get(ctx, in.Text("backup-instance-id"), backupVersion)
		if err != nil {
			return nil, err
		}
		target = datasourceID(at(instance, "properties", "dataSourceInfo"))
	}
	if target == "" {
		return nil, usagef("one of the following arguments is required: --backup-instance-id, --target-resource-id")
	}
	source, err := datasource(target, in.Text("restore-location"), "Datasource")
	if err != nil {
		return nil, err
	}
	set, err := datasource(target, in.Text("restore-location"), "DatasourceSet")
	if err != nil {
		return nil, err
	}
	config, err := in.Object("restore-configuration")
	if err != nil {
		return nil, err
	}
	if config == nil {
		config = map[string]any{"objectType": "KubernetesClusterRestoreCriteria", "conflictPolicy": "Skip",
			"persistentVolumeRestoreMode": "RestoreWithVolumeData", "includeClusterScopeResources": true}
	}
	if in.Text("source-datastore") == "VaultStore" {
		assign(config.(map[string]any), "KubernetesClusterVaultTierRestoreCriteria", "objectType")
	}
	return snakeKeys(map[string]any{
		"objectType": "AzureBackupRecoveryPointBasedRestoreRequest", "recoveryPointId": in.Text("recovery-point-id"),
		"sourceDataStoreType": in.Text("source-datastore"), "sourceResourceId": target,
		"restoreTargetInfo": map[string]any{"objectType": "ItemLevelRestoreTargetInfo", "recoveryOption": "FailIfExists",
			"restoreLocation": in.Text("restore-location"), "datasourceInfo": source, "datasourceSetInfo": set, "restoreCriteria": []any{config}},
	}), nil
}

func restoreTrigger(ctx context.Context, in *Input) (any, error) {
	request, err := in.Object("restore-request-object")
	if err != nil {
		return nil, err
	}
	id, err := in.id(ctx)
	if err != nil {
		return nil, err
	}
	if body, ok := request.(map[string]any); ok {
		if err := in.addRequests(ctx, vaultID(id), body); err != nil {
			return nil, err
		}
	}
	return in.post(ctx, "Starting the restore of "+lastSegment(id), id+"/restore", backupVersion, request)
}

func validateForRestore(ctx context.Context, in *Input) (any, error) {
	request, err := in.Object("restore-request-object")
	if err != nil {
		return nil, err
	}
	id, err := in.id(ctx)
	if err != nil {
		return nil, err
	}
	return in.post(ctx, "Validating", id+"/validateRestore", backupVersion, map[string]any{"restoreRequestObject": request})
}
