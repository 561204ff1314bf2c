package cli

import (
	"context"
	"errors"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/client"
)

const (
	activityPath    = subscriptionPath + "/providers/Microsoft.Insights/eventtypes/management/values"
	activityVersion = "2015-04-01"
	activityColumns = "[].{Time:eventTimestamp, Caller:caller, Operation:operationName.value, Status:status.value, Code:properties.errorCode, Resource:resourceId}"
)

var activityCommands = []Command{
	{Path: "monitor activity-log list", Help: "List who changed what, and who was refused what, newest first.", Run: activityList, Columns: activityColumns,
		Args: []Arg{
			{Names: "--resource-group -g", Help: "Only what was done in the resource group."},
			{Names: "--resource-id", Help: "Only what was done to the resource, or to what is in it."},
			{Names: "--namespace", Help: "Only what is of the resource provider, such as Microsoft.DataProtection."},
			{Names: "--correlation-id", Help: "Only what belongs to one call of a client."},
			{Names: "--caller", Help: "Only what was done by somebody: an object ID, or a user's name."},
			{Names: "--status", Help: "Only what has the status.", Choices: []string{"Accepted", "Failed", "Started", "Succeeded"}},
			{Names: "--start-time", Help: "From when on, such as 2026-01-31T12:00:00Z. Default: --offset before the end."},
			{Names: "--end-time", Help: "Until when. Default: now."},
			{Names: "--offset", Help: "How long before the end to begin, in days, hours and minutes: 1d, 6h, 2d12h. Default: 6h."},
			{Names: "--max-events", Help: "How many at most. Default: 50."}},
		Examples: []string{"monitor activity-log list -g rg --offset 7d --status Failed -o table"}},
}

func activityList(ctx context.Context, in *Input) (any, error) {
	filter, err := in.activityFilter(time.Now())
	if err != nil {
		return nil, err
	}
	most, err := strconv.Atoi(in.textOr("max-events", "50"))
	if err != nil || most < 1 {
		return nil, usagef("argument --max-events: '%s' is not a positive number", in.Text("max-events"))
	}
	path, err := in.path(ctx, activityPath)
	if err != nil {
		return nil, err
	}
	api, err := in.session.client()
	if err != nil {
		return nil, err
	}
	events := []any{}
	request := client.Request{Path: path, APIVersion: activityVersion, Query: url.Values{"$filter": {filter}, "$top": {strconv.Itoa(most)}}}
	for request.Path != "" && len(events) < most {
		page, err := api.Do(ctx, request)
		if err != nil {
			return nil, err
		}
		found, ok := at(page, "value").([]any)
		if !ok {
			return nil, errors.New("the service answered no list of events")
		}
		events = append(events, found...)
		request = client.Request{Path: text(page, "nextLink")}
	}
	return events[:min(len(events), most)], nil
}

// activityFilter is the $filter of the options.
func (in *Input) activityFilter(now time.Time) (string, error) {
	end, err := in.timeOr("end-time", now)
	if err != nil {
		return "", err
	}
	offset, err := parseOffset(in.textOr("offset", "6h"))
	if err != nil {
		return "", err
	}
	start, err := in.timeOr("start-time", end.Add(-offset))
	if err != nil {
		return "", err
	}
	filter := "eventTimestamp ge '" + start.UTC().Format(time.RFC3339Nano) + "' and eventTimestamp le '" + end.UTC().Format(time.RFC3339Nano) + "'"
	for _, term := range [][2]string{{"resource-group", "resourceGroupName"}, {"resource-id", "resourceUri"}, {"namespace", "resourceProvider"},
		{"correlation-id", "correlationId"}, {"caller", "caller"}, {"status", "status"}} {
		if in.Has(term[0]) {
			filter += " and " + term[1] + " eq '" + strings.ReplaceAll(in.Text(term[0]), "'", "''") + "'"
		}
	}
	return filter, nil
}

// timeOr reads the option's time; one without a zone is UTC, as with az.
func (in *Input) timeOr(key string, otherwise time.Time) (time.Time, error) {
	if !in.Has(key) {
		return otherwise, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.Parse(layout, in.Text(key)); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usagef("argument --%s: '%s' is not a time; write it as 2026-01-31T12:00:00Z", key, in.Text(key))
}

var offsetPattern = regexp.MustCompile(`^(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,4})m)?$`)

// parseOffset reads a duration such as 2d12h.
func parseOffset(s string) (time.Duration, error) {
	m := offsetPattern.FindStringSubmatch(strings.ToLower(s))
	if m == nil || s == "" {
		return 0, usagef("argument --offset: '%s' is not a duration; write it as 6h, 7d or 2d12h", s)
	}
	var all time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute} {
		// Digits, or nothing, which is 0.
		n, _ := strconv.Atoi(m[i+1])
		all += time.Duration(n) * unit
	}
	return all, nil
}
