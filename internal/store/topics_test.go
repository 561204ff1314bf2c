package store_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

const clusterOne, clusterTwo = group + "/providers/Microsoft.ContainerService/managedClusters/one", group + "/providers/Microsoft.ContainerService/managedClusters/two"

// fired says whether a channel is closed.
func fired(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestAChangeWakesTheClustersThatItConcerns and no others.
func TestAChangeWakesTheClustersThatItConcerns(t *testing.T) {
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		request := store.Request{Name: "1", Kind: "Backup", Cluster: clusterOne.Key(), Instance: "/i", Created: time.Now()}
		for _, c := range []struct {
			name     string
			change   func(*store.Tx) error
			one, two bool
		}{
			{"a cluster", func(tx *store.Tx) error { return tx.Put(&store.Resource{ID: clusterOne, Body: []byte(`{}`)}) }, true, false},
			{"what is below it", func(tx *store.Tx) error {
				return tx.Put(&store.Resource{ID: clusterTwo + "/providers/Microsoft.X/extensions/e", Body: []byte(`{}`)})
			}, false, true},
			{"another resource", func(tx *store.Tx) error { return tx.Put(&store.Resource{ID: group, Body: []byte(`{}`)}) }, false, false},
			{"a storage account", func(tx *store.Tx) error {
				return tx.Put(&store.Resource{ID: group + "/providers/Microsoft.Storage/storageAccounts/a", Body: []byte(`{}`)})
			}, true, true},
			{"a request", func(tx *store.Tx) error { return tx.AddRequest(request) }, true, false},
			{"its progress", func(tx *store.Tx) error { request.Status = []byte(`{}`); return tx.PutRequest(request) }, false, false},
			{"its withdrawal", func(tx *store.Tx) error { request.Withdrawn = time.Now(); return tx.PutRequest(request) }, true, false},
			{"its end", func(tx *store.Tx) error { request.Ended = time.Now(); return tx.PutRequest(request) }, true, false},
			{"a vault's end", func(tx *store.Tx) error { return tx.ForgetVault(group) }, true, true},
			{"the end of what is below", func(tx *store.Tx) error { return tx.Delete(clusterTwo + "/providers/Microsoft.X/extensions/e") }, false, true},
		} {
			one, two := db.Watch(clusterOne), db.Watch(arm.ID(clusterTwo.Key()))
			update(t, db, c.change)
			if fired(one) != c.one || fired(two) != c.two {
				t.Errorf("%s wakes one %t and two %t", c.name, fired(one), fired(two))
			}
		}
	})
}

// TestAnotherReplicasChangeWakes the same clusters.
func TestAnotherReplicasChangeWakes(t *testing.T) {
	database := storetest.PostgreSQL(t)
	here, there := storetest.Open(t, database, time.Now), storetest.Open(t, database, time.Now)
	for try := 0; ; try++ { // until here listens
		changed := here.Changed()
		put(t, there, arm.ID("/subscriptions/S/resourceGroups/"+string(rune('a'+try))))
		select {
		case <-changed:
		case <-time.After(time.Second):
			continue
		}
		break
	}
	one, two := here.Watch(clusterOne), here.Watch(clusterTwo)
	put(t, there, clusterOne)
	<-one
	if fired(two) {
		t.Error("the other cluster was woken, too")
	}
}

// TestHeldWakesComeAtTheEnd of all who hold them.
func TestHeldWakesComeAtTheEnd(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t), time.Now)
	watched, other, changed := db.Watch(clusterOne), db.Watch(clusterTwo), db.Changed()
	first, second := db.Hold(), db.Hold()
	put(t, db, clusterOne)
	first()
	if fired(watched) || !fired(changed) {
		t.Errorf("while they are held: the cluster %t, Changed %t", fired(watched), fired(changed))
	}
	second()
	if !fired(watched) || fired(other) {
		t.Errorf("at the end: the cluster %t, another %t", fired(watched), fired(other))
	}
}

// TestWhatIsUrgentGoesFirst holds the turn while others and then one that is urgent come.
func TestWhatIsUrgentGoesFirst(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t), time.Now)
	order := make(chan string, 3)
	done := make(chan error, 3)
	update(t, db, func(*store.Tx) error {
		for waiting, name := range []string{"one", "two", "urgent"} {
			run := db.Update
			if name == "urgent" {
				run = db.UpdateFirst
			}
			go func() {
				done <- run(context.Background(), func(*store.Tx) error { order <- name; return nil })
			}()
			for db.Waiting() <= waiting {
				runtime.Gosched()
			}
		}
		return nil
	})
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if first := <-order; first != "urgent" {
		t.Errorf("%s was the first", first)
	}
}

// TestAWriterMayGiveUpWaiting and the next one has its turn.
func TestAWriterMayGiveUpWaiting(t *testing.T) {
	db := storetest.Open(t, storetest.SQLite(t), time.Now)
	update(t, db, func(*store.Tx) error {
		ctx, cancel := context.WithCancel(context.Background())
		given := make(chan error)
		go func() { given <- db.Update(ctx, func(*store.Tx) error { return nil }) }()
		cancel()
		if err := <-given; err == nil {
			t.Error("an Update whose context has ended was done")
		}
		return nil
	})
	update(t, db, func(*store.Tx) error { return nil })
}
