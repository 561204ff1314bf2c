// Package kube does what a new test cluster needs through its API: it applies the storage objects and the snapshot CRDs
// and waits until the cluster can run pods. It is no client for tests; those use their own.
package kube

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"bytes"

	"github.com/cairn-backup/cairn/test/cluster/internal/layout"
)

//go:embed manifests
var manifests embed.FS

// Drivers are the CSI drivers that every node registers.
var Drivers = []string{"disk.csi.azure.com", "file.csi.azure.com"}

// Client reaches one cluster as its administrator.
type Client struct {
	cluster layout.Cluster
	typed   *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
}

// New makes a client; it does not yet call the cluster.
func New(c layout.Cluster) (*Client, error) {
	k, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of cluster %s: %w", c.Name, err)
	}
	k.QPS, k.Burst = -1, -1
	k.Timeout = 10 * time.Second
	k.WarningHandler = rest.NoWarnings{}
	typed, err := kubernetes.NewForConfig(k)
	if err != nil {
		return nil, err
	}
	dynamic, err := dynamic.NewForConfig(k)
	if err != nil {
		return nil, err
	}
	return &Client{c, typed, dynamic}, nil
}

// Ready tells whether the API server says that it is ready.
func (c *Client) Ready(ctx context.Context) error {
	return c.typed.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// WaitReady waits for the API server.
func (c *Client) WaitReady(ctx context.Context) error {
	return wait(ctx, "the API server", c.Ready)
}

// Apply puts the snapshot CRDs, which lie in folder crds, and the storage objects in place.
func (c *Client) Apply(ctx context.Context, crds string) error {
	files, err := filepath.Glob(filepath.Join(crds, "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := c.applyAll(ctx, file, b); err != nil {
			return err
		}
	}
	return fs.WalkDir(manifests, "manifests", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := manifests.ReadFile(path)
		if err != nil {
			return err
		}
		return c.applyAll(ctx, path, b)
	})
}

func (c *Client) applyAll(ctx context.Context, file string, b []byte) error {
	for document := range bytes.SplitSeq(b, []byte("\n---\n")) {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &o.Object); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := c.apply(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) apply(ctx context.Context, o *unstructured.Unstructured) error {
	resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind()) // right for the few kinds that we apply
	b, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	what := o.GetKind() + " " + o.GetName()
	return wait(ctx, what, func(ctx context.Context) error {
		_, err := c.dynamic.Resource(resource).Patch(ctx, o.GetName(), types.ApplyPatchType, b, metav1.PatchOptions{FieldManager: "testcluster", Force: &force})
		// A CRD that was only just made is not served yet; everything else that is wrong stays wrong.
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
			return stop{fmt.Errorf("apply %s: %w", what, err)}
		}
		return err
	})
}

// WaitNode waits until the node is Ready.
func (c *Client) WaitNode(ctx context.Context) error {
	return wait(ctx, "node "+c.cluster.Node()+" to be Ready", func(ctx context.Context) error {
		n, err := c.typed.CoreV1().Nodes().Get(ctx, c.cluster.Node(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range n.Status.Conditions {
			if condition.Type != corev1.NodeReady {
				continue
			}
			if condition.Status == corev1.ConditionTrue {
				return nil
			}
			return errors.New(condition.Message)
		}
		return errors.New("it has not reported yet")
	})
}

// WaitStorage waits until the node has registered every driver.
func (c *Client) WaitStorage(ctx context.Context) error {
	return wait(ctx, "the CSI drivers", func(ctx context.Context) error {
		n, err := c.typed.StorageV1().CSINodes().Get(ctx, c.cluster.Node(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		registered := map[string]bool{}
		for _, d := range n.Spec.Drivers {
			registered[d.Name] = true
		}
		for _, d := range Drivers {
			if !registered[d] {
				return fmt.Errorf("%s is not registered", d)
			}
		}
		return nil
	})
}

// WaitNames waits until pods can be made (they need their namespace's service account) and the cluster's names resolve.
func (c *Client) WaitNames(ctx context.Context) error {
	err := wait(ctx, "the default service account", func(ctx context.Context) error {
		_, err := c.typed.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return err
	}
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(c.cluster.NodeIP(), "53"))
	}}
	return wait(ctx, "the DNS server", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		return err
	})
}

// stop is an error that waiting cannot mend.
type stop struct{ error }

// wait calls check until it returns nil or a stop. When ctx ends first, the error says what was last wrong.
func wait(ctx context.Context, what string, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if s := (stop{}); errors.As(err, &s) {
			return s.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
