package backup

import (
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/iso8601"
)

// JobType is the resource type of a job.
const JobType = VaultType + "/backupJobs"

// The states of a job, and of its sub-tasks. NotStarted is a sub-task's alone.
const (
	JobNotStarted            = "NotStarted"
	JobInProgress            = "InProgress"
	JobCompleted             = "Completed"
	JobCompletedWithWarnings = "CompletedWithWarnings"
	JobFailed                = "Failed"
	JobCancelling            = "Cancelling"
	JobCancelled             = "Cancelled"
)

// The categories of jobs.
const (
	OperationBackup  = "Backup"
	OperationRestore = "Restore"
)

// What lists of jobs call backups.
const (
	OnDemandBackup  = "OnDemandBackup"
	ScheduledBackup = "ScheduledBackup"
)

// Job is the properties of a job. Nulls are written where Azure writes them.
type Job struct {
	ActivityID                 string           `json:"activityID"`
	SubscriptionID             string           `json:"subscriptionId"`
	BackupInstanceID           string           `json:"backupInstanceId"`
	PolicyID                   string           `json:"policyId"`
	DataSourceID               string           `json:"dataSourceId"`
	VaultName                  string           `json:"vaultName"`
	BackupInstanceFriendlyName string           `json:"backupInstanceFriendlyName"`
	PolicyName                 string           `json:"policyName"`
	SourceResourceGroup        string           `json:"sourceResourceGroup"`
	DataSourceSetName          string           `json:"dataSourceSetName"`
	DataSourceName             string           `json:"dataSourceName"`
	SourceDataStoreName        *string          `json:"sourceDataStoreName"`
	SourceDataStoreType        *string          `json:"sourceDataStoreType"`
	DestinationDataStoreName   *string          `json:"destinationDataStoreName"`
	ProgressEnabled            bool             `json:"progressEnabled"`
	ETag                       string           `json:"etag"`
	SourceSubscriptionID       string           `json:"sourceSubscriptionID"`
	DataSourceLocation         string           `json:"dataSourceLocation"`
	StartTime                  time.Time        `json:"startTime"`
	EndTime                    *time.Time       `json:"endTime"`
	DataSourceType             string           `json:"dataSourceType"`
	OperationCategory          string           `json:"operationCategory"`
	Operation                  string           `json:"operation"`
	Status                     string           `json:"status"`
	RestoreType                *string          `json:"restoreType"`
	IsUserTriggered            bool             `json:"isUserTriggered"`
	RehydrationPriority        *string          `json:"rehydrationPriority"`
	SupportedActions           []string         `json:"supportedActions"`
	Duration                   iso8601.Duration `json:"duration"`
	ProgressURL                *string          `json:"progressUrl"`
	IsCrossRegionRestore       *bool            `json:"isCrossRegionRestore"`
	ErrorDetails               []arm.UserFacing `json:"errorDetails"`
	ExtendedInfo               JobExtendedInfo  `json:"extendedInfo"`
}

// JobExtendedInfo is what happens within a job.
type JobExtendedInfo struct {
	BackupInstanceState    *string           `json:"backupInstanceState"`
	DataTransferredInBytes *float64          `json:"dataTransferredInBytes"`
	TargetRecoverPoint     *JobRecoveryPoint `json:"targetRecoverPoint"`
	SourceRecoverPoint     *JobRecoveryPoint `json:"sourceRecoverPoint"`
	RecoveryDestination    *string           `json:"recoveryDestination"`
	SubTasks               []SubTask         `json:"subTasks"`
	AdditionalDetails      map[string]string `json:"additionalDetails"`
	WarningDetails         []Warning         `json:"warningDetails"`
}

// JobRecoveryPoint is the recovery point that a job made or restores.
type JobRecoveryPoint struct {
	RecoveryPointID   string    `json:"recoveryPointID"`
	RecoveryPointTime time.Time `json:"recoveryPointTime"`
}

// SubTask is one step of a job.
type SubTask struct {
	TaskID     int32  `json:"taskId"`
	TaskName   string `json:"taskName"`
	TaskStatus string `json:"taskStatus"`
	// TaskProgress is a percentage such as "40%", null while it is not known.
	TaskProgress      *string           `json:"taskProgress"`
	AdditionalDetails map[string]string `json:"additionalDetails"`
}

// Warning is one thing that was left out or degraded.
type Warning struct {
	ResourceName string         `json:"resourceName"`
	Warning      arm.UserFacing `json:"warning"`
}

// ListedAs is what lists of jobs call the operation: it tells a backup that somebody started from a scheduled one.
func (j *Job) ListedAs() string {
	switch {
	case j.OperationCategory != OperationBackup:
		return j.OperationCategory
	case j.IsUserTriggered:
		return OnDemandBackup
	default:
		return ScheduledBackup
	}
}

// Ended says whether the job is over.
func (j *Job) Ended() bool {
	return j.Status == JobCompleted || j.Status == JobCompletedWithWarnings || j.Status == JobFailed || j.Status == JobCancelled
}
