// Package auth is who calls and what they may do: it issues OAuth 2.0 access tokens for client credentials as Microsoft
// Entra does, checks them, answers the discovery documents that Azure's clients ask for before they log in, and decides
// by Azure's built-in roles.
//
// It keeps nothing but its signing key. Who exists and with which secrets, the Directory knows, which service plugs in;
// who has which role, the caller of Allowed says.
package auth
