package cli

import (
	"context"
	"errors"
	"strings"
)

// updatePermissions gives the roles that Azure's documentation names: the vault reads the cluster and the resource group
// of snapshots, the cluster contributes to the latter.
func updatePermissions(ctx context.Context, in *Input) (any, error) {
	cluster, snapshots, err := in.permissionTargets()
	if err != nil {
		return nil, err
	}
	path, err := in.path(ctx, vaultPath)
	if err != nil {
		return nil, err
	}
	vault, err := in.get(ctx, path, backupVersion)
	if err != nil {
		return nil, err
	}
	managed, err := in.get(ctx, cluster, clustersVersion)
	if err != nil {
		return nil, err
	}
	vaultPrincipal, clusterPrincipal := text(vault, "identity", "principalId"), text(managed, "identity", "principalId")
	if vaultPrincipal == "" || clusterPrincipal == "" {
		return nil, errors.New("the vault and the cluster must both have a managed identity")
	}
	made := []any{}
	for _, grant := range []struct{ role, principal, scope string }{
		{"Reader", vaultPrincipal, cluster}, {"Reader", vaultPrincipal, snapshots}, {"Contributor", clusterPrincipal, snapshots},
	} {
		a, err := in.assign(ctx, widen(grant.scope, in.Text("permissions-scope")), grant.role, grant.principal, "ServicePrincipal")
		if err != nil {
			return nil, err
		}
		made = append(made, a)
	}
	return made, nil
}

// permissionTargets are the cluster and the resource group of snapshots that the options speak of.
func (in *Input) permissionTargets() (cluster, snapshots string, err error) {
	if in.Text("operation") == "Backup" {
		if !in.Has("backup-instance") {
			return "", "", usagef("the following arguments are required: --backup-instance")
		}
		_, resource, err := in.instanceDocument()
		if err != nil {
			return "", "", err
		}
		cluster = datasourceID(at(resource, "properties", "dataSourceInfo"))
		if stores, ok := at(resource, "properties", "policyInfo", "policyParameters", "dataStoreParametersList").([]any); ok && len(stores) > 0 {
			snapshots = text(stores[0], "resourceGroupId")
		}
	} else {
		request, err := in.Object("restore-request-object")
		if err != nil {
			return "", "", err
		}
		cluster = datasourceID(at(request, "restoreTargetInfo", "datasourceInfo"))
		snapshots = in.Text("snapshot-resource-group-id")
	}
	m := clusterID.FindStringSubmatch(cluster)
	if m == nil {
		return "", "", usagef("the document names no cluster")
	}
	if snapshots == "" {
		snapshots = m[1]
	}
	return cluster, snapshots, nil
}

// datasourceID reads the cluster's ID in either of its spellings.
func datasourceID(source any) string {
	if id := text(source, "resourceID"); id != "" {
		return id
	}
	return text(source, "resourceId")
}

// widen is the scope at the level that the user wants.
func widen(id, level string) string {
	parts := strings.Split(id, "/")
	switch {
	case level == "Subscription" && len(parts) > 3:
		return strings.Join(parts[:3], "/")
	case level == "ResourceGroup" && len(parts) > 5:
		return strings.Join(parts[:5], "/")
	}
	return id
}
