package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	storageVersion = "2022-09-01"
	accountsPath   = "/providers/Microsoft.Storage/storageAccounts"
	accountPath    = groupPath + accountsPath + "/{name}"
	storageColumns = "[].{Name:name, ResourceGroup:resourceGroup, Location:location, Kind:kind, Sku:sku.name, Blob:primaryEndpoints.blob, State:provisioningState}"
)

var (
	storageNameArg  = Arg{Names: "--name -n", Required: true, Help: "The storage account's name."}
	storageNameArg2 = Arg{Names: "--account-name --name -n", Required: true, Help: "The storage account's name."}
)

var storageCommands = []Command{
	{Path: "storage account create", Help: "Create a storage account.", Run: storageCreate, Columns: storageColumns,
		Args: []Arg{storageNameArg, groupArg, locationArg, tagsArg,
			{Names: "--sku", Help: "Redundancy. Default: Standard_RAGRS.", Choices: []string{"Premium_LRS", "Premium_ZRS", "Standard_GRS",
				"Standard_GZRS", "Standard_LRS", "Standard_RAGRS", "Standard_RAGZRS", "Standard_ZRS"}},
			{Names: "--kind", Help: "Default: StorageV2.", Choices: []string{"BlobStorage", "BlockBlobStorage", "FileStorage", "Storage", "StorageV2"}},
			{Names: "--access-tier", Help: "How blobs are billed.", Choices: []string{"Cool", "Hot", "Premium"}},
			{Names: "--allow-blob-public-access", Kind: Bool, Help: "Allow containers to be public."},
			{Names: "--allow-shared-key-access", Kind: Bool, Help: "Accept requests signed with the account's keys."},
			{Names: "--https-only", Kind: Bool, Help: "Refuse plain HTTP."},
			{Names: "--min-tls-version", Help: "The oldest TLS accepted.", Choices: []string{"TLS1_0", "TLS1_1", "TLS1_2", "TLS1_3"}},
		},
		Examples: []string{"storage account create --name backups --resource-group rg --location eastus --sku Standard_LRS"}},
	{Path: "storage account show", Help: "Show a storage account.", ID: accountPath, Run: flat(storageShow), Columns: storageColumns,
		Args: []Arg{storageNameArg, optional(groupArg)}},
	{Path: "storage account list", Help: "List storage accounts.", Columns: storageColumns,
		Run: flat(list(groupPath+accountsPath, subscriptionPath+accountsPath, storageVersion)), Args: []Arg{optional(groupArg)}},
	{Path: "storage account delete", Help: "Delete a storage account with all its blobs.", ID: accountPath, Confirm: true,
		Run: storageDelete, Args: []Arg{storageNameArg, optional(groupArg)}},
	{Path: "storage account check-name", Help: "Say whether a name is free.", Run: storageCheckName, Args: []Arg{storageNameArg}},
	{Path: "storage account keys list", Help: "List the keys of a storage account.", Run: storageKeys, Verbatim: true,
		Columns: "[].{KeyName:keyName, Permissions:permissions, Value:value}",
		Args: []Arg{storageNameArg2, optional(groupArg),
			{Names: "--expand-key-type", Help: "Kerberos keys too.", Choices: []string{"kerb"}}}},
}

func storageCreate(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, accountPath)
	if err != nil {
		return nil, err
	}
	properties := map[string]any{"encryption": map[string]any{"services": map[string]any{"blob": map[string]any{}}, "keySource": "Microsoft.Storage"}}
	for option, property := range map[string]string{"allow-blob-public-access": "allowBlobPublicAccess",
		"allow-shared-key-access": "allowSharedKeyAccess", "https-only": "supportsHttpsTrafficOnly"} {
		if in.Has(option) {
			properties[property] = in.Flag(option)
		}
	}
	for option, property := range map[string]string{"access-tier": "accessTier", "min-tls-version": "minimumTlsVersion"} {
		if in.Has(option) {
			properties[property] = in.Text(option)
		}
	}
	body := map[string]any{"sku": map[string]any{"name": in.textOr("sku", "Standard_RAGRS")}, "kind": in.textOr("kind", "StorageV2"), "properties": properties}
	if body["location"], err = in.location(ctx); err != nil {
		return nil, err
	}
	if in.Has("tags") {
		body["tags"] = in.Pairs("tags")
	}
	created, err := in.put(ctx, "Creating "+in.Text("name"), path, storageVersion, body)
	return flatten(created), err
}

// location is the option's, or the resource group's.
func (in *Input) location(ctx context.Context) (string, error) {
	if in.Has("location") {
		return in.Text("location"), nil
	}
	path, err := in.path(ctx, groupPath)
	if err != nil {
		return "", err
	}
	group, err := in.get(ctx, path, resourcesVersion)
	return text(group, "location"), err
}

func (in *Input) textOr(key, otherwise string) string {
	if in.Has(key) {
		return in.Text(key)
	}
	return otherwise
}

// findAccount reads a storage account by name, in whichever resource group it is.
func (in *Input) findAccount(ctx context.Context, name string) (map[string]any, error) {
	path, err := in.path(ctx, subscriptionPath+accountsPath)
	if err != nil {
		return nil, err
	}
	all, err := in.list(ctx, path, storageVersion, nil)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if strings.EqualFold(text(a, "name"), name) {
			return object(a)
		}
	}
	return nil, &client.Error{Status: http.StatusNotFound, Code: "ResourceNotFound",
		Message: fmt.Sprintf("The storage account '%s' was not found in the subscription.", name)}
}

// accountID is the account's ID: from --ids, from the resource group, or found by name.
func (in *Input) accountID(ctx context.Context, name string) (string, error) {
	if in.resource != "" {
		return in.resource, nil
	}
	if in.Has("resource-group") {
		return in.path(ctx, groupPath+accountsPath+"/"+url.PathEscape(name))
	}
	a, err := in.findAccount(ctx, name)
	return text(a, "id"), err
}

func storageShow(ctx context.Context, in *Input) (any, error) {
	id, err := in.accountID(ctx, in.Text("name"))
	if err != nil {
		return nil, err
	}
	return in.get(ctx, id, storageVersion)
}

func storageDelete(ctx context.Context, in *Input) (any, error) {
	id, err := in.accountID(ctx, in.Text("name"))
	if err != nil {
		return nil, err
	}
	return nil, in.delete(ctx, id, storageVersion)
}

func storageCheckName(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, subscriptionPath+"/providers/Microsoft.Storage/checkNameAvailability")
	if err != nil {
		return nil, err
	}
	return in.post(ctx, "Checking", path, storageVersion, map[string]any{"name": in.Text("name"), "type": "Microsoft.Storage/storageAccounts"})
}

func storageKeys(ctx context.Context, in *Input) (any, error) {
	id, err := in.accountID(ctx, in.Text("account-name"))
	if err != nil {
		return nil, err
	}
	keys, err := in.accountKeys(ctx, id)
	if err != nil {
		return nil, err
	}
	return keys, nil
}

func (in *Input) accountKeys(ctx context.Context, id string) ([]any, error) {
	answer, err := in.call(ctx, "Reading keys", client.Request{Method: http.MethodPost, Path: id + "/listKeys", APIVersion: storageVersion,
		Query: url.Values{"$expand": {"kerb"}}})
	if err != nil {
		return nil, err
	}
	keys, ok := at(answer, "keys").([]any)
	if !ok || len(keys) == 0 {
		return nil, fmt.Errorf("storage account %s: the service answered no keys", lastSegment(id))
	}
	return keys, nil
}
