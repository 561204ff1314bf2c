package compat_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// mutations is how many requests are sent. Request n follows from n and the conversations alone: MUTATION=n sends only that one.
const mutations = 10_000

// TestMutatedRequestsAreAnswered sends the clients' requests, each with something wrong or odd in it, to services that have everything they
// name. Whatever it is, the answer is a success or says in the envelope what is wrong; and afterwards the service works as before.
func TestMutatedRequestsAreAnswered(t *testing.T) {
	const services = 4
	for first := range services {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			t.Parallel()
			w := given(t, "backup")
			m := mutator{requests: requests(t, w), lasting: []string{w.cluster.id, w.Subscription + "/resourceGroups/" + group, w.vault, w.instance}}
			counts := map[int]int{}
			for n := first; n < mutations; n += services {
				if only := os.Getenv("MUTATION"); only != "" && only != strconv.Itoa(n) {
					continue
				}
				if n%500 < services {
					repair(t, w)
				}
				r := m.mutate(n)
				if n%100 == 0 && fmt.Sprintf("%q", m.mutate(n)) != fmt.Sprintf("%q", r) {
					t.Fatalf("MUTATION=%d is not the same each time", n)
				}
				status, fault := try(t, w, r)
				counts[status]++
				if fault != "" {
					t.Errorf("MUTATION=%d: %s\n%s %s %v\n%.2000s", n, fault, r.Method, r.Target, r.Header, r.Body)
				}
			}
			if os.Getenv("MUTATION") == "" && (counts[200] < mutations/services/20 || counts[400] < mutations/services/5) {
				t.Errorf("the mutations miss the service: %v", counts)
			}
			works(t, w.World)
		})
	}
}

// requests are those of all conversations, about what the world has.
func requests(t *testing.T, w *world) []sentRequest {
	t.Helper()
	point := fmt.Sprint(w.points(t)[0].(map[string]any)["name"])
	started := w.Do("POST", w.instance+"/validateRestore", map[string]any{"restoreRequestObject": json.RawMessage(
		strings.NewReplacer("CLUSTER", w.cluster.id, "POINT", point).Replace(azureRestore))}).Want(202)
	job := fmt.Sprint(w.Do("GET", w.vault+"/backupJobs", nil).Want(200).At("value", 0, "id"))
	words := map[string]string{
		"S": w.Subscription, "sub": w.Env["AZURE_SUBSCRIPTION_ID"], "tenant": w.Env["AZURE_TENANT_ID"], "rg": w.Subscription + "/resourceGroups/" + group, "group": group,
		"cluster": w.cluster.id, "vault": w.vault, "instance": w.instance, "point": point, "job": job, "restore": job, "nodes": group, "vaultId": w.vault,
		"snapshots": w.Subscription + "/resourceGroups/" + group, "account": w.Subscription + "/resourceGroups/" + group + "/providers/Microsoft.Storage/storageAccounts/backupstore",
		"reader": w.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7",
	}
	names := strings.NewReplacer("bkv-guide", vaultName, "bkv-tf", vaultName, "prod-prod-5b1f", "prod", "prod-guide", "prod", "tfstore", "backupstore", "guidestore", "backupstore",
		"backupPolicies/nightly", "backupPolicies/"+policyName, "containers/tf-backup", "containers/aks", w.Env["CAIRN_ENDPOINT"], "")
	files, err := filepath.Glob("testdata/conversations/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	fill := func(text string) string {
		return names.Replace(word.ReplaceAllStringFunc(text, func(found string) string {
			if known, ok := words[found[1:len(found)-1]]; ok {
				return known
			}
			return "00000000-0000-4000-8000-000000000009"
		}))
	}
	var out []sentRequest
	seen := map[string]bool{}
	for _, file := range files {
		for _, e := range readConversation(t, file).exchanges {
			r := sentRequest{Method: e.verb, Target: fill(e.target), Body: fill(e.body), Header: e.header}
			switch e.verb {
			case "FOLLOW":
				r.Target = fill(started.Header.Get("Azure-AsyncOperation"))
			case "RESULT":
				r.Target = fill(started.Header.Get("Location"))
			}
			if !slices.Contains([]string{"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"}, e.verb) {
				r.Method = "GET"
			}
			if !strings.HasPrefix(r.Target, "/") {
				t.Fatalf("%s:%d: %s is no path", file, e.line, r.Target)
			}
			if key := r.Method + r.Target + r.Body; !seen[key] {
				seen[key] = true
				out = append(out, r)
			}
		}
	}
	return out
}

// repair brings back what a mutation may have changed or removed. What is there is left as it is.
func repair(t *testing.T, w *world) {
	t.Helper()
	installExtension(t, w.World, w.cluster)
	vault := w.Do("PUT", w.vault, map[string]any{"location": location, "identity": map[string]any{"type": "SystemAssigned"},
		"properties": map[string]any{"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}})
	w.Do("PUT", w.cluster.id+"/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-000000000001", map[string]any{"properties": map[string]any{
		"principalId": vault.At("identity", "principalId"), "principalType": "ServicePrincipal",
		"roleDefinitionId": w.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7"}})
	w.Do("PUT", w.vault+"/backupPolicies/"+policyName, policyBody)
	w.Do("PUT", w.instance, w.instanceBody())
	w.Do("POST", w.instance+"/resumeProtection", nil)
	w.Do("POST", w.instance+"/resumeBackups", nil)
}

// works takes a backup of another cluster and restores it.
func works(t *testing.T, d *daemontest.World) {
	t.Helper()
	c := connect(t, d, "afterwards")
	installExtension(t, d, c)
	v := d.Subscription + "/resourceGroups/" + group + "/providers/Microsoft.DataProtection/backupVaults/afterwards"
	made := d.Do("PUT", v, map[string]any{"location": location, "identity": map[string]any{"type": "SystemAssigned"},
		"properties": map[string]any{"storageSettings": []any{map[string]any{"datastoreType": "VaultStore", "type": "LocallyRedundant"}}}}).Want(201)
	grant(t, d, fmt.Sprint(made.At("identity", "principalId")), "acdd72a7-3385-48ef-bd42-f606fba81ae7", c.id, "00000000-0000-4000-8000-00000000aaaa")
	d.Do("PUT", v+"/backupPolicies/"+policyName, policyBody).Want(200)
	w := &world{World: d, cluster: c, vault: v, instance: v + "/backupInstances/afterwards"}
	w.protect(t)
	w.finish(t, w.start(t, "/backup", adhoc))
	body := strings.NewReplacer("CLUSTER", c.id, "POINT", fmt.Sprint(w.points(t)[0].(map[string]any)["name"])).Replace(azureRestore)
	if job := w.finish(t, w.start(t, "/restore", body)); job.At("properties", "status") != "Completed" {
		t.Errorf("the restore: %v", job.JSON)
	}
}

// leaks are words of the service's inside that no caller should read.
var leaks = regexp.MustCompile(`goroutine |\.go:\d|runtime error|nil pointer|(?i)sqlite|sql:|no such (table|column)|SQLSTATE`)

// try sends a request and says what is wrong with the answer.
func try(t *testing.T, w *world, r sentRequest) (status int, fault string) {
	t.Helper()
	client := &http.Client{Transport: w.HTTP.Transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	path, query, _ := strings.Cut(r.Target, "?")
	host := strings.TrimPrefix(w.Env["CAIRN_ENDPOINT"], "https://")
	request, err := http.NewRequestWithContext(t.Context(), r.Method, w.Env["CAIRN_ENDPOINT"], strings.NewReader(r.Body))
	if err != nil {
		t.Fatal(err)
	}
	request.URL = &url.URL{Scheme: "https", Host: host, Opaque: "//" + host + path, RawQuery: query}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+w.AdminToken())
	for name, value := range r.Header {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, fmt.Sprintf("no answer: %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, fmt.Sprintf("no whole answer: %v", err)
	}
	return response.StatusCode, faultOf(r.Method, response, body)
}

func faultOf(method string, response *http.Response, body []byte) string {
	isJSON := strings.HasPrefix(response.Header.Get("Content-Type"), "application/json")
	var document map[string]any
	if len(body) > 0 && (!isJSON || json.Unmarshal(body, &document) != nil) {
		return fmt.Sprintf("%d, no JSON: %s %.300s", response.StatusCode, response.Header.Get("Content-Type"), body)
	}
	switch {
	case response.StatusCode >= 200 && response.StatusCode < 300:
		return ""
	case response.StatusCode < 400 || response.StatusCode >= 500:
		return fmt.Sprintf("%d: %.500s", response.StatusCode, body)
	case method == "HEAD":
		return ""
	}
	told, _ := document["error"].(map[string]any)
	code, _ := told["code"].(string)
	message, _ := told["message"].(string)
	switch {
	case len(document) != 1 || code == "" || message == "":
		return fmt.Sprintf("%d without the envelope: %.500s", response.StatusCode, body)
	case leaks.Match(body):
		return fmt.Sprintf("it tells of its inside: %.500s", body)
	}
	return ""
}

// mutator makes requests out of others.
type mutator struct {
	requests []sentRequest
	lasting  []string // what may not be deleted, since it cannot be made again, or is what the others are about
}

func (m mutator) mutate(n int) sentRequest {
	seed := sha256.Sum256([]byte(strconv.Itoa(n)))
	random := rand.New(rand.NewChaCha8(seed))
	r := pick(random, m.requests)
	for r.Body == "" && random.IntN(4) > 0 { // there is most to read in bodies
		r = pick(random, m.requests)
	}
	for range 1 + random.IntN(2) {
		switch k := random.IntN(20); {
		case k < 1:
			r.Method = pick(random, []string{"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "PURGE"})
		case k < 4:
			r.Target = m.path(random, r.Target)
		case k < 7:
			r.Target = query(random, r.Target)
		case k < 9:
			r.Header = header(random, r.Header)
		default:
			r.Body = m.body(random, r.Body)
		}
	}
	path, _, _ := strings.Cut(r.Target, "?")
	if plain, err := url.PathUnescape(path); err == nil && r.Method == "DELETE" {
		plain = strings.Trim(regexp.MustCompile(`/+`).ReplaceAllString(plain, "/"), "/")
		for _, id := range m.lasting {
			if strings.EqualFold(plain, strings.Trim(id, "/")) {
				r.Method = "GET"
			}
		}
	}
	return r
}

func pick[T any](random *rand.Rand, of []T) T { return of[random.IntN(len(of))] }

// odd are names and values that somebody may send.
var odd = []string{"", ".", "..", "%00", "%20", "%2F", "%5C", "%C3%28", "é", "%E6%97%A5", "a'b", "a%22b", "a;b", "null", "-1", "*", "{}", "$filter", "%25", "a%0Ab", "x'%20or%20'1'='1",
	strings.Repeat("n", 300), "00000000-0000-0000-0000-000000000000", "providers", "subscriptions"}

// path changes a path; what it writes is well-formed HTTP.
func (m mutator) path(random *rand.Rand, target string) string {
	path, query, _ := strings.Cut(target, "?")
	segments := strings.Split(path, "/")
	i := random.IntN(len(segments))
	switch random.IntN(8) {
	case 0:
		segments = slices.Delete(segments, i, i+1)
	case 1:
		segments = slices.Insert(segments, i, segments[i])
	case 2:
		segments[i] = pick(random, odd)
	case 3:
		segments[i] = strings.ToUpper(segments[i])
	case 4:
		segments = append(segments, pick(random, odd))
	case 5:
		j := random.IntN(len(segments))
		segments[i], segments[j] = segments[j], segments[i]
	case 6: // as another request has it
		other, _, _ := strings.Cut(pick(random, m.requests).Target, "?")
		segments = strings.Split(other, "/")
	case 7:
		segments = append(segments[:max(i, 1)], strings.Split(pick(random, m.requests).Target, "/")[1:]...)
	}
	path, more, _ := strings.Cut(strings.Join(segments, "/"), "?")
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if query == "" {
		query = more
	}
	return path + "?" + query
}

// query changes a query.
func query(random *rand.Rand, target string) string {
	path, query, _ := strings.Cut(target, "?")
	switch random.IntN(5) {
	case 0:
		return path
	case 1:
		return path + "?api-version=" + pick(random, odd)
	case 2:
		return path + "?" + query + "&" + query
	case 3:
		return path + "?" + query + "&" + pick(random, []string{"%zz", "a;b", "=", "&&&", "x=%FF", "API-VERSION=2024-04-01", "%24top=%00"})
	}
	name := pick(random, []string{"$filter", "$top", "$skipToken", "$skip", "$expand", "$orderby", "forceDelete", "monitor"})
	value := pick(random, []string{"", "-1", "0", "1", "99999999999999999999", "abc", "%00", "eq", "%27", "status%20eq%20", "startDate%20eq%20%27x%27", "operation%20eq%20%27Backup%27%20and",
		"a%20eq%20%27b%27%20or%20c%20eq%20%27d%27", "atScope()", "principalId%20eq%20%27%27", strings.Repeat("(", 2000), "eyJhIjoxfQ==", "true", "roleName%20eq%20%27%25%27",
		"startTime%20ge%20%270000-00-00%27", "startTime%20ge%20%272024-01-01T00:00:00Z%27%20and%20status%20eq%20%27Completed%27", "%C3%28"})
	return path + "?" + query + "&" + name + "=" + value
}

// header adds a header to some.
func header(random *rand.Rand, old map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range old {
		out[name] = value
	}
	all := [][2]string{
		{"If-Match", `"x"`}, {"If-Match", "*"}, {"If-Match", ""}, {"If-None-Match", "*"}, {"If-None-Match", `W/"x"`}, {"Content-Type", "text/plain"}, {"Content-Type", "application/xml; charset=\xff"},
		{"Content-Encoding", "gzip"}, {"Accept", "text/html"}, {"Accept-Language", "xx"}, {"Authorization", "Bearer"}, {"Authorization", "Bearer a.b.c"}, {"Authorization", "Basic eDp5"},
		{"x-ms-correlation-request-id", "nonsense\t"}, {"x-ms-correlation-request-id", "00000000-0000-0000-0000-000000000000"}, {"x-ms-authorization-auxiliary", "Bearer x"}, {"Range", "bytes=5-2"},
		{"X-HTTP-Method-Override", "DELETE"}, {"Cookie", strings.Repeat("a", 8000)}, {"x-ms-client-request-id", "é"}, {"Origin", "https://example.com"}, {"Forwarded", "for=1.2.3.4"}, {"Prefer", "respond-async"},
	}
	h := pick(random, all)
	out[h[0]] = h[1]
	return out
}

// body changes a body: the document, or its text.
func (m mutator) body(random *rand.Rand, body string) string {
	var tree any
	if random.IntN(8) == 0 || json.Unmarshal([]byte(body), &tree) != nil {
		return broken(random, body)
	}
	raw := map[string]string{} // what stands for text that the encoder would not write
	tree = m.node(random, tree, raw)
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(tree); err != nil {
		panic(err)
	}
	text := out.String()
	for mark, value := range raw {
		text = strings.ReplaceAll(text, `"`+mark+`"`, value)
	}
	return text
}

// broken is a body that may be no JSON.
func broken(random *rand.Rand, body string) string {
	switch random.IntN(9) {
	case 0:
		return body[:random.IntN(len(body)+1)]
	case 1:
		return ""
	case 2:
		return pick(random, []string{"null", "true", "[]", "{}", "0", `""`, "[null]", `{"":{}}`, "\x00", "\xff\xfe", "\ufeff{}", "{]", `{"properties":null}`, `{"properties":[]}`, `{"properties":{"properties":{}}}`})
	case 3:
		return body + pick(random, []string{"{}", "x", ",", "\x00", "null"})
	case 4:
		return strings.Repeat(`{"properties":`, 20_000) + "1" + strings.Repeat("}", 20_000)
	case 5:
		return strings.Repeat("[", 100_000)
	case 6:
		return "[" + body + "]"
	case 7:
		flipped := []byte(body)
		for range 3 {
			if len(flipped) > 0 {
				flipped[random.IntN(len(flipped))] ^= byte(1 << random.IntN(8))
			}
		}
		return string(flipped)
	}
	return `{"properties":{"a":"` + strings.Repeat("x", 200_000) + `"}}`
}

// node changes one thing somewhere in a document.
func (m mutator) node(random *rand.Rand, v any, raw map[string]string) any {
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		if len(keys) == 0 {
			v[pick(random, odd)] = m.value(random, raw)
			return v
		}
		k := pick(random, keys)
		if random.IntN(4) > 0 && isContainer(v[k]) {
			v[k] = m.node(random, v[k], raw)
			return v
		}
		switch random.IntN(9) {
		case 0:
			delete(v, k)
		case 1:
			v[strings.ToUpper(k)] = v[k]
		case 2:
			v[strings.ToLower(k)] = m.value(random, raw)
		case 3:
			v[pick(random, keys)+"_"] = v[k]
			delete(v, k)
		case 4:
			v[k] = v[pick(random, keys)]
		case 5:
			v[pick(random, odd)] = v[k]
		default:
			v[k] = m.value(random, raw)
		}
		return v
	case []any:
		if len(v) == 0 {
			return []any{m.value(random, raw)}
		}
		i := random.IntN(len(v))
		switch random.IntN(6) {
		case 0:
			return []any{}
		case 1:
			return append(v, v[i])
		case 2:
			return append(v, nil)
		case 3:
			return slices.Repeat(v, 200)
		case 4:
			v[i] = m.value(random, raw)
		default:
			v[i] = m.node(random, v[i], raw)
		}
		return v
	}
	return m.value(random, raw)
}

func isContainer(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

// value is any value.
func (m mutator) value(random *rand.Rand, raw map[string]string) any {
	if random.IntN(2) == 0 {
		mark := fmt.Sprintf("MARK%d", len(raw))
		raw[mark] = pick(random, []string{"null", "true", "1e400", "-1", "1.5", "99999999999999999999999", "0.000", `"\u0000"`, `"\ud800"`, "\"\xff\xfe\"", `{"a":1,"a":2}`, "[[[[[[]]]]]]", `{"objectType":"Sorcery"}`,
			`{"objectType":null}`, `"` + strings.Repeat("y", 70_000) + `"`, strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000)})
		return mark
	}
	return pick(random, []any{nil, "", "x", 0, -1, true, []any{}, map[string]any{}, []any{nil}, "R/2026-02-16T04:00:00+00:00/PT0S", "P1000000Y", "P-1D", "/", "//", "/subscriptions", m.lasting[0], m.lasting[2], m.lasting[3],
		m.lasting[0] + "/", strings.ToUpper(m.lasting[2]), "https://example.com", "Default", "AlwaysOn", "UserAssigned", "None", "../..", "\n", "日本", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "' OR 1=1 --", "{{x}}", "%s%n"})
}
