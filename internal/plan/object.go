package plan

import (
	"maps"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// object is a decoded Kubernetes object, read leniently: a field that is missing or of another type reads as its zero value. Objects in
// a bundle come from an API server, and what is odd about them is for the target's API server to say.
type object map[string]any

func (o object) at(path ...string) any {
	var v any = map[string]any(o)
	for _, field := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[field]
	}
	return v
}

func (o object) str(path ...string) string {
	s, _ := o.at(path...).(string)
	return s
}

func (o object) flag(path ...string) bool {
	b, _ := o.at(path...).(bool)
	return b
}

// obj is the object at a path, nil if there is none; it is not a copy.
func (o object) obj(path ...string) object {
	m, _ := o.at(path...).(map[string]any)
	return m
}

// objs is the list of objects at a path; they are not copies.
func (o object) objs(path ...string) []object {
	list, _ := o.at(path...).([]any)
	var out []object
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// drop removes fields of one object; a nil object has none.
func (o object) drop(fields ...string) {
	for _, f := range fields {
		delete(o, f)
	}
}

// dropIfEmpty removes a field that holds an empty map or list.
func (o object) dropIfEmpty(field string) {
	switch v := o[field].(type) {
	case map[string]any:
		if len(v) == 0 {
			delete(o, field)
		}
	case []any:
		if len(v) == 0 {
			delete(o, field)
		}
	}
}

// filterList keeps the elements of the list at field for which keep is true. Elements that are no objects stay.
func (o object) filterList(field string, keep func(object) bool) {
	list, ok := o[field].([]any)
	if !ok {
		return
	}
	kept := make([]any, 0, len(list))
	for _, v := range list {
		if m, ok := v.(map[string]any); !ok || keep(m) {
			kept = append(kept, v)
		}
	}
	o[field] = kept
	o.dropIfEmpty(field)
}

// annotation reads one annotation.
func (o object) annotation(key string) string { return o.str("metadata", "annotations", key) }

// label reads one label.
func (o object) label(key string) string { return o.str("metadata", "labels", key) }

// dropKeys removes the keys of the map at path/field that match, and the map if it is empty then.
func (o object) dropKeys(field string, match func(string) bool) {
	m := o.obj(field)
	if m == nil {
		return
	}
	maps.DeleteFunc(m, func(k string, _ any) bool { return match(k) })
	o.dropIfEmpty(field)
}

func oneOf(names ...string) func(string) bool {
	return func(s string) bool {
		for _, n := range names {
			if s == n || strings.HasSuffix(n, "/") && strings.HasPrefix(s, n) {
				return true
			}
		}
		return false
	}
}

// ownerReferences reads the references of an object; what cannot be read is left out.
func ownerReferences(o object) []metav1.OwnerReference {
	u := unstructured.Unstructured{Object: o}
	return u.GetOwnerReferences()
}

// controllerOf is the owner that keeps the object in being, if it has one.
func controllerOf(o object) (metav1.OwnerReference, bool) {
	for _, ref := range ownerReferences(o) {
		if ref.Controller != nil && *ref.Controller {
			return ref, true
		}
	}
	return metav1.OwnerReference{}, false
}

// group is the API group of an apiVersion.
func group(apiVersion string) string {
	g, _, found := strings.Cut(apiVersion, "/")
	if !found {
		return ""
	}
	return g
}
