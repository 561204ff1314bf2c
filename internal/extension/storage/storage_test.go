package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/blob"
	"github.com/cairn-backup/cairn/internal/blob/blobtest"
	"github.com/cairn-backup/cairn/internal/extension/storage"
)

// objects are the Secret and the ConfigMap that the connector keeps; nil is missing.
type objects struct {
	secret map[string][]byte
	config map[string]string
}

func (o *objects) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	switch into := into.(type) {
	case *corev1.Secret:
		if o.secret != nil && key.Name == v1alpha1.SecretStorage {
			into.Data = o.secret
			return nil
		}
	case *corev1.ConfigMap:
		if o.config != nil && key.Name == v1alpha1.ConfigMapStorage {
			into.Data = o.config
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

func (*objects) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("nobody lists")
}

// connected returns what the connector writes for a new container.
func connected(t *testing.T, e *blobtest.Endpoint, container, permissions string) *objects {
	t.Helper()
	sas, err := blob.ContainerSAS(e.Account, e.Key, container, permissions, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return &objects{secret: map[string][]byte{"sas": []byte(sas), "ca.crt": e.CA}, config: map[string]string{"containerURL": e.AccountURL() + "/" + container}}
}

func open(t *testing.T, o *objects, location v1alpha1.StorageLocation) *storage.Container {
	t.Helper()
	c, err := storage.Open(t.Context(), o, location)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBlobsAreWrittenOnceAndDeletedByPrefix(t *testing.T) {
	e := blobtest.StartServer(t)
	e.NewContainer(t, "points")
	c := open(t, connected(t, e, "points", blob.ExtensionPermissions), v1alpha1.StorageLocation{})
	ctx := t.Context()
	for _, name := range []string{"a/1", "a/2", "b/1"} {
		if err := c.Create(ctx, name, strings.NewReader(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Create(ctx, "a/1", strings.NewReader("x")); !errors.Is(err, fs.ErrExist) || !errors.Is(err, blob.ErrExists) {
		t.Errorf("a second write: got %v", err)
	}
	if _, err := c.Open(ctx, "a/3"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing blob: got %v", err)
	}
	body, err := c.Open(ctx, "a/1")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(body); err != nil || string(text) != "a/1" {
		t.Errorf("read %q, %v", text, err)
	}
	if err := errors.Join(body.Close(), c.DeleteAll(ctx, "a/"), c.Probe(ctx, "b/", time.Now())); err != nil {
		t.Fatal(err)
	}
	var left []string
	for name, err := range c.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, name)
	}
	if fmt.Sprint(left) != "[b/1]" {
		t.Errorf("left: %v", left)
	}
}

func TestLocationOverridesTheContainer(t *testing.T) {
	e := blobtest.StartServer(t)
	e.NewContainer(t, "other")
	o := connected(t, e, "other", blob.ExtensionPermissions)
	o.config = nil
	c := open(t, o, v1alpha1.StorageLocation{ContainerURL: e.AccountURL() + "/other"})
	if err := c.Probe(t.Context(), "p/", time.Now()); err != nil {
		t.Error(err)
	}
}

func TestFailuresHaveCodes(t *testing.T) {
	e := blobtest.StartServer(t)
	e.NewContainer(t, "points")
	good := connected(t, e, "points", blob.ExtensionPermissions)
	cases := map[string]struct {
		objects   *objects
		code      string
		permanent bool
	}{
		"no secret":       {&objects{config: good.config}, storage.CodeNotConfigured, true},
		"empty secret":    {&objects{config: good.config, secret: map[string][]byte{}}, storage.CodeNotConfigured, true},
		"no config map":   {&objects{secret: good.secret}, storage.CodeNotConfigured, true},
		"no address":      {&objects{secret: good.secret, config: map[string]string{}}, storage.CodeNotConfigured, true},
		"no permission":   {connected(t, e, "points", "r"), storage.CodeMissingPermission, true},
		"wrong signature": {&objects{secret: map[string][]byte{"sas": []byte("sig=x&sv=2021-08-06"), "ca.crt": e.CA}, config: good.config}, storage.CodeMissingPermission, true},
		"no container":    {connected(t, e, "missing", blob.ExtensionPermissions), storage.CodeNotReady, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			container, err := storage.Open(t.Context(), c.objects, v1alpha1.StorageLocation{})
			if err == nil {
				err = container.Probe(t.Context(), "p/", time.Now())
			}
			issue, ok := storage.AsIssue(err)
			if !ok || issue.Code != c.code || storage.Permanent(err) != c.permanent || issue.Message == "" || issue.Action == "" {
				t.Errorf("%v: %+v, permanent %v", err, issue, storage.Permanent(err))
			}
			if strings.Contains(issue.Message, "sig") {
				t.Errorf("the message shows the signature: %s", issue.Message)
			}
		})
	}
	if _, ok := storage.AsIssue(errors.New("something else")); ok {
		t.Error("an error of another part is called storage's")
	}
}
