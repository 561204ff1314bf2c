package armserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/link"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

// dataProtection answers for Microsoft.DataProtection, and for the clusters' connectors.
type dataProtection struct{ s *service.Service }

const (
	dataProtectionProvider = "/providers/Microsoft.DataProtection"
	vaults                 = resourceGroup + dataProtectionProvider + "/backupVaults"
	vault                  = vaults + "/{vault}"
	policies               = vault + "/backupPolicies"
	instances              = vault + "/backupInstances"
	instance               = instances + "/{instance}"
	deletedInstances       = vault + "/deletedBackupInstances"
	groupLocation          = resourceGroup + dataProtectionProvider + "/locations/{location}"
	inLocation             = subscription + dataProtectionProvider + "/locations/{location}"
)

func dataProtectionRoutes(s *service.Service) []Route {
	h := dataProtection{s}
	rows := []Route{
		{Method: "GET", Path: subscription + dataProtectionProvider + "/backupVaults", Permission: NoPermission, Handle: h.vaults},
		{Method: "GET", Path: vaults, Handle: h.vaults},
		{Method: "PUT", Path: vault, Handle: h.putVault},
		{Method: "GET", Path: vault, Handle: h.vault},
		{Method: "PATCH", Path: vault, Handle: h.patchVault},
		{Method: "DELETE", Path: vault, Handle: h.deleteVault},
		{Method: "POST", Path: groupLocation + "/checkNameAvailability", Handle: h.checkName},

		{Method: "GET", Path: policies, Handle: h.policies},
		{Method: "PUT", Path: policies + "/{policy}", Handle: h.putPolicy},
		{Method: "GET", Path: policies + "/{policy}", Handle: h.policy},
		{Method: "DELETE", Path: policies + "/{policy}", Handle: h.deletePolicy},

		{Method: "POST", Path: vault + "/validateForBackup", Handle: h.validateForBackup},
		{Method: "GET", Path: instances, Handle: h.instances},
		{Method: "PUT", Path: instance, Handle: h.putInstance},
		{Method: "DELETE", Path: instance, Handle: h.deleteInstance},
		h.onInstance("GET", "", h.instance),
		h.onInstance("POST", "/backup", h.backup),
		h.onInstance("POST", "/validateRestore", h.validateRestore),
		h.onInstance("POST", "/restore", h.restore),
		h.onInstance("POST", "/stopProtection", h.move("stopProtection")),
		h.onInstance("POST", "/suspendBackups", h.move("suspendBackups")),
		h.onInstance("POST", "/resumeProtection", h.move("resumeProtection")),
		h.onInstance("POST", "/resumeBackups", h.move("resumeBackups")),
		h.onInstance("POST", "/sync", h.sync),
		h.onInstance("POST", "/validateForModifyBackup", h.validateForModifyBackup),
		h.onInstance("GET", "/recoveryPoints", h.recoveryPoints),
		{Method: "GET", Path: instance + "/recoveryPoints/{point}", Handle: h.recoveryPoint},
		ours(h.onInstance("GET", "/schedule", h.schedule)),
		{Method: "GET", Path: vault + "/pendingDeletions", Ours: true, Handle: h.pendingDeletions},

		{Method: "GET", Path: deletedInstances, Handle: h.deletedInstances},
		{Method: "GET", Path: deletedInstances + "/{instance}", Handle: h.deletedInstance},
		{Method: "POST", Path: deletedInstances + "/{instance}/undelete", Handle: h.undelete},

		{Method: "GET", Path: vault + "/backupJobs", Handle: h.jobs},
		{Method: "POST", Path: vault + "/exportBackupJobs", Handle: h.exportJobs},
		{Method: "GET", Path: vault + "/backupJobs/operations/{operation}", Permission: "Microsoft.DataProtection/backupVaults/backupJobs/operations/read", Handle: h.exportedJobs},
		{Method: "GET", Path: vault + "/backupJobs/{job}", Handle: h.job},
		{Method: "POST", Path: vault + "/backupJobs/{job}/cancel", Ours: true, Handle: h.cancelJob},

		{Method: "POST", Path: inLocation + "/checkFeatureSupport", Handle: h.checkFeature},
		{Method: "GET", Path: anyScope + dataProtectionProvider + "/backupInstances", Handle: h.instancesOf},

		{Method: "GET", Path: link.PathDesired, Ours: true, Connector: true, Unversioned: true, Permission: NoPermission, Handle: h.desired},
		{Method: "POST", Path: link.PathReport, Ours: true, Connector: true, Unversioned: true, Permission: NoPermission, MaxBody: 64 << 20, Handle: h.report},
	}
	// Who may see what an operation works on may follow the operation, wherever Azure would have it followed.
	for _, base := range []string{vault, instance, resourceGroup + dataProtectionProvider, groupLocation, inLocation} {
		rows = append(rows,
			Route{Method: "GET", Path: base + "/operationStatus/{operation}", Permission: NoPermission, AnyGroup: true, Handle: h.operationStatus},
			Route{Method: "GET", Path: base + "/operationResults/{operation}", Permission: NoPermission, AnyGroup: true, Handle: h.operationResult})
	}
	rows = slices.Concat(rows, guardRoutes(s), elsewhereRoutes(s))
	return append(rows, Route{Method: "GET", Path: dataProtectionProvider + "/operations", Permission: NoPermission, Handle: operationList(rows)})
}

func (h dataProtection) vaults(ctx context.Context, r *Request) (*Response, error) {
	return page(r, func(p store.Page) ([]backup.VaultResource, string, error) {
		all, next, err := h.s.Vaults(ctx, r.ID, p)
		if err != nil {
			return nil, "", err
		}
		found, err := readable(ctx, r, all, func(v backup.VaultResource) arm.ID { return v.ID })
		return found, next, err
	})
}

func (h dataProtection) vault(ctx context.Context, r *Request) (*Response, error) {
	v, err := h.s.Vault(ctx, r.ID)
	return Answer(200, v).WithETag(v.ETag), err
}

func (h dataProtection) putVault(ctx context.Context, r *Request) (*Response, error) {
	in, err := backup.DecodeInput[backup.Vault](r.Body)
	if err != nil {
		return nil, err
	}
	by, err := r.Guarded(ctx, in.Properties.GuardRequests)
	if err != nil {
		return nil, err
	}
	v, op, err := h.s.PutVault(ctx, by, r.ID, in, r.Match)
	if err != nil {
		return nil, err
	}
	return Answer(201, v).WithETag(v.ETag).WithAsync(r.Async(string(v.ID)+"/operationStatus/"+op.ID, "")), nil
}

func (h dataProtection) patchVault(ctx context.Context, r *Request) (*Response, error) {
	var patch service.VaultPatch
	if err := backup.Decode(r.Body, &patch); err != nil {
		return nil, err
	}
	by, err := r.Guarded(ctx, patch.GuardRequests())
	if err != nil {
		return nil, err
	}
	v, err := h.s.PatchVault(ctx, by, r.ID, &patch, r.Match)
	return Answer(200, v), err
}

func (h dataProtection) deleteVault(ctx context.Context, r *Request) (*Response, error) {
	v, op, found, err := h.s.DeleteVault(ctx, r.ID, r.Match)
	if err != nil || !found {
		return Answer(204, nil), err
	}
	base := string(v.ID.ResourceGroupID()) + dataProtectionProvider + "/locations/" + v.Location
	return Answer(202, nil).WithAsync(r.Async(base+"/operationStatus/"+op.ID, resultPath(r, v.Location, op))), nil
}

// resultPath is where the result of an operation is found.
func resultPath(r *Request, location string, op store.Operation) string {
	return string(r.ID.SubscriptionID()) + dataProtectionProvider + "/locations/" + location + "/operationResults/" + op.ID
}

// accepted is the answer to what goes on after it.
func accepted(r *Request, vaultID arm.ID, location string, op store.Operation) *Response {
	return Answer(202, nil).WithAsync(r.Async(string(vaultID)+"/operationStatus/"+op.ID, resultPath(r, location, op)))
}

func (h dataProtection) checkName(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, err := h.s.CheckVaultName(ctx, r.ID.ResourceGroupID(), in.Name, in.Type)
	return Answer(200, out), err
}

func (h dataProtection) policies(ctx context.Context, r *Request) (*Response, error) {
	return page(r, func(p store.Page) ([]service.PolicyResource, string, error) { return h.s.Policies(ctx, r.ID, p) })
}

func (h dataProtection) putPolicy(ctx context.Context, r *Request) (*Response, error) {
	in, err := backup.DecodeInput[backup.Policy](r.Body)
	if err != nil {
		return nil, err
	}
	// Azure's policies cannot be changed, and have no property for a guard's requests.
	var named struct {
		Properties backup.GuardedRequest `json:"properties"`
	}
	if err := backup.Decode(r.Body, &named); err != nil {
		return nil, err
	}
	by, err := r.Guarded(ctx, named.Properties.GuardRequests)
	if err != nil {
		return nil, err
	}
	p, err := h.s.PutPolicy(ctx, by, r.ID, in, r.Match)
	return Answer(200, p).WithETag(p.ETag), err
}

func (h dataProtection) policy(ctx context.Context, r *Request) (*Response, error) {
	p, err := h.s.Policy(ctx, r.ID)
	return Answer(200, p).WithETag(p.ETag), err
}

func (h dataProtection) deletePolicy(ctx context.Context, r *Request) (*Response, error) {
	found, err := h.s.DeletePolicy(ctx, r.ID, r.Match)
	if err != nil || !found {
		return Answer(204, nil), err
	}
	return Answer(200, nil), nil
}

func (h dataProtection) validateForBackup(ctx context.Context, r *Request) (*Response, error) {
	var in backup.ValidateRequest
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	op, v, err := h.s.ValidateForBackup(ctx, r.By, r.ID, &in)
	if err != nil {
		return nil, err
	}
	return accepted(r, v.ID, v.Location, op), nil
}

// validateForModifyBackup asks what validateForBackup asks, of an instance that exists.
func (h dataProtection) validateForModifyBackup(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	var in backup.ValidateRequest
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	i, err := h.s.Instance(ctx, id)
	if err != nil {
		return nil, err
	}
	if in.Instance != nil {
		in.Instance.FriendlyName = i.Properties.FriendlyName
	}
	op, v, err := h.s.ValidateForBackup(ctx, r.By, id.Parent(), &in)
	if err != nil {
		return nil, err
	}
	return accepted(r, v.ID, v.Location, op), nil
}

func (h dataProtection) instances(ctx context.Context, r *Request) (*Response, error) {
	return page(r, func(p store.Page) ([]service.InstanceResource, string, error) { return h.s.Instances(ctx, r.ID, p) })
}

func (h dataProtection) instancesOf(ctx context.Context, r *Request) (*Response, error) {
	found, err := h.s.InstancesOf(ctx, r.ID)
	return Answer(200, arm.NewList(found)), err
}

func (h dataProtection) putInstance(ctx context.Context, r *Request) (*Response, error) {
	in, err := backup.DecodeInput[backup.Instance](r.Body)
	if err != nil {
		return nil, err
	}
	by, err := r.Guarded(ctx, in.Properties.GuardRequests)
	if err != nil {
		return nil, err
	}
	i, op, changed, err := h.s.PutInstance(ctx, by, r.ID, in, r.Match)
	switch {
	case err != nil:
		return nil, err
	case !changed:
		return Answer(200, i).WithETag(i.ETag), nil
	}
	return Answer(201, i).WithETag(i.ETag).WithAsync(r.Async(string(i.ID.Parent())+"/operationStatus/"+op.ID, "")), nil
}

func (h dataProtection) deleteInstance(ctx context.Context, r *Request) (*Response, error) {
	v, err := h.s.Vault(ctx, r.ID.Parent())
	if err != nil {
		return nil, err
	}
	by, err := r.Guarded(ctx, nil)
	if err != nil {
		return nil, err
	}
	op, found, err := h.s.DeleteInstance(ctx, by, r.ID, r.Match)
	if err != nil || !found {
		return Answer(204, nil), err
	}
	return accepted(r, v.ID, v.Location, op), nil
}

// onInstance is a row whose path may name the instance by its cluster or friendly name. The permission must hold at the
// instance that is meant, too.
func (h dataProtection) onInstance(method, action string, handle func(context.Context, *Request, arm.ID) (*Response, error)) Route {
	return Route{Method: method, Path: instance + action, Handle: func(ctx context.Context, r *Request) (*Response, error) {
		id, err := h.meant(ctx, r, r.ID)
		if err != nil {
			return nil, err
		}
		return handle(ctx, r, id)
	}}
}

func (h dataProtection) meant(ctx context.Context, r *Request, named arm.ID) (arm.ID, error) {
	id, err := h.s.ResolveInstance(ctx, named)
	if err != nil || id.Equal(named) {
		return id, err
	}
	return id, r.Require(ctx, r.route.Permission, id)
}

func (h dataProtection) instance(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	i, err := h.s.Instance(ctx, id)
	return Answer(200, i).WithETag(i.ETag), err
}

func (h dataProtection) backup(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	var in backup.AdhocRequest
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	op, location, err := h.s.BackupNow(ctx, id, &in)
	if err != nil {
		return nil, err
	}
	return accepted(r, id.Parent(), location, op), nil
}

func (h dataProtection) restore(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	var in backup.RestoreRequest
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	by, err := r.Guarded(ctx, in.GuardRequests)
	if err != nil {
		return nil, err
	}
	op, location, err := h.s.Restore(ctx, by, id, &in)
	if err != nil {
		return nil, err
	}
	return accepted(r, id.Parent(), location, op), nil
}

func (h dataProtection) validateRestore(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	var in backup.ValidateRestoreRequest
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	op, location, err := h.s.ValidateRestore(ctx, r.By, id, &in)
	if err != nil {
		return nil, err
	}
	return accepted(r, id.Parent(), location, op), nil
}

// move stops, suspends or resumes: 200 when there is nothing to do.
func (h dataProtection) move(action string) func(context.Context, *Request, arm.ID) (*Response, error) {
	return func(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
		v, err := h.s.Vault(ctx, id.Parent())
		if err != nil {
			return nil, err
		}
		var in backup.GuardedRequest
		if len(r.Body) > 0 {
			if err := backup.Decode(r.Body, &in); err != nil {
				return nil, err
			}
		}
		by, err := r.Guarded(ctx, in.GuardRequests)
		if err != nil {
			return nil, err
		}
		op, changed, err := h.s.MoveProtection(ctx, by, id, action)
		if err != nil || !changed {
			return Answer(200, nil), err
		}
		return accepted(r, v.ID, v.Location, op), nil
	}
}

func (h dataProtection) sync(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	var in service.SyncRequest
	if len(r.Body) > 0 {
		if err := r.Decode(&in); err != nil {
			return nil, err
		}
	}
	op, location, err := h.s.Sync(ctx, id, in)
	if err != nil {
		return nil, err
	}
	return accepted(r, id.Parent(), location, op), nil
}

func (h dataProtection) deletedInstances(ctx context.Context, r *Request) (*Response, error) {
	return page(r, func(p store.Page) ([]service.DeletedResource, string, error) {
		return h.s.DeletedInstances(ctx, r.ID, p)
	})
}

func (h dataProtection) deletedInstance(ctx context.Context, r *Request) (*Response, error) {
	d, err := h.s.DeletedInstance(ctx, r.ID)
	return Answer(200, d), err
}

func (h dataProtection) undelete(ctx context.Context, r *Request) (*Response, error) {
	return Answer(200, nil), h.s.Undelete(ctx, r.By, r.ID)
}

func (h dataProtection) recoveryPoints(ctx context.Context, r *Request, id arm.ID) (*Response, error) {
	terms, err := parseFilter(r.Query.Get("$filter"))
	if err != nil {
		return nil, err
	}
	f, err := backup.NewFilter(terms)
	if err != nil {
		return nil, err
	}
	return page(r, func(p store.Page) ([]service.RecoveryPointResource, string, error) {
		return h.s.RecoveryPoints(ctx, id, f, p)
	})
}

func (h dataProtection) recoveryPoint(ctx context.Context, r *Request) (*Response, error) {
	id, err := h.meant(ctx, r, r.ID.Parent())
	if err != nil {
		return nil, err
	}
	p, err := h.s.RecoveryPoint(ctx, id, r.Param("point"))
	return Answer(200, p), err
}

func (h dataProtection) schedule(ctx context.Context, _ *Request, id arm.ID) (*Response, error) {
	schedule, err := h.s.Schedule(ctx, id)
	return Answer(200, schedule), err
}

func (h dataProtection) pendingDeletions(ctx context.Context, r *Request) (*Response, error) {
	found, err := h.s.PendingDeletions(ctx, r.ID)
	return Answer(200, arm.NewList(found)), err
}

func (h dataProtection) jobs(ctx context.Context, r *Request) (*Response, error) {
	terms, err := parseFilter(r.Query.Get("$filter"))
	if err != nil {
		return nil, err
	}
	return page(r, func(p store.Page) ([]service.JobResource, string, error) { return h.s.Jobs(ctx, r.ID, terms, p) })
}

func (h dataProtection) exportJobs(ctx context.Context, r *Request) (*Response, error) {
	v, op, err := h.s.ExportJobs(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return Answer(202, nil).WithAsync(r.Async(string(v.ID)+"/operationStatus/"+op.ID, string(v.ID)+"/backupJobs/operations/"+op.ID)), nil
}

func (h dataProtection) exportedJobs(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.ExportedJobs(ctx, r.ID.ResourceGroupID().Extension(backup.VaultType, r.Param("vault")), r.Param("operation"))
	response := Answer(200, out)
	response.Header.Set("Cache-Control", "no-store")
	return response, err
}

// cancelJob cancels a job, which is ours: 200 when that is under way already.
func (h dataProtection) cancelJob(ctx context.Context, r *Request) (*Response, error) {
	op, location, changed, err := h.s.CancelJob(ctx, r.ID)
	if err != nil || !changed {
		return Answer(200, nil), err
	}
	return accepted(r, r.ID.Parent(), location, op), nil
}

func (h dataProtection) job(ctx context.Context, r *Request) (*Response, error) {
	j, err := h.s.Job(ctx, r.ID)
	return Answer(200, j), err
}

// operation finds the operation that the path names, for those who may see what it works on. A deletion takes the roles on what it deletes along: from
// then on the operation's ID, which nobody can guess, is all that is asked for.
func (h dataProtection) operation(ctx context.Context, r *Request) (store.Operation, error) {
	scope := r.ID.SubscriptionID()
	if id := r.ID.ResourceGroupID(); id != "" {
		scope = id
	}
	if r.Param("vault") != "" {
		scope = r.ID.ResourceGroupID().Extension(backup.VaultType, r.Param("vault"))
	}
	op, gone, err := h.s.Operation(ctx, scope, r.Param("operation"))
	if err != nil || gone {
		return op, err
	}
	return op, r.Require(ctx, op.Resource.Type()+"/read", op.Resource)
}

func (h dataProtection) operationStatus(ctx context.Context, r *Request) (*Response, error) {
	op, err := h.operation(ctx, r)
	if err != nil {
		return nil, err
	}
	out := arm.Operation{ID: r.HTTP.URL.Path, Name: op.ID, Status: op.Status, StartTime: op.Started, EndTime: op.Ended}
	if op.Error != nil {
		out.Error = op.Error.Wire("Microsoft.DataProtection", r.CorrelationID)
	}
	if op.Job != "" {
		out.Properties = jobInfo{JobID: op.Job, ObjectType: jobInfoType}
	}
	return Answer(200, out).WithRetryAfter(), nil
}

// jobInfo is an operation's result: the job that it started, if any.
type jobInfo struct {
	JobID      arm.ID `json:"jobId,omitempty"`
	ObjectType string `json:"objectType"`
}

const jobInfoType = "OperationJobExtendedInfo"

func (h dataProtection) operationResult(ctx context.Context, r *Request) (*Response, error) {
	op, err := h.operation(ctx, r)
	if err != nil {
		return nil, err
	}
	status := string(r.ID.SubscriptionID()) + dataProtectionProvider + "/locations/" + orDefault(r.Param("location"), "global") + "/operationStatus/" + op.ID
	switch {
	case op.Status == arm.OperationInProgress:
		return Answer(202, nil).WithAsync(r.Async(status, r.HTTP.URL.Path)), nil
	case op.Error != nil:
		return nil, op.Error
	}
	var result any = jobInfo{JobID: op.Job, ObjectType: jobInfoType}
	if r.Param("vault") != "" {
		// Beside a vault or an instance the result is that resource.
		result, err = h.subject(ctx, r)
		if gone := (*arm.Error)(nil); errors.As(err, &gone) && gone.Status == http.StatusNotFound {
			return Answer(204, nil), nil
		}
	}
	return Answer(200, result).WithAsync(r.Async(status, "")), err
}

func (h dataProtection) subject(ctx context.Context, r *Request) (any, error) {
	id := r.ID.ResourceGroupID().Extension(backup.VaultType, r.Param("vault"))
	if r.Param("instance") == "" {
		return h.s.Vault(ctx, id)
	}
	return h.s.Instance(ctx, id.Child("backupInstances", r.Param("instance")))
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (h dataProtection) checkFeature(_ context.Context, r *Request) (*Response, error) {
	var in struct {
		ObjectType  string `json:"objectType"`
		FeatureType string `json:"featureType"`
		FeatureName string `json:"featureName"`
	}
	if err := backup.Decode(r.Body, &in); err != nil {
		return nil, err
	}
	if !strings.EqualFold(in.ObjectType, "FeatureValidationRequest") {
		return nil, arm.Invalid("objectType", "'%s' is not a known objectType.", in.ObjectType).WithAction("Use FeatureValidationRequest.")
	}
	status := "NotSupported"
	if strings.EqualFold(in.FeatureType, "DataSourceType") && strings.EqualFold(in.FeatureName, backup.ClusterType) {
		status = "GenerallyAvailable"
	}
	return Answer(200, map[string]any{"objectType": "FeatureValidationResponse", "featureType": in.FeatureType,
		"features": []map[string]any{{"featureName": in.FeatureName, "supportStatus": status, "exposureControlledFeatures": []string{}}}}), nil
}

// operationList answers what can be done with the provider: the rows' permissions.
func operationList(rows []Route) Handler {
	type display struct {
		Provider    string `json:"provider"`
		Resource    string `json:"resource"`
		Operation   string `json:"operation"`
		Description string `json:"description"`
	}
	type operation struct {
		Name         string  `json:"name"`
		IsDataAction bool    `json:"isDataAction"`
		Origin       string  `json:"origin"`
		Display      display `json:"display"`
	}
	var names []string
	for _, row := range rows {
		if name := row.compile().Permission; name != NoPermission {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var all []operation
	for _, name := range slices.Compact(names) {
		words := strings.Split(name, "/")
		verb := strings.Join(words[len(words)-1:], " ")
		resource := strings.Join(words[1:len(words)-1], "/")
		all = append(all, operation{Name: name, Origin: "user", Display: display{
			Provider: words[0], Resource: resource, Operation: verb, Description: fmt.Sprintf("%s: %s", resource, verb)}})
	}
	return func(context.Context, *Request) (*Response, error) { return Answer(200, arm.NewList(all)), nil }
}

// longestWait is how long a connector's call may be held.
const longestWait = 30 * time.Second

func (h dataProtection) desired(ctx context.Context, r *Request) (*Response, error) {
	var wait time.Duration
	if text := r.Query.Get("wait"); text != "" {
		var err error
		if wait, err = time.ParseDuration(text); err != nil {
			return nil, arm.Invalid("wait", "'%s' is not a duration such as 30s.", text)
		}
	}
	if err := h.s.ClusterSeen(ctx, arm.ID(r.Caller.Owner)); err != nil {
		return nil, err
	}
	d, err := h.s.AwaitDesired(ctx, r.Caller.Owner, r.Query.Get("etag"), min(max(wait, 0), longestWait))
	if err != nil {
		return nil, err
	}
	if d == nil {
		return Answer(http.StatusNotModified, nil), nil
	}
	return Answer(200, d), nil
}

func (h dataProtection) report(ctx context.Context, r *Request) (*Response, error) {
	var report link.Report
	if err := r.Decode(&report); err != nil {
		return nil, err
	}
	return Answer(204, nil), h.s.Reported(ctx, r.Caller.Owner, &report)
}
