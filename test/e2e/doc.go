// Package e2e tests the tools as an administrator uses them: the real binaries,
// with real mounts on loop files, on this machine. What needs root or FUSE is
// skipped where they are missing, and says so. Several hosts with a network
// between them are the affair of test/lab.
package e2e
