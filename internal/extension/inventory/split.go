package inventory

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// listMeta is what a page says about itself.
type listMeta struct {
	ResourceVersion string `json:"resourceVersion"`
	Continue        string `json:"continue"`
}

// errStopped wraps what the receiver of the items answered, so that a list that broke off and a receiver that broke off are told apart.
type errStopped struct{ cause error }

func (e errStopped) Error() string { return e.cause.Error() }
func (e errStopped) Unwrap() error { return e.cause }

// splitList reads a list as an API server writes it, hands each item's bytes to emit, and returns the list's metadata, wherever in the
// list it stands. It holds one item at a time, of at most limit bytes; the bytes are valid until emit returns. Every item is a valid JSON
// object; the list around the items is checked as strictly.
func splitList(r io.Reader, limit int, emit func(item []byte) error) (listMeta, error) {
	s := &splitter{in: bufio.NewReaderSize(r, 64<<10), limit: limit}
	var meta listMeta
	seen := map[string]bool{}
	err := s.object(func(key string) error {
		if seen[key] && (key == "items" || key == "metadata") {
			return fmt.Errorf("%q is there twice", key)
		}
		seen[key] = true
		switch key {
		case "items":
			return s.items(emit)
		case "metadata":
			raw, err := s.value()
			if err != nil {
				return err
			}
			return json.Unmarshal(raw, &meta)
		default:
			_, err := s.value()
			return err
		}
	})
	if err != nil {
		return listMeta{}, err
	}
	if !seen["items"] || !seen["metadata"] {
		return listMeta{}, errors.New("the server's answer is not a list: it has no items or no metadata")
	}
	if c, err := s.next(); err != io.EOF {
		return listMeta{}, fmt.Errorf("%q after the end of the list: %w", c, err)
	}
	return meta, nil
}

// splitter reads JSON values whose ends it finds by counting brackets outside of strings.
type splitter struct {
	in    *bufio.Reader
	limit int
	buf   []byte
}

// next returns the next byte that is not white space.
func (s *splitter) next() (byte, error) {
	for {
		c, err := s.in.ReadByte()
		if err != nil {
			return 0, err
		}
		switch c {
		case ' ', '\t', '\r', '\n':
		default:
			return c, nil
		}
	}
}

// want reads the next byte that is not white space, which must be one of those given.
func (s *splitter) want(any string) (byte, error) {
	c, err := s.next()
	if err == io.EOF {
		return 0, io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, err
	}
	if bytes.IndexByte([]byte(any), c) < 0 {
		return 0, fmt.Errorf("%q where one of %q should be", c, any)
	}
	return c, nil
}

// object reads an object; member must read the value of the key it is given.
func (s *splitter) object(member func(key string) error) error {
	if _, err := s.want("{"); err != nil {
		return err
	}
	c, err := s.want("\"}")
	for ; err == nil && c != '}'; c, err = s.want("\"") {
		if err := s.in.UnreadByte(); err != nil {
			return err
		}
		raw, err := s.value()
		if err != nil {
			return err
		}
		var key string
		if err := json.Unmarshal(raw, &key); err != nil {
			return err
		}
		if _, err := s.want(":"); err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
		if c, err := s.want(",}"); err != nil || c == '}' {
			return err
		}
	}
	return err
}

// items reads an array of objects, or null, which some servers write for an empty one.
func (s *splitter) items(emit func([]byte) error) error {
	c, err := s.want("[n")
	if err != nil {
		return err
	}
	if c == 'n' {
		if err := s.in.UnreadByte(); err != nil {
			return err
		}
		_, err := s.value()
		return err
	}
	for c, err = s.want("{]"); err == nil && c != ']'; c, err = s.want("{") {
		if err := s.in.UnreadByte(); err != nil {
			return err
		}
		item, err := s.value()
		if err != nil {
			return err
		}
		if err := emit(item); err != nil {
			return errStopped{err}
		}
		if c, err := s.want(",]"); err != nil || c == ']' {
			return err
		}
	}
	return err
}

// value reads one JSON value. The bytes are valid until the next call.
func (s *splitter) value() ([]byte, error) {
	c, err := s.next()
	if err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	s.buf = append(s.buf[:0], c)
	switch c {
	case '{', '[':
		err = s.nested()
	case '"':
		err = s.quoted()
	default:
		err = s.scalar()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if !json.Valid(s.buf) {
		return nil, errors.New("an item is not valid JSON")
	}
	return s.buf, nil
}

// nested reads up to the bracket that closes the one just read. Whether brackets match is json.Valid's business.
func (s *splitter) nested() error {
	depth, quoted, escaped := 1, false, false
	for {
		window, err := s.window()
		if err != nil {
			return err
		}
		for i, c := range window {
			switch {
			case escaped:
				escaped = false
			case quoted:
				escaped, quoted = c == '\\', c != '"'
			case c == '"':
				quoted = true
			case c == '{' || c == '[':
				depth++
			case c == '}' || c == ']':
				if depth--; depth == 0 {
					return s.take(window[:i+1])
				}
			}
		}
		if err := s.take(window); err != nil {
			return err
		}
	}
}

// quoted reads up to the end of the string just begun.
func (s *splitter) quoted() error {
	escaped := false
	for {
		c, err := s.in.ReadByte()
		if err != nil {
			return err
		}
		if s.buf = append(s.buf, c); len(s.buf) > s.limit {
			return s.tooLong()
		}
		if c == '"' && !escaped {
			return nil
		}
		escaped = c == '\\' && !escaped
	}
}

// scalar reads a number, true, false or null.
func (s *splitter) scalar() error {
	for {
		c, err := s.in.ReadByte()
		if err != nil {
			return err
		}
		switch c {
		case ',', '}', ']', ':', ' ', '\t', '\r', '\n':
			return s.in.UnreadByte()
		}
		if s.buf = append(s.buf, c); len(s.buf) > s.limit {
			return s.tooLong()
		}
	}
}

// window returns what is buffered, and reads if nothing is.
func (s *splitter) window() ([]byte, error) {
	if _, err := s.in.Peek(1); err != nil {
		return nil, err
	}
	return s.in.Peek(s.in.Buffered())
}

// take moves bytes from the window to the value.
func (s *splitter) take(window []byte) error {
	if len(s.buf)+len(window) > s.limit {
		return s.tooLong()
	}
	s.buf = append(s.buf, window...)
	_, err := s.in.Discard(len(window))
	return err
}

func (s *splitter) tooLong() error {
	return fmt.Errorf("an item is longer than %d bytes", s.limit)
}
