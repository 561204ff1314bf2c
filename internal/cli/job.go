package cli

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	jobPath     = vaultPath + "/backupJobs/{job-id}"
	jobInterval = 2 * time.Second
	jobColumns  = "[].{Name:name, Operation:properties.operation, Status:properties.status, DataSource:properties.dataSourceName, StartTime:properties.startTime, Duration:properties.duration}"
)

var jobArg = Arg{Names: "--job-id --name -n", Required: true, Help: "The job's ID: its GUID, or the resource ID that backup and restore answer."}

var jobCommands = []Command{
	{Path: "dataprotection job list", Help: "List a vault's jobs.", Run: jobList, Columns: jobColumns,
		Args: []Arg{vaultArg, groupArg, jobStartArg, jobEndArg,
			{Names: "--operation", Choices: []string{"OnDemandBackup", "Restore", "ScheduledBackup"}, Help: "Only these."},
			{Names: "--status", Choices: []string{"Cancelled", "Cancelling", "Completed", "CompletedWithWarnings", "Failed", "InProgress"}, Help: "Only those with this status."},
			{Names: "--backup-instance-id", Help: "Only those of this backup instance."}}},
	{Path: "dataprotection job show", Help: "Show a job.", ID: jobPath, Run: jobShow, Columns: jobColumns, Args: []Arg{jobArg, vaultArg, groupArg}},
	{Path: "dataprotection job wait", Help: "Wait until a job has ended, showing what it does; fails when the job has failed.", ID: jobPath,
		Run: jobWait, Columns: jobColumns,
		Args: []Arg{jobArg, vaultArg, groupArg,
			{Names: "--interval", Help: "Seconds between two looks. Default: 2."},
			{Names: "--timeout", Help: "Give up after so many seconds. Default: 86400."}},
		Examples: []string{"dataprotection job wait --job-id GUID --vault-name v -g rg"}},
}

var (
	jobStartArg = Arg{Names: "--start-time", Help: "Only those that began then or later, UTC: 2026-02-16T04:00:00."}
	jobEndArg   = Arg{Names: "--end-time", Help: "Only those that began then or before, UTC."}
)

// jobTimes are the terms of a filter of jobs by when they began.
func (in *Input) jobTimes() ([]string, error) {
	var terms []string
	for _, t := range []struct{ key, comparison string }{{"start-time", "startTime ge "}, {"end-time", "startTime le "}} {
		if !in.Has(t.key) {
			continue
		}
		when, err := utc(in.Text(t.key))
		if err != nil {
			return nil, usagef("argument --%s: '%s' is not a time such as 2026-02-16T04:00:00", t.key, in.Text(t.key))
		}
		terms = append(terms, t.comparison+quote(when.Format(time.RFC3339)))
	}
	return terms, nil
}

// filter is the query of a list whose items fulfil all terms.
func filter(terms ...string) url.Values { return url.Values{"$filter": {strings.Join(terms, " and ")}} }

// quote is a string in a filter.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// utc reads a time; without an offset it is UTC.
func utc(s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC(), nil
	}
	return time.Parse("2006-01-02T15:04:05", s)
}

func jobList(ctx context.Context, in *Input) (any, error) {
	path, err := in.path(ctx, vaultPath+"/backupJobs")
	if err != nil {
		return nil, err
	}
	terms, err := in.jobTimes()
	if err != nil {
		return nil, err
	}
	for _, o := range []struct{ key, field string }{{"operation", "operation"}, {"status", "status"}, {"backup-instance-id", "backupInstanceId"}} {
		if in.Has(o.key) {
			terms = append(terms, o.field+" eq "+quote(in.Text(o.key)))
		}
	}
	jobs, err := in.list(ctx, path, backupVersion, filter(terms...))
	if err != nil {
		return nil, err
	}
	return jobs, nil
}

// jobID is the job's resource ID. --job-id may be the whole ID too.
func (in *Input) jobID(ctx context.Context) (string, error) {
	if id := in.Text("job-id"); strings.HasPrefix(id, "/") {
		return id, nil
	}
	return in.id(ctx)
}

func jobShow(ctx context.Context, in *Input) (any, error) {
	id, err := in.jobID(ctx)
	if err != nil {
		return nil, err
	}
	return in.get(ctx, id, backupVersion)
}

func (in *Input) seconds(key string, otherwise int) (time.Duration, error) {
	n, err := strconv.Atoi(in.textOr(key, strconv.Itoa(otherwise)))
	if err != nil || n < 1 {
		return 0, usagef("argument --%s: '%s' is not a positive number", key, in.Text(key))
	}
	return time.Duration(n) * time.Second, nil
}

func jobWait(ctx context.Context, in *Input) (any, error) {
	id, err := in.jobID(ctx)
	if err != nil {
		return nil, err
	}
	interval, err := in.seconds("interval", int(jobInterval/time.Second))
	if err != nil {
		return nil, err
	}
	timeout, err := in.seconds("timeout", 24*60*60)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("job %s has not ended after %s", lastSegment(id), timeout))
	defer cancel()
	return in.followJob(ctx, id, interval)
}

// followJob waits until a job has ended and shows what it does; the error is the job's when it has ended badly.
func (in *Input) followJob(ctx context.Context, id string, interval time.Duration) (any, error) {
	for {
		job, err := in.get(ctx, id, backupVersion)
		if err != nil {
			return nil, err
		}
		if ended(job) {
			in.progress.clear()
			return job, jobError(job)
		}
		in.showJob(job)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(interval):
		}
	}
}

// ended says whether a job's status is one that does not change any more.
func ended(job any) bool {
	switch text(job, "properties", "status") {
	case "Completed", "CompletedWithWarnings", "Failed", "Cancelled":
		return true
	}
	return false
}

// jobError is the error of a job that has ended badly, or nil.
func jobError(job any) error {
	status := text(job, "properties", "status")
	if status != "Failed" && status != "Cancelled" {
		return nil
	}
	message := fmt.Sprintf("job %s: %s", text(job, "name"), status)
	details, _ := at(job, "properties", "errorDetails").([]any)
	for _, d := range details {
		message += fmt.Sprintf("\n(%s) %s", text(d, "code"), text(d, "message"))
		actions, _ := at(d, "recommendedAction").([]any)
		for _, a := range actions {
			message += fmt.Sprintf("\n%v", a)
		}
	}
	return fmt.Errorf("%s", message)
}

// showJob shows the job's steps on a terminal, and elsewhere a line for each step that begins.
func (in *Input) showJob(job any) {
	lines := jobLines(job, time.Since(in.progress.start))
	in.progress.show(lines...)
	if !in.progress.terminal {
		for _, l := range lines[1:] {
			if strings.HasPrefix(l, "  …") {
				step, _, _ := strings.Cut(strings.TrimPrefix(l, "  … "), "  ")
				in.progress.note(lines[0][:strings.IndexByte(lines[0], ' ')] + ": " + step)
			}
		}
	}
}

// jobLines are what a terminal shows of a job: a headline, and a line per step.
func jobLines(job any, passed time.Duration) []string {
	operation := text(job, "properties", "operation")
	lines := []string{fmt.Sprintf("%s of %s: %s … %s", operation, text(job, "properties", "dataSourceName"),
		strings.ToLower(text(job, "properties", "status")), passed.Round(time.Second))}
	tasks, _ := at(job, "properties", "extendedInfo", "subTasks").([]any)
	for _, t := range tasks {
		mark := map[string]string{"Completed": "✓", "Failed": "✗", "Cancelled": "✗", "InProgress": "…"}[text(t, "taskStatus")]
		if mark == "" {
			mark = "·"
		}
		line := "  " + mark + " " + text(t, "taskName")
		if p := text(t, "taskProgress"); p != "" {
			line += "  " + p
		}
		lines = append(lines, line+counts(at(t, "additionalDetails")))
	}
	return lines
}

// counts are what a step counts: volumes, objects, bytes.
func counts(details any) string {
	line := ""
	for _, what := range []string{"Volumes", "Objects"} {
		done, total := text(details, what+"Done"), text(details, what+"Total")
		if total != "" && total != "0" {
			line += fmt.Sprintf("  %s of %s %s", done, total, strings.ToLower(what))
		} else if done != "" && done != "0" {
			line += fmt.Sprintf("  %s %s", done, strings.ToLower(what))
		}
	}
	if n, err := strconv.ParseInt(text(details, "Bytes"), 10, 64); err == nil && n > 0 {
		line += "  " + size(n)
	}
	return line
}

// size is a number of bytes for people.
func size(n int64) string {
	value, unit := float64(n), 0
	for value >= 1024 && unit < 5 {
		value /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", value, " KMGTP"[unit])
}
