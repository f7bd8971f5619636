// Package logpb holds the protocol-buffer messages of the log's entries. Generated from the .proto files
// beside it.
package logpb
