package compat_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// download gets a blob with nothing but its address.
func (w *world) download(t *testing.T, address string) (status int, body []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := w.HTTP.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

// export exports the vault's jobs with Azure's SDK; operation is the path of the result.
func (w *world) export(t *testing.T) (result dp.ExportJobsClientTriggerResponse, files *dp.ExportJobsResult, operation string) {
	t.Helper()
	accepted := w.Do("POST", w.vault+"/exportBackupJobs", nil).Want(202)
	operation = strings.TrimPrefix(accepted.Header.Get("Location"), w.Env["CAIRN_ENDPOINT"])
	operation, _, _ = strings.Cut(operation, "?")
	clients := sdk(t, w.World)
	poller, err := clients.NewExportJobsClient().BeginTrigger(t.Context(), group, vaultName, nil)
	result = follow(t, poller, err)
	got, err := clients.NewExportJobsOperationResultClient().Get(t.Context(), group, vaultName, operation[strings.LastIndex(operation, "/")+1:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return result, &got.ExportJobsResult, operation
}

// TestExportedJobs exports no jobs and two, reads both files as anybody with the addresses can, and waits until they are gone.
func TestExportedJobs(t *testing.T) {
	c := &clock{at: time.Now()}
	w := setUp(t, daemontest.Start(t, daemon.Config{Now: c.Now}))
	_, files, _ := w.export(t)
	if status, body := w.download(t, *files.BlobURL+"?"+*files.BlobSasKey); status != 200 || string(body) != "[]\n" {
		t.Errorf("the list without jobs: %d %s", status, body)
	}
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	w.cluster.answer("Restore", refused("UserErrorNamespaceNotFound", "there is no namespace shop", "Make it."))
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	w.finish(t, w.start(t, "/restore", strings.NewReplacer("POINT", point, "CLUSTER", w.cluster.id).Replace(guideRestore)))
	_, files, operation := w.export(t)

	status, body := w.download(t, *files.BlobURL+"?"+*files.BlobSasKey)
	var jobs []any
	if err := json.Unmarshal(body, &jobs); err != nil || status != 200 {
		t.Fatalf("the list: %d %v %s", status, err, body)
	}
	listed, err := json.Marshal(w.Do("GET", w.vault+"/backupJobs", nil).Want(200).At("value"))
	if err != nil {
		t.Fatal(err)
	}
	exported, err := json.Marshal(jobs)
	if err != nil || len(jobs) != 2 || string(exported) != string(listed) {
		t.Errorf("%d jobs were exported: %s, %v; the list has %s", len(jobs), exported, err, listed)
	}

	status, body = w.download(t, *files.ExcelFileBlobURL+"?"+*files.ExcelFileBlobSasKey)
	book, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil || status != 200 {
		t.Fatalf("the workbook: %d %v", status, err)
	}
	sheet, err := book.Open("xl/worksheets/sheet1.xml")
	if err != nil {
		t.Fatal(err)
	}
	table, err := io.ReadAll(sheet)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Backup instance", "Completed", "Failed", w.cluster.id, policyName, "UserErrorNamespaceNotFound: there is no namespace shop"} {
		if !strings.Contains(string(table), want) {
			t.Errorf("the workbook has no %q: %s", want, table)
		}
	}

	for name, address := range map[string]string{"without the key": *files.BlobURL, "with another blob's key": strings.Replace(*files.BlobURL, "/export", "/exporu", 1) + "?" + *files.BlobSasKey} {
		if status, _ := w.download(t, address); status/100 != 4 {
			t.Errorf("%s: %d", name, status)
		}
	}
	account := strings.Split(strings.TrimPrefix(*files.BlobURL, w.Service.BlobURL+"/"), "/")[0]
	taken := w.Do("PUT", w.Subscription+"/resourceGroups/"+group+"/providers/Microsoft.Storage/storageAccounts/"+account, accountBody)
	if taken.Status != 409 || taken.At("error", "code") != "StorageAccountAlreadyTaken" {
		t.Errorf("the export's account: %d %v", taken.Status, taken.JSON)
	}
	other := w.Subscription + "/resourceGroups/" + group + "/providers/Microsoft.DataProtection/backupVaults/other"
	w.Do("PUT", other, `{"location":"eastus","properties":{"storageSettings":[{"datastoreType":"VaultStore","type":"LocallyRedundant"}]}}`).Want(201)
	elsewhere := strings.Replace(operation, w.vault, other, 1)
	wantRefusal(t, w.Do("GET", elsewhere, nil), 404, "UserErrorGenericResourceNotFound", other+"/backupJobs/operations", "There is no export")

	c.advance(time.Hour)
	token := w.Token(w.Env["AZURE_CLIENT_ID"], w.Env["AZURE_CLIENT_SECRET"], "https://management.azure.com") // the old one has expired, too
	wantRefusal(t, w.As(token, "GET", operation, nil), 404, "UserErrorGenericResourceNotFound", w.vault+"/backupJobs/operations", "There is no export")
	if status, _ := w.download(t, *files.BlobURL+"?"+*files.BlobSasKey); status != 403 {
		t.Errorf("after an hour: %d", status)
	}
	if err := w.Service.ExpireExports(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys, err := w.Service.BlobKeys(t.Context(), account); err == nil {
		t.Errorf("the account has %d keys still", len(keys))
	}
}

// TestExportsGoWithTheirVault deletes a vault that has one.
func TestExportsGoWithTheirVault(t *testing.T) {
	w := setUp(t, daemontest.Start(t, daemon.Config{}))
	_, files, operation := w.export(t)
	w.Do("DELETE", w.vault, nil).Want(202)
	if status, _ := w.download(t, *files.BlobURL+"?"+*files.BlobSasKey); status/100 != 4 {
		t.Errorf("the blob: %d", status)
	}
	if a := w.Do("GET", operation, nil); a.Status != 404 {
		t.Errorf("the result: %d %v", a.Status, a.JSON)
	}
	wantRefusal(t, w.Do("POST", w.vault+"/exportBackupJobs", nil), 404, "ResourceNotFound", w.vault, "was not found")
}
