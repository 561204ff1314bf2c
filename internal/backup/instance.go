package backup

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// InstanceType is the resource type of a backup instance.
const InstanceType = VaultType + "/backupInstances"

// The states of an instance's protection.
const (
	ConfiguringProtection = "ConfiguringProtection"
	UpdatingProtection    = "UpdatingProtection"
	ProtectionConfigured  = "ProtectionConfigured"
	ProtectionError       = "ProtectionError"
	ProtectionStopped     = "ProtectionStopped"
	BackupsSuspended      = "BackupsSuspended"
	SoftDeleting          = "SoftDeleting"
	SoftDeleted           = "SoftDeleted"
)

// Instance is the properties of a backup instance: a cluster, a policy and a scope.
type Instance struct {
	FriendlyName           string            `json:"friendlyName,omitempty"`
	DataSource             *Datasource       `json:"dataSourceInfo,omitempty"`
	DataSourceSet          *Datasource       `json:"dataSourceSetInfo,omitempty"`
	Policy                 *PolicyInfo       `json:"policyInfo,omitempty"`
	ProtectionStatus       *ProtectionStatus `json:"protectionStatus,omitempty"`
	CurrentProtectionState string            `json:"currentProtectionState,omitempty"`
	ProtectionErrorDetails *arm.UserFacing   `json:"protectionErrorDetails,omitempty"`
	ProvisioningState      string            `json:"provisioningState,omitempty"`
	ValidationType         string            `json:"validationType,omitempty"`
	IdentityDetails        *IdentityDetails  `json:"identityDetails,omitempty"`
	ObjectType             string            `json:"objectType"`
	// GuardRequests is of requests only: what a resource guard asks for.
	GuardRequests []string `json:"resourceGuardOperationRequests,omitempty"`
}

// Datasource names a cluster. The odd letter case of the first key is Azure's.
type Datasource struct {
	ResourceID       string `json:"resourceID"`
	ResourceURI      string `json:"resourceUri"`
	DatasourceType   string `json:"datasourceType"`
	ResourceName     string `json:"resourceName"`
	ResourceType     string `json:"resourceType"`
	ResourceLocation string `json:"resourceLocation"`
	ObjectType       string `json:"objectType"`
}

// PolicyInfo is the instance's policy, and its scope.
type PolicyInfo struct {
	PolicyID      string            `json:"policyId"`
	PolicyVersion string            `json:"policyVersion,omitempty"`
	Parameters    *PolicyParameters `json:"policyParameters,omitempty"`
}

// PolicyParameters say where snapshots go and what is taken. Each list has one element once it is complete.
type PolicyParameters struct {
	DataStores  []DataStoreParameters  `json:"dataStoreParametersList"`
	Datasources []KubernetesParameters `json:"backupDatasourceParametersList"`
}

// DataStoreParameters name the resource group that snapshots belong to.
type DataStoreParameters struct {
	DataStoreType   string `json:"dataStoreType"`
	ObjectType      string `json:"objectType"`
	ResourceGroupID string `json:"resourceGroupId"`
}

// KubernetesParameters are what a backup takes. All lists are written, null when they are not set.
type KubernetesParameters struct {
	ObjectType                   string          `json:"objectType"`
	IncludeClusterScopeResources *bool           `json:"includeClusterScopeResources"`
	SnapshotVolumes              *bool           `json:"snapshotVolumes"`
	IncludedNamespaces           []string        `json:"includedNamespaces"`
	ExcludedNamespaces           []string        `json:"excludedNamespaces"`
	IncludedResourceTypes        []string        `json:"includedResourceTypes"`
	ExcludedResourceTypes        []string        `json:"excludedResourceTypes"`
	LabelSelectors               []string        `json:"labelSelectors"`
	IncludedVolumeTypes          []string        `json:"includedVolumeTypes"`
	BackupHookReferences         []NamespacedRef `json:"backupHookReferences"`
}

// NamespacedRef names an object of the cluster.
type NamespacedRef struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// ProtectionStatus repeats the protection state, as Azure does.
type ProtectionStatus struct {
	Status       string          `json:"status"`
	ErrorDetails *arm.UserFacing `json:"errorDetails,omitempty"`
}

// IdentityDetails say which of the vault's identities is used.
type IdentityDetails struct {
	UseSystemAssignedIdentity  *bool  `json:"useSystemAssignedIdentity,omitempty"`
	UserAssignedIdentityArmURL string `json:"userAssignedIdentityArmUrl,omitempty"`
}

const (
	instanceObject   = "BackupInstance"
	storeParameters  = "AzureOperationalStoreParameters"
	sourceParameters = "KubernetesClusterBackupDatasourceParameters"
)

// Complete fills in what a document may leave out: names, the datasource's set, the snapshot resource group (the
// cluster's own), and a scope that takes everything.
func (i *Instance) Complete() {
	i.ObjectType = spelling(i.ObjectType, instanceObject)
	if i.DataSource != nil {
		i.DataSource.complete("Datasource")
		if i.DataSourceSet == nil {
			set := *i.DataSource
			set.ObjectType = "DatasourceSet"
			i.DataSourceSet = &set
		}
		i.DataSourceSet.complete("DatasourceSet")
		if i.FriendlyName == "" {
			i.FriendlyName = i.DataSource.ResourceName + "/" + i.DataSource.ResourceName
		}
	}
	if i.Policy == nil {
		return
	}
	if i.Policy.Parameters == nil {
		i.Policy.Parameters = &PolicyParameters{}
	}
	i.Policy.Parameters.complete(i.ClusterID())
}

func (d *Datasource) complete(objectType string) {
	d.ObjectType = spelling(d.ObjectType, objectType)
	d.DatasourceType = datasourceType(spelling(d.DatasourceType, ClusterType))
	if d.ResourceName == "" {
		d.ResourceName = arm.ID(strings.TrimSuffix(d.ResourceID, "/")).Name()
	}
	if d.ResourceType == "" {
		d.ResourceType = ClusterType
	}
}

func (p *PolicyParameters) complete(cluster arm.ID) {
	if len(p.DataStores) == 0 {
		p.DataStores = []DataStoreParameters{{DataStoreType: OperationalStore}}
	}
	for i := range p.DataStores {
		s := &p.DataStores[i]
		s.ObjectType = spelling(s.ObjectType, storeParameters)
		s.DataStoreType = spelling(s.DataStoreType, "", OperationalStore, VaultStore, ArchiveStore)
		if s.ResourceGroupID == "" {
			s.ResourceGroupID = string(cluster.ResourceGroupID())
		}
	}
	if len(p.Datasources) == 0 {
		yes, also := true, true
		p.Datasources = []KubernetesParameters{{IncludeClusterScopeResources: &yes, SnapshotVolumes: &also}}
	}
	for i := range p.Datasources {
		p.Datasources[i].ObjectType = spelling(p.Datasources[i].ObjectType, sourceParameters)
	}
}

// ClusterID is the datasource's ID, empty when there is none.
func (i *Instance) ClusterID() arm.ID {
	if i.DataSource == nil {
		return ""
	}
	return arm.ID(strings.TrimSuffix(i.DataSource.ResourceID, "/"))
}

// PolicyID is the policy's ID, empty when there is none.
func (i *Instance) PolicyID() arm.ID {
	if i.Policy == nil {
		return ""
	}
	return arm.ID(strings.TrimSuffix(i.Policy.PolicyID, "/"))
}

// Scope is what a backup takes. It panics unless the instance is complete and valid.
func (i *Instance) Scope() KubernetesParameters { return i.Policy.Parameters.Datasources[0] }

// SetState moves the instance to a state of protection; err is why, or nil.
func (i *Instance) SetState(state string, err *arm.UserFacing) {
	i.CurrentProtectionState = state
	i.ProtectionStatus = &ProtectionStatus{Status: state, ErrorDetails: err}
	i.ProtectionErrorDetails = err
}

// Validate names everything that is wrong, with targets below prefix ("properties", or "backupInstance" in a
// validation). Call Complete first.
func (i *Instance) Validate(prefix string) arm.Problems {
	var p arm.Problems
	choose(&p, prefix+".objectType", i.ObjectType, instanceObject)
	if i.DataSource == nil {
		p.AddError(arm.Invalid(prefix+".dataSourceInfo", "dataSourceInfo is required.").
			WithAction(`Name the cluster, as in {"objectType": "Datasource", "resourceID": "/subscriptions/…/managedClusters/…"}.`))
	} else {
		i.DataSource.validate(&p, prefix+".dataSourceInfo", "Datasource")
	}
	if len(p) == 0 {
		// What follows from the datasource is told only once that is right.
		i.DataSourceSet.validate(&p, prefix+".dataSourceSetInfo", "DatasourceSet")
		if !arm.ID(i.DataSourceSet.ResourceID).Equal(i.ClusterID()) && i.DataSourceSet.ResourceID != "" {
			p.AddError(arm.Invalid(prefix+".dataSourceSetInfo.resourceID", "The datasource set is another resource than the datasource.").
				WithAction("Leave dataSourceSetInfo out, or repeat the cluster's ID."))
		}
	}
	if i.Policy == nil || i.Policy.PolicyID == "" {
		p.AddError(arm.Invalid(prefix+".policyInfo.policyId", "policyId is required.").WithAction("Name a policy of the vault by its ID."))
		return p
	}
	if id, err := arm.ParseID(i.Policy.PolicyID); err != nil || !strings.EqualFold(id.Type(), PolicyType) {
		p.AddError(arm.Invalid(prefix+".policyInfo.policyId", "'%s' is not the ID of a backup policy.", i.Policy.PolicyID).
			WithAction("Use /subscriptions/…/resourceGroups/…/providers/" + VaultType + "/…/backupPolicies/…."))
	}
	i.Policy.Parameters.validate(&p, prefix+".policyInfo.policyParameters", len(p) == 0)
	return p
}

func (d *Datasource) validate(p *arm.Problems, at, objectType string) {
	choose(p, at+".objectType", d.ObjectType, objectType)
	choose(p, at+".datasourceType", d.DatasourceType, ClusterType)
	if d.ResourceID == "" {
		p.AddError(arm.Invalid(at+".resourceID", "resourceID is required.").WithAction("Set it to the cluster's ID."))
		return
	}
	if id, err := arm.ParseID(d.ResourceID); err != nil || !strings.EqualFold(id.Type(), ClusterType) {
		p.AddError(arm.Invalid(at+".resourceID", "'%s' is not the ID of a cluster.", d.ResourceID).
			WithAction("Use /subscriptions/…/resourceGroups/…/providers/" + ClusterType + "/…."))
	}
}

func (pp *PolicyParameters) validate(p *arm.Problems, at string, complete bool) {
	one(p, at+".dataStoreParametersList", len(pp.DataStores))
	for i, s := range pp.DataStores {
		at := fmt.Sprintf("%s.dataStoreParametersList[%d]", at, i)
		choose(p, at+".objectType", s.ObjectType, storeParameters)
		choose(p, at+".dataStoreType", s.DataStoreType, OperationalStore)
		if s.ResourceGroupID == "" && !complete {
			continue // it follows from the cluster, which is wrong
		}
		if id, err := arm.ParseID(s.ResourceGroupID); err != nil || !strings.EqualFold(id.Type(), "Microsoft.Resources/resourceGroups") {
			p.AddError(arm.Invalid(at+".resourceGroupId", "'%s' is not the ID of a resource group.", s.ResourceGroupID).
				WithAction("Use /subscriptions/…/resourceGroups/…."))
		}
	}
	one(p, at+".backupDatasourceParametersList", len(pp.Datasources))
	for i := range pp.Datasources {
		pp.Datasources[i].validate(p, fmt.Sprintf("%s.backupDatasourceParametersList[%d]", at, i))
	}
}

func one(p *arm.Problems, at string, n int) {
	if n != 1 {
		p.AddError(arm.Invalid(at, "%s has %d elements.", last(at), n).WithAction("Give it exactly one, or leave it out."))
	}
}

func (k *KubernetesParameters) validate(p *arm.Problems, at string) {
	choose(p, at+".objectType", k.ObjectType, sourceParameters)
	requiredBool(p, at+".includeClusterScopeResources", k.IncludeClusterScopeResources)
	requiredBool(p, at+".snapshotVolumes", k.SnapshotVolumes)
	validateNamespaces(p, at, k.IncludedNamespaces, k.ExcludedNamespaces)
	notYet(p, at+".includedResourceTypes", len(k.IncludedResourceTypes))
	notYet(p, at+".excludedResourceTypes", len(k.ExcludedResourceTypes))
	notYet(p, at+".labelSelectors", len(k.LabelSelectors))
	notYet(p, at+".includedVolumeTypes", len(k.IncludedVolumeTypes))
	notYet(p, at+".backupHookReferences", len(k.BackupHookReferences))
}

func requiredBool(p *arm.Problems, at string, v *bool) {
	if v == nil {
		p.AddError(arm.Invalid(at, "%s is required.", last(at)).WithAction("Set it to true or false."))
	}
}

// notYet refuses a filter that would not take effect: a backup that holds more than was asked for would be a lie.
func notYet(p *arm.Problems, at string, n int) {
	if n > 0 {
		unsupported(p, at, last(at), "Leave it empty; namespaces, snapshotVolumes and includeClusterScopeResources are what can be chosen.")
	}
}

// maxNamespaces is Azure's limit per instance.
const maxNamespaces = 800

var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func validateNamespaces(p *arm.Problems, at string, included, excluded []string) {
	namespaces(p, at+".includedNamespaces", included)
	namespaces(p, at+".excludedNamespaces", excluded)
	for i, name := range included {
		if slices.Contains(excluded, name) {
			p.AddError(arm.Invalid(fmt.Sprintf("%s.includedNamespaces[%d]", at, i), "'%s' is both included and excluded.", name).WithAction("Take it out of one of the lists."))
		}
	}
}

func namespaces(p *arm.Problems, at string, names []string) {
	if len(names) > maxNamespaces {
		p.AddError(arm.Invalid(at, "%d namespaces are too many.", len(names)).WithAction(fmt.Sprintf("Name at most %d, or none for all.", maxNamespaces)))
	}
	for i, name := range names {
		if !namespaceName.MatchString(name) {
			p.AddError(arm.Invalid(fmt.Sprintf("%s[%d]", at, i), "'%s' is not a namespace's name.", name).
				WithAction("Use lower-case letters, digits and dashes; leave the list empty for all namespaces."))
		}
	}
}

// ValidateRequest is the body of validateForBackup.
type ValidateRequest struct {
	Instance *Instance `json:"backupInstance"`
}

// AdhocRequest is the body of backup: which rule to run now.
type AdhocRequest struct {
	Options *AdhocOptions `json:"backupRuleOptions"`
}

// AdhocOptions name a backup rule of the policy and, when not the default tag, a retention rule.
type AdhocOptions struct {
	RuleName string `json:"ruleName"`
	Trigger  struct {
		RetentionTagOverride string `json:"retentionTagOverride,omitempty"`
	} `json:"triggerOption"`
}

// Validate checks the request against the instance's policy and returns the retention tag: "default" without an
// override, as Azure writes it.
func (r *AdhocRequest) Validate(policy *Policy) (tag string, problems arm.Problems) {
	if r.Options == nil || r.Options.RuleName == "" {
		problems.AddError(arm.Invalid("backupRuleOptions.ruleName", "ruleName is required.").
			WithAction("Use one of the policy's backup rules: " + strings.Join(policy.RuleNames(false), ", ") + "."))
		return "", problems
	}
	if policy.BackupRule(r.Options.RuleName) == nil {
		problems.AddError(arm.Invalid("backupRuleOptions.ruleName", "The policy has no backup rule named '%s'.", r.Options.RuleName).
			WithAction("Use one of: " + strings.Join(policy.RuleNames(false), ", ") + "."))
	}
	override := r.Options.Trigger.RetentionTagOverride
	if override == "" {
		return "default", problems
	}
	rule := policy.RetentionRule(override)
	if rule == nil {
		problems.AddError(arm.Invalid("backupRuleOptions.triggerOption.retentionTagOverride", "The policy has no retention rule named '%s'.", override).
			WithAction("Use one of: " + strings.Join(policy.RuleNames(true), ", ") + "."))
		return "", problems
	}
	return rule.Name, problems
}
