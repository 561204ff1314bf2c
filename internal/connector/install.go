package connector

import (
	"context"
	"errors"
	"fmt"
	"time"

	release "helm.sh/helm/v4/pkg/release/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/config"
	"github.com/cairn-backup/cairn/internal/link"
)

// definitions is where custom resource definitions are.
var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// install brings the extension in line with the desired state.
func (r *run) install(ctx context.Context) error {
	defer context.AfterFunc(ctx, r.watch.stop)()
	if !r.watch.startObjects() {
		return ctx.Err()
	}
	for failures := 0; ; {
		pause := checkTime
		if d := r.wished(); d != nil {
			err := r.installOnce(ctx, d.Extension)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			failures++
			switch {
			case err == nil:
				failures = 0
			case errors.Is(err, errFinishing):
				failures, pause = 0, firstBackoff
			default:
				r.Log.Error("the extension could not be brought in line; trying again", "error", err, "failures", failures)
				pause = backoff(failures)
			}
		}
		if err := r.toInstall.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// installOnce looks at the releases and the Deployment, and does what is missing.
func (r *run) installOnce(ctx context.Context, e *link.Extension) error {
	have, err := r.helm.releases()
	if err != nil {
		return err
	}
	if e != nil {
		r.leaving = time.Time{}
	}
	for name := range have {
		if e == nil && r.finishing() {
			r.sawInstalled(installation{name: name, removing: true})
			return errFinishing
		}
		if e == nil || e.Name != name {
			if err := r.uninstall(ctx, name, e); err != nil {
				return err
			}
		}
	}
	if e == nil {
		r.sawInstalled(installation{})
		return r.removeStorage(ctx)
	}
	revision, err := r.bringIn(ctx, e, have[e.Name])
	now := installation{name: e.Name, generation: e.Generation, revision: revision, err: err}
	if err != nil {
		now.failing = r.failingSince()
	}
	r.sawInstalled(now)
	return err
}

// errFinishing says that the extension is uninstalled a little later.
var errFinishing = errors.New("the extension ends its last requests")

// finishing reports whether an extension that is to go still has requests to end. It holds a Backup that is removed until
// the snapshots are removed too that no recovery point owns; nobody else would. There is a limit to this.
func (r *run) finishing() bool {
	if r.leaving.IsZero() {
		r.leaving = r.Now()
	}
	d, _ := r.watch.extension()
	if d == nil || d.Status.AvailableReplicas == 0 || r.Now().Sub(r.leaving) >= farewell {
		return false
	}
	for _, i := range r.watch.ofKind {
		if !i.HasSynced() {
			return true
		}
	}
	return len(r.watch.own()) > 0
}

// bringIn makes the release current, if it is not, and returns its revision.
func (r *run) bringIn(ctx context.Context, e *link.Extension, have *release.Release) (revision int, err error) {
	if err := r.applyStorage(ctx, e); err != nil {
		return 0, err
	}
	content, err := r.helm.content(e)
	if err != nil {
		return 0, err
	}
	deployment, _ := r.watch.extension()
	if current(have, content) && deployment != nil {
		return have.Version, nil
	}
	r.Log.Info("install the extension", "release", e.Name, "generation", e.Generation, "version", r.helm.chart.Metadata.Version, "anew", have == nil)
	if err := r.define(ctx); err != nil {
		return 0, err
	}
	if revision, err = r.helm.apply(ctx, e, have); err != nil {
		return 0, fmt.Errorf("install %s: %w", e.Name, err)
	}
	return revision, nil
}

// failingSince is when the attempts began to fail.
func (r *run) failingSince() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.installed.err != nil {
		return r.installed.failing
	}
	return r.Now()
}

// uninstall removes a release that is not wished for (anymore). The request kinds and their objects stay.
func (r *run) uninstall(ctx context.Context, name string, instead *link.Extension) error {
	if instead == nil {
		r.sawInstalled(installation{name: name, removing: true})
	}
	r.Log.Info("uninstall the extension", "release", name)
	err := r.helm.remove(name)
	if err != nil && instead == nil {
		r.sawInstalled(installation{name: name, removing: true, err: err})
	}
	return err
}

// sawInstalled notes how far the installation is, and has it told if that is news.
func (r *run) sawInstalled(i installation) {
	r.mu.Lock()
	r.installed, r.looked = i, true
	r.mu.Unlock()
	r.toTell.set()
}

// define applies the definitions of the request kinds: upgraded when the connector is, and never removed.
func (r *run) define(ctx context.Context) error {
	crds, err := config.CRDs()
	if err != nil {
		return err
	}
	for _, crd := range crds {
		_, err := r.dynamic.Resource(definitions).Apply(ctx, crd.GetName(), crd, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		if err != nil {
			return fmt.Errorf("define %s: %w", crd.GetName(), err)
		}
	}
	return nil
}

// applyStorage gives the extension the storage credentials. It reads them when it needs them, so that renewed ones take
// effect without a restart.
func (r *run) applyStorage(ctx context.Context, e *link.Extension) error {
	labels := map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByConnector}
	data := map[string][]byte{"sas": []byte(e.SAS)}
	if e.CABundle != "" {
		data["ca.crt"] = []byte(e.CABundle)
	}
	options := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	secret := corev1ac.Secret(v1alpha1.SecretStorage, v1alpha1.Namespace).WithLabels(labels).WithData(data)
	if _, err := r.typed.CoreV1().Secrets(v1alpha1.Namespace).Apply(ctx, secret, options); err != nil {
		return fmt.Errorf("secret %s: %w", v1alpha1.SecretStorage, err)
	}
	configMap := corev1ac.ConfigMap(v1alpha1.ConfigMapStorage, v1alpha1.Namespace).WithLabels(labels).
		WithData(map[string]string{"containerURL": e.ContainerURL})
	if _, err := r.typed.CoreV1().ConfigMaps(v1alpha1.Namespace).Apply(ctx, configMap, options); err != nil {
		return fmt.Errorf("configmap %s: %w", v1alpha1.ConfigMapStorage, err)
	}
	return nil
}

func (r *run) removeStorage(ctx context.Context) error {
	failed := []error{
		r.removeSecret(ctx, v1alpha1.SecretStorage),
		r.typed.CoreV1().ConfigMaps(v1alpha1.Namespace).Delete(ctx, v1alpha1.ConfigMapStorage, metav1.DeleteOptions{}),
	}
	if apierrors.IsNotFound(failed[1]) {
		failed[1] = nil
	}
	return errors.Join(failed...)
}
