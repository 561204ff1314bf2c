package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Link is what is known of a cluster through its connector. It stands beside the cluster's document, whose ETag it does
// not change.
type Link struct {
	// Seen is when the connector called last; zero if it never did.
	Seen time.Time
	// Connector and Kubernetes are versions.
	Connector, Kubernetes string
	// Nodes is how many were ready.
	Nodes int
	// Extension is the last link.ExtensionState as JSON; nil when the extension is not installed.
	Extension json.RawMessage
}

// Link finds what is known of a cluster; the zero Link when nothing is.
func (tx *Tx) Link(cluster arm.ID) (Link, error) {
	var l Link
	var seen int64
	var extension string
	err := tx.row(`SELECT seen, connector, kubernetes, nodes, extension FROM links WHERE cluster = $1`,
		[]any{cluster.Key()}, &seen, &l.Connector, &l.Kubernetes, &l.Nodes, &extension)
	if errors.Is(err, ErrNotFound) {
		return Link{}, nil
	}
	if err != nil {
		return Link{}, fmt.Errorf("link of %s: %w", cluster, err)
	}
	l.Seen = timeOf(seen)
	if extension != "" {
		l.Extension = json.RawMessage(extension)
	}
	return l, nil
}

// PutLink stores what is known of a cluster.
func (tx *Tx) PutLink(cluster arm.ID, l Link) error {
	_, err := tx.exec(`INSERT INTO links (cluster, seen, connector, kubernetes, nodes, extension) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (cluster) DO UPDATE SET seen = excluded.seen, connector = excluded.connector,
			kubernetes = excluded.kubernetes, nodes = excluded.nodes, extension = excluded.extension`,
		cluster.Key(), micros(l.Seen), l.Connector, l.Kubernetes, l.Nodes, string(l.Extension))
	if err != nil {
		return fmt.Errorf("link of %s: %w", cluster, err)
	}
	return nil
}

// DeleteLinksUnder forgets a cluster, or all clusters below a scope.
func (tx *Tx) DeleteLinksUnder(scope arm.ID) error {
	if _, err := tx.exec(`DELETE FROM links WHERE cluster = $1 OR (cluster >= $2 AND cluster < $3)`,
		scope.Key(), scope.Key()+"/", scope.Key()+"0"); err != nil {
		return fmt.Errorf("links of %s: %w", scope, err)
	}
	return nil
}
