package store

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"

	"github.com/cairn-backup/cairn/internal/arm"
)

// topics are the clusters that a transaction concerns, each by a short hash of its key: two of the same hash are woken in vain now and then.
type topics struct {
	all   bool
	names []string
}

// topicOf is a cluster's.
func topicOf(key string) string {
	h := fnv.New32a()
	// A hash takes all that it is given.
	_, _ = h.Write([]byte(key))
	return fmt.Sprintf("%08x", h.Sum32())
}

const clusterWord = "/providers/microsoft.containerservice/managedclusters/"

// touch notes that a resource was changed: clusters, what is below one, and storage accounts concern what clusters should have.
func (tx *Tx) touch(id arm.ID) {
	key := id.Key()
	if strings.Contains(key, "/providers/microsoft.storage/") {
		tx.touched.all = true
		return
	}
	at := strings.Index(key, clusterWord)
	if at < 0 {
		return
	}
	at += len(clusterWord)
	if end := strings.IndexByte(key[at:], '/'); end >= 0 {
		key = key[:at+end]
	}
	tx.touchCluster(key)
}

func (tx *Tx) touchCluster(key string) {
	if topic := topicOf(key); !slices.Contains(tx.touched.names, topic) {
		tx.touched.names = append(tx.touched.names, topic)
	}
}

// turns are those who want to write in this process: one at a time does, and those who are to go first do.
type turns struct {
	mu    sync.Mutex
	taken bool
	first []chan struct{}
	rest  []chan struct{}
}

// take waits for the turn.
func (t *turns) take(ctx context.Context, first bool) error {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		return nil
	}
	mine, queue := make(chan struct{}), &t.rest
	if first {
		queue = &t.first
	}
	*queue = append(*queue, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	waiting := slices.Index(*queue, mine)
	if waiting >= 0 {
		*queue = slices.Delete(*queue, waiting, waiting+1)
	}
	t.mu.Unlock()
	if waiting < 0 {
		t.give() // it came at the same moment
	}
	return ctx.Err()
}

// give lets the next one have its turn.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, queue := range []*[]chan struct{}{&t.first, &t.rest} {
		if len(*queue) > 0 {
			close((*queue)[0])
			*queue = (*queue)[1:]
			return
		}
	}
	t.taken = false
}
