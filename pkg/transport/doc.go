// Package transport carries FUSE requests between the kernel and a go-fuse
// RawFileSystem. go-fuse's ProtocolServer decodes and encodes them; how they
// arrive and leave is decided here, for latency: a request costs two switches
// between threads, which are cheap on one CPU and dear across two.
//
// # Two links
//
// "io-uring": the kernel hands each request to the queue of the CPU that the
// application runs on, and a thread pinned to that CPU answers it. FORGET,
// INTERRUPT and notifications stay on /dev/fuse.
//
// "dev-fuse": one goroutine, locked to its thread, reads /dev/fuse and answers
// in place. There is never a second reader beside it, because the kernel would
// wake them in turn.
//
// New takes io_uring where the kernel offers it (Linux 6.14, parameter
// enable_uring of the fuse module) and /dev/fuse elsewhere; Server.Link and
// Server.Why say which it was, and why.
//
// # Nobody waits behind a slow request
//
// A request is answered by the thread that fetched it. So that a slow one
// delays only itself:
//
//   - The reader of /dev/fuse that is in one request for longer than a tick (1 ms)
//     loses the reading to a new reader, and ends after its reply. Requests known
//     to block (FSYNC, FSYNCDIR, SETLKW, what Blocker says) leave the reader at
//     once, to a goroutine.
//   - Each io_uring thread has a ring with one entry, and the kernel takes the
//     entry that became free last: one client is always served by one thread, and
//     a request that comes meanwhile finds the next thread, on the same CPU. When
//     all threads of a CPU are stuck for a tick, or the last free one takes a
//     request known to block, another is started. Beyond a limit such requests
//     leave their threads to goroutines, each with its entry; a new entry takes
//     its place, so their number is not limited.
//
// An entry that is registered while requests already wait in the kernel is not
// given them, only new ones; they are fetched by the next reply on that CPU. Where
// all else is blocked there is none, so the thread that registers makes the kernel
// send an empty request (the answer to NOTIFY_RETRIEVE) and replies to that.
//
// # Memory
//
// One buffer of MaxWrite plus two pages for each request under way, outside of
// the Go heap; pages that no request needed are not resident. io_uring begins with
// two buffers a CPU and never gives back what it grew to: CPUs x entries x
// MaxWrite at most. Server.Stats tells.
package transport
