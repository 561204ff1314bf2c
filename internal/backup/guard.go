package backup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// GuardType is the resource type of a resource guard, ProxyType that of a vault's link to one, as its ID has it.
const (
	GuardType = "Microsoft.DataProtection/resourceGuards"
	ProxyType = VaultType + "/backupResourceGuardProxies"
	// ProxyName is the name of the one link that a vault can have.
	ProxyName = "DppResourceGuardProxy"
	// ProxyWireType is how Azure writes the type of a link.
	ProxyWireType = "Microsoft.DataProtection/vaults/backupResourceGuardProxies"
)

// The operations on a vault that a resource guard can protect.
const (
	CriticalDeleteInstance     = VaultType + "/backupInstances/delete"
	CriticalDeleteProxy        = ProxyType + "/delete"
	CriticalReduceImmutability = VaultType + "/write#reduceImmutabilityState"
	CriticalReduceSoftDelete   = VaultType + "/write#reduceSoftDeleteSecurity"
	CriticalModifyEncryption   = VaultType + "/write#modifyEncryptionSettings"
	CriticalStopProtection     = VaultType + "/backupInstances/stopProtection/action"
	CriticalSuspendBackups     = VaultType + "/backupInstances/suspendBackups/action"
	CriticalModifyPolicy       = VaultType + "/backupInstances/write"
	CriticalRestore            = VaultType + "/backupInstances/restore/action"
)

const recoveryServices = "Microsoft.RecoveryServices/vaults/"

// criticalOperations are what a guard protects, in Azure's order, with the collection of the guard whose item default stands for a request to do
// it. Those of Recovery Services vaults are shown and can be excluded, so that one guard's definition serves both; nothing here does them.
var criticalOperations = []struct {
	name, requests string
	// mandatory operations cannot be excluded: otherwise a guard could be taken away through itself.
	mandatory bool
}{
	{name: recoveryServices + "backupFabrics/protectionContainers/protectedItems/delete", requests: "deleteProtectedItemRequests"},
	{name: recoveryServices + "backupFabrics/protectionContainers/protectedItems/write", requests: "updateProtectedItemRequests"},
	{name: recoveryServices + "backupPolicies/write", requests: "updateProtectionPolicyRequests"},
	{name: recoveryServices + "backupResourceGuardProxies/delete", requests: "deleteResourceGuardProxyRequests", mandatory: true},
	{name: recoveryServices + "backupSecurityPIN/action", requests: "getBackupSecurityPINRequests"},
	{name: recoveryServices + "backupconfig/write", requests: "disableSoftDeleteRequests", mandatory: true},
	{name: recoveryServices + "backupFabrics/protectionContainers/protectedItems/write#stopProtectionWithRetainData", requests: "stopProtectionWithRetainDataRequests"},
	{name: recoveryServices + "write#reduceImmutabilityState", requests: "reduceImmutabilityStateRequests"},
	{name: recoveryServices + "backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action", requests: "triggerRestoreRequests"},
	{name: recoveryServices + "registeredIdentities/delete", requests: "deleteMABIdentityRequests"},
	{name: CriticalDeleteInstance, requests: "deleteBackupInstanceRequests"},
	{name: CriticalDeleteProxy, requests: "deleteResourceGuardProxyRequests", mandatory: true},
	{name: CriticalReduceImmutability, requests: "dppReduceImmutabilityStateRequests"},
	{name: CriticalReduceSoftDelete, requests: "dppReduceSoftDeleteSecurityRequests"},
	{name: CriticalModifyEncryption, requests: "dppModifyEncryptionSettingsRequests"},
	{name: CriticalStopProtection, requests: "dppDisableStopProtectionRequests"},
	{name: CriticalSuspendBackups, requests: "dppDisableSuspendBackupsRequests"},
	{name: CriticalModifyPolicy, requests: "dppModifyPolicy"},
	{name: CriticalRestore, requests: "dppTriggerRestoreRequests"},
}

// GuardRequestKinds are the collections of requests below a guard, without repetition.
func GuardRequestKinds() []string {
	var kinds []string
	for _, c := range criticalOperations {
		if !slices.Contains(kinds, c.requests) {
			kinds = append(kinds, c.requests)
		}
	}
	return kinds
}

// Guard is the properties of a resource guard: which critical operations on the vaults that are linked to it need rights on it, too.
type Guard struct {
	ProvisioningState string           `json:"provisioningState,omitempty"`
	Description       string           `json:"description,omitempty"`
	Operations        []GuardOperation `json:"resourceGuardOperations"`
	// Excluded are the names of operations that it does not protect.
	Excluded []string `json:"vaultCriticalOperationExclusionList"`
	// AllowAutoApprovals is always true: whoever has the rights on the guard need not ask anybody.
	AllowAutoApprovals bool `json:"allowAutoApprovals"`
}

// GuardOperation is an operation that a guard protects. The type is Azure's name for the requests to do it.
type GuardOperation struct {
	VaultCriticalOperation string `json:"vaultCriticalOperation"`
	RequestResourceType    string `json:"requestResourceType"`
}

// GuardResource is a resource guard as it is sent and stored.
type GuardResource struct {
	Resource[Guard]
	Location string `json:"location"`
	// ETag is not stored with the guard; it is filled in when the guard is read.
	ETag string `json:"eTag,omitempty"`
}

// GuardProxy is the properties of a vault's link to a guard.
type GuardProxy struct {
	GuardID     arm.ID `json:"resourceGuardResourceId"`
	Description string `json:"description,omitempty"`
	// Operations are those that the guard protects on this vault; they follow from the guard.
	Operations      []ProxyOperation `json:"resourceGuardOperationDetails"`
	LastUpdatedTime string           `json:"lastUpdatedTime,omitempty"`
}

// ProxyOperation is an operation that is protected, and the request that stands for leave to do it.
type ProxyOperation struct {
	VaultCriticalOperation string `json:"vaultCriticalOperation"`
	DefaultResourceRequest arm.ID `json:"defaultResourceRequest"`
}

// UnlockDeleteRequest is the body of unlockDelete.
type UnlockDeleteRequest struct {
	GuardRequests       []string `json:"resourceGuardOperationRequests"`
	ResourceToBeDeleted string   `json:"resourceToBeDeleted"`
}

// GuardedRequest is the body of an action that has none but what a guard asks for.
type GuardedRequest struct {
	GuardRequests []string `json:"resourceGuardOperationRequests"`
}

// Complete fills in what follows from the exclusions.
func (g *Guard) Complete() {
	g.AllowAutoApprovals = true
	if g.Excluded == nil {
		g.Excluded = []string{}
	}
	g.Operations = []GuardOperation{}
	for _, c := range criticalOperations {
		if slices.Contains(g.Excluded, c.name) {
			continue
		}
		typ := GuardType + "/" + c.requests
		if strings.HasPrefix(c.name, VaultType) {
			typ = c.name
		}
		g.Operations = append(g.Operations, GuardOperation{VaultCriticalOperation: c.name, RequestResourceType: typ})
	}
}

// Validate names what is wrong with the exclusions, and puts them into Azure's letter case.
func (g *Guard) Validate() arm.Problems {
	var p arm.Problems
	var names []string
	for _, c := range criticalOperations {
		names = append(names, c.name)
	}
	for i := range g.Excluded {
		at := fmt.Sprintf("properties.vaultCriticalOperationExclusionList[%d]", i)
		g.Excluded[i] = choose(&p, at, g.Excluded[i], names...)
		for _, c := range criticalOperations {
			if c.mandatory && c.name == g.Excluded[i] {
				p.AddError(arm.Invalid(at, "The operation '%s' is always protected.", c.name).WithAction("Take it off the list."))
			}
		}
	}
	return p
}

// Request is the request of a guard that stands for leave to do an operation; false when the guard does not protect it.
func (g *GuardResource) Request(operation string) (arm.ID, bool) {
	for _, c := range criticalOperations {
		if c.name == operation && !slices.Contains(g.Properties.Excluded, operation) {
			return g.ID.Child(c.requests, "default"), true
		}
	}
	return "", false
}

// Protected are the operations of backup vaults that the guard protects.
func (g *GuardResource) Protected() []ProxyOperation {
	protected := []ProxyOperation{}
	for _, o := range g.Properties.Operations {
		if !strings.HasPrefix(o.VaultCriticalOperation, VaultType) {
			continue
		}
		if request, ok := g.Request(o.VaultCriticalOperation); ok {
			protected = append(protected, ProxyOperation{o.VaultCriticalOperation, request})
		}
	}
	return protected
}

// Serves says whether the guard has requests of a kind: not when all that they are for is excluded.
func (g *GuardResource) Serves(kind string) bool {
	for _, c := range criticalOperations {
		if c.requests == kind && !slices.Contains(g.Properties.Excluded, c.name) {
			return true
		}
	}
	return false
}

// CriticalChanges are the critical operations that changing the vault into next amounts to.
func (v *Vault) CriticalChanges(next *Vault) []string {
	var operations []string
	order := []string{"", "Disabled", "Unlocked", "Locked"}
	if slices.Index(order, next.Immutability()) < slices.Index(order, v.Immutability()) {
		operations = append(operations, CriticalReduceImmutability)
	}
	order = []string{"", "Off", "On", "AlwaysOn"}
	if slices.Index(order, next.softDelete()) < slices.Index(order, v.softDelete()) || v.softDelete() != "Off" && next.softDeleteDays() < v.softDeleteDays() {
		operations = append(operations, CriticalReduceSoftDelete)
	}
	return operations
}

func (v *Vault) softDeleteDays() Days {
	if v.SecuritySettings == nil || v.SecuritySettings.SoftDelete == nil || v.SecuritySettings.SoftDelete.RetentionDays == nil {
		return 0
	}
	return *v.SecuritySettings.SoftDelete.RetentionDays
}
