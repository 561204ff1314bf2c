// Package store keeps the service's state in SQLite or PostgreSQL: ARM resources as documents, and what is asked for by time or by
// owner in tables of their own.
//
// What Update has returned nil for survives a kill and a power cut; what it has not, has left no trace. There is one
// writer at a time, of all processes that use the database, and a reader sees one instant. The package holds SQL and nothing but: what a
// document means, and which changes belong together, is service's.
//
// The SQL is the same for both: $1 parameters, times as integers of microseconds, booleans as integers, JSON as text, ON CONFLICT. Of
// PostgreSQL's other replicas it is safe from what they do, because Update waits for its turn, and from what they fail to do, because
// the server ends the turn of one that says nothing for half a minute.
package store
