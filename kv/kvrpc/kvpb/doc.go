// Package kvpb holds the messages and services of gabion's key-value store as protocol buffers. The
// .proto files in this directory are the published interface; the Go files are generated from them.
//
// To generate them again one needs protoc 3.21 and
//
//	go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
//	go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
//
// on the PATH.
package kvpb

// The files have their path in the repository as a name: a program may have other files that are called
// kv.proto, as etcd's client does.
//
//go:generate sh -c "cd ../../.. && protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative kv/kvrpc/kvpb/*.proto"
