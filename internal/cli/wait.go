package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/client"
)

var waitArgs = []Arg{
	{Names: "--created", Kind: Flag, Help: "Until its provisioningState is Succeeded."},
	{Names: "--updated", Kind: Flag, Help: "Until its provisioningState is Succeeded."},
	{Names: "--deleted", Kind: Flag, Help: "Until it is gone."},
	{Names: "--exists", Kind: Flag, Help: "Until it is there."},
	{Names: "--custom", Help: "Until this JMESPath query on it is true: properties.currentProtectionState=='ProtectionConfigured'."},
	{Names: "--interval", Help: "Seconds between two looks. Default: 30."},
	{Names: "--timeout", Help: "Give up after so many seconds. Default: 3600."},
}

// waitFor looks at the command's resource until it is as the options say. A resource that has failed is not waited for.
func waitFor(version string) handler {
	return func(ctx context.Context, in *Input) (any, error) {
		reached, err := in.condition()
		if err != nil {
			return nil, err
		}
		interval, err := in.seconds("interval", 30)
		if err != nil {
			return nil, err
		}
		timeout, err := in.seconds("timeout", 3600)
		if err != nil {
			return nil, err
		}
		id, err := in.id(ctx)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("Wait operation timed-out after %s", timeout))
		defer cancel()
		for {
			resource, err := in.get(ctx, id, version)
			if err != nil && !client.NotFound(err) {
				return nil, err
			}
			if done, err := reached(resource); done || err != nil {
				return nil, err
			}
			in.progress.step("Waiting for "+lastSegment(id), provisioning(resource))
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(interval):
			}
		}
	}
}

func provisioning(resource any) string {
	if state := text(resource, "properties", "provisioningState"); state != "" {
		return state
	}
	return text(resource, "provisioningState")
}

// condition is what the options ask of a resource, which is nil when it is not there.
func (in *Input) condition() (func(resource any) (bool, error), error) {
	switch {
	case in.Flag("deleted"):
		return func(r any) (bool, error) { return r == nil, nil }, nil
	case in.Flag("exists"):
		return func(r any) (bool, error) { return r != nil, nil }, nil
	case in.Flag("created"), in.Flag("updated"):
		return func(r any) (bool, error) {
			state := strings.ToLower(provisioning(r))
			if state == "failed" {
				return false, fmt.Errorf("The operation failed: provisioningState is Failed")
			}
			return state == "succeeded", nil
		}, nil
	case in.Has("custom"):
		q, err := compileQuery(in.Text("custom"))
		if err != nil {
			return nil, usagef("argument --custom: invalid jmespath_type value: '%s': %s", in.Text("custom"), err)
		}
		return func(r any) (bool, error) {
			answer, err := q.search(r)
			return truth(answer), err
		}, nil
	}
	return nil, usagef("--created | --updated | --deleted | --exists | --custom JMESPATH")
}

// truth is what JMESPath takes for true.
func truth(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}
