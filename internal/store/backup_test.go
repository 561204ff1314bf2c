package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

func TestRequestsOfAnInstanceTakeTurns(t *testing.T) {
	storetest.Each(t, requestsOfAnInstanceTakeTurns)
}

func requestsOfAnInstanceTakeTurns(t *testing.T, database string) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	db := storetest.Open(t, database, func() time.Time { return now })
	put := func(r store.Request) error {
		return db.Update(context.Background(), func(tx *store.Tx) error { return tx.PutRequest(r) })
	}
	add := func(r store.Request) error {
		return db.Update(context.Background(), func(tx *store.Tx) error { return tx.AddRequest(r) })
	}
	wanted := func() (names []string) {
		t.Helper()
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			found, err := tx.WantedRequests(arm.ID("/c"))
			for _, r := range found {
				names = append(names, r.Name)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return names
	}
	first := store.Request{Name: "1", Kind: "Backup", Cluster: "/c", Instance: "/i", Created: now, Progressed: now}
	second := store.Request{Name: "2", Kind: "Restore", Cluster: "/c", Instance: "/i", Created: now, Progressed: now}
	if err := add(first); err != nil {
		t.Fatal(err)
	}
	if err := add(second); !errors.Is(err, store.ErrConflict) {
		t.Errorf("two at once: %v", err)
	}
	if err := add(store.Request{Name: "v", Kind: "ValidateForRestore", Cluster: "/other", Instance: "/i", Created: now}); err != nil {
		t.Errorf("a validation beside a backup: %v", err)
	}
	first.Status = []byte(`{"phase":"InProgress"}`)
	first.GivenUp = now
	if err := put(first); err != nil {
		t.Fatal(err)
	}
	if err := add(second); err != nil {
		t.Errorf("after the first was given up: %v", err)
	}
	if names := wanted(); len(names) != 2 {
		t.Errorf("one that was given up but begun is wanted still: %v", names)
	}
	first.Ended, second.GivenUp = now, now
	if err := errors.Join(put(first), put(second)); err != nil {
		t.Fatal(err)
	}
	if names := wanted(); len(names) != 0 {
		t.Errorf("wanted: %v", names)
	}
	now = now.Add(31 * 24 * time.Hour)
	if err := db.Update(t.Context(), (*store.Tx).ForgetRequests); err != nil {
		t.Fatal(err)
	}
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Request("1")
		return err
	}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an old request: %v", err)
	}
}
