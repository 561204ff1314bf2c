package armserver

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/backup"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

// graph answers for Microsoft.ResourceGraph: the queries of a few shapes that Azure's clients send to list vaults, and backup instances and jobs of many
// vaults. There is no query language here: a stage that is not understood is refused, since what it leaves out would be told.
type graph struct{ s *service.Service }

// resources answers a query with what of it the caller may read.
func (h graph) resources(ctx context.Context, r *Request) (*Response, error) {
	var in struct {
		Subscriptions []string `json:"subscriptions"`
		Query         string   `json:"query"`
		Options       struct {
			Top  int `json:"$top"`
			Skip int `json:"$skip"`
		} `json:"options"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	q, err := parseGraph(in.Query)
	if err != nil {
		return nil, err
	}
	var rows []graphRow
	if len(in.Subscriptions) == 0 || slices.ContainsFunc(in.Subscriptions, func(s string) bool { return strings.EqualFold(s, h.s.SubscriptionID) }) {
		if rows, err = h.rows(ctx, r, q); err != nil {
			return nil, err
		}
	}
	total := len(rows)
	rows = rows[min(max(in.Options.Skip, 0), total):]
	top := in.Options.Top
	if top <= 0 || top > pageSize {
		top = pageSize
	}
	rows = rows[:min(top, len(rows))]
	return Answer(200, map[string]any{
		"totalRecords": total, "count": len(rows), "data": append([]graphRow{}, rows...), "facets": []any{}, "resultTruncated": "false",
	}), nil
}

// graphRow is a resource as the graph shows it, with the columns that clients' queries add.
type graphRow map[string]any

// rows are what a query chooses, in order of ID.
func (h graph) rows(ctx context.Context, r *Request, q graphQuery) ([]graphRow, error) {
	var rows []graphRow
	add := func(resource any, id arm.ID, location string, more graphRow) error {
		row, err := h.row(resource, id, location, more)
		if err == nil && q.matches(row) {
			rows = append(rows, row)
		}
		return err
	}
	if !strings.EqualFold(q.table, "RecoveryServicesResources") {
		err := h.tracked(ctx, r, q.typ, add)
		return rows, err
	}
	if !strings.EqualFold(q.typ, backup.InstanceType) && !strings.EqualFold(q.typ, backup.JobType) {
		return nil, nil
	}
	err := every(func(p store.Page) (string, error) {
		vaults, next, err := h.s.Vaults(ctx, arm.Subscription(h.s.SubscriptionID), p)
		for i := 0; err == nil && i < len(vaults); i++ {
			if strings.EqualFold(q.typ, backup.JobType) {
				err = h.jobs(ctx, r, &vaults[i], add)
			} else {
				err = h.instances(ctx, r, &vaults[i], add)
			}
		}
		return next, err
	})
	return rows, err
}

// every reads all pages of a list.
func every(page func(store.Page) (next string, err error)) error {
	for p := (store.Page{Limit: pageSize}); ; {
		next, err := page(p)
		if err != nil || next == "" {
			return err
		}
		p.After = next
	}
}

type addRow func(resource any, id arm.ID, location string, more graphRow) error

// tracked are the resources with a location.
func (h graph) tracked(ctx context.Context, r *Request, typ string, add addRow) error {
	all, err := h.s.Resources(ctx, arm.Subscription(h.s.SubscriptionID), typ)
	if err != nil {
		return err
	}
	found, err := readable(ctx, r, all, func(g service.GenericResource) arm.ID { return g.ID })
	for i := 0; err == nil && i < len(found); i++ {
		if !strings.EqualFold(typ, backup.VaultType) {
			err = add(found[i], found[i].ID, found[i].Location, nil)
			continue
		}
		var vault backup.VaultResource
		if vault, err = h.s.Vault(ctx, found[i].ID); err == nil {
			err = add(vault, vault.ID, vault.Location, nil)
		}
	}
	return err
}

func (h graph) instances(ctx context.Context, r *Request, vault *backup.VaultResource, add addRow) error {
	return every(func(p store.Page) (string, error) {
		all, next, err := h.s.Instances(ctx, vault.ID, p)
		if err != nil {
			return "", err
		}
		found, err := readable(ctx, r, all, func(i service.InstanceResource) arm.ID { return i.ID })
		for n := 0; err == nil && n < len(found); n++ {
			i := found[n]
			err = add(i, i.ID, vault.Location, graphRow{"vaultName": vault.Name, "protectionState": i.Properties.CurrentProtectionState, "datasourceId": i.Properties.ClusterID()})
		}
		return next, err
	})
}

func (h graph) jobs(ctx context.Context, r *Request, vault *backup.VaultResource, add addRow) error {
	ok, err := h.s.Allowed(ctx, r.Caller.ObjectID, backup.JobType+"/read", vault.ID)
	if err != nil || !ok {
		return err
	}
	return every(func(p store.Page) (string, error) {
		found, next, err := h.s.Jobs(ctx, vault.ID, nil, p)
		for n := 0; err == nil && n < len(found); n++ {
			j := found[n]
			err = add(j, j.ID, "", graphRow{"vaultName": vault.Name, "status": j.Properties.Status, "operation": j.Properties.ListedAs(), "datasourceId": j.Properties.DataSourceID})
		}
		return next, err
	})
}

// row is a resource in the graph's shape.
func (h graph) row(resource any, id arm.ID, location string, more graphRow) (graphRow, error) {
	body, err := json.Marshal(resource)
	if err != nil {
		return nil, fmt.Errorf("%s in the graph: %w", id, err)
	}
	row := graphRow{"kind": "", "managedBy": "", "sku": nil, "plan": nil, "tags": nil, "identity": nil, "zones": nil, "extendedLocation": nil, "properties": map[string]any{}}
	if err := json.Unmarshal(body, &row); err != nil {
		return nil, fmt.Errorf("%s in the graph: %w", id, err)
	}
	row["type"], row["location"], row["tenantId"] = strings.ToLower(id.Type()), location, h.s.TenantID
	row["resourceGroup"], row["subscriptionId"] = id.ResourceGroup(), id.Subscription()
	for name, v := range more {
		row[name] = v
	}
	return row, nil
}

// graphQuery is a query that was understood.
type graphQuery struct {
	table, typ string
	terms      []graphTerm
}

// graphTerm compares a column, or a value within properties, with any of some values.
type graphTerm struct {
	field, operator string
	values          []string
}

var (
	graphType  = regexp.MustCompile(`(?i)^where\s+type\s*(?:=~|==)\s*'([^']*)'$`)
	graphIn    = regexp.MustCompile(`(?i)^where\s+([A-Za-z.]+)\s+in~?\s*\(\s*('[^']*'(?:\s*,\s*'[^']*')*)\s*\)$`)
	graphEqual = regexp.MustCompile(`(?i)^where\s+([A-Za-z.]+)\s*(?:=~|==)\s*('[^']*')$`)
	graphTime  = regexp.MustCompile(`(?i)^where\s+([A-Za-z.]+)\s*(<=|>=|<|>)\s*datetime\(\s*'?([^')]+)'?\s*\)$`)
)

// graphColumns are those that clients' queries add to a resource, and which the rows here have in any case.
var graphColumns = []string{"vaultName", "protectionState", "datasourceId", "status", "operation"}

// parseGraph reads a query: a table, and stages that choose a type and then compare.
func parseGraph(text string) (graphQuery, error) {
	stages := splitStages(text)
	q := graphQuery{table: stages[0]}
	for _, stage := range stages[1:] {
		if m := graphType.FindStringSubmatch(stage); m != nil {
			q.typ = m[1]
		} else if m := graphTime.FindStringSubmatch(stage); m != nil {
			q.terms = append(q.terms, graphTerm{m[1], m[2], m[3:]})
		} else if m := graphIn.FindStringSubmatch(stage); m != nil {
			q.terms = append(q.terms, graphTerm{m[1], "in", quotedWords(m[2])})
		} else if m := graphEqual.FindStringSubmatch(stage); m != nil {
			q.terms = append(q.terms, graphTerm{m[1], "in", quotedWords(m[2])})
		} else if word, rest, _ := strings.Cut(stage, " "); !strings.EqualFold(word, "extend") || !slices.ContainsFunc(graphColumns, func(c string) bool { return strings.HasPrefix(strings.TrimSpace(rest), c) }) {
			return q, notGraph(text, stage)
		}
	}
	for _, t := range q.terms {
		if t.operator == "in" {
			continue
		}
		if _, err := graphInstant(t.values[0]); err != nil {
			return q, notGraph(text, t.values[0])
		}
	}
	if q.typ == "" {
		return q, notGraph(text, "no type")
	}
	return q, nil
}

func notGraph(text, at string) error {
	return arm.BadRequest("BadRequest", "The query %q is not understood at %q.", text, at).WithTarget("query").
		WithAction("Choose a type (where type =~ '…'), and then compare: where name in~ ('…'), where properties.startTime > datetime(…). Or list the resources without Resource Graph.")
}

// splitStages splits a query at its bars, but not at those in quotes.
func splitStages(text string) []string {
	var stages []string
	quoted, begin := false, 0
	for i, c := range text {
		switch {
		case c == '\'':
			quoted = !quoted
		case c == '|' && !quoted:
			stages = append(stages, strings.TrimSpace(text[begin:i]))
			begin = i + 1
		}
	}
	return append(stages, strings.TrimSpace(text[begin:]))
}

func quotedWords(text string) []string {
	var words []string
	for _, m := range quotedWord.FindAllStringSubmatch(text, -1) {
		words = append(words, m[1])
	}
	return words
}

// graphInstant reads a time; az puts a Z after one that has an offset already.
func graphInstant(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02Z", "2006-01-02", "2006-01-02T15:04:05.999999999Z07:00Z"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time", text)
}

func (q graphQuery) matches(row graphRow) bool {
	for _, t := range q.terms {
		if !t.holds(row.at(t.field)) {
			return false
		}
	}
	return true
}

func (t graphTerm) holds(value string) bool {
	if t.operator == "in" {
		return slices.ContainsFunc(t.values, func(v string) bool { return strings.EqualFold(v, value) })
	}
	bound, err := graphInstant(t.values[0])
	at, failed := time.Parse(time.RFC3339Nano, value)
	if err != nil || failed != nil {
		return false
	}
	switch t.operator {
	case "<":
		return at.Before(bound)
	case "<=":
		return !at.After(bound)
	case ">":
		return at.After(bound)
	default:
		return !at.Before(bound)
	}
}

// at is a column's text, or that of a value within: properties.dataSourceInfo.resourceID.
func (row graphRow) at(field string) string {
	var v any = map[string]any(row)
	for _, name := range strings.Split(field, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[name]
	}
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}
