package blobserver

import (
	"encoding/xml"
	"errors"
	"io/fs"
	"net/http"
	"syscall"
)

// apiError is an answer other than success: an HTTP status, Azure's error code and a sentence that says what to do.
// https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes lists the codes.
type apiError struct {
	status  int
	code    string
	message string
	header  http.Header // sent along, may be nil
	err     error       // the cause, for the log only
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func (e *apiError) Unwrap() error { return e.err }

func fail(status int, code, message string) *apiError {
	return &apiError{status: status, code: code, message: message}
}

func errAuthentication(message string) *apiError {
	return fail(http.StatusForbidden, "AuthenticationFailed", "Server failed to authenticate the request. "+message)
}

func errPermission(message string) *apiError {
	return fail(http.StatusForbidden, "AuthorizationPermissionMismatch",
		"This request is not authorized to perform this operation using this permission. "+message)
}

func errHeader(name, value string) *apiError {
	return fail(http.StatusBadRequest, "InvalidHeaderValue",
		"The value "+quoted(value)+" of the header "+name+" is not in the correct format.")
}

func errQuery(name, value string) *apiError {
	return fail(http.StatusBadRequest, "InvalidQueryParameterValue",
		"The value "+quoted(value)+" of the query parameter "+name+" is invalid.")
}

func errInvalidBlockList() *apiError {
	return fail(http.StatusBadRequest, "InvalidBlockList",
		"The specified block list is invalid: it names a block that is not there. Upload the blocks again.")
}

func errContainerNotFound() *apiError {
	return fail(http.StatusNotFound, "ContainerNotFound", "The specified container does not exist. Create it first.")
}

func errBlobNotFound() *apiError {
	return fail(http.StatusNotFound, "BlobNotFound", "The specified blob does not exist.")
}

func errConditionNotMet() *apiError {
	return fail(http.StatusPreconditionFailed, "ConditionNotMet",
		"The condition specified using HTTP conditional header(s) is not met.")
}

// quoted shortens what a client sent, so that an error body stays small.
func quoted(s string) string {
	if len(s) > 128 {
		s = s[:128] + "..."
	}
	return `"` + s + `"`
}

// asAPIError turns any error into an answer. What is not an apiError comes from the disk.
func asAPIError(err error) *apiError {
	if api, ok := errors.AsType[*apiError](err); ok {
		return api
	}
	if errors.Is(err, ErrUnavailable) {
		return &apiError{status: http.StatusServiceUnavailable, code: "ServerBusy",
			message: "Accounts and permissions cannot be looked up at the moment. Send the request again after a while.", header: http.Header{"Retry-After": {"5"}}, err: err}
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &apiError{
			status: http.StatusInsufficientStorage,
			code:   "InsufficientStorage",
			message: "The disk of the storage service is full; nothing was written. " +
				"Free space on it or delete recovery points, then try again.",
			err: err,
		}
	}
	return &apiError{
		status:  http.StatusInternalServerError,
		code:    "InternalError",
		message: "The server encountered an internal error. Its log has the cause under the request id.",
		err:     err,
	}
}

// bodyError tells a request body that broke off from a disk that failed while the body was written down.
func bodyError(err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	return &apiError{
		status:  http.StatusBadRequest,
		code:    "InvalidInput",
		message: "The request body ended before the length it announced. Send the request again.",
		err:     err,
	}
}

type errorBody struct {
	XMLName xml.Name `xml:"Error"`
	Code    string
	Message string
}
