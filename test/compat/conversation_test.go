package compat_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dp "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/dataprotection/armdataprotection/v3"

	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
)

// The files of testdata/conversations say what Azure's own clients send, request by request, and what they need to find in each answer.
// A file begins with "given" and what there is already: nothing (a connected cluster), vault (with the extension, a policy and Reader on the
// cluster), instance, or backup (an instance with one recovery point). Then come exchanges, with an empty line between two:
//
//	PUT {rg}/providers/Microsoft.Storage/storageAccounts/a?api-version=2022-09-01   the request; {x} is a word known or learned
//	+ If-Match: *                                                                    a header of it
//	> {"location": "eastus"}                                                         its body
//	< 200|202 Location Retry-After                                                   one of these statuses, and headers that must be there
//	. sku/name = Standard_LRS                                                        a value of the answer
//	. identity/principalId : guid > principal                                        the type of one, and the word that it is from now on
//	. value/[name=daily]/properties : object                                         a list's element is named by a number, or by what it has
//
// FOLLOW instead of a request polls the last Azure-AsyncOperation until it has ended, with "Succeeded" unless the lines say otherwise;
// RESULT gets the last Location until it is no longer 202; UNTIL polls a GET until what follows holds; GONE polls one until it is 404.

// exchange is a request and what is needed of its answer.
type exchange struct {
	line         int
	verb, target string
	header       map[string]string
	body         string
	statuses     []int
	headers      []string
	checks       []string
}

// sentRequest is a request as it went out.
type sentRequest struct {
	Method, Target, Body string
	Header               map[string]string
}

// conversation is a file of them.
type conversation struct {
	given     string
	exchanges []exchange
}

func readConversation(t testing.TB, file string) conversation {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c conversation
	var e *exchange
	for n, s := 1, bufio.NewScanner(bytes.NewReader(text)); s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		mark, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
			e = nil
		case mark == "#":
		case mark == "given":
			c.given = rest
		case e == nil:
			c.exchanges = append(c.exchanges, exchange{line: n, verb: mark, target: rest, header: map[string]string{}})
			e = &c.exchanges[len(c.exchanges)-1]
		case mark == "+":
			name, value, _ := strings.Cut(rest, ": ")
			e.header[name] = value
		case mark == ">":
			e.body += rest
		case mark == "<":
			words := strings.Fields(rest)
			for _, status := range strings.Split(words[0], "|") {
				code, err := strconv.Atoi(status)
				if err != nil {
					t.Fatalf("%s:%d: %v", file, n, err)
				}
				e.statuses = append(e.statuses, code)
			}
			e.headers = words[1:]
		case mark == ".":
			e.checks = append(e.checks, rest)
		default:
			t.Fatalf("%s:%d: what is %q?", file, n, line)
		}
	}
	return c
}

// replay is a conversation under way.
type replay struct {
	*world
	t     *testing.T
	words map[string]string
	last  daemontest.Answer // the last answer with headers to follow
	sent  []sentRequest
}

// given makes what a conversation begins with.
func given(t testing.TB, state string) *world {
	t.Helper()
	d := daemontest.Start(t, daemon.Config{})
	if state == "nothing" {
		c := connect(t, d, "prod")
		eventually(t, "the cluster", func() error {
			if a := d.Do("GET", c.id, nil).Want(200); a.At("properties", "powerState", "code") != "Running" {
				return fmt.Errorf("it is %v", a.At("properties", "powerState"))
			}
			return nil
		})
		return &world{World: d, cluster: c}
	}
	w := setUp(t, d)
	switch state {
	case "vault":
	case "instance", "backup":
		w.protect(t)
		if state == "backup" {
			w.finish(t, w.start(t, "/backup", adhoc))
		}
	default:
		t.Fatalf("%q is not a state to begin with", state)
	}
	return w
}

// hold replays a conversation, and returns the requests that were sent.
func hold(t *testing.T, c conversation, w *world) []sentRequest {
	t.Helper()
	r := &replay{world: w, t: t, words: map[string]string{
		"S": w.Subscription, "sub": w.Env["AZURE_SUBSCRIPTION_ID"], "tenant": w.Env["AZURE_TENANT_ID"], "rg": w.Subscription + "/resourceGroups/" + group, "group": group,
		"cluster": w.cluster.id, "vault": w.vault, "instance": w.instance,
	}}
	for _, e := range c.exchanges {
		r.do(e)
	}
	return r.sent
}

var word = regexp.MustCompile(`\{([A-Za-z]+)\}`)

func (r *replay) fill(line int, text string) string {
	return word.ReplaceAllStringFunc(text, func(found string) string {
		known, ok := r.words[found[1:len(found)-1]]
		if !ok {
			r.t.Fatalf("line %d: %s is not known yet", line, found)
		}
		return known
	})
}

func (r *replay) do(e exchange) {
	r.t.Helper()
	switch e.verb {
	case "FOLLOW":
		if !slices.ContainsFunc(e.checks, func(c string) bool { return strings.HasPrefix(c, "status ") }) {
			e.checks = append(e.checks, "status = Succeeded")
		}
		r.poll(e, r.last.Header.Get("Azure-AsyncOperation"), func(a daemontest.Answer) bool {
			status, ok := a.At("status").(string)
			if a.Status != 200 || !ok || a.At("name") == nil || a.At("startTime") == nil {
				r.t.Fatalf("line %d: an operation's status: %d %v", e.line, a.Status, a.JSON)
			}
			ended := slices.Contains([]string{"Succeeded", "Failed", "Canceled"}, status)
			if !ended && a.Header.Get("Retry-After") != "1" {
				r.t.Errorf("line %d: Retry-After is %q", e.line, a.Header.Get("Retry-After"))
			}
			return ended
		})
	case "RESULT":
		r.poll(e, r.last.Header.Get("Location"), func(a daemontest.Answer) bool { return a.Status != 202 })
	case "UNTIL":
		r.poll(e, r.fill(e.line, e.target), func(a daemontest.Answer) bool { return len(r.faults(e, a)) == 0 })
	case "GONE":
		e.statuses = []int{404}
		e.checks = append(e.checks, "error/code : string", "error/message : string")
		r.poll(e, r.fill(e.line, e.target), func(a daemontest.Answer) bool { return a.Status == 404 })
	default:
		a := r.send(e.verb, r.fill(e.line, e.target), r.fill(e.line, e.body), e.header)
		r.check(e, a)
		for _, name := range []string{"Azure-AsyncOperation", "Location"} {
			if target := a.Header.Get(name); target != "" && !strings.HasPrefix(target, r.Env["CAIRN_ENDPOINT"]+"/") {
				r.t.Errorf("line %d: %s leads elsewhere: %s", e.line, name, target)
			}
		}
		if a.Header.Get("Azure-AsyncOperation") != "" || a.Header.Get("Location") != "" {
			r.last = a
		}
	}
}

func (r *replay) send(method, target, body string, header map[string]string) daemontest.Answer {
	r.t.Helper()
	target = strings.TrimPrefix(target, r.Env["CAIRN_ENDPOINT"])
	r.sent = append(r.sent, sentRequest{method, target, body, header})
	all := map[string]string{"Authorization": "Bearer " + r.AdminToken(), "Content-Type": "application/json"}
	for name, value := range header {
		all[name] = value
	}
	a := r.Send(method, target, sent(body), all)
	list, ok := a.At("value").([]any)
	if !ok {
		list = []any{a.JSON}
	}
	for _, resource := range list {
		one := daemontest.Answer{JSON: resource}
		if typ, ok := one.At("type").(string); ok && models[typ] != nil {
			sdkReads(r.t, method+" "+target, one, models[typ]())
		}
	}
	return a
}

// models are the SDK's of each resource type: whatever a conversation is answered must survive them.
var models = map[string]func() any{
	"Microsoft.DataProtection/backupVaults":                                func() any { return &dp.BackupVaultResource{} },
	"Microsoft.DataProtection/backupVaults/backupPolicies":                 func() any { return &dp.BaseBackupPolicyResource{} },
	"Microsoft.DataProtection/backupVaults/backupInstances":                func() any { return &dp.BackupInstanceResource{} },
	"Microsoft.DataProtection/backupVaults/deletedBackupInstances":         func() any { return &dp.DeletedBackupInstanceResource{} },
	"Microsoft.DataProtection/backupVaults/backupInstances/recoveryPoints": func() any { return &dp.AzureBackupRecoveryPointResource{} },
	"Microsoft.DataProtection/backupVaults/backupJobs":                     func() any { return &dp.AzureBackupJobResource{} },
	"Microsoft.DataProtection/backupVaults/backupResourceGuardProxies":     func() any { return &dp.ResourceGuardProxyBaseResource{} },
	"Microsoft.DataProtection/resourceGuards":                              func() any { return &dp.ResourceGuardResource{} },
}

// poll asks until enough, and checks what came then.
func (r *replay) poll(e exchange, target string, enough func(daemontest.Answer) bool) {
	r.t.Helper()
	if target == "" {
		r.t.Fatalf("line %d: the answer before does not say where to ask", e.line)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		a := r.send("GET", target, "", nil)
		if enough(a) {
			r.check(e, a)
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.check(e, a)
			r.t.Fatalf("line %d: %s stays as it is: %d %v", e.line, target, a.Status, a.JSON)
		}
	}
}

func (r *replay) check(e exchange, a daemontest.Answer) {
	r.t.Helper()
	faults := r.faults(e, a)
	if len(faults) == 0 {
		return
	}
	body, err := json.Marshal(a.JSON)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Fatalf("line %d: %s %s: %s\nthe answer: %d %v %s", e.line, e.verb, e.target, strings.Join(faults, "; "), a.Status, a.Header, body)
}

// faults are what an answer lacks. What an answer tells is learned meanwhile.
func (r *replay) faults(e exchange, a daemontest.Answer) []string {
	r.t.Helper()
	var out []string
	if len(e.statuses) > 0 && !slices.Contains(e.statuses, a.Status) {
		return []string{fmt.Sprintf("it is %d, want %v", a.Status, e.statuses)}
	}
	for _, name := range e.headers {
		if a.Header.Get(name) == "" {
			out = append(out, "there is no header "+name)
		}
	}
	for _, c := range e.checks {
		c, learned, learns := strings.Cut(c, " > ")
		path, want, isValue := strings.Cut(c, " = ")
		typ := ""
		if !isValue {
			var ok bool
			if path, typ, ok = strings.Cut(c, " : "); !ok {
				r.t.Fatalf("line %d: what is %q?", e.line, c)
			}
		}
		got, there := find(a.JSON, step.FindAllString(r.fill(e.line, path), -1))
		switch {
		case isValue && !there, typ != "absent" && !there:
			out = append(out, path+" is not there")
		case isValue && fmt.Sprint(got) != r.fill(e.line, want):
			out = append(out, fmt.Sprintf("%s is %v, want %s", path, got, r.fill(e.line, want)))
		case typ != "" && !isOf(got, there, typ):
			out = append(out, fmt.Sprintf("%s is %v, which is no %s", path, got, typ))
		}
		if learns {
			r.words[learned] = fmt.Sprint(got)
		}
	}
	return out
}

// step is one of a path's: a key, or [key=value], which may have slashes in it.
var step = regexp.MustCompile(`\[[^]]*\]|[^/]+`)

// find walks to a value, by keys in their exact letter case.
func find(v any, path []string) (any, bool) {
	if len(path) == 0 {
		return v, true
	}
	switch node := v.(type) {
	case map[string]any:
		child, ok := node[path[0]]
		if !ok {
			return nil, false
		}
		return find(child, path[1:])
	case []any:
		key, want, named := strings.Cut(strings.Trim(path[0], "[]"), "=")
		for i, child := range node {
			m, _ := child.(map[string]any)
			if named && fmt.Sprint(m[key]) == want || !named && key == strconv.Itoa(i) {
				return find(child, path[1:])
			}
		}
	}
	return nil, false
}

var guid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func isOf(v any, there bool, typ string) bool {
	text, isText := v.(string)
	list, isList := v.([]any)
	switch typ {
	case "absent":
		return !there
	case "null":
		return there && v == nil
	case "string":
		return isText && text != ""
	case "guid":
		return guid.MatchString(text)
	case "time":
		_, err := time.Parse(time.RFC3339, text)
		return err == nil
	case "https":
		return strings.HasPrefix(text, "https://")
	case "object":
		_, ok := v.(map[string]any)
		return ok
	case "list":
		return isList
	case "empty":
		return isList && len(list) == 0
	case "number":
		_, ok := v.(float64)
		return ok
	case "bool":
		_, ok := v.(bool)
		return ok
	}
	panic("there is no type " + typ)
}

// TestClientsConversations replays what az and Terraform were seen to send, and looks for what they need.
func TestClientsConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/conversations/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(err, "no conversations")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			c := readConversation(t, file)
			hold(t, c, given(t, c.given))
		})
	}
}
