package controller

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/extension/apply"
)

// RestoreSweeper removes, from time to time, the snapshot objects of restores that ended before their claims were bound, or whose
// request was deleted under way. It is a manager's Runnable.
type RestoreSweeper struct {
	Reader  client.Reader
	Cluster apply.Cluster
	Log     *slog.Logger
	Now     func() time.Time
	// Every is the pause between two sweeps.
	Every time.Duration
}

// Start sweeps until the context ends. A sweep that fails is done again with the next one.
func (s *RestoreSweeper) Start(ctx context.Context) error {
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	for {
		removed, err := s.Sweep(ctx)
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("snapshot objects of restores cannot be swept, it is tried again", "error", err)
		} else if removed > 0 {
			s.Log.Info("snapshot objects of restores were swept", "removed", removed)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sweep sweeps once, and says how many snapshots' objects were removed.
func (s *RestoreSweeper) Sweep(ctx context.Context) (int, error) {
	return apply.Sweep(ctx, s.Cluster, s.Now(), s.running)
}

// running lists the restores that have not ended.
func (s *RestoreSweeper) running(ctx context.Context) (map[types.UID]bool, error) {
	var restores v1alpha1.RestoreList
	if err := s.Reader.List(ctx, &restores, client.InNamespace(v1alpha1.Namespace)); err != nil {
		return nil, err
	}
	running := map[types.UID]bool{}
	for _, r := range restores.Items {
		running[r.UID] = !r.Status.Phase.Final()
	}
	return running, nil
}
