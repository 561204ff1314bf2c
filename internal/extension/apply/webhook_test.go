package apply_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cairn-backup/cairn/internal/bundle"
	"github.com/cairn-backup/cairn/internal/extension/apply"
	"github.com/cairn-backup/cairn/internal/plan"
)

var webhookResource = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}

// allow answers every admission with yes.
func allow(w http.ResponseWriter, r *http.Request) {
	var review map[string]any
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	uid := review["request"].(map[string]any)["uid"]
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": map[string]any{"uid": uid, "allowed": true}})
}

// webhook makes a webhook for the ConfigMaps of a namespace, which nobody answers until start is called.
func (w *world) webhook(t *testing.T, namespace string) (start func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	server := httptest.NewUnstartedServer(http.HandlerFunc(allow))
	certificate := httptest.NewTLSServer(nil) // httptest's own certificate, valid for 127.0.0.1
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate().Raw})
	server.TLS = &tls.Config{Certificates: certificate.TLS.Certificates}
	certificate.Close()
	if err := listener.Close(); err != nil { // until start, nobody listens there
		t.Fatal(err)
	}
	w.create(t, fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: %s}, webhooks: [{name: slow.example.com, failurePolicy: Fail,
sideEffects: None, admissionReviewVersions: [v1], timeoutSeconds: 2, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %s}}, clientConfig: {url: "https://%s/", caBundle: %s},
rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}]}`, namespace, namespace, address, base64.StdEncoding.EncodeToString(ca)))
	return func() {
		again, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		server.Listener = again
		server.StartTLS()
		t.Cleanup(server.Close)
	}
}

func TestWhatAWebhookHoldsUpIsPutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		namespace string
		comes     bool
		result    bundle.RestoreResult
	}{{"hook-comes", true, bundle.RestoreCreated}, {"hook-stays-away", false, bundle.RestoreFailed}} {
		w.create(t, strings.ReplaceAll(`{apiVersion: v1, kind: Namespace, metadata: {name: "{NS}"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: held-up, namespace: "{NS}"}, data: {}}
---
{apiVersion: v1, kind: Service, metadata: {name: free, namespace: "{NS}"}, spec: {ports: [{port: 80}]}}`, "{NS}", c.namespace))
		id := w.backup(t, w.all(t, "-", c.namespace))
		w.removeNamespace(t, c.namespace)
		start := w.webhook(t, c.namespace)
		a, err := w.run(t, id, "11111111-0000-4000-8000-000000000010", plan.Request{}, func(a *attempt, o *apply.Options) {
			report := o.Report
			o.Report = func(l bundle.RestoreOutcome) error {
				if c.comes && l.Resource == "services/hook-comes/free" {
					go start() // as if the webhook's pods came up with the workloads
				}
				return report(l)
			}
			o.Patience = 6 * time.Second
		})
		if err != nil {
			t.Fatal(err)
		}
		o := a.outcome(t, "configmaps/"+c.namespace+"/held-up")
		if o.Result != c.result || !c.comes && !strings.Contains(o.Message, "slow.example.com") {
			t.Errorf("%+v, want %s", o, c.result)
		}
		if o := a.outcome(t, "services/"+c.namespace+"/free"); o.Result != bundle.RestoreCreated {
			t.Errorf("%+v", o)
		}
		w.remove(t, webhookResource, "", c.namespace)
		w.removeNamespace(t, c.namespace)
	}
}
