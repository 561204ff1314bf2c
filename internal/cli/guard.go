package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

const (
	guardsPath     = "/providers/Microsoft.DataProtection/resourceGuards"
	guardPath      = groupPath + guardsPath + "/{resource-guard-name}"
	mappingsPath   = vaultPath + "/backupResourceGuardProxies"
	mappingPath    = mappingsPath + "/{name}"
	mappingName    = "DppResourceGuardProxy"
	guardColumns   = "[].{Name:name, ResourceGroup:resourceGroup, Location:location, Excluded:join(', ', properties.vaultCriticalOperationExclusionList || `[]`)}"
	mappingColumns = "[].{Name:name, ResourceGuard:properties.resourceGuardResourceId, Updated:properties.lastUpdatedTime}"
)

var (
	guardArg    = Arg{Names: "--resource-guard-name --name -n", Required: true, Help: "The resource guard's name."}
	mappingArg  = Arg{Names: "--name --resource-guard-mapping-name -n", Required: true, Help: "The mapping's name: " + mappingName + "."}
	guardIDArg  = Arg{Names: "--resource-guard-id --resource-guard-resource-id", Required: true, Help: "The resource guard's ID."}
	requestsArg = Arg{Names: "--resource-guard-operation-requests --operation-requests", Kind: Texts,
		Help: "What the vault's resource guard must allow: IDs of requests, their kinds, or DisableMUA and DeleteBackupInstance."}
)

var guardCommands = []Command{
	{Path: "dataprotection resource-guard create", Help: "Create a resource guard, or change its tags.", Run: guardCreate, Columns: guardColumns, Args: []Arg{guardArg, groupArg, locationArg, tagsArg}},
	{Path: "dataprotection resource-guard show", Help: "Show a resource guard.", ID: guardPath, Run: show(backupVersion), Columns: guardColumns, Args: []Arg{guardArg, groupArg}},
	{Path: "dataprotection resource-guard list", Help: "List resource guards.", Columns: guardColumns, Args: []Arg{optional(groupArg)},
		Run: list(groupPath+guardsPath, subscriptionPath+guardsPath, backupVersion)},
	{Path: "dataprotection resource-guard delete", Help: "Delete a resource guard.", ID: guardPath, Confirm: true, Run: remove(backupVersion), Args: []Arg{guardArg, groupArg}},
	{Path: "dataprotection resource-guard update", Help: "Change which operations a resource guard protects.", ID: guardPath, Run: guardUpdate, Columns: guardColumns,
		Args: []Arg{guardArg, groupArg, tagsArg,
			{Names: "--resource-type", Help: "The type that the operations belong to. Default: Microsoft.DataProtection/backupVaults."},
			{Names: "--critical-operation-exclusion-list", Kind: Texts, Help: "Operations that it does not protect, such as backupInstances/delete."}}},
	{Path: "dataprotection resource-guard list-protected-operations", Help: "List the operations that a resource guard protects.", ID: guardPath, Run: guardOperations,
		Columns: "[].{Operation:vaultCriticalOperation}",
		Args:    []Arg{guardArg, groupArg, {Names: "--resource-type", Required: true, Help: "The type that they belong to: Microsoft.DataProtection/backupVaults."}}},
	{Path: "dataprotection resource-guard unlock", Help: "Allow what a vault's resource guard protects, for half an hour.", Run: guardUnlock,
		Args: []Arg{optional(mappingArg), vaultArg, groupArg, requestsArg, {Names: "--resource-to-be-deleted", Help: "ID of the resource that will be deleted."}}},

	{Path: "dataprotection backup-vault resource-guard-mapping create", Help: "Link a vault to a resource guard.", Run: mappingCreate, Columns: mappingColumns,
		Args: []Arg{optional(mappingArg), vaultArg, groupArg, guardIDArg}},
	{Path: "dataprotection backup-vault resource-guard-mapping show", Help: "Show a vault's link to a resource guard.", Run: mappingShow, Columns: mappingColumns,
		Args: []Arg{optional(mappingArg), vaultArg, groupArg}},
	{Path: "dataprotection backup-vault resource-guard-mapping list", Help: "List a vault's links to resource guards.", Run: list(mappingsPath, "", backupVersion), Columns: mappingColumns,
		Args: []Arg{vaultArg, groupArg}},
	{Path: "dataprotection backup-vault resource-guard-mapping delete", Help: "Delete a vault's link to a resource guard.", Confirm: true, Run: mappingDelete,
		Args: []Arg{optional(mappingArg), vaultArg, groupArg}},
}

func guardCreate(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, guardPath)
	if err != nil {
		return nil, err
	}
	body := map[string]any{}
	if in.Has("tags") {
		body["tags"] = in.Pairs("tags")
	}
	if body["location"], err = in.location(ctx); err != nil {
		return nil, err
	}
	return in.put(ctx, "Creating resource guard "+in.Text("resource-guard-name"), path, backupVersion, body)
}

func guardUpdate(ctx context.Context, in *Input) (any, error) {
	return in.change(ctx, "Updating resource guard", func(guard map[string]any) error {
		if in.Has("tags") {
			guard["tags"] = in.Pairs("tags")
		}
		if in.Has("critical-operation-exclusion-list") {
			excluded := []any{}
			for _, operation := range in.Texts("critical-operation-exclusion-list") {
				if !strings.HasPrefix(strings.ToLower(operation), "microsoft.") {
					operation = in.textOr("resource-type", "Microsoft.DataProtection/backupVaults") + "/" + operation
				}
				excluded = append(excluded, operation)
			}
			assign(guard, excluded, "properties", "vaultCriticalOperationExclusionList")
		}
		return nil
	})
}

func guardOperations(ctx context.Context, in *Input) (any, error) {
	guard, err := show(backupVersion)(ctx, in)
	if err != nil {
		return nil, err
	}
	all, _ := at(guard, "properties", "resourceGuardOperations").([]any)
	prefix := strings.ToLower(in.Text("resource-type")) + "/"
	return slices.DeleteFunc(all, func(o any) bool {
		return !strings.HasPrefix(strings.ToLower(text(o, "vaultCriticalOperation")), prefix)
	}), nil
}

// mapping is the path of the vault's link, which has the same name everywhere.
func (in *Input) mapping(ctx context.Context) (string, error) {
	path, err := in.path(ctx, mappingsPath)
	return path + "/" + in.textOr("name", mappingName), err
}

func mappingCreate(ctx context.Context, in *Input) (any, error) {
	path, err := in.mapping(ctx)
	if err != nil {
		return nil, err
	}
	return in.put(ctx, "Linking the vault", path, backupVersion, map[string]any{"properties": map[string]any{"resourceGuardResourceId": in.Text("resource-guard-id")}})
}

func mappingShow(ctx context.Context, in *Input) (any, error) {
	path, err := in.mapping(ctx)
	if err != nil {
		return nil, err
	}
	return in.get(ctx, path, backupVersion)
}

func mappingDelete(ctx context.Context, in *Input) (any, error) {
	path, err := in.mapping(ctx)
	if err != nil {
		return nil, err
	}
	return nil, in.delete(ctx, path, backupVersion)
}

func guardUnlock(ctx context.Context, in *Input) (any, error) {
	path, err := in.mapping(ctx)
	if err != nil {
		return nil, err
	}
	vault, err := in.path(ctx, vaultPath)
	if err != nil {
		return nil, err
	}
	body := map[string]any{}
	if err := in.addRequests(ctx, vault, body); err != nil {
		return nil, err
	}
	if in.Has("resource-to-be-deleted") {
		body["resourceToBeDeleted"] = in.Text("resource-to-be-deleted")
	}
	return in.post(ctx, "Unlocking", path+"/unlockDelete", backupVersion, body)
}

// requestKinds are az's words for two kinds of requests.
var requestKinds = map[string]string{"disablemua": "deleteResourceGuardProxyRequests", "deletebackupinstance": "deleteBackupInstanceRequests"}

// addRequests puts the requests of the option into a request's body, or a resource's properties. A word that is no ID means the request of that kind of the
// vault's resource guard.
func (in *Input) addRequests(ctx context.Context, vault string, body map[string]any) error {
	wanted := in.Texts("resource-guard-operation-requests")
	if len(wanted) == 0 {
		return nil
	}
	var known []any
	requests := []any{}
	for _, word := range wanted {
		if strings.HasPrefix(word, "/") {
			requests = append(requests, word)
			continue
		}
		if known == nil {
			link, err := in.get(ctx, vault+"/backupResourceGuardProxies/"+mappingName, backupVersion)
			if err != nil {
				return err
			}
			known, _ = at(link, "properties", "resourceGuardOperationDetails").([]any)
		}
		kind := word
		if k := requestKinds[strings.ToLower(word)]; k != "" {
			kind = k
		}
		i := slices.IndexFunc(known, func(d any) bool {
			return strings.Contains(strings.ToLower(text(d, "defaultResourceRequest")), "/"+strings.ToLower(kind)+"/")
		})
		if i < 0 {
			return usagef("argument --resource-guard-operation-requests: the vault's resource guard has no requests '%s'", word)
		}
		requests = append(requests, text(known[i], "defaultResourceRequest"))
	}
	body["resourceGuardOperationRequests"] = requests
	return nil
}

// change reads the command's resource, lets edit change it, and writes it.
func (in *Input) change(ctx context.Context, what string, edit func(resource map[string]any) error) (any, error) {
	doc, err := show(backupVersion)(ctx, in)
	if err != nil {
		return nil, err
	}
	resource, err := object(doc)
	if err != nil {
		return nil, err
	}
	if err := edit(resource); err != nil {
		return nil, err
	}
	id := text(resource, "id") // the name may have meant another, and a PUT would make a resource of that name
	if id == "" {
		return nil, fmt.Errorf("the service answered a resource without an ID")
	}
	return in.put(ctx, what+" "+lastSegment(id), id, backupVersion, resource)
}
