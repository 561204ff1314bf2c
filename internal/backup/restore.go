package backup

import (
	"regexp"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// RestoreRequest is the body of restore, and what validateRestore wraps.
type RestoreRequest struct {
	ObjectType          string           `json:"objectType"`
	Target              *RestoreTarget   `json:"restoreTargetInfo"`
	SourceDataStoreType string           `json:"sourceDataStoreType"`
	SourceResourceID    string           `json:"sourceResourceId,omitempty"`
	IdentityDetails     *IdentityDetails `json:"identityDetails,omitempty"`
	RecoveryPointID     string           `json:"recoveryPointId"`
	// GuardRequests are what a resource guard asks for.
	GuardRequests []string `json:"resourceGuardOperationRequests,omitempty"`
}

// ValidateRestoreRequest is the body of validateRestore.
type ValidateRestoreRequest struct {
	Request *RestoreRequest `json:"restoreRequestObject"`
}

// RestoreTarget says where to restore to, and what.
type RestoreTarget struct {
	ObjectType      string            `json:"objectType"`
	RecoveryOption  string            `json:"recoveryOption"`
	RestoreLocation string            `json:"restoreLocation,omitempty"`
	Datasource      *Datasource       `json:"datasourceInfo,omitempty"`
	DatasourceSet   *Datasource       `json:"datasourceSetInfo,omitempty"`
	Criteria        []RestoreCriteria `json:"restoreCriteria,omitempty"`
	// Details is how some guides name the target cluster.
	Details *TargetDetails `json:"targetDetails,omitempty"`
}

// TargetDetails name the target cluster. FileShareOption is kept as it is: volumes are always made anew.
type TargetDetails struct {
	TargetResourceID string `json:"targetResourceArmId,omitempty"`
	FileShareOption  string `json:"fileShareOption,omitempty"`
}

// RestoreCriteria are what a restore brings back.
type RestoreCriteria struct {
	ObjectType                   string            `json:"objectType"`
	IncludeClusterScopeResources *bool             `json:"includeClusterScopeResources"`
	ConflictPolicy               string            `json:"conflictPolicy,omitempty"`
	PersistentVolumeRestoreMode  string            `json:"persistentVolumeRestoreMode,omitempty"`
	IncludedNamespaces           []string          `json:"includedNamespaces,omitempty"`
	ExcludedNamespaces           []string          `json:"excludedNamespaces,omitempty"`
	IncludedResourceTypes        []string          `json:"includedResourceTypes,omitempty"`
	ExcludedResourceTypes        []string          `json:"excludedResourceTypes,omitempty"`
	LabelSelectors               []string          `json:"labelSelectors,omitempty"`
	NamespaceMappings            map[string]string `json:"namespaceMappings,omitempty"`
	RestoreHookReferences        []NamespacedRef   `json:"restoreHookReferences,omitempty"`
	ResourceModifierReference    *NamespacedRef    `json:"resourceModifierReference,omitempty"`
}

const (
	restoreByPoint = "AzureBackupRecoveryPointBasedRestoreRequest"
	// restoreByGuide is how widespread guides call it; Azure has no such type.
	restoreByGuide  = "AzureKubernetesServiceRestoreRequest"
	itemTarget      = "ItemLevelRestoreTargetInfo"
	wholeTarget     = "RestoreTargetInfo"
	restoreCriteria = "KubernetesClusterRestoreCriteria"
	vaultCriteria   = "KubernetesClusterVaultTierRestoreCriteria"

	conflictSkip   = "Skip"
	conflictPatch  = "Patch"
	withVolumeData = "RestoreWithVolumeData"
	withoutVolumes = "RestoreWithoutVolumeData"
	failIfExists   = "FailIfExists"
)

// Complete puts the request into Azure's form. A request of the guides' form gets everything that it leaves out: the
// operational store, the instance's own cluster (source), all namespaces, conflict policy Skip. One of Azure's own form gets the
// defaults of optional properties only.
func (r *RestoreRequest) Complete(source *Datasource) {
	guide := strings.EqualFold(r.ObjectType, restoreByGuide)
	if guide {
		r.ObjectType = restoreByPoint
	}
	r.ObjectType = spelling(r.ObjectType, "", restoreByPoint)
	r.SourceDataStoreType = spelling(r.SourceDataStoreType, "", OperationalStore, VaultStore, ArchiveStore)
	if guide && r.SourceDataStoreType == "" {
		r.SourceDataStoreType = OperationalStore
	}
	r.RecoveryPointID = strings.ToLower(strings.ReplaceAll(r.RecoveryPointID, "-", ""))
	if r.Target == nil && guide {
		r.Target = &RestoreTarget{}
	}
	if r.Target != nil {
		r.Target.complete(source, guide)
	}
}

func (t *RestoreTarget) complete(source *Datasource, guide bool) {
	// A target without criteria means all that is in the recovery point.
	whole := strings.EqualFold(t.ObjectType, wholeTarget) || guide && t.ObjectType == ""
	if whole {
		t.ObjectType = itemTarget
	}
	t.ObjectType = spelling(t.ObjectType, "", itemTarget)
	t.RecoveryOption = spelling(t.RecoveryOption, "", failIfExists)
	if guide && t.RecoveryOption == "" {
		t.RecoveryOption = failIfExists
	}
	if t.Datasource == nil && t.Details != nil && t.Details.TargetResourceID != "" {
		t.Datasource = &Datasource{ResourceID: t.Details.TargetResourceID}
	}
	if t.Datasource == nil && guide {
		own := *source
		t.Datasource = &own
	}
	if t.Datasource != nil {
		t.Datasource.complete("Datasource")
	}
	if t.DatasourceSet != nil {
		t.DatasourceSet.complete("DatasourceSet")
	}
	if len(t.Criteria) == 0 && whole {
		yes := true
		t.Criteria = []RestoreCriteria{{ObjectType: restoreCriteria, IncludeClusterScopeResources: &yes}}
	}
	for i := range t.Criteria {
		c := &t.Criteria[i]
		c.ObjectType = spelling(c.ObjectType, "", restoreCriteria, vaultCriteria)
		c.ConflictPolicy = spelling(c.ConflictPolicy, conflictSkip, conflictPatch)
		c.PersistentVolumeRestoreMode = spelling(c.PersistentVolumeRestoreMode, withVolumeData, withoutVolumes)
	}
}

var recoveryPointName = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Validate names everything that is wrong, with targets below prefix ("" or "restoreRequestObject"). Call Complete first.
func (r *RestoreRequest) Validate(prefix string) arm.Problems {
	var own, p arm.Problems
	choose(&own, "objectType", r.ObjectType, restoreByPoint)
	if r.RecoveryPointID == "" {
		own.AddError(arm.Invalid("recoveryPointId", "recoveryPointId is required.").WithAction("Use the name of one of the instance's recovery points."))
	} else if !recoveryPointName.MatchString(r.RecoveryPointID) {
		own.AddError(arm.Invalid("recoveryPointId", "'%s' is not a recovery point's name.", r.RecoveryPointID).
			WithAction("Use the name (32 hexadecimal digits) of one of the instance's recovery points."))
	}
	if r.SourceDataStoreType == VaultStore || r.SourceDataStoreType == ArchiveStore {
		unsupported(&own, "sourceDataStoreType", "A restore from "+r.SourceDataStoreType, "Use OperationalStore.")
	} else {
		choose(&own, "sourceDataStoreType", r.SourceDataStoreType, OperationalStore)
	}
	if r.Target == nil {
		own.AddError(arm.Invalid("restoreTargetInfo", "restoreTargetInfo is required.").WithAction("Say where to restore to: objectType " + itemTarget + " with datasourceInfo and restoreCriteria."))
	} else {
		r.Target.validate(&own)
	}
	if prefix == "" {
		return own
	}
	p.Append(prefix, own)
	return p
}

func (t *RestoreTarget) validate(p *arm.Problems) {
	const at = "restoreTargetInfo"
	choose(p, at+".objectType", t.ObjectType, itemTarget)
	choose(p, at+".recoveryOption", t.RecoveryOption, failIfExists)
	if t.Datasource == nil {
		p.AddError(arm.Invalid(at+".datasourceInfo", "datasourceInfo is required.").WithAction("Name the cluster to restore to."))
	} else {
		t.Datasource.validate(p, at+".datasourceInfo", "Datasource")
	}
	if t.ObjectType != itemTarget {
		return
	}
	if len(t.Criteria) != 1 {
		p.AddError(arm.Invalid(at+".restoreCriteria", "restoreCriteria has %d elements.", len(t.Criteria)).
			WithAction("Give it exactly one " + restoreCriteria + "."))
		return
	}
	t.Criteria[0].validate(p, at+".restoreCriteria[0]")
}

func (c *RestoreCriteria) validate(p *arm.Problems, at string) {
	if c.ObjectType == vaultCriteria {
		unsupported(p, at+".objectType", "A restore from the vault tier", "Use "+restoreCriteria+".")
		return
	}
	if choose(p, at+".objectType", c.ObjectType, restoreCriteria) != restoreCriteria {
		return
	}
	requiredBool(p, at+".includeClusterScopeResources", c.IncludeClusterScopeResources)
	if choose(p, at+".conflictPolicy", c.ConflictPolicy, conflictSkip, conflictPatch) == conflictPatch {
		unsupported(p, at+".conflictPolicy", "The conflict policy Patch", "Use Skip, and delete what is to be replaced first.")
	}
	choose(p, at+".persistentVolumeRestoreMode", c.PersistentVolumeRestoreMode, withVolumeData, withoutVolumes)
	validateNamespaces(p, at, c.IncludedNamespaces, c.ExcludedNamespaces)
	notYet(p, at+".includedResourceTypes", len(c.IncludedResourceTypes))
	notYet(p, at+".excludedResourceTypes", len(c.ExcludedResourceTypes))
	notYet(p, at+".labelSelectors", len(c.LabelSelectors))
	notYet(p, at+".namespaceMappings", len(c.NamespaceMappings))
	notYet(p, at+".restoreHookReferences", len(c.RestoreHookReferences))
	if c.ResourceModifierReference != nil {
		notYet(p, at+".resourceModifierReference", 1)
	}
}

// RestoresVolumeData says whether volumes get their data back. It panics unless the request is complete and valid.
func (r *RestoreRequest) RestoresVolumeData() bool {
	return r.Target.Criteria[0].PersistentVolumeRestoreMode == withVolumeData
}

// ClusterID is the cluster to restore to. It panics unless the request is complete and valid.
func (r *RestoreRequest) ClusterID() arm.ID {
	return arm.ID(strings.TrimSuffix(r.Target.Datasource.ResourceID, "/"))
}
