package cli

import (
	"context"
	"fmt"
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
	{Path: "dataprotection job list", Help: "List a vault's jobs.", Run: list(vaultPath+"/backupJobs", "", backupVersion), Columns: jobColumns,
		Args: []Arg{vaultArg, groupArg}},
	{Path: "dataprotection job show", Help: "Show a job.", ID: jobPath, Run: jobShow, Columns: jobColumns, Args: []Arg{jobArg, vaultArg, groupArg}},
	{Path: "dataprotection job wait", Help: "Wait until a job has ended, showing what it does; fails when the job has failed.", ID: jobPath,
		Run: jobWait, Columns: jobColumns,
		Args: []Arg{jobArg, vaultArg, groupArg,
			{Names: "--interval", Help: "Seconds between two looks. Default: 2."},
			{Names: "--timeout", Help: "Give up after so many seconds. Default: 86400."}},
		Examples: []string{"dataprotection job wait --job-id GUID --vault-name v -g rg"}},
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
		mark := map[string]string{"Completed": "✓", "Failed": "✗", "InProgress": "…"}[text(t, "taskStatus")]
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
