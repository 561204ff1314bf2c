package blobserver

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxSkew is how far the date of a request signed with a key may be off.
const maxSkew = 15 * time.Minute

// challenge tells a client of bearer tokens for whom to get one.
var challenge = http.Header{"Www-Authenticate": {"Bearer resource_id=https://storage.azure.com"}}

// authorize lets a request pass, or says why not.
func (s *Server) authorize(c *call, op *operation) error {
	scheme, credential, _ := strings.Cut(c.r.Header.Get("Authorization"), " ")
	if scheme == "" && !c.query.Has("sig") {
		return &apiError{
			status:  http.StatusUnauthorized,
			code:    "NoAuthenticationInformation",
			message: "Server failed to authenticate the request. Sign it with an account key or a SAS, or send a bearer token.",
			header:  challenge,
		}
	}
	keys, err := s.keys(c)
	if err != nil {
		return err
	}
	switch {
	case scheme == "":
		return s.authorizeSAS(c, op, keys)
	case scheme == "SharedKey":
		return s.authorizeKey(c, credential, keys)
	case strings.EqualFold(scheme, "Bearer"):
		return s.authorizeToken(c, op, strings.TrimSpace(credential))
	}
	return fail(http.StatusBadRequest, "InvalidAuthenticationInfo",
		"The authentication scheme "+quoted(scheme)+" is not supported; use SharedKey, Bearer or a shared access signature.")
}

// keys returns the account's keys, decoded.
func (s *Server) keys(c *call) ([][]byte, error) {
	account, err := s.config.Accounts(c.r.Context(), c.account)
	if errors.Is(err, ErrAccountNotFound) {
		return nil, fail(http.StatusNotFound, "ResourceNotFound", "The storage account "+quoted(c.account)+" does not exist.")
	}
	if err != nil {
		return nil, err
	}
	keys := make([][]byte, len(account.Keys))
	for i, k := range account.Keys {
		if keys[i], err = base64.StdEncoding.DecodeString(k); err != nil {
			return nil, errors.New("a key of storage account " + c.account + " is not base64")
		}
	}
	return keys, nil
}

func (s *Server) authorizeToken(c *call, op *operation, token string) error {
	err := s.config.Authorize(c.r.Context(), token, Access{
		Account: c.account, Container: c.container, Blob: c.blob, Actions: op.actions,
	})
	switch {
	case errors.Is(err, ErrInvalidToken):
		return &apiError{
			status:  http.StatusUnauthorized,
			code:    "InvalidAuthenticationInfo",
			message: "Server failed to authenticate the request. The bearer token is malformed, expired or not for this service.",
			header:  challenge,
			err:     err,
		}
	case errors.Is(err, ErrForbidden):
		e := errPermission("Give the principal a role such as Storage Blob Data Contributor on the storage account.")
		e.err = err
		return e
	}
	return err
}

// authorizeKey checks "SharedKey account:signature".
// https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
func (s *Server) authorizeKey(c *call, credential string, keys [][]byte) error {
	account, signature, ok := strings.Cut(credential, ":")
	if !ok || account != c.account {
		return errAuthentication("The Authorization header must be SharedKey account:signature, with the account of the URL.")
	}
	date := c.r.Header.Get("x-ms-date")
	if date == "" {
		date = c.r.Header.Get("Date")
	}
	at, err := http.ParseTime(date)
	if err != nil {
		return errAuthentication("The x-ms-date header is missing or not a date.")
	}
	if skew := s.config.Now().Sub(at).Abs(); skew > maxSkew {
		return errAuthentication("The date of the request is more than 15 minutes off; set the clock.")
	}
	got, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return errAuthentication("The signature is not base64.")
	}
	for _, order := range []func(a, b string) int{compareHeaderNames, strings.Compare} {
		if signedBy(keys, stringToSign(c.r, c.account, c.query, order), got) {
			return nil
		}
	}
	return errAuthentication("The signature does not match: check the account key, and that nothing changes the request on its way.")
}

func signedBy(keys [][]byte, message string, signature []byte) bool {
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(message))
		if hmac.Equal(mac.Sum(nil), signature) {
			return true
		}
	}
	return false
}

func stringToSign(r *http.Request, account string, query url.Values, order func(a, b string) int) string {
	length := ""
	if r.ContentLength > 0 {
		length = strconv.FormatInt(r.ContentLength, 10)
	}
	date := r.Header.Get("Date")
	if r.Header.Get("x-ms-date") != "" {
		date = ""
	}
	lines := []string{
		r.Method, r.Header.Get("Content-Encoding"), r.Header.Get("Content-Language"), length, r.Header.Get("Content-MD5"),
		r.Header.Get("Content-Type"), date, r.Header.Get("If-Modified-Since"), r.Header.Get("If-Match"),
		r.Header.Get("If-None-Match"), r.Header.Get("If-Unmodified-Since"), r.Header.Get("Range"),
	}
	lines = append(lines, canonicalHeaders(r.Header, order)...)
	return strings.Join(append(lines, canonicalResource(r.URL, account, query)), "\n")
}

func canonicalHeaders(h http.Header, order func(a, b string) int) []string {
	var names []string
	values := map[string]string{}
	for name, v := range h {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-ms-") {
			names = append(names, name)
			values[name] = strings.TrimSpace(strings.Join(v, ","))
		}
	}
	slices.SortFunc(names, order)
	for i, name := range names {
		names[i] = name + ":" + values[name]
	}
	return names
}

// compareHeaderNames orders as Azure does: hyphens do not count, underscores come before digits and those before letters.
// Some clients sort by bytes instead; both are tried.
func compareHeaderNames(a, b string) int {
	weigh := strings.NewReplacer("-", "", "_", "!")
	if n := strings.Compare(weigh.Replace(a), weigh.Replace(b)); n != 0 {
		return n
	}
	return strings.Compare(a, b)
}

func canonicalResource(u *url.URL, account string, query url.Values) string {
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	lower := map[string][]string{}
	for name, values := range query {
		name = strings.ToLower(name)
		lower[name] = append(lower[name], values...)
	}
	var b strings.Builder
	b.WriteString("/" + account + path)
	for _, name := range sortedKeys(lower) {
		slices.Sort(lower[name])
		b.WriteString("\n" + name + ":" + strings.Join(lower[name], ","))
	}
	return b.String()
}
