package blobserver

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
)

// Azure's limits of block lists.
const (
	maxBlocks      = 50_000
	maxBlockID     = 64
	maxBlockListIn = 16 << 20
)

func (s *Server) putBlock(c *call) error {
	id, err := parseBlockID(c.query.Get("blockid"))
	if err != nil {
		return err
	}
	if c.r.ContentLength == 0 {
		return errHeader("Content-Length", "0")
	}
	if _, err := s.disk.container(c.place); err != nil {
		return err
	}
	file, err := s.disk.stage()
	if err != nil {
		return err
	}
	defer file.discard()
	body, err := receive(file, c.r, maxPutBlock)
	if err != nil {
		return err
	}
	if err := file.finish(); err != nil {
		return err
	}
	if err := s.disk.putBlock(c.place, c.blob, id, file); err != nil {
		return err
	}
	if c.r.Header.Get("Content-MD5") != "" {
		c.w.Header().Set("Content-MD5", base64.StdEncoding.EncodeToString(body.md5.Sum(nil)))
	}
	body.confirm(c.w.Header())
	c.w.Header().Set("x-ms-request-server-encrypted", "false")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

func parseBlockID(s string) ([]byte, error) {
	id, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(id) == 0 || len(id) > maxBlockID {
		return nil, errQuery("blockid", s)
	}
	return id, nil
}

// blockRef is one line of a Put Block List body: where to look for the block, and its ID.
type blockRef struct {
	from string // Committed, Uncommitted or Latest
	id   []byte
}

// parseBlockList reads a Put Block List body.
func parseBlockList(r io.Reader) ([]blockRef, error) {
	invalid := fail(http.StatusBadRequest, "InvalidXmlDocument",
		"The block list is not of the form <BlockList><Latest>id</Latest>...</BlockList>.")
	dec := xml.NewDecoder(r)
	var refs []blockRef
	inside, ended := false, false
	for {
		token, err := dec.Token()
		if err == io.EOF && ended {
			return refs, nil
		}
		if err != nil {
			invalid.err = err
			return nil, invalid
		}
		switch element := token.(type) {
		case xml.StartElement:
			name := element.Name.Local
			if !inside {
				if name != "BlockList" || ended {
					return nil, invalid
				}
				inside = true
				continue
			}
			var text string
			if err := dec.DecodeElement(&text, &element); err != nil {
				invalid.err = err
				return nil, invalid
			}
			id, err := parseBlockID(strings.TrimSpace(text))
			if err != nil || (name != "Latest" && name != "Committed" && name != "Uncommitted") {
				return nil, invalid
			}
			if refs = append(refs, blockRef{name, id}); len(refs) > maxBlocks {
				return nil, fail(http.StatusBadRequest, "BlockListTooLong", "The block list may not contain more than 50,000 blocks.")
			}
		case xml.EndElement:
			inside, ended = false, true
		}
	}
}

func (s *Server) putBlockList(c *call) error {
	cond, props, err := writeRequest(c)
	if err != nil {
		return err
	}
	if sum := c.r.Header.Get("x-ms-blob-content-md5"); sum != "" {
		if props.ContentMD5, err = base64.StdEncoding.DecodeString(sum); err != nil || len(props.ContentMD5) != 16 {
			return fail(http.StatusBadRequest, "InvalidMd5", "The header x-ms-blob-content-md5 is not the base64 of 16 bytes.")
		}
	}
	var text strings.Builder
	if _, err := receive(&text, c.r, maxBlockListIn); err != nil {
		return err
	}
	refs, err := parseBlockList(strings.NewReader(text.String()))
	if err != nil {
		return err
	}
	old, err := s.disk.peek(c.place, c.blob)
	if err == nil {
		err = cond.forWrite(old)
	}
	if err != nil {
		return err
	}
	file, err := s.disk.stage()
	if err != nil {
		return err
	}
	defer file.discard()
	blocks, source, err := s.disk.assemble(file, c.place, c.blob, refs)
	if err != nil {
		return s.lostRace(c, cond, err)
	}
	for _, b := range blocks {
		props.Size += b.Size
	}
	return s.commitBlob(c, file, props, blocks, func(old *properties) error {
		if err := cond.forWrite(old); err != nil {
			return err
		}
		if source != "" && (old == nil || old.ETag != source) {
			return errInvalidBlockList() // the committed blocks named were replaced meanwhile
		}
		return nil
	})
}

// lostRace explains missing blocks: another writer's commit drops all uncommitted ones, and then the condition tells why.
func (s *Server) lostRace(c *call, cond conditions, cause error) error {
	if api, ok := errors.AsType[*apiError](cause); !ok || api.code != "InvalidBlockList" {
		return cause
	}
	old, err := s.disk.peek(c.place, c.blob)
	if err != nil {
		return err
	}
	if err := cond.forWrite(old); err != nil {
		return err
	}
	return cause
}

// assemble copies the blocks named into file and returns what they are. source is the ETag of the blob whose committed
// blocks were used, empty if none were.
func (d *disk) assemble(file io.Writer, p place, name string, refs []blockRef) (blocks []block, source string, err error) {
	old, err := d.open(p, name)
	if api, ok := errors.AsType[*apiError](err); ok && api.code == "BlobNotFound" {
		old, err = nil, nil
	}
	if err != nil {
		return nil, "", err
	}
	var committed map[string]span
	if old != nil {
		defer old.Close()
		if committed, err = spans(old); err != nil {
			return nil, "", err
		}
	}
	for _, ref := range refs {
		size, err := int64(0), error(fs.ErrNotExist)
		if ref.from != "Committed" {
			size, err = d.copyBlock(file, p, name, ref.id)
		}
		if at, ok := committed[string(ref.id)]; errors.Is(err, fs.ErrNotExist) && ok && ref.from != "Uncommitted" {
			source = old.ETag
			size, err = io.Copy(file, old.content(at.offset, at.size))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, "", errInvalidBlockList()
		}
		if err != nil {
			return nil, "", err
		}
		blocks = append(blocks, block{ID: ref.id, Size: size})
	}
	return blocks, source, nil
}

// span is where a committed block lies in its blob.
type span struct{ offset, size int64 }

func spans(b *blobFile) (map[string]span, error) {
	blocks, err := b.blocks()
	if err != nil {
		return nil, err
	}
	at := make(map[string]span, len(blocks))
	offset := int64(0)
	for _, k := range blocks {
		at[string(k.ID)] = span{offset, k.Size}
		offset += k.Size
	}
	return at, nil
}

func (d *disk) copyBlock(w io.Writer, p place, name string, id []byte) (int64, error) {
	f, err := d.openBlock(p, name, id)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(w, f)
	return n, errors.Join(err, f.Close())
}

type blockList struct {
	XMLName     xml.Name    `xml:"BlockList"`
	Committed   *[]xmlBlock `xml:"CommittedBlocks>Block"`
	Uncommitted *[]xmlBlock `xml:"UncommittedBlocks>Block"`
}

type xmlBlock struct {
	Name string
	Size int64
}

func xmlBlocks(list []block) *[]xmlBlock {
	out := make([]xmlBlock, len(list))
	for i, b := range list {
		out[i] = xmlBlock{base64.StdEncoding.EncodeToString(b.ID), b.Size}
	}
	return &out
}

func (s *Server) getBlockList(c *call) error {
	which := c.query.Get("blocklisttype")
	if which == "" {
		which = "committed"
	}
	if which != "committed" && which != "uncommitted" && which != "all" {
		return errQuery("blocklisttype", which)
	}
	uncommitted, err := s.disk.uncommitted(c.place, c.blob)
	if err != nil {
		return err
	}
	var list blockList
	if which != "committed" {
		list.Uncommitted = xmlBlocks(uncommitted)
	}
	b, err := s.disk.open(c.place, c.blob)
	if api, ok := errors.AsType[*apiError](err); ok && api.code == "BlobNotFound" && len(uncommitted) > 0 {
		return writeXML(c.w, http.StatusOK, list) // a blob that has only uncommitted blocks has no ETag yet
	}
	if err != nil {
		return err
	}
	defer b.Close()
	if which != "uncommitted" {
		committed, err := b.blocks()
		if err != nil {
			return err
		}
		list.Committed = xmlBlocks(committed)
	}
	setVersionHeaders(c.w.Header(), b.ETag, b.Modified)
	return writeXML(c.w, http.StatusOK, list)
}
