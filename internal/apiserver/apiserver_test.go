package apiserver_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cairn-backup/cairn/internal/apiserver"
)

// starting answers as an API server that knows who may do what from its third look at /readyz on; it refuses /secret for good.
type starting struct {
	looks, never int
	got          []string
}

func (s *starting) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	known := s.never == 0 && s.looks >= 3
	switch {
	case r.URL.Path == "/readyz":
		if s.looks++; s.never > 0 || s.looks < 3 {
			w.WriteHeader(http.StatusForbidden)
		}
	case !known || r.URL.Path == "/secret":
		if r.Body != nil {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, err
			}
		}
		s.got = append(s.got, "refused")
		w.WriteHeader(http.StatusForbidden)
	default:
		var body []byte
		if r.Body != nil {
			var err error
			if body, err = io.ReadAll(r.Body); err != nil {
				return nil, err
			}
		}
		s.got = append(s.got, string(body))
	}
	return w.Result(), nil
}

func send(t *testing.T, through http.RoundTripper, path, body string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://server"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := through.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode
}

func TestARefusalOfAStartingServerIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &starting{}
		if status := send(t, apiserver.NewAsker().Wrap(server), "/pods", "a pod"); status != http.StatusOK {
			t.Errorf("the answer is %d", status)
		}
		if strings.Join(server.got, ", ") != "refused, a pod" {
			t.Errorf("the server got %q", server.got)
		}
	})
}

func TestARefusalOfAReadyServerStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &starting{looks: 3}
		if status := send(t, apiserver.NewAsker().Wrap(server), "/secret", "mine"); status != http.StatusForbidden {
			t.Errorf("the answer is %d", status)
		}
		if len(server.got) != 2 {
			t.Errorf("the server got %q", server.got)
		}
	})
}

// Who refuses a lot, such as a webhook, is not asked everything twice.
func TestManyRefusalsCostOneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &starting{looks: 3}
		asker := apiserver.NewAsker()
		for range 100 {
			send(t, asker.Wrap(server), "/secret", "mine") // each with a client of its own
		}
		if server.looks != 4 || len(server.got) > 102 {
			t.Errorf("%d looks, and the server got %d", server.looks-3, len(server.got))
		}
	})
}

// A server that never says that it is ready costs one wait, not one for each refusal.
func TestReadinessMayBeHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &starting{never: 1}
		through := apiserver.NewAsker().Wrap(server)
		for range 10 {
			if status := send(t, through, "/pods", "a pod"); status != http.StatusForbidden {
				t.Errorf("the answer is %d", status)
			}
		}
		if server.looks > 200 || len(server.got) != 10 {
			t.Errorf("%d looks, and the server got %q", server.looks, server.got)
		}
	})
}
