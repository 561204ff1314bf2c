package armserver_test

import (
	"cmp"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	diff "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/armserver"
	"github.com/cairn-backup/cairn/internal/auth"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/service"
	"github.com/cairn-backup/cairn/internal/store"
)

const matrixFile = "testdata/role-matrix.txt"

const matrixHead = `Who may do what: every operation of the route table, asked over HTTP by a principal that has one role at one scope and nothing else.
Made by "go test ./internal/armserver -run Document -update"; read what changes in it as you would read code.

A cell has a letter for each scope at which the role is enough:
    S  the subscription    G  the resource group    R  the resource itself, or what the list or the action belongs to, if that is neither
    X  another resource group: only where a row's answer depends on having any role at all
    .  at none             all  every caller, even one without any role; the answer shows what the caller's roles let it see

Columns:
`

// abbreviations are the matrix's columns, by role.
var abbreviations = map[string]string{
	"Owner": "Own", "Contributor": "Con", "Reader": "Rea", "User Access Administrator": "UAA",
	"Backup Contributor": "BCo", "Backup Operator": "BOp", "Backup Reader": "BRe", "Backup MUA Operator": "MUO", "Backup MUA Admin": "MUA",
	"Disk Snapshot Contributor":   "DSC",
	"Storage Account Contributor": "SAC", "Storage Blob Data Owner": "SBO", "Storage Blob Data Contributor": "SBC", "Storage Blob Data Reader": "SBR",
}

// scopes are the letters of the matrix.
var scopes = []string{"S", "G", "R", "X"}

// matrix asks the service as principals that have exactly one role.
type matrix struct {
	w      *daemontest.World
	server *armserver.Server
	// group does not exist, and so nothing in it: whoever is let in changes nothing, and is told 404 or 400.
	group, other arm.ID

	mu     sync.Mutex
	tokens map[string]string
}

// operation is a row of the table, as the matrix asks for it.
type operation struct {
	armserver.Route
	path string
	id   arm.ID
}

var parameter = regexp.MustCompile(`\{[a-zA-Z]+\}`)

// example is a path of the row's, with a name for every parameter.
func (m *matrix) example(r armserver.Route) operation {
	scope := string(m.group) + "/providers/Microsoft.DataProtection/backupVaults/vault"
	path := parameter.ReplaceAllStringFunc(r.Path, func(p string) string {
		switch p {
		case "{scope}":
			return scope
		case "{subscription}":
			return m.w.Service.SubscriptionID
		case "{resourceGroup}":
			return m.group.Name()
		case "{role}", "{assignment}":
			return "00000000-0000-4000-8000-0000000000ff"
		}
		return "one-" + strings.ToLower(strings.Trim(p, "{}"))
	})
	return operation{Route: r, path: path, id: r.IDOf(path)}
}

// holder is the object ID of who has the role at the scope, and nothing else.
func holder(role auth.Role, scope arm.ID) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(role.ID+scope.Key())).String()
}

// scope is what a letter stands for in a row.
func (m *matrix) scope(letter string, r operation) arm.ID {
	switch letter {
	case "S":
		return m.group.SubscriptionID()
	case "G":
		return m.group
	case "X":
		return m.other
	}
	return r.id
}

// prepare makes all principals, and their tokens.
func (m *matrix) prepare(t *testing.T, rows []operation) {
	t.Helper()
	if err := m.w.Service.DB.Update(t.Context(), func(tx *store.Tx) error {
		for _, r := range rows {
			for _, role := range auth.Roles {
				for _, letter := range scopes {
					scope := m.scope(letter, r)
					if err := m.add(tx, store.Principal{ID: holder(role, scope), Kind: service.KindServicePrincipal}, role, scope); err != nil {
						return err
					}
				}
			}
		}
		for _, kind := range []string{service.KindServicePrincipal, service.KindConnector} {
			if err := m.add(tx, store.Principal{ID: alone(kind), Kind: kind, Owner: m.group.Key() + "/cluster"}, auth.Role{}, ""); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// alone is the principal of a kind that has no role.
func alone(kind string) string { return uuid.NewSHA1(uuid.NameSpaceURL, []byte(kind)).String() }

func (m *matrix) add(tx *store.Tx, p store.Principal, role auth.Role, scope arm.ID) error {
	if m.tokens[p.ID] != "" {
		return nil
	}
	p.Client, p.Name = uuid.NewString(), role.Name
	if err := tx.PutPrincipal(p); err != nil {
		return err
	}
	if role.ID != "" {
		assignment := scope.Extension(service.TypeRoleAssignment, uuid.NewString())
		if err := tx.PutGrant(store.Grant{Assignment: assignment, Principal: p.ID, Role: role.ID, Scope: scope}); err != nil {
			return err
		}
	}
	var err error
	m.tokens[p.ID], err = m.w.Service.Issuer.Mint(auth.Caller{ObjectID: p.ID}, "https://management.azure.com")
	return err
}

// lets says whether a principal is let in: whatever the answer is, it is not that it may not.
func (m *matrix) lets(r operation, who string) (bool, error) {
	request := httptest.NewRequest(r.Method, r.path+"?api-version=2024-04-01", nil)
	request.Header.Set("Authorization", "Bearer "+m.tokens[who])
	answer := httptest.NewRecorder()
	m.server.ServeHTTP(answer, request)
	if answer.Code == 401 || answer.Code >= 500 {
		return false, fmt.Errorf("%s %s: %d %s", r.Method, r.path, answer.Code, answer.Body)
	}
	return answer.Code != 403, nil
}

// cells are a row's: one for each role, and one for connectors.
func (m *matrix) cells(r operation) ([]string, error) {
	var cells []string
	everybody, err := m.lets(r, alone(service.KindServicePrincipal))
	if err != nil {
		return nil, err
	}
	for _, role := range auth.Roles {
		cell, asked := "", ""
		for _, letter := range scopes {
			if letter == "R" && (r.id.Equal(m.group) || r.id.Equal(m.group.SubscriptionID())) {
				continue
			}
			asked += letter
			ok, err := m.lets(r, holder(role, m.scope(letter, r)))
			if err != nil {
				return nil, err
			}
			if ok {
				cell += letter
			}
		}
		if everybody && cell == asked {
			cell = "all"
		}
		cells = append(cells, cmp.Or(cell, "."))
	}
	connector, err := m.lets(r, alone(service.KindConnector))
	return append(cells, map[bool]string{true: "yes", false: "."}[connector]), err
}

// shown is how the matrix names an operation: by its path within its provider.
func shown(r armserver.Route) (provider, path string) {
	path = strings.NewReplacer("/subscriptions/{subscription}/resourceGroups/{resourceGroup}", "{group}", "/subscriptions/{subscription}", "{subscription}").Replace(r.Path)
	before, after, found := strings.Cut(path, "/providers/Microsoft.")
	switch {
	case found && strings.Contains(after, "/"):
		name, rest, _ := strings.Cut(after, "/")
		return "Microsoft." + name, before + "/" + rest
	case strings.HasPrefix(path, "/v1.0/"):
		return "Graph", path
	case strings.HasPrefix(path, "/link/"):
		return "Connectors", path
	}
	return "Microsoft.Resources", path
}

// TestTheRoleMatrixDocument holds testdata/role-matrix.txt to what the service answers.
func TestTheRoleMatrixDocument(t *testing.T) {
	w := daemontest.Start(t, daemon.Config{})
	m := &matrix{w: w, server: armserver.New(w.Service, []string{"https://management.azure.com"}), tokens: map[string]string{},
		group: arm.ResourceGroup(w.Service.SubscriptionID, "one"), other: arm.ResourceGroup(w.Service.SubscriptionID, "two")}
	var rows []operation
	for _, r := range armserver.Table() {
		rows = append(rows, m.example(r))
	}
	m.prepare(t, rows)
	lines := make([]string, len(rows))
	var asking errgroup.Group
	asking.SetLimit(128) // what is asked at the same time goes into the audit log together
	for i, r := range rows {
		asking.Go(func() error {
			cells, err := m.cells(r)
			if err != nil {
				return err
			}
			for c, cell := range cells[:len(auth.Roles)] {
				if strings.Contains(cell, "X") && r.Permission != armserver.NoPermission {
					t.Errorf("%s %s: %s in another resource group is enough", r.Method, r.Path, auth.Roles[c].Name)
				}
			}
			provider, path := shown(r.Route)
			lines[i] = fmt.Sprintf("%s\x00%s\x00%s", provider, path, line(fmt.Sprintf("%-6s %s", r.Method, path), cells))
			return nil
		})
	}
	if err := asking.Wait(); err != nil {
		t.Fatal(err)
	}
	text := matrixHead + columns() + sections(lines)
	if *update {
		if err := os.WriteFile(matrixFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(matrixFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff.Diff(string(written), text); d != "" {
		t.Errorf("the service does not answer what %s says (if it should: run with -update):\n%s", matrixFile, d)
	}
}

func line(what string, cells []string) string {
	text := fmt.Sprintf("%-120s", what)
	for _, cell := range cells {
		text += fmt.Sprintf(" %-4s", cell)
	}
	return strings.TrimRight(text, " ")
}

func columns() string {
	text := ""
	for _, role := range auth.Roles {
		text += fmt.Sprintf("    %s  %s\n", abbreviations[role.Name], role.Name)
	}
	return text + "    Lnk  a cluster's connector, which has no roles\n"
}

// sections sorts the lines by provider and path, and puts a heading with the columns over each provider.
func sections(lines []string) string {
	slices.Sort(lines)
	var head []string
	for _, role := range auth.Roles {
		head = append(head, abbreviations[role.Name])
	}
	text, last := "", ""
	for _, l := range lines {
		parts := strings.SplitN(l, "\x00", 3)
		if parts[0] != last {
			last = parts[0]
			text += "\n" + line(last, append(slices.Clone(head), "Lnk")) + "\n"
		}
		text += parts[2] + "\n"
	}
	return text
}
