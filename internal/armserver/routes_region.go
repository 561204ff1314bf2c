package armserver

import (
	"context"
	"fmt"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/service"
)

// elsewhere answers for what other regions, other tiers and other kinds of datasources have. There are none, and so lists are empty, and what would have
// to do something is refused, both after the request was found to be right and its caller to be allowed.
type elsewhere struct{ dataProtection }

// codeNoTimeRanges is what Azure answers when ranges of time are asked of a datasource that has none.
const codeNoTimeRanges = "DppPluginInvalidInputParameters"

func elsewhereRoutes(s *service.Service) []Route {
	h := elsewhere{dataProtection{s}}
	return []Route{
		refuses(backup.CodeNotSupported, h.onInstance("POST", "/rehydrate", h.rehydrate)),
		refuses(codeNoTimeRanges, h.onInstance("POST", "/findRestorableTimeRanges", h.timeRanges)),
		refuses(backup.CodeNotSupported, Route{Method: "POST", Path: groupLocation + "/validateCrossRegionRestore", Handle: h.restore("validateRestore")}),
		refuses(backup.CodeNotSupported, Route{Method: "POST", Path: groupLocation + "/crossRegionRestore", Handle: h.restore("restore")}),
		{Method: "POST", Path: groupLocation + "/fetchSecondaryRecoveryPoints", Handle: h.recoveryPoints},
		{Method: "POST", Path: groupLocation + "/fetchCrossRegionRestoreJobs", Handle: h.jobs},
		refuses(codeNoJob, Route{Method: "POST", Path: groupLocation + "/fetchCrossRegionRestoreJob", Handle: h.job}),
	}
}

// codeNoJob is that of a job which does not exist.
const codeNoJob = "UserErrorGenericResourceNotFound"

// refuses marks a row whose requests end with an error, however right they are.
func refuses(code string, r Route) Route {
	r.Refuses = code
	return r
}

func (h elsewhere) rehydrate(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	var in backup.RehydrationRequest
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	if err := in.Validate().Err(); err != nil {
		return nil, err
	}
	p, err := h.s.RecoveryPoint(ctx, id, in.RecoveryPointID)
	if err != nil {
		return nil, err
	}
	return nil, arm.BadRequest(backup.CodeNotSupported, "The recovery point '%s' is in the operational tier: there is no archive tier to bring it back from.", p.Name).
		WithTarget("recoveryPointId").WithAction("Restore it as it is.")
}

func (h elsewhere) timeRanges(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	var in backup.TimeRangesRequest
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	if err := in.Validate().Err(); err != nil {
		return nil, err
	}
	i, err := h.s.Instance(ctx, id)
	if err != nil {
		return nil, err
	}
	return nil, arm.BadRequest(codeNoTimeRanges, "The backup instance '%s' is of a Kubernetes cluster, which is restored to recovery points and not to any time.", i.Name).
		WithTarget(string(i.ID)).WithAction("List its recovery points: az dataprotection recovery-point list.")
}

// restore refuses a restore in another region, for those who may do the same in this one.
func (h elsewhere) restore(action string) Handler {
	return func(ctx context.Context, r *Request) (*Response, error) {
		var in backup.CrossRegionRestore
		if err := backup.Decode(r.Body, &in); err != nil {
			return nil, err
		}
		if err := in.Validate().Err(); err != nil {
			return nil, err
		}
		if err := r.Require(ctx, backup.InstanceType+"/"+action+"/action", in.Details.InstanceID); err != nil {
			return nil, err
		}
		if _, err := h.s.Instance(ctx, in.Details.InstanceID); err != nil {
			return nil, err
		}
		return nil, arm.BadRequest(backup.CodeNotSupported, "Nothing is replicated to the region '%s', from which could be restored.", r.Param("location")).
			WithTarget("crossRegionRestoreDetails").WithAction("Restore in the vault's own region: POST " + string(in.Details.InstanceID) + "/" + action + ".")
	}
}

// recoveryPoints lists those that were replicated: none.
func (h elsewhere) recoveryPoints(ctx context.Context, r *Request) (*Response, error) {
	var in backup.CrossRegionInstance
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	if err := in.Validate().Err(); err != nil {
		return nil, err
	}
	if err := r.Require(ctx, backup.InstanceType+"/recoveryPoints/read", in.InstanceID); err != nil {
		return nil, err
	}
	terms, err := parseFilter(r.Query.Get("$filter"))
	if err != nil {
		return nil, err
	}
	if _, err := backup.NewFilter(terms); err != nil {
		return nil, err
	}
	_, err = h.s.Instance(ctx, in.InstanceID)
	return Answer(200, arm.NewList[service.RecoveryPointResource](nil)), err
}

// vaultsJobs checks a request for jobs in another region.
func (h elsewhere) vaultsJobs(ctx context.Context, r *Request, one bool) (in backup.CrossRegionJobs, err error) {
	if err := backup.Decode(r.Body, &in); err != nil {
		return in, err
	}
	if err := in.Validate(one).Err(); err != nil {
		return in, err
	}
	if err := r.Require(ctx, backup.JobType+"/read", in.VaultID); err != nil {
		return in, err
	}
	_, err = h.s.Vault(ctx, in.VaultID)
	return in, err
}

func (h elsewhere) jobs(ctx context.Context, r *Request) (*Response, error) {
	if _, err := parseFilter(r.Query.Get("$filter")); err != nil {
		return nil, err
	}
	_, err := h.vaultsJobs(ctx, r, false)
	return Answer(200, arm.NewList[service.JobResource](nil)), err
}

func (h elsewhere) job(ctx context.Context, r *Request) (*Response, error) {
	in, err := h.vaultsJobs(ctx, r, true)
	if err != nil {
		return nil, err
	}
	return nil, (&arm.Error{Status: 404, Code: codeNoJob, Target: "jobId", Message: fmt.Sprintf("There is no restore job '%s' in the region '%s'.", in.JobID, r.Param("location"))}).
		WithAction("List the vault's own jobs: az dataprotection job list.")
}
