package connector

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// health is what the connector's probes answer.
type health struct {
	mu      sync.Mutex
	contact time.Time // when the service last accepted a call
	err     error     // of the last call
}

func (h *health) heard(now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	if err == nil {
		h.contact = now
	}
}

// Ready is nil when the service has accepted a call lately, and says otherwise what is wrong. A service that restarts
// is not enough to be unready; a refused credential is, once it has been silent for as long.
func (c *Connector) Ready() error {
	h := &c.health
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.contact.IsZero() && h.err == nil:
		return fmt.Errorf("the service has not answered yet")
	case h.contact.IsZero():
		return h.err
	case c.Now().Sub(h.contact) > silence:
		return fmt.Errorf("no answer from the service since %s: %w", h.contact.UTC().Format(time.RFC3339), h.err)
	}
	return nil
}

// Probes serves /healthz (the process answers) and /readyz (Ready, with its words as the body).
func (c *Connector) Probes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := c.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
