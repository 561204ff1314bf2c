// Package store keeps the service's state in SQLite: ARM resources as documents, and what is asked for by time or by
// owner in tables of their own.
//
// What Update has returned nil for survives a kill and a power cut; what it has not, has left no trace. There is one
// writer at a time, and a reader sees one instant. The package holds SQL and nothing but: what a document means, and which
// changes belong together, is service's.
//
// The SQL is PostgreSQL's too: $1 parameters, times as integers of microseconds, booleans as integers, JSON as text.
package store
