// Package hoard will keep content here that a host wants to have off line:
// profiles of paths and patterns with priorities, walks that fetch what a
// profile names and is absent, and the purging of cold clean content where a
// cache is over its quota.
//
// It needs replicas that can do without content, which are not built yet:
// every replica has everything, so there is nothing to hoard and nothing to
// purge. The package has no code, and nothing imports it. "intersync --hoard"
// only checks that the files of a list are there.
package hoard
