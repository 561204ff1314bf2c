package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/store"
)

// ExtensionType is the only type of extension that can be installed.
const ExtensionType = "microsoft.dataprotection.kubernetes"

// extensionNamespace is where the extension runs in every cluster.
const extensionNamespace = "dataprotection-microsoft"

// Extension is Microsoft.KubernetesConfiguration/extensions on a cluster.
type Extension struct {
	ID         arm.ID              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Properties ExtensionProperties `json:"properties"`
	SystemData *arm.SystemData     `json:"systemData,omitempty"`
}

// ExtensionProperties are an extension's. Optional ones are pointers where Azure writes null.
type ExtensionProperties struct {
	ExtensionType           string             `json:"extensionType"`
	AutoUpgradeMinorVersion *bool              `json:"autoUpgradeMinorVersion"`
	ReleaseTrain            string             `json:"releaseTrain"`
	Version                 *string            `json:"version"`
	CurrentVersion          *string            `json:"currentVersion"`
	Scope                   *ExtensionScope    `json:"scope"`
	ConfigurationSettings   map[string]*string `json:"configurationSettings"`
	ProtectedSettings       map[string]*string `json:"configurationProtectedSettings"`
	ProvisioningState       string             `json:"provisioningState"`
	Statuses                []ExtensionStatus  `json:"statuses"`
	ErrorInfo               any                `json:"errorInfo"`
	CustomLocationSettings  any                `json:"customLocationSettings"`
	AKSAssignedIdentity     *arm.Identity      `json:"aksAssignedIdentity"`
	IsSystemExtension       bool               `json:"isSystemExtension"`
}

// ExtensionScope is the whole cluster, in a namespace.
type ExtensionScope struct {
	Cluster   *ClusterScope  `json:"cluster,omitempty"`
	Namespace map[string]any `json:"namespace,omitempty"`
}

// ClusterScope names the namespace.
type ClusterScope struct {
	ReleaseNamespace string `json:"releaseNamespace,omitempty"`
}

// ExtensionStatus is something to tell about an extension.
type ExtensionStatus struct {
	Code          string    `json:"code"`
	DisplayStatus string    `json:"displayStatus"`
	Level         string    `json:"level"`
	Message       string    `json:"message"`
	Time          time.Time `json:"time"`
}

// storedExtension is an extension with what steers its installation.
type storedExtension struct {
	Extension
	// Generation grows with every change that the connector must apply.
	Generation int64 `json:"cairnGeneration"`
	// Since is when the state that it is in now began.
	Since time.Time `json:"cairnSince"`
	// Failure is why it is Failed.
	Failure *arm.Error `json:"cairnFailure,omitempty"`
	// Unwanted says that its removal has failed and is still wished for.
	Unwanted bool `json:"cairnUnwanted,omitempty"`
}

// leaving says that the cluster should not have the extension any more.
func (e *storedExtension) leaving() bool {
	return e.Properties.ProvisioningState == Deleting || e.Unwanted
}

// installTime is how long an installation or a removal may take before it counts as failed. A later success of it counts all the
// same.
const installTime = 20 * time.Minute

// The settings that say where the backups go, as the chart names them.
const (
	settingContainer     = "configuration.backupStorageLocation.bucket"
	settingAccount       = "configuration.backupStorageLocation.config.storageAccount"
	settingAccountGroup  = "configuration.backupStorageLocation.config.resourceGroup"
	settingAccountSub    = "configuration.backupStorageLocation.config.subscriptionId"
	settingAccountURI    = "configuration.backupStorageLocation.config.storageAccountURI"
	settingUseAAD        = "configuration.backupStorageLocation.config.useAAD"
	settingTenant        = "credentials.tenantId"
	settingCPULimit      = "resources.limits.cpu"
	settingMemoryLimit   = "resources.limits.memory"
	settingCPURequest    = "resources.requests.cpu"
	settingMemoryRequest = "resources.requests.memory"
)

// settingNames are the chart's names by what users may write, in lower case.
var settingNames = map[string]string{
	"blobcontainer": settingContainer, "storageaccount": settingAccount, "storageaccountresourcegroup": settingAccountGroup,
	"storageaccountsubscriptionid": settingAccountSub, "storageaccounturi": settingAccountURI, "useaad": settingUseAAD, "tenantid": settingTenant,
	"cpulimit": settingCPULimit, "memorylimit": settingMemoryLimit, "cpurequest": settingCPURequest, "memoryrequest": settingMemoryRequest,
}

func init() {
	for _, name := range []string{settingContainer, settingAccount, settingAccountGroup, settingAccountSub, settingAccountURI, settingUseAAD,
		settingTenant, settingCPULimit, settingMemoryLimit, settingCPURequest, settingMemoryRequest} {
		settingNames[strings.ToLower(name)] = name
	}
}

// canonical gives settings the chart's names; unknown ones keep theirs.
func canonical(in map[string]*string) map[string]*string {
	out := make(map[string]*string, len(in))
	for _, key := range sortedKeys(in) {
		name, known := settingNames[strings.ToLower(key)]
		if !known {
			name = key
		}
		out[name] = in[key]
	}
	return out
}

func setting(settings map[string]*string, name string) string {
	if v := settings[name]; v != nil {
		return *v
	}
	return ""
}

// PutExtension installs the extension, or applies it again with other settings. May checks that the caller may hand
// out access to the storage account.
func (s *Service) PutExtension(ctx context.Context, id arm.ID, in Extension, by Ref, may func(account arm.ID) error) (out Extension, operation string, err error) {
	if err := checkExtension(in); err != nil {
		return out, "", err
	}
	account, settings, err := s.storageOf(ctx, id, in.Properties.ConfigurationSettings)
	if err != nil {
		return out, "", err
	}
	if err := may(account); err != nil {
		return out, "", err
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		e, r, err := s.extensionToPut(tx, id)
		if err != nil {
			return err
		}
		p := &e.Properties
		p.AutoUpgradeMinorVersion, p.Version = in.Properties.AutoUpgradeMinorVersion, in.Properties.Version
		if p.AutoUpgradeMinorVersion == nil {
			yes := true
			p.AutoUpgradeMinorVersion = &yes
		}
		if p.ReleaseTrain = in.Properties.ReleaseTrain; p.ReleaseTrain == "" {
			p.ReleaseTrain = "stable"
		}
		p.ConfigurationSettings = settings
		operation, err = s.applyExtension(tx, &e, by)
		if err != nil {
			return err
		}
		out = e.Extension
		return tx.Save(&r, e)
	})
	return out, operation, err
}

func checkExtension(in Extension) error {
	if typ := in.Properties.ExtensionType; !strings.EqualFold(typ, ExtensionType) {
		return arm.BadRequest("ExtensionTypeRegistrationGetFailed", "The extension type '%s' is not known. The only one is %s.", typ, ExtensionType).WithTarget("properties.extensionType")
	}
	if scope := in.Properties.Scope; scope != nil && scope.Cluster == nil && scope.Namespace != nil {
		return arm.BadRequest("ExtensionScopeInvalid", "The extension %s must have the scope cluster, not namespace.", ExtensionType).WithTarget("properties.scope")
	}
	return nil
}

// extensionToPut finds the extension or begins a new one.
func (s *Service) extensionToPut(tx *store.Tx, id arm.ID) (storedExtension, store.Resource, error) {
	if _, _, err := Load[Cluster](tx, id.Parent()); err != nil {
		return storedExtension{}, store.Resource{}, err
	}
	others, err := tx.Children(id.Parent(), TypeExtension)
	if err != nil {
		return storedExtension{}, store.Resource{}, err
	}
	for _, o := range others {
		if !o.ID.Equal(id) {
			return storedExtension{}, o, arm.Conflict("ExtensionTypeAlreadyInstalled", "The cluster '%s' has an extension of type %s already: '%s'. Multiple extensions of the same type are not allowed: update or delete that one.", id.Parent().Name(), ExtensionType, o.ID.Name())
		}
	}
	e, r, err := store.Load[storedExtension](tx, id)
	if errors.Is(err, store.ErrNotFound) {
		return s.newExtension(tx, id)
	}
	if err == nil && e.Properties.ProvisioningState == Deleting {
		err = arm.Conflict("ExtensionDeletionInProgress", "The extension '%s' is being deleted. Wait until it is gone, then create it again; if its cluster never answers, forget it: az aks extension delete --force.", id.Name())
	}
	return e, r, err
}

func (s *Service) newExtension(tx *store.Tx, id arm.ID) (storedExtension, store.Resource, error) {
	identity, err := s.AddIdentity(tx, id)
	e := storedExtension{Extension: Extension{ID: id, Name: id.Name(), Type: TypeExtension, Properties: ExtensionProperties{
		ExtensionType: ExtensionType, Scope: &ExtensionScope{Cluster: &ClusterScope{ReleaseNamespace: extensionNamespace}},
		ProtectedSettings: map[string]*string{}, Statuses: []ExtensionStatus{},
		AKSAssignedIdentity: &arm.Identity{Type: "SystemAssigned", PrincipalID: identity.ID, TenantID: s.TenantID},
	}}}
	return e, store.Resource{ID: id}, err
}

// applyExtension lets the connector apply the extension again, and begins the operation that ends when it has.
func (s *Service) applyExtension(tx *store.Tx, e *storedExtension, by Ref) (string, error) {
	state := Creating
	if e.Generation > 0 {
		state = Updating
	}
	e.Generation++
	e.Since, e.Failure, e.Unwanted = tx.Now().UTC(), nil, false
	e.Properties.ProvisioningState, e.Properties.ErrorInfo, e.Properties.Statuses = state, nil, []ExtensionStatus{}
	e.SystemData = e.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
	return begun(tx, e.ID)
}

// begun starts an operation.
func begun(tx *store.Tx, id arm.ID) (string, error) {
	op := store.Async{ID: newID(), Resource: id, Status: arm.OperationInProgress, Started: tx.Now()}
	return op.ID, tx.PutAsync(op)
}

// endAsyncs ends all operations that are under way on a resource.
func endAsyncs(tx *store.Tx, id arm.ID, failure *arm.Error) error {
	ops, err := tx.AsyncsOf(id)
	if err != nil {
		return err
	}
	for _, op := range ops {
		op.Status, op.Ended, op.Error = arm.OperationSucceeded, tx.Now(), failure
		if failure != nil {
			op.Status = arm.OperationFailed
		}
		if err := tx.PutAsync(op); err != nil {
			return err
		}
	}
	return nil
}

// storageOf finds the account and the container that the settings name, and completes the settings.
func (s *Service) storageOf(ctx context.Context, id arm.ID, in map[string]*string) (arm.ID, map[string]*string, error) {
	settings := canonical(in)
	put := func(name, value string) {
		if setting(settings, name) == "" {
			settings[name] = &value
		}
	}
	put(settingAccountSub, s.SubscriptionID)
	put(settingAccountGroup, id.ResourceGroup())
	put(settingTenant, s.TenantID)
	put(settingUseAAD, "true")
	var problems arm.Problems
	for _, need := range []struct{ name, user string }{{settingAccount, "storageAccount"}, {settingContainer, "blobContainer"}} {
		if setting(settings, need.name) == "" {
			problems.AddError(arm.BadRequest("InvalidConfigurationSettings", "The configuration setting %s is missing: it says where backups are kept.", need.user).
				WithTarget("properties.configurationSettings." + need.name))
		}
	}
	if err := problems.Err(); err != nil {
		return "", nil, err
	}
	wanted := accountOf(map[string]string{settingAccountSub: setting(settings, settingAccountSub), settingAccountGroup: setting(settings, settingAccountGroup),
		settingAccount: setting(settings, settingAccount)})
	account, err := s.StorageAccount(ctx, wanted)
	if err == nil {
		_, err = s.Container(ctx, account.ID, setting(settings, settingContainer))
	}
	var missing *arm.Error
	if errors.As(err, &missing) {
		return "", nil, arm.BadRequest("InvalidConfigurationSettings", "The backup location of the extension does not exist: %s", missing.Message).
			WithTarget("properties.configurationSettings").WithAction("Create the storage account and the container first, and check the settings storageAccount, storageAccountResourceGroup, storageAccountSubscriptionId and blobContainer.")
	}
	put(settingAccountURI, s.BlobURL+"/"+account.Name+"/")
	return account.ID, settings, err
}

// accountOf is the storage account that settings name.
func accountOf(settings map[string]string) arm.ID {
	return arm.ResourceGroup(settings[settingAccountSub], settings[settingAccountGroup]).Extension(TypeStorageAccount, settings[settingAccount])
}

// UpdateExtension is PATCH: settings are laid over those there are; null removes one.
func (s *Service) UpdateExtension(ctx context.Context, id arm.ID, in Extension, by Ref, may func(account arm.ID) error) (Extension, string, error) {
	var operation string
	before, err := s.Extension(ctx, id)
	if err != nil {
		return before, "", err
	}
	settings := before.Properties.ConfigurationSettings
	for name, value := range canonical(in.Properties.ConfigurationSettings) {
		settings[name] = value
		if value == nil {
			delete(settings, name)
		}
	}
	account, settings, err := s.storageOf(ctx, id, settings)
	if err != nil {
		return before, "", err
	}
	if err := may(account); err != nil {
		return before, "", err
	}
	e, err := Change(ctx, s.DB, id, func(tx *store.Tx, e *storedExtension, _ store.Resource) error {
		switch state := e.Properties.ProvisioningState; state {
		case Creating, Updating, Deleting:
			return arm.Conflict("ExtensionPatchFailed", "The extension '%s' cannot be changed now: its provisioningState is %s. Wait until it is Succeeded or Failed and try again.", e.Name, state)
		}
		if in.Properties.AutoUpgradeMinorVersion != nil {
			e.Properties.AutoUpgradeMinorVersion = in.Properties.AutoUpgradeMinorVersion
		}
		if in.Properties.ReleaseTrain != "" {
			e.Properties.ReleaseTrain = in.Properties.ReleaseTrain
		}
		e.Properties.ConfigurationSettings = settings
		var err error
		operation, err = s.applyExtension(tx, e, by)
		return err
	})
	return e.Extension, operation, err
}

// Extension finds an extension.
func (s *Service) Extension(ctx context.Context, id arm.ID) (out Extension, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		e, _, err := Load[storedExtension](tx, id)
		out = e.Extension
		return err
	})
	return out, err
}

// Extensions are those of a cluster.
func (s *Service) Extensions(ctx context.Context, cluster arm.ID) (out []Extension, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		if _, _, err := Load[Cluster](tx, cluster); err != nil {
			return err
		}
		out, err = Documents[Extension](tx.Children(cluster, TypeExtension))
		return err
	})
	return out, err
}

// DeleteExtension has the connector uninstall the extension; the operation ends when it has. With force, or when no
// connector ever called, it is forgotten at once and the operation is empty. found is false when there is none.
func (s *Service) DeleteExtension(ctx context.Context, id arm.ID, force bool, by Ref) (out Extension, operation string, found bool, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		e, r, err := store.Load[storedExtension](tx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		out, found = e.Extension, true
		l, err := tx.Link(id.Parent())
		if err != nil {
			return err
		}
		if force || l.Seen.IsZero() {
			return s.forgetExtension(tx, id)
		}
		if operation, err = begun(tx, id); err != nil {
			return err
		}
		e.Properties.ProvisioningState, e.Since, e.Failure, e.Properties.ErrorInfo = Deleting, tx.Now().UTC(), nil, nil
		e.SystemData = e.SystemData.Touched(by.ObjectID, by.Type, tx.Now())
		out = e.Extension
		return tx.Save(&r, e)
	})
	return out, operation, found, err
}

func (s *Service) forgetExtension(tx *store.Tx, id arm.ID) error {
	if err := endAsyncs(tx, id, nil); err != nil {
		return err
	}
	return s.remove(tx, id)
}

func extensionOf(tx *store.Tx, cluster arm.ID) (*storedExtension, store.Resource, error) {
	found, err := tx.Children(cluster, TypeExtension)
	if err != nil || len(found) == 0 {
		return nil, store.Resource{}, err
	}
	var e storedExtension
	return &e, found[0], found[0].Decode(&e)
}

// ExtensionState is what the connector said last of the extension, and whether it still calls; nil when the extension is
// not installed.
func (s *Service) ExtensionState(tx *store.Tx, cluster arm.ID) (state *link.ExtensionState, connected bool, err error) {
	l, err := tx.Link(cluster)
	if err != nil || l.Extension == nil {
		return nil, s.connected(l), err
	}
	state = &link.ExtensionState{}
	if err := json.Unmarshal(l.Extension, state); err != nil {
		return nil, false, fmt.Errorf("extension's state of %s: %w", cluster, err)
	}
	return state, s.connected(l), nil
}

// ExtensionReported takes over what the connector says of the extension: nil when it is not installed.
func (s *Service) ExtensionReported(tx *store.Tx, cluster arm.ID, state *link.ExtensionState) error {
	e, r, err := extensionOf(tx, cluster)
	if err != nil || e == nil {
		return err
	}
	if e.leaving() {
		if state == nil {
			return s.forgetExtension(tx, e.ID)
		}
		return nil
	}
	if state == nil || state.Generation < e.Generation {
		return nil // it answers an older Desired
	}
	before, err := json.Marshal(e)
	if err != nil {
		return err
	}
	e.take(*state, tx.Now().UTC())
	switch e.Properties.ProvisioningState {
	case Succeeded:
		err = endAsyncs(tx, e.ID, nil)
	case Failed:
		err = endAsyncs(tx, e.ID, e.Failure)
	}
	if err != nil {
		return err
	}
	if after, err := json.Marshal(e); err != nil || string(after) == string(before) {
		return err
	}
	return tx.Save(&r, e)
}

// take changes an extension by what its connector says. Pods that stop to answer later are told in statuses; they do not
// undo an installation that has succeeded.
func (e *storedExtension) take(state link.ExtensionState, now time.Time) {
	p := &e.Properties
	if state.Version != "" {
		p.CurrentVersion = &state.Version
	}
	switch state.State {
	case link.ExtensionReady:
		p.ProvisioningState, p.ErrorInfo, p.Statuses, e.Failure = Succeeded, nil, []ExtensionStatus{}, nil
	case link.ExtensionFailed:
		e.fail("installed", state.Message)
	case link.ExtensionInstalling:
		if len(p.Statuses) == 1 && p.Statuses[0].Message == state.Message {
			return
		}
		p.Statuses = []ExtensionStatus{}
		if state.Message != "" {
			p.Statuses = append(p.Statuses, ExtensionStatus{Code: "InstallationState", DisplayStatus: state.State, Level: "Information", Message: state.Message, Time: now})
		}
	}
}

// fail says what could not be done, and why.
func (e *storedExtension) fail(done, message string) {
	if message == "" {
		message = "the connector gave no reason"
	}
	e.Failure = &arm.Error{Status: 400, Code: "ExtensionOperationFailed", Message: fmt.Sprintf("The extension '%s' could not be %s: %s", e.Name, done, message)}
	e.Properties.ProvisioningState = Failed
	e.Properties.ErrorInfo = e.Failure.Wire("Microsoft.KubernetesConfiguration", "")
}

// ExpireExtensions fails installations and removals that take too long, so that nobody waits for ever for a cluster that is gone.
func (s *Service) ExpireExtensions(ctx context.Context) error {
	var late bool
	if err := s.DB.View(ctx, func(tx *store.Tx) error {
		found, err := lateExtensions(tx)
		late = len(found) > 0
		return err
	}); err != nil || !late {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		found, err := lateExtensions(tx)
		if err != nil {
			return err
		}
		for _, r := range found {
			var e storedExtension
			if err := r.Decode(&e); err != nil {
				return err
			}
			if err := s.expire(tx, &e); err != nil {
				return err
			}
			if err := tx.Save(&r, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// lateExtensions are those that are being installed or removed for too long.
func lateExtensions(tx *store.Tx) ([]store.Resource, error) {
	found, err := tx.ByType(TypeExtension)
	if err != nil {
		return nil, err
	}
	var late []store.Resource
	for _, r := range found {
		var e storedExtension
		if err := r.Decode(&e); err != nil {
			return nil, err
		}
		waiting := slices.Contains([]string{Creating, Updating, Deleting}, e.Properties.ProvisioningState)
		if waiting && tx.Now().Sub(e.Since) >= installTime {
			late = append(late, r)
		}
	}
	return late, nil
}

func (s *Service) expire(tx *store.Tx, e *storedExtension) error {
	l, err := tx.Link(e.ID.Parent())
	if err != nil {
		return err
	}
	done, reason := "installed", fmt.Sprintf("it was not ready after %s.", installTime)
	if e.leaving() {
		e.Unwanted = true
		done, reason = "removed", fmt.Sprintf("it was not gone after %s. It goes when the cluster has removed it; if that never will, forget it: az aks extension delete --force.", installTime)
	}
	if !s.connected(l) {
		reason += " The cluster's connector does not call: see `kubectl logs -n dataprotection-microsoft deployment/cairn-connector`, or run `cairn cluster connect` again."
	} else if len(e.Properties.Statuses) > 0 {
		reason += " " + e.Properties.Statuses[0].Message
	}
	e.fail(done, reason)
	return endAsyncs(tx, e.ID, e.Failure)
}

// sasLife is how long an extension's signature is good; it is renewed at half of that.
const sasLife = 24 * time.Hour

// DesiredExtension is how a cluster should have the extension: nil for not at all. The signature is the same within a
// half of its life, so that the connector sees a change only when there is one.
func (s *Service) DesiredExtension(tx *store.Tx, cluster arm.ID) (*link.Extension, error) {
	e, _, err := extensionOf(tx, cluster)
	if err != nil || e == nil || e.leaving() {
		return nil, err
	}
	settings := map[string]string{}
	for name, value := range e.Properties.ConfigurationSettings {
		if value != nil {
			settings[name] = *value
		}
	}
	out := &link.Extension{Name: e.Name, Generation: e.Generation, Settings: settings, CABundle: s.CABundle}
	container := settings[settingContainer]
	out.ContainerURL = s.BlobURL + "/" + settings[settingAccount] + "/" + container
	account, _, err := store.Load[storedAccount](tx, accountOf(settings))
	if errors.Is(err, store.ErrNotFound) {
		// Without an account nothing signs; the extension finds its storage gone, and says so.
		return out, nil
	} else if err != nil {
		return nil, err
	}
	out.SASExpiry = s.Now().UTC().Truncate(sasLife / 2).Add(sasLife)
	out.SAS, err = blob.ContainerSAS(account.Name, account.Own, container, blob.ExtensionPermissions, out.SASExpiry)
	return out, err
}
