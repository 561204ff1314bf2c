// Package v1alpha1 is the contract between the Backup service and a cluster: the request kinds that the connector writes
// and the extension carries out, in the API group that Azure Backup for AKS uses for its own.
//
// A request object is the whole truth about one piece of work: its spec never changes after creation, and all that the
// extension must remember across a restart is in its status. The extension can be driven with kubectl alone.
//
// The package holds data and nothing else. It reads no cluster and no storage.
//
// +kubebuilder:object:generate=true
// +groupName=clusterbackup.dataprotection.microsoft.com
package v1alpha1
