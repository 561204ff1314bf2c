package blob

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
)

// The kinds of failure; an *Error is one of them under errors.Is.
var (
	// ErrExists says that the name is taken.
	ErrExists = errors.New("the blob exists already")
	// ErrNotFound says that there is no blob of that name; the container is there.
	ErrNotFound = errors.New("the blob does not exist")
	// ErrUnauthorized says that the store refused the credential or that it lacks a permission. Asking again does not help.
	ErrUnauthorized = errors.New("storage refused access; check the extension identity's role on the storage account, or renew its SAS")
	// ErrUnavailable says that the store can't be reached, failed, or has no such account or container. It may help to try later.
	ErrUnavailable = errors.New("storage is not available; check that the storage account, the container and the network path to them exist")
	// ErrFull says that the store has no space left.
	ErrFull = errors.New("storage is full; free space on it, or delete recovery points")
	// ErrRefused says that the store refused the request for another reason: see Code.
	ErrRefused = errors.New("storage refused the request")
)

// Error says what failed, with what, and why.
type Error struct {
	Op        string // what was tried, such as "create blob"
	Account   string
	Container string
	Blob      string // blob name or, for a listing, the prefix
	Code      string // Azure's error code, empty when no answer came
	Status    int    // HTTP status, 0 when no answer came
	Kind      error  // one of the kinds above, or a context's error
	Err       error  // the cause
}

// Error has no URL in it, since a URL may hold a signature.
func (e *Error) Error() string {
	text := e.Op + " " + e.Account + "/" + e.Container + "/" + e.Blob + ": " + e.Kind.Error()
	if e.Code != "" {
		return text + " (" + e.Code + ")"
	}
	if sent, ok := errors.AsType[*url.Error](e.Err); ok {
		return text + " (" + sent.Err.Error() + ")"
	}
	return text
}

// Is makes an Error equal to its kind.
func (e *Error) Is(target error) bool { return target == e.Kind }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func (c *Container) fail(op, blob string, err error) error {
	e := &Error{Op: op, Account: c.account, Container: c.name, Blob: blob, Err: err}
	if answer, ok := errors.AsType[*azcore.ResponseError](err); ok {
		e.Code, e.Status = answer.ErrorCode, answer.StatusCode
	}
	e.Kind = kind(e, err)
	return e
}

func kind(e *Error, err error) error {
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) && e.Status == 0 {
			return end
		}
	}
	if _, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok {
		return ErrUnauthorized
	}
	switch {
	case e.Code == string(bloberror.BlobAlreadyExists):
		return ErrExists
	case e.Code == string(bloberror.BlobNotFound):
		return ErrNotFound
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden, e.Code == string(bloberror.InvalidAuthenticationInfo):
		return ErrUnauthorized
	case e.Status == http.StatusInsufficientStorage:
		return ErrFull
	case e.Status == 0, e.Status == http.StatusNotFound, e.Status == http.StatusRequestTimeout, e.Status == http.StatusTooManyRequests, e.Status >= 500:
		return ErrUnavailable
	}
	return ErrRefused
}
