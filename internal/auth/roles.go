package auth

import (
	"slices"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Role is one of Azure's built-in roles. Actions are on the control plane, data actions on the content of blobs; both may
// have wildcards, and what a "not" names is not given by this role.
type Role struct {
	// ID is the GUID that the role has in every Azure tenant.
	ID          string
	Name        string
	Description string
	Actions     []string
	NotActions  []string
	DataActions []string
}

// Roles are the built-in roles that backup needs.
var Roles = []Role{
	{ID: "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", Name: "Owner",
		Description: "Everything, including who may do what.",
		Actions:     []string{"*"}},
	{ID: "b24988ac-6180-42a0-ab88-20f7382dd24c", Name: "Contributor",
		Description: "Everything except who may do what.",
		Actions:     []string{"*"},
		NotActions: []string{"Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action",
			"Microsoft.Blueprint/blueprintAssignments/write", "Microsoft.Blueprint/blueprintAssignments/delete",
			"Microsoft.Compute/galleries/share/action", "Microsoft.Purview/consents/write", "Microsoft.Purview/consents/delete"}},
	{ID: "acdd72a7-3385-48ef-bd42-f606fba81ae7", Name: "Reader",
		Description: "Sees everything, changes nothing.",
		Actions:     []string{"*/read"}},
	{ID: "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", Name: "User Access Administrator",
		Description: "Says who may do what.",
		Actions:     []string{"*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"}},
	{ID: "5e467623-bb1f-42f4-a55d-6e525e11384b", Name: "Backup Contributor",
		Description: "Manages backups, but cannot delete vaults and give access to others.",
		Actions:     backupContributor},
	{ID: "00c29273-979b-4161-815c-10b084fb9324", Name: "Backup Operator",
		Description: "Runs backups and restores and protects clusters; does not stop or remove protection, nor make vaults and policies.",
		Actions:     backupOperator},
	{ID: "a795c7a0-d4a2-40c1-ae25-d81f01202912", Name: "Backup Reader",
		Description: "Sees backups, changes nothing.",
		Actions:     backupReader},
	{ID: "f54b6d04-23c6-443e-b462-9c16ab7b4a52", Name: "Backup MUA Operator",
		Description: "On a resource guard: does the critical operations on vaults that the guard protects.",
		Actions:     []string{"Microsoft.DataProtection/*/action", "Microsoft.DataProtection/*/read", "Microsoft.Authorization/*/read"}},
	{ID: "c2a970b4-16a7-4a51-8c84-8a8ea6ee0bb8", Name: "Backup MUA Admin",
		Description: "Makes and removes resource guards and vaults' links to them; does not give leave for critical operations.",
		Actions: []string{"Microsoft.Authorization/*/read", "Microsoft.DataProtection/*/read", "Microsoft.DataProtection/*/resourceGuards/write",
			"Microsoft.DataProtection/subscriptions/resourceGroups/providers/resourceGuards/delete",
			"Microsoft.DataProtection/backupVaults/backupResourceGuardProxies/delete", "Microsoft.DataProtection/backupVaults/backupResourceGuardProxies/read",
			"Microsoft.DataProtection/backupVaults/backupResourceGuardProxies/unlockDelete/action", "Microsoft.DataProtection/backupVaults/backupResourceGuardProxies/write",
			"Microsoft.DataProtection/locations/checkFeatureSupport/action", "Microsoft.Resources/subscriptions/resourceGroups/read"}},
	{ID: "7efff54f-a5b4-42b5-a1c5-5411624893ce", Name: "Disk Snapshot Contributor",
		Description: "Manages snapshots of disks, for the vault's identity.",
		Actions: []string{"Microsoft.Authorization/*/read", "Microsoft.Resources/subscriptions/resourceGroups/read",
			"Microsoft.Compute/snapshots/delete", "Microsoft.Compute/snapshots/write", "Microsoft.Compute/snapshots/read",
			"Microsoft.Compute/snapshots/beginGetAccess/action", "Microsoft.Compute/snapshots/endGetAccess/action", "Microsoft.Compute/disks/beginGetAccess/action",
			"Microsoft.Storage/storageAccounts/listkeys/action", "Microsoft.Storage/storageAccounts/write",
			"Microsoft.Storage/storageAccounts/read", "Microsoft.Storage/storageAccounts/delete"}},
	{ID: "17d1049b-9a84-46fb-8f53-869881c3d3ab", Name: "Storage Account Contributor",
		Description: "Manages storage accounts, their keys included.",
		Actions: []string{"Microsoft.Authorization/*/read", "Microsoft.Insights/alertRules/*", "Microsoft.Insights/diagnosticSettings/*",
			"Microsoft.Network/virtualNetworks/subnets/joinViaServiceEndpoint/action", "Microsoft.ResourceHealth/availabilityStatuses/read",
			"Microsoft.Resources/deployments/*", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Storage/storageAccounts/*", "Microsoft.Support/*"}},
	{ID: "b7e6dc6d-f1e8-4753-8033-0f276bb0955b", Name: "Storage Blob Data Owner",
		Description: "Everything with containers and blobs.",
		Actions:     []string{containers + "/*", generateKey},
		DataActions: []string{blobs + "/*"}},
	{ID: "ba92f5b4-2d11-453d-a403-e96b0029c9fe", Name: "Storage Blob Data Contributor",
		Description: "Reads, writes and deletes containers and blobs.",
		Actions:     []string{containers + "/delete", containers + "/read", containers + "/write", generateKey},
		DataActions: []string{blobs + "/delete", blobs + "/read", blobs + "/write", blobs + "/move/action", blobs + "/add/action"}},
	{ID: "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1", Name: "Storage Blob Data Reader",
		Description: "Reads containers and blobs.",
		Actions:     []string{containers + "/read", generateKey},
		DataActions: []string{blobs + "/read"}},
}

const (
	containers  = "Microsoft.Storage/storageAccounts/blobServices/containers"
	blobs       = containers + "/blobs"
	generateKey = "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"
)

// The three backup roles have the actions that Azure's have, as far as there is something here that they are for, and three more kinds that Azure's
// lists lack and the roles' descriptions promise: seeing jobs, exporting and cancelling them, and stopping as well as suspending protection. Azure's
// Backup Reader can make backups and restores; ours cannot, since whoever gives a reader's role means a reader.
var (
	backupReader = []string{
		"Microsoft.Authorization/*/read", "Microsoft.Resources/subscriptions/resourceGroups/read",
		"Microsoft.DataProtection/backupVaults/read", "Microsoft.DataProtection/backupVaults/*/read",
		"Microsoft.DataProtection/backupInstances/read", "Microsoft.DataProtection/locations/*/read", "Microsoft.DataProtection/operations/read",
		"Microsoft.DataProtection/backupVaults/validateForBackup/action",
		"Microsoft.DataProtection/backupVaults/exportBackupJobs/action",
		"Microsoft.DataProtection/backupVaults/backupInstances/findRestorableTimeRanges/action",
		"Microsoft.DataProtection/locations/getBackupStatus/action", "Microsoft.DataProtection/locations/checkFeatureSupport/action",
		"Microsoft.DataProtection/locations/fetchCrossRegionRestoreJob/action", "Microsoft.DataProtection/locations/fetchCrossRegionRestoreJobs/action",
		"Microsoft.DataProtection/locations/fetchSecondaryRecoveryPoints/action",
	}
	backupOperator = slices.Concat(backupReader, []string{
		"Microsoft.DataProtection/backupVaults/backupInstances/write",
		"Microsoft.DataProtection/backupVaults/backupInstances/backup/action",
		"Microsoft.DataProtection/backupVaults/backupInstances/validateRestore/action",
		"Microsoft.DataProtection/backupVaults/backupInstances/restore/action",
		"Microsoft.DataProtection/backupVaults/backupInstances/validateForModifyBackup/action",
		"Microsoft.DataProtection/backupVaults/backupJobs/*", "Microsoft.DataProtection/backupVaults/exportBackupJobs/action",
		"Microsoft.DataProtection/backupVaults/backupResourceGuardProxies/*",
		"Microsoft.DataProtection/locations/crossRegionRestore/action", "Microsoft.DataProtection/locations/validateCrossRegionRestore/action",
		"Microsoft.Storage/storageAccounts/read",
	})
	backupContributor = slices.Concat(backupOperator, []string{
		"Microsoft.DataProtection/backupVaults/write", "Microsoft.DataProtection/locations/checkNameAvailability/action",
		"Microsoft.DataProtection/backupVaults/backupInstances/*", "Microsoft.DataProtection/backupVaults/backupPolicies/*",
		"Microsoft.DataProtection/backupVaults/deletedBackupInstances/*",
	})
)

// RoleByID finds a built-in role by its GUID.
func RoleByID(id string) (Role, bool) {
	for _, r := range Roles {
		if strings.EqualFold(r.ID, id) {
			return r, true
		}
	}
	return Role{}, false
}

// RoleByName finds a built-in role by its name.
func RoleByName(name string) (Role, bool) {
	for _, r := range Roles {
		if strings.EqualFold(r.Name, name) {
			return r, true
		}
	}
	return Role{}, false
}

// Allows says whether the role gives an action of the control plane, or of the data plane.
func (r Role) Allows(action string, data bool) bool {
	if data {
		return anyMatches(r.DataActions, action)
	}
	return anyMatches(r.Actions, action) && !anyMatches(r.NotActions, action)
}

func anyMatches(patterns []string, action string) bool {
	for _, p := range patterns {
		if matches(strings.ToLower(p), strings.ToLower(action)) {
			return true
		}
	}
	return false
}

// matches says whether a pattern, in which each * stands for any characters, matches all of s.
func matches(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	parts := strings.Split(rest, "*")
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// Grant is a role at a scope: it holds there and below.
type Grant struct {
	// Role is a role's GUID.
	Role  string
	Scope arm.ID
}

// Allowed says whether the grants together give an action at a scope.
func Allowed(grants []Grant, action string, scope arm.ID, data bool) bool {
	for _, g := range grants {
		if !scope.Within(g.Scope) {
			continue
		}
		if role, ok := RoleByID(g.Role); ok && role.Allows(action, data) {
			return true
		}
	}
	return false
}
