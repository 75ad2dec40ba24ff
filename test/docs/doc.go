// Package docs keeps the documents true: it runs the tour of the README, command
// by command, on two machines made of namespaces, and compares what is printed
// with what the README shows; and it looks for links that lead nowhere.
package docs
