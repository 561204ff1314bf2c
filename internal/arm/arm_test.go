package arm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/arm"
)

func TestIDSaysWhatItNames(t *testing.T) {
	type parts struct{ Sub, Group, Type, Name, Parent string }
	for _, c := range []struct {
		id   arm.ID
		want parts
	}{
		{"", parts{}},
		{"/subscriptions/S", parts{"S", "", "Microsoft.Resources/subscriptions", "S", ""}},
		{"/subscriptions/S/resourcegroups/G", parts{"S", "G", "Microsoft.Resources/resourceGroups", "G", "/subscriptions/S"}},
		{"/subscriptions/S/resourceGroups/G/providers/Microsoft.X/vaults/V",
			parts{"S", "G", "Microsoft.X/vaults", "V", "/subscriptions/S/resourceGroups/G"}},
		{"/subscriptions/S/resourceGroups/G/providers/Microsoft.X/vaults/V/items/I",
			parts{"S", "G", "Microsoft.X/vaults/items", "I", "/subscriptions/S/resourceGroups/G/providers/Microsoft.X/vaults/V"}},
		{"/subscriptions/S/resourceGroups/G/providers/Microsoft.X/vaults/V/providers/Microsoft.Y/notes/N",
			parts{"S", "G", "Microsoft.Y/notes", "N", "/subscriptions/S/resourceGroups/G/providers/Microsoft.X/vaults/V"}},
		{"/subscriptions/S/providers/Microsoft.X", parts{"S", "", "Microsoft.X", "Microsoft.X", "/subscriptions/S"}},
		{"/providers/Microsoft.X/roles/R", parts{"", "", "Microsoft.X/roles", "R", ""}},
	} {
		t.Run(string(c.id), func(t *testing.T) {
			id, err := arm.ParseID(string(c.id))
			if err != nil {
				t.Fatal(err)
			}
			got := parts{id.Subscription(), id.ResourceGroup(), id.Type(), id.Name(), string(id.Parent())}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseIDRefusesWhatIsNone(t *testing.T) {
	for _, s := range []string{
		"subscriptions/S", "/subscriptions", "/subscriptions/", "/subscriptions//resourceGroups/G", "/groups/G", "/subscriptions/S/resourceGroups",
		"/subscriptions/S/providers", "/subscriptions/S/providers/Microsoft.X/vaults", "/subscriptions/a?b", "/subscriptions/a%2Fb", "/subscriptions/a\nb",
	} {
		_, err := arm.ParseID(s)
		var e *arm.Error
		if !errors.As(err, &e) || e.Status != 400 {
			t.Errorf("%q: %v, want a 400", s, err)
		}
	}
}

func TestWithinCountsWholeSegments(t *testing.T) {
	group := arm.ResourceGroup("S", "G")
	vault := group.Extension("Microsoft.X/vaults", "v")
	for _, c := range []struct {
		id, scope arm.ID
		want      bool
	}{
		{vault, group, true}, {vault, "/SUBSCRIPTIONS/s", true}, {vault, "", true}, {vault, vault, true}, {group, vault, false},
		{"/subscriptions/S/resourceGroups/G2", group, false},
	} {
		if got := c.id.Within(c.scope); got != c.want {
			t.Errorf("%s within %s: %v", c.id, c.scope, got)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("/subscriptions/S/resourceGroups/G/providers/Microsoft.X/vaults/V/providers/Microsoft.Y/notes/N")
	f.Add("/providers/Microsoft.X/roles/R")
	f.Add("/subscriptions/S/providers/providers/providers/x")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := arm.ParseID(s)
		if err != nil {
			return
		}
		if again, err := arm.ParseID(string(id)); err != nil || again != id {
			t.Fatalf("%q gave %q, which gives %q, %v", s, id, again, err)
		}
		if id == "" {
			return
		}
		if !id.Within(id.Parent()) || !id.Equal(arm.ID(strings.ToUpper(string(id)))) && id.Key() == strings.ToLower(strings.ToUpper(string(id))) {
			t.Fatalf("%q is not within its parent %q, or its case counts", id, id.Parent())
		}
		if id.Parent() == id {
			t.Fatalf("%q is its own parent", id)
		}
		if _, err := arm.ParseID(string(id.Parent())); err != nil {
			t.Fatalf("the parent of %q: %v", id, err)
		}
	})
}

func wire(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestErrorHasTheFormOfItsProvider(t *testing.T) {
	e := arm.BadRequest("UserErrorX", "It is wrong.").WithTarget("properties.x").WithAction("Make it right.")
	backup := wire(t, arm.ErrorBody{Error: e.Wire("microsoft.dataprotection", "ACT")})
	want := map[string]any{"error": map[string]any{
		"code": "UserErrorX", "message": "It is wrong.", "target": "properties.x", "details": nil,
		"additionalInfo": []any{map[string]any{"type": "UserFacingError", "info": map[string]any{
			"message": "It is wrong.", "recommendedAction": []any{"Make it right."}, "details": nil, "code": "UserErrorX", "target": "properties.x",
			"innerError": nil, "isRetryable": false, "isUserError": false, "properties": map[string]any{"ActivityId": "ACT"},
		}}},
	}}
	if diff := cmp.Diff(want, backup); diff != "" {
		t.Error(diff)
	}
	plain := wire(t, e.Wire("Microsoft.Storage", "ACT"))
	if diff := cmp.Diff(map[string]any{"code": "UserErrorX", "message": "It is wrong. Make it right.", "target": "properties.x"}, plain); diff != "" {
		t.Error(diff)
	}
	const vault = "/subscriptions/S/resourceGroups/G/providers/Microsoft.DataProtection/backupVaults/V"
	missing := wire(t, arm.NotFound(vault).Wire("Microsoft.DataProtection", "ACT"))
	if diff := cmp.Diff(map[string]any{"code": "ResourceNotFound", "target": vault,
		"message": "The Resource 'Microsoft.DataProtection/backupVaults/V' under resource group 'G' was not found."}, missing); diff != "" {
		t.Error(diff)
	}
}

func TestProblemsAreToldTogether(t *testing.T) {
	var p arm.Problems
	if p.Err() != nil {
		t.Fatal("no problem is an error")
	}
	p.Add("a", "First.")
	var inner arm.Problems
	inner.Add("[1].x", "Second.")
	inner.Add("", "Third.")
	p.Append("list", inner)
	var e *arm.Error
	if !errors.As(p.Err(), &e) || len(e.Details) != 3 {
		t.Fatalf("%v", p.Err())
	}
	got := []string{e.Details[0].Target, e.Details[1].Target, e.Details[2].Target}
	if diff := cmp.Diff([]string{"a", "list[1].x", "list"}, got); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{"3 problems", "First.", "Second.", "Third."} {
		if !strings.Contains(e.Message, part) {
			t.Errorf("%q lacks %q", e.Message, part)
		}
	}
}

type animal interface{ legs() int }

type dog struct {
	Name string `json:"name"`
}

type fish struct{}

func (*dog) legs() int  { return 4 }
func (*fish) legs() int { return 0 }

var animals = arm.Union[animal]{"Dog": (*dog)(nil), "Fish": (*fish)(nil)}

func TestUnion(t *testing.T) {
	for _, text := range []string{`{"objectType":"Dog","name":"Rex"}`, `{"ObjectType":"dog","NAME":"Rex","more":1}`} {
		a, err := animals.Decode([]byte(text), "pet")
		if err != nil {
			t.Fatal(err)
		}
		out, err := animals.Encode(a)
		if err != nil || string(out) != `{"objectType":"Dog","name":"Rex"}` {
			t.Errorf("%s came out as %s, %v", text, out, err)
		}
	}
	if out, err := animals.Encode(&fish{}); err != nil || string(out) != `{"objectType":"Fish"}` {
		t.Errorf("%s, %v", out, err)
	}
	if a, err := animals.Decode([]byte("null"), "pet"); err != nil || a != nil {
		t.Errorf("null: %v, %v", a, err)
	}
	for text, target := range map[string]string{`{"objectType":"Cat"}`: "pet.objectType", `{}`: "pet.objectType", `{"objectType":"Dog","name":1}`: "pet.name", `[]`: "pet"} {
		_, err := animals.Decode([]byte(text), "pet")
		var e *arm.Error
		if !errors.As(err, &e) || e.Status != 400 || e.Target != target {
			t.Errorf("%s: %v, want a 400 at %s", text, err, target)
		}
		if target == "pet.objectType" && (e.Code != "BMSUserErrorInvalidInput" || !strings.Contains(e.Message, "Dog, Fish")) {
			t.Errorf("%s: %v names no alternatives", text, err)
		}
	}
}

func TestDecodeSaysWhere(t *testing.T) {
	var into struct {
		Properties struct {
			Rules []string `json:"rules"`
		} `json:"properties"`
	}
	for _, c := range []struct{ body, target, want string }{
		{"", "body", "no body"},
		{"{\n  \"properties\": }", "body", "line 2, position 17"},
		{`{"properties":`, "body", "ends within"},
		{`{"properties":{"rules":"x"}}`, "properties.rules", "'properties.rules' must be a list, not string"},
		{`{} {}`, "body", "after the end"},
		{`[]`, "body", "the document must be an object, not array"},
	} {
		err := arm.Decode([]byte(c.body), &into)
		var e *arm.Error
		if !errors.As(err, &e) || e.Code != "InvalidRequestContent" || e.Target != c.target || len(e.RecommendedAction) == 0 || !strings.Contains(e.Message, c.want) {
			t.Errorf("%q: %v, want InvalidRequestContent at %s with %q", c.body, err, c.target, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"objectType":"Dog","name":"Rex"}`))
	f.Add([]byte("{\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := animals.Decode(body, "pet")
		if err != nil {
			var e *arm.Error
			if !errors.As(err, &e) || e.Status != 400 {
				t.Fatalf("%q: %v is no 400", body, err)
			}
			return
		}
		if a == nil {
			return
		}
		if _, err := animals.Encode(a); err != nil {
			t.Fatalf("%q cannot be encoded again: %v", body, err)
		}
	})
}

func TestAsyncHeadersAreAbsolute(t *testing.T) {
	h := http.Header{}
	a := arm.Async{BaseURL: "https://host:1", APIVersion: "2024-04-01", Operation: "/subscriptions/S/operationStatus/eA==", Location: "/l"}
	a.Set(h)
	want := http.Header{
		"Azure-Asyncoperation": {"https://host:1/subscriptions/S/operationStatus/eA==?api-version=2024-04-01"},
		"Location":             {"https://host:1/l?api-version=2024-04-01"}, "Retry-After": {"1"},
	}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	if got := a.URL("/l", url.Values{"monitor": {"true"}}); got != "https://host:1/l?api-version=2024-04-01&monitor=true" {
		t.Error(got)
	}
}

func TestSystemDataKeepsItsCreator(t *testing.T) {
	var s *arm.SystemData
	first := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s = s.Touched("ann", "Application", first)
	s = s.Touched("bob", "ManagedIdentity", first.Add(time.Hour))
	want := &arm.SystemData{CreatedAt: first, CreatedBy: "ann", CreatedByType: "Application",
		LastModifiedAt: first.Add(time.Hour), LastModifiedBy: "bob", LastModifiedByType: "ManagedIdentity"}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
}

func TestEmptyListIsNoNull(t *testing.T) {
	text, err := json.Marshal(arm.NewList[string](nil))
	if err != nil || string(text) != `{"value":[],"nextLink":null}` {
		t.Errorf("%s, %v", text, err)
	}
}

// sqliteError is an error with a result code, as those of SQLite's driver.
type sqliteError int

func (e sqliteError) Error() string { return "sqlite" }
func (e sqliteError) Code() int     { return int(e) }

// postgresError is an error with an SQLSTATE, as those of PostgreSQL's driver.
type postgresError string

func (e postgresError) Error() string    { return "postgres" }
func (e postgresError) SQLState() string { return string(e) }

func TestFullDisksAreKnown(t *testing.T) {
	for err, want := range map[error]bool{
		&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}: true, syscall.EDQUOT: true, sqliteError(13): true, postgresError("53100"): true,
		&fs.PathError{Op: "write", Path: "x", Err: syscall.EIO}: false, sqliteError(5): false, postgresError("53200"): false, errors.New("13"): false,
	} {
		if got := arm.IsFull(fmt.Errorf("commit: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
