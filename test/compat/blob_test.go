package compat_test

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/store"
)

// newPrincipal makes a service principal.
func newPrincipal(t *testing.T, w *daemontest.World, name string) (p store.Principal, secret string) {
	t.Helper()
	if err := w.Service.DB.Update(t.Context(), func(tx *store.Tx) (err error) {
		p, secret, err = w.Service.AddPrincipal(tx, name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return p, secret
}

// TestBlobDataContributor gives a principal the role as the guide does, on the account, and takes it away: it reads and writes the
// container's blobs with it and not without.
func TestBlobDataContributor(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	rg := w.Subscription + "/resourceGroups/" + group
	account := rg + "/providers/Microsoft.Storage/storageAccounts/store"
	w.Do("PUT", rg, `{"location":"eastus"}`).Want(201)
	w.Do("PUT", account, `{"sku":{"name":"Standard_LRS"},"location":"eastus"}`).Want(202)
	w.Do("PUT", account+"/blobServices/default/containers/points", `{}`).Want(201)
	p, secret := newPrincipal(t, w, "somebody")
	client, err := azblob.NewClient(w.Service.BlobURL+"/store", w.Credential(p.Client, secret), &azblob.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: w.HTTP, Retry: policy.RetryOptions{MaxRetries: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	try := func() (write, read error) {
		_, write = client.UploadBuffer(t.Context(), "points", "blob", []byte("x"), nil)
		_, read = client.DownloadStream(t.Context(), "points", "blob", nil)
		return write, read
	}
	refused := func(when string) {
		t.Helper()
		write, read := try()
		for _, err := range []error{write, read} {
			if !bloberror.HasCode(err, bloberror.AuthorizationPermissionMismatch) {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	refused("before the role was given")
	const assignment = "00000000-0000-4000-8000-000000000001"
	grant(t, w, p.ID, "ba92f5b4-2d11-453d-a403-e96b0029c9fe", account, assignment) // Storage Blob Data Contributor
	if write, read := try(); write != nil || read != nil {
		t.Errorf("with the role: write %v, read %v", write, read)
	}
	w.Do("DELETE", account+"/providers/Microsoft.Authorization/roleAssignments/"+assignment, nil).Want(200)
	refused("after the role was taken away")
}
