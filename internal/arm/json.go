package arm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sort"
	"strings"
)

// wholeBody is the target of an error that concerns no property in particular.
const wholeBody = "body"

// Decode reads a request's body. Malformed JSON is a 400 InvalidRequestContent that says where; an *Error that a type
// returns from its own decoding comes through as it is.
func Decode(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(v); err != nil {
		return content(body, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return malformed("there is more after the end of the JSON document, at %s.", place(body, d.InputOffset()))
	}
	return nil
}

func content(body []byte, err error) error {
	var mine *Error
	if errors.As(err, &mine) {
		return mine
	}
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return malformed("%s at %s.", syntax.Error(), place(body, syntax.Offset))
	case errors.As(err, &typ):
		return wrongType(typ, place(body, typ.Offset))
	case errors.Is(err, io.EOF):
		return malformed("the request has no body, but a JSON object is expected.")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("it ends within a JSON value, at %s.", place(body, int64(len(body))))
	}
	return malformed("%s.", err)
}

func malformed(format string, args ...any) *Error {
	return BadRequest("InvalidRequestContent", "The request content was invalid and could not be deserialized: "+format, args...).
		WithTarget(wholeBody).WithAction("Send one well-formed JSON object.")
}

func wrongType(typ *json.UnmarshalTypeError, where string) *Error {
	name, target := "'"+typ.Field+"'", typ.Field
	if target == "" {
		name, target = "the document", wholeBody
	}
	want := expected(typ.Type)
	return BadRequest("InvalidRequestContent", "The request content was invalid: %s must be %s, not %s (%s).", name, want, typ.Value, where).
		WithTarget(target).WithAction("Make it " + want + ".")
}

// place turns an offset into a line and a column, counted from one.
func place(body []byte, offset int64) string {
	before := body[:min(int64(len(body)), max(offset, 0))]
	line := bytes.Count(before, []byte{'\n'}) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fmt.Sprintf("line %d, position %d", line, max(column, 1))
}

func expected(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Pointer:
		return expected(t.Elem())
	}
	return "a number"
}

// Union says which type a polymorphic object has, by its discriminator objectType. The values are nil pointers of the
// types:
//
//	var rules = arm.Union[Rule]{"AzureBackupRule": (*BackupRule)(nil), "AzureRetentionRule": (*RetentionRule)(nil)}
type Union[T any] map[string]T

// Decode reads an object as the type that its objectType names. A missing or unknown one is a 400
// BMSUserErrorInvalidInput that names the allowed values; the target is the object's path in the document. JSON null
// gives the zero T.
func (u Union[T]) Decode(raw json.RawMessage, target string) (T, error) {
	var zero T
	if len(raw) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return zero, nil
	}
	var head struct {
		ObjectType string `json:"objectType"`
	}
	if err := Decode(raw, &head); err != nil {
		return zero, at(err, target)
	}
	name, sample, known := u.find(head.ObjectType)
	if !known {
		what := fmt.Sprintf("'%s' is not a known objectType", head.ObjectType)
		if head.ObjectType == "" {
			what = "objectType is missing"
		}
		return zero, Invalid(join(target, "objectType"), "%s. Allowed are: %s.", what, strings.Join(u.names(), ", "))
	}
	v := reflect.New(reflect.TypeOf(sample).Elem()).Interface()
	if err := Decode(raw, v); err != nil {
		return zero, at(err, target)
	}
	out, ok := v.(T)
	if !ok {
		return zero, fmt.Errorf("objectType %s: %T is not of the union", name, v)
	}
	return out, nil
}

// Encode writes a value with its objectType first.
func (u Union[T]) Encode(v T) ([]byte, error) {
	if reflect.ValueOf(&v).Elem().IsZero() {
		return []byte("null"), nil
	}
	t := reflect.TypeOf(v)
	for name, sample := range u {
		if reflect.TypeOf(sample) != t {
			continue
		}
		body, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", name, err)
		}
		head := fmt.Sprintf(`{"objectType":%q`, name)
		if string(body) == "{}" {
			return []byte(head + "}"), nil
		}
		return append([]byte(head+","), body[1:]...), nil
	}
	return nil, fmt.Errorf("encode: %s has no objectType", t)
}

func (u Union[T]) find(name string) (string, T, bool) {
	if v, ok := u[name]; ok {
		return name, v, true
	}
	for k, v := range u {
		if strings.EqualFold(k, name) {
			return k, v, true
		}
	}
	var zero T
	return "", zero, false
}

func (u Union[T]) names() []string {
	names := make([]string, 0, len(u))
	for name := range u {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// at puts the object's path before an error's target.
func at(err error, target string) error {
	var e *Error
	switch {
	case !errors.As(err, &e) || target == "":
		return err
	case e.Target == wholeBody:
		return e.WithTarget(target)
	}
	return e.WithTarget(join(target, e.Target))
}

func join(path, name string) string {
	switch {
	case path == "":
		return name
	case name == "":
		return path
	}
	return path + "." + name
}
