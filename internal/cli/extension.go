package cli

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	extensionVersion   = "2023-05-01"
	extensionsPath     = clusterPath + "/providers/Microsoft.KubernetesConfiguration/extensions"
	extensionPath      = extensionsPath + "/{name}"
	k8sExtensionColumn = "[].{Name:name, ExtensionType:extensionType, Version:currentVersion, State:provisioningState, Message:statuses[0].message}"
	backupExtension    = "microsoft.dataprotection.kubernetes"
	locationPrefix     = "configuration.backupStorageLocation."
)

// settingNames are the settings of the backup extension as users write them, in lower case, and as the API has them.
var settingNames = map[string]string{
	"blobcontainer":                locationPrefix + "bucket",
	"storageaccount":               locationPrefix + "config.storageAccount",
	"storageaccountresourcegroup":  locationPrefix + "config.resourceGroup",
	"storageaccountsubscriptionid": locationPrefix + "config.subscriptionId",
	"storageaccounturi":            locationPrefix + "config.storageAccountURI",
	"useaad":                       locationPrefix + "config.useAAD",
	"cpulimit":                     "resources.limits.cpu",
	"memorylimit":                  "resources.limits.memory",
	"cpurequest":                   "resources.requests.cpu",
	"memoryrequest":                "resources.requests.memory",
	"disableinformercache":         "disableInformerCache",
}

// extensionCommands are the same commands under either of their names.
func extensionCommands(group string) []Command {
	name := Arg{Names: "--name -n", Required: true, Help: "The extension's name, such as azure-aks-backup."}
	kind := Arg{Names: "--cluster-type -t", Choices: []string{"managedClusters"}, Help: "The kind of cluster."}
	settings := Arg{Names: "--configuration-settings --config --config-settings", Kind: Pairs, Help: "Settings, key=value: blobContainer, storageAccount, " +
		"storageAccountResourceGroup, storageAccountSubscriptionId; also cpuLimit, memoryLimit, cpuRequest, memoryRequest."}
	of := []Arg{name, ofClusterArg, groupArg, kind}
	more := []Arg{settings, noWaitArg,
		{Names: "--auto-upgrade-minor-version --auto-upgrade", Kind: Bool, Help: "Keep the extension up to date. Default: true."},
		{Names: "--release-train", Help: "Default: stable."},
		{Names: "--version", Help: "The version to install, without automatic upgrades."},
		{Names: "--configuration-protected-settings --config-protected --config-protected-settings", Kind: Pairs, Help: "Settings that are never shown, key=value."},
	}
	return []Command{
		{Path: group + " create", Help: "Install the backup extension in a cluster.", Run: extensionCreate, Columns: k8sExtensionColumn,
			Args: append(append(of, more...),
				Arg{Names: "--extension-type", Required: true, Help: "The kind of extension: " + backupExtension + "."},
				Arg{Names: "--scope", Choices: []string{"cluster", "namespace"}, Help: "Default: cluster."}),
			Examples: []string{group + " create --name azure-aks-backup --cluster-name aks --resource-group rg --extension-type " + backupExtension +
				" --scope cluster --configuration-settings blobContainer=c storageAccount=s storageAccountResourceGroup=rg storageAccountSubscriptionId=ID"}},
		{Path: group + " show", Help: "Show an extension.", ID: extensionPath, Run: flat(show(extensionVersion)), Args: of, Columns: k8sExtensionColumn},
		{Path: group + " list", Help: "List a cluster's extensions.", Run: flat(list(extensionsPath, "", extensionVersion)), Args: of[1:], Columns: k8sExtensionColumn},
		{Path: group + " update", Help: "Change an extension's settings.", Run: extensionUpdate, Confirm: true, Columns: k8sExtensionColumn,
			Args: append(append([]Arg(nil), of...), more...)},
		{Path: group + " delete", Help: "Remove an extension from a cluster.", ID: extensionPath, Run: extensionDelete, Confirm: true,
			Args: append(append([]Arg(nil), of...), noWaitArg,
				Arg{Names: "--force", Kind: Flag, Help: "Forget the extension even when the cluster does not answer."})},
	}
}

// settings are the command's settings in the API's names.
func (in *Input) settings() map[string]any {
	out := map[string]any{}
	for k, v := range in.Pairs("configuration-settings") {
		name, known := settingNames[strings.ToLower(k)]
		switch {
		case known:
			out[name] = v
		case strings.Contains(k, "."):
			out[k] = v
		default:
			in.warn("Ignoring unrecognized configuration setting: %s", k)
		}
	}
	return out
}

func extensionCreate(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, extensionPath)
	if err != nil {
		return nil, err
	}
	settings := in.settings()
	if strings.EqualFold(in.Text("extension-type"), backupExtension) {
		if err := in.completeSettings(ctx, settings); err != nil {
			return nil, err
		}
	}
	properties := map[string]any{
		"extensionType": in.Text("extension-type"), "autoUpgradeMinorVersion": !in.Has("version") && in.textOr("auto-upgrade-minor-version", "true") == "true",
		"releaseTrain": in.textOr("release-train", "stable"), "configurationSettings": settings,
		"configurationProtectedSettings": in.Pairs("configuration-protected-settings"),
		"scope":                          map[string]any{in.textOr("scope", "cluster"): map[string]any{}},
	}
	if in.Has("version") {
		properties["version"] = in.Text("version")
	}
	created, err := in.put(ctx, "Installing "+in.Text("name"), path, extensionVersion, map[string]any{"properties": properties})
	return flatten(created), err
}

// completeSettings checks that the storage account is named, and adds what az adds: the account's address and the tenant.
func (in *Input) completeSettings(ctx context.Context, settings map[string]any) error {
	for _, key := range []string{"blobContainer", "storageAccount", "storageAccountResourceGroup", "storageAccountSubscriptionId"} {
		if v, _ := settings[settingNames[strings.ToLower(key)]].(string); v == "" {
			return usagef("Missing required configuration setting: %s", key)
		}
	}
	setting := func(key string) string { return url.PathEscape(settings[settingNames[key]].(string)) }
	account, err := in.get(ctx, "/subscriptions/"+setting("storageaccountsubscriptionid")+"/resourceGroups/"+
		setting("storageaccountresourcegroup")+accountsPath+"/"+setting("storageaccount"), storageVersion)
	if err != nil {
		return err
	}
	for key, value := range map[string]string{
		settingNames["storageaccounturi"]: text(account, "properties", "primaryEndpoints", "blob"),
		settingNames["useaad"]:            "true",
		"credentials.tenantId":            in.session.TenantID,
	} {
		if _, given := settings[key]; !given {
			settings[key] = value
		}
	}
	return nil
}

func extensionUpdate(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, extensionPath)
	if err != nil {
		return nil, err
	}
	properties := map[string]any{}
	if in.Has("configuration-settings") {
		properties["configurationSettings"] = in.settings()
	}
	if in.Has("configuration-protected-settings") {
		properties["configurationProtectedSettings"] = in.Pairs("configuration-protected-settings")
	}
	if in.Has("auto-upgrade-minor-version") {
		properties["autoUpgradeMinorVersion"] = in.Flag("auto-upgrade-minor-version")
	}
	for option, property := range map[string]string{"release-train": "releaseTrain", "version": "version"} {
		if in.Has(option) {
			properties[property] = in.Text(option)
		}
	}
	updated, err := in.call(ctx, "Updating "+in.Text("name"), client.Request{Method: http.MethodPatch, Path: path, APIVersion: extensionVersion,
		Body: map[string]any{"properties": properties}})
	return flatten(updated), err
}

func extensionDelete(ctx context.Context, in *Input) (any, error) {
	id, err := in.id(ctx)
	if err != nil {
		return nil, err
	}
	force := url.Values{"forceDelete": {"false"}}
	if in.Flag("force") {
		force.Set("forceDelete", "true")
	}
	_, err = in.call(ctx, "Removing "+lastSegment(id), client.Request{Method: http.MethodDelete, Path: id, APIVersion: extensionVersion, Query: force})
	return nil, err
}

// commaList splits words at commas too.
func commaList(words []string) []any {
	out := []any{}
	for _, w := range words {
		for _, part := range strings.Split(w, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}
