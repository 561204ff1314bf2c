package armserver

import "github.com/cairn-backup/cairn/internal/arm"

// ParseFilter is parseFilter, for its fuzz test.
func ParseFilter(text string) (arm.Filter, error) { return parseFilter(text) }

// Permissions are the rows of the table as "METHOD path" and the permission that each asks for.
func (s *Server) Permissions() map[string]string {
	out := map[string]string{}
	for _, r := range s.routes {
		out[r.Method+" "+r.Path] = r.Permission
	}
	return out
}

// Serves says whether the row is the one for a path, if no row before it is.
func (r Route) Serves(method, path string) bool {
	segments, ok := split(path)
	if !ok || method != r.Method {
		return false
	}
	_, _, ok = r.match(segments)
	return ok
}

// Table is every row as it is served.
func Table() []Route {
	rows := table(nil)
	for i := range rows {
		rows[i] = rows[i].compile()
	}
	return rows
}

// IDOf is the ID of what a path of the row's names.
func (r *Route) IDOf(path string) arm.ID {
	segments, _ := split(path)
	_, id, _ := r.match(segments)
	return id
}

// SkipToken writes a position of a list's into a token, and Position reads a token.
func (r *Route) SkipToken(id arm.ID, position string) string {
	return (&Request{ID: id, route: r}).skipToken(position)
}

// Position reads what SkipToken wrote.
func (r *Route) Position(id arm.ID, token string) (string, bool) {
	return (&Request{ID: id, route: r}).position(token)
}
