package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
	"github.com/cairn-backup/cairn/internal/store/storetest"
)

func TestAuditEventsAreFound(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	vault := group + "/providers/Microsoft.DataProtection/backupVaults/a_b"
	storetest.EachOpen(t, time.Now, func(t *testing.T, db *store.DB) {
		changed := db.Changed()
		update(t, db, func(tx *store.Tx) error {
			tx.Silently()
			for i, e := range []store.AuditEvent{
				{Name: "1", Resource: group, Caller: "ann", Status: 201, Correlation: "c"},
				{Name: "2", Resource: vault, Caller: "bob", CallerName: "Bob", Status: 403, Code: "AuthorizationFailed"},
				{Name: "3", Resource: group + "s", Caller: "ann"},
				{Name: "3", Resource: "ignored", Caller: "ignored", Status: 202, Ended: now},
			} {
				e.Began = now.Add(time.Duration(i) * time.Minute)
				if err := tx.PutAuditEvent(e); err != nil {
					return err
				}
			}
			return nil
		})
		select {
		case <-changed:
			t.Error("a silent change was told")
		default:
		}
		everywhere := []arm.ID{""}
		for name, c := range map[string]struct {
			filter store.AuditFilter
			want   string
		}{
			"all":            {store.AuditFilter{Within: everywhere}, "321"},
			"nowhere":        {store.AuditFilter{}, ""},
			"a group":        {store.AuditFilter{Within: []arm.ID{group}}, "21"},
			"two scopes":     {store.AuditFilter{Within: []arm.ID{vault, group + "S"}}, "32"},
			"group's name":   {store.AuditFilter{Within: everywhere, ResourceGroup: "g"}, "21"},
			"a resource":     {store.AuditFilter{Within: everywhere, Resource: vault}, "2"},
			"a provider":     {store.AuditFilter{Within: everywhere, Provider: "microsoft.dataprotection"}, "2"},
			"no provider":    {store.AuditFilter{Within: everywhere, Provider: "microsoft_dataprotection"}, ""},
			"a correlation":  {store.AuditFilter{Within: everywhere, Correlation: "C"}, "1"},
			"a caller":       {store.AuditFilter{Within: everywhere, Caller: "BOB"}, "2"},
			"an object ID":   {store.AuditFilter{Within: everywhere, Caller: "ann"}, "31"},
			"statuses":       {store.AuditFilter{Within: everywhere, Statuses: []store.StatusRange{{First: 200, Last: 201}, {First: 400, Last: 499}}}, "21"},
			"from a time":    {store.AuditFilter{Within: everywhere, From: now.Add(time.Minute)}, "32"},
			"until a time":   {store.AuditFilter{Within: everywhere, To: now.Add(time.Minute)}, "21"},
			"of one instant": {store.AuditFilter{Within: everywhere, From: now, To: now}, "1"},
		} {
			got, after := "", ""
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				for {
					events, next, err := tx.AuditEvents(c.filter, store.Page{Limit: 2, After: after})
					for _, e := range events {
						got += e.Name
						if e.Name == "3" && (e.Status != 202 || !e.Ended.Equal(now) || e.Caller != "ann" || !e.Began.Equal(now.Add(2*time.Minute))) {
							t.Errorf("an event that has ended: %+v", e)
						}
					}
					if after = next; next == "" || err != nil {
						return err
					}
				}
			}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s: %s", name, d)
			}
		}
		old := func(at time.Time) (any bool) {
			t.Helper()
			if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
				any, err = tx.AuditedBefore(at)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return any
		}
		update(t, db, func(tx *store.Tx) error { return tx.ForgetAudit(now.Add(time.Minute)) })
		if old(now.Add(time.Minute)) || !old(now.Add(time.Hour)) {
			t.Error("not the old events were forgotten, or others too")
		}
	})
}
