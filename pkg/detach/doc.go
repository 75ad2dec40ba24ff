// Package detach starts a process of ours that goes on in the background: in a
// session of its own, with / as its folder and a log file as its output. The
// starter waits until the process says that it is ready, or why it is not.
//
// The process inherits two descriptors, whose numbers it gets as flags. On
// "ready" it writes one report and closes it. "Lifeline" reads as closed when the
// starter has gone or let go, so that a process nobody waits for any more can
// notice.
package detach
