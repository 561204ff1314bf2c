package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group is the API group of the request kinds; Azure Backup for AKS uses the same one.
const Group = "clusterbackup.dataprotection.microsoft.com"

// Namespace is where the extension runs and where request objects live; the name is Azure's.
const Namespace = "dataprotection-microsoft"

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: Group, Version: "v1alpha1"}

// AddToScheme makes a scheme know the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&Backup{}, &BackupList{},
		&Restore{}, &RestoreList{},
		&DeleteBackup{}, &DeleteBackupList{},
		&ValidateForBackup{}, &ValidateForBackupList{},
		&ValidateForRestore{}, &ValidateForRestoreList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
