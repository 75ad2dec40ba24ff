// Package wire is the protocol between hosts, both ends of it: HTTP/2 over TLS
// 1.3 where each end has pinned the other's key, always dialled by the client.
// docs/PROTOCOL.md describes it request by request and byte by byte.
//
// Host is the listening end. It proves who calls, answers strangers with
// nothing, takes invitations, and hands what is granted to the Backend of the
// fileset (pkg/server). Client is the dialling end (pkg/replica).
//
// What is streamed travels in frames of our own inside the bodies, which know
// nothing of HTTP: Reader takes them apart, the Append functions make them. All
// that a peer sends is bounded before memory is spent on it.
//
// Host, Client and Authority are safe for concurrent use; a Reader is not.
package wire
