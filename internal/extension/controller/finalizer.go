package controller

import (
	"context"
	"fmt"

	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cairn-backup/cairn/api/v1alpha1"
)

// setFinalizer changes an object's finalizers as they are now, since others may have theirs there.
func setFinalizer(ctx context.Context, reader client.Reader, writer client.Client, object client.Object, finalizer string, set func(client.Object, string) bool) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		before, ok := object.DeepCopyObject().(client.Object)
		if !ok {
			return fmt.Errorf("finalizers of %s: a copy of it is no object", object.GetName())
		}
		if err := reader.Get(ctx, client.ObjectKeyFromObject(object), before); err != nil {
			return err
		}
		after, ok := before.DeepCopyObject().(client.Object)
		if !ok || !set(after, finalizer) {
			return nil
		}
		return writer.Patch(ctx, after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
}

// deletedIssue says how a request ended whose object was deleted while it ran.
func deletedIssue(what, left string) v1alpha1.Issue {
	return v1alpha1.Issue{Code: v1alpha1.CodeDeleted, Message: "the " + what + " was stopped, since its object was deleted. " + left, Action: "Start it again if that was not meant."}
}
