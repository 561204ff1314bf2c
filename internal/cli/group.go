package cli

import (
	"context"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	resourcesVersion = "2022-09-01"
	subscriptionPath = "/subscriptions/{subscription}"
	groupPath        = subscriptionPath + "/resourceGroups/{resource-group}"
	groupColumns     = "[].{Name:name, Location:location, Status:properties.provisioningState}"
)

var groupNameArg = Arg{Names: "--resource-group --name -n -g", Required: true, Help: "Name of the resource group."}

var groupCommands = []Command{
	{Path: "group create", Help: "Create a resource group, or change its tags.", Run: groupCreate, Columns: groupColumns,
		Args: []Arg{groupNameArg, tagsArg, {Names: "--location -l", Required: true, Help: "Location, such as eastus."}}},
	{Path: "group show", Help: "Show a resource group.", ID: groupPath, Run: withNulls(show(resourcesVersion)), Columns: groupColumns,
		Args: []Arg{groupNameArg}},
	{Path: "group list", Help: "List resource groups.", Run: withNulls(list("", subscriptionPath+"/resourceGroups", resourcesVersion)),
		Columns: groupColumns},
	{Path: "group delete", Help: "Delete a resource group and all that is in it.", ID: groupPath, Confirm: true,
		Run: remove(resourcesVersion), Args: []Arg{groupNameArg, noWaitArg}},
	{Path: "group exists", Help: "Say whether a resource group exists.", Run: groupExists, Args: []Arg{groupNameArg}},
}

func groupCreate(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, groupPath)
	if err != nil {
		return nil, err
	}
	body := map[string]any{"location": in.Text("location")}
	if in.Has("tags") {
		body["tags"] = in.Pairs("tags")
	}
	created, err := in.call(ctx, "Creating "+in.Text("resource-group"),
		client.Request{Method: "PUT", Path: path, APIVersion: resourcesVersion, Body: body, NoWait: true})
	return nullsOf(created), err
}

func groupExists(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, groupPath)
	if err != nil {
		return nil, err
	}
	_, err = in.get(ctx, path, resourcesVersion)
	if client.NotFound(err) {
		return false, nil
	}
	if err != nil {
		return nil, err
	}
	return true, nil
}

// withNulls adds what az prints of a resource group even when it is not set.
func withNulls(h handler) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		v, err := h(ctx, in)
		return nullsOf(v), err
	}
}

func nullsOf(v any) any {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			nullsOf(e)
		}
	case map[string]any:
		for _, k := range []string{"managedBy", "tags"} {
			if _, ok := v[k]; !ok {
				v[k] = nil
			}
		}
	}
	return v
}
