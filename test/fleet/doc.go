// Package fleet plays a small fleet of InterMezzo hosts on one machine: host1 is
// the server, the others are its clients, and all of them mount the fileset
// "shared". It uses the real tools in the way an administrator does, and knows
// of the suite only what those print.
//
// A lab lives in a folder and nowhere else, so that every command finds it again
// and several can run at once:
//
//	lab.json              what the lab is like, and the state of its links
//	lab.lock              flock(2)ed while a command changes the lab
//	switch                the network's middle (a network namespace)
//	hostN/etc  hostN/run  configuration and run folder
//	hostN/mnt             the fileset
//	hostN/cache.img       the cache: a loop file; hostN/cache where it is a folder
//	hostN/netns           the host's network namespace
//	hostN/*.log           what its daemon, its mounts and its link's relay had to say
//
// presto runs in the caller's mount and network namespaces; only the daemon, and
// what Exec runs, are in the host's network namespace. Every process of a lab
// carries the lab's folder in its environment, so that Down finds also those
// that nobody wrote down.
package fleet
