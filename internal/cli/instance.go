package cli

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	instancesPath   = vaultPath + "/backupInstances"
	instancePath    = instancesPath + "/{backup-instance-name}"
	pointPath       = instancePath + "/recoveryPoints/{recovery-point-id}"
	instanceColumns = "[].{Name:name, DataSource:properties.dataSourceInfo.resourceName, Status:properties.protectionStatus.status, ProvisioningState:properties.provisioningState, PolicyId:properties.policyInfo.policyId}"
	pointColumns    = "[].{Name:name, Time:properties.recoveryPointTime, Type:properties.recoveryPointType, Tag:properties.retentionTagName, State:properties.recoveryPointState}"
	deletedPath     = vaultPath + "/deletedBackupInstances"
	deletedColumns  = "[].{Name:name, DataSource:properties.dataSourceInfo.resourceName, Deleted:properties.deletionInfo.deletionTime, Purge:properties.deletionInfo.scheduledPurgeTime, State:properties.currentProtectionState}"
	scheduleColumns = "[].{Active:properties.active, TimeZone:properties.timeZone, Next:properties.nextSlots[0] || '', Waiting:properties.waiting.message || '', LastSuccessful:properties.lastSuccessfulSlot || '', LastOutcome:properties.runs[0].outcome || ''}"
	pendingColumns  = "[].{RecoveryPoint:properties.recoveryPointId, Time:properties.recoveryPointTime, BackupInstance:properties.backupInstanceId, Reason:properties.reason, Since:properties.since, Snapshots:length(properties.snapshots), Attempts:properties.attempts, NextTry:properties.nextTry || '', LastError:properties.lastError.message || ''}"
	aksType         = "Microsoft.ContainerService/managedClusters"
	protectionPause = 2 * time.Second
)

var (
	instanceArg     = Arg{Names: "--backup-instance-name --name -n", Required: true, Help: "The backup instance's name."}
	instanceDocArg  = Arg{Names: "--backup-instance", Kind: Object, Required: true, Help: "The backup instance: JSON or a file with JSON, such as the output of `backup-instance initialize`."}
	requestDocArg   = Arg{Names: "--restore-request-object", Kind: Object, Required: true, Help: "The restore request: JSON or a file with JSON, such as the output of `restore initialize-for-item-recovery`."}
	policyIDArg     = Arg{Names: "--policy-id", Required: true, Help: "The policy's resource ID."}
	backupConfigArg = Arg{Names: "--aks-backup-configuration --aks-config", Kind: Object, Help: "The output of `initialize-backupconfig`."}
	namespacesArgs  = []Arg{
		{Names: "--included-namespaces", Kind: Texts, Help: "Only these namespaces."},
		{Names: "--excluded-namespaces", Kind: Texts, Help: "All namespaces but these."},
		{Names: "--included-resource-type --included-resource-types", Kind: Texts, Help: "Only these kinds."},
		{Names: "--excluded-resource-type --excluded-resource-types", Kind: Texts, Help: "All kinds but these."},
		{Names: "--label-selectors", Kind: Texts, Help: "Only objects with all these labels, key=value."},
		{Names: "--include-cluster-scope --include-cluster-scope-resources", Kind: Bool, Help: "Objects outside of namespaces too. Default: true."},
	}
)

var instanceCommands = []Command{
	{Path: "dataprotection backup-instance initialize-backupconfig", Help: "Print what to back up, for `initialize`.", Run: initializeBackupConfig,
		Args: append([]Arg{datasourceArg,
			{Names: "--snapshot-volumes", Kind: Bool, Help: "Take snapshots of volumes. Default: true."},
			{Names: "--backup-hook-refs --backup-hook-references", Kind: Object, Help: "Hooks to run: a list of {name, namespace}."},
		}, namespacesArgs...)},
	{Path: "dataprotection backup-instance initialize", Help: "Print a backup instance, for `create`.", Run: initializeInstance,
		Args: []Arg{datasourceArg,
			{Names: "--datasource-id", Required: true, Help: "The cluster's resource ID."},
			{Names: "--datasource-location --location -l", Required: true, Help: "The cluster's location."},
			{Names: "--policy-id", Required: true, Help: "The policy's resource ID."},
			{Names: "--friendly-name", Help: "A name for people. Default: the cluster's."},
			{Names: "--backup-configuration", Kind: Object, Help: "The output of `initialize-backupconfig`."},
			{Names: "--snapshot-resource-group-name --snapshot-rg", Help: "Where snapshots are kept. Default: the cluster's resource group."},
			tagsArg}},
	{Path: "dataprotection backup-instance create", Help: "Protect a cluster.", Run: instanceCreate, Columns: instanceColumns,
		Args: []Arg{instanceDocArg, vaultArg, groupArg, noWaitArg,
			{Names: "--name --backup-instance-name -n", Help: "The backup instance's name. Default: what the document says, else the cluster's name."}}},
	{Path: "dataprotection backup-instance validate-for-backup", Help: "Check whether a cluster can be protected.", Run: validateForBackup,
		Args: []Arg{instanceDocArg, vaultArg, groupArg, noWaitArg}},
	{Path: "dataprotection backup-instance show", Help: "Show a backup instance.", ID: instancePath, Run: show(backupVersion), Columns: instanceColumns,
		Args: []Arg{instanceArg, vaultArg, groupArg}},
	{Path: "dataprotection backup-instance list", Help: "List a vault's backup instances.", Run: list(instancesPath, "", backupVersion), Columns: instanceColumns,
		Args: []Arg{vaultArg, groupArg}},
	{Path: "dataprotection backup-instance delete", Help: "Stop protecting a cluster and delete its backups.", ID: instancePath, Confirm: true,
		Run: instanceDelete, Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg}},
	{Path: "dataprotection backup-instance update-policy", Help: "Protect by another policy.", ID: instancePath, Run: instanceUpdate, Columns: instanceColumns,
		Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg, requestsArg, policyIDArg}},
	{Path: "dataprotection backup-instance update", Help: "Change what is backed up, by which policy, or tags.", ID: instancePath, Run: instanceUpdate, Columns: instanceColumns,
		Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg, requestsArg, tagsArg, optional(policyIDArg), backupConfigArg}},
	{Path: "dataprotection backup-instance validate-for-update", Help: "Check whether a change of a backup instance can work.", ID: instancePath, Run: validateForUpdate,
		Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg, optional(policyIDArg), backupConfigArg}},
	{Path: "dataprotection backup-instance wait", Help: "Wait until a backup instance is as it should be.", ID: instancePath, Run: waitFor(backupVersion),
		Args: append([]Arg{instanceArg, vaultArg, groupArg}, waitArgs...)},
	{Path: "dataprotection backup-instance adhoc-backup", Help: "Back up now. Answers the job's ID at once.", ID: instancePath, Run: adhocBackup,
		Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg,
			{Names: "--rule-name", Required: true, Help: "The policy's backup rule."},
			{Names: "--retention-tag-override", Help: "The retention rule to keep it by. Default: Default."}},
		Examples: []string{"dataprotection backup-instance adhoc-backup -n aks --vault-name v -g rg --rule-name BackupDaily"}},
	{Path: "dataprotection backup-instance stop-protection", Help: "Stop backing up; keep what there is for ever.", ID: instancePath,
		Run: act("Stopping", "stopProtection", backupVersion), Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg, requestsArg}},
	{Path: "dataprotection backup-instance suspend-backup", Help: "Stop backing up; what there is expires as before.", ID: instancePath,
		Run: act("Suspending", "suspendBackups", backupVersion), Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg, requestsArg}},
	{Path: "dataprotection backup-instance resume-protection", Help: "Back up again.", ID: instancePath,
		Run: act("Resuming", "resumeProtection", backupVersion), Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg}},
	{Path: "dataprotection backup-instance update-msi-permissions", Help: "Give the vault and the cluster the roles that a backup or a restore needs.", Run: updatePermissions,
		Columns: assignmentColumns, Confirm: true,
		Args: []Arg{datasourceArg, vaultArg, groupArg, optional(instanceDocArg), optional(requestDocArg),
			{Names: "--operation", Required: true, Choices: []string{"Backup", "Restore"}, Help: "What the roles are for."},
			{Names: "--permissions-scope", Required: true, Choices: []string{"Resource", "ResourceGroup", "Subscription"}, Help: "Where they hold."},
			{Names: "--snapshot-resource-group-id", Help: "The resource group of snapshots, for a restore."}}},
	{Path: "dataprotection backup-instance deleted-backup-instance list", Help: "List what was deleted and can be brought back.", Columns: deletedColumns,
		Run: list(deletedPath, "", backupVersion), Args: []Arg{vaultArg, groupArg}},
	{Path: "dataprotection backup-instance deleted-backup-instance show", Help: "Show a deleted backup instance.", ID: deletedPath + "/{backup-instance-name}", Columns: deletedColumns,
		Run: show(backupVersion), Args: []Arg{instanceArg, vaultArg, groupArg}},
	{Path: "dataprotection backup-instance deleted-backup-instance undelete", Help: "Bring a deleted backup instance back, with its protection stopped.", ID: deletedPath + "/{backup-instance-name}",
		Run: act("Bringing back", "undelete", backupVersion), Args: []Arg{instanceArg, vaultArg, groupArg, noWaitArg}},
	{Path: "schedule show", Help: "Show when a backup instance is backed up next, and what became of its last times.", ID: instancePath, Columns: scheduleColumns,
		Table: true, Run: showBelow("/schedule"), Args: []Arg{instanceArg, vaultArg, groupArg}},
	{Path: "pending-deletions list", Help: "List what deleted recovery points have left that is still to be removed.", Run: list(vaultPath+"/pendingDeletions", "", backupVersion),
		Columns: pendingColumns, Table: true, Args: []Arg{vaultArg, groupArg}},
	{Path: "dataprotection recovery-point list", Help: "List what can be restored.", Run: pointList, Columns: pointColumns,
		Args: []Arg{{Names: "--backup-instance-name", Required: true, Help: "The backup instance's name."}, vaultArg, groupArg,
			{Names: "--start-time", Help: "From when on, UTC: 2026-02-16T04:00:00."}, {Names: "--end-time", Help: "Until when, UTC."}}},
	{Path: "dataprotection recovery-point show", Help: "Show a recovery point.", ID: pointPath, Run: show(backupVersion), Columns: pointColumns,
		Args: []Arg{{Names: "--backup-instance-name", Required: true, Help: "The backup instance's name."}, vaultArg, groupArg,
			{Names: "--recovery-point-id -r --name -n", Required: true, Help: "The recovery point's ID."}}},
}

// orNil is v, or an untyped nil for an empty list, which the API reads as "all".
func orNil(list []string) any {
	if len(list) == 0 {
		return nil
	}
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// scopeConfig is what the options say about which objects are meant.
func (in *Input) scopeConfig() map[string]any {
	return map[string]any{
		"includedNamespaces": orNil(in.Texts("included-namespaces")), "excludedNamespaces": orNil(in.Texts("excluded-namespaces")),
		"includedResourceTypes": orNil(in.Texts("included-resource-type")), "excludedResourceTypes": orNil(in.Texts("excluded-resource-type")),
		"labelSelectors": orNil(in.Texts("label-selectors")), "includeClusterScopeResources": in.boolOr("include-cluster-scope", true),
	}
}

func (in *Input) boolOr(key string, otherwise bool) bool {
	if in.Has(key) {
		return in.Flag(key)
	}
	return otherwise
}

// references is the option's list of {name, namespace}; one stands for a list of one.
func (in *Input) references(key string) (any, error) {
	v, err := in.Object(key)
	if one, ok := v.(map[string]any); ok {
		v = []any{one}
	}
	return v, err
}

func initializeBackupConfig(_ context.Context, in *Input) (any, error) {
	hooks, err := in.references("backup-hook-refs")
	if err != nil {
		return nil, err
	}
	config := in.scopeConfig()
	config["backupHookReferences"] = hooks
	config["snapshotVolumes"] = in.boolOr("snapshot-volumes", true)
	config["objectType"] = "KubernetesClusterBackupDatasourceParameters"
	return snakeKeys(config), nil
}

var clusterID = regexp.MustCompile(`(?i)^(/subscriptions/[^/]+/resourceGroups/[^/]+)/providers/Microsoft\.ContainerService/managedClusters/([^/]+)/?$`)

// datasource describes a cluster as requests do; kind is Datasource or DatasourceSet.
func datasource(id, location, kind string) (map[string]any, error) {
	m := clusterID.FindStringSubmatch(id)
	if m == nil {
		return nil, usagef("'%s' is not the resource ID of a cluster", id)
	}
	return map[string]any{"objectType": kind, "resourceID": id, "resourceName": m[2], "resourceUri": "", "resourceType": aksType,
		"resourceLocation": location, "datasourceType": aksType}, nil
}

func initializeInstance(_ context.Context, in *Input) (any, error) {
	id := in.Text("datasource-id")
	source, err := datasource(id, in.Text("datasource-location"), "Datasource")
	if err != nil {
		return nil, err
	}
	set, err := datasource(id, in.Text("datasource-location"), "DatasourceSet")
	if err != nil {
		return nil, err
	}
	config, err := in.Object("backup-configuration")
	if err != nil {
		return nil, err
	}
	if config == nil {
		config = map[string]any{"objectType": "KubernetesClusterBackupDatasourceParameters", "snapshotVolumes": true, "includeClusterScopeResources": true}
	}
	snapshots := clusterID.FindStringSubmatch(id)[1]
	if in.Has("snapshot-resource-group-name") {
		snapshots = snapshots[:strings.LastIndexByte(snapshots, '/')+1] + in.Text("snapshot-resource-group-name")
	}
	guid, err := uuid.NewUUID()
	if err != nil {
		return nil, err
	}
	name := text(source, "resourceName")
	var tags any
	if in.Has("tags") {
		tags = in.Pairs("tags")
	}
	return snakeKeys(map[string]any{
		"backupInstanceName": name + "-" + name + "-" + guid.String(),
		"tags":               tags,
		"properties": map[string]any{
			"objectType": "BackupInstance", "friendlyName": name + "/" + in.textOr("friendly-name", name), "datasourceAuthCredentials": nil,
			"dataSourceInfo": source, "dataSourceSetInfo": set,
			"policyInfo": map[string]any{"policyId": in.Text("policy-id"), "policyParameters": map[string]any{
				"dataStoreParametersList":        []any{map[string]any{"objectType": "AzureOperationalStoreParameters", "dataStoreType": "OperationalStore", "resourceGroupId": snapshots}},
				"backupDatasourceParametersList": []any{config},
			}},
		},
	}), nil
}

// instanceDocument is the option's document: the name that it wants for itself, and the resource.
func (in *Input) instanceDocument() (name string, resource map[string]any, err error) {
	doc, err := in.Object("backup-instance")
	if err != nil {
		return "", nil, err
	}
	properties, err := object(at(doc, "properties"))
	if err != nil {
		return "", nil, usagef("argument --backup-instance: properties: %s", err)
	}
	resource = map[string]any{"properties": properties}
	if tags := at(doc, "tags"); tags != nil {
		resource["tags"] = tags
	}
	for _, n := range []string{in.Text("name"), text(doc, "backupInstanceName"), text(doc, "name"), text(properties, "dataSourceInfo", "resourceName")} {
		if n != "" {
			return n, resource, nil
		}
	}
	return "", nil, usagef("argument --backup-instance: the instance has no name: give backup_instance_name, or a dataSourceInfo.resourceName to name it after")
}

// instanceCreate checks the instance first, as az does, and then waits until it is protected or cannot be.
func instanceCreate(ctx context.Context, in *Input) (any, error) {
	name, resource, err := in.instanceDocument()
	if err != nil {
		return nil, err
	}
	vault, err := in.path(ctx, vaultPath)
	if err != nil {
		return nil, err
	}
	check := map[string]any{"backupInstance": resource["properties"]}
	api, err := in.session.client()
	if err != nil {
		return nil, err
	}
	in.progress.step("Validating "+name, "")
	_, err = api.Do(ctx, client.Request{Method: "POST", Path: vault + "/validateForBackup", APIVersion: backupVersion, Body: check,
		OnPoll: func(status string) { in.progress.step("Validating "+name, strings.ToLower(status)) }})
	if err != nil {
		return nil, err
	}
	path := vault + "/backupInstances/" + url.PathEscape(name)
	created, err := in.put(ctx, "Configuring protection of "+name, path, backupVersion, resource)
	if err != nil || in.Flag("no-wait") {
		return created, err
	}
	return in.untilProtected(ctx, path, created)
}

// untilProtected waits for the service to have configured protection, which it goes on with after the operation.
func (in *Input) untilProtected(ctx context.Context, path string, instance any) (any, error) {
	for {
		state := text(instance, "properties", "protectionStatus", "status")
		switch state {
		case "ConfiguringProtection", "UpdatingProtection":
		case "ConfiguringProtectionFailed", "ProtectionError":
			message := text(instance, "properties", "protectionStatus", "errorDetails", "message")
			if message == "" {
				message = text(instance, "properties", "protectionErrorDetails", "message")
			}
			return instance, fmt.Errorf("backup instance %s is not protected: %s: %s", lastSegment(path), state, message)
		default:
			return instance, nil
		}
		in.progress.step("Configuring protection of "+lastSegment(path), state)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(protectionPause):
		}
		var err error
		if instance, err = in.session.api.Get(ctx, path, backupVersion); err != nil {
			return nil, err
		}
	}
}

func validateForBackup(ctx context.Context, in *Input) (any, error) {
	_, resource, err := in.instanceDocument()
	if err != nil {
		return nil, err
	}
	path, err := in.path(ctx, vaultPath+"/validateForBackup")
	if err != nil {
		return nil, err
	}
	return in.post(ctx, "Validating", path, backupVersion, map[string]any{"backupInstance": resource["properties"]})
}

// instanceUpdate changes the policy, the scope or the tags: read, change, write.
func instanceUpdate(ctx context.Context, in *Input) (any, error) {
	var id string
	updated, err := in.change(ctx, "Updating", func(instance map[string]any) error {
		id = text(instance, "id")
		if in.Has("tags") {
			instance["tags"] = in.Pairs("tags")
		}
		properties, err := object(instance["properties"])
		if err != nil {
			return err
		}
		if err := in.addRequests(ctx, vaultID(id), properties); err != nil {
			return err
		}
		return in.changeInstance(properties)
	})
	if err != nil || in.Flag("no-wait") {
		return updated, err
	}
	return in.untilProtected(ctx, id, updated)
}

// changeInstance gives an instance's properties the policy and the scope of the options.
func (in *Input) changeInstance(properties map[string]any) error {
	if in.Has("policy-id") {
		assign(properties, in.Text("policy-id"), "policyInfo", "policyId")
	}
	config, err := in.Object("aks-backup-configuration")
	if config != nil {
		assign(properties, []any{config}, "policyInfo", "policyParameters", "backupDatasourceParametersList")
	}
	return err
}

func validateForUpdate(ctx context.Context, in *Input) (any, error) {
	doc, err := show(backupVersion)(ctx, in)
	if err != nil {
		return nil, err
	}
	properties, err := object(at(doc, "properties"))
	if err != nil {
		return nil, err
	}
	if err := in.changeInstance(properties); err != nil {
		return nil, err
	}
	return in.post(ctx, "Validating", text(doc, "id")+"/validateForModifyBackup", backupVersion, map[string]any{"backupInstance": properties})
}

// instanceDelete takes the exact name only, as a DELETE does: given twice, a name that means one instance first could mean another then. Unlike a DELETE
// it says so when the name means one.
func instanceDelete(ctx context.Context, in *Input) (any, error) {
	id, err := in.id(ctx)
	if err != nil {
		return nil, err
	}
	instance, err := in.get(ctx, id, backupVersion)
	if err != nil && !client.NotFound(err) {
		return nil, err
	}
	if meant := text(instance, "name"); err == nil && !strings.EqualFold(meant, lastSegment(id)) {
		return nil, usagef("argument --backup-instance-name: '%s' means '%s'; to delete that, give its own name", lastSegment(id), meant)
	}
	return nil, in.delete(ctx, id, backupVersion)
}

func adhocBackup(ctx context.Context, in *Input) (any, error) {
	id, err := in.id(ctx)
	if err != nil {
		return nil, err
	}
	trigger := map[string]any{}
	if in.Has("retention-tag-override") {
		trigger["retentionTagOverride"] = in.Text("retention-tag-override")
	}
	return in.post(ctx, "Starting the backup of "+lastSegment(id), id+"/backup", backupVersion,
		map[string]any{"backupRuleOptions": map[string]any{"ruleName": in.Text("rule-name"), "triggerOption": trigger}})
}

func pointList(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, instancePath+"/recoveryPoints")
	if err != nil {
		return nil, err
	}
	var terms []string
	for option, field := range map[string]string{"start-time": "startDate", "end-time": "endDate"} {
		if in.Has(option) {
			terms = append(terms, field+" eq "+quote(in.Text(option)))
		}
	}
	points, err := in.list(ctx, path, backupVersion, filter(terms...))
	if err != nil {
		return nil, err
	}
	return points, nil
}
