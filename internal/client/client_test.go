package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/google/go-cmp/cmp"

	"github.com/cairn-backup/cairn/internal/client"
)

type token struct{}

func (token) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "secret-token", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// service answers each request, METHOD PATH, with the next of its answers; the last one is repeated. BASE in headers and
// bodies is its address.
type service struct {
	t        *testing.T
	mu       sync.Mutex
	answers  map[string][]answer
	requests []string
	base     string
}

type answer struct {
	status  int
	headers map[string]string
	body    string
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := r.Header.Get("Authorization"); got != "Bearer secret-token" {
		s.t.Errorf("%s: Authorization is %q", r.URL, got)
	}
	body, _ := io.ReadAll(r.Body)
	s.requests = append(s.requests, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), body)))
	key := r.Method + " " + r.URL.Path
	list := s.answers[key]
	if len(list) == 0 {
		http.Error(w, "no answer for "+key, http.StatusTeapot)
		return
	}
	if len(list) > 1 {
		s.answers[key] = list[1:]
	}
	w.Header().Set("Content-Type", "application/json")
	for k, v := range list[0].headers {
		w.Header().Set(k, strings.ReplaceAll(v, "BASE", s.base))
	}
	w.WriteHeader(list[0].status)
	_, _ = io.WriteString(w, strings.ReplaceAll(list[0].body, "BASE", s.base))
}

func start(t *testing.T, answers map[string][]answer) (*client.Client, *service) {
	s := &service{t: t, answers: answers}
	server := httptest.NewTLSServer(s)
	t.Cleanup(server.Close)
	s.base = server.URL
	c, err := client.New(token{}, client.Options{Endpoint: server.URL, Transport: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func compact(v any) string {
	raw, _ := json.Marshal(v)
	return string(raw)
}

func TestPutFollowsTheOperationAndReadsTheResource(t *testing.T) {
	c, s := start(t, map[string][]answer{
		"PUT /r":  {{201, map[string]string{"Azure-AsyncOperation": "BASE/op?sig=a%2Fb", "Retry-After": "1"}, `{"properties":{"provisioningState":"Provisioning"}}`}},
		"GET /op": {{200, map[string]string{"Retry-After": "1"}, `{"status":"Inprogress"}`}, {200, nil, `{"status":"Succeeded"}`}},
		"GET /r":  {{200, nil, `{"name":"r","n":14.0}`}},
	})
	var seen []string
	got, err := c.Do(t.Context(), client.Request{Method: "PUT", Path: "/r", APIVersion: "2024-04-01", Body: map[string]any{"a": 1},
		OnPoll: func(status string) { seen = append(seen, status) }})
	if err != nil {
		t.Fatal(err)
	}
	if compact(got) != `{"n":14.0,"name":"r"}` {
		t.Errorf("got %s", compact(got))
	}
	want := []string{`PUT /r?api-version=2024-04-01 {"a":1}`, "GET /op?sig=a%2Fb", "GET /op?sig=a%2Fb", "GET /r?api-version=2024-04-01"}
	if diff := cmp.Diff(want, s.requests); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"Inprogress", "Succeeded"}, seen); diff != "" {
		t.Error(diff)
	}
}

func TestPostEndsWithTheResultOfLocation(t *testing.T) {
	c, _ := start(t, map[string][]answer{
		"POST /r/backup": {{202, map[string]string{"Azure-AsyncOperation": "BASE/op", "Location": "BASE/result"}, ""}},
		"GET /op":        {{200, nil, `{"status":"Succeeded","properties":{"jobId":"/j"}}`}},
		"GET /result":    {{200, nil, `{"jobId":"/j"}`}},
	})
	got, err := c.Do(t.Context(), client.Request{Method: "POST", Path: "/r/backup"})
	if err != nil || compact(got) != `{"jobId":"/j"}` {
		t.Errorf("got %s, %v", compact(got), err)
	}
}

func TestLocationAloneIsPolledUntilItIsDone(t *testing.T) {
	c, _ := start(t, map[string][]answer{
		"PUT /account": {{202, map[string]string{"Location": "BASE/later", "Retry-After": "1"}, ""}},
		"GET /later":   {{202, map[string]string{"Location": "BASE/later", "Retry-After": "1"}, ""}, {200, nil, `{"name":"account"}`}},
	})
	got, err := c.Do(t.Context(), client.Request{Method: "PUT", Path: "/account", Body: struct{}{}})
	if err != nil || compact(got) != `{"name":"account"}` {
		t.Errorf("got %s, %v", compact(got), err)
	}
}

func TestAnswersThatAreFinalAtOnce(t *testing.T) {
	c, _ := start(t, map[string][]answer{
		"PUT /policy":    {{200, nil, `{"name":"policy"}`}},
		"POST /listKeys": {{200, nil, `{"keys":[]}`}},
		"DELETE /gone":   {{204, nil, ""}},
		"DELETE /there":  {{200, nil, ""}},
		"PUT /role":      {{201, nil, `{"name":"role"}`}},
	})
	for _, r := range []struct {
		client.Request
		want string
	}{
		{client.Request{Method: "PUT", Path: "/policy", Body: 1}, `{"name":"policy"}`},
		{client.Request{Method: "POST", Path: "/listKeys"}, `{"keys":[]}`},
		{client.Request{Method: "DELETE", Path: "/gone"}, `null`},
		{client.Request{Method: "DELETE", Path: "/there"}, `null`},
		{client.Request{Method: "PUT", Path: "/role", Body: 1, NoWait: true}, `{"name":"role"}`},
	} {
		got, err := c.Do(t.Context(), r.Request)
		if err != nil || compact(got) != r.want {
			t.Errorf("%s %s: got %s, %v", r.Method, r.Path, compact(got), err)
		}
	}
}

const fullError = `{"code":"UserErrorX","message":"No.","target":"properties.a","details":[{"code":"Inner","message":"Because."}],` +
	`"additionalInfo":[{"type":"UserFacingError","info":{"recommendedAction":["Do this."]}}]}`

func TestFailedOperationIsItsError(t *testing.T) {
	c, _ := start(t, map[string][]answer{
		"DELETE /r": {{202, map[string]string{"Azure-AsyncOperation": "BASE/op"}, ""}},
		"GET /op":   {{200, nil, `{"status":"Failed","error":` + fullError + `}`}},
	})
	_, err := c.Do(t.Context(), client.Request{Method: "DELETE", Path: "/r"})
	var e *client.Error
	if !errors.As(err, &e) || e.Status != 200 || client.NotFound(err) {
		t.Fatalf("got %#v", err)
	}
	const want = `(UserErrorX) No.
Code: UserErrorX
Message: No.
Target: properties.a
Exception Details:	(Inner) Because.
	Code: Inner
	Message: Because.
Additional Information:Type: UserFacingError
Info: {
    "recommendedAction": [
        "Do this."
    ]
}`
	if diff := cmp.Diff(want, e.Text()); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedRequestIsItsError(t *testing.T) {
	c, _ := start(t, map[string][]answer{
		"GET /missing": {{404, nil, `{"error":{"code":"ResourceNotFound","message":"no r"}}`}},
		"GET /plain":   {{400, nil, `just text`}},
		"GET /empty":   {{403, map[string]string{"x-ms-error-code": "AuthorizationFailed"}, ``}},
	})
	for path, want := range map[string]string{"/missing": "(ResourceNotFound) no r", "/plain": "(BadRequest) just text",
		"/empty": "(AuthorizationFailed) the service answered 403 Forbidden"} {
		_, err := c.Get(t.Context(), path, "")
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v", path, err)
		}
		if client.NotFound(err) != (path == "/missing") {
			t.Errorf("%s: NotFound is %t", path, client.NotFound(err))
		}
	}
}

func TestListReadsAllPages(t *testing.T) {
	c, s := start(t, map[string][]answer{
		"GET /list": {{200, nil, `{"value":[1,2],"nextLink":"BASE/more?$skipToken=a%20b&api-version=1"}`}},
		"GET /more": {{200, nil, `{"value":[3],"nextLink":null}`}},
	})
	got, err := c.List(t.Context(), client.Request{Path: "/list", APIVersion: "1", Query: map[string][]string{"$filter": {"a eq 'b c'"}}})
	if err != nil || compact(got) != "[1,2,3]" {
		t.Errorf("got %s, %v", compact(got), err)
	}
	want := []string{"GET /list?%24filter=a%20eq%20%27b%20c%27&api-version=1", "GET /more?%24skipToken=a%20b&api-version=1"}
	if diff := cmp.Diff(want, s.requests); diff != "" {
		t.Error(diff)
	}
}

func TestTheTokenStaysAtItsHost(t *testing.T) {
	c, _ := start(t, map[string][]answer{"GET /list": {{200, nil, `{"value":[],"nextLink":"https://elsewhere.example/x"}`}}})
	if _, err := c.List(t.Context(), client.Request{Path: "/list"}); err == nil || !strings.Contains(err.Error(), "is not sent to the other") {
		t.Errorf("got %v", err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	c, _ := start(t, map[string][]answer{
		"POST /r": {{202, map[string]string{"Azure-AsyncOperation": "BASE/op"}, ""}},
		"GET /op": {{200, map[string]string{"Retry-After": "3600"}, `{"status":"Inprogress"}`}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Do(ctx, client.Request{Method: "POST", Path: "/r", OnPoll: func(string) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a":[1,2.50,null]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := client.Decode(raw)
		if err != nil || v == nil {
			return
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if w, err := client.Decode(again); err != nil || compact(w) != compact(v) {
			t.Fatalf("%q became %q: %v", raw, again, err)
		}
	})
}
