// Package controller carries out the requests that the connector writes: one reconciler per kind, all alike in shape. A request is read
// from the API server itself, never from a cache that may be older than the last status; one reconciliation carries it from where it stands to its
// end, and what a step relies on is in the request's status before the step begins. docs/design.md draws the steps and says what
// follows a crash after each of them.
//
// The reconcilers decide and report; the work is done by inventory, snapshot, bundle, apply and storage.
package controller
