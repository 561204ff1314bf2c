// Package daemon is cairnd as a value: it opens the data folder, wires store, service and both endpoints, and serves until it
// is closed. Tests start it in their own process, on port 0, exactly as in production.
//
//	DIR/state.db     the state
//	DIR/token.key    signs access tokens
//	DIR/pki/         the certificate authority, and the server's certificate
//	DIR/blobs/       what storage accounts hold
//	DIR/admin.env    how the administrator logs in
package daemon
