// Package storage opens the blob container that recovery points lie in, with the credentials that the connector keeps in the cluster, in
// the shape that package bundle wants.
//
// It reads the credentials anew each time it opens, since they are renewed while the extension runs. It does not know what lies in the
// container; it only turns storage's failures into issues that a person can act on.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/blob"
)

// The codes of issues with storage. The first two are Azure's.
const (
	CodeNotReady          = "UserErrorBackupStorageLocationNotReady"
	CodeMissingPermission = "UserErrorExtensionMSIMissingPermissionsOnBackupStorageLocation"
	CodeFull              = "BackupStorageLocationFull"
	CodeNotConfigured     = "BackupStorageLocationNotConfigured"
)

// notConfigured is why there is nothing to open; it becomes the issue CodeNotConfigured.
type notConfigured struct{ reason string }

func (e notConfigured) Error() string { return e.reason }

// Container is an opened blob container. It is a bundle.Creator and a bundle.Opener.
type Container struct {
	store blob.Store
}

// Open opens the container that location names, or that the extension was installed with if it names none. It reads the Secret and the
// ConfigMap v1alpha1.SecretStorage, and sends nothing to storage yet.
func Open(ctx context.Context, cluster client.Reader, location v1alpha1.StorageLocation) (*Container, error) {
	url := location.ContainerURL
	if url == "" {
		var config corev1.ConfigMap
		key := client.ObjectKey{Namespace: v1alpha1.Namespace, Name: v1alpha1.ConfigMapStorage}
		if err := cluster.Get(ctx, key, &config); err != nil {
			return nil, missing("ConfigMap", key, err)
		}
		if url = config.Data["containerURL"]; url == "" {
			return nil, notConfigured{fmt.Sprintf("ConfigMap %s has no containerURL", key)}
		}
	}
	var secret corev1.Secret
	key := client.ObjectKey{Namespace: v1alpha1.Namespace, Name: v1alpha1.SecretStorage}
	if err := cluster.Get(ctx, key, &secret); err != nil {
		return nil, missing("Secret", key, err)
	}
	sas := string(secret.Data["sas"])
	if sas == "" {
		return nil, notConfigured{fmt.Sprintf("Secret %s has no key sas", key)}
	}
	container, err := blob.Open(url+"?"+sas, blob.Options{CABundle: secret.Data["ca.crt"]})
	if err != nil {
		return nil, err
	}
	return &Container{store: container}, nil
}

func missing(kind string, key client.ObjectKey, err error) error {
	if apierrors.IsNotFound(err) {
		return notConfigured{fmt.Sprintf("%s %s does not exist", kind, key)}
	}
	return fmt.Errorf("read %s %s: %w", kind, key, err)
}

// Create stores a new blob. errors.Is(err, fs.ErrExist) says that the name is taken.
func (c *Container) Create(ctx context.Context, name string, r io.Reader) error {
	_, err := c.store.Create(ctx, name, r)
	return asFS(err)
}

// Open returns a blob's content. errors.Is(err, fs.ErrNotExist) says that there is none.
func (c *Container) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	body, _, err := c.store.Open(ctx, name)
	return body, asFS(err)
}

// List gives the names of the blobs that begin with prefix.
func (c *Container) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for info, err := range c.store.List(ctx, prefix) {
			if !yield(info.Name, err) || err != nil {
				return
			}
		}
	}
}

// Delete removes a blob; a missing one is no error.
func (c *Container) Delete(ctx context.Context, name string) error { return c.store.Delete(ctx, name) }

// DeleteAll removes the blobs whose names begin with prefix.
func (c *Container) DeleteAll(ctx context.Context, prefix string) error {
	for name, err := range c.List(ctx, prefix) {
		if err != nil {
			return err
		}
		if err := c.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// Probe writes a blob below prefix and removes it again, which shows that a backup could be written.
func (c *Container) Probe(ctx context.Context, prefix string, now time.Time) error {
	name := fmt.Sprintf("%sprobe-%d", prefix, now.UnixNano())
	if err := c.Create(ctx, name, strings.NewReader("written by ValidateForBackup\n")); err != nil {
		return err
	}
	return c.Delete(ctx, name)
}

// fsError is an error of storage that is also one of io/fs.
type fsError struct {
	error
	kind error
}

func (e fsError) Is(target error) bool { return target == e.kind }
func (e fsError) Unwrap() error        { return e.error }

func asFS(err error) error {
	switch {
	case errors.Is(err, blob.ErrExists):
		return fsError{err, fs.ErrExist}
	case errors.Is(err, blob.ErrNotFound):
		return fsError{err, fs.ErrNotExist}
	}
	return err
}

// AsIssue turns a failure of storage into an issue; false says that err is none of storage's.
func AsIssue(err error) (v1alpha1.Issue, bool) {
	issue := v1alpha1.Issue{Resource: "storage"}
	if err != nil {
		issue.Message = err.Error()
	}
	var unset notConfigured
	switch {
	case errors.As(err, &unset):
		issue.Code, issue.Action = CodeNotConfigured, "Wait until the connector has written the storage credentials, or install the extension again."
	case errors.Is(err, blob.ErrUnauthorized):
		issue.Code, issue.Action = CodeMissingPermission, "Give the extension's identity the role Storage Blob Data Contributor on the storage account; a new role takes a while to act."
	case errors.Is(err, blob.ErrFull):
		issue.Code, issue.Action = CodeFull, "Free space in the storage account, or delete recovery points."
	case errors.Is(err, blob.ErrUnavailable), errors.Is(err, blob.ErrRefused):
		issue.Code, issue.Action = CodeNotReady, "Check that the storage account and its container exist and that the cluster reaches them, then try again."
	default:
		return v1alpha1.Issue{}, false
	}
	return issue, true
}

// Permanent reports whether trying again soon is pointless.
func Permanent(err error) bool {
	var unset notConfigured
	return errors.Is(err, blob.ErrUnauthorized) || errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrRefused) || errors.As(err, &unset)
}
