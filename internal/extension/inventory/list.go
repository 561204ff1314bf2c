package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/cairn-backup/cairn/internal/bundle"
)

// pageSize is the number of objects in a page. Larger ones are hardly faster, and cost the API server memory.
const pageSize = 500

// ErrExpired says that the API server no longer knows the revision: the cut must be made again.
var ErrExpired = errors.New("the API server no longer knows the revision of the cut")

// Lister lists objects as bytes.
type Lister struct {
	client rest.Interface
}

// NewLister returns a Lister of the cluster that config reaches. It sends requests as fast as the API server answers: fairness is the API server's
// business, which tells a client to wait, and client-go obeys. Answers are not compressed: the network inside a cluster is cheaper than the
// API server's processor.
func NewLister(config *rest.Config) (*Lister, error) {
	c := rest.CopyConfig(config)
	c.QPS, c.DisableCompression = -1, true
	c.GroupVersion, c.NegotiatedSerializer = &schema.GroupVersion{}, scheme.Codecs.WithoutConversion()
	c.AcceptContentTypes, c.ContentType = "application/json", "application/json"
	c.WarningHandlerWithContext = rest.NoWarnings{} // that a kind is deprecated is no news to a backup
	client, err := rest.UnversionedRESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("client to list objects: %w", err)
	}
	return &Lister{client: client}, nil
}

// Revision returns the API server's current revision.
func (l *Lister) Revision(ctx context.Context) (string, error) {
	meta, err := l.page(ctx, "/api/v1/namespaces", map[string]string{"limit": "1"}, func([]byte) error { return nil })
	if err != nil {
		return "", fmt.Errorf("ask the API server for its revision: %w", err)
	}
	return meta.ResourceVersion, nil
}

// Version returns the API server's version.
func (l *Lister) Version(ctx context.Context) (version.Info, error) {
	var info version.Info
	data, err := l.client.Get().AbsPath("/version").DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil {
		return version.Info{}, fmt.Errorf("ask the API server for its version: %w", err)
	}
	return info, nil
}

// list hands all objects of a kind, in one namespace or in all, to emit. With a revision it lists at exactly that one. It reports whether
// the server did so; a server that does not know the parameter ignores it.
func (l *Lister) list(ctx context.Context, k bundle.Kind, namespace, revision string, emit func([]byte) error) (pinned bool, err error) {
	params := map[string]string{"limit": strconv.Itoa(pageSize)}
	if revision != "" {
		params["resourceVersion"], params["resourceVersionMatch"] = revision, string(metav1.ResourceVersionMatchExact)
	}
	pinned = revision != ""
	for {
		meta, err := l.page(ctx, address(k, namespace), params, emit)
		if err != nil {
			return false, err
		}
		pinned = pinned && meta.ResourceVersion == revision
		if meta.Continue == "" {
			return pinned, nil
		}
		params = map[string]string{"limit": strconv.Itoa(pageSize), "continue": meta.Continue}
	}
}

// address returns the path of a list.
func address(k bundle.Kind, namespace string) string {
	path := "/apis/" + k.APIVersion
	if !strings.Contains(k.APIVersion, "/") {
		path = "/api/" + k.APIVersion
	}
	if namespace != "" {
		path += "/namespaces/" + namespace
	}
	return path + "/" + k.Plural
}

// page reads one page. A body that breaks off is an error even after items were emitted.
func (l *Lister) page(ctx context.Context, path string, params map[string]string, emit func([]byte) error) (listMeta, error) {
	request := l.client.Get().AbsPath(path).SetHeader("Accept", "application/json")
	for name, value := range params {
		request = request.Param(name, value)
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return listMeta{}, err
	}
	meta, err := splitList(body, bundle.MaxLine, emit)
	// What matters has been read, so an error of closing would tell nothing.
	_ = body.Close()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return meta, err
}

// expired reports whether the API server has forgotten the revision or the place in the list.
func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// Claims returns the claims in scope at the revision, and the volumes by name that these are bound to.
func (l *Lister) Claims(ctx context.Context, scope Scope, revision string) ([]corev1.PersistentVolumeClaim, map[string]corev1.PersistentVolume, error) {
	var claims []corev1.PersistentVolumeClaim
	names := map[string]bool{}
	kind := bundle.Kind{APIVersion: "v1", Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims", Namespaced: true}
	err := l.each(ctx, kind, scope.paths(kind), revision, func(item []byte) error {
		if h := scan(item); h.excluded || !scope.Namespace(h.namespace) {
			return nil
		}
		var claim corev1.PersistentVolumeClaim
		if err := json.Unmarshal(item, &claim); err != nil {
			return fmt.Errorf("a PersistentVolumeClaim: %w", err)
		}
		claim.ManagedFields = nil
		claims = append(claims, claim)
		names[claim.Spec.VolumeName] = true
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	volumes := map[string]corev1.PersistentVolume{}
	kind = bundle.Kind{APIVersion: "v1", Kind: "PersistentVolume", Plural: "persistentvolumes"}
	err = l.each(ctx, kind, []string{""}, revision, func(item []byte) error {
		if !names[scan(item).name] {
			return nil
		}
		var volume corev1.PersistentVolume
		if err := json.Unmarshal(item, &volume); err != nil {
			return fmt.Errorf("a PersistentVolume: %w", err)
		}
		volume.ManagedFields = nil
		volumes[volume.Name] = volume
		return nil
	})
	return claims, volumes, err
}

// each lists a kind that the backup cannot do without.
func (l *Lister) each(ctx context.Context, k bundle.Kind, namespaces []string, revision string, emit func([]byte) error) error {
	for _, namespace := range namespaces {
		_, err := l.list(ctx, k, namespace, revision, emit)
		if expired(err) {
			return fmt.Errorf("list %s: %w", k.Plural, ErrExpired)
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", k.Plural, err)
		}
	}
	return nil
}
