// Package daemon is cairnd as a value: it opens the data folder, wires store, service and both endpoints, and serves until it
// is closed. Tests start it in their own process, on port 0, exactly as in production.
//
// Several may run at once, as replicas, if they have the same PostgreSQL database and the same folder. What one knows and the others must know
// too is in one of the two; in memory there is nothing that another would miss.
//
//	DIR/state.db     the state, unless it is in PostgreSQL
//	DIR/id           tells the folder from others
//	DIR/lock, lock.start   held by who uses the folder, and by who starts
//	DIR/token.key    signs access tokens
//	DIR/pki/         the certificate authority, and the server's certificate
//	DIR/blobs/       what storage accounts hold
//	DIR/admin.env    how the administrator logs in
package daemon
