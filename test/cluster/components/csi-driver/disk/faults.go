package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Calls are the CSI calls that faults can be set for.
var Calls = []string{
	"CreateVolume", "DeleteVolume", "CreateSnapshot", "DeleteSnapshot", "ListSnapshots",
	"NodeStageVolume", "NodeUnstageVolume", "NodePublishVolume", "NodeUnpublishVolume",
}

// Fault is what happens to one kind of call before the driver does anything for it.
type Fault struct {
	Delay   Duration   `json:"delay,omitzero"`   // each call waits that long first
	Fail    int        `json:"fail,omitzero"`    // so many calls fail, each takes one off; negative: all of them
	Code    codes.Code `json:"code,omitzero"`    // with this gRPC code, Internal when not set
	Message string     `json:"message,omitzero"` // and this message
}

// Duration is a time.Duration that is a string such as "2s" in JSON.
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads, except that it must not be negative.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return err
	}
	if v < 0 {
		return fmt.Errorf("duration %s is negative", b)
	}
	*d = Duration(v)
	return nil
}

// ParseCode reads a gRPC status code by its name as in "ResourceExhausted".
func ParseCode(name string) (codes.Code, error) {
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		if c.String() == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("%q is not a gRPC code; they are written as in Internal, Unavailable, ResourceExhausted", name)
}

// faultJSON is the file's form of a Fault: the code by its name.
type faultJSON struct {
	Delay   Duration `json:"delay,omitzero"`
	Fail    int      `json:"fail,omitzero"`
	Code    string   `json:"code,omitzero"`
	Message string   `json:"message,omitzero"`
}

// MarshalJSON writes the code by its name.
func (f Fault) MarshalJSON() ([]byte, error) {
	out := faultJSON{Delay: f.Delay, Fail: f.Fail, Message: f.Message}
	if f.Code != codes.OK {
		out.Code = f.Code.String()
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *Fault) UnmarshalJSON(b []byte) error {
	var in faultJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*f = Fault{Delay: in.Delay, Fail: in.Fail, Message: in.Message}
	if in.Code == "" {
		return nil
	}
	code, err := ParseCode(in.Code)
	f.Code = code
	return err
}

// ParseFaults reads the contents of a faults file: a JSON object with a Fault for each name of a call.
func ParseFaults(b []byte) (map[string]Fault, error) {
	faults := map[string]Fault{}
	if len(b) == 0 {
		return faults, nil
	}
	if err := json.Unmarshal(b, &faults); err != nil {
		return nil, err
	}
	for call := range faults {
		if !slices.Contains(Calls, call) {
			return nil, fmt.Errorf("there is no call %s; the calls are %v", strconv.Quote(call), Calls)
		}
	}
	return faults, nil
}

// EditFaults changes the faults in file under its lock; a running driver sees the change at its next call. A file that
// is not there holds no faults.
func EditFaults(file string, edit func(map[string]Fault)) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", file, err)
	}
	before, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	faults, err := ParseFaults(before)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	edit(faults)
	after, err := json.MarshalIndent(faults, "", "  ")
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(after, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(after)))
}

// take says what is to happen to one call and takes a counted failure off. It is pure.
func take(faults map[string]Fault, call string) (f Fault, fails bool) {
	f = faults[call]
	if f.Fail == 0 {
		return f, false
	}
	if f.Fail < 0 {
		return f, true
	}
	left := f
	left.Fail--
	faults[call] = left
	if left.Fail == 0 && left.Delay == 0 {
		delete(faults, call)
	}
	return f, true
}

// Inject delays and fails calls as the file says at the time of each call. An unreadable file fails every call, so that
// a test cannot pass because its fault was mistyped.
func Inject(file string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		call := path.Base(info.FullMethod)
		if !slices.Contains(Calls, call) {
			return next(ctx, request)
		}
		f, fails, err := takeFrom(file, call)
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		select {
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-time.After(time.Duration(f.Delay)):
		}
		if !fails {
			return next(ctx, request)
		}
		if f.Code == codes.OK {
			f.Code = codes.Internal
		}
		if f.Message == "" {
			f.Message = call + " failed because the test wants it"
		}
		return nil, status.Error(f.Code, f.Message)
	}
}

func takeFrom(file, call string) (f Fault, fails bool, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(b) == 0 {
		return Fault{}, false, nil
	}
	if err != nil {
		return Fault{}, false, err
	}
	err = EditFaults(file, func(faults map[string]Fault) { f, fails = take(faults, call) })
	return f, fails, err
}
