package blobserver

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io/fs"
	"net/http"
	"strings"
)

type blobList struct {
	XMLName         xml.Name `xml:"EnumerationResults"`
	ServiceEndpoint string   `xml:",attr"`
	ContainerName   string   `xml:",attr"`
	Prefix          string
	Marker          string
	MaxResults      int
	Delimiter       string
	Blobs           struct {
		Blob       []blobItem
		BlobPrefix []blobPrefix
	}
	NextMarker string
}

type blobPrefix struct{ Name string }

type blobItem struct {
	Name       string
	Properties blobItemProperties
	Metadata   xmlMetadata `xml:",omitempty"`
}

type blobItemProperties struct {
	CreationTime       string `xml:"Creation-Time"`
	LastModified       string `xml:"Last-Modified"`
	ETag               string `xml:"Etag"`
	ContentLength      int64  `xml:"Content-Length"`
	ContentType        string `xml:"Content-Type"`
	ContentEncoding    string `xml:"Content-Encoding"`
	ContentLanguage    string `xml:"Content-Language"`
	ContentMD5         string `xml:"Content-MD5"`
	ContentDisposition string `xml:"Content-Disposition"`
	CacheControl       string `xml:"Cache-Control"`
	BlobType           string
	LeaseStatus        string
	LeaseState         string
	ServerEncrypted    bool
}

// errPageFull ends a walk.
var errPageFull = errors.New("page is full")

// listBlobs answers one page in the order of names. It keeps one page and, for each folder on the way, a batch of names in memory.
func (s *Server) listBlobs(c *call) error {
	limit, err := maxResults(c.query.Get("maxresults"))
	if err != nil {
		return err
	}
	marker := c.query.Get("marker")
	from, err := base64.RawURLEncoding.DecodeString(marker)
	if err != nil {
		return errQuery("marker", marker)
	}
	if _, err := s.disk.container(c.place); err != nil {
		return err
	}
	page := &page{
		limit:    limit,
		metadata: strings.Contains(c.query.Get("include"), "metadata"),
		list: blobList{
			ServiceEndpoint: endpoint(c), ContainerName: c.container, MaxResults: limit, Marker: marker,
			Prefix: c.query.Get("prefix"), Delimiter: c.query.Get("delimiter"),
		},
	}
	if err := s.disk.fill(c.place, page, string(from)); err != nil {
		return err
	}
	return writeXML(c.w, http.StatusOK, page.list)
}

// page gathers entries of a listing until it is full.
type page struct {
	list     blobList
	limit    int
	count    int
	metadata bool
}

// fill walks from a start position on. After each common prefix it starts again past all names that the prefix stands for.
func (d *disk) fill(p place, page *page, from string) error {
	path, base := encodeFolder(page.list.Prefix)
	dir := d.blobsDir(p)
	if path != "" {
		dir += "/" + path
	}
	for {
		w := walker{from: from, prefix: page.list.Prefix}
		jump := ""
		w.visit = func(name, path string) error {
			common, isPrefix := page.commonPrefix(name)
			if page.count == page.limit {
				page.list.NextMarker = base64.RawURLEncoding.EncodeToString([]byte(name))
				return errPageFull
			}
			if isPrefix {
				page.list.Blobs.BlobPrefix = append(page.list.Blobs.BlobPrefix, blobPrefix{common})
				page.count++
				jump = common + pastPrefix
				return errPageFull
			}
			return page.add(name, path)
		}
		err := w.walk(dir, base)
		if err != nil && err != errPageFull {
			return err
		}
		if jump == "" {
			return nil
		}
		from = jump
	}
}

// commonPrefix is the part of a name up to the first delimiter after the prefix asked for.
func (p *page) commonPrefix(name string) (string, bool) {
	if p.list.Delimiter == "" {
		return "", false
	}
	rest := name[len(p.list.Prefix):]
	i := strings.Index(rest, p.list.Delimiter)
	if i < 0 {
		return "", false
	}
	return p.list.Prefix + rest[:i+len(p.list.Delimiter)], true
}

func (p *page) add(name, path string) error {
	b, err := openBlob(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	item := blobItem{Name: name, Properties: blobItemProperties{
		CreationTime:       b.Modified.Format(http.TimeFormat),
		LastModified:       b.Modified.Format(http.TimeFormat),
		ETag:               b.ETag,
		ContentLength:      b.Size,
		ContentType:        b.ContentType,
		ContentEncoding:    b.ContentEncoding,
		ContentLanguage:    b.ContentLanguage,
		ContentMD5:         base64.StdEncoding.EncodeToString(b.ContentMD5),
		ContentDisposition: b.ContentDisposition,
		CacheControl:       b.CacheControl,
		BlobType:           "BlockBlob",
		LeaseStatus:        "unlocked",
		LeaseState:         "available",
	}}
	if p.metadata {
		item.Metadata = b.Metadata
	}
	p.list.Blobs.Blob = append(p.list.Blobs.Blob, item)
	p.count++
	return nil
}
