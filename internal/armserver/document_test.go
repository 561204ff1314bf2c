package armserver_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"
	diff "github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/armserver"
)

var update = flag.Bool("update", false, "write docs/api.md anew")

const apiDocument = "../../docs/api.md"

const apiHead = "# The API\n\nWhat `cairnd` serves, one row an operation, made from the route table (`go test ./internal/armserver -run Document -update`). Any\n" +
	"well-formed `api-version` is accepted; shapes are those of 2024-04-01. The permission is what the caller's roles must allow at the resource or\n" +
	"above it; `-` means that every authenticated caller may ask, and sees what its roles let it see.\n\n" +
	"State: *served*; *ours*, which Azure does not have; or the code of the error that every request ends with, however right it is, because Cairn\n" +
	"has no such thing. Requests for other datasources than Kubernetes clusters are refused with 400 wherever they name one.\n\n" +
	"| method | path | permission | state |\n| --- | --- | --- | --- |\n"

// TestTheDocumentListsEveryOperation holds docs/api.md to the route table, and the route table to Azure's SDK: each of its operations has a row.
func TestTheDocumentListsEveryOperation(t *testing.T) {
	var text strings.Builder
	text.WriteString(apiHead)
	table := armserver.Table()
	for _, r := range table {
		fmt.Fprintf(&text, "| %s | `%s` | %s | %s |\n", r.Method, r.Path, r.Permission, state(r))
	}
	text.WriteString("\n## Azure's SDK\n\nEvery operation of `armdataprotection` v3 and the row that answers it, found by calling its methods.\n\n| operation | row | state |\n| --- | --- | --- |\n")
	for _, o := range sdkOperations(t) {
		i := slices.IndexFunc(table, func(r armserver.Route) bool { return r.Serves(o.method, o.path) })
		if i < 0 {
			t.Errorf("%s has no row: %s %s", o.name, o.method, o.path)
			continue
		}
		if table[i].Ours {
			t.Errorf("%s: %s %s is no row of ours", o.name, table[i].Method, table[i].Path)
		}
		fmt.Fprintf(&text, "| %s | %s `%s` | %s |\n", o.name, o.method, table[i].Path, state(table[i]))
	}
	if *update {
		if err := os.WriteFile(apiDocument, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(apiDocument)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff.Diff(text.String(), string(written)); d != "" {
		t.Errorf("docs/api.md is not what the table says (run with -update):\n%s", d)
	}
}

func state(r armserver.Route) string {
	switch {
	case r.Ours:
		return "ours"
	case r.Refuses != "":
		return "`" + r.Refuses + "`"
	}
	return "served"
}

// sdkOperation is an operation of Azure's SDK: its client and method, and what that asks for.
type sdkOperation struct{ name, method, path string }

// recorder is a transport that notes the last request and answers none.
type recorder struct{ last *http.Request }

var errRecorded = errors.New("recorded")

func (r *recorder) Do(request *http.Request) (*http.Response, error) {
	r.last = request
	return nil, errRecorded
}

// anyToken is a credential for nobody.
type anyToken struct{}

func (anyToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "none", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// sdkOperations calls every method of every client of the SDK that sends something.
func sdkOperations(t *testing.T) []sdkOperation {
	t.Helper()
	wire := &recorder{}
	clients, err := dp.NewClientFactory("s", anyToken{}, &arm.ClientOptions{DisableRPRegistration: true,
		ClientOptions: policy.ClientOptions{Transport: wire, Retry: policy.RetryOptions{MaxRetries: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	var found []sdkOperation
	factory := reflect.ValueOf(clients)
	for i := range factory.NumMethod() {
		client := factory.Method(i).Call(nil)[0]
		for j := range client.NumMethod() {
			wire.last = nil
			method := client.Method(j)
			results := method.Call(placeholders(t, method.Type()))
			if pager := results[0].MethodByName("NextPage"); pager.IsValid() {
				pager.Call([]reflect.Value{reflect.ValueOf(t.Context())})
			}
			name := cmp.Or(strings.TrimSuffix(client.Elem().Type().Name(), "Client"), "Client") + "." +
				strings.TrimPrefix(client.Type().Method(j).Name, "Begin")
			if wire.last == nil {
				t.Errorf("%s sent nothing: %v", name, results)
				continue
			}
			found = append(found, sdkOperation{name, wire.last.Method, wire.last.URL.Path})
		}
	}
	if len(found) < 70 {
		t.Errorf("the SDK has %d operations", len(found))
	}
	return found
}

// placeholders are arguments with which a method of the SDK sends its request: any text for names, nothing for bodies and options.
func placeholders(t *testing.T, method reflect.Type) []reflect.Value {
	args := make([]reflect.Value, method.NumIn())
	for i := range args {
		switch in := method.In(i); {
		case in == reflect.TypeFor[context.Context]():
			args[i] = reflect.ValueOf(t.Context())
		case in.Kind() == reflect.String:
			args[i] = reflect.ValueOf(fmt.Sprintf("p%d", i)).Convert(in)
		default:
			args[i] = reflect.Zero(in)
		}
	}
	return args
}
