package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
)

// InstanceResource is a backup instance as it is sent.
type InstanceResource = backup.Resource[backup.Instance]

// storedInstance is a backup instance as it is stored.
type storedInstance struct {
	InstanceResource
	// GUID names the instance in storage; one made later under the same name has another.
	GUID string `json:"guid"`
	// Change is nil unless one is under way.
	Change *instanceChange `json:"change,omitempty"`
}

// instanceChange is what a working instance is to become, if the cluster agrees.
type instanceChange struct {
	Properties backup.Instance   `json:"properties"`
	Tags       map[string]string `json:"tags,omitempty"`
	// State is that of the protection, which a change leaves as it is.
	State string `json:"state"`
}

// become takes down what the instance is to become: at once unless it works, since nothing is lost then.
func (i *storedInstance) become(properties backup.Instance, tags map[string]string) {
	state := backup.UpdatingProtection
	switch before := i.Properties.CurrentProtectionState; before {
	case "", backup.ProtectionError:
		i.Properties, i.Tags, state = properties, tags, backup.ConfiguringProtection
	default:
		i.Change = &instanceChange{Properties: properties, Tags: tags, State: before}
	}
	i.Properties.ProvisioningState = backup.Provisioning
	i.Properties.SetState(state, nil)
}

// settle takes over what the cluster has said: a change that it refused leaves the instance as it was.
func (i *storedInstance) settle(failure *arm.Error) {
	state := backup.ProtectionConfigured
	if c := i.Change; c != nil {
		if failure == nil {
			i.Properties, i.Tags = c.Properties, c.Tags
		}
		i.Change, state, failure = nil, c.State, nil
	}
	i.Properties.ProvisioningState = backup.Succeeded
	i.Properties.SetState(state, nil)
	if failure != nil {
		why := failure.UserFacing(newID())
		i.Properties.ProvisioningState = backup.Failed
		i.Properties.SetState(backup.ProtectionError, &why)
	}
}

// uses says whether the instance has a policy, or is to have it.
func (i *storedInstance) uses(policy arm.ID) bool {
	return i.Properties.PolicyID().Equal(policy) || i.Change != nil && i.Change.Properties.PolicyID().Equal(policy)
}

// prefix is the instance's folder in a blob container.
func (i *storedInstance) prefix() string { return "cairn/v1/" + i.GUID + "/" }

var instanceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.()-]{0,259}$`)

// PutInstance makes or changes a backup instance. Unless it is as it was already (changed is then false), the cluster is
// asked whether a backup could be made; the operation ends with the answer, and only then does a change take effect.
func (s *Service) PutInstance(ctx context.Context, by Ref, id arm.ID, in *backup.Input[backup.Instance], match func(etag string) error) (instance InstanceResource, op store.Operation, changed bool, err error) {
	if !instanceName.MatchString(id.Name()) {
		return instance, op, false, arm.Invalid("name", "'%s' is not a backup instance's name.", id.Name()).
			WithAction("Use letters, digits, dashes, dots, underscores and parentheses.")
	}
	groupGiven := snapshotGroup(in.Properties) != ""
	in.Properties.GuardRequests = nil // the caller has them; they are no property of an instance
	in.Properties.Complete()
	if err := in.Properties.Validate("properties").Err(); err != nil {
		return instance, op, false, err
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		vault, err := vaultOf(tx, id)
		if err != nil {
			return err
		}
		locate(in.Properties, &vault)
		old, row, err := store.Load[storedInstance](tx, id)
		isNew := errors.Is(err, store.ErrNotFound)
		if err != nil && !isNew {
			return err
		}
		if err := match(row.ETag); err != nil {
			return err
		}
		if !isNew && !groupGiven {
			in.Properties.Policy.Parameters.DataStores = old.Properties.Policy.Parameters.DataStores
		}
		next := old
		if isNew {
			if err := checkRoom(tx, vault.ID, backup.InstanceType, maxInstances, "backup instances"); err != nil {
				return err
			}
			if err := notSoftDeleted(tx, id); err != nil {
				return err
			}
			row.ID = vault.ID.Child("backupInstances", id.Name())
			next = storedInstance{InstanceResource: backup.NewResource(row.ID, backup.InstanceType, backup.Instance{}), GUID: newID()}
		} else if err := checkInstanceChange(&old, in.Properties); err != nil {
			return err
		}
		if !isNew && unchanged(&old, in) {
			instance = old.InstanceResource
			instance.ETag = weak(row.ETag)
			return nil
		}
		if !isNew && !old.Properties.PolicyID().Equal(in.Properties.PolicyID()) {
			if err := s.approve(tx, by, vault.ID, backup.CriticalModifyPolicy, old.ID); err != nil {
				return err
			}
		}
		extension, err := s.checkInstance(tx, by, &vault, row.ID, in.Properties, "properties")
		if err != nil {
			return err
		}
		changed = true
		next.SystemData = old.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		next.become(*in.Properties, in.Tags)
		instance = next.InstanceResource
		if op, err = beginOperation(tx, operationConfigure, row.ID); err != nil {
			return err
		}
		if err := s.trust(tx, by, next.Properties.ClusterID(), &vault); err != nil {
			return err
		}
		if err := askValidateBackup(tx, &op, &next, in.Properties.Scope(), extension); err != nil {
			return err
		}
		err = tx.Save(&row, next)
		instance.ETag = weak(row.ETag)
		return err
	})
	return instance, op, changed, err
}

// checkInstanceChange says why an instance cannot become what is asked for, or returns nil.
func checkInstanceChange(old *storedInstance, next *backup.Instance) error {
	if !old.Properties.ClusterID().Equal(next.ClusterID()) {
		return arm.Invalid("properties.dataSourceInfo.resourceID", "The backup instance '%s' is of the cluster '%s'; the datasource cannot be changed.", old.Name, old.Properties.ClusterID()).
			WithAction("Make a backup instance of another name for the other cluster.")
	}
	if group := snapshotGroup(&old.Properties); !group.Equal(snapshotGroup(next)) {
		return arm.Invalid("properties"+snapshotGroupTarget, "The snapshots of the backup instance '%s' belong to the resource group '%s'; that cannot be changed.", old.Name, group.Name()).
			WithAction("Keep that resource group, or make a backup instance of another name.")
	}
	switch state := old.Properties.CurrentProtectionState; state {
	case backup.ConfiguringProtection, backup.UpdatingProtection, backup.SoftDeleting:
		return notAllowed("Update", old, state)
	}
	return nil
}

const snapshotGroupTarget = ".policyInfo.policyParameters.dataStoreParametersList[0].resourceGroupId"

// snapshotGroup is the resource group that an instance's snapshots belong to, or empty.
func snapshotGroup(i *backup.Instance) arm.ID {
	if i.Policy == nil || i.Policy.Parameters == nil || len(i.Policy.Parameters.DataStores) == 0 {
		return ""
	}
	return arm.ID(i.Policy.Parameters.DataStores[0].ResourceGroupID)
}

// notAllowed is Azure's error for what an instance's state forbids.
func notAllowed(operation string, instance *storedInstance, state string) error {
	return arm.BadRequest("UserErrorInvalidBackupInstanceOperation", "Operation %s is not allowed on Backup Instance with Protection Status %s", operation, state).
		WithTarget(string(instance.ID)).WithAction("Wait until the protection is configured, and look at protectionErrorDetails if it does not become so: az dataprotection backup-instance show.")
}

// unchanged says whether a PUT asks for what is there and works.
func unchanged(old *storedInstance, in *backup.Input[backup.Instance]) bool {
	if old.Properties.CurrentProtectionState == backup.ProtectionError {
		return false
	}
	next := *in.Properties
	next.ProvisioningState, next.CurrentProtectionState = old.Properties.ProvisioningState, old.Properties.CurrentProtectionState
	next.ProtectionStatus, next.ProtectionErrorDetails = old.Properties.ProtectionStatus, old.Properties.ProtectionErrorDetails
	a, errA := json.Marshal(next)
	b, errB := json.Marshal(old.Properties)
	return errA == nil && errB == nil && string(a) == string(b) && same(old.Tags, in.Tags)
}

// checkInstance is all that must hold before the cluster is asked.
func (s *Service) checkInstance(tx *store.Tx, by Ref, vault *backup.VaultResource, id arm.ID, next *backup.Instance, prefix string) (*link.Extension, error) {
	if next.PolicyID().Parent().Key() != vault.ID.Key() {
		return nil, arm.Invalid(prefix+".policyInfo.policyId", "The policy '%s' is not the vault's.", next.PolicyID()).
			WithAction("Use a policy of the vault '" + vault.Name + "'.")
	}
	exists, err := tx.Exists(next.PolicyID())
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, arm.Invalid(prefix+".policyInfo.policyId", "The vault has no policy '%s'.", next.PolicyID().Name()).
			WithAction("Make the policy first: az dataprotection backup-policy create.")
	}
	if err := alone(tx, vault.ID, id, next, prefix); err != nil {
		return nil, err
	}
	facts, err := s.gatherCluster(tx, vault, next.ClusterID())
	if err != nil {
		return nil, err
	}
	if facts.exists {
		if err := s.mayRead(tx, by, next.ClusterID()); err != nil {
			return nil, err
		}
	}
	if err := facts.check(vault, next.ClusterID()); err != nil {
		return nil, err
	}
	if exists, err = tx.Exists(snapshotGroup(next)); err != nil || exists {
		return facts.extension, err
	}
	group := snapshotGroup(next).Name()
	return nil, arm.Invalid(prefix+snapshotGroupTarget, "The resource group '%s', which the snapshots are to belong to, does not exist.", group).
		WithAction("Make it first: az group create --name " + group + " --location " + vault.Location + "; or, for a new instance, leave it out: then it is the cluster's.")
}

// alone is the refusal when another instance backs up the same cluster by the same policy. ID is the instance's own, or empty.
func alone(tx *store.Tx, vault, id arm.ID, instance *backup.Instance, prefix string) error {
	others, err := Documents[storedInstance](tx.Children(vault, backup.InstanceType))
	if err != nil {
		return err
	}
	for _, o := range others {
		if !o.ID.Equal(id) && o.Properties.ClusterID().Equal(instance.ClusterID()) && o.uses(instance.PolicyID()) {
			return arm.BadRequest("UserErrorDppDatasourceAlreadyHasBackupInstance",
				"Datasource is already associated with the backup instance %s in the Backup vault %s with the protection status as %s.", o.Name, vault, o.Properties.CurrentProtectionState).
				WithTarget(prefix + ".dataSourceInfo.resourceID").
				WithAction("Delete the backup instance " + o.Name + ", or use another policy or another vault for this one.")
		}
	}
	return nil
}

// locate fills in the datasource's location: as with Azure, it is the vault's.
func locate(instance *backup.Instance, vault *backup.VaultResource) {
	for _, d := range []*backup.Datasource{instance.DataSource, instance.DataSourceSet} {
		if d.ResourceLocation == "" {
			d.ResourceLocation = vault.Location
		}
	}
}

// askValidateBackup asks the cluster whether a backup of the instance could be made with a scope.
func askValidateBackup(tx *store.Tx, op *store.Operation, instance *storedInstance, scope backup.KubernetesParameters, extension *link.Extension) error {
	return ask(tx, store.Request{
		Name: newID(), Kind: "ValidateForBackup", Cluster: instance.Properties.ClusterID().Key(), Vault: instance.ID.Parent().Key(),
		Instance: instance.ID.Key(), Operation: op.ID,
	}, v1alpha1.ValidateForBackupSpec{
		Location:        v1alpha1.StorageLocation{ContainerURL: extension.ContainerURL, Prefix: instance.prefix()},
		Filter:          filter(scope.IncludedNamespaces, scope.ExcludedNamespaces, scope.IncludeClusterScopeResources),
		SnapshotVolumes: *scope.SnapshotVolumes,
	})
}

func filter(included, excluded []string, clusterScope *bool) v1alpha1.Filter {
	return v1alpha1.Filter{IncludedNamespaces: included, ExcludedNamespaces: excluded, IncludeClusterScopeResources: *clusterScope}
}

// ask adds a request for a cluster.
func ask(tx *store.Tx, r store.Request, spec any) error {
	body, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("request %s: %w", r.Name, err)
	}
	r.Spec, r.Created, r.Progressed = body, tx.Now(), tx.Now()
	return tx.AddRequest(r)
}

// ValidateForBackup asks the cluster whether a backup could be made of an instance that need not exist.
func (s *Service) ValidateForBackup(ctx context.Context, by Ref, vaultID arm.ID, in *backup.ValidateRequest) (op store.Operation, vault backup.VaultResource, err error) {
	if in.Instance == nil {
		return op, vault, arm.Invalid("backupInstance", "backupInstance is required.").WithAction("Set it to the backup instance's properties.")
	}
	in.Instance.Complete()
	if err := in.Instance.Validate("backupInstance").Err(); err != nil {
		return op, vault, err
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		var err error
		if vault, _, err = Load[backup.VaultResource](tx, vaultID); err != nil {
			return err
		}
		locate(in.Instance, &vault)
		// An instance that exists already is not in its own way.
		itself := arm.ID("")
		others, err := Documents[storedInstance](tx.Children(vault.ID, backup.InstanceType))
		if err != nil {
			return err
		}
		for _, o := range others {
			if o.Properties.FriendlyName == in.Instance.FriendlyName && o.Properties.ClusterID().Equal(in.Instance.ClusterID()) {
				itself = o.ID
			}
		}
		extension, err := s.checkInstance(tx, by, &vault, itself, in.Instance, "backupInstance")
		if err != nil {
			return err
		}
		if op, err = beginOperation(tx, operationValidateBackup, vault.ID); err != nil {
			return err
		}
		probe := storedInstance{InstanceResource: backup.NewResource(vault.ID.Child("backupInstances", "validation"), backup.InstanceType, *in.Instance), GUID: newID()}
		return askValidateBackup(tx, &op, &probe, in.Instance.Scope(), extension)
	})
	return op, vault, err
}

// resolveInstance finds an instance by its name; else, since that of many is generated, by its cluster's name or the last part
// of its friendly name, which has the form cluster/name or cluster\name, if that is unique in the vault.
func resolveInstance(tx *store.Tx, id arm.ID) (storedInstance, store.Resource, error) {
	instance, row, err := store.Load[storedInstance](tx, id)
	if !errors.Is(err, store.ErrNotFound) {
		return instance, row, err
	}
	if _, err := vaultOf(tx, id); err != nil {
		return instance, row, err
	}
	rows, err := tx.Children(id.Parent(), backup.InstanceType)
	if err != nil {
		return instance, row, err
	}
	for _, name := range []func(*backup.Instance) string{
		func(i *backup.Instance) string { return i.DataSource.ResourceName },
		func(i *backup.Instance) string { return i.FriendlyName[strings.LastIndexAny(i.FriendlyName, `/\`)+1:] },
	} {
		var names []string
		for _, r := range rows {
			var candidate storedInstance
			if err := r.Decode(&candidate); err != nil {
				return instance, row, err
			}
			if strings.EqualFold(name(&candidate.Properties), id.Name()) {
				names = append(names, candidate.Name)
				instance, row = candidate, r
			}
		}
		switch len(names) {
		case 0:
		case 1:
			return instance, row, nil
		default:
			return storedInstance{}, store.Resource{}, arm.BadRequest("UserErrorAmbiguousBackupInstance", "'%s' can be any of the backup instances %s.", id.Name(), strings.Join(names, ", ")).
				WithTarget(string(id)).WithAction("Use one of these names.")
		}
	}
	return storedInstance{}, store.Resource{}, arm.NotFound(id)
}

// ResolveInstance is the ID of the instance that a path means.
func (s *Service) ResolveInstance(ctx context.Context, id arm.ID) (arm.ID, error) {
	var resolved arm.ID
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		i, _, err := resolveInstance(tx, id)
		resolved = i.ID
		return err
	})
	return resolved, err
}

// Instance finds an instance.
func (s *Service) Instance(ctx context.Context, id arm.ID) (InstanceResource, error) {
	instance, err := read(ctx, s.DB, id, func(r *storedInstance) *string { return &r.ETag })
	return instance.InstanceResource, err
}

// Instances are a vault's.
func (s *Service) Instances(ctx context.Context, vault arm.ID, page store.Page) ([]InstanceResource, string, error) {
	return inVault[InstanceResource](ctx, s, vault, backup.InstanceType, page)
}

// InstancesOf are all vaults' instances of a cluster.
func (s *Service) InstancesOf(ctx context.Context, cluster arm.ID) ([]InstanceResource, error) {
	var found []InstanceResource
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		all, err := Documents[InstanceResource](tx.ByType(backup.InstanceType))
		found = slices.DeleteFunc(all, func(i InstanceResource) bool { return !i.Properties.ClusterID().Equal(cluster) })
		return err
	})
	return found, err
}

// DeleteInstance deletes an instance's recovery points, in the cluster and in storage, and then the instance; the operation
// ends with that. When the cluster is away or gone, the instance goes at once and the ledger keeps what is left. With soft delete, an instance
// that has recovery points is kept with them, and can be brought back. Found is false when there is none.
func (s *Service) DeleteInstance(ctx context.Context, by Ref, id arm.ID, match func(etag string) error) (op store.Operation, found bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		instance, row, err := store.Load[storedInstance](tx, id)
		if found = err == nil; err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := match(row.ETag); err != nil || !found {
			return err
		}
		switch state := instance.Properties.CurrentProtectionState; state {
		case backup.ConfiguringProtection, backup.UpdatingProtection, backup.SoftDeleting:
			return notAllowed("Delete", &instance, state)
		}
		exists, connected, err := s.reach(tx, instance.Properties.ClusterID())
		if err != nil {
			return err
		}
		if exists {
			if err := idle(tx, &instance); err != nil {
				return err
			}
		}
		if err := s.approve(tx, by, instance.ID.Parent(), backup.CriticalDeleteInstance, instance.ID); err != nil {
			return err
		}
		points, err := tx.RecoveryPoints(instance.GUID)
		if err != nil {
			return err
		}
		vault, err := vaultOf(tx, row.ID)
		if err != nil {
			return err
		}
		if err := immutable(&vault, &instance, points, tx.Now()); err != nil {
			return err
		}
		if _, soft := vault.Properties.SoftDeletes(); soft && len(points) > 0 {
			if op, err = endedOperation(tx, operationDelete, row.ID, nil); err != nil {
				return err
			}
			return s.softDelete(tx, by, &vault, &instance)
		}
		if len(points) == 0 || !connected {
			if op, err = endedOperation(tx, operationDelete, row.ID, nil); err != nil {
				return err
			}
			return s.removeInstance(tx, &instance, points)
		}
		if _, err := s.usableCluster(tx, &vault, instance.Properties.ClusterID()); err != nil {
			return err
		}
		if op, err = beginOperation(tx, operationDelete, row.ID); err != nil {
			return err
		}
		for _, p := range points {
			if _, err := askDelete(tx, op.ID, p); err != nil {
				return err
			}
		}
		instance.Properties.ProvisioningState = "Deleting"
		instance.Properties.SetState(backup.SoftDeleting, nil)
		instance.SystemData = instance.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		return errors.Join(tx.Save(&row, instance), s.reschedule(tx, &instance))
	})
	return op, found, err
}

// removeInstance removes an instance; what is left of its recovery points goes into the ledger.
func (s *Service) removeInstance(tx *store.Tx, instance *storedInstance, points []store.RecoveryPoint) error {
	for _, p := range points {
		if err := tx.Discard(p, whyInstanceDeleted); err != nil {
			return err
		}
	}
	return errors.Join(s.remove(tx, instance.ID), tx.DeleteSchedule(instance.GUID))
}

// askDelete asks the cluster to delete a recovery point, with the storage snapshots that its row names. Operation is what waits for it, or
// empty. The request's name is returned.
func askDelete(tx *store.Tx, operation string, p store.RecoveryPoint) (string, error) {
	var snapshots []v1alpha1.VolumeSnapshotRecord
	if err := json.Unmarshal(p.Snapshots, &snapshots); err != nil {
		return "", fmt.Errorf("snapshots of recovery point %s: %w", p.Name, err)
	}
	name := newID()
	return name, ask(tx, store.Request{
		Name: name, Kind: "DeleteBackup", Cluster: p.Cluster, Vault: p.Vault, Instance: p.Instance, Point: p.Name, Operation: operation,
	}, v1alpha1.DeleteBackupSpec{
		RecoveryPointID: p.Name, Location: v1alpha1.StorageLocation{ContainerURL: p.Container, Prefix: p.Prefix}, Snapshots: snapshots,
	})
}

// idle is the 409 when a backup, a restore or a deletion of the instance is running.
func idle(tx *store.Tx, instance *storedInstance) error {
	open, err := tx.OpenRequestsOf(instance.ID)
	if err != nil {
		return err
	}
	for _, r := range open {
		if r.Job == "" {
			continue
		}
		return busy(instance, strings.ToLower(r.Kind), r.Job)
	}
	return nil
}

// busy is the 409 that names the job which is in the way.
func busy(instance *storedInstance, kind, job string) *arm.Error {
	return arm.Conflict(codeBusy, "A %s of the backup instance '%s' is running (job %s); there can be one at a time.", kind, instance.Name, job).
		WithTarget(string(instance.ID)).WithAction("Wait until the job has ended: az dataprotection job show --job-id " + job + ".")
}
