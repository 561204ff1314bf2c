package blobserver

import (
	"net/http"
	"strings"
	"time"
)

// conditions are the conditional headers of a request.
// https://learn.microsoft.com/rest/api/storageservices/specifying-conditional-headers-for-blob-service-operations
type conditions struct {
	match           string // ETag without quotes, or "*"
	noneMatch       string
	modifiedSince   time.Time
	unmodifiedSince time.Time
}

func parseConditions(h http.Header) (conditions, error) {
	c := conditions{match: trimETag(h.Get("If-Match")), noneMatch: trimETag(h.Get("If-None-Match"))}
	var err error
	if c.modifiedSince, err = headerTime(h, "If-Modified-Since"); err != nil {
		return conditions{}, err
	}
	if c.unmodifiedSince, err = headerTime(h, "If-Unmodified-Since"); err != nil {
		return conditions{}, err
	}
	return c, nil
}

func headerTime(h http.Header, name string) (time.Time, error) {
	value := h.Get(name)
	if value == "" {
		return time.Time{}, nil
	}
	t, err := http.ParseTime(value)
	if err != nil {
		return time.Time{}, errHeader(name, value)
	}
	return t, nil
}

func trimETag(s string) string { return strings.Trim(strings.TrimPrefix(s, "W/"), `"`) }

// forRead decides on a read of an existing blob.
func (c conditions) forRead(p properties) error {
	if c.noneMatch == "*" {
		return fail(http.StatusBadRequest, "UnsatisfiableCondition", "A read with If-None-Match: * can never succeed.")
	}
	if !c.wantsThis(p) {
		return errConditionNotMet()
	}
	if c.excludesThis(p) {
		e := fail(http.StatusNotModified, "ConditionNotMet", "The blob has not been modified.")
		e.header = http.Header{"Etag": {`"` + p.ETag + `"`}}
		return e
	}
	return nil
}

// forWrite decides on a write in the place of old, which is nil when there is no blob yet.
func (c conditions) forWrite(old *properties) error {
	if old == nil {
		if c.match != "" {
			return errConditionNotMet()
		}
		return nil
	}
	if c.noneMatch == "*" {
		return fail(http.StatusConflict, "BlobAlreadyExists", "The specified blob already exists.")
	}
	return c.forDelete(*old)
}

// forDelete decides on the removal of an existing blob.
func (c conditions) forDelete(p properties) error {
	if !c.wantsThis(p) || c.excludesThis(p) {
		return errConditionNotMet()
	}
	return nil
}

// wantsThis: If-Match and If-Unmodified-Since. HTTP dates have whole seconds.
func (c conditions) wantsThis(p properties) bool {
	if c.match != "" && c.match != "*" && c.match != p.ETag {
		return false
	}
	return c.unmodifiedSince.IsZero() || !p.Modified.Truncate(time.Second).After(c.unmodifiedSince)
}

// excludesThis: If-None-Match and If-Modified-Since; when both are there, one that lets the blob pass is enough.
func (c conditions) excludesThis(p properties) bool {
	sameTag := c.noneMatch == "*" || c.noneMatch == p.ETag
	unmodified := !p.Modified.Truncate(time.Second).After(c.modifiedSince)
	switch {
	case c.noneMatch != "" && !c.modifiedSince.IsZero():
		return sameTag && unmodified
	case c.noneMatch != "":
		return sameTag
	}
	return !c.modifiedSince.IsZero() && unmodified
}
