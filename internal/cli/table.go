package cli

import (
	"slices"
	"strings"
	"sync"
)

// groupHelps are the one-line descriptions of the command groups.
var groupHelps = map[string]string{
	"":                                       "Back up and restore Kubernetes clusters, with Azure's commands.",
	"account":                                "The subscription and the login.",
	"ad":                                     "Who can call: service principals and users.",
	"ad sp":                                  "Service principals.",
	"ad sp credential":                       "Secrets of service principals.",
	"ad signed-in-user":                      "Who calls.",
	"aks":                                    "Clusters.",
	"aks extension":                          "The backup extension in a cluster.",
	"aks trustedaccess":                      "A vault's access to a cluster.",
	"aks trustedaccess rolebinding":          "Role bindings of a vault in a cluster.",
	"cluster":                                "Join a Kubernetes cluster to the service.",
	"dataprotection":                         "Backup vaults and what is in them.",
	"dataprotection backup-instance":         "What is backed up: a cluster, by a policy.",
	"dataprotection backup-instance restore": "Restore a recovery point.",
	"dataprotection backup-policy":           "When to back up and how long to keep.",
	"dataprotection backup-vault":            "Vaults: policies, backup instances, recovery points and jobs.",
	"dataprotection enable-backup":           "Protect a cluster with one command.",
	"dataprotection job":                     "Backups and restores that run or have run.",
	"dataprotection recovery-point":          "What can be restored.",
	"dataprotection backup-instance deleted-backup-instance": "What was deleted and can be brought back.",
	"dataprotection backup-policy retention-rule":            "How long a policy's backups are kept.",
	"dataprotection backup-policy tag":                       "Which backups a retention rule is for.",
	"dataprotection backup-policy trigger":                   "When a policy backs up.",
	"dataprotection backup-vault resource-guard-mapping":     "A vault's link to a resource guard.",
	"dataprotection resource-guard":                          "What somebody else must allow.",
	"schedule":                                               "When backups are made.",
	"pending-deletions":                                      "What is still to be removed.",
	"extension":                                              "Extensions of az; all that are needed are built in.",
	"feature":                                                "Preview features.",
	"group":                                                  "Resource groups.",
	"k8s-extension":                                          "The backup extension in a cluster.",
	"monitor":                                                "What happened.",
	"monitor activity-log":                                   "Who changed what, and who was refused what.",
	"provider":                                               "Resource providers.",
	"role":                                                   "Who may do what.",
	"role assignment":                                        "Roles given to principals.",
	"role definition":                                        "Roles that can be given.",
	"storage":                                                "Storage accounts and blobs.",
	"storage account":                                        "Storage accounts.",
	"storage account keys":                                   "Keys of a storage account.",
	"storage blob":                                           "Blobs.",
	"storage container":                                      "Blob containers.",
}

// commands is the whole table, by path.
var commands = sync.OnceValue(func() map[string]*Command {
	table := map[string]*Command{}
	for _, group := range [][]Command{
		accountCommands, adCommands, activityCommands, groupCommands, providerCommands, storageCommands, blobCommands, aksCommands,
		extensionCommands("aks extension"), extensionCommands("k8s-extension"), trustedAccessCommands,
		roleCommands, vaultCommands, policyCommands, instanceCommands, restoreCommands, jobCommands, cancelCommands,
		restCommands, clusterCommands, coverageCommands, enableCommands, policyEditCommands, guardCommands, graphCommands,
	} {
		for i := range group {
			table[group[i].Path] = &group[i]
		}
	}
	return table
})

func lookup(path string) *Command { return commands()[path] }

// members are the names of the commands and groups directly in a group, sorted.
func members(group string) []string {
	var names []string
	for path := range commands() {
		rest, ok := strings.CutPrefix(path, group)
		if group != "" {
			rest, ok = strings.CutPrefix(path, group+" ")
		}
		if ok {
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
