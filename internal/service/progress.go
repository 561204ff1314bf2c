package service

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
)

// requestSteps are the steps of the kinds that jobs have.
var requestSteps = map[string][]string{
	"Backup":  {v1alpha1.StepCut, v1alpha1.StepSnapshot, v1alpha1.StepUpload, v1alpha1.StepCommit, v1alpha1.StepRelease},
	"Restore": {v1alpha1.StepPlan, v1alpha1.StepApply, v1alpha1.StepWait},
}

// subTasks are a job's: the first has Azure's name and says whether the cluster has taken the request; after it comes one
// for each step.
func subTasks(kind, activity string, status v1alpha1.Status) []backup.SubTask {
	trigger := backup.SubTask{TaskID: 1, TaskName: "Trigger " + kind, TaskStatus: backup.JobInProgress}
	if status.Phase != "" {
		trigger.TaskStatus = backup.JobCompleted
	}
	if status.Phase == v1alpha1.PhaseFailed && len(status.Progress.Steps) == 0 {
		trigger.TaskStatus = backup.JobFailed
	}
	if status.Phase.Final() {
		trigger.AdditionalDetails = map[string]string{"TaskId": activity, "DatasourceType": backup.ClusterType}
	}
	tasks := []backup.SubTask{trigger}
	for i, name := range requestSteps[kind] {
		tasks = append(tasks, stepTask(int32(i+2), name, status))
	}
	return tasks
}

// stepTask is the sub-task of one step. A step that was begun again after a restart counts as it is now.
func stepTask(id int32, name string, status v1alpha1.Status) backup.SubTask {
	task := backup.SubTask{TaskID: id, TaskName: name, TaskStatus: backup.JobNotStarted}
	var step *v1alpha1.Step
	for i := range status.Progress.Steps {
		if status.Progress.Steps[i].Name == name {
			step = &status.Progress.Steps[i]
		}
	}
	if step == nil {
		return task
	}
	done := status.Phase == v1alpha1.PhaseCompleted || status.Phase == v1alpha1.PhaseCompletedWithWarnings || step.Ended != nil
	switch {
	case done:
		task.TaskStatus = backup.JobCompleted
	case status.Phase == v1alpha1.PhaseFailed:
		task.TaskStatus = backup.JobFailed
	default:
		task.TaskStatus = backup.JobInProgress
	}
	task.AdditionalDetails = map[string]string{"StartTime": step.Started.UTC().Format(time.RFC3339)}
	if step.Ended != nil {
		task.AdditionalDetails["EndTime"] = step.Ended.UTC().Format(time.RFC3339)
	}
	task.TaskProgress = stepProgress(&task, status.Progress, done)
	return task
}

// stepProgress adds what the step counts, and says how much of it is done, in percent, when that is known.
func stepProgress(task *backup.SubTask, p v1alpha1.Progress, done bool) *string {
	var have, total int64
	switch task.TaskName {
	case v1alpha1.StepSnapshot, v1alpha1.StepWait:
		have, total = p.VolumesDone, p.VolumesTotal
		count(task, "Volumes", have, total)
	case v1alpha1.StepUpload, v1alpha1.StepApply:
		have, total = p.ObjectsDone, p.ObjectsTotal
		count(task, "Objects", have, total)
		task.AdditionalDetails["Bytes"] = strconv.FormatInt(p.Bytes, 10)
	}
	if done {
		have, total = 1, 1
	}
	if total == 0 {
		return nil
	}
	percent := fmt.Sprintf("%d%%", min(100, max(0, have)*100/total))
	return &percent
}

func count(task *backup.SubTask, what string, have, total int64) {
	task.AdditionalDetails[what+"Done"] = strconv.FormatInt(have, 10)
	task.AdditionalDetails[what+"Total"] = strconv.FormatInt(total, 10)
}

// older says that a status is not newer than one that is known: reports may come late, twice and out of order.
func older(known, next v1alpha1.Status) bool {
	if known.Phase.Final() {
		return true
	}
	if next.Phase.Final() {
		return false
	}
	a, b := known.Progress, next.Progress
	return slices.Compare(
		[]int64{int64(next.Attempt), int64(len(b.Steps)), ended64(b.Steps), b.ObjectsDone + b.VolumesDone, b.Bytes},
		[]int64{int64(known.Attempt), int64(len(a.Steps)), ended64(a.Steps), a.ObjectsDone + a.VolumesDone, a.Bytes}) < 0
}

func ended64(steps []v1alpha1.Step) int64 {
	var n int64
	for _, s := range steps {
		if s.Ended != nil {
			n++
		}
	}
	return n
}

// userFacing are issues as jobs tell them.
func userFacing(issue v1alpha1.Issue, activity string) arm.UserFacing {
	return issueError(issue).UserFacing(activity)
}

func issueError(issue v1alpha1.Issue) *arm.Error {
	e := &arm.Error{Status: 400, Code: issue.Code, Message: issue.Message, Target: issue.Resource}
	if issue.Action != "" {
		e.RecommendedAction = []string{issue.Action}
	}
	return e
}

// failure is why a request failed, as one error.
func failure(status v1alpha1.Status, kind string) *arm.Error {
	if len(status.Errors) == 0 {
		return &arm.Error{Status: 400, Code: "KubernetesBackupGenericError", Message: "The " + kind + " failed in the cluster, which gave no reason.",
			RecommendedAction: []string{"Look at the extension's log: kubectl logs -n dataprotection-microsoft -l app.kubernetes.io/name=cairn-extension."}}
	}
	first := issueError(status.Errors[0])
	for _, other := range status.Errors[1:] {
		first.Details = append(first.Details, issueError(other))
	}
	return first
}

// showProgress writes into a job what its request has done so far.
func showProgress(job *backup.Job, kind string, status v1alpha1.Status) {
	job.ExtendedInfo.SubTasks = subTasks(kind, job.ActivityID, status)
	if status.Progress.Bytes > 0 {
		bytes := float64(status.Progress.Bytes)
		job.ExtendedInfo.DataTransferredInBytes = &bytes
	}
	if status.Attempt > 1 {
		detail(job, "Attempt", strconv.Itoa(int(status.Attempt)))
	}
	job.ExtendedInfo.WarningDetails = nil
	for _, w := range status.Warnings {
		job.ExtendedInfo.WarningDetails = append(job.ExtendedInfo.WarningDetails,
			backup.Warning{ResourceName: w.Resource, Warning: userFacing(w, job.ActivityID)})
	}
	if status.WarningCount > int64(len(status.Warnings)) {
		detail(job, "WarningCount", strconv.FormatInt(status.WarningCount, 10))
	}
}

func detail(job *backup.Job, key, value string) {
	if job.ExtendedInfo.AdditionalDetails == nil {
		job.ExtendedInfo.AdditionalDetails = map[string]string{}
	}
	job.ExtendedInfo.AdditionalDetails[key] = value
}

// endJob writes into a job how it ended.
func endJob(job *backup.Job, state string, errs []arm.UserFacing, now time.Time) {
	now = now.UTC()
	job.Status, job.EndTime, job.Duration = state, &now, duration(now.Sub(job.StartTime))
	job.ErrorDetails, job.SupportedActions = errs, []string{""}
}
