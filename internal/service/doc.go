// Package service is everything that the product can be asked to do, one file per noun. It decides and changes state; it
// speaks no HTTP (armserver is its skin) and no SQL (store keeps).
//
// A method that changes something does so in one transaction. Those that take a *store.Tx are parts of a bigger change,
// of a kind that must happen whole: they are called within DB.Update.
package service
