package backup

import (
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/iso8601"
)

// CrossRegionRestore is the body of crossRegionRestore and of validateCrossRegionRestore.
type CrossRegionRestore struct {
	Details *CrossRegionInstance `json:"crossRegionRestoreDetails"`
	Request *RestoreRequest      `json:"restoreRequestObject"`
}

// CrossRegionInstance names a backup instance in its own region: fetchSecondaryRecoveryPoints has it as its body.
type CrossRegionInstance struct {
	InstanceID arm.ID `json:"sourceBackupInstanceId"`
	Region     string `json:"sourceRegion"`
}

// CrossRegionJobs is the body of fetchCrossRegionRestoreJobs, and with a job's ID that of fetchCrossRegionRestoreJob.
type CrossRegionJobs struct {
	VaultID arm.ID `json:"sourceBackupVaultId"`
	Region  string `json:"sourceRegion"`
	JobID   string `json:"jobId"`
}

// Validate names what is wrong with the body.
func (c *CrossRegionRestore) Validate() arm.Problems {
	var p arm.Problems
	if c.Details == nil {
		p.AddError(arm.Invalid("crossRegionRestoreDetails", "crossRegionRestoreDetails is required.").WithAction("Name the backup instance and its region."))
	} else {
		p.Append("crossRegionRestoreDetails", c.Details.Validate())
	}
	if c.Request == nil {
		p.AddError(arm.Invalid("restoreRequestObject", "restoreRequestObject is required.").WithAction("Set it to what restore would be sent."))
	} else {
		c.Request.ObjectType = choose(&p, "restoreRequestObject.objectType", c.Request.ObjectType, restoreByPoint)
	}
	return p
}

// Validate names what is wrong with the body.
func (c *CrossRegionInstance) Validate() arm.Problems {
	var p arm.Problems
	ofType(&p, "sourceBackupInstanceId", c.InstanceID, InstanceType)
	required(&p, "sourceRegion", c.Region)
	return p
}

// Validate names what is wrong with the body; one is whether it asks for one job.
func (c *CrossRegionJobs) Validate(one bool) arm.Problems {
	var p arm.Problems
	ofType(&p, "sourceBackupVaultId", c.VaultID, VaultType)
	required(&p, "sourceRegion", c.Region)
	if one {
		required(&p, "jobId", c.JobID)
	}
	return p
}

func ofType(p *arm.Problems, target string, id arm.ID, typ string) {
	if parsed, err := arm.ParseID(string(id)); err != nil || !strings.EqualFold(parsed.Type(), typ) {
		p.AddError(arm.Invalid(target, "'%s' is not the ID of a resource of type %s.", id, typ).WithAction("Use the id as the resource itself tells it."))
	}
}

// RehydrationRequest is the body of rehydrate.
type RehydrationRequest struct {
	RecoveryPointID   string `json:"recoveryPointId"`
	Priority          string `json:"rehydrationPriority"`
	RetentionDuration string `json:"rehydrationRetentionDuration"`
}

// Validate names what is wrong with the body.
func (r *RehydrationRequest) Validate() arm.Problems {
	var p arm.Problems
	required(&p, "recoveryPointId", r.RecoveryPointID)
	if r.Priority != "" {
		choose(&p, "rehydrationPriority", r.Priority, "High", "Standard")
	}
	if _, err := iso8601.ParseDuration(r.RetentionDuration); err != nil {
		p.AddError(arm.Invalid("rehydrationRetentionDuration", "'%s' is not a duration.", r.RetentionDuration).WithAction("Use one such as P10D."))
	}
	return p
}

// TimeRangesRequest is the body of findRestorableTimeRanges.
type TimeRangesRequest struct {
	SourceDataStoreType string `json:"sourceDataStoreType"`
	StartTime           string `json:"startTime"`
	EndTime             string `json:"endTime"`
}

// Validate names what is wrong with the body.
func (r *TimeRangesRequest) Validate() arm.Problems {
	var p arm.Problems
	choose(&p, "sourceDataStoreType", r.SourceDataStoreType, OperationalStore, VaultStore, ArchiveStore, "SnapshotStore")
	start, end := moment(&p, "startTime", r.StartTime), moment(&p, "endTime", r.EndTime)
	if !start.IsZero() && !end.IsZero() && end.Before(start) {
		p.AddError(arm.BadRequest("UserErrorInvalidRestorableTimeRange", "The given time range is invalid: it ends before it begins.").WithTarget("endTime").
			WithAction("Give an endTime after startTime."))
	}
	return p
}

func moment(p *arm.Problems, target, text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		p.AddError(arm.Invalid(target, "'%s' is not a time.", text).WithAction("Use one such as 2026-02-16T04:00:00Z."))
	}
	return at
}
