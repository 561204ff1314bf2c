package blobserver

import (
	"encoding/xml"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func (s *Server) createContainer(c *call) error {
	metadata, err := parseMetadata(c.r.Header)
	if err != nil {
		return err
	}
	props := containerProperties{ETag: newETag(), Modified: s.config.Now().UTC(), Metadata: metadata}
	if err := s.disk.createContainer(c.place, props); err != nil {
		return err
	}
	setVersionHeaders(c.w.Header(), props.ETag, props.Modified)
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Server) getContainer(c *call) error {
	props, err := s.disk.container(c.place)
	if err != nil {
		return err
	}
	h := c.w.Header()
	setVersionHeaders(h, props.ETag, props.Modified)
	setMetadata(h, props.Metadata)
	h.Set("x-ms-lease-status", "unlocked")
	h.Set("x-ms-lease-state", "available")
	h.Set("x-ms-has-immutability-policy", "false")
	h.Set("x-ms-has-legal-hold", "false")
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) deleteContainer(c *call) error {
	cond, err := parseConditions(c.r.Header)
	if err != nil {
		return err
	}
	err = s.disk.deleteContainer(c.place, func(p containerProperties) error {
		return cond.forDelete(properties{ETag: p.ETag, Modified: p.Modified})
	})
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) getAccount(c *call) error {
	c.w.Header().Set("x-ms-sku-name", "Standard_LRS")
	c.w.Header().Set("x-ms-account-kind", "StorageV2")
	c.w.Header().Set("x-ms-is-hns-enabled", "false")
	c.w.WriteHeader(http.StatusOK)
	return nil
}

type containerList struct {
	XMLName         xml.Name `xml:"EnumerationResults"`
	ServiceEndpoint string   `xml:",attr"`
	Prefix          string
	Marker          string
	MaxResults      int
	Containers      []containerItem `xml:"Containers>Container"`
	NextMarker      string
}

type containerItem struct {
	Name       string
	Properties struct {
		LastModified string `xml:"Last-Modified"`
		ETag         string `xml:"Etag"`
		LeaseStatus  string
		LeaseState   string
	}
	Metadata xmlMetadata `xml:",omitempty"`
}

func (s *Server) listContainers(c *call) error {
	limit, err := maxResults(c.query.Get("maxresults"))
	if err != nil {
		return err
	}
	names, err := s.disk.containers(c.account)
	if err != nil {
		return err
	}
	list := containerList{
		ServiceEndpoint: endpoint(c), Prefix: c.query.Get("prefix"), Marker: c.query.Get("marker"), MaxResults: limit,
	}
	withMetadata := strings.Contains(c.query.Get("include"), "metadata")
	for _, name := range names {
		if name < list.Marker || !strings.HasPrefix(name, list.Prefix) {
			continue
		}
		if len(list.Containers) == limit {
			list.NextMarker = name
			break
		}
		props, err := s.disk.container(place{c.account, name})
		if api, ok := errors.AsType[*apiError](err); ok && api.status == http.StatusNotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		item := containerItem{Name: name}
		item.Properties.LastModified = props.Modified.Format(http.TimeFormat)
		item.Properties.ETag = props.ETag
		item.Properties.LeaseStatus, item.Properties.LeaseState = "unlocked", "available"
		if withMetadata {
			item.Metadata = props.Metadata
		}
		list.Containers = append(list.Containers, item)
	}
	return writeXML(c.w, http.StatusOK, list)
}

// endpoint is the account's URL as the client wrote it.
func endpoint(c *call) string {
	scheme := "http"
	if c.r.TLS != nil {
		scheme = "https"
	}
	url := scheme + "://" + c.r.Host + "/"
	if !strings.HasPrefix(c.r.Host, c.account+".") {
		url += c.account + "/"
	}
	return url
}

// pageSize is Azure's page: what a listing has at most, and has when nothing is asked for.
const pageSize = 5000

func maxResults(s string) (int, error) {
	if s == "" {
		return pageSize, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, errQuery("maxresults", s)
	}
	if n < 1 {
		return 0, fail(http.StatusBadRequest, "OutOfRangeQueryParameterValue", "maxresults must be 1 or more.")
	}
	return min(n, pageSize), nil
}

func setVersionHeaders(h http.Header, etag string, modified time.Time) {
	h.Set("ETag", `"`+etag+`"`)
	h.Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
}

// metadataPrefix begins a metadata header. HTTP does not keep the case of header names, so ours are lower-case.
const (
	metadataPrefix  = "X-Ms-Meta-"
	maxMetadataSize = 8 << 10
)

var metadataName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

func parseMetadata(h http.Header) (map[string]string, error) {
	var metadata map[string]string
	size := 0
	for name, values := range h {
		key, ok := strings.CutPrefix(name, metadataPrefix)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if !metadataName.MatchString(key) {
			return nil, fail(http.StatusBadRequest, "InvalidMetadata",
				"The metadata name "+quoted(key)+" is invalid; use letters, digits and underscores, and no digit first.")
		}
		if metadata == nil {
			metadata = map[string]string{}
		}
		metadata[key] = strings.Join(values, ",")
		size += len(key) + len(metadata[key])
	}
	if size > maxMetadataSize {
		return nil, fail(http.StatusBadRequest, "MetadataTooLarge", "The metadata exceeds 8 KiB.")
	}
	return metadata, nil
}

func setMetadata(h http.Header, metadata map[string]string) {
	for name, value := range metadata {
		h.Set(metadataPrefix+name, value)
	}
}

// xmlMetadata writes a map as elements named like its keys.
type xmlMetadata map[string]string

// MarshalXML implements xml.Marshaler.
func (m xmlMetadata) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if len(m) == 0 {
		return nil
	}
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	for _, name := range sortedKeys(m) {
		if err := e.EncodeElement(m[name], xml.StartElement{Name: xml.Name{Local: name}}); err != nil {
			return err
		}
	}
	return e.EncodeToken(start.End())
}
