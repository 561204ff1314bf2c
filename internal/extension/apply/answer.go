package apply

import (
	"context"
	"errors"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Answer says what an API server's answer to the creation of an object means.
type Answer int

// The answers.
const (
	Done      Answer = iota
	Exists           // there is an object of that name
	Again            // the server is overloaded, away, or raced with itself: the same request may succeed soon
	Unserved         // the server does not know the path: a definition may have been made a moment ago
	Later            // something must come up first: the service of a webhook, a quota's first count
	Vanishing        // the namespace is being deleted
	PortTaken        // a node port is another service's
	Refused          // the same request will never succeed
	GivenUp          // our own context ended
)

// Classify reads the error of a creation.
func Classify(err error) Answer {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return Done
	case errors.Is(err, context.Canceled):
		return GivenUp
	case !errors.As(err, &status):
		return Again // no answer of the API server: the connection broke, or there was none
	case apierrors.IsAlreadyExists(err):
		return Exists
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return Vanishing
	case apierrors.IsInternalError(err), // mostly a webhook, for admission or conversion, that cannot be called
		apierrors.IsForbidden(err) && strings.Contains(err.Error(), "status unknown for quota"):
		return Later
	case apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err), apierrors.IsServiceUnavailable(err),
		apierrors.IsConflict(err), apierrors.IsUnauthorized(err), status.Status().Code >= http.StatusInternalServerError:
		return Again
	case apierrors.IsNotFound(err) && (status.Status().Details == nil || status.Status().Details.Name == ""):
		return Unserved
	case apierrors.IsInvalid(err) && nodePortTaken(status):
		return PortTaken
	default:
		return Refused
	}
}

func nodePortTaken(status apierrors.APIStatus) bool {
	details := status.Status().Details
	if details == nil {
		return false
	}
	for _, c := range details.Causes {
		port := strings.HasSuffix(c.Field, "nodePort") || strings.HasSuffix(c.Field, "healthCheckNodePort")
		if port && (strings.Contains(c.Message, "already allocated") || strings.Contains(c.Message, "not in the valid range")) {
			return true
		}
	}
	return false
}
