package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"strings"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	// backupTag marks what was made for the backups of a location's clusters, as Azure does; its value is the location.
	backupTag           = "AKSAzureBackup"
	backupExtensionName = "azure-aks-backup"
	backupOperator      = "Microsoft.DataProtection/backupVaults/backup-operator"
	enableColumns       = coverageColumns
)

var strategyArg = Arg{Names: "--backup-strategy", Choices: []string{"Custom", "DisasterRecovery", "Immutable", "Month", "Week"},
	Help: "Week or Month: back up every day and keep it for 7 or 30 days. Custom: your own vault and policy, named in the configuration file. Default: Week. " +
		"Immutable and DisasterRecovery need the vault tier, which there is not yet."}

var configurationArg = Arg{Names: "--backup-configuration-file", Kind: Object,
	Help: "JSON or a file with JSON: storageAccountResourceId, blobContainerName, backupResourceGroupId, backupVaultId, backupPolicyId, tags. Default: all is made."}

var enableCommands = []Command{
	{Path: "enable", Help: "Protect a cluster: connect it, make all that backups need, make the first backup, and say what is protected. May be run again at any time.",
		Run: enableCluster, Columns: enableColumns, Table: true,
		Args: append([]Arg{clusterNameArg, tagsArg, strategyArg, configurationArg,
			{Names: "--resource-group -g", Help: "The cluster's resource group. Default: that of the only cluster of the name, else one of the cluster's name."},
			{Names: "--location -l", Help: "Where to file a cluster that is not connected yet. Default: eastus."},
			{Names: "--image", Help: "The cairn-extension image, as the cluster's nodes can pull it or have it. Needed to connect the cluster."},
			{Names: "--timeout", Help: "Give up connecting after so many seconds. Default: 300."},
		}, kubeArgs...),
		Examples: []string{"enable --cluster aks-production --image registry.example.com/cairn-extension:1", "enable --cluster aks-production --backup-strategy Month"}},
	{Path: "dataprotection enable-backup trigger", Help: "Protect a cluster that is connected: make all that backups need.", Run: enableTrigger, Confirm: true,
		Args:     []Arg{datasourceArg, strategyArg, configurationArg, {Names: "--datasource-id", Required: true, Help: "The cluster's resource ID."}},
		Examples: []string{"dataprotection enable-backup trigger --datasource-type AzureKubernetesService --datasource-id CLUSTER_ID --backup-strategy Month --yes"}},
}

// enableTrigger is az's form: the cluster is there, and nobody asks what is in it.
func enableTrigger(ctx context.Context, in *Input) (any, error) {
	id := strings.TrimRight(in.Text("datasource-id"), "/")
	if !clusterID.MatchString(id) {
		return nil, usagef("argument --datasource-id: '%s' is not the resource ID of a cluster", id)
	}
	e, err := newEnabling(in, id)
	if err != nil {
		return nil, err
	}
	return e.run(ctx)
}

// enableCluster goes from a kubeconfig to a first backup.
func enableCluster(ctx context.Context, in *Input) (any, error) {
	e, err := newEnabling(in, "") // what the options say is checked before anything is made
	if err != nil {
		return nil, err
	}
	cluster, err := in.findCluster(ctx)
	if err != nil && !client.NotFound(err) {
		return nil, err
	}
	if m := clusterID.FindStringSubmatch(text(cluster, "id")); m != nil {
		in.values["resource-group"] = []string{lastSegment(m[1])}
	} else if !in.Has("resource-group") {
		in.values["resource-group"] = []string{in.Text("cluster-name")}
	}
	if e.cluster, err = in.path(ctx, clusterPath); err != nil {
		return nil, err
	}
	if !connected(cluster) {
		if !in.Has("location") {
			in.values["location"] = []string{"eastus"}
		}
		if !in.Has("image") {
			return nil, usagef("the cluster '%s' is not connected. To connect it, say with --image where its nodes can pull the cairn-extension image from", in.Text("cluster-name"))
		}
		if _, err := clusterConnect(ctx, in); err != nil {
			return nil, err
		}
		e.changed = true
		e.tell("cluster "+in.Text("cluster-name"), "connected")
	} else {
		kube, err := openKube(ctx, in.Text("kubeconfig"), in.Text("context"))
		if err != nil {
			return nil, err
		}
		if err := kube.isCluster(ctx, text(cluster, "id")); err != nil {
			return nil, err
		}
		e.tell("cluster "+in.Text("cluster-name"), "is connected")
	}
	answer, err := e.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.firstBackup(ctx); err != nil {
		return nil, err
	}
	return e.protected(ctx, answer)
}

// enabling is one run of enable. Every step looks for what it makes first, and names what it makes after what it is for, so that a run that was
// killed is carried on by the next one.
type enabling struct {
	in *Input
	// cluster is the cluster's ID, name, location and principal what follows from it.
	cluster, name, location, principal string
	// strategy is empty when the user has not said which.
	strategy string
	custom   map[string]any
	group    string // ID of the resource group of the backups
	account  string // ID of the storage account
	vault    map[string]any
	policy   string // ID
	instance any
	changed  bool
}

func newEnabling(in *Input, cluster string) (*enabling, error) {
	e := &enabling{in: in, cluster: cluster, strategy: in.Text("backup-strategy"), custom: map[string]any{}}
	switch e.strategy {
	case "DisasterRecovery", "Immutable":
		return nil, usagef("the strategy %s keeps copies in the vault tier, which there is not yet: use Week or Month, which keep backups in your own storage account "+
			"for 7 or 30 days, or Custom with a policy of your own", e.strategy)
	}
	given, err := in.Object("backup-configuration-file")
	if err != nil {
		return nil, err
	}
	if given != nil {
		if e.custom, err = object(given); err != nil {
			return nil, usagef("argument --backup-configuration-file: %s", err)
		}
	}
	for key, v := range e.custom {
		form, known := customForms[key]
		s, isText := v.(string)
		if _, isObject := v.(map[string]any); key == "tags" && isObject {
			continue
		}
		if !known || !isText || !form.MatchString(s) {
			return nil, usagef("argument --backup-configuration-file: %s: '%v' is not understood. Allowed are storageAccountResourceId, blobContainerName, "+
				"backupResourceGroupId, backupVaultId and backupPolicyId with a resource's ID each, and tags with an object", key, v)
		}
	}
	if e.strategy == "Custom" && (e.custom["backupVaultId"] == nil || e.custom["backupPolicyId"] == nil) {
		return nil, usagef("backupVaultId and backupPolicyId are required in --backup-configuration-file when using the Custom strategy")
	}
	return e, nil
}

// customForms are the keys of the configuration file, and what their values look like.
var customForms = map[string]*regexp.Regexp{
	"storageAccountResourceId": regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Storage/storageAccounts/[^/]+$`),
	"blobContainerName":        regexp.MustCompile(`.`),
	"backupResourceGroupId":    regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+$`),
	"backupVaultId":            regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.DataProtection/backupVaults/[^/]+$`),
	"backupPolicyId":           regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.DataProtection/backupVaults/[^/]+/backupPolicies/[^/]+$`),
}

// tell writes a line about a step that is done.
func (e *enabling) tell(what, how string) { e.in.progress.note(what + ": " + how) }

// run makes everything up to the instance, and waits until that is protected.
func (e *enabling) run(ctx context.Context) (map[string]any, error) {
	for _, step := range []func(context.Context) error{e.findInstance, e.checkCluster, e.resourceGroup, e.extension, e.findVault, e.findPolicy, e.grants, e.trust, e.protect} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return map[string]any{"cluster": e.cluster, "resourceGroupId": e.group, "storageAccount": e.account, "backupVault": e.vault["id"], "backupPolicy": e.policy,
		"backupInstance": text(e.instance, "id"), "protectionState": text(e.instance, "properties", "currentProtectionState")}, nil
}

// digest is n hexadecimal digits that follow from a text, in any letter case.
func digest(s string, n int) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.ToLower(s))))[:n]
}

// findInstance looks for the instance that an earlier run has made. Another one is in the way, as with Azure: the cluster would be backed up twice.
func (e *enabling) findInstance(ctx context.Context) error {
	m := clusterID.FindStringSubmatch(e.cluster)
	e.name = m[2]
	ours := e.name + "-" + digest(e.cluster, 8)
	all, err := e.in.list(ctx, e.cluster+"/providers/Microsoft.DataProtection/backupInstances", backupVersion, nil)
	if err != nil {
		return err
	}
	for _, i := range all {
		if strings.EqualFold(text(i, "name"), ours) {
			e.instance = i
		}
	}
	if e.instance == nil && len(all) > 0 {
		id := text(all[0], "id")
		return fmt.Errorf("the cluster '%s' is backed up already, by the backup instance '%s' of the vault '%s' (%s). See what that protects with 'cairn coverage --cluster %s'; "+
			"to begin anew, delete it first: az dataprotection backup-instance delete --ids %s", e.name, lastSegment(id), lastSegment(vaultID(id)),
			text(all[0], "properties", "currentProtectionState"), e.name, id)
	}
	return nil
}

func (e *enabling) checkCluster(ctx context.Context) error {
	cluster, err := e.in.get(ctx, e.cluster, clustersVersion)
	if err != nil {
		return err
	}
	e.cluster, e.location, e.principal = text(cluster, "id"), text(cluster, "location"), text(cluster, "identity", "principalId")
	if !connected(cluster) {
		return fmt.Errorf("the cluster '%s' is not connected: connect it with 'cairn cluster connect', or see what its connector says: kubectl logs -n %s deployment/cairn-connector", e.name, kubeNamespace)
	}
	if e.principal == "" {
		return fmt.Errorf("the cluster '%s' has no managed identity", e.name)
	}
	return nil
}

// tags are those of everything that is made.
func (e *enabling) tags() map[string]any {
	tags := map[string]any{}
	for _, more := range []any{e.custom["tags"], e.in.Pairs("tags"), map[string]any{backupTag: e.location}} {
		if m, ok := more.(map[string]any); ok {
			maps.Copy(tags, m)
		}
	}
	return tags
}

// marked finds the resource of a list that was made for the backups of this location's clusters; nil when there is none.
func (e *enabling) marked(ctx context.Context, list, version string) (any, error) {
	all, err := e.in.list(ctx, e.subscription()+list, version, nil)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if strings.EqualFold(text(r, "tags", backupTag), e.location) {
			return r, nil
		}
	}
	return nil, nil
}

func (e *enabling) subscription() string { return strings.Join(strings.Split(e.cluster, "/")[:3], "/") }

// named reads a resource that the configuration file names; nil when it names none.
func (e *enabling) named(ctx context.Context, key, what, version string) (any, error) {
	id, _ := e.custom[key].(string)
	if id == "" {
		return nil, nil
	}
	r, err := e.in.get(ctx, id, version)
	if err != nil {
		return nil, fmt.Errorf("argument --backup-configuration-file: %s: %w", key, err)
	}
	e.tell(what+" "+lastSegment(id), "is there")
	return r, nil
}

// ensure reads a resource, or makes it when it is not there.
func (e *enabling) ensure(ctx context.Context, what, path, version string, body any) (any, error) {
	there, err := e.in.get(ctx, path, version)
	if err == nil {
		e.tell(what+" "+lastSegment(path), "is there")
		return there, nil
	}
	if !client.NotFound(err) {
		return nil, err
	}
	made, err := e.in.put(ctx, "Making "+what+" "+lastSegment(path), path, version, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, lastSegment(path), err)
	}
	e.changed = true
	e.tell(what+" "+lastSegment(path), "made")
	return made, nil
}

// either is what the configuration file names, else what is marked for this location, else what is made now.
func (e *enabling) either(ctx context.Context, key, what, list, version, path string, body map[string]any) (any, error) {
	r, err := e.named(ctx, key, what, version)
	if r != nil || err != nil {
		return r, err
	}
	r, err = e.marked(ctx, list, version)
	if err != nil {
		return nil, err
	}
	if r != nil {
		e.tell(what+" "+text(r, "name"), "is there")
		return r, nil
	}
	body["location"], body["tags"] = e.location, e.tags()
	return e.ensure(ctx, what, path, version, body)
}

func (e *enabling) resourceGroup(ctx context.Context) error {
	r, err := e.either(ctx, "backupResourceGroupId", "resource group", "/resourceGroups", resourcesVersion,
		e.subscription()+"/resourceGroups/AKSAzureBackup_"+e.location, map[string]any{})
	e.group = text(r, "id")
	return err
}

// extension sees to the extension, and first to the storage that it needs. One that is there keeps its storage.
func (e *enabling) extension(ctx context.Context) error {
	all, err := e.in.list(ctx, e.cluster+"/providers/Microsoft.KubernetesConfiguration/extensions", extensionVersion, nil)
	if err != nil {
		return err
	}
	path, settings := e.cluster+"/providers/Microsoft.KubernetesConfiguration/extensions/"+backupExtensionName, map[string]any{}
	var there any
	for _, x := range all {
		if strings.EqualFold(text(x, "properties", "extensionType"), backupExtension) {
			there, path = x, text(x, "id")
		}
	}
	if there != nil {
		if settings, err = object(at(there, "properties", "configurationSettings")); err != nil {
			return fmt.Errorf("extension %s: %w", lastSegment(path), err)
		}
		e.account = "/subscriptions/" + text(settings, settingNames["storageaccountsubscriptionid"]) + "/resourceGroups/" +
			text(settings, settingNames["storageaccountresourcegroup"]) + accountsPath + "/" + text(settings, settingNames["storageaccount"])
	} else if err := e.storage(ctx, settings); err != nil {
		return err
	}
	if text(there, "properties", "provisioningState") == "Succeeded" {
		e.tell("extension "+lastSegment(path), "is installed")
	} else {
		there, err = e.in.put(ctx, "Installing the extension", path, extensionVersion, map[string]any{"properties": map[string]any{
			"extensionType": backupExtension, "autoUpgradeMinorVersion": true, "releaseTrain": "stable", "scope": map[string]any{"cluster": map[string]any{}},
			"configurationSettings": settings}})
		if err != nil {
			return fmt.Errorf("extension %s: %w", lastSegment(path), err)
		}
		e.changed = true
		e.tell("extension "+lastSegment(path), "installed")
	}
	return e.grant(ctx, "Storage Blob Data Contributor", text(there, "properties", "aksAssignedIdentity", "principalId"), e.account, "the extension")
}

var notInContainer = regexp.MustCompile(`[^a-z0-9]+`)

// storage makes the account and the cluster's container in it.
func (e *enabling) storage(ctx context.Context, settings map[string]any) error {
	account, err := e.either(ctx, "storageAccountResourceId", "storage account", accountsPath, storageVersion,
		e.group+accountsPath+"/aksbkp"+fmt.Sprintf("%.12s", e.location)+digest(e.subscription(), 6),
		map[string]any{"sku": map[string]any{"name": "Standard_LRS"}, "kind": "StorageV2",
			"properties": map[string]any{"allowBlobPublicAccess": false, "allowSharedKeyAccess": false}})
	if err != nil {
		return err
	}
	e.account = text(account, "id")
	container, _ := e.custom["blobContainerName"].(string)
	if container == "" {
		clusterGroup := strings.Split(e.cluster, "/")[4]
		container = strings.Trim(fmt.Sprintf("%.63s", notInContainer.ReplaceAllString(strings.ToLower(e.name+"-"+clusterGroup), "-")), "-")
	}
	if _, err := e.ensure(ctx, "container", e.account+"/blobServices/default/containers/"+url.PathEscape(container), storageVersion, map[string]any{}); err != nil {
		return err
	}
	parts := strings.Split(e.account, "/")
	for key, value := range map[string]string{"blobcontainer": container, "storageaccount": parts[8], "storageaccountresourcegroup": parts[4],
		"storageaccountsubscriptionid": parts[2], "storageaccounturi": text(account, "properties", "primaryEndpoints", "blob"), "useaad": "true"} {
		settings[settingNames[key]] = value
	}
	return nil
}

// findVault makes the vault as Azure does, except for what there is no more than one copy of.
func (e *enabling) findVault(ctx context.Context) error {
	if e.instance != nil {
		vault, err := e.in.get(ctx, vaultID(text(e.instance, "id")), backupVersion)
		if err != nil {
			return err
		}
		e.tell("vault "+text(vault, "name"), "is there")
		e.vault, err = object(vault)
		return err
	}
	vault, err := e.either(ctx, "backupVaultId", "vault", vaultsPath, backupVersion, e.group+vaultsPath+"/AKSAzureBackup-"+e.location, map[string]any{
		"identity": map[string]any{"type": "SystemAssigned"},
		"properties": map[string]any{
			"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}},
			"securitySettings": map[string]any{"immutabilitySettings": map[string]any{"state": "Unlocked"},
				"softDeleteSettings": map[string]any{"state": "On", "retentionDurationInDays": 14.0}},
		}})
	if err != nil {
		return err
	}
	if text(vault, "identity", "principalId") == "" {
		return fmt.Errorf("the vault '%s' has no managed identity: give it one with 'az dataprotection backup-vault update --ids %s --type SystemAssigned'", text(vault, "name"), text(vault, "id"))
	}
	e.vault, err = object(vault)
	return err
}

// strategyDays are how long the strategies keep a backup.
var strategyDays = map[string]string{"Week": "P7D", "Month": "P30D"}

// findPolicy makes the strategy's policy. Without a strategy an instance that is there keeps its policy.
func (e *enabling) findPolicy(ctx context.Context) error {
	if e.strategy == "" && e.instance != nil {
		e.policy = text(e.instance, "properties", "policyInfo", "policyId")
		e.tell("policy "+lastSegment(e.policy), "is there")
		return nil
	}
	if e.strategy == "Custom" {
		policy, err := e.named(ctx, "backupPolicyId", "policy", backupVersion)
		e.policy = text(policy, "id")
		return err
	}
	strategy := e.strategy
	if strategy == "" {
		strategy = "Week"
	}
	store := map[string]any{"objectType": "DataStoreInfoBase", "dataStoreType": "OperationalStore"}
	policy, err := e.ensure(ctx, "policy", text(e.vault, "id")+"/backupPolicies/AKSBackupPolicy-"+strategy, backupVersion, map[string]any{"properties": map[string]any{
		"objectType": "BackupPolicy", "datasourceTypes": []any{aksType},
		"policyRules": []any{
			map[string]any{"objectType": "AzureRetentionRule", "name": "Default", "isDefault": true, "lifecycles": []any{map[string]any{
				"deleteAfter":     map[string]any{"objectType": "AbsoluteDeleteOption", "duration": strategyDays[strategy]},
				"sourceDataStore": store, "targetDataStoreCopySettings": []any{}}}},
			map[string]any{"objectType": "AzureBackupRule", "name": "BackupDaily", "dataStore": store,
				"backupParameters": map[string]any{"objectType": "AzureBackupParams", "backupType": "Incremental"},
				"trigger": map[string]any{"objectType": "ScheduleBasedTriggerContext",
					"schedule":        map[string]any{"timeZone": "Coordinated Universal Time", "repeatingTimeIntervals": []any{"R/2024-01-01T00:00:00+00:00/P1D"}},
					"taggingCriteria": []any{map[string]any{"isDefault": true, "taggingPriority": 99, "tagInfo": map[string]any{"id": "Default_", "tagName": "Default"}}}}},
		}}})
	e.policy = text(policy, "id")
	return err
}

// grants give the cluster and the vault the roles that Azure's documentation names.
func (e *enabling) grants(ctx context.Context) error {
	vault := text(e.vault, "identity", "principalId")
	for _, g := range []struct{ role, principal, scope, who string }{
		{"Contributor", e.principal, e.group, "the cluster"},
		{"Reader", vault, e.cluster, "the vault"},
		{"Reader", vault, e.group, "the vault"},
		{"Disk Snapshot Contributor", vault, e.group, "the vault"},
		{"Storage Blob Data Reader", vault, e.account, "the vault"},
	} {
		if err := e.grant(ctx, g.role, g.principal, g.scope, g.who); err != nil {
			return err
		}
	}
	return nil
}

// grant gives a principal a role unless it has it, there or above.
func (e *enabling) grant(ctx context.Context, role, principal, scope, who string) error {
	what := fmt.Sprintf("role %s of %s on %s", role, who, lastSegment(scope))
	roleID, err := e.in.roleID(ctx, scope, role)
	if err != nil {
		return err
	}
	there, err := e.in.granted(ctx, scope, roleID, principal)
	if err != nil {
		return err
	}
	if there != nil {
		e.tell(what, "is given")
		return nil
	}
	if _, err := e.in.assign(ctx, scope, role, principal, "ServicePrincipal"); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	e.changed = true
	e.tell(what, "given")
	return nil
}

// trust lets the vault work in the cluster.
func (e *enabling) trust(ctx context.Context) error {
	bindings := e.cluster + "/trustedAccessRoleBindings"
	all, err := e.in.list(ctx, bindings, clustersVersion, nil)
	if err != nil {
		return err
	}
	for _, b := range all {
		if strings.EqualFold(text(b, "properties", "sourceResourceId"), text(e.vault, "id")) {
			e.tell("trusted access "+text(b, "name"), "is there")
			return nil
		}
	}
	_, err = e.ensure(ctx, "trusted access", bindings+"/tarb-"+digest(text(e.vault, "id"), 16), clustersVersion, map[string]any{"properties": map[string]any{
		"sourceResourceId": text(e.vault, "id"), "roles": []any{backupOperator}}})
	return err
}

// protect makes the instance, or changes the policy of the one that is there, and waits until it is protected.
func (e *enabling) protect(ctx context.Context) error {
	path := text(e.vault, "id") + "/backupInstances/" + url.PathEscape(e.name+"-"+digest(e.cluster, 8))
	state := text(e.instance, "properties", "currentProtectionState")
	switch state {
	case "ProtectionStopped", "BackupsSuspended":
		return fmt.Errorf("the protection of the cluster '%s' was stopped (%s): if it is to go on, resume it: az dataprotection backup-instance resume-protection --ids %s", e.name, state, path)
	}
	same := strings.EqualFold(text(e.instance, "properties", "policyInfo", "policyId"), e.policy)
	var body map[string]any
	switch {
	case e.instance == nil:
		var err error
		if body, err = e.newInstance(); err != nil {
			return err
		}
	case !same || state == "ProtectionError" || state == "ConfiguringProtectionFailed":
		body = e.instance.(map[string]any)
		assign(body, e.policy, "properties", "policyInfo", "policyId")
	}
	if body != nil {
		put, err := e.in.put(ctx, "Configuring protection", path, backupVersion, body)
		if err != nil {
			return fmt.Errorf("backup instance %s: %w", lastSegment(path), err)
		}
		e.instance, e.changed = put, true
	}
	instance, err := e.in.untilProtected(ctx, path, e.instance)
	if err != nil {
		return err
	}
	e.instance = instance
	how := "protects the cluster"
	if body == nil {
		how += " already"
	}
	e.tell("backup instance "+lastSegment(path), how)
	return nil
}

func (e *enabling) newInstance() (map[string]any, error) {
	source, err := datasource(e.cluster, e.location, "Datasource")
	if err != nil {
		return nil, err
	}
	set, err := datasource(e.cluster, e.location, "DatasourceSet")
	if err != nil {
		return nil, err
	}
	source["resourceUri"], set["resourceUri"] = e.cluster, e.cluster
	return map[string]any{"tags": e.tags(), "properties": map[string]any{
		"objectType": "BackupInstance", "friendlyName": e.name + `\fullbackup`, "dataSourceInfo": source, "dataSourceSetInfo": set,
		"policyInfo": map[string]any{"policyId": e.policy, "policyParameters": map[string]any{
			"dataStoreParametersList":        []any{map[string]any{"objectType": "AzureOperationalStoreParameters", "dataStoreType": "OperationalStore", "resourceGroupId": e.group}},
			"backupDatasourceParametersList": []any{map[string]any{"objectType": "KubernetesClusterBackupDatasourceParameters", "snapshotVolumes": true, "includeClusterScopeResources": true}},
		}}}}, nil
}

// firstBackup makes a backup unless there is one. One that runs is waited for.
func (e *enabling) firstBackup(ctx context.Context) error {
	id := text(e.instance, "id")
	points, err := e.in.list(ctx, id+"/recoveryPoints", backupVersion, nil)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		e.tell("backup", "there are recovery points already")
		return nil
	}
	job, err := e.runningBackup(ctx, id)
	if err != nil {
		return err
	}
	if job == "" {
		if job, err = e.startBackup(ctx, id); err != nil {
			return err
		}
	}
	e.changed = true
	e.tell("backup", "the first one runs")
	ended, err := e.in.followJob(ctx, job, jobInterval)
	if err != nil {
		return err
	}
	e.tell("backup", text(ended, "properties", "status"))
	return nil
}

func (e *enabling) startBackup(ctx context.Context, instance string) (job string, err error) {
	policy, err := e.in.get(ctx, e.policy, backupVersion)
	if err != nil {
		return "", err
	}
	rules, _ := at(policy, "properties", "policyRules").([]any)
	for _, r := range rules {
		if text(r, "objectType") != "AzureBackupRule" {
			continue
		}
		answer, err := e.in.post(ctx, "Starting the first backup", instance+"/backup", backupVersion,
			map[string]any{"backupRuleOptions": map[string]any{"ruleName": text(r, "name"), "triggerOption": map[string]any{}}})
		return text(answer, "jobId"), err
	}
	return "", fmt.Errorf("the policy '%s' has no backup rule", lastSegment(e.policy))
}

// runningBackup is the job of a backup that an earlier run has started, or the schedule.
func (e *enabling) runningBackup(ctx context.Context, instance string) (job string, err error) {
	jobs, err := e.in.list(ctx, text(e.vault, "id")+"/backupJobs", backupVersion, filter("backupInstanceId eq "+quote(instance), "operation eq 'Backup'"))
	if err != nil {
		return "", err
	}
	for _, j := range jobs {
		if !ended(j) {
			return text(j, "id"), nil
		}
	}
	return "", nil
}

// protected adds to the answer what is protected now, what not and why.
func (e *enabling) protected(ctx context.Context, answer map[string]any) (any, error) {
	kube, _, err := newKube(e.in.Text("kubeconfig"), e.in.Text("context"))
	if err != nil {
		return nil, err
	}
	report, err := e.in.coverage(ctx, kube, e.cluster)
	if err != nil {
		return nil, err
	}
	doc, err := reportDocument(report)
	if err != nil {
		return nil, err
	}
	maps.Copy(answer, doc)
	if !e.changed {
		e.in.progress.note("Nothing had to be changed.")
	}
	sentence := coverageSentence(e.name, report.Summary)
	schedule, err := e.in.get(ctx, text(e.instance, "id")+"/schedule", backupVersion)
	if err != nil {
		return nil, err
	}
	if next := words(at(schedule, "properties", "nextSlots")); len(next) > 0 {
		answer["nextBackup"] = next[0]
		sentence += " The next backup is at " + next[0] + "."
	}
	e.in.progress.note(sentence)
	return answer, nil
}
