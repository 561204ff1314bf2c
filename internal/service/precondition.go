package service

import (
	"encoding/json"
	"fmt"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
)

// readCluster is the action that the vault's identity needs on a cluster: Reader has it.
const readCluster = "Microsoft.ContainerService/managedClusters/read"

// Codes of Azure's for what may be over soon.
const (
	codeClusterStopped     = "UserErrorKubernetesBackupClusterIsStopped"
	codeExtensionUnhealthy = "UserErrorKubernetesBackupExtensionUnhealthy"
	codeBusy               = "UserErrorConflictingOperationInProgress"
)

// clusterFacts are what decides whether a cluster can be asked for work.
type clusterFacts struct {
	// exists and granted say whether there is such a cluster, and whether the vault's identity may read it.
	exists, granted bool
	// trusted says whether the vault has trusted access to the cluster.
	trusted bool
	// identity is the vault's, empty when it has none.
	identity string
	// extension is what the cluster should have, nil for nothing.
	extension *link.Extension
	connected bool
	// state is what the cluster says of its extension, nil for nothing.
	state *link.ExtensionState
}

// gatherCluster reads the facts.
func (s *Service) gatherCluster(tx *store.Tx, vault *backup.VaultResource, cluster arm.ID) (clusterFacts, error) {
	var f clusterFacts
	var err error
	if f.exists, err = tx.Exists(cluster); err != nil || !f.exists {
		return f, err
	}
	if vault.Identity != nil {
		f.identity = vault.Identity.PrincipalID
	}
	if f.identity != "" {
		if f.granted, err = s.HasAction(tx, f.identity, readCluster, cluster); err != nil {
			return f, err
		}
	}
	if f.trusted, err = s.HasTrustedAccess(tx, cluster, vault.ID); err != nil {
		return f, err
	}
	if f.extension, err = s.DesiredExtension(tx, cluster); err != nil {
		return f, err
	}
	l, err := tx.Link(cluster)
	f.connected = s.connected(l)
	if err != nil || l.Extension == nil {
		return f, err
	}
	f.state = &link.ExtensionState{}
	if err := json.Unmarshal(l.Extension, f.state); err != nil {
		return f, fmt.Errorf("extension of %s: %w", cluster, err)
	}
	return f, nil
}

// check says why the cluster cannot be asked for work, with Azure's codes, or returns nil.
func (f clusterFacts) check(vault *backup.VaultResource, cluster arm.ID) error {
	switch {
	case !f.exists:
		return (&arm.Error{Status: 404, Code: "UserErrorGenericResourceNotFound", Target: string(cluster),
			Message: fmt.Sprintf("The cluster '%s' does not exist.", cluster)}).
			WithAction("Check the cluster's ID, or connect the cluster: cairn cluster connect.")
	case f.identity == "":
		return userError("UserErrorMissingRequiredPermissions", cluster, "The vault '%s' has no managed identity, and so no permissions on the cluster '%s'.", vault.Name, cluster.Name()).
			WithAction("Give the vault a system-assigned identity: az dataprotection backup-vault update --type SystemAssigned.")
	case !f.granted:
		return userError("UserErrorMissingRequiredPermissions", cluster, "The identity of the vault '%s' (%s) may not read the cluster '%s'.", vault.Name, f.identity, cluster.Name()).
			WithAction(fmt.Sprintf("Assign the role: az role assignment create --role Reader --assignee-object-id %s --assignee-principal-type ServicePrincipal --scope %s.", f.identity, cluster))
	case f.extension == nil:
		return userError("UserErrorKubernetesBackupExtensionNotFoundError", cluster, "The backup extension is not installed in the cluster '%s'.", cluster.Name()).
			WithAction("Install it: az aks extension create --extension-type microsoft.dataprotection.kubernetes.")
	case !f.connected:
		return userError(codeClusterStopped, cluster, "The cluster '%s' is not connected: its connector has not been heard of for more than %s.", cluster.Name(), seenFor).
			WithAction("Start the cluster, and see whether the connector runs: kubectl get pods -n dataprotection-microsoft.")
	case f.state == nil:
		return userError(codeExtensionUnhealthy, cluster, "The backup extension is not installed in the cluster '%s' yet.", cluster.Name()).
			WithAction("Wait until az aks extension show says Succeeded.")
	case f.state.State == link.ExtensionFailed:
		return userError("UserErrorKubernetesBackupExtensionHasErrors", cluster, "The backup extension in the cluster '%s' has failed: %s", cluster.Name(), f.state.Message).
			WithAction("Remove what it says, or install the extension again.")
	case f.state.State != link.ExtensionReady:
		return userError(codeExtensionUnhealthy, cluster, "The backup extension in the cluster '%s' is not ready (%s): %s", cluster.Name(), f.state.State, f.state.Message).
			WithAction("Look at its pods: kubectl get pods -n dataprotection-microsoft.")
	}
	return nil
}

func userError(code string, target arm.ID, format string, args ...any) *arm.Error {
	return arm.BadRequest(code, format, args...).WithTarget(string(target))
}

// usableCluster is the extension of a cluster that can be asked for work. Trusted access was given when the instance was
// made; when it is gone, the cluster's owner has taken it away.
func (s *Service) usableCluster(tx *store.Tx, vault *backup.VaultResource, cluster arm.ID) (*link.Extension, error) {
	facts, err := s.gatherCluster(tx, vault, cluster)
	if err != nil {
		return nil, err
	}
	if err := facts.check(vault, cluster); err != nil {
		return nil, err
	}
	if !facts.trusted {
		return nil, userError("UserErrorMissingRequiredPermissions", cluster, "The vault '%s' has no trusted access to the cluster '%s'.", vault.Name, cluster.Name()).
			WithAction(fmt.Sprintf("Give it: az aks trustedaccess rolebinding create --resource-group %s --cluster-name %s --name backup --source-resource-id %s --roles %s.",
				cluster.ResourceGroup(), cluster.Name(), vault.ID, TrustedAccessRoleOperator))
	}
	return facts.extension, nil
}

// mayRead is the 403 unless the caller may read a cluster that it links to.
func (s *Service) mayRead(tx *store.Tx, by Ref, cluster arm.ID) error {
	ok, err := s.HasAction(tx, by.ObjectID, readCluster, cluster)
	if err != nil || ok {
		return err
	}
	return &arm.Error{Status: 403, Code: "LinkedAuthorizationFailed", Target: string(cluster), Message: fmt.Sprintf(
		"The client with object id '%s' has permission for what it asks, but not for the action '%s' on the linked scope '%s'.", by.ObjectID, readCluster, cluster),
		RecommendedAction: []string{"Ask for the role Reader on the cluster."}}
}

// trust gives the vault trusted access to the cluster, unless it has it: whoever may make a backup instance of the cluster
// means it.
func (s *Service) trust(tx *store.Tx, by Ref, cluster arm.ID, vault *backup.VaultResource) error {
	trusted, err := s.HasTrustedAccess(tx, cluster, vault.ID)
	if err != nil || trusted {
		return err
	}
	_, _, err = s.BindTrustedAccess(tx, cluster.Child("trustedAccessRoleBindings", "backup-"+newID()[:8]), vault.ID, by)
	return err
}
