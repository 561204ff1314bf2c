package blobserver

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// byteRange is a part of a blob: first and last byte, last is -1 for "to the end".
type byteRange struct{ first, last int64 }

// parseRange reads the forms Azure takes: "bytes=a-b" and "bytes=a-". An empty header asks for the whole blob.
func parseRange(header string) (r byteRange, whole bool, err error) {
	if header == "" {
		return byteRange{0, -1}, true, nil
	}
	spec, ok := strings.CutPrefix(header, "bytes=")
	from, to, dash := strings.Cut(spec, "-")
	if !ok || !dash {
		return byteRange{}, false, errHeader("Range", header)
	}
	r = byteRange{last: -1}
	if r.first, err = parseOffset(from); err != nil {
		return byteRange{}, false, errHeader("Range", header)
	}
	if to != "" {
		if r.last, err = parseOffset(to); err != nil || r.last < r.first {
			return byteRange{}, false, errHeader("Range", header)
		}
	}
	return r, false, nil
}

// parseOffset takes digits only: strconv alone would take a sign.
func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// within cuts the range to a blob of size bytes and returns offset and length.
func (r byteRange) within(size int64) (offset, length int64, err error) {
	if r.first >= size {
		e := fail(http.StatusRequestedRangeNotSatisfiable, "InvalidRange",
			"The range specified is invalid for the current size of the resource.")
		e.header = http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", size)}}
		return 0, 0, e
	}
	last := r.last
	if last < 0 || last >= size {
		last = size - 1
	}
	return r.first, last - r.first + 1, nil
}
