package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

func update(t *testing.T, db *store.DB, f func(*store.Tx) error) {
	t.Helper()
	if err := db.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

const group = arm.ID("/subscriptions/S/resourceGroups/G")

func put(t *testing.T, db *store.DB, ids ...arm.ID) {
	t.Helper()
	update(t, db, func(tx *store.Tx) error {
		for _, id := range ids {
			if err := tx.Put(&store.Resource{ID: id, Body: []byte(`{}`)}); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestResourceIsFoundInAnySpellingAndKeepsItsCreators(t *testing.T) {
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		put(t, db, group+"/providers/Microsoft.X/vaults/Vault")
		update(t, db, func(tx *store.Tx) error {
			r, err := tx.Get("/SUBSCRIPTIONS/s/resourcegroups/g/providers/microsoft.x/VAULTS/vault")
			if err != nil {
				return err
			}
			if want := group + "/providers/Microsoft.X/vaults/Vault"; r.ID != want {
				t.Errorf("ID %s, want %s", r.ID, want)
			}
			return nil
		})
	})
}

func TestPutRefusesAStaleETag(t *testing.T) {
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		id := group + "/providers/Microsoft.X/vaults/v"
		put(t, db, id)
		update(t, db, func(tx *store.Tx) error {
			first, err := tx.Get(id)
			if err != nil {
				return err
			}
			second := first
			if err := tx.Save(&first, map[string]int{"n": 1}); err != nil {
				return err
			}
			if first.ETag == second.ETag {
				t.Error("the ETag did not change")
			}
			if err := tx.Save(&second, map[string]int{"n": 2}); !errors.Is(err, store.ErrConflict) {
				t.Errorf("a stale ETag: %v, want ErrConflict", err)
			}
			if err := tx.Put(&store.Resource{ID: id, Body: []byte(`{}`)}); !errors.Is(err, store.ErrConflict) {
				t.Errorf("a second new one: %v, want ErrConflict", err)
			}
			v, _, err := store.Load[map[string]int](tx, id)
			if err != nil {
				return err
			}
			if v["n"] != 1 {
				t.Errorf("stored %v, want the first writer's", v)
			}
			if err := tx.Delete(id); err != nil {
				return err
			}
			if err := tx.Delete(id); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("second delete: %v, want ErrNotFound", err)
			}
			return nil
		})
	})
}

func TestLists(t *testing.T) {
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		vault := group + "/providers/Microsoft.X/vaults/v"
		put(t, db, group, vault, vault+"/items/b", vault+"/items/a", vault+"-2", vault+"-2/items/c", group+"-2/providers/Microsoft.X/vaults/w",
			vault+"/providers/Microsoft.Y/notes/n")
		var got struct{ Children, All, Under, UnderAll []string }
		update(t, db, func(tx *store.Tx) error {
			for _, q := range []struct {
				into *[]string
				list func() ([]store.Resource, error)
			}{
				{&got.Children, func() ([]store.Resource, error) { return tx.Children(vault, "microsoft.x/vaults/ITEMS") }},
				{&got.All, func() ([]store.Resource, error) { return tx.ByType("Microsoft.X/vaults") }},
				{&got.Under, func() ([]store.Resource, error) { return tx.Under(group, "Microsoft.X/vaults") }},
				{&got.UnderAll, func() ([]store.Resource, error) { return tx.Under(vault, "") }},
			} {
				found, err := q.list()
				if err != nil {
					return err
				}
				for _, r := range found {
					*q.into = append(*q.into, r.ID.Name())
				}
			}
			return nil
		})
		want := struct{ Children, All, Under, UnderAll []string }{
			[]string{"a", "b"}, []string{"w", "v", "v-2"}, []string{"v", "v-2"}, []string{"a", "b", "n"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFailedUpdateLeavesNoTrace(t *testing.T) {
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		failure := errors.New("no")
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.Put(&store.Resource{ID: group, Body: []byte(`{}`)}); err != nil {
				return err
			}
			return failure
		})
		if !errors.Is(err, failure) {
			t.Fatal(err)
		}
		err = db.View(t.Context(), func(tx *store.Tx) error { _, err := tx.Get(group); return err })
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%v, want ErrNotFound", err)
		}
	})
}

func TestChangedTellsOfACommit(t *testing.T) {
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		changed := db.Changed()
		select {
		case <-changed:
			t.Fatal("told of a change that was not")
		default:
		}
		put(t, db, group)
		<-changed
	})
}

func TestSecretsRotate(t *testing.T) {
	storetest.Each(t, secretsRotate)
}

func secretsRotate(t *testing.T, database string) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	db := storetest.Open(t, database, func() time.Time { return now })
	update(t, db, func(tx *store.Tx) error {
		if err := tx.PutPrincipal(store.Principal{ID: "p", Client: "c", Kind: "k", Name: "n", Owner: group.Key()}); err != nil {
			return err
		}
		return tx.PutSecret("p", "one", time.Time{})
	})
	now = now.Add(time.Minute)
	update(t, db, func(tx *store.Tx) error {
		if err := tx.ExpireSecrets("p", now.Add(time.Hour)); err != nil {
			return err
		}
		return tx.PutSecret("p", "two", time.Time{})
	})
	check := func(hash string, want bool) {
		t.Helper()
		update(t, db, func(tx *store.Tx) error {
			valid, _, err := tx.SecretValid("p", hash)
			if valid != want {
				t.Errorf("secret %s valid %v, want %v", hash, valid, want)
			}
			return err
		})
	}
	check("one", true)
	check("two", true)
	check("three", false)
	now = now.Add(2 * time.Hour)
	check("one", false)
	check("two", true)
	update(t, db, func(tx *store.Tx) error { return tx.DeletePrincipalsOf(group) })
	check("two", false)
}

// TestChild is no test of its own: it is the process that TestKilledWriterLosesNothing kills.
func TestChild(t *testing.T) {
	database := os.Getenv("CAIRN_TEST_STATE")
	if database == "" {
		return
	}
	db, err := store.Open(context.Background(), database, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		id := group + arm.ID(fmt.Sprintf("/providers/Microsoft.X/vaults/v%06d", i))
		if err := db.Update(context.Background(), func(tx *store.Tx) error {
			// Two rows that belong together: both or none may be there afterwards.
			if err := tx.Put(&store.Resource{ID: id, Body: []byte(`{}`)}); err != nil {
				return err
			}
			return tx.Put(&store.Resource{ID: id.Child("items", "i"), Body: []byte(`{}`)})
		}); err != nil {
			t.Fatal(err)
		}
		fmt.Println(i)
	}
}

func TestKilledWriterLosesNothing(t *testing.T) { storetest.Each(t, killedWriterLosesNothing) }

func killedWriterLosesNothing(t *testing.T, database string) {
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.v")
	child.Env = append(os.Environ(), "CAIRN_TEST_STATE="+database)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := -1
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
		if err != nil {
			continue // the test framework's own lines
		}
		acknowledged = n
		if n == 50 {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
	if acknowledged < 50 {
		t.Fatalf("the child acknowledged %d writes only", acknowledged)
	}
	db := storetest.Open(t, database, time.Now)
	var vaults, items int
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		v, err := tx.ByType("Microsoft.X/vaults")
		if err != nil {
			return err
		}
		i, err := tx.ByType("Microsoft.X/vaults/items")
		vaults, items = len(v), len(i)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if vaults < acknowledged+1 || vaults != items {
		t.Errorf("%d acknowledged, found %d and %d", acknowledged+1, vaults, items)
	}
}
