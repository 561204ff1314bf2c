package cli

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/cairn-backup/cairn/internal/client"
)

var restCommands = []Command{
	{Path: "rest", Help: "Call the API with any request.", Run: rest, Verbatim: true,
		Args: []Arg{
			{Names: "--url --uri -u", Required: true, Help: "The address, or the path on the service. {subscriptionId} is filled in."},
			{Names: "--method -m", Choices: []string{"delete", "get", "head", "options", "patch", "post", "put"}, Help: "Default: get."},
			{Names: "--body -b", Help: "The body; @FILE reads it from a file."},
			{Names: "--headers", Kind: Object, Help: "Headers: key=value, or a JSON object."},
			{Names: "--url-parameters --uri-parameters", Kind: Object, Help: "Query parameters: key=value, or a JSON object."},
			{Names: "--output-file", Help: "Save the answer in this file instead of printing it."},
		},
		Examples: []string{"rest --method get --url '/subscriptions/{subscriptionId}/resourceGroups?api-version=2022-09-01'"}},
}

func rest(ctx context.Context, in *Input) (any, error) {
	api, err := in.session.client()
	if err != nil {
		return nil, err
	}
	target := in.Text("url")
	if strings.Contains(target, "{subscriptionId}") {
		id, err := in.session.subscriptionID(ctx, in.Text("subscription"))
		if err != nil {
			return nil, err
		}
		target = strings.ReplaceAll(target, "{subscriptionId}", id)
	}
	if !strings.Contains(target, "://") && !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	r := client.Request{Method: strings.ToUpper(in.textOr("method", "get")), Path: target, Header: http.Header{}, Query: url.Values{}}
	if in.Has("body") {
		r.Body = []byte(in.Text("body"))
	}
	headers, err := in.rawStrings("headers")
	if err != nil {
		return nil, err
	}
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	query, err := in.rawStrings("url-parameters")
	if err != nil {
		return nil, err
	}
	for k, v := range query {
		r.Query.Set(k, v)
	}
	resp, err := api.Send(ctx, r)
	if err != nil {
		return nil, err
	}
	body, err := runtime.Payload(resp)
	if err != nil {
		return nil, err
	}
	if in.Has("output-file") {
		return nil, os.WriteFile(in.Text("output-file"), body, 0o600)
	}
	doc, err := client.Decode(body)
	if err != nil {
		_, err = in.program.Stdout.Write(append(body, '\n')) // not JSON: as it is
		return nil, err
	}
	return doc, nil
}

// rawStrings is the option's document as strings by key.
func (in *Input) rawStrings(key string) (map[string]string, error) {
	out := map[string]string{}
	for _, t := range in.Texts(key) {
		if k, v, ok := strings.Cut(t, "="); ok && !strings.HasPrefix(t, "{") {
			out[k] = v
			continue
		}
		v, err := decodeDocument(t)
		m, ok := v.(map[string]any)
		if err != nil || !ok {
			return nil, usagef("argument --%s: '%s' is neither key=value nor a JSON object", key, t)
		}
		for k, v := range m {
			out[k] = cell(v)
		}
	}
	return out, nil
}
