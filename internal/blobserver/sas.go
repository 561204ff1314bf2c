package blobserver

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// sas is a shared access signature. The strings are as sent, since they are what was signed.
// https://learn.microsoft.com/rest/api/storageservices/create-service-sas and create-account-sas
type sas struct {
	account bool // account SAS; otherwise a service SAS
	values  url.Values

	starts    time.Time // zero: no start
	expires   time.Time
	from, to  netip.Addr // invalid: any address
	signature []byte
}

// overrides are the parameters of a service SAS that set headers of the response, in the order in which they are signed.
var overrides = []struct{ param, header string }{
	{"rscc", "Cache-Control"}, {"rscd", "Content-Disposition"}, {"rsce", "Content-Encoding"},
	{"rscl", "Content-Language"}, {"rsct", "Content-Type"},
}

// oldestSAS is the first version whose service SAS signs the resource kind; newerSAS also signs the encryption scope.
const (
	oldestSAS = "2018-11-09"
	newerSAS  = "2020-12-06"
)

func parseSAS(query url.Values) (*sas, error) {
	t := &sas{values: query, account: query.Has("ss") || query.Has("srt")}
	for name, values := range query {
		if len(values) > 1 {
			return nil, fmt.Errorf("the parameter %q is there twice", name)
		}
	}
	if query.Has("skoid") {
		return nil, errors.New("a user delegation SAS is not supported; use one signed with an account key")
	}
	if query.Has("si") {
		return nil, errors.New("stored access policies (si) are not supported; put permissions and expiry into the SAS")
	}
	if version := query.Get("sv"); len(version) != len(oldestSAS) || version < oldestSAS {
		return nil, fmt.Errorf("the signed version (sv) must be %s or later", oldestSAS)
	}
	var err error
	if t.expires, err = parseSASTime(query.Get("se")); err != nil {
		return nil, fmt.Errorf("the expiry (se): %w", err)
	}
	if query.Get("st") != "" {
		if t.starts, err = parseSASTime(query.Get("st")); err != nil {
			return nil, fmt.Errorf("the start (st): %w", err)
		}
	}
	if ip := query.Get("sip"); ip != "" {
		if t.from, t.to, err = parseSASAddresses(ip); err != nil {
			return nil, fmt.Errorf("the addresses (sip): %w", err)
		}
	}
	if t.signature, err = base64.StdEncoding.DecodeString(query.Get("sig")); err != nil {
		return nil, errors.New("the signature (sig) is not base64")
	}
	return t, nil
}

func parseSASTime(s string) (time.Time, error) {
	for _, layout := range []string{"2006-01-02T15:04:05Z", "2006-01-02T15:04:05.0000000Z", "2006-01-02T15:04Z", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("want a UTC time such as 2026-01-31T12:00:00Z")
}

func parseSASAddresses(s string) (from, to netip.Addr, err error) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	if from, err = netip.ParseAddr(first); err != nil {
		return from, to, err
	}
	to, err = netip.ParseAddr(last)
	return from, to, err
}

// message is the string that was signed, for a request about t.
func (s *sas) message(t target) string {
	get := s.values.Get
	newer := get("sv") >= newerSAS
	if s.account {
		lines := []string{t.account, get("sp"), get("ss"), get("srt"), get("st"), get("se"), get("sip"), get("spr"), get("sv")}
		if newer {
			lines = append(lines, get("ses"))
		}
		return strings.Join(lines, "\n") + "\n"
	}
	resource := "/blob/" + t.account + "/" + t.container
	if get("sr") == "b" {
		resource += "/" + t.blob
	}
	lines := []string{get("sp"), get("st"), get("se"), resource, "", get("sip"), get("spr"), get("sv"), get("sr"), ""}
	if newer {
		lines = append(lines, get("ses"))
	}
	for _, o := range overrides {
		lines = append(lines, get(o.param))
	}
	return strings.Join(lines, "\n")
}

func (s *Server) authorizeSAS(c *call, op *operation, keys [][]byte) error {
	t, err := parseSAS(c.query)
	if err != nil {
		return errAuthentication("The shared access signature is not usable: " + err.Error() + ".")
	}
	if !signedBy(keys, t.message(c.target), t.signature) {
		return errAuthentication("The shared access signature does not match the account's keys and this resource.")
	}
	if now := s.config.Now(); now.Before(t.starts) || !now.Before(t.expires) {
		return errAuthentication("The shared access signature is valid only " + validity(t) + "; ask for a new one.")
	}
	if err := t.allowsOrigin(c.r); err != nil {
		return err
	}
	if err := t.allows(c, op); err != nil {
		return err
	}
	if !t.account {
		c.override = http.Header{}
		for _, o := range overrides {
			if v := t.values.Get(o.param); v != "" {
				c.override.Set(o.header, v)
			}
		}
	}
	return nil
}

func validity(t *sas) string {
	until := "until " + t.expires.Format(time.RFC3339)
	if t.starts.IsZero() {
		return until
	}
	return "from " + t.starts.Format(time.RFC3339) + " " + until
}

func (s *sas) allowsOrigin(r *http.Request) error {
	if s.values.Get("spr") == "https" && r.TLS == nil {
		return fail(http.StatusForbidden, "AuthorizationProtocolMismatch",
			"This request is not authorized to perform this operation using this protocol. Use https.")
	}
	if !s.from.IsValid() {
		return nil
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return err
	}
	if addr = addr.Unmap(); addr.Less(s.from) || s.to.Less(addr) {
		return fail(http.StatusForbidden, "AuthorizationSourceIPMismatch",
			"This request is not authorized to perform this operation using this source IP.")
	}
	return nil
}

// allows checks resource and permission letters.
func (s *sas) allows(c *call, op *operation) error {
	if s.account {
		if !strings.Contains(s.values.Get("ss"), "b") {
			return fail(http.StatusForbidden, "AuthorizationServiceMismatch", "The account SAS is not for the blob service (ss).")
		}
		if !strings.ContainsRune(s.values.Get("srt"), rune(op.level)) {
			return fail(http.StatusForbidden, "AuthorizationResourceTypeMismatch",
				"The account SAS is not for this type of resource (srt).")
		}
	} else if r := s.values.Get("sr"); !op.serviceSAS || (r != "c" && r != "b") || (r == "b" && op.level != levelBlob) {
		return errPermission("A SAS for a container or a blob does not allow it.")
	}
	granted := s.values.Get("sp")
	if !strings.ContainsAny(granted, op.permissions) {
		return errPermission("The shared access signature needs one of the permissions " + quoted(op.permissions) + ".")
	}
	c.createOnly = op.permissions == "cw" && !strings.Contains(granted, "w")
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
