package service

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/xlsx"
)

const (
	operationExport = "ExportJobs"
	// exportLife is how long an export can be read; then it is removed.
	exportLife = time.Hour
	// exportContainer is the container of an export.
	exportContainer = "reportcontainer"
)

// ExportedJobs is where the two forms of an export are: a JSON list of jobs, and an Excel workbook. A key is a blob's query string, after "?".
type ExportedJobs struct {
	BlobURL    string `json:"blobUrl"`
	BlobSASKey string `json:"blobSasKey"`
	ExcelURL   string `json:"excelFileBlobUrl"`
	ExcelKey   string `json:"excelFileBlobSasKey"`
}

// ExportJobs writes all of a vault's jobs, newest first, to blobs. The operation has ended: ExportedJobs tells where they are, for an hour.
func (s *Service) ExportJobs(ctx context.Context, vaultID arm.ID) (vault backup.VaultResource, op store.Operation, err error) {
	var random [9]byte
	// Reading random bytes does not fail: the runtime ends the process instead.
	_, _ = rand.Read(random[:])
	export := store.Export{Operation: newOperationID(), Account: "export" + hex.EncodeToString(random[:]), Key: newKey(), Expires: s.Now().Add(exportLife)}
	// The export is noted first, so that what a crash leaves of it is removed when it expires.
	if err := s.DB.Update(ctx, func(tx *store.Tx) error {
		var err error
		if vault, _, err = Load[backup.VaultResource](tx, vaultID); err != nil {
			return err
		}
		export.Vault = vault.ID.Key()
		return tx.PutExport(export)
	}); err != nil {
		return vault, op, err
	}
	if _, err := s.Blobs.CreateContainer(export.Account, exportContainer); err != nil {
		return vault, op, err
	}
	for _, file := range []struct {
		name, contentType string
		write             func(w io.Writer) error
	}{
		{exportName(export), "application/json", func(w io.Writer) error { return s.writeJobs(ctx, vault.ID, w) }},
		{excelName(export), "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", func(w io.Writer) error { return s.writeExcel(ctx, vault.ID, w) }},
	} {
		if err := s.Blobs.Put(export.Account, exportContainer, file.name, file.contentType, file.write); err != nil {
			return vault, op, fmt.Errorf("export jobs of %s: %w", vault.ID, err)
		}
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		// The vault may have gone meanwhile, and the export with it.
		if _, err := tx.Export(export.Operation); errors.Is(err, store.ErrNotFound) {
			return arm.NotFound(vault.ID)
		} else if err != nil {
			return err
		}
		op = store.Operation{ID: export.Operation, Kind: operationExport, Resource: vault.ID, Status: arm.OperationSucceeded, Started: tx.Now(), Ended: tx.Now()}
		return tx.PutOperation(op)
	})
	return vault, op, err
}

// exportName and excelName are an export's blobs.
func exportName(e store.Export) string {
	return "exportjobsreport" + strings.TrimPrefix(e.Account, "export")
}
func excelName(e store.Export) string { return exportName(e) + "_ExcelFile.xlsx" }

// eachJob calls f with a vault's jobs, newest first. They are read page by page, so that neither memory nor a long transaction is needed.
func (s *Service) eachJob(ctx context.Context, vault arm.ID, f func(*JobResource) error) error {
	page := store.Page{Limit: 1000}
	for {
		jobs, next, err := s.Jobs(ctx, vault, nil, page)
		if err != nil {
			return err
		}
		for i := range jobs {
			if err := f(&jobs[i]); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		page.After = next
	}
}

// writeJobs writes a JSON list.
func (s *Service) writeJobs(ctx context.Context, vault arm.ID, w io.Writer) error {
	before := "["
	if err := s.eachJob(ctx, vault, func(job *JobResource) error {
		body, err := json.Marshal(job)
		if err == nil {
			_, err = io.WriteString(w, before+"\n"+string(body))
		}
		before = ","
		return err
	}); err != nil {
		return err
	}
	end := "\n]\n"
	if before == "[" {
		end = "[]\n"
	}
	_, err := io.WriteString(w, end)
	return err
}

// writeExcel writes a table with what a reader of jobs looks for.
func (s *Service) writeExcel(ctx context.Context, vault arm.ID, w io.Writer) error {
	book := xlsx.NewWriter(w, "Jobs", "Job ID", "Operation", "Status", "Backup instance", "Datasource", "Policy", "Start time (UTC)", "End time (UTC)",
		"Duration (seconds)", "Triggered by user", "Warnings", "Errors")
	if err := s.eachJob(ctx, vault, func(job *JobResource) error {
		p := &job.Properties
		end, seconds := "", any("")
		if p.EndTime != nil {
			end, seconds = p.EndTime.UTC().Format(time.DateTime), p.EndTime.Sub(p.StartTime).Round(time.Millisecond).Seconds()
		}
		var failures []string
		for _, e := range p.ErrorDetails {
			failures = append(failures, e.Code+": "+e.Message)
		}
		return book.Row(job.Name, p.Operation, p.Status, p.BackupInstanceFriendlyName, p.DataSourceID, p.PolicyName, p.StartTime.UTC().Format(time.DateTime), end, seconds,
			p.IsUserTriggered, len(p.ExtendedInfo.WarningDetails), strings.Join(failures, "\n"))
	}); err != nil {
		return err
	}
	return book.Close()
}

// ExportedJobs is the result of an export, signed anew until the export expires.
func (s *Service) ExportedJobs(ctx context.Context, vault arm.ID, operation string) (ExportedJobs, error) {
	var export store.Export
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var err error
		export, err = tx.Export(operation)
		if err == nil {
			_, err = tx.Operation(operation)
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && (export.Vault != vault.Key() || !s.Now().Before(export.Expires)) {
		return ExportedJobs{}, (&arm.Error{Status: 404, Code: "UserErrorGenericResourceNotFound", Target: string(vault.Child("backupJobs", "operations")),
			Message: "There is no export of jobs with this ID here. An export can be read until an hour after it was asked for."}).WithAction("Make another export.")
	} else if err != nil {
		return ExportedJobs{}, err
	}
	key, err := blob.ContainerSAS(export.Account, export.Key, exportContainer, "r", export.Expires)
	base := s.BlobURL + "/" + export.Account + "/" + exportContainer + "/"
	return ExportedJobs{BlobURL: base + exportName(export), BlobSASKey: key, ExcelURL: base + excelName(export), ExcelKey: key}, err
}

// ExpireExports removes exports whose time is over; clearAccounts removes their blobs.
func (s *Service) ExpireExports(ctx context.Context) error {
	var expired []store.Export
	find := func(tx *store.Tx) (err error) {
		expired, err = tx.ExpiredExports()
		return err
	}
	if err := s.DB.View(ctx, find); err != nil || len(expired) == 0 {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		if err := find(tx); err != nil {
			return err
		}
		for _, e := range expired {
			if err := tx.ForgetExport(e); err != nil {
				return err
			}
		}
		return nil
	})
}
