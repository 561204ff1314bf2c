// Package compat holds cairnd to Azure's contract: Azure's own Go SDK and raw requests drive a real daemon over HTTPS, and
// a small connector plays the cluster over the real link. It has tests only.
package compat
