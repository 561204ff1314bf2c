// Package blobserver serves, from a folder, the part of the Azure Blob Storage REST API that block blobs need, so that a
// backup storage location exists wherever cairnd runs and every client speaks Azure's protocol only.
//
// It has containers, block blobs (whole or by block list), ranged reads, ordered and paged listings, and conditional
// headers that the store itself enforces: with "If-None-Match: *" exactly one of any number of concurrent writers wins.
// Requests are path style (https://host/account/container/blob) or host style (https://account.blob.suffix/container/blob)
// and are signed with an account key, a shared access signature (service or account), or carry a bearer token.
// It is not a full Blob service: no page or append blobs, snapshots, versions, leases, tiers, copies or tags; a
// request for one of these is refused, never half obeyed.
//
// A write is answered only when it is durable. Data streams to a temporary file, which is synced, renamed to its place and
// made to stay by syncing the folder, so a crash leaves the old blob, the new blob, or none, and never half of one.
//
// Several processes may serve one folder: a file's lock says whose turn it is to change a container's names. All of them must see at once
// what one has done, as on one machine's file system or a cluster's; over NFS only without caches of attributes and names.
//
//	auth.go, sas.go     who may do what: keys, signatures, tokens
//	operations.go       the table of operations, with the permission each needs
//	container.go, blobs.go, blocks.go, list.go   the operations
//	conditions.go, byterange.go, errors.go       pure decisions and Azure's error bodies
//	disk.go, lock.go, blobfile.go, name.go, walk.go       what lies on disk, and how names become paths
package blobserver
