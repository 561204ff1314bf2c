package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/cairn-backup/cairn/internal/client"
)

// Input is what a command is given: its options and the session.
type Input struct {
	cmd      *Command
	values   values
	program  Program
	store    profileStore
	session  *session
	progress *progress
	// resource is the one of --ids that the command runs for now.
	resource string
}

// Has says whether the option was given.
func (in *Input) Has(key string) bool { _, ok := in.values[key]; return ok }

// Flag says whether the option was given and not as false.
func (in *Input) Flag(key string) bool {
	v, ok := in.values[key]
	return ok && (len(v) == 0 || v[0] == "true")
}

// Text is the option's value, or empty.
func (in *Input) Text(key string) string {
	if v := in.values[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Texts are the option's values.
func (in *Input) Texts(key string) []string { return in.values[key] }

// Pairs are the option's key=value tokens. A token without "=" is a key with an empty value, as in az.
func (in *Input) Pairs(key string) map[string]any {
	out := map[string]any{}
	for _, t := range in.values[key] {
		if k, v, _ := strings.Cut(t, "="); k != "" {
			out[k] = v
		}
	}
	return out
}

// Object is the option's document, with the API's spelling of keys; nil when the option was not given.
func (in *Input) Object(key string) (any, error) {
	v, err := in.rawObject(key)
	return camelKeys(v), err
}

// rawObject is the option's document as it is.
func (in *Input) rawObject(key string) (any, error) {
	if !in.Has(key) {
		return nil, nil
	}
	v, err := decodeObject(in.values[key])
	if err != nil {
		return nil, usagef("argument --%s: %s", key, err)
	}
	return v, nil
}

// warn writes a warning for people.
func (in *Input) warn(format string, args ...any) {
	if !in.Flag("only-show-errors") {
		in.progress.clear()
		fmt.Fprintf(in.program.Stderr, "WARNING: "+format+"\n", args...)
	}
}

var placeholder = regexp.MustCompile(`\{([a-z-]+)\}`)

// path fills a template of a resource's ID with the options that it names; {subscription} is the session's.
func (in *Input) path(ctx context.Context, template string) (string, error) {
	subscription, err := in.session.subscriptionID(ctx, in.Text("subscription"))
	if err != nil {
		return "", err
	}
	return placeholder.ReplaceAllStringFunc(template, func(m string) string {
		key := m[1 : len(m)-1]
		if key == "subscription" {
			return subscription
		}
		return url.PathEscape(in.Text(key))
	}), nil
}

// id is the resource that the command is about.
func (in *Input) id(ctx context.Context) (string, error) {
	if in.resource != "" {
		return in.resource, nil
	}
	return in.path(ctx, in.cmd.ID)
}

// eachID runs the command, once for every one of --ids when there are.
func (in *Input) eachID(ctx context.Context) (any, error) {
	ids := in.Texts("ids")
	if in.cmd.ID == "" || len(ids) == 0 {
		return in.cmd.Run(ctx, in)
	}
	var all []any
	for _, id := range ids {
		if !strings.HasPrefix(id, "/") {
			return nil, usagef("invalid resource ID: %s", id)
		}
		one := *in
		one.resource = strings.TrimRight(id, "/")
		answer, err := in.cmd.Run(ctx, &one)
		if err != nil {
			return nil, err
		}
		if answer != nil {
			all = append(all, answer)
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	if all == nil {
		return nil, nil
	}
	return all, nil
}

// call sends one request, and follows its operation with progress on the terminal: what says what is being done.
func (in *Input) call(ctx context.Context, what string, r client.Request) (any, error) {
	api, err := in.session.client()
	if err != nil {
		return nil, err
	}
	in.progress.step(what, "")
	r.NoWait = r.NoWait || in.Flag("no-wait")
	r.OnPoll = func(status string) { in.progress.step(what, strings.ToLower(status)) }
	answer, err := api.Do(ctx, r)
	in.progress.clear()
	return answer, err
}

func (in *Input) get(ctx context.Context, path, version string) (any, error) {
	api, err := in.session.client()
	if err != nil {
		return nil, err
	}
	return api.Get(ctx, path, version)
}

func (in *Input) put(ctx context.Context, what, path, version string, body any) (any, error) {
	return in.call(ctx, what, client.Request{Method: http.MethodPut, Path: path, APIVersion: version, Body: body})
}

func (in *Input) post(ctx context.Context, what, path, version string, body any) (any, error) {
	return in.call(ctx, what, client.Request{Method: http.MethodPost, Path: path, APIVersion: version, Body: body})
}

func (in *Input) delete(ctx context.Context, path, version string) error {
	_, err := in.call(ctx, "Deleting "+lastSegment(path), client.Request{Method: http.MethodDelete, Path: path, APIVersion: version})
	return err
}

func (in *Input) list(ctx context.Context, path, version string, query url.Values) ([]any, error) {
	api, err := in.session.client()
	if err != nil {
		return nil, err
	}
	return api.List(ctx, client.Request{Path: path, APIVersion: version, Query: query})
}

// handler is what a command runs.
type handler = func(ctx context.Context, in *Input) (any, error)

// show reads the command's resource.
func show(version string) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		id, err := in.id(ctx)
		if err != nil {
			return nil, err
		}
		return in.get(ctx, id, version)
	}
}

// remove deletes the command's resource.
func remove(version string) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		id, err := in.id(ctx)
		if err != nil {
			return nil, err
		}
		return nil, in.delete(ctx, id, version)
	}
}

// showBelow reads what is at a path below the command's resource.
func showBelow(path string) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		id, err := in.id(ctx)
		if err != nil {
			return nil, err
		}
		return in.get(ctx, id+path, backupVersion)
	}
}

// act posts to the command's resource, with the requests of the vault's resource guard if there are.
func act(what, action, version string) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		id, err := in.id(ctx)
		if err != nil {
			return nil, err
		}
		requests := map[string]any{}
		if err := in.addRequests(ctx, vaultID(id), requests); err != nil {
			return nil, err
		}
		var body any
		if len(requests) > 0 {
			body = requests
		}
		return in.post(ctx, what+" "+lastSegment(id), id+"/"+action, version, body)
	}
}

// list reads a list: the one in a resource group when that option was given, else the subscription's. Either template may
// be empty when there is no such list.
func list(inGroup, inSubscription, version string) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		template := inGroup
		if !in.Has("resource-group") && inSubscription != "" {
			template = inSubscription
		}
		path, err := in.path(ctx, template)
		if err != nil {
			return nil, err
		}
		items, err := in.list(ctx, path, version, nil)
		if err != nil {
			return nil, err
		}
		return items, nil
	}
}

// flat is the handler with its answer flattened.
func flat(h handler) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		v, err := h(ctx, in)
		return flatten(v), err
	}
}

func lastSegment(id string) string {
	return id[strings.LastIndexByte(id, '/')+1:]
}
