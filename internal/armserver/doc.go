// Package armserver is the HTTP skin over service: a table of routes, one file per provider, and what all of them share –
// authentication, permission, API versions, the error envelope, and headers.
//
// A row of the table is a method, a path as Azure documents it, and a handler. The row gives the permission too. What a
// verb does is service's; a handler translates.
//
//	route.go                  rows, and how a request finds its row
//	server.go                 from the wire to the handler and back
//	routes_*.go               the tables
package armserver
