// Package backup is the vocabulary of the Backup service: vaults, policies, instances, jobs, recovery points and the
// requests for them, each in one form that is the domain's, the wire's and the stored one at once.
//
// The types read leniently (any letter case of a key, snake_case, what the common guides write) and write Azure's exact
// keys, with explicit nulls where Azure sends them. Complete fills in what a lenient document left out, Validate names
// everything that is wrong. Nothing here does I/O or looks at the clock; what needs the state of other resources is
// checked by package service.
package backup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// ClusterType is the resource type of the one kind of datasource there is.
const ClusterType = "Microsoft.ContainerService/managedClusters"

// The data stores. Only the operational one is served.
const (
	OperationalStore = "OperationalStore"
	VaultStore       = "VaultStore"
	ArchiveStore     = "ArchiveStore"
)

// CodeNotSupported is the code of a request for something that Azure has and Cairn has not.
const CodeNotSupported = "UserErrorFeatureNotSupported"

// Decode reads a document into v. Keys may be in any letter case, and in snake_case as the az CLI's own files have
// them. The errors are *arm.Error.
func Decode(body []byte, v any) error {
	if bytes.IndexByte(body, '_') < 0 {
		return arm.Decode(body, v)
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil || d.More() {
		return arm.Decode(body, v) // which tells what is malformed, and where
	}
	normal, err := json.Marshal(withoutSnakes(tree))
	if err != nil {
		return fmt.Errorf("normalise a document: %w", err)
	}
	return arm.Decode(normal, v)
}

// freeKeys are the objects whose keys are the user's own, without underscores and in lower case.
var freeKeys = []string{"tags", "namespacemappings", "userassignedidentities"}

// withoutSnakes takes the underscores out of all keys that are not the user's: resource_id becomes resourceid, which
// decodes as resourceID.
func withoutSnakes(tree any) any {
	switch node := tree.(type) {
	case []any:
		for i := range node {
			node[i] = withoutSnakes(node[i])
		}
	case map[string]any:
		out := make(map[string]any, len(node))
		for key, value := range node {
			plain := strings.ReplaceAll(key, "_", "")
			if !slices.Contains(freeKeys, strings.ToLower(plain)) {
				value = withoutSnakes(value)
			}
			if _, twice := out[plain]; twice && plain != key {
				continue // the camelCase spelling wins
			}
			out[plain] = value
		}
		return out
	}
	return tree
}

// choose returns the allowed value that equals got but for letter case, or notes the problem and returns got.
func choose(p *arm.Problems, target, got string, allowed ...string) string {
	for _, value := range allowed {
		if strings.EqualFold(got, value) {
			return value
		}
	}
	list := strings.Join(allowed, ", ")
	if got == "" {
		p.AddError(arm.Invalid(target, "%s is required.", last(target)).WithAction("Set it to one of: " + list + "."))
		return got
	}
	p.AddError(arm.Invalid(target, "'%s' is not a value of %s.", got, last(target)).WithAction("Use one of: " + list + "."))
	return got
}

// spelling is the allowed value that equals got but for letter case; got if there is none, and otherwise when got is
// empty.
func spelling(got, otherwise string, allowed ...string) string {
	if got == "" {
		return otherwise
	}
	for _, value := range append(allowed, otherwise) {
		if strings.EqualFold(got, value) {
			return value
		}
	}
	return got
}

func last(target string) string {
	return target[strings.LastIndexByte(target, '.')+1:]
}

// unsupported notes that something Azure has is asked for, which Cairn does not have.
func unsupported(p *arm.Problems, target, what, action string) {
	p.AddError((&arm.Error{Status: 400, Code: CodeNotSupported, Target: target,
		Message: what + " is not supported."}).WithAction(action))
}
