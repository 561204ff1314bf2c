package backup

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// VaultType is the resource type of a vault.
const VaultType = "Microsoft.DataProtection/backupVaults"

// Vault is the properties of a backup vault.
type Vault struct {
	ProvisioningState               string              `json:"provisioningState,omitempty"`
	StorageSettings                 []StorageSetting    `json:"storageSettings"`
	FeatureSettings                 *FeatureSettings    `json:"featureSettings,omitempty"`
	MonitoringSettings              *MonitoringSettings `json:"monitoringSettings,omitempty"`
	SecuritySettings                *SecuritySettings   `json:"securitySettings,omitempty"`
	IsVaultProtectedByResourceGuard bool                `json:"isVaultProtectedByResourceGuard"`
	SecureScore                     string              `json:"secureScore,omitempty"`
	BCDRSecurityLevel               string              `json:"bcdrSecurityLevel,omitempty"`
	ReplicatedRegions               []string            `json:"replicatedRegions"`
	// GuardRequests is of requests only: what a resource guard asks for.
	GuardRequests []string `json:"resourceGuardOperationRequests,omitempty"`
}

// StorageSetting is the redundancy of one of the vault's stores. The key's lower-case s is Azure's.
type StorageSetting struct {
	DatastoreType string `json:"datastoreType"`
	Type          string `json:"type"`
}

// State is an object that has nothing but a state.
type State struct {
	State string `json:"state,omitempty"`
}

// FeatureSettings are switches of a vault.
type FeatureSettings struct {
	CrossSubscriptionRestore *State `json:"crossSubscriptionRestoreSettings,omitempty"`
	CrossRegionRestore       *State `json:"crossRegionRestoreSettings,omitempty"`
}

// MonitoringSettings are switches of a vault's alerts.
type MonitoringSettings struct {
	AzureMonitorAlerts *struct {
		AlertsForAllJobFailures string `json:"alertsForAllJobFailures,omitempty"`
	} `json:"azureMonitorAlertSettings,omitempty"`
}

// SecuritySettings are how hard it is to lose what is in a vault. Unlike Azure's, they protect what is in the operational tier too.
type SecuritySettings struct {
	SoftDelete   *SoftDelete         `json:"softDeleteSettings,omitempty"`
	Immutability *State              `json:"immutabilitySettings,omitempty"`
	Encryption   *EncryptionSettings `json:"encryptionSettings,omitempty"`
}

// SoftDelete is how long a deleted backup instance can be brought back.
type SoftDelete struct {
	State         string `json:"state,omitempty"`
	RetentionDays *Days  `json:"retentionDurationInDays,omitempty"`
}

// EncryptionSettings ask for a key of the user's own.
type EncryptionSettings struct {
	State string `json:"state,omitempty"`
}

// Days is a number of days that is written with a fraction: 14.0.
type Days float64

// MarshalJSON writes at least one digit after the point.
func (d Days) MarshalJSON() ([]byte, error) {
	text := strconv.FormatFloat(float64(d), 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return []byte(text), nil
}

// The states of a vault's provisioning.
const (
	Provisioning = "Provisioning"
	Updating     = "Updating"
	Succeeded    = "Succeeded"
	Failed       = "Failed"
)

// Complete fills in what the caller does not say and what follows from what it says.
func (v *Vault) Complete() {
	if v.SecuritySettings == nil {
		v.SecuritySettings = &SecuritySettings{}
	}
	if v.SecuritySettings.SoftDelete == nil {
		v.SecuritySettings.SoftDelete = &SoftDelete{State: "Off"}
	}
	soft := v.SecuritySettings.SoftDelete
	if soft.RetentionDays == nil {
		days := Days(14)
		soft.RetentionDays = &days
	}
	v.ReplicatedRegions = []string{}
	immutable := v.SecuritySettings.Immutability != nil && !strings.EqualFold(v.SecuritySettings.Immutability.State, "Disabled")
	switch {
	case strings.EqualFold(soft.State, "Off"):
		v.SecureScore, v.BCDRSecurityLevel = "None", "Poor"
	case immutable && strings.EqualFold(soft.State, "AlwaysOn"),
		immutable && strings.EqualFold(v.SecuritySettings.Immutability.State, "Locked"):
		v.SecureScore, v.BCDRSecurityLevel = "Adequate", "Good"
	default:
		v.SecureScore, v.BCDRSecurityLevel = "Minimum", "Fair"
	}
}

// Merge takes over the settings that a patch has, each by itself: what it does not name stays. Nil is nothing to change.
func (v *Vault) Merge(features *FeatureSettings, monitoring *MonitoringSettings, security *SecuritySettings) {
	if features != nil {
		next := FeatureSettings{}
		if v.FeatureSettings != nil {
			next = *v.FeatureSettings
		}
		replace(&next.CrossRegionRestore, features.CrossRegionRestore)
		replace(&next.CrossSubscriptionRestore, features.CrossSubscriptionRestore)
		v.FeatureSettings = &next
	}
	replace(&v.MonitoringSettings, monitoring)
	if security == nil {
		return
	}
	next := SecuritySettings{}
	if v.SecuritySettings != nil {
		next = *v.SecuritySettings
	}
	replace(&next.Immutability, security.Immutability)
	replace(&next.Encryption, security.Encryption)
	if patch := security.SoftDelete; patch != nil {
		soft := SoftDelete{}
		if next.SoftDelete != nil {
			soft = *next.SoftDelete
		}
		soft.State = cmp.Or(patch.State, soft.State)
		replace(&soft.RetentionDays, patch.RetentionDays)
		next.SoftDelete = &soft
	}
	v.SecuritySettings = &next
}

func replace[T any](old **T, next *T) {
	if next != nil {
		*old = next
	}
}

// Validate names everything that is wrong, with targets below "properties", and puts enumerated values into Azure's
// letter case.
func (v *Vault) Validate() arm.Problems {
	var p arm.Problems
	if len(v.StorageSettings) == 0 {
		p.AddError(arm.Invalid("properties.storageSettings", "storageSettings is required.").
			WithAction(`Name one store, as in [{"datastoreType":"VaultStore","type":"LocallyRedundant"}].`))
	}
	for i := range v.StorageSettings {
		s, at := &v.StorageSettings[i], fmt.Sprintf("properties.storageSettings[%d]", i)
		s.DatastoreType = choose(&p, at+".datastoreType", s.DatastoreType, VaultStore, OperationalStore, ArchiveStore)
		s.Type = choose(&p, at+".type", s.Type, "LocallyRedundant", "ZoneRedundant", "GeoRedundant")
	}
	if s := v.SecuritySettings; s != nil {
		s.validate(&p)
	}
	if f := v.FeatureSettings; f != nil {
		state(&p, "properties.featureSettings.crossRegionRestoreSettings.state", f.CrossRegionRestore, "Disabled", "Enabled")
		state(&p, "properties.featureSettings.crossSubscriptionRestoreSettings.state", f.CrossSubscriptionRestore, "Disabled", "Enabled", "PermanentlyDisabled")
	}
	if m := v.MonitoringSettings; m != nil && m.AzureMonitorAlerts != nil {
		a := m.AzureMonitorAlerts
		a.AlertsForAllJobFailures = choose(&p, "properties.monitoringSettings.azureMonitorAlertSettings.alertsForAllJobFailures", a.AlertsForAllJobFailures, "Enabled", "Disabled")
	}
	return p
}

func (s *SecuritySettings) validate(p *arm.Problems) {
	if soft := s.SoftDelete; soft != nil {
		soft.State = choose(p, "properties.securitySettings.softDeleteSettings.state", soft.State, "Off", "On", "AlwaysOn")
		off := soft.State == "Off"
		if d := soft.RetentionDays; d != nil && !off && (*d < 14 || *d > 180) {
			p.AddError(arm.Invalid("properties.securitySettings.softDeleteSettings.retentionDurationInDays",
				"%g days is out of range.", float64(*d)).WithAction("Use 14 to 180 days."))
		}
	}
	state(p, "properties.securitySettings.immutabilitySettings.state", s.Immutability, "Disabled", "Unlocked", "Locked")
	if e := s.Encryption; e != nil && e.State != "" && !strings.EqualFold(e.State, "Disabled") {
		unsupported(p, "properties.securitySettings.encryptionSettings", "Encryption with a key of your own",
			"Leave encryptionSettings out: the vault makes its own keys.")
	}
}

func state(p *arm.Problems, target string, s *State, allowed ...string) {
	if s != nil {
		s.State = choose(p, target, s.State, allowed...)
	}
}

// CheckChange says whether the vault may become next, or why not: some settings are one-way.
func (v *Vault) CheckChange(next *Vault) error {
	for _, s := range []struct{ old, next, final, code, target, message string }{
		{v.softDelete(), next.softDelete(), "AlwaysOn", "UserErrorDisableSoftDeleteNotAllowed",
			"properties.securitySettings.softDeleteSettings.state", "Cannot disable soft delete once set to AlwaysOn."},
		{v.Immutability(), next.Immutability(), "Locked", "UserErrorUnsupportedVaultImmutabilityStateChange",
			"properties.securitySettings.immutabilitySettings.state", "The vault's immutability is locked and cannot be disabled or unlocked."},
		{v.crossRegion(), next.crossRegion(), "Enabled", "UserErrorCrossRegionRestoreStateChangeNotAllowed",
			"properties.featureSettings.crossRegionRestoreSettings.state", "CrossRegionRestore state cannot be changed from Enabled to Disabled."},
		{v.crossSubscription(), next.crossSubscription(), "PermanentlyDisabled", "UserErrorCrossSubscriptionRestoreStateChangeNotAllowed",
			"properties.featureSettings.crossSubscriptionRestoreSettings.state", "CrossSubscriptionRestore is disabled for good and cannot be enabled again."},
	} {
		if s.old == s.final && s.next != s.final {
			return arm.BadRequest(s.code, "%s", s.message).WithTarget(s.target).WithAction("Keep the state " + s.final + ".")
		}
	}
	for _, old := range v.StorageSettings {
		for i, s := range next.StorageSettings {
			if s.DatastoreType == old.DatastoreType && s.Type != old.Type {
				return arm.Invalid(fmt.Sprintf("properties.storageSettings[%d].type", i),
					"The redundancy of %s cannot be changed from %s to %s.", s.DatastoreType, old.Type, s.Type).
					WithAction("Keep " + old.Type + ", or make another vault.")
			}
		}
	}
	return nil
}

// The states of a vault's immutability in which recovery points are not deleted before they expire.
const (
	ImmutabilityUnlocked = "Unlocked"
	ImmutabilityLocked   = "Locked"
)

// SoftDeletes says whether a deleted instance can be brought back, and for how long.
func (v *Vault) SoftDeletes() (kept time.Duration, on bool) {
	if state := v.softDelete(); state != "On" && state != "AlwaysOn" {
		return 0, false
	}
	days := Days(14)
	if d := v.SecuritySettings.SoftDelete.RetentionDays; d != nil {
		days = *d
	}
	return time.Duration(float64(days) * 24 * float64(time.Hour)), true
}

func (v *Vault) softDelete() string {
	if v.SecuritySettings == nil || v.SecuritySettings.SoftDelete == nil {
		return ""
	}
	return v.SecuritySettings.SoftDelete.State
}

// Immutability is the state of the vault's immutability, empty when it was never set.
func (v *Vault) Immutability() string {
	if v.SecuritySettings == nil || v.SecuritySettings.Immutability == nil {
		return ""
	}
	return v.SecuritySettings.Immutability.State
}

func (v *Vault) crossRegion() string {
	if v.FeatureSettings == nil || v.FeatureSettings.CrossRegionRestore == nil {
		return ""
	}
	return v.FeatureSettings.CrossRegionRestore.State
}

func (v *Vault) crossSubscription() string {
	if v.FeatureSettings == nil || v.FeatureSettings.CrossSubscriptionRestore == nil {
		return ""
	}
	return v.FeatureSettings.CrossSubscriptionRestore.State
}
