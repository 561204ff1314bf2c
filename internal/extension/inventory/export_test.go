package inventory

// For the fuzz tests, which compare these with encoding/json.
var (
	SplitList = splitList
	WithType  = func(object []byte, apiVersion, kind string) []byte {
		h := scan(object)
		if h.hasAPIVersion && h.hasKind {
			return object
		}
		return withType(nil, object, h, apiVersion, kind)
	}
	Scan = func(object []byte) (namespace, name string, excluded bool) {
		h := scan(object)
		return h.namespace, h.name, h.excluded
	}
)
