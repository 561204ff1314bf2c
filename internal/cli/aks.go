package cli

import (
	"context"
	"errors"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	clustersVersion = "2024-08-01"
	clustersPath    = "/providers/Microsoft.ContainerService/managedClusters"
	clusterPath     = groupPath + clustersPath + "/{cluster-name}"
	aksColumns      = "[].{Name:name, Location:location, ResourceGroup:resourceGroup, KubernetesVersion:kubernetesVersion, " +
		"CurrentKubernetesVersion:currentKubernetesVersion, ProvisioningState:provisioningState, Fqdn:fqdn}"
	bindingColumns = "[].{Name:name, Roles:roles[0], Source:sourceResourceId, State:provisioningState}"
	bindingPath    = clusterPath + "/trustedAccessRoleBindings/{name}"
)

var (
	clusterArg     = Arg{Names: "--cluster-name --name -n", Required: true, Help: "The cluster's name."}
	ofClusterArg   = Arg{Names: "--cluster-name -c", Required: true, Help: "The cluster's name."}
	bindingNameArg = Arg{Names: "--name -n", Required: true, Help: "The role binding's name."}
)

var aksCommands = []Command{
	{Path: "aks show", Help: "Show a cluster.", ID: clusterPath, Run: flat(show(clustersVersion)), Columns: aksColumns,
		Args: []Arg{clusterArg, groupArg}},
	{Path: "aks list", Help: "List clusters.", Columns: aksColumns, Args: []Arg{optional(groupArg)},
		Run: flat(list(groupPath+clustersPath, subscriptionPath+clustersPath, clustersVersion))},
	{Path: "aks create", Help: "Not available: an existing cluster is joined by `cairn cluster connect`.", Run: aksCreate, Lenient: true},
}

func aksCreate(context.Context, *Input) (any, error) {
	return nil, errors.New("this service makes no clusters: join an existing one with 'cairn cluster connect --name NAME " +
		"--resource-group GROUP --location LOCATION --kubeconfig FILE --image IMAGE'")
}

var trustedAccessCommands = []Command{
	{Path: "aks trustedaccess rolebinding create", Help: "Let a vault work in a cluster.", Run: bindingPut, Columns: bindingColumns,
		Args: []Arg{bindingNameArg, ofClusterArg, groupArg,
			{Names: "--source-resource-id", Required: true, Help: "The vault's resource ID."},
			{Names: "--roles", Required: true, Kind: Texts, Help: "The roles, such as Microsoft.DataProtection/backupVaults/backup-operator; separated by commas or spaces."},
		}},
	{Path: "aks trustedaccess rolebinding show", Help: "Show a role binding.", ID: bindingPath, Run: flat(show(clustersVersion)),
		Columns: bindingColumns, Args: []Arg{bindingNameArg, ofClusterArg, groupArg}},
	{Path: "aks trustedaccess rolebinding list", Help: "List a cluster's role bindings.", Columns: bindingColumns,
		Run: flat(list(clusterPath+"/trustedAccessRoleBindings", "", clustersVersion)), Args: []Arg{ofClusterArg, groupArg}},
	{Path: "aks trustedaccess rolebinding delete", Help: "Delete a role binding.", ID: bindingPath, Confirm: true,
		Run: remove(clustersVersion), Args: []Arg{bindingNameArg, ofClusterArg, groupArg}},
}

func bindingPut(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, bindingPath)
	if err != nil {
		return nil, err
	}
	binding, err := in.call(ctx, "Creating "+in.Text("name"), client.Request{Method: "PUT", Path: path, APIVersion: clustersVersion,
		Body: map[string]any{"properties": map[string]any{"sourceResourceId": in.Text("source-resource-id"),
			"roles": commaList(in.Texts("roles"))}}})
	return flatten(binding), err
}
