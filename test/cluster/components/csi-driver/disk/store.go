package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Record is a disk or a snapshot as the emulated cloud has it: a JSON file beside the raw image.
type Record struct {
	ID      string            `json:"id"`               // the handle that Kubernetes sees, in Azure's form
	Name    string            `json:"name"`             // the last segment of ID and the name of the files
	Bytes   int64             `json:"bytes"`            // the disk's size
	Source  string            `json:"source,omitempty"` // of a disk: the snapshot or disk it was copied from; of a snapshot: its disk
	Created time.Time         `json:"created"`
	Tags    map[string]string `json:"tags,omitempty"` // for whom it was made, as the real driver tags it
}

// folder holds the records and images of one kind.
type folder string

func (f folder) image(name string) string  { return filepath.Join(string(f), name+".img") }
func (f folder) record(name string) string { return filepath.Join(string(f), name+".json") }

// get is the record with the ID, or an error that is fs.ErrNotExist. Azure's IDs do not depend on case.
func (f folder) get(id string) (Record, error) {
	name := nameOf(id)
	if !validName(name) {
		return Record{}, fmt.Errorf("%q: %w", id, fs.ErrNotExist)
	}
	r, err := readRecord(f.record(name))
	if err == nil && !strings.EqualFold(r.ID, id) {
		return Record{}, fmt.Errorf("%s: %w", id, fs.ErrNotExist)
	}
	return r, err
}

func readRecord(file string) (Record, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// put writes the record. It comes after the image, so that whatever has a record is whole.
func (f folder) put(r Record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	unfinished := f.record(r.Name) + ".new"
	if err := os.WriteFile(unfinished, b, 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, f.record(r.Name))
}

// remove removes the record and then the image; what is not there is removed.
func (f folder) remove(name string) error {
	for _, file := range []string{f.record(name), f.image(name)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Records are the records of a folder in the order of their names; a folder that is not there has none.
func Records(dir string) ([]Record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	records := []Record{}
	for _, file := range files {
		r, err := readRecord(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

// nameOf is the part of an ID that names its files: the last segment of an Azure resource ID, the third field of an
// Azure file share's.
func nameOf(id string) string {
	if fields := strings.Split(id, "#"); len(fields) > 2 {
		return fields[2]
	}
	return path.Base(id)
}

// validName accepts what Azure accepts as a disk's name, so it is safe as a file's name.
func validName(name string) bool {
	if name == "" || len(name) > 200 || name[0] == '.' {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}) < 0
}

// clone makes the file dst an instant copy of src that shares its blocks until one of them is written. The kernel holds
// the inode's lock meanwhile, so the copy is of one moment even while a pod writes: crash-consistent, as a snapshot of
// a cloud's disk is.
func clone(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd())); err != nil {
		return errors.Join(fmt.Errorf("share the blocks of %s: %w", src, err), out.Close())
	}
	return errors.Join(out.Sync(), out.Close())
}
