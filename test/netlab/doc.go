// Package netlab makes the network of a lab: one network namespace for each
// host and one for a switch between them, each held by a bind mount on a file,
// so that it outlives the process that made it.
//
// A host has one interface, eth0, which stays up and keeps its counters for the
// life of the lab. Everything that happens to the link is done at the other end
// of it, in the switch: a cut takes the port out of the bridge, a slow link
// passes it through a relay process between two TAP devices.
//
//	host1: eth0 --- h1 : switch : br0
//	host2: eth0 --- h2 - l2 - a2 [relay] b2 : br0      (slow)
//	host3: eth0 --- h3                                 (cut)
//
// Hosts know each other's hardware addresses for good, so nothing on the wire
// is the lab's own, and a cut is silence and not "no route to host".
//
// A process changes no network namespace of its own threads. What must run in
// one is a child: this program again, which is why every program that uses the
// package calls Child first of all in main.
package netlab
