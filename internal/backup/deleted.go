package backup

import "time"

// DeletedInstanceType is the resource type of a backup instance that was deleted and can be brought back.
const DeletedInstanceType = VaultType + "/deletedBackupInstances"

const deletedInstanceObject = "DeletedBackupInstance"

// DeletedInstance is the properties of a deleted backup instance: as they were, and until when it can be brought back.
type DeletedInstance struct {
	DeletionInfo DeletionInfo `json:"deletionInfo"`
	Instance
}

// DeletionInfo says when an instance was deleted, and when its recovery points go.
type DeletionInfo struct {
	DeletionTime       time.Time `json:"deletionTime"`
	BillingEndDate     time.Time `json:"billingEndDate"`
	ScheduledPurgeTime time.Time `json:"scheduledPurgeTime"`
	DeleteActivityID   string    `json:"deleteActivityID"`
}

// Delete is the instance as it is once it was deleted. It is kept for so long.
func (i Instance) Delete(now time.Time, kept time.Duration, activity string) DeletedInstance {
	now = now.UTC()
	d := DeletedInstance{Instance: i, DeletionInfo: DeletionInfo{DeletionTime: now, BillingEndDate: now, ScheduledPurgeTime: now.Add(kept), DeleteActivityID: activity}}
	d.SetState(SoftDeleted, nil)
	d.ProvisioningState, d.ObjectType = Succeeded, deletedInstanceObject
	return d
}

// Undelete is the instance brought back: its recovery points are kept, and backups are not made.
func (d DeletedInstance) Undelete() Instance {
	i := d.Instance
	i.SetState(ProtectionStopped, nil)
	i.ObjectType = instanceObject
	return i
}
