package armserver

import (
	"context"
	"net/url"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

// neighbours answers for the providers that backup needs beside its own: storage, clusters, extensions.
type neighbours struct{ s *service.Service }

const (
	account    = resourceGroup + "/providers/Microsoft.Storage/storageAccounts/{account}"
	containers = account + "/blobServices/default/containers"
	cluster    = resourceGroup + "/providers/Microsoft.ContainerService/managedClusters/{cluster}"
	extensions = cluster + "/providers/Microsoft.KubernetesConfiguration/extensions"
)

func neighbourRoutes(s *service.Service) []Route {
	h := neighbours{s}
	return []Route{
		{Method: "POST", Path: subscription + "/providers/Microsoft.Storage/checkNameAvailability", Handle: h.checkName},
		{Method: "GET", Path: subscription + "/providers/Microsoft.Storage/storageAccounts", Permission: NoPermission, Handle: h.accounts},
		{Method: "GET", Path: resourceGroup + "/providers/Microsoft.Storage/storageAccounts", Handle: h.accounts},
		{Method: "GET", Path: subscription + "/providers/Microsoft.Storage/locations/{location}/asyncoperations/{operation}", Permission: NoPermission, Handle: h.accountOperation},
		{Method: "PUT", Path: account, Handle: h.putAccount},
		{Method: "GET", Path: account, Handle: h.account},
		{Method: "PATCH", Path: account, Handle: h.patchAccount},
		{Method: "DELETE", Path: account, Handle: h.deleteAccount},
		{Method: "POST", Path: account + "/listKeys", Handle: h.listKeys},
		{Method: "POST", Path: account + "/regenerateKey", Handle: h.regenerateKey},
		{Method: "GET", Path: account + "/{kind}/default", Permission: "Microsoft.Storage/storageAccounts/blobServices/read", Handle: h.accountService},
		{Method: "GET", Path: containers, Permission: "Microsoft.Storage/storageAccounts/blobServices/containers/read", Handle: h.containers},
		{Method: "PUT", Path: containers + "/{container}", Permission: "Microsoft.Storage/storageAccounts/blobServices/containers/write", Handle: h.putContainer},
		{Method: "GET", Path: containers + "/{container}", Permission: "Microsoft.Storage/storageAccounts/blobServices/containers/read", Handle: h.container},
		{Method: "DELETE", Path: containers + "/{container}", Permission: "Microsoft.Storage/storageAccounts/blobServices/containers/delete", Handle: h.deleteContainer},

		{Method: "GET", Path: subscription + "/providers/Microsoft.ContainerService/managedClusters", Permission: NoPermission, Handle: h.clusters},
		{Method: "GET", Path: resourceGroup + "/providers/Microsoft.ContainerService/managedClusters", Handle: h.clusters},
		{Method: "GET", Path: subscription + "/providers/Microsoft.ContainerService/locations/{location}/trustedAccessRoles", Handle: h.trustedRoles},
		{Method: "GET", Path: subscription + "/providers/Microsoft.ContainerService/locations/{location}/operations/{operation}", Permission: NoPermission, Handle: h.clusterOperation},
		{Method: "PUT", Path: cluster, Handle: h.putCluster},
		{Method: "GET", Path: cluster, Handle: h.cluster},
		{Method: "DELETE", Path: cluster, Handle: h.deleteCluster},
		{Method: "POST", Path: cluster + "/connect", Ours: true, Handle: h.connect},
		{Method: "POST", Path: cluster + "/listClusterUserCredential", Handle: h.credentials},
		{Method: "GET", Path: cluster + "/trustedAccessRoleBindings", Handle: h.bindings},
		{Method: "PUT", Path: cluster + "/trustedAccessRoleBindings/{binding}", Handle: h.putBinding},
		{Method: "GET", Path: cluster + "/trustedAccessRoleBindings/{binding}", Handle: h.binding},
		{Method: "DELETE", Path: cluster + "/trustedAccessRoleBindings/{binding}", Handle: h.deleteBinding},

		{Method: "GET", Path: extensions, Handle: h.extensions},
		{Method: "PUT", Path: extensions + "/{extension}", Handle: h.putExtension},
		{Method: "GET", Path: extensions + "/{extension}", Handle: h.extension},
		{Method: "PATCH", Path: extensions + "/{extension}", Handle: h.patchExtension},
		{Method: "DELETE", Path: extensions + "/{extension}", Handle: h.deleteExtension},
		{Method: "GET", Path: extensions + "/{extension}/operations/{operation}", Handle: h.extensionOperation},
	}
}

func (h neighbours) checkName(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, err := h.s.CheckAccountName(ctx, in.Name)
	return Answer(200, out), err
}

func (h neighbours) accounts(ctx context.Context, r *Request) (*Response, error) {
	all, err := h.s.StorageAccounts(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	found, err := readable(ctx, r, all, func(a service.StorageAccount) arm.ID { return a.ID })
	return Answer(200, arm.NewList(found)), err
}

func (h neighbours) putAccount(ctx context.Context, r *Request) (*Response, error) {
	var in service.StorageAccount
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, operation, err := h.s.PutStorageAccount(ctx, r.ID, in)
	if err != nil {
		return nil, err
	}
	if operation == "" {
		return Answer(200, out), nil
	}
	a := r.Async("", "")
	response := Answer(202, nil).WithAsync(a)
	response.Header.Set("Location", a.URL(location(r.ID, "Microsoft.Storage", out.Location, "asyncoperations", operation), url.Values{"monitor": {"true"}}))
	return response, nil
}

// accountOperation answers the account that was made, which its caller must be allowed to see.
func (h neighbours) accountOperation(ctx context.Context, r *Request) (*Response, error) {
	op, err := h.s.Async(ctx, r.Param("operation"))
	if err != nil {
		return nil, err
	}
	if err := r.Require(ctx, "Microsoft.Storage/storageAccounts/read", op.Resource); err != nil {
		return nil, err
	}
	out, err := h.s.StorageAccount(ctx, op.Resource)
	return Answer(200, out), err
}

func (h neighbours) account(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.StorageAccount(ctx, r.ID)
	return Answer(200, out), err
}

func (h neighbours) patchAccount(ctx context.Context, r *Request) (*Response, error) {
	var in service.StorageAccount
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, err := h.s.UpdateStorageAccount(ctx, r.ID, in)
	return Answer(200, out), err
}

// gone is the status of a DELETE that is over.
func gone(deleted bool) int {
	if deleted {
		return 200
	}
	return 204
}

func (h neighbours) deleteAccount(ctx context.Context, r *Request) (*Response, error) {
	deleted, err := h.s.DeleteStorageAccount(ctx, r.ID)
	return Answer(gone(deleted), nil), err
}

type accountKeys struct {
	Keys []service.AccountKey `json:"keys"`
}

func (h neighbours) listKeys(ctx context.Context, r *Request) (*Response, error) {
	keys, err := h.s.AccountKeys(ctx, r.ID)
	return Answer(200, accountKeys{keys}), err
}

func (h neighbours) regenerateKey(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		KeyName string `json:"keyName"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	keys, err := h.s.RegenerateKey(ctx, r.ID, in.KeyName)
	return Answer(200, accountKeys{keys}), err
}

// accountService tells of an account's blob service, and of its file service, which clients ask for although there is none.
func (h neighbours) accountService(ctx context.Context, r *Request) (*Response, error) {
	kind := map[string]string{"blobservices": "blobServices", "fileservices": "fileServices"}[strings.ToLower(r.Param("kind"))]
	if kind == "" {
		return nil, arm.NotFound(r.ID)
	}
	a, err := h.s.StorageAccount(ctx, accountOf(r))
	if err != nil {
		return nil, err
	}
	disabled := map[string]any{"enabled": false}
	properties := map[string]any{"cors": map[string]any{"corsRules": []any{}}}
	if kind == "blobServices" {
		properties["deleteRetentionPolicy"] = map[string]any{"allowPermanentDelete": false, "enabled": false}
		properties["containerDeleteRetentionPolicy"], properties["isVersioningEnabled"] = disabled, false
	} else {
		properties["shareDeleteRetentionPolicy"] = disabled
	}
	return Answer(200, map[string]any{
		"sku": a.SKU, "id": a.ID.Child(kind, "default"), "name": "default", "type": service.TypeStorageAccount + "/" + kind, "properties": properties,
	}), nil
}

// accountOf is the account that a path below an account names.
func accountOf(r *Request) arm.ID {
	return r.ID.ResourceGroupID().Extension(service.TypeStorageAccount, r.Param("account"))
}

func (h neighbours) containers(ctx context.Context, r *Request) (*Response, error) {
	all, err := h.s.Containers(ctx, accountOf(r))
	return Answer(200, arm.NewList(all)), err
}

func (h neighbours) putContainer(ctx context.Context, r *Request) (*Response, error) {
	out, created, err := h.s.PutContainer(ctx, accountOf(r), r.Param("container"))
	return Answer(put(created), out), err
}

func (h neighbours) container(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.Container(ctx, accountOf(r), r.Param("container"))
	return Answer(200, out), err
}

func (h neighbours) deleteContainer(ctx context.Context, r *Request) (*Response, error) {
	deleted, err := h.s.DeleteContainer(ctx, accountOf(r), r.Param("container"))
	return Answer(gone(deleted), nil), err
}

func (h neighbours) clusters(ctx context.Context, r *Request) (*Response, error) {
	all, err := h.s.Clusters(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	found, err := readable(ctx, r, all, func(c service.Cluster) arm.ID { return c.ID })
	return Answer(200, arm.NewList(found)), err
}

// withETag adds the header.
func withETag(response *Response, etag string) *Response {
	response.Header.Set("ETag", `"`+etag+`"`)
	return response
}

func (h neighbours) putCluster(ctx context.Context, r *Request) (*Response, error) {
	var in service.Cluster
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, operation, err := h.s.PutCluster(ctx, r.ID, in, r.By, r.Match)
	if err != nil {
		return nil, err
	}
	response := withETag(Answer(put(operation != ""), out), out.ETag)
	if operation != "" {
		response.WithAsync(r.Async(location(r.ID, "Microsoft.ContainerService", out.Location, "operations", operation), ""))
	}
	return response, nil
}

func (h neighbours) cluster(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.Cluster(ctx, r.ID)
	return withETag(Answer(200, out), out.ETag), err
}

func (h neighbours) deleteCluster(ctx context.Context, r *Request) (*Response, error) {
	c, err := h.s.Cluster(ctx, r.ID)
	if missing(err) {
		return Answer(204, nil), nil
	}
	if err != nil {
		return nil, err
	}
	operation, deleted, err := h.s.DeleteCluster(ctx, r.ID, r.Match)
	if err != nil || !deleted {
		return Answer(204, nil), err
	}
	path := location(r.ID, "Microsoft.ContainerService", c.Location, "operations", operation)
	return Answer(202, nil).WithAsync(r.Async(path, path)), nil
}

func (h neighbours) clusterOperation(ctx context.Context, r *Request) (*Response, error) {
	op, err := h.s.Async(ctx, r.Param("operation"))
	if err != nil {
		return nil, err
	}
	if err := r.Require(ctx, "Microsoft.ContainerService/managedClusters/read", op.Resource); err != nil {
		return nil, err
	}
	return asyncStatus(r, op), nil
}

// asyncStatus tells how far an operation is. The error is a plain one.
func asyncStatus(r *Request, op store.Async) *Response {
	out := arm.Operation{ID: r.HTTP.URL.Path, Name: op.ID, Status: op.Status, StartTime: op.Started, EndTime: op.Ended}
	if op.Error != nil {
		out.Error = op.Error.Wire("", "")
	}
	response := Answer(200, out)
	if op.Ended.IsZero() {
		response.WithRetryAfter()
	}
	return response
}

func (h neighbours) connect(ctx context.Context, r *Request) (*Response, error) {
	credential, err := h.s.Connect(ctx, r.ID)
	response := Answer(200, credential)
	response.Header.Set("Cache-Control", "no-store")
	return response, err
}

// credentials are none: the service has no access to clusters that it could hand on. Terraform asks for them whenever it reads a cluster, and
// is content with an empty list.
func (h neighbours) credentials(ctx context.Context, r *Request) (*Response, error) {
	_, err := h.s.Cluster(ctx, r.ID)
	return Answer(200, map[string]any{"kubeconfigs": []any{}}), err
}

func (h neighbours) trustedRoles(context.Context, *Request) (*Response, error) {
	return Answer(200, arm.NewList(h.s.TrustedAccessRoles())), nil
}

func (h neighbours) bindings(ctx context.Context, r *Request) (*Response, error) {
	all, err := h.s.TrustedAccessBindings(ctx, r.ID)
	return Answer(200, arm.NewList(all)), err
}

func (h neighbours) putBinding(ctx context.Context, r *Request) (*Response, error) {
	var in service.TrustedAccessBinding
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, created, err := h.s.PutTrustedAccess(ctx, r.ID, in, r.By)
	return Answer(put(created), out), err
}

func (h neighbours) binding(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.TrustedAccess(ctx, r.ID)
	return Answer(200, out), err
}

func (h neighbours) deleteBinding(ctx context.Context, r *Request) (*Response, error) {
	return Answer(204, nil), h.s.DeleteTrustedAccess(ctx, r.ID)
}

func (h neighbours) extensions(ctx context.Context, r *Request) (*Response, error) {
	all, err := h.s.Extensions(ctx, r.ID)
	return Answer(200, arm.NewList(all)), err
}

// mayLend checks that the caller may hand out access to a storage account: the extension will write to it.
func (h neighbours) mayLend(ctx context.Context, r *Request) func(account arm.ID) error {
	return func(account arm.ID) error {
		const action = "Microsoft.Storage/storageAccounts/listKeys/action"
		ok, err := h.s.Allowed(ctx, r.Caller.ObjectID, action, account)
		if err == nil && !ok {
			err = (&arm.Error{Status: 403, Code: "LinkedAuthorizationFailed", Target: string(account), Message: "The client '" + r.Caller.ObjectID +
				"' has permission to perform action '" + r.route.Permission + "' on scope '" + string(r.ID) +
				"'; however, it does not have permission to perform action '" + action + "' on the linked scope '" + string(account) +
				"', which the extension would have access to."}).WithAction("Ask for the role Contributor on the storage account.")
		}
		return err
	}
}

func (h neighbours) putExtension(ctx context.Context, r *Request) (*Response, error) {
	var in service.Extension
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, operation, err := h.s.PutExtension(ctx, r.ID, in, r.By, h.mayLend(ctx, r))
	if err != nil {
		return nil, err
	}
	path := string(out.ID) + "/operations/" + operation
	return Answer(put(out.Properties.ProvisioningState == service.Creating), out).WithAsync(r.Async(path, path)), nil
}

func (h neighbours) extension(ctx context.Context, r *Request) (*Response, error) {
	out, err := h.s.Extension(ctx, r.ID)
	return Answer(200, out), err
}

func (h neighbours) patchExtension(ctx context.Context, r *Request) (*Response, error) {
	var in service.Extension
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	out, operation, err := h.s.UpdateExtension(ctx, r.ID, in, r.By, h.mayLend(ctx, r))
	if err != nil {
		return nil, err
	}
	path := string(out.ID) + "/operations/" + operation
	return Answer(202, out).WithAsync(r.Async(path, path)), nil
}

func (h neighbours) deleteExtension(ctx context.Context, r *Request) (*Response, error) {
	force := strings.EqualFold(r.Query.Get("forceDelete"), "true")
	out, operation, found, err := h.s.DeleteExtension(ctx, r.ID, force, r.By)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return Answer(204, nil), nil
	case operation == "":
		return Answer(200, out), nil
	}
	path := string(out.ID) + "/operations/" + operation
	return Answer(202, nil).WithAsync(r.Async(path, path)), nil
}

// extensionOperation is polled at an address below the extension, which may be gone by then.
func (h neighbours) extensionOperation(ctx context.Context, r *Request) (*Response, error) {
	op, err := h.s.Async(ctx, r.Param("operation"))
	if err != nil {
		return nil, err
	}
	if !op.Resource.Equal(r.ID.Parent()) {
		return nil, arm.NotFound(r.ID)
	}
	return asyncStatus(r, op), nil
}

// missing says whether an error is a resource that does not exist.
func missing(err error) bool {
	e, ok := err.(*arm.Error)
	return ok && e.Status == 404
}
