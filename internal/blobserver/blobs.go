package blobserver

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"net/http"
	"strconv"
)

// Azure's limits of one request's body (service version 2019-12-12 and later).
const (
	maxPutBlob  = 5000 << 20
	maxPutBlock = 4000 << 20
)

func (s *Server) putBlob(c *call) error {
	switch kind := c.r.Header.Get("x-ms-blob-type"); kind {
	case "BlockBlob":
	case "":
		return fail(http.StatusBadRequest, "MissingRequiredHeader", "The header x-ms-blob-type is missing; set it to BlockBlob.")
	default:
		return errHeader("x-ms-blob-type", kind)
	}
	cond, props, err := writeRequest(c)
	if err != nil {
		return err
	}
	file, err := s.disk.stage()
	if err != nil {
		return err
	}
	defer file.discard()
	body, err := receive(file, c.r, maxPutBlob)
	if err != nil {
		return err
	}
	if err := body.matches("x-ms-blob-content-md5", c.r.Header); err != nil {
		return err
	}
	props.Size, props.ContentMD5 = body.size, body.md5.Sum(nil)
	c.w.Header().Set("Content-MD5", base64.StdEncoding.EncodeToString(props.ContentMD5))
	body.confirm(c.w.Header())
	return s.commitBlob(c, file, props, nil, cond.forWrite)
}

// writeRequest reads the headers that Put Blob and Put Block List share.
func writeRequest(c *call) (conditions, properties, error) {
	cond, err := parseConditions(c.r.Header)
	if err != nil {
		return conditions{}, properties{}, err
	}
	metadata, err := parseMetadata(c.r.Header)
	if err != nil {
		return conditions{}, properties{}, err
	}
	h := c.r.Header
	return cond, properties{
		ContentType:        cmp.Or(h.Get("x-ms-blob-content-type"), "application/octet-stream"),
		ContentEncoding:    h.Get("x-ms-blob-content-encoding"),
		ContentLanguage:    h.Get("x-ms-blob-content-language"),
		ContentDisposition: h.Get("x-ms-blob-content-disposition"),
		CacheControl:       h.Get("x-ms-blob-cache-control"),
		Metadata:           metadata,
	}, nil
}

// commitBlob ends the file and makes it the blob.
func (s *Server) commitBlob(c *call, file *staged, props properties, blocks []block, decide func(*properties) error) error {
	props.ETag, props.Modified = newETag(), s.config.Now().UTC()
	if err := writeTail(file, props, blocks); err != nil {
		return err
	}
	if err := file.finish(); err != nil {
		return err
	}
	err := s.disk.commit(c.place, c.blob, file, func(old *properties) error {
		if err := decide(old); err != nil {
			return err
		}
		if old != nil && c.createOnly {
			return fail(http.StatusForbidden, "UnauthorizedBlobOverwrite",
				"This request is not authorized to perform blob overwrites: the signature allows new blobs only.")
		}
		return nil
	})
	if err != nil {
		return err
	}
	setVersionHeaders(c.w.Header(), props.ETag, props.Modified)
	c.w.Header().Set("x-ms-request-server-encrypted", "false")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// received is a body that was written down.
type received struct {
	size  int64
	md5   hash.Hash
	crc64 hash.Hash64 // nil unless the client sent one
}

// crc64Table is of the polynomial that Azure uses, in the reversed form of package crc64.
var crc64Table = crc64.MakeTable(0x9A6C9329AC4BC9B5)

// receive streams the body into w and checks the Content-MD5 or x-ms-content-crc64 that came with it.
func receive(w io.Writer, r *http.Request, limit int64) (received, error) {
	if r.ContentLength < 0 {
		return received{}, fail(http.StatusLengthRequired, "MissingContentLengthHeader", "The header Content-Length is missing.")
	}
	if r.ContentLength > limit {
		return received{}, fail(http.StatusRequestEntityTooLarge, "RequestBodyTooLarge",
			fmt.Sprintf("The request body is larger than %d bytes; upload the blob in blocks.", limit))
	}
	b := received{size: r.ContentLength, md5: md5.New()}
	to := []io.Writer{w, b.md5}
	if r.Header.Get("x-ms-content-crc64") != "" {
		b.crc64 = crc64.New(crc64Table)
		to = append(to, b.crc64)
	}
	if err := readBody(io.MultiWriter(to...), r.Body, r.ContentLength); err != nil {
		return received{}, err
	}
	if err := b.matches("Content-MD5", r.Header); err != nil {
		return received{}, err
	}
	if b.crc64 != nil && !sameSum(r.Header.Get("x-ms-content-crc64"), b.crc64Sum()) {
		return received{}, fail(http.StatusBadRequest, "Crc64Mismatch",
			"The CRC64 value specified in the request did not match with the CRC64 value calculated by the server. Send it again.")
	}
	return b, nil
}

func (b received) matches(header string, h http.Header) error {
	if want := h.Get(header); want != "" && !sameSum(want, b.md5.Sum(nil)) {
		return fail(http.StatusBadRequest, "Md5Mismatch",
			"The MD5 value specified in the request did not match with the MD5 value calculated by the server. Send it again.")
	}
	return nil
}

func (b received) crc64Sum() []byte { return binary.LittleEndian.AppendUint64(nil, b.crc64.Sum64()) }

// confirm tells the client the checksum of what arrived.
func (b received) confirm(h http.Header) {
	if b.crc64 != nil {
		h.Set("x-ms-content-crc64", base64.StdEncoding.EncodeToString(b.crc64Sum()))
	}
}

func sameSum(header string, sum []byte) bool {
	want, err := base64.StdEncoding.DecodeString(header)
	return err == nil && bytes.Equal(want, sum)
}

// getBlob answers Get Blob and Get Blob Properties.
func (s *Server) getBlob(c *call) error {
	cond, err := parseConditions(c.r.Header)
	if err != nil {
		return err
	}
	wanted, whole, err := parseRange(cmp.Or(c.r.Header.Get("x-ms-range"), c.r.Header.Get("Range")))
	if err != nil {
		return err
	}
	b, err := s.disk.open(c.place, c.blob)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := cond.forRead(b.properties); err != nil {
		return err
	}
	offset, length, status := int64(0), b.Size, http.StatusOK
	head := c.r.Method == http.MethodHead
	if !whole && !head {
		if offset, length, err = wanted.within(b.Size); err != nil {
			return err
		}
		status = http.StatusPartialContent
		c.w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+length-1, b.Size))
	}
	setBlobHeaders(c.w.Header(), b.properties, status == http.StatusPartialContent)
	for name, values := range c.override {
		c.w.Header()[name] = values
	}
	c.w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	c.w.WriteHeader(status)
	if head {
		return nil
	}
	c.streaming = true
	_, err = io.CopyBuffer(struct{ io.Writer }{c.w}, b.content(offset, length), make([]byte, 256<<10))
	return err
}

func setBlobHeaders(h http.Header, p properties, partial bool) {
	setVersionHeaders(h, p.ETag, p.Modified)
	setMetadata(h, p.Metadata)
	h.Set("Content-Type", p.ContentType)
	md5Header := "Content-MD5"
	if partial {
		md5Header = "x-ms-blob-content-md5" // Content-MD5 would be that of the part
	}
	for name, value := range map[string]string{
		"Content-Encoding":    p.ContentEncoding,
		"Content-Language":    p.ContentLanguage,
		"Content-Disposition": p.ContentDisposition,
		"Cache-Control":       p.CacheControl,
		md5Header:             base64.StdEncoding.EncodeToString(p.ContentMD5),
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
	h.Set("Accept-Ranges", "bytes")
	h.Set("x-ms-blob-type", "BlockBlob")
	h.Set("x-ms-creation-time", p.Modified.UTC().Format(http.TimeFormat))
	h.Set("x-ms-lease-status", "unlocked")
	h.Set("x-ms-lease-state", "available")
	h.Set("x-ms-server-encrypted", "false")
}

func (s *Server) deleteBlob(c *call) error {
	cond, err := parseConditions(c.r.Header)
	if err != nil {
		return err
	}
	if err := s.disk.deleteBlob(c.place, c.blob, cond.forDelete); err != nil {
		return err
	}
	c.w.Header().Set("x-ms-delete-type-permanent", "true")
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
