package connector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/cairn-backup/cairn/api/v1alpha1"
	"github.com/cairn-backup/cairn/internal/link"
)

// IssueRequestRefused is the code of a request that the API server will not have: its words are the message.
const IssueRequestRefused = "RequestRefusedByCluster"

// carry brings the request objects in line with the desired state.
func (r *run) carry(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	failures := 0
	for swept := false; ; {
		pause := checkTime
		if d := r.wished(); d != nil {
			err := r.carryOnce(ctx, d)
			if err == nil && !swept {
				err = r.sweep(ctx, d)
				swept = err == nil
			}
			failures++
			if err == nil {
				failures = 0
			} else {
				r.Log.Error("requests could not be carried; trying again", "error", err, "failures", failures)
				pause = backoff(failures)
			}
		}
		if err := r.toCarry.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// prepare defines the request kinds and reads what there is of them. Nothing may be decided before.
func (r *run) prepare(ctx context.Context) error {
	for failures := 1; ; failures++ {
		err := r.define(ctx)
		if err == nil {
			break
		}
		r.Log.Error("the request kinds could not be defined; trying again", "error", err)
		if err := sleep(ctx, backoff(failures)); err != nil {
			return err
		}
	}
	defer context.AfterFunc(ctx, r.watch.stop)()
	if !r.watch.startRequests() {
		return ctx.Err()
	}
	r.toTell.set()
	return nil
}

// carryOnce makes what is missing and removes what is not wished anymore. One request's failure does not hold up another.
func (r *run) carryOnce(ctx context.Context, d *link.Desired) error {
	own := r.watch.own()
	todo, gone := difference(d.Requests, own)
	var failed []error
	for _, k := range gone {
		delete(r.tied, k)
		failed = append(failed, r.remove(ctx, k), r.removeSecret(ctx, k.name)) // the Secret may not have been tied
	}
	for _, q := range todo {
		failed = append(failed, r.ensure(ctx, q, own[key{q.Kind, q.Name}]))
	}
	return errors.Join(failed...)
}

// difference says which requests need something done (those without an object, and those with a Secret whose object has
// not ended), and which of the own objects nobody wishes for, or not any more.
func difference(wished []link.Request, own map[key]*unstructured.Unstructured) (todo []link.Request, gone []key) {
	wanted := map[key]bool{}
	for _, q := range wished {
		k := key{q.Kind, q.Name}
		u := own[k]
		if wanted[k] = !q.Withdrawn; q.Withdrawn && u != nil {
			continue
		}
		if u == nil || len(q.Secret) > 0 && !phase(u).Final() && u.GetDeletionTimestamp() == nil {
			todo = append(todo, q)
		}
	}
	for k, u := range own {
		if !wanted[k] && u.GetDeletionTimestamp() == nil {
			gone = append(gone, k)
		}
	}
	slices.SortFunc(gone, func(a, b key) int { return strings.Compare(a.name, b.name) })
	return todo, gone
}

// ensure makes a request's Secret and its object, in this order, so that the extension never sees the one without the
// other; then the Secret is tied to the object, so that it goes with it. have is the object if it is there already.
func (r *run) ensure(ctx context.Context, q link.Request, have *unstructured.Unstructured) error {
	k := key{q.Kind, q.Name}
	r.mu.Lock()
	_, ended := r.ended[k]
	r.mu.Unlock()
	if ended {
		return nil
	}
	if q.Withdrawn {
		return r.withdraw(ctx, q)
	}
	if len(q.Secret) > 0 && have == nil {
		if err := r.applySecret(ctx, q, nil); err != nil {
			return fmt.Errorf("%s %s: secret: %w", q.Kind, q.Name, err)
		}
	}
	if have == nil {
		var err error
		if have, err = r.create(ctx, q); err != nil {
			if final(err) {
				return r.refuse(ctx, q, err)
			}
			return fmt.Errorf("%s %s: create: %w", q.Kind, q.Name, err)
		}
	}
	if len(q.Secret) > 0 && r.tied[k] != have.GetUID() {
		if err := r.applySecret(ctx, q, have); err != nil {
			return fmt.Errorf("%s %s: secret: %w", q.Kind, q.Name, err)
		}
		r.tied[k] = have.GetUID()
	}
	return nil
}

// withdraw ends a request that has no object and shall have none. The API server is asked whether that is so: what has been seen of the objects may be
// older than the one that this connector made last.
func (r *run) withdraw(ctx context.Context, q link.Request) error {
	gvr, known := resource(q.Kind)
	if known {
		_, err := r.dynamic.Resource(gvr).Namespace(v1alpha1.Namespace).Get(ctx, q.Name, metav1.GetOptions{})
		if err == nil {
			return nil // it is removed when it is seen
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s %s: look for it: %w", q.Kind, q.Name, err)
		}
	}
	if err := r.removeSecret(ctx, q.Name); err != nil {
		return err
	}
	return r.fail(q, v1alpha1.Issue{Code: v1alpha1.CodeDeleted, Resource: q.Kind + " " + q.Name,
		Message: "The request was withdrawn before the extension had begun it, or its object was deleted before it had ended."})
}

// errUnknownKind is a request of a kind that this connector is too old for.
var errUnknownKind = errors.New("this connector does not know the kind; upgrade it with `cairn cluster connect`")

// create makes the object and returns it as it is in the cluster, whoever made it.
func (r *run) create(ctx context.Context, q link.Request) (*unstructured.Unstructured, error) {
	gvr, known := resource(q.Kind)
	if !known {
		return nil, errUnknownKind
	}
	var spec map[string]any
	if err := utiljson.Unmarshal(q.Spec, &spec); err != nil { // keeps 64-bit integers
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec: %v", err))
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(q.Kind))
	u.SetName(q.Name)
	u.SetNamespace(v1alpha1.Namespace)
	u.SetLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByConnector})
	objects := r.dynamic.Resource(gvr).Namespace(v1alpha1.Namespace)
	made, err := objects.Create(ctx, u, metav1.CreateOptions{FieldManager: fieldManager, FieldValidation: metav1.FieldValidationStrict})
	if apierrors.IsAlreadyExists(err) {
		return objects.Get(ctx, q.Name, metav1.GetOptions{})
	}
	if err == nil {
		r.Log.Info("request made", "kind", q.Kind, "name", q.Name)
	}
	return made, err
}

// final reports whether the API server, or this connector, will say the same next time.
func final(err error) bool {
	return errors.Is(err, errUnknownKind) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsForbidden(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// refuse ends a request that cannot become an object, in the words of whoever refused it.
func (r *run) refuse(ctx context.Context, q link.Request, cause error) error {
	r.Log.Error("request refused", "kind", q.Kind, "name", q.Name, "error", cause)
	if len(q.Secret) > 0 {
		if err := r.removeSecret(ctx, q.Name); err != nil {
			return err
		}
	}
	return r.fail(q, v1alpha1.Issue{
		Code:     IssueRequestRefused,
		Resource: q.Kind + " " + q.Name,
		Message:  "The cluster does not accept the request: " + cause.Error(),
		Action:   "Remove what refuses it, or upgrade the connector with `cairn cluster connect`, and try again.",
	})
}

// fail has it told that a request without an object has failed.
func (r *run) fail(q link.Request, issue v1alpha1.Issue) error {
	now := metav1.NewTime(r.Now())
	status, err := json.Marshal(v1alpha1.Status{Phase: v1alpha1.PhaseFailed, Started: &now, Ended: &now, Errors: []v1alpha1.Issue{issue}})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.ended[key{q.Kind, q.Name}] = link.RequestState{Kind: q.Kind, Name: q.Name, Status: status}
	r.mu.Unlock()
	r.toTellNow.set()
	r.toTell.set()
	return nil
}

// keepEnd remembers how a request ended, since its object may be gone before that is told, and must not be made anew then.
func (r *run) keepEnd(kind string, object any) {
	if missed, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = missed.Obj
	}
	u, ok := object.(*unstructured.Unstructured)
	if !ok || !phase(u).Final() {
		return
	}
	s, err := status(u)
	if err != nil {
		r.Log.Error("a request's status cannot be encoded", "kind", kind, "name", u.GetName(), "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := (key{kind, u.GetName()}); r.ended[k].Name == "" {
		r.ended[k] = link.RequestState{Kind: kind, Name: u.GetName(), Status: s}
	}
}

func (r *run) remove(ctx context.Context, k key) error {
	gvr, _ := resource(k.kind)
	policy := metav1.DeletePropagationBackground
	err := r.dynamic.Resource(gvr).Namespace(v1alpha1.Namespace).Delete(ctx, k.name, metav1.DeleteOptions{PropagationPolicy: &policy})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%s %s: delete: %w", k.kind, k.name, err)
	}
	r.Log.Info("request removed", "kind", k.kind, "name", k.name)
	return nil
}

// applySecret makes a request's Secret, owned by the object once there is one.
func (r *run) applySecret(ctx context.Context, q link.Request, owner *unstructured.Unstructured) error {
	s := corev1ac.Secret(q.Name, v1alpha1.Namespace).
		WithLabels(map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByConnector}).
		WithData(secretData(q.Secret))
	if owner != nil {
		s.WithOwnerReferences(metav1ac.OwnerReference().
			WithAPIVersion(v1alpha1.GroupVersion.String()).WithKind(q.Kind).WithName(q.Name).WithUID(owner.GetUID()))
	}
	_, err := r.typed.CoreV1().Secrets(v1alpha1.Namespace).Apply(ctx, s, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

func secretData(in map[string]string) map[string][]byte {
	out := make(map[string][]byte, len(in))
	for k, v := range in {
		out[k] = []byte(v)
	}
	return out
}

func (r *run) removeSecret(ctx context.Context, name string) error {
	err := r.typed.CoreV1().Secrets(v1alpha1.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("secret %s: delete: %w", name, err)
	}
	return nil
}

// sweep removes Secrets that an earlier run made and did not live to tie to an object. Once a run is enough.
func (r *run) sweep(ctx context.Context, d *link.Desired) error {
	wanted := map[string]bool{v1alpha1.SecretStorage: true}
	for _, q := range d.Requests {
		wanted[q.Name] = true
	}
	list, err := r.typed.CoreV1().Secrets(v1alpha1.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{v1alpha1.ManagedByLabel: v1alpha1.ManagedByConnector}.String(),
	})
	if err != nil {
		return fmt.Errorf("look for left Secrets: %w", err)
	}
	for _, s := range list.Items {
		if wanted[s.Name] || len(s.OwnerReferences) > 0 {
			continue
		}
		if err := r.removeSecret(ctx, s.Name); err != nil {
			return err
		}
	}
	return nil
}
