// Package ship is what both roles of a daemon do before changes leave this host:
// it follows the logs of a presto (Port), binds the CLOSEs of the own log to
// bytes (Binder), makes durable what is to be sent (Port.Sync), and reads
// contents that are named by their hash (Source).
//
// All of it hangs on one connection to presto, and ends with it. Types are safe
// for concurrent use.
package ship
