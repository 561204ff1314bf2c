package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

// counter reads a number and count adds one to it: what is lost when two writers do not take turns.
func counter(tx *store.Tx) (int, error) {
	r, err := tx.Get(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(r.Body))
}

func count(tx *store.Tx) error {
	n, err := counter(tx)
	if err != nil {
		return err
	}
	if err := tx.Delete(group); err != nil {
		return err
	}
	return tx.Put(&store.Resource{ID: group, Body: []byte(strconv.Itoa(n + 1))})
}

func putCounter(t *testing.T, db *store.DB) {
	t.Helper()
	update(t, db, func(tx *store.Tx) error { return tx.Put(&store.Resource{ID: group, Body: []byte("0")}) })
}

func wantCount(t *testing.T, db *store.DB, want int) {
	t.Helper()
	var got int
	if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
		got, err = counter(tx)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("counted %d, want %d", got, want)
	}
}

func TestReplicasTakeTurns(t *testing.T) {
	database := storetest.PostgreSQL(t)
	replicas := []*store.DB{storetest.Open(t, database, time.Now), storetest.Open(t, database, time.Now)}
	putCounter(t, replicas[0])
	const writers, each = 4, 10
	var all sync.WaitGroup
	for _, db := range replicas {
		for range writers {
			all.Go(func() {
				for range each {
					if err := db.Update(t.Context(), count); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	all.Wait()
	wantCount(t, replicas[1], len(replicas)*writers*each)
}

func TestViewSeesOneInstant(t *testing.T) {
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		putCounter(t, db)
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			before, err := counter(tx)
			if err != nil {
				return err
			}
			update(t, db, count)
			if after, err := counter(tx); err != nil || after != before {
				t.Errorf("the view saw %d and then %d, %v", before, after, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		wantCount(t, db, 1)
	})
}

func TestViewChangesNothing(t *testing.T) {
	database := storetest.PostgreSQL(t)
	db := storetest.Open(t, database, time.Now)
	putCounter(t, db)
	if err := db.View(t.Context(), count); err == nil || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v, want an error", err)
	}
	wantCount(t, db, 0)
}

func TestChangedTellsOfOtherReplicas(t *testing.T) {
	database := storetest.PostgreSQL(t)
	one, two := storetest.Open(t, database, time.Now), storetest.Open(t, database, time.Now)
	putCounter(t, one)
	for want := range 5 {
		// two may have begun to listen after the first commit: what it waits for is what it reads.
		update(t, one, count)
		awaitCount(t, two, want+1)
	}
}

// awaitCount waits as callers do: for changes, until it reads what it wants. Without being told it would wait for ever.
func awaitCount(t *testing.T, db *store.DB, want int) {
	t.Helper()
	for {
		changed := db.Changed()
		var got int
		if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
			got, err = counter(tx)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got == want {
			return
		}
		<-changed
	}
}

func TestReplicaThatStandsStillLosesItsTurn(t *testing.T) {
	database := storetest.PostgreSQL(t)
	frozen := storetest.Open(t, database+"&idle_in_transaction_session_timeout=300", time.Now)
	other := storetest.Open(t, database, time.Now)
	putCounter(t, other)
	holds, thaw, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- frozen.Update(context.Background(), func(tx *store.Tx) error {
			if err := count(tx); err != nil {
				return err
			}
			close(holds)
			<-thaw
			return nil
		})
	}()
	<-holds
	update(t, other, count)
	close(thaw)
	if err := <-done; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the one that stood still: %v, want ErrUnavailable", err)
	}
	wantCount(t, other, 1)
	update(t, frozen, count)
	wantCount(t, other, 2)
}

func TestWhoWaitsTooLongIsTold(t *testing.T) {
	database := storetest.PostgreSQL(t)
	busy := storetest.Open(t, database, time.Now)
	waits := storetest.Open(t, database+"&lock_timeout=100", time.Now)
	update(t, busy, func(*store.Tx) error {
		if err := waits.Update(t.Context(), func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		return nil
	})
}

func TestServerThatRestartsIsFoundAgain(t *testing.T) {
	server := storetest.Start(t)
	database := server.Database(t)
	one, two := storetest.Open(t, database, time.Now), storetest.Open(t, database, time.Now)
	putCounter(t, one)
	awaitCount(t, two, 0)
	var missed <-chan struct{}
	server.Restart(t, func() {
		for name, err := range map[string]error{
			"update": one.Update(t.Context(), count),
			"view":   one.View(t.Context(), func(tx *store.Tx) error { _, err := counter(tx); return err }),
			"open":   opens(t, database),
		} {
			if !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s: %v, want ErrUnavailable", name, err)
			}
			if err != nil && strings.Contains(err.Error(), server.Password()) {
				t.Errorf("%s tells the password: %v", name, err)
			}
		}
		missed = two.Changed()
	})
	// A connection of before is found to be broken by the first who uses it.
	for {
		err := one.Update(t.Context(), count)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	<-missed
	for {
		if err := two.View(t.Context(), func(tx *store.Tx) error { _, err := counter(tx); return err }); err == nil {
			break
		} else if !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	update(t, one, count)
	awaitCount(t, two, 2)
}

func opens(t *testing.T, database string) error {
	db, err := store.Open(t.Context(), database, time.Now)
	if err == nil {
		err = db.Close()
	}
	return err
}

func TestReplicasStartAtOnceFromNothing(t *testing.T) {
	database := storetest.PostgreSQL(t)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if err := opens(t, database); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestPasswordIsNeverTold(t *testing.T) {
	good, err := url.Parse(storetest.PostgreSQL(t))
	if err != nil {
		t.Fatal(err)
	}
	const password = "hunter2%41"
	with := func(change func(*url.URL)) string {
		u := *good
		u.User = url.UserPassword("cairn", "hunter2A")
		change(&u)
		return strings.Replace(u.String(), "hunter2A", password, 1)
	}
	for name, database := range map[string]string{
		"a wrong password": with(func(*url.URL) {}),
		"no such server":   with(func(u *url.URL) { u.RawQuery = "host=/nowhere" }),
		"a bad port":       "postgres://cairn:" + password + "@localhost:port/x",
		"a bad escape":     "postgres://cairn:" + password + "%zz@localhost/x",
		"a slash":          "postgres://cairn:" + password + "/x@localhost/x",
		"a bad setting":    with(func(u *url.URL) { u.RawQuery += "&sslmode=nonsense" }),
		"another setting":  with(func(u *url.URL) { u.RawQuery += "&nonsense=1" }),
		"in the query":     "postgres://localhost:1/x?password=" + password,
	} {
		err := opens(t, database)
		if err == nil {
			t.Errorf("%s: it was opened", name)
		} else if strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDatabaseOfAnotherEncodingIsRefused(t *testing.T) {
	database := storetest.PostgreSQL(t)
	db := raw(t, database)
	if _, err := db.Exec(`CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'`); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/latin1"
	if err := opens(t, u.String()); err == nil || !strings.Contains(err.Error(), "UTF8") {
		t.Errorf("%v", err)
	}
}

// raw is a database as others see it.
func raw(t *testing.T, database string) *sql.DB {
	t.Helper()
	driver := "sqlite"
	if store.IsURL(database) {
		driver = "pgx"
	}
	db, err := sql.Open(driver, database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestDatabaseOfANewerVersionIsRefused(t *testing.T) {
	storetest.Each(t, func(t *testing.T, database string) {
		if err := opens(t, database); err != nil {
			t.Fatal(err)
		}
		if _, err := raw(t, database).Exec(`INSERT INTO migrations (number, name, checksum, applied) VALUES (9999, '9999_future.sql', '', 0)`); err != nil {
			t.Fatal(err)
		}
		if err := opens(t, database); err == nil || !strings.Contains(err.Error(), "newer version") {
			t.Errorf("%v", err)
		}
	})
}

func TestTextThatCannotBeStoredIsRefused(t *testing.T) {
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		for _, text := range []string{"a\x00b", "a\xffb"} {
			for name, f := range map[string]func(*store.Tx) error{
				"put":    func(tx *store.Tx) error { return tx.Put(&store.Resource{ID: group, Body: []byte(text)}) },
				"find":   func(tx *store.Tx) error { _, err := tx.PrincipalByClient(text); return err },
				"single": func(tx *store.Tx) error { _, err := tx.Setting(text); return err },
			} {
				if err := db.Update(t.Context(), f); !errors.Is(err, store.ErrText) {
					t.Errorf("%s %q: %v, want ErrText", name, text, err)
				}
			}
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	for name, database := range map[string]string{"SQLite": storetest.SQLite(b), "PostgreSQL": storetest.PostgreSQL(b)} {
		b.Run(name, func(b *testing.B) {
			db := storetest.Open(b, database, time.Now)
			i := 0
			for b.Loop() {
				i++
				if err := db.Update(b.Context(), func(tx *store.Tx) error {
					return tx.Put(&store.Resource{ID: group.Child("x", fmt.Sprint(i)), Body: []byte(`{}`)})
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
