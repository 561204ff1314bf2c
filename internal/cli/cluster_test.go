package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/config"
	"github.com/cairn-backup/cairn/internal/daemon"
	"github.com/cairn-backup/cairn/internal/daemon/daemontest"
	"github.com/cairn-backup/cairn/internal/kubetest"
	"github.com/cairn-backup/cairn/internal/link"
)

// TestCluster runs each script of testdata/cluster with a real API server, reached by $KUBECONFIG, and a cairnd. The API server has no nodes:
// the command `node` begins to play one, on which every connector runs whose image is named "good"; of any other it says
// that it cannot be pulled. `apply FILE` makes objects, with their status.
func TestCluster(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/cluster",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			w := daemontest.Start(e.T().(testing.TB), daemon.Config{})
			for k, v := range w.Env {
				e.Setenv(k, v)
			}
			cluster, err := kubetest.Start()
			if err != nil {
				return err
			}
			e.Defer(func() {
				if err := cluster.Stop(); err != nil {
					t.Error(err)
				}
			})
			e.Values["cluster"] = cluster.Client
			kubeconfig := e.WorkDir + "/kubeconfig"
			e.Setenv("KUBECONFIG", kubeconfig)
			return writeKubeconfig(kubeconfig, cluster.Config)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"output": output,
			"versions": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], versions(ts, ts.Value("cluster").(client.WithWatch)))
			},
			"apply": apply,
			"node": func(ts *testscript.TestScript, _ bool, _ []string) {
				ctx, cancel := context.WithCancel(context.Background())
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := playNode(ctx, ts.Value("cluster").(client.WithWatch), &wg); err != nil && ctx.Err() == nil {
						t.Errorf("node: %v", err)
					}
				})
				ts.Defer(func() { cancel(); wg.Wait() })
			},
		},
	})
}

// apply makes the objects of a file of YAML documents, and then gives them their status.
func apply(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: apply FILE")
	}
	c := ts.Value("cluster").(client.WithWatch)
	for _, doc := range strings.Split(ts.ReadFile(args[0]), "\n---\n") {
		o := &unstructured.Unstructured{}
		ts.Check(yaml.Unmarshal([]byte(doc), &o.Object))
		status := o.Object["status"]
		ts.Check(c.Create(context.Background(), o))
		if status != nil {
			o.Object["status"] = status
			ts.Check(c.Status().Update(context.Background(), o))
		}
	}
}

func writeKubeconfig(file string, c *rest.Config) error {
	k := api.NewConfig()
	k.Clusters["c"] = &api.Cluster{Server: c.Host, CertificateAuthorityData: c.CAData}
	k.AuthInfos["u"] = &api.AuthInfo{ClientCertificateData: c.CertData, ClientKeyData: c.KeyData, Token: c.BearerToken}
	k.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	k.CurrentContext = "x"
	return clientcmd.WriteToFile(*k, file)
}

// playNode sets the status of the connector's Deployment as its controllers would, and runs the connector.
func playNode(ctx context.Context, c client.WithWatch, wg *sync.WaitGroup) error {
	w, err := c.Watch(ctx, &appsv1.DeploymentList{}, client.InNamespace(v1alpha1.Namespace))
	if err != nil {
		return err
	}
	defer w.Stop()
	running := false
	for event := range w.ResultChan() {
		d, ok := event.Object.(*appsv1.Deployment)
		if !ok || d.DeletionTimestamp != nil || d.Name != config.ConnectorName || d.Status.ObservedGeneration == d.Generation {
			continue
		}
		good := d.Spec.Template.Spec.Containers[0].Image == "good"
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1}
		if good {
			d.Status.ReadyReplicas = 1
		} else if err := unpulled(ctx, c, d); err != nil {
			return err
		}
		if err := c.Status().Update(ctx, d); err != nil {
			return err
		}
		if good && !running {
			running = true
			credential, err := readCredential(ctx, c)
			if err != nil {
				return err
			}
			wg.Go(func() { _ = playConnector(ctx, credential, func() {}) }) // ends with the test's service
		}
	}
	return nil
}

// unpulled makes a pod of the Deployment's whose image cannot be pulled.
func unpulled(ctx context.Context, c client.Client, d *appsv1.Deployment) error {
	pod := &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec}
	pod.Name, pod.Namespace = d.Name+"-1", d.Namespace
	if err := c.Create(ctx, pod); err != nil {
		return client.IgnoreAlreadyExists(err)
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "connector", State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}}}
	return c.Status().Update(ctx, pod)
}

// versions are the resource versions of everything that the connector consists of, which change whenever it is written.
func versions(ts *testscript.TestScript, c client.Client) string {
	objects, err := config.ConnectorManifests(config.ConnectorParams{Image: "any"})
	ts.Check(err)
	var found []string
	for _, o := range objects {
		err := c.Get(context.Background(), client.ObjectKeyFromObject(o), o)
		if client.IgnoreNotFound(err) != nil {
			ts.Fatalf("%v", err)
		}
		// The namespace goes away only where its controller runs.
		if err == nil && o.GetDeletionTimestamp() == nil {
			found = append(found, o.GetResourceVersion())
		}
	}
	return strings.Join(found, "_")
}

func readCredential(ctx context.Context, c client.Client) (link.Credential, error) {
	var credential link.Credential
	secret := &corev1.Secret{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.Namespace, Name: config.ConnectorName}, secret); err != nil {
		return credential, err
	}
	raw := secret.Data[config.CredentialKey]
	if len(raw) == 0 {
		return credential, errors.New("the Secret holds no credential")
	}
	return credential, json.Unmarshal(raw, &credential)
}
