package bundle

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// Opener is what a Reader needs of storage.
type Opener interface {
	// Open returns the content of a blob; an error for which errors.Is(err, fs.ErrNotExist) holds says that there is none.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// maxCommit bounds the commit object: a few hundred bytes per kind, and a cluster has some hundreds of kinds.
const maxCommit = 16 << 20

// maxWindow bounds the memory of a decompression, whatever the file's header demands.
const maxWindow = 8 << 20

// Reader reads the files of one recovery point. Its methods may be called by many goroutines.
type Reader struct {
	store    Opener
	folder   string
	identity *age.X25519Identity
	rp       RecoveryPoint
}

// ReadRecoveryPoint reads the commit object, for which no key is needed. The error is ErrNoCommit if there is none.
func ReadRecoveryPoint(ctx context.Context, store Opener, prefix, id string) (RecoveryPoint, error) {
	name := CommitName(prefix, id)
	body, err := store.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return RecoveryPoint{}, fmt.Errorf("recovery point %s: %w", id, ErrNoCommit)
	}
	if err != nil {
		return RecoveryPoint{}, fmt.Errorf("open %s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(body, maxCommit+1))
	if err := errors.Join(err, body.Close()); err != nil {
		return RecoveryPoint{}, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxCommit {
		return RecoveryPoint{}, fmt.Errorf("%s is longer than %d bytes", name, maxCommit)
	}
	rp, err := ParseRecoveryPoint(data)
	if err != nil {
		return RecoveryPoint{}, fmt.Errorf("%s: %w", name, err)
	}
	if rp.ID != id {
		return RecoveryPoint{}, fmt.Errorf("%s is the commit object of another recovery point, %s", name, rp.ID)
	}
	return rp, nil
}

// NewReader reads the commit object and returns a Reader of the recovery point's files. The identity is the age X25519
// private key ("AGE-SECRET-KEY-1…") that belongs to the recovery point's recipient.
func NewReader(ctx context.Context, store Opener, prefix, id, identity string) (*Reader, error) {
	key, err := age.ParseX25519Identity(identity)
	if err != nil {
		// The parser's message could show a part of the key.
		return nil, fmt.Errorf("recovery point %s: the identity is not an age X25519 private key", id)
	}
	rp, err := ReadRecoveryPoint(ctx, store, prefix, id)
	if err != nil {
		return nil, err
	}
	if got := key.Recipient().String(); got != rp.Recipient {
		return nil, fmt.Errorf("recovery point %s is encrypted to %s, and the identity given is that of %s", id, rp.Recipient, got)
	}
	return &Reader{store: store, folder: Folder(prefix, id), identity: key, rp: rp}, nil
}

// RecoveryPoint returns the commit object.
func (r *Reader) RecoveryPoint() RecoveryPoint { return r.rp }

// Objects gives the objects of a kind, one JSON document each, in the order of the API server (namespace, name). The
// documents are the caller's to keep. An error ends the sequence; only when the sequence has ended without one has the
// file's hash been found right, so a caller that cannot undo its work reads the file twice.
func (r *Reader) Objects(ctx context.Context, kind Kind) iter.Seq2[json.RawMessage, error] {
	return r.lines(ctx, kind.File)
}

// Volumes gives the volumes that have a snapshot.
func (r *Reader) Volumes(ctx context.Context) iter.Seq2[Volume, error] {
	return decoded[Volume](r.lines(ctx, r.rp.Volumes))
}

// Report gives the report's outcomes.
func (r *Reader) Report(ctx context.Context) iter.Seq2[Outcome, error] {
	return decoded[Outcome](r.lines(ctx, r.rp.Report))
}

func decoded[T any](lines iter.Seq2[json.RawMessage, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for line, err := range lines {
			var v T
			if err == nil {
				err = json.Unmarshal(line, &v)
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// lines gives the lines of a file and checks it against the commit object.
func (r *Reader) lines(ctx context.Context, name string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		fail := func(err error) { yield(nil, fmt.Errorf("%s%s: %w", r.folder, name, err)) }
		file, found := r.file(name)
		if !found {
			fail(errors.New("the commit object lists no such file"))
			return
		}
		body, err := r.store.Open(ctx, r.folder+name)
		if err != nil {
			fail(err)
			return
		}
		// Reading is over when the body is closed; an error of closing could tell nothing more.
		defer func() { _ = body.Close() }()

		stored := &verifier{r: body, sum: sha256.New()}
		var count int64
		for line, err := range unpackedLines(stored, r.identity) {
			if err != nil {
				fail(err)
				return
			}
			if count++; count > file.Lines {
				fail(fmt.Errorf("more lines than the %d of the commit object", file.Lines))
				return
			}
			if !yield(line, nil) {
				return
			}
		}
		if count != file.Lines {
			fail(fmt.Errorf("%d lines, and the commit object says %d", count, file.Lines))
			return
		}
		if err := stored.check(file); err != nil {
			fail(err)
		}
	}
}

func (r *Reader) file(name string) (File, bool) {
	for _, f := range r.rp.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// verifier counts and hashes what is read through it.
type verifier struct {
	r    io.Reader
	size int64
	sum  interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.size += int64(n)
	// A hash never fails to take bytes.
	_, _ = v.sum.Write(p[:n])
	return n, err
}

// check reads what may be left and compares with what the commit object says.
func (v *verifier) check(file File) error {
	if _, err := io.Copy(io.Discard, io.LimitReader(v, file.Size-v.size+1)); err != nil {
		return err
	}
	if v.size != file.Size {
		return fmt.Errorf("size differs from the %d bytes of the commit object", file.Size)
	}
	if got := hex.EncodeToString(v.sum.Sum(nil)); got != file.SHA256 {
		return fmt.Errorf("SHA-256 is %s, and the commit object says %s: the file has been changed or damaged", got, file.SHA256)
	}
	return nil
}

// unpackedLines decrypts, decompresses and splits a stored file.
func unpackedLines(stored io.Reader, identity age.Identity) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		opened, err := age.Decrypt(stored, identity)
		if err != nil {
			yield(nil, err)
			return
		}
		plain, err := zstd.NewReader(opened, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			yield(nil, err)
			return
		}
		defer plain.Close()
		splitLines(plain, MaxLine)(yield)
	}
}

// splitLines gives the lines of r, each of which must be one JSON document and end with a newline.
func splitLines(r io.Reader, limit int) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		for {
			line, err := readLine(in, limit)
			if err == io.EOF && len(line) == 0 {
				return
			}
			if err == io.EOF {
				err = fmt.Errorf("the last line does not end: %w", io.ErrUnexpectedEOF)
			}
			if err == nil && !json.Valid(line) {
				err = errors.New("a line is not a JSON document")
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

// readLine returns the next line without its newline, in memory of its own.
func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > limit+1 {
			return nil, fmt.Errorf("a line is longer than %d bytes", limit)
		}
		if err != bufio.ErrBufferFull {
			return bytes.TrimSuffix(line, []byte("\n")), err
		}
	}
}
