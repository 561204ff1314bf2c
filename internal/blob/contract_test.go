package blob_test

import (
	"testing"

	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blob/blobtest"
)

// TestContract holds our server, and Azurite as a second opinion, to one contract.
func TestContract(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *blobtest.Endpoint{
		"blobserver": func(t testing.TB) *blobtest.Endpoint { return blobtest.StartServer(t) },
		"azurite":    blobtest.StartAzurite,
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := start(t)
			t.Run("REST", func(t *testing.T) { blobtest.TestREST(t, endpoint) })
			t.Run("store by SAS", func(t *testing.T) { blobtest.TestStore(t, endpoint.Store(t, "by-sas")) })
			t.Run("store by key", func(t *testing.T) {
				endpoint.NewContainer(t, "by-key")
				store, err := blob.Open(endpoint.AccountURL()+"/by-key", blob.Options{CABundle: endpoint.CA, Key: endpoint.Key})
				if err != nil {
					t.Fatal(err)
				}
				blobtest.TestStore(t, store)
			})
		})
	}
}
