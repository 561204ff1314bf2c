package armserver

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/url"
	"strconv"
	"strings"

	"github.com/cairn-backup/cairn/internal/arm"
	"github.com/cairn-backup/cairn/internal/store"
)

// pageSize is how many items a page has at most, and without $top.
const pageSize = 1000

// equalities is the request's $filter, in which nothing is compared but by eq.
func (r *Request) equalities() (arm.Filter, error) {
	f, err := parseFilter(r.Query.Get("$filter"))
	if err != nil {
		return nil, err
	}
	return f, f.Equalities()
}

// page answers with a page of a list: $top is how many items it has at most, $skipToken where it begins. The next one's address is in nextLink, with the
// rest of the query as the client wrote it.
func page[T any](r *Request, find func(store.Page) (items []T, next string, err error)) (*Response, error) {
	p := store.Page{Limit: pageSize}
	if top := r.Query.Get("$top"); top != "" {
		n, err := strconv.Atoi(top)
		if err != nil || n < 1 {
			return nil, arm.Invalid("$top", "'%s' is not a number of items.", top).WithAction("Use a number from 1 to " + strconv.Itoa(pageSize) + ", or leave $top out.")
		}
		p.Limit = min(n, pageSize)
	}
	if token := r.Query.Get("$skiptoken"); token != "" {
		position, ok := r.position(token)
		if !ok {
			return nil, badSkipToken()
		}
		p.After = position
	}
	items, next, err := find(p)
	if err != nil {
		return nil, err
	}
	list := arm.NewList(items)
	if next != "" {
		q := r.HTTP.URL.Query()
		maps.DeleteFunc(q, func(key string, _ []string) bool { return strings.EqualFold(key, "$skipToken") })
		q.Set("$skipToken", r.skipToken(next))
		u := url.URL{Path: r.HTTP.URL.Path, RawPath: r.HTTP.URL.RawPath, RawQuery: q.Encode()}
		link := r.BaseURL() + u.String()
		list.NextLink = &link
	}
	return Answer(200, list), nil
}

func badSkipToken() *arm.Error {
	return arm.Invalid("$skipToken", "The $skipToken is none that this list gave.").WithAction("Follow nextLink as it is, or begin again without $skipToken.")
}

// skipToken is a position in this list. Its digest shows a token that was changed, or is another list's. No secret is needed for that: all that a token
// can do is to name where in a list to begin, and who asks with a forged one sees no item that the list would not show.
func (r *Request) skipToken(position string) string {
	return base64.RawURLEncoding.EncodeToString(append(r.digest(position), position...))
}

func (r *Request) position(token string) (string, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) <= digestSize {
		return "", false
	}
	position := string(raw[digestSize:])
	return position, string(r.digest(position)) == string(raw[:digestSize])
}

const digestSize = 16

// digest is over a position, and the list that it is in: its resource, its row of the table and its filter.
func (r *Request) digest(position string) []byte {
	sum := sha256.Sum256([]byte(r.ID.Key() + "\x00" + r.route.Path + "\x00" + r.Query.Get("$filter") + "\x00" + position))
	return sum[:digestSize]
}
