package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/sealing"
	"github.com/cairn-backup/cairn/internal/store"
)

// JobResource is a job as it is sent.
type JobResource = backup.Resource[backup.Job]

// The keys of a Backup's origin: what a recovery point says of where it comes from, and what its row is made of.
const (
	originVault      = "vaultId"
	originInstance   = "instanceId"
	originGUID       = "instanceGuid"
	originFriendly   = "instanceFriendlyName"
	originCluster    = "clusterId"
	originPolicy     = "policyId"
	originTag        = "retentionTag"
	originTagVersion = "retentionTagVersion"
	originJob        = "jobId"
	// The slot is absent of a backup on demand. The lifetime is that of the tag when the backup started.
	originSlot     = "scheduledTime"
	originLifetime = "deleteAfter"
)

// BackupNow starts a backup of an instance. The operation has ended: it tells the job.
func (s *Service) BackupNow(ctx context.Context, id arm.ID, in *backup.AdhocRequest) (op store.Operation, location string, err error) {
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		w, err := loadWork(tx, id)
		if err != nil {
			return err
		}
		location = w.vault.Location
		tag, problems := in.Validate(&w.policy.Properties)
		if err := problems.Err(); err != nil {
			return err
		}
		if state := w.instance.Properties.CurrentProtectionState; state != backup.ProtectionConfigured {
			return notAllowed("AdhocBackup", &w.instance, state)
		}
		if err := idle(tx, &w.instance); err != nil {
			return err
		}
		if err := s.Limits.within(tx, &w.instance, backup.OnDemandBackup); err != nil {
			return err
		}
		extension, err := s.usableCluster(tx, &w.vault, w.cluster)
		if err != nil {
			return err
		}
		secret, err := tx.VaultKey(w.vault.ID, nil)
		if err != nil {
			return err
		}
		l := launch{name: newID(), tag: tag}
		if err := s.startBackup(tx, w, l, extension, secret); err != nil {
			return err
		}
		job := w.vault.ID.Child("backupJobs", l.name)
		op, err = endedOperation(tx, operationBackup, w.instance.ID, &job)
		return err
	})
	return op, location, err
}

// work is what a backup or a restore is about.
type work struct {
	vault    backup.VaultResource
	policy   PolicyResource
	instance storedInstance
	cluster  arm.ID
	// policyModified is the version of the policy's tags.
	policyModified time.Time
}

func loadWork(tx *store.Tx, id arm.ID) (*work, error) {
	w := &work{}
	var row store.Resource
	var err error
	if w.instance, _, err = Load[storedInstance](tx, id); err != nil {
		return nil, err
	}
	if w.vault, err = vaultOf(tx, id); err != nil {
		return nil, err
	}
	if w.policy, row, err = Load[PolicyResource](tx, w.instance.Properties.PolicyID()); err != nil {
		return nil, err
	}
	w.cluster, w.policyModified = w.instance.Properties.ClusterID(), row.Modified
	return w, nil
}

// launch is what distinguishes a backup from others of its instance.
type launch struct {
	// name is the job's.
	name, tag string
	// slot is zero for a backup on demand.
	slot time.Time
}

// newBackupJob is the job of a backup that has just begun.
func newBackupJob(now time.Time, w *work, l launch) *backup.Job {
	job := newJob(now, w, backup.OperationBackup)
	job.ExtendedInfo.AdditionalDetails = map[string]string{"RetentionTag": l.tag}
	if !l.slot.IsZero() {
		job.IsUserTriggered = false
		job.ExtendedInfo.AdditionalDetails["ScheduledTime"] = l.slot.UTC().Format(time.RFC3339)
	}
	return job
}

// startBackup writes job and request, which belong together. Secret is the vault's.
func (s *Service) startBackup(tx *store.Tx, w *work, l launch, extension *link.Extension, secret string) error {
	point := strings.ReplaceAll(newID(), "-", "")
	keys, err := sealing.For(secret, point)
	if err != nil {
		return err
	}
	jobID := w.vault.ID.Child("backupJobs", l.name)
	scope := w.instance.Properties.Scope()
	origin := map[string]string{
		originVault: string(w.vault.ID), originInstance: string(w.instance.ID), originGUID: w.instance.GUID,
		originFriendly: w.instance.Properties.FriendlyName, originCluster: string(w.cluster), originPolicy: string(w.policy.ID),
		originTag: l.tag, originTagVersion: strconv.FormatInt(ticks(w.policyModified), 10), originJob: string(jobID),
	}
	if !l.slot.IsZero() {
		origin[originSlot] = l.slot.UTC().Format(time.RFC3339)
	}
	if d, ok := lifetime(&w.policy.Properties, l.tag); ok {
		origin[originLifetime] = d.String()
	}
	spec := v1alpha1.BackupSpec{
		RecoveryPointID: point, Recipient: keys.Recipient, SnapshotVolumes: *scope.SnapshotVolumes,
		Location: v1alpha1.StorageLocation{ContainerURL: extension.ContainerURL, Prefix: w.instance.prefix()},
		Filter:   filter(scope.IncludedNamespaces, scope.ExcludedNamespaces, scope.IncludeClusterScopeResources),
		Origin:   origin,
	}
	return startJob(tx, w, newBackupJob(tx.Now(), w, l), jobID, store.Request{Kind: "Backup", Cluster: w.cluster.Key(), Point: point}, spec)
}

// startJob adds the job and its request.
func startJob(tx *store.Tx, w *work, job *backup.Job, jobID arm.ID, r store.Request, spec any) error {
	r.Name, r.Job = jobID.Name(), jobID.Name()
	r.Vault, r.Instance = w.vault.ID.Key(), w.instance.ID.Key()
	job.ExtendedInfo.SubTasks = subTasks(r.Kind, job.ActivityID, v1alpha1.Status{})
	if err := ask(tx, r, spec); err != nil {
		return err
	}
	return putJob(tx, store.Job{Name: jobID.Name(), Vault: r.Vault, Instance: r.Instance}, job)
}

// ticks is a time in .NET's unit, which Azure's tag versions are in.
func ticks(t time.Time) int64 { return t.Unix()*1e7 + 621355968000000000 }

// newJob is a job that has just begun.
func newJob(now time.Time, w *work, operation string) *backup.Job {
	i := &w.instance.Properties
	job := &backup.Job{
		ActivityID: newID(), SubscriptionID: w.vault.ID.Subscription(), BackupInstanceID: string(w.instance.ID), PolicyID: string(w.policy.ID),
		DataSourceID: string(w.cluster), VaultName: w.vault.Name, BackupInstanceFriendlyName: i.FriendlyName, PolicyName: w.policy.Name,
		SourceResourceGroup: w.cluster.ResourceGroup(), DataSourceSetName: i.DataSourceSet.ResourceName, DataSourceName: i.DataSource.ResourceName,
		ProgressEnabled: true, SourceSubscriptionID: w.cluster.Subscription(), DataSourceLocation: i.DataSource.ResourceLocation,
		StartTime: now.UTC(), DataSourceType: backup.ClusterType, OperationCategory: operation, Operation: operation,
		Status: backup.JobInProgress, IsUserTriggered: true, SupportedActions: []string{actionCancel},
	}
	return job
}

// putJob stores a job: the row's columns follow from it.
func putJob(tx *store.Tx, row store.Job, job *backup.Job) error {
	job.ETag = fmt.Sprintf(`W/"datetime'%s'"`, url.QueryEscape(tx.Now().UTC().Format(time.RFC3339Nano)))
	body, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("job %s: %w", row.Name, err)
	}
	row.Source, row.Operation = arm.ID(job.DataSourceID).Key(), job.ListedAs()
	row.Status, row.Started, row.Body = job.Status, job.StartTime, body
	if job.EndTime != nil {
		row.Ended = *job.EndTime
	}
	return tx.PutJob(row)
}

// Job finds a vault's job.
func (s *Service) Job(ctx context.Context, id arm.ID) (JobResource, error) {
	var job JobResource
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		vault, err := vaultOf(tx, id)
		if err != nil {
			return err
		}
		row, err := tx.Job(id.Name())
		if errors.Is(err, store.ErrNotFound) || err == nil && row.Vault != vault.ID.Key() {
			return arm.NotFound(id)
		} else if err != nil {
			return err
		}
		job, err = jobResource(vault.ID, row)
		return err
	})
	return job, err
}

// Jobs are a vault's that a filter chooses, newest first.
func (s *Service) Jobs(ctx context.Context, vaultID arm.ID, terms arm.Filter, page store.Page) (jobs []JobResource, next string, err error) {
	f, err := jobFilter(terms)
	if err != nil {
		return nil, "", err
	}
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		vault, _, err := Load[backup.VaultResource](tx, vaultID)
		if err != nil {
			return err
		}
		var rows []store.Job
		rows, next, err = tx.JobsPage(vault.ID, f, page)
		if err != nil {
			return err
		}
		for _, row := range rows {
			job, err := jobResource(vault.ID, row)
			if err != nil {
				return err
			}
			jobs = append(jobs, job)
		}
		return nil
	})
	return jobs, next, err
}

// jobFilter reads a $filter of jobs. startTime and endTime with eq are the two ends of the time in which a job began, as Recovery Services vaults have
// them; with ge and le, they are bounds of when it began and when it ended.
func jobFilter(terms arm.Filter) (store.JobFilter, error) {
	var f store.JobFilter
	var err error
	for _, c := range terms {
		switch c.Name {
		case "operation", "operationcategory":
			var operation string
			if err = jobTerm(&operation, c); len(f.Operations) > 0 {
				err = arm.BadFilter("the operation is given twice")
			}
			f.Operations = []string{operation}
			if strings.EqualFold(operation, backup.OperationBackup) {
				f.Operations = []string{backup.OnDemandBackup, backup.ScheduledBackup}
			}
		case "status":
			err = jobTerm(&f.Status, c)
		case "backupinstanceid":
			err = jobTerm(&f.Instance, c)
			f.Instance = arm.ID(f.Instance).Key()
		case "datasourceid":
			err = jobTerm(&f.Source, c)
			f.Source = arm.ID(f.Source).Key()
		case "starttime":
			bound := &f.StartedFrom
			if c.Operator == arm.FilterLessOrEqual {
				bound = &f.StartedTo
			}
			err = backup.FilterTime(bound, c, arm.FilterEqual, arm.FilterGreaterOrEqual, arm.FilterLessOrEqual)
		case "endtime":
			bound := &f.EndedTo
			switch c.Operator {
			case arm.FilterEqual:
				bound = &f.StartedTo
			case arm.FilterGreaterOrEqual:
				bound = &f.EndedFrom
			}
			err = backup.FilterTime(bound, c, arm.FilterEqual, arm.FilterGreaterOrEqual, arm.FilterLessOrEqual)
		default:
			err = arm.BadFilter("nothing can be chosen by '%s', but by operation, status, backupInstanceId, dataSourceId, startTime and endTime", c.Name)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// jobTerm reads an equality, which must not have been given yet, with something.
func jobTerm(value *string, c arm.Comparison) error {
	switch {
	case c.Operator != arm.FilterEqual:
		return arm.BadFilter("'%s' is compared by eq, not by %s", c.Name, c.Operator)
	case *value != "":
		return arm.BadFilter("'%s' is given twice", c.Name)
	case c.Value == "":
		return arm.BadFilter("'%s' is compared with nothing", c.Name)
	}
	*value = strings.TrimSuffix(c.Value, "/")
	return nil
}

func jobResource(vault arm.ID, row store.Job) (JobResource, error) {
	job := backup.NewResource(vault.Child("backupJobs", row.Name), backup.JobType, backup.Job{})
	if err := json.Unmarshal(row.Body, &job.Properties); err != nil {
		return job, fmt.Errorf("stored job %s: %w", row.Name, err)
	}
	return job, nil
}
