// Package inventory makes the cut: it lists all objects in a backup's scope as they were at one revision of the API server, and streams
// them into a bundle.
//
// An API server lists any kind at any revision that it still remembers (some minutes back), so Revision is learned once, and then all kinds
// are listed at exactly that one, many at a time. Objects pass through as bytes: lists are split into items by looking for their ends, and an
// item is only walked over for the few strings that decide whether it is taken. Nothing is decoded but claims, volumes and pods' volumes.
//
// The package neither takes snapshots (package snapshot does) nor decides what a restore makes of an object: it takes more than a restore
// will create.
package inventory
