package bundle

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"filippo.io/age"
)

// RestoreOutcome is one line of a restore's report: what became of one object of the recovery point, or, with the results RestoreWarning
// and RestoreNote, something else worth saying about it.
type RestoreOutcome struct {
	// Resource is "plural.group/namespace/name", as in Outcome.
	Resource string        `json:"resource"`
	Result   RestoreResult `json:"outcome"`
	// Code is stable and without spaces; empty for RestoreCreated.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Action  string `json:"action,omitempty"`
	// Count is the number of objects that the line stands for, where it is not one.
	Count int64 `json:"count,omitempty"`
}

// RestoreResult says what became of an object in a restore.
type RestoreResult string

// The results. Every object has one line with one of the first four; RestoreNotSelected has one line that counts them all.
const (
	RestoreCreated     RestoreResult = "Created"
	RestoreSkipped     RestoreResult = "Skipped"
	RestoreFailed      RestoreResult = "Failed"
	RestoreNotSelected RestoreResult = "NotSelected"
	RestoreWarning     RestoreResult = "Warning"
	RestoreNote        RestoreResult = "Note"
)

// RestoreReportName returns the full name of the report of one attempt of a restore. It lies in the recovery point's folder, so that it
// goes away with the recovery point, but is no file of the bundle.
func RestoreReportName(prefix, id, restore string, attempt int32) string {
	return Folder(prefix, id) + restoreReportFile(restore, attempt)
}

func restoreReportFile(restore string, attempt int32) string {
	return fmt.Sprintf("restores/%s/a%d/report%s", restore, attempt, suffix)
}

// RestoreReport begins the report of one attempt of a restore, encrypted to the recovery point's recipient. Lines of it are
// RestoreOutcomes. Nothing is stored if no line is written.
func RestoreReport(ctx context.Context, store Creator, prefix string, rp RecoveryPoint, restore string, attempt int32) (*Lines, error) {
	w, err := NewWriter(store, prefix, rp.ID, attempt, rp.Recipient)
	if err != nil {
		return nil, err
	}
	return &Lines{w: w, ctx: ctx, name: restoreReportFile(restore, attempt), done: func(File) {}}, nil
}

// ReadRestoreReport gives the lines of a restore's report.
func ReadRestoreReport(ctx context.Context, store Opener, name, identity string) iter.Seq2[RestoreOutcome, error] {
	return func(yield func(RestoreOutcome, error) bool) {
		key, err := age.ParseX25519Identity(identity)
		if err != nil {
			yield(RestoreOutcome{}, fmt.Errorf("%s: the identity is not an age X25519 private key", name))
			return
		}
		body, err := store.Open(ctx, name)
		if err != nil {
			yield(RestoreOutcome{}, fmt.Errorf("open %s: %w", name, err))
			return
		}
		// Reading is over when the body is closed; an error of closing could tell nothing more.
		defer func() { _ = body.Close() }()
		for line, err := range unpackedLines(body, key) {
			var o RestoreOutcome
			if err == nil {
				err = json.Unmarshal(line, &o)
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}
