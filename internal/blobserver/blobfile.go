package blobserver

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// A blob is one file, so that one rename makes it: the content, then its block list (JSON, may be empty), then its properties
// (JSON), then a trailer of the properties' length (8 bytes, big endian) and the magic. Content comes first so that a person
// with a shell can read it.
const (
	blobMagic     = "CAIRNB01"
	trailerLength = 8 + len(blobMagic)
	maxProperties = 1 << 20
)

// properties is what a blob is besides its content.
type properties struct {
	Size               int64             `json:"size"`
	BlocksLength       int64             `json:"blocksLength,omitempty"` // bytes of the JSON block list
	ETag               string            `json:"etag"`                   // without quotes
	Modified           time.Time         `json:"modified"`
	ContentType        string            `json:"contentType"`
	ContentEncoding    string            `json:"contentEncoding,omitempty"`
	ContentLanguage    string            `json:"contentLanguage,omitempty"`
	ContentDisposition string            `json:"contentDisposition,omitempty"`
	CacheControl       string            `json:"cacheControl,omitempty"`
	ContentMD5         []byte            `json:"contentMD5,omitempty"`
	Metadata           map[string]string `json:"metadata,omitempty"`
}

// block is one committed or uncommitted block of a blob.
type block struct {
	ID   []byte `json:"id"`
	Size int64  `json:"size"`
}

// blobFile is an open blob; it stays readable after the blob was deleted or replaced.
type blobFile struct {
	*os.File
	properties
}

// content returns a reader of n bytes of the content from offset on.
func (b *blobFile) content(offset, n int64) io.Reader { return io.NewSectionReader(b.File, offset, n) }

// blocks reads the committed block list.
func (b *blobFile) blocks() ([]block, error) {
	if b.BlocksLength == 0 {
		return nil, nil
	}
	var list []block
	if err := json.NewDecoder(b.content(b.Size, b.BlocksLength)).Decode(&list); err != nil {
		return nil, fmt.Errorf("block list of blob file %s: %w", b.Name(), err)
	}
	return list, nil
}

// openBlob opens a blob file and reads its properties. The error is fs.ErrNotExist when there is none.
func openBlob(path string) (*blobFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	props, err := readProperties(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("blob file %s is damaged: %w", path, err), f.Close())
	}
	return &blobFile{File: f, properties: props}, nil
}

func readProperties(f *os.File) (properties, error) {
	info, err := f.Stat()
	if err != nil {
		return properties{}, err
	}
	var trailer [trailerLength]byte
	end := info.Size() - int64(trailerLength)
	if end < 0 {
		return properties{}, errors.New("shorter than its trailer")
	}
	if _, err := f.ReadAt(trailer[:], end); err != nil {
		return properties{}, err
	}
	length := binary.BigEndian.Uint64(trailer[:8])
	if string(trailer[8:]) != blobMagic || length > maxProperties || int64(length) > end {
		return properties{}, errors.New("no valid trailer")
	}
	raw := make([]byte, length)
	if _, err := f.ReadAt(raw, end-int64(length)); err != nil {
		return properties{}, err
	}
	var p properties
	if err := json.Unmarshal(raw, &p); err != nil {
		return properties{}, err
	}
	if p.Size+p.BlocksLength != end-int64(length) {
		return properties{}, fmt.Errorf("content has %d bytes, want %d", end-int64(length)-p.BlocksLength, p.Size)
	}
	return p, nil
}

// writeTail ends a file that holds the content: block list, properties, trailer.
func writeTail(f io.Writer, p properties, blocks []block) error {
	if len(blocks) > 0 {
		raw, err := json.Marshal(blocks)
		if err != nil {
			return err
		}
		p.BlocksLength = int64(len(raw))
		if _, err := f.Write(raw); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	raw = binary.BigEndian.AppendUint64(raw, uint64(len(raw)))
	_, err = f.Write(append(raw, blobMagic...))
	return err
}
