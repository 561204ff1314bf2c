package blobserver

import (
	"net/http"
	"net/url"
	"slices"
)

// level is what kind of resource an operation is about; the letters are those of an account SAS's resource types (srt).
type level byte

const (
	levelAccount   level = 's'
	levelContainer level = 'c'
	levelBlob      level = 'o'
)

const (
	containersAction = "Microsoft.Storage/storageAccounts/blobServices/containers/"
	blobsAction      = containersAction + "blobs/"
)

// operation is a row of the table below.
type operation struct {
	methods []string
	level   level
	restype string
	comp    string
	// permissions are the SAS letters of which one is needed.
	permissions string
	// serviceSAS says whether a SAS for a container or blob can ever allow it; others need an account SAS.
	serviceSAS bool
	// actions are what a bearer token's principal needs one of.
	actions []string
	serve   func(*Server, *call) error
}

// operations: permissions are from learn.microsoft.com/rest/api/storageservices/create-service-sas and create-account-sas.
var operations = []operation{
	{[]string{"GET"}, levelAccount, "", "list", "l", false, []string{containersAction + "read"}, (*Server).listContainers},
	{[]string{"GET", "HEAD"}, levelAccount, "account", "properties", "rwdlac", true, []string{containersAction + "read"}, (*Server).getAccount},
	{[]string{"GET", "HEAD"}, levelContainer, "account", "properties", "rwdlac", true, []string{containersAction + "read"}, (*Server).getAccount},
	{[]string{"PUT"}, levelContainer, "container", "", "cw", false, []string{containersAction + "write"}, (*Server).createContainer},
	{[]string{"GET", "HEAD"}, levelContainer, "container", "", "r", false, []string{containersAction + "read"}, (*Server).getContainer},
	{[]string{"DELETE"}, levelContainer, "container", "", "d", false, []string{containersAction + "delete"}, (*Server).deleteContainer},
	{[]string{"GET"}, levelContainer, "container", "list", "l", true, []string{blobsAction + "read"}, (*Server).listBlobs},
	{[]string{"PUT"}, levelBlob, "", "", "cw", true, []string{blobsAction + "write"}, (*Server).putBlob},
	{[]string{"PUT"}, levelBlob, "", "block", "w", true, []string{blobsAction + "write"}, (*Server).putBlock},
	{[]string{"PUT"}, levelBlob, "", "blocklist", "w", true, []string{blobsAction + "write"}, (*Server).putBlockList},
	{[]string{"GET"}, levelBlob, "", "blocklist", "r", true, []string{blobsAction + "read"}, (*Server).getBlockList},
	{[]string{"GET", "HEAD"}, levelBlob, "", "", "r", true, []string{blobsAction + "read"}, (*Server).getBlob},
	{[]string{"DELETE"}, levelBlob, "", "", "d", true, []string{blobsAction + "delete"}, (*Server).deleteBlob},
}

func (t target) level() level {
	switch {
	case t.blob != "":
		return levelBlob
	case t.container != "":
		return levelContainer
	}
	return levelAccount
}

func findOperation(method string, t target, query url.Values) (*operation, error) {
	for i := range operations {
		op := &operations[i]
		if op.level == t.level() && op.restype == query.Get("restype") && op.comp == query.Get("comp") && slices.Contains(op.methods, method) {
			return op, nil
		}
	}
	return nil, fail(http.StatusNotImplemented, "NotImplemented",
		"This storage service does not implement the requested operation; it serves containers and block blobs.")
}

// unsupported are headers and their features that would change what a request means. Ignoring one would be wrong.
var unsupported = []string{
	"X-Ms-Copy-Source", "X-Ms-Lease-Id", "X-Ms-Encryption-Key", "X-Ms-Encryption-Scope", "X-Ms-If-Tags", "X-Ms-Tags",
	"X-Ms-Structured-Body", "X-Ms-Range-Get-Content-Md5", "X-Ms-Range-Get-Content-Crc64", "X-Ms-Access-Tier",
	"X-Ms-Blob-Public-Access", "X-Ms-Expiry-Option", "X-Ms-Immutability-Policy-Until-Date", "X-Ms-Legal-Hold",
}

func refuseUnsupported(h http.Header) error {
	for _, name := range unsupported {
		if h.Get(name) != "" {
			return fail(http.StatusBadRequest, "UnsupportedHeader", "The header "+name+" is not supported by this storage service.")
		}
	}
	return nil
}
