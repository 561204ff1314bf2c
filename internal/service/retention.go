package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/retention"
	"github.com/cairn-backup/cairn/internal/store"
)

const (
	// pruneBatch is how many instances' recovery points are decided on in one transaction.
	pruneBatch = 100
	// lookEvery is when a recovery point is looked at again that is kept in spite of its age.
	lookEvery = time.Hour
)

// retentionMode is what an instance's protection means for its recovery points.
func retentionMode(i *storedInstance) retention.Mode {
	return retention.Mode{Stopped: i.protection() == backup.ProtectionStopped || i.protection() == backup.SoftDeleting}
}

// verdicts decides on all of an instance's recovery points.
func verdicts(tx *store.Tx, now time.Time, i *storedInstance) ([]retention.Verdict, error) {
	read, err := tx.PointsBeingRead(i.ID)
	if err != nil {
		return nil, err
	}
	times, err := tx.PointTimes(i.GUID)
	if err != nil {
		return nil, err
	}
	in := make([]retention.Point, len(times))
	for n, p := range times {
		in[n] = retention.Point{ID: p.Name, Time: p.Time, Expires: p.Expires, BeingRead: read[p.Name]}
	}
	return retention.Decide(now, retentionMode(i), in), nil
}

// Prune moves recovery points that are to go into the ledger, and says when the next one is to be decided on: zero for never.
func (s *Service) Prune(ctx context.Context) (next time.Time, err error) {
	for {
		if err := s.DB.View(ctx, func(tx *store.Tx) error {
			next, err = tx.NextLook()
			return err
		}); err != nil || next.IsZero() || next.After(s.Now()) {
			return next, err
		}
		if err := s.DB.Update(ctx, s.prune); err != nil {
			return next, err
		}
	}
}

func (s *Service) prune(tx *store.Tx) error {
	expiring, err := tx.Expiring(pruneBatch)
	if err != nil {
		return err
	}
	for guid, key := range expiring {
		i, _, err := store.Load[storedInstance](tx, arm.ID(key))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err == nil && i.GUID == guid {
			if err := s.pruneInstance(tx, &i); err != nil {
				return err
			}
		}
		if err := tx.LookAgain(guid, tx.Now().Add(lookEvery)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) pruneInstance(tx *store.Tx, i *storedInstance) error {
	decided, err := verdicts(tx, tx.Now(), i)
	if err != nil {
		return err
	}
	for _, v := range decided {
		if !v.Prune {
			continue
		}
		p, err := tx.RecoveryPoint(i.GUID, v.ID)
		if err != nil {
			return err
		}
		if p.Expires.IsZero() {
			continue // its policy did not say for how long
		}
		s.Log.Info("recovery point expired", "instance", i.ID, "point", p.Name, "time", p.Time, "expired", p.Expires)
		if err := tx.Discard(p, whyExpired); err != nil {
			return err
		}
	}
	return nil
}

// DateOldPoints gives recovery points from before there were schedules the time at which they expire: their policy's, as it is now. What
// belongs to no instance any more was the ledger of those days, and is put into that of today. It runs when the service starts.
func (s *Service) DateOldPoints(ctx context.Context) error {
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		points, err := tx.TimelessPoints()
		if err != nil || len(points) == 0 {
			return err
		}
		byGUID := map[string]*storedInstance{}
		for _, typ := range []string{backup.InstanceType, backup.DeletedInstanceType} {
			instances, err := Documents[storedInstance](tx.ByType(typ))
			if err != nil {
				return err
			}
			for n := range instances {
				byGUID[instances[n].GUID] = &instances[n]
			}
		}
		for _, p := range points {
			i := byGUID[p.GUID]
			if i == nil {
				if err := tx.Discard(p, whyInstanceDeleted); err != nil {
					return err
				}
				continue
			}
			if err := dateOldPoint(tx, i, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func dateOldPoint(tx *store.Tx, i *storedInstance, p store.RecoveryPoint) error {
	policy, _, err := store.Load[PolicyResource](tx, i.Properties.PolicyID())
	if err != nil {
		return err
	}
	var body backup.RecoveryPoint
	if err := json.Unmarshal(p.Body, &body); err != nil {
		return fmt.Errorf("stored recovery point %s: %w", p.Name, err)
	}
	d, ok := lifetime(&policy.Properties, body.RetentionTagName)
	if !ok {
		return nil // kept, as it was
	}
	return tx.ExpireRecoveryPoint(p.Name, retention.Expiry(p.Time, d))
}

// tellRetention writes into a recovery point when it goes and why it is still there.
func tellRetention(p *RecoveryPointResource, row store.RecoveryPoint, v retention.Verdict) {
	cairn := &backup.RecoveryPointCairn{Retention: backup.RecoveryPointRetention{State: "Kept", Reasons: []backup.Reason{{Code: string(v.Code), Message: v.Message}}}}
	if v.Prune {
		cairn.Retention.State = "Expiring"
	}
	if row.Expires.IsZero() {
		cairn.Retention.Reasons = []backup.Reason{{Code: "NoLifetime", Message: "It is kept: its policy does not say for how long."}}
		cairn.Retention.State = "Kept"
	} else {
		expires := row.Expires
		cairn.Retention.Expires, p.Properties.ExpiryTime = &expires, &expires
		for n := range p.Properties.DataStores {
			p.Properties.DataStores[n].ExpiryTime = &expires
		}
	}
	if !row.Slot.IsZero() {
		slot := row.Slot
		cairn.ScheduledTime = &slot
	}
	p.Properties.Cairn = cairn
}
