// Package apiserver tells the refusals that an API server means from those of one that has just been started. Such a one answers before it knows who may do
// what, and refuses everything with 403: a backup that believed it would leave out kinds, and a restore objects.
//
// It is a layer of HTTP below Kubernetes clients. It does not repeat requests for any other reason.
package apiserver

import (
	"io"
	"net/http"
	"time"
)

const (
	// patience is how long a server may take to become ready. It was reached already, so what is missing is little.
	patience = 2 * time.Minute
	// hiding is how long /readyz may be refused itself: a server that has just been started does that too, but not for so long.
	hiding = 30 * time.Second
	// truce is for how long refusals are believed at once after a wait in vain.
	truce = 10 * time.Minute
	// trust is for how long a server that was ready is taken to be so still.
	trust = 5 * time.Second
	// pause is between two looks.
	pause = 200 * time.Millisecond
)

// Asker asks one API server again when it refuses. It may serve many clients at once.
type Asker struct {
	turn     chan struct{} // held by the one who looks, for all
	ready    time.Time     // when the server was last seen ready
	believed time.Time     // until when refusals are believed at once
}

// NewAsker makes an Asker; its Wrap fits rest.Config.Wrap.
func NewAsker() *Asker { return &Asker{turn: make(chan struct{}, 1)} }

// Wrap sends requests through next. One that is refused with 403 is sent once more when the server has said at /readyz that it is ready; the answer to that
// stands. A refused request has done nothing, so that it may be repeated whatever it is.
func (a *Asker) Wrap(next http.RoundTripper) http.RoundTripper { return &transport{a, next} }

type transport struct {
	*Asker
	next http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := time.Now()
	answer, err := t.next.RoundTrip(r)
	if err != nil || answer.StatusCode != http.StatusForbidden || r.Body != nil && r.GetBody == nil || !t.doubted(r, sent) {
		return answer, err
	}
	again := r.Clone(r.Context())
	if r.Body != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return answer, nil
		}
	}
	if err := discard(answer); err != nil {
		return nil, err
	}
	return t.next.RoundTrip(again)
}

// discard reads an answer to its end, so that the connection can be used again.
func discard(answer *http.Response) error {
	defer answer.Body.Close()
	_, err := io.Copy(io.Discard, answer.Body)
	return err
}

// doubted reports whether the refusal of a request is one of a server that was not ready when it was sent, and waits until it is.
func (t *transport) doubted(r *http.Request, sent time.Time) bool {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-r.Context().Done():
		return false
	}
	if sent.Before(t.ready) {
		return true
	}
	if began := time.Now(); began.Sub(t.ready) >= trust && began.After(t.believed) {
		return t.await(r, began)
	}
	return false
}

func (t *transport) await(r *http.Request, began time.Time) bool {
	for {
		status := t.look(r)
		now := time.Now()
		hidden := status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound
		switch {
		case status == http.StatusOK:
			t.ready = now
			return true
		case hidden && now.Sub(began) >= hiding, now.Sub(began) >= patience:
			t.believed = now.Add(truce)
			return false
		}
		select {
		case <-r.Context().Done():
			return false
		case <-time.After(pause):
		}
	}
}

// look returns the status of /readyz, or 0 without an answer.
func (t *transport) look(r *http.Request) int {
	url := *r.URL
	url.Path, url.RawPath, url.RawQuery = "/readyz", "", ""
	look, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url.String(), nil)
	if err != nil {
		return 0
	}
	for _, name := range []string{"Authorization", "User-Agent"} {
		look.Header[name] = r.Header[name]
	}
	answer, err := t.next.RoundTrip(look)
	if err != nil || discard(answer) != nil {
		return 0
	}
	return answer.StatusCode
}
