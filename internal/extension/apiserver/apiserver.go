// Package apiserver tells the refusals that an API server means from those of one that has just been started. Such a one answers before it knows who may do
// what, and refuses everything with 403: a backup that believed it would leave out kinds, and a restore objects.
//
// It is a layer of HTTP below all of the extension's clients. It does not repeat requests for any other reason.
package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// patience is how long a server may take to become ready. It was reached already, so what is missing is little.
	patience = 30 * time.Second
	// pause is between two looks at whether it is.
	pause = 200 * time.Millisecond
	// truce is for how long refusals are believed at once after a wait in vain: the server may hide its readiness from us for good.
	truce = 10 * time.Minute
)

// AskAgain sends requests through next. One that is refused with 403 is sent once more when the server says at /readyz that it is ready; the answer to that
// stands. A refused request has done nothing, so that it may be repeated whatever it is. It fits rest.Config.Wrap.
func AskAgain(next http.RoundTripper) http.RoundTripper { return &asker{next: next} }

type asker struct {
	next http.RoundTripper

	mu       sync.Mutex
	believed time.Time // until when refusals are believed at once
}

func (a *asker) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := a.next.RoundTrip(r)
	if err != nil || answer.StatusCode != http.StatusForbidden || r.Body != nil && r.GetBody == nil || !a.ready(r) {
		return answer, err
	}
	again := r.Clone(r.Context())
	if r.Body != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return answer, nil
		}
	}
	// Read to its end, so that the connection can be used again; an answer that breaks off is given up all the same.
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		answer.Close = true
	}
	if err := answer.Body.Close(); err != nil {
		return nil, fmt.Errorf("close a refusal: %w", err)
	}
	return a.next.RoundTrip(again)
}

// ready waits until the server of a request is ready, and reports whether it is. One wait serves all requests.
func (a *asker) ready(r *http.Request) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Now().Before(a.believed) {
		return false
	}
	for deadline := time.Now().Add(patience); ; {
		if a.look(r) {
			return true
		}
		if time.Now().After(deadline) {
			a.believed = time.Now().Add(truce)
			return false
		}
		select {
		case <-r.Context().Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (a *asker) look(r *http.Request) bool {
	url := *r.URL
	url.Path, url.RawPath, url.RawQuery = "/readyz", "", ""
	look, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url.String(), nil)
	if err != nil {
		return false
	}
	look.Header = http.Header{"Authorization": r.Header["Authorization"], "User-Agent": r.Header["User-Agent"]}
	answer, err := a.next.RoundTrip(look)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err == nil && answer.StatusCode == http.StatusOK
}
