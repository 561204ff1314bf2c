package backup

import (
	"encoding/json"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
)

// Resource is a resource as it is sent and stored: properties in their envelope.
type Resource[P any] struct {
	Properties P                 `json:"properties"`
	ID         arm.ID            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Tags       map[string]string `json:"tags,omitempty"`
	SystemData *arm.SystemData   `json:"systemData,omitempty"`
	// ETag is neither stored nor in the body, as in Azure; it is filled in when the resource is read, and sent as a header.
	ETag string `json:"-"`
}

// NewResource puts properties into the envelope of a resource of a type.
func NewResource[P any](id arm.ID, typ string, properties P) Resource[P] {
	return Resource[P]{Properties: properties, ID: id, Name: id.Name(), Type: typ}
}

// VaultResource is a vault as it is sent and stored.
type VaultResource struct {
	Resource[Vault]
	Location string        `json:"location"`
	Identity *arm.Identity `json:"identity,omitempty"`
	// ETag is not stored with the vault; it is filled in when the vault is read.
	ETag string `json:"eTag,omitempty"`
}

// Input is the body of a PUT or PATCH.
type Input[P any] struct {
	Properties *P                `json:"properties"`
	Tags       map[string]string `json:"tags"`
	Location   string            `json:"location"`
	Identity   *arm.Identity     `json:"identity"`
}

// DecodeInput reads the body of a PUT. A body that has no "properties" is taken for the properties alone, as guides and
// command lines write them. Properties are never nil.
func DecodeInput[P any](body []byte) (*Input[P], error) {
	in := &Input[P]{}
	if err := Decode(body, in); err != nil {
		return nil, err
	}
	if in.Properties != nil {
		return in, nil
	}
	in.Properties = new(P)
	var keys map[string]json.RawMessage
	if err := Decode(body, &keys); err != nil {
		return nil, err
	}
	for key := range keys {
		if strings.EqualFold(key, "properties") {
			return in, nil
		}
	}
	return in, Decode(body, in.Properties)
}
