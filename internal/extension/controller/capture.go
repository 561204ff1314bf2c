package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/inventory"
	"github.com/cairn-backup/cairn/internal/extension/snapshot"
	"github.com/cairn-backup/cairn/internal/extension/storage"
)

// cut is what the step Cut learns.
type cut struct {
	time     time.Time
	revision string
	cluster  bundle.Cluster
	lister   *inventory.Lister
	kinds    []bundle.Kind
	volumes  map[string]bool // names of the chosen claims' volumes
	targets  []snapshot.Target
	report   []bundle.Outcome
}

// make carries out an attempt up to and including its commit.
func (b *backupRun) make(ctx context.Context, attempt int32) error {
	store, err := storage.Open(ctx, b.Reader, b.spec.Location)
	if err != nil {
		return err
	}
	// Storage is asked before anything is made, so that one that is away costs no snapshots.
	_, err = bundle.ReadRecoveryPoint(ctx, store, b.spec.Location.Prefix, b.spec.RecoveryPointID)
	if err == nil {
		return fmt.Errorf("recovery point %s: %w", b.spec.RecoveryPointID, errRecoveryPointExists)
	}
	if !errors.Is(err, bundle.ErrNoCommit) {
		return err
	}
	writer, err := bundle.NewWriter(store, b.spec.Location.Prefix, b.spec.RecoveryPointID, attempt, b.spec.Recipient)
	if err != nil {
		return invalidRequest{err}
	}
	followed, stop := context.WithCancel(ctx)
	following := make(chan struct{})
	go func() {
		defer close(following)
		b.ledger.follow(followed, writer.Stored)
	}()
	defer func() {
		stop()
		<-following
	}()

	c, err := b.cut(ctx, attempt)
	if err != nil {
		return err
	}
	volumes, report, err := b.collect(ctx, attempt, c, writer)
	if err != nil {
		return err
	}
	return b.commit(ctx, c, writer, volumes, report)
}

// cut learns the revision and what is in scope, and writes the ledger of snapshots into the status: after it, snapshots may be asked for.
func (b *backupRun) cut(ctx context.Context, attempt int32) (cut, error) {
	var c cut
	var err error
	if c.lister, err = inventory.NewLister(b.Config); err != nil {
		return cut{}, err
	}
	if c.cluster, err = b.clusterOf(ctx, c.lister); err != nil {
		return cut{}, err
	}
	if c.kinds, c.report, err = inventory.Kinds(ctx, b.Config); err != nil {
		return cut{}, err
	}
	// The moment is taken first: whatever changes after it may be missing.
	c.time = b.Now().UTC()
	if c.revision, err = c.lister.Revision(ctx); err != nil {
		return cut{}, err
	}
	claims, volumes, err := c.lister.Claims(ctx, inventory.NewScope(b.spec.Filter), c.revision)
	if err != nil {
		return cut{}, err
	}
	c.volumes = map[string]bool{}
	for name := range volumes {
		c.volumes[name] = true
	}
	if b.spec.SnapshotVolumes {
		classes, err := b.classes(ctx)
		if err != nil {
			return cut{}, err
		}
		targets, left := snapshot.Choose(b.spec.RecoveryPointID, attempt, claims, volumes, classes)
		c.targets, c.report = targets, append(c.report, left...)
	} else if len(claims) > 0 {
		c.report = append(c.report, bundle.Outcome{Resource: "persistentvolumeclaims", Result: bundle.Info, Code: snapshot.CodeNotRequested,
			Message: fmt.Sprintf("the data of %d claims is left out, since snapshots were not asked for", len(claims)), Count: int64(len(claims))})
	}
	err = b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) {
		s.ResourceVersion, s.RecoveryPointTime = c.revision, &metav1.Time{Time: c.time}
		s.Progress.VolumesTotal = int64(len(c.targets))
		for _, target := range c.targets {
			s.Snapshots = append(s.Snapshots, target.Record)
		}
		end(&s.Progress, b.Now(), v1alpha1.StepCut)
		begin(&s.Progress, b.Now(), v1alpha1.StepSnapshot, v1alpha1.StepUpload)
	})
	return c, err
}

// classes lists the VolumeSnapshotClasses; a cluster without these kinds has none.
func (r *Backups) classes(ctx context.Context) ([]snapshotv1.VolumeSnapshotClass, error) {
	var classes snapshotv1.VolumeSnapshotClassList
	err := r.Client.List(ctx, &classes)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list VolumeSnapshotClasses: %w", err)
	}
	return classes.Items, nil
}

// collect takes the snapshots and uploads the objects, at the same time.
func (b *backupRun) collect(ctx context.Context, attempt int32, c cut, writer *bundle.Writer) ([]bundle.Volume, []bundle.Outcome, error) {
	var volumes []bundle.Volume
	var ofVolumes, ofObjects []bundle.Outcome
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		var err error
		volumes, ofVolumes, err = b.snapshot(ctx, attempt, c.targets)
		return err
	})
	group.Go(func() error {
		capture := inventory.Capture{Lister: c.lister, Writer: writer, Kinds: c.kinds, Scope: inventory.NewScope(b.spec.Filter), Revision: c.revision, Volumes: c.volumes,
			Progress: func(n int64) { b.ledger.change(func(s *v1alpha1.BackupStatus) { s.Progress.ObjectsDone += n }) }}
		var err error
		if ofObjects, err = capture.Run(ctx); err != nil {
			return err
		}
		return b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) {
			s.Progress.ObjectsTotal = s.Progress.ObjectsDone
			end(&s.Progress, b.Now(), v1alpha1.StepUpload)
		})
	})
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	report := append(c.report, ofVolumes...)
	return volumes, append(report, ofObjects...), nil
}

// snapshot takes the snapshots, noting each handle in the status.
func (b *backupRun) snapshot(ctx context.Context, attempt int32, targets []snapshot.Target) ([]bundle.Volume, []bundle.Outcome, error) {
	var volumes []bundle.Volume
	var report []bundle.Outcome
	err := b.taker(attempt).Take(ctx, targets, func(taken snapshot.Taken) {
		if taken.Outcome.Result != "" {
			report = append(report, taken.Outcome)
		}
		if !taken.Taken {
			return
		}
		volumes = append(volumes, taken.Volume)
		b.ledger.change(func(s *v1alpha1.BackupStatus) {
			s.Snapshots[taken.Index].Handle, s.Snapshots[taken.Index].RestoreSizeBytes = taken.Volume.SnapshotHandle, taken.Volume.RestoreSizeBytes
			s.Progress.VolumesDone++
		})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("take snapshots: %w", err)
	}
	return volumes, report, b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) { end(&s.Progress, b.Now(), v1alpha1.StepSnapshot) })
}

// commit writes the rest of the bundle. All handles and warnings are in the status before it begins: after a crash they can no longer be learnt.
func (b *backupRun) commit(ctx context.Context, c cut, writer *bundle.Writer, volumes []bundle.Volume, report []bundle.Outcome) error {
	err := b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) {
		warnings(&s.Status, report)
		begin(&s.Progress, b.Now(), v1alpha1.StepCommit)
	})
	if err != nil {
		return err
	}
	if err := writer.Volumes(ctx, volumes); err != nil {
		return err
	}
	if err := writer.Report(ctx, report); err != nil {
		return err
	}
	// A request to storage that is given up may still be carried out, after the attempt was undone.
	b.ledger.finish()
	status := b.ledger.status()
	rp, err := writer.Commit(ctx, bundle.RecoveryPoint{
		Started: status.Started.UTC(), Cut: c.time, Committed: b.Now().UTC(), ResourceVersion: c.revision, Cluster: c.cluster,
		Generator: b.Generator, Origin: b.spec.Origin, WarningCount: status.WarningCount,
		Scope: bundle.Scope{IncludedNamespaces: b.spec.Filter.IncludedNamespaces, ExcludedNamespaces: b.spec.Filter.ExcludedNamespaces,
			IncludeClusterScopeResources: b.spec.Filter.IncludeClusterScopeResources, SnapshotVolumes: b.spec.SnapshotVolumes},
	})
	if err != nil {
		return err
	}
	return b.ledger.record(ctx, func(s *v1alpha1.BackupStatus) { b.noteCommit(s, rp) })
}
