package cli

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/cairn-backup/cairn/internal/client"
)

var containerNameArg = Arg{Names: "--name -n", Required: true, Help: "The container's name."}

// accessArgs say whose blobs, and with which right.
var accessArgs = []Arg{
	{Names: "--account-name", Required: true, Help: "The storage account's name."},
	{Names: "--account-key", Help: "Its key. Default: asked from the service."},
	{Names: "--auth-mode", Choices: []string{"key", "login"}, Help: "With the account's key, or as who is logged in. Default: key."},
}

var blobCommands = []Command{
	{Path: "storage container create", Help: "Create a container.", Run: containerCreate, Args: append([]Arg{containerNameArg}, accessArgs...),
		Examples: []string{"storage container create --name aks-backup --account-name backups"}},
	{Path: "storage container list", Help: "List containers.", Run: containerList, Verbatim: true,
		Columns: `[].{Name:name, "Last Modified":properties.lastModified}`,
		Args:    append([]Arg{{Names: "--prefix", Help: "Only those whose names begin so."}}, accessArgs...)},
	{Path: "storage container show", Help: "Show a container.", Run: containerShow, Verbatim: true, Args: append([]Arg{containerNameArg}, accessArgs...)},
	{Path: "storage container delete", Help: "Delete a container with all its blobs.", Run: containerDelete, Args: append([]Arg{containerNameArg}, accessArgs...)},
	{Path: "storage container exists", Help: "Say whether a container exists.", Run: containerExists, Args: append([]Arg{containerNameArg}, accessArgs...)},
	{Path: "storage blob list", Help: "List the blobs in a container.", Run: blobList, Verbatim: true,
		Columns: `[].{Name:name, "Blob Type":properties.blobType, Length:properties.contentLength, "Last Modified":properties.lastModified}`,
		Args: append([]Arg{
			{Names: "--container-name -c", Required: true, Help: "The container's name."},
			{Names: "--prefix", Help: "Only those whose names begin so."},
			{Names: "--num-results", Help: "At most so many, or *. Default: 5000."},
		}, accessArgs...)},
}

// blobs is a client for the account's blob endpoint.
func (in *Input) blobs(ctx context.Context) (*azblob.Client, error) {
	name := in.Text("account-name")
	account, err := in.findAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	endpoint := text(account, "properties", "primaryEndpoints", "blob")
	if endpoint == "" {
		return nil, fmt.Errorf("storage account %s has no blob endpoint", name)
	}
	opts := &azblob.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: in.session.transport,
		Retry: policy.RetryOptions{MaxRetries: 3}}}
	if in.Text("auth-mode") == "login" {
		return azblob.NewClient(endpoint, in.session.credential, opts)
	}
	key := in.Text("account-key")
	if key == "" {
		keys, err := in.accountKeys(ctx, text(account, "id"))
		if err != nil {
			return nil, err
		}
		key = text(keys[0], "value")
	}
	cred, err := azblob.NewSharedKeyCredential(text(account, "name"), key)
	if err != nil {
		return nil, fmt.Errorf("storage account %s: key: %w", name, err)
	}
	return azblob.NewClientWithSharedKeyCredential(endpoint, cred, opts)
}

func (in *Input) container(ctx context.Context) (*container.Client, error) {
	blobs, err := in.blobs(ctx)
	if err != nil {
		return nil, err
	}
	return blobs.ServiceClient().NewContainerClient(in.Text("name")), nil
}

// blobError is the storage endpoint's error in the form of the others.
func blobError(err error) error {
	var re *azcore.ResponseError
	if !errors.As(err, &re) {
		return err
	}
	said := struct{ Message string }{fmt.Sprintf("the storage endpoint answered %d %s", re.StatusCode, re.ErrorCode)}
	if body, err := runtime.Payload(re.RawResponse); err == nil && len(body) > 0 {
		if xml.Unmarshal(body, &said) != nil {
			said.Message += ": " + string(body)
		}
	}
	return &client.Error{Status: re.StatusCode, Code: re.ErrorCode, Message: said.Message}
}

func containerCreate(ctx context.Context, in *Input) (any, error) {
	c, err := in.container(ctx)
	if err != nil {
		return nil, err
	}
	_, err = c.Create(ctx, nil)
	if bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
		return map[string]any{"created": false}, nil
	}
	if err != nil {
		return nil, blobError(err)
	}
	return map[string]any{"created": true}, nil
}

func containerDelete(ctx context.Context, in *Input) (any, error) {
	c, err := in.container(ctx)
	if err != nil {
		return nil, err
	}
	_, err = c.Delete(ctx, nil)
	if bloberror.HasCode(err, bloberror.ContainerNotFound) {
		return map[string]any{"deleted": false}, nil
	}
	if err != nil {
		return nil, blobError(err)
	}
	return map[string]any{"deleted": true}, nil
}

func containerExists(ctx context.Context, in *Input) (any, error) {
	_, err := containerShow(ctx, in)
	if client.NotFound(err) {
		return map[string]any{"exists": false}, nil
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"exists": true}, nil
}

func containerShow(ctx context.Context, in *Input) (any, error) {
	c, err := in.container(ctx)
	if err != nil {
		return nil, err
	}
	p, err := c.GetProperties(ctx, nil)
	if err != nil {
		return nil, blobError(err)
	}
	return generic(map[string]any{"name": in.Text("name"), "metadata": p.Metadata, "properties": map[string]any{
		"etag": p.ETag, "lastModified": stamp(p.LastModified), "lease": map[string]any{"state": p.LeaseState, "status": p.LeaseStatus}}})
}

func stamp(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05+00:00")
}

func containerList(ctx context.Context, in *Input) (any, error) {
	blobs, err := in.blobs(ctx)
	if err != nil {
		return nil, err
	}
	opts := &azblob.ListContainersOptions{}
	if in.Has("prefix") {
		prefix := in.Text("prefix")
		opts.Prefix = &prefix
	}
	all := []any{}
	for pager := blobs.NewListContainersPager(opts); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, blobError(err)
		}
		for _, c := range page.ContainerItems {
			item := map[string]any{"name": *c.Name, "metadata": c.Metadata}
			if p := c.Properties; p != nil {
				item["properties"] = map[string]any{"etag": p.ETag, "lastModified": stamp(p.LastModified)}
			}
			all = append(all, item)
		}
	}
	return generic(all)
}

func blobList(ctx context.Context, in *Input) (any, error) {
	most := 0 // no limit
	if n := in.textOr("num-results", "5000"); n != "*" {
		var err error
		if most, err = strconv.Atoi(n); err != nil || most < 1 {
			return nil, usagef("argument --num-results: '%s' is neither a positive number nor *", n)
		}
	}
	blobs, err := in.blobs(ctx)
	if err != nil {
		return nil, err
	}
	opts := &azblob.ListBlobsFlatOptions{}
	if in.Has("prefix") {
		prefix := in.Text("prefix")
		opts.Prefix = &prefix
	}
	all := []any{}
	for pager := blobs.NewListBlobsFlatPager(in.Text("container-name"), opts); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, blobError(err)
		}
		for _, b := range page.Segment.BlobItems {
			if most > 0 && len(all) == most {
				in.warn("only the first %d blobs are listed: use --num-results", most)
				return generic(all)
			}
			all = append(all, blobItem(in.Text("container-name"), b))
		}
	}
	return generic(all)
}

func blobItem(containerName string, b *container.BlobItem) map[string]any {
	item := map[string]any{"container": containerName, "name": *b.Name}
	if p := b.Properties; p != nil {
		properties := map[string]any{"blobType": p.BlobType, "contentLength": p.ContentLength, "creationTime": stamp(p.CreationTime),
			"etag": p.ETag, "lastModified": stamp(p.LastModified),
			"contentSettings": map[string]any{"contentType": p.ContentType, "contentMd5": nil}}
		if len(p.ContentMD5) > 0 {
			assign(properties, base64.StdEncoding.EncodeToString(p.ContentMD5), "contentSettings", "contentMd5")
		}
		item["properties"] = properties
	}
	return item
}
