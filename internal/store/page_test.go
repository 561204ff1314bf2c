package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

// readAll reads a list by pages of so many, and adds something between two of them.
func readAll(t *testing.T, db *store.DB, limit int, page func(*store.Tx, store.Page) (names []string, next string, err error), between func(n int)) []string {
	t.Helper()
	var all []string
	p := store.Page{Limit: limit}
	for n := 0; ; n++ {
		var next string
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			names, after, err := page(tx, p)
			if len(names) > limit {
				t.Errorf("a page of %d has %d", limit, len(names))
			}
			all, next = append(all, names...), after
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if next == "" {
			return all
		}
		p.After = next
		between(n)
	}
}

func TestPagesOfJobsAreStable(t *testing.T) {
	begun := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	vault := group + "/providers/Microsoft.X/vaults/v"
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		add := func(name string, at time.Time, status string) {
			t.Helper()
			update(t, db, func(tx *store.Tx) error {
				return tx.PutJob(store.Job{Name: name, Vault: vault.Key(), Instance: "/i", Source: "/c", Operation: "OnDemandBackup", Status: status, Started: at, Ended: at.Add(time.Minute), Body: []byte(`{}`)})
			})
		}
		// Several begin at the same moment: the name tells them apart.
		var want []string
		for i := range 7 {
			name := fmt.Sprintf("job-%d", i)
			add(name, begun.Add(time.Duration(i/3)*time.Hour), []string{"Completed", "Failed"}[i%2])
		}
		want = []string{"job-6", "job-3", "job-4", "job-5", "job-0", "job-1", "job-2"}
		read := func(f store.JobFilter, between func(int)) []string {
			t.Helper()
			return readAll(t, db, 2, func(tx *store.Tx, p store.Page) (names []string, next string, err error) {
				rows, next, err := tx.JobsPage(vault, f, p)
				for _, r := range rows {
					names = append(names, r.Name)
				}
				return names, next, err
			}, between)
		}
		if got := read(store.JobFilter{}, func(n int) { add(fmt.Sprintf("new-%d", n), begun.Add(24*time.Hour), "Completed") }); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		nothing := func(int) {}
		for what, c := range map[string]struct {
			f    store.JobFilter
			want []string
		}{
			"a status":     {store.JobFilter{Status: "failed"}, []string{"job-3", "job-5", "job-1"}},
			"an operation": {store.JobFilter{Operations: []string{"Restore", "ScheduledBackup"}}, nil},
			"a time":       {store.JobFilter{StartedFrom: begun.Add(time.Hour), EndedTo: begun.Add(2 * time.Hour)}, []string{"job-3", "job-4", "job-5"}},
			"an instance":  {store.JobFilter{Instance: "/other"}, nil},
		} {
			if got := read(c.f, nothing); !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, want %v", what, got, c.want)
			}
		}
		for _, after := range []string{"x", "12", "x y"} {
			err := db.View(t.Context(), func(tx *store.Tx) error {
				_, _, err := tx.JobsPage(vault, store.JobFilter{}, store.Page{Limit: 1, After: after})
				return err
			})
			if !errors.Is(err, store.ErrPosition) {
				t.Errorf("the position %q: %v, want ErrPosition", after, err)
			}
		}
		update(t, db, func(tx *store.Tx) error {
			if at, full, err := tx.JobStarted("/i", "OnDemandBackup", begun.Add(-time.Second), 10); err != nil || !full || !at.Equal(begun) && !at.After(begun) {
				t.Errorf("the tenth job from the newest began at %s: %v, %v", at, full, err)
			}
			if old, err := tx.JobsEnded(begun.Add(2 * time.Minute)); err != nil || !old {
				t.Errorf("there are old jobs: %v, %v", old, err)
			}
			if err := tx.ForgetJobs(begun.Add(2 * time.Minute)); err != nil {
				return err
			}
			_, err := tx.Job("job-1")
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("an old job: %v", err)
			}
			return nil
		})
	})
}

func TestPagesOfResourcesAreStable(t *testing.T) {
	vault := group + "/providers/Microsoft.X/vaults/v"
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		for _, name := range []string{"a-1", "B", "a", "c_", "a1"} {
			put(t, db, vault+arm.ID("/items/"+name))
		}
		put(t, db, vault+"/others/b")
		for what, list := range map[string]func(*store.Tx, store.Page) ([]store.Resource, string, error){
			"children": func(tx *store.Tx, p store.Page) ([]store.Resource, string, error) {
				return tx.ChildrenPage(vault, "Microsoft.X/vaults/items", p)
			},
			"under": func(tx *store.Tx, p store.Page) ([]store.Resource, string, error) {
				return tx.UnderPage(group, "Microsoft.X/vaults/items", p)
			},
		} {
			got := readAll(t, db, 2, func(tx *store.Tx, p store.Page) (names []string, next string, err error) {
				rows, next, err := list(tx, p)
				for _, r := range rows {
					names = append(names, r.ID.Name())
				}
				return names, next, err
			}, func(n int) { put(t, db, vault+arm.ID(fmt.Sprintf("/items/A-%s-%d", what, n))) })
			if want := []string{"a", "a-1"}; !slices.Equal(got[:2], want) || len(slices.Compact(slices.Sorted(slices.Values(got)))) != len(got) || !slices.Contains(got, "c_") || !slices.Contains(got, "B") {
				t.Errorf("%s: %v", what, got)
			}
		}
	})
}
