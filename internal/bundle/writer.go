package bundle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// Creator is what a Writer needs of storage.
type Creator interface {
	// Create stores what r gives under the name, and fails if there is such a blob already. A blob whose reader failed
	// must not come into being.
	Create(ctx context.Context, name string, r io.Reader) error
}

// window is the compression's window: large enough that neighbouring objects of a kind share it, small enough that many
// files can be written at once.
const window = 1 << 20

// Writer writes the files of one attempt at a recovery point. Its methods may be called by many goroutines.
type Writer struct {
	store     Creator
	prefix    string
	id        string
	attempt   int32
	recipient *age.X25519Recipient
	encoders  sync.Pool
	stored    atomic.Int64

	mu    sync.Mutex
	files []File
	kinds []Kind
}

// NewWriter returns a Writer into the folder prefix + id + "/a<attempt>/", encrypting to the recipient ("age1…").
func NewWriter(store Creator, prefix, id string, attempt int32, recipient string) (*Writer, error) {
	if !idPattern.MatchString(id) {
		return nil, fmt.Errorf("recovery point ID %q is not 32 lower-case hexadecimal digits", id)
	}
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("recipient %q of recovery point %s: %w", recipient, id, err)
	}
	return &Writer{store: store, prefix: prefix, id: id, attempt: attempt, recipient: to}, nil
}

// Stored returns the number of bytes handed to storage so far.
func (w *Writer) Stored() int64 { return w.stored.Load() }

// Kind begins the file of a kind. Nothing is stored if no line is written to it. The kind's Objects and File are filled in
// by the Writer.
func (w *Writer) Kind(ctx context.Context, kind Kind) *Lines {
	group := cmp.Or(kind.Group(), "core")
	name := fmt.Sprintf("resources/%s.%s.%s", kind.Plural, group, kind.Version())
	l := w.lines(ctx, name)
	l.done = func(f File) {
		kind.File, kind.Objects, kind.Live = f.Name, f.Lines, kind.Live || l.live
		w.kinds = append(w.kinds, kind)
	}
	return l
}

// Volumes writes the volumes file.
func (w *Writer) Volumes(ctx context.Context, volumes []Volume) error {
	return writeAll(w.lines(ctx, "volumes"), volumes)
}

// Report writes the report file.
func (w *Writer) Report(ctx context.Context, outcomes []Outcome) error {
	return writeAll(w.lines(ctx, "report"), outcomes)
}

// writeAll writes one line per value, and an empty file if there is none.
func writeAll[T any](l *Lines, values []T) error {
	if err := l.open(); err != nil {
		return err
	}
	for _, v := range values {
		line, err := json.Marshal(v)
		if err != nil {
			l.Abort(err)
			return fmt.Errorf("%s: %w", l.name, err)
		}
		if err := l.Write(line); err != nil {
			l.Abort(err)
			return err
		}
	}
	return l.Close()
}

// Commit completes rp with what was written (ID, attempt, recipient, kinds, files, totals) and stores the commit object,
// which makes the recovery point exist. All files must be closed. It fails if there is a commit object already.
func (w *Writer) Commit(ctx context.Context, rp RecoveryPoint) (RecoveryPoint, error) {
	w.mu.Lock()
	rp.Files = slices.Clone(w.files)
	rp.Kinds = slices.Clone(w.kinds)
	w.mu.Unlock()
	slices.SortFunc(rp.Files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(rp.Kinds, func(a, b Kind) int { return cmp.Compare(a.File, b.File) })

	rp.FormatVersion, rp.ID, rp.Attempt, rp.Recipient = FormatVersion, w.id, w.attempt, w.recipient.String()
	rp.Volumes, rp.Report = w.fileName("volumes"), w.fileName("report")
	rp.Totals = totals(rp)
	if err := rp.check(); err != nil {
		return RecoveryPoint{}, fmt.Errorf("recovery point %s cannot be committed: %w", w.id, err)
	}
	data, err := json.MarshalIndent(rp, "", "  ")
	if err != nil {
		return RecoveryPoint{}, fmt.Errorf("commit object of %s: %w", w.id, err)
	}
	if err := w.store.Create(ctx, CommitName(w.prefix, w.id), bytes.NewReader(append(data, '\n'))); err != nil {
		return RecoveryPoint{}, fmt.Errorf("store the commit object of %s: %w", w.id, err)
	}
	return rp, nil
}

func totals(rp RecoveryPoint) Totals {
	var t Totals
	for _, k := range rp.Kinds {
		t.Objects += k.Objects
	}
	for _, f := range rp.Files {
		t.Bytes += f.Size
		t.PlainBytes += f.PlainSize
		if f.Name == rp.Volumes {
			t.Volumes = f.Lines
		}
	}
	return t
}

func (w *Writer) fileName(name string) string {
	return fmt.Sprintf("a%d/%s%s", w.attempt, name, suffix)
}

func (w *Writer) lines(ctx context.Context, name string) *Lines {
	return &Lines{w: w, ctx: ctx, name: w.fileName(name), done: func(File) {}}
}

// Lines writes one file, line by line. It belongs to one goroutine. Close or Abort must be called.
type Lines struct {
	w    *Writer
	ctx  context.Context // of the upload that runs beside the writing; ends with Close or Abort
	name string
	live bool
	done func(File) // called under the Writer's mutex when the file is stored

	pipe   *io.PipeWriter
	result chan error
	sum    hash.Hash
	sealed io.WriteCloser
	packed *zstd.Encoder
	file   File
}

// open starts the upload: zstd → age → hash → pipe → storage.
func (l *Lines) open() error {
	r, pipe := io.Pipe()
	l.pipe, l.sum, l.result = pipe, sha256.New(), make(chan error, 1)
	go func() {
		err := l.w.store.Create(l.ctx, Folder(l.w.prefix, l.w.id)+l.name, r)
		// The writer must not hang on a reader that has gone.
		r.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
		l.result <- err
	}()
	sealed, err := age.Encrypt(io.MultiWriter(pipe, l.sum, (*counter)(l)), l.w.recipient)
	if err != nil {
		return l.failed(err)
	}
	packed, err := l.w.encoder(sealed)
	if err != nil {
		return l.failed(err)
	}
	l.sealed, l.packed = sealed, packed
	return nil
}

// counter counts stored bytes.
type counter Lines

func (c *counter) Write(p []byte) (int, error) {
	c.file.Size += int64(len(p))
	c.w.stored.Add(int64(len(p)))
	return len(p), nil
}

func (w *Writer) encoder(dst io.Writer) (*zstd.Encoder, error) {
	if e, ok := w.encoders.Get().(*zstd.Encoder); ok {
		e.Reset(dst)
		return e, nil
	}
	return zstd.NewWriter(dst, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
}

// Write writes one JSON document as a line. Newlines in it, which JSON allows between tokens only, become spaces.
func (l *Lines) Write(document []byte) error {
	if len(document) > MaxLine {
		return fmt.Errorf("%s: a document of %d bytes is longer than a line may be (%d)", l.name, len(document), MaxLine)
	}
	if l.packed == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if bytes.IndexByte(document, '\n') >= 0 {
		document = bytes.ReplaceAll(document, []byte{'\n'}, []byte{' '})
	}
	for _, part := range [][]byte{document, {'\n'}} {
		if _, err := l.packed.Write(part); err != nil {
			return l.failed(err)
		}
	}
	l.file.Lines++
	l.file.PlainSize += int64(len(document)) + 1
	return nil
}

// MarkLive marks the kind as listed live; the writer may learn so only when it has read the list.
func (l *Lines) MarkLive() { l.live = true }

// Count returns the number of lines written.
func (l *Lines) Count() int64 { return l.file.Lines }

// Close ends the file and waits until it is stored. Only then is it part of the bundle.
func (l *Lines) Close() error {
	if l.packed == nil {
		return nil
	}
	if err := errors.Join(l.packed.Close(), l.sealed.Close()); err != nil {
		return l.failed(err)
	}
	l.w.encoders.Put(l.packed)
	l.packed = nil
	// Closing a pipe never fails.
	_ = l.pipe.Close()
	err := <-l.result
	l.result = nil
	if err != nil {
		return fmt.Errorf("store %s: %w", l.name, err)
	}
	l.file.Name, l.file.SHA256 = l.name, hex.EncodeToString(l.sum.Sum(nil))
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.files = append(l.w.files, l.file)
	l.done(l.file)
	return nil
}

// Abort gives the file up: nothing is stored under its name. It may be called after a failed Write or Close.
func (l *Lines) Abort(cause error) {
	if l.result == nil {
		return
	}
	l.packed = nil
	l.pipe.CloseWithError(cmp.Or(cause, io.ErrUnexpectedEOF))
	<-l.result
	l.result = nil
}

// failed returns the cause of a write that failed: storage's answer where there is one, since the pipe only echoes it.
func (l *Lines) failed(err error) error {
	l.pipe.CloseWithError(err)
	if stored := <-l.result; stored != nil {
		err = stored
	}
	l.result, l.packed = nil, nil
	return fmt.Errorf("store %s: %w", l.name, err)
}
