// Package clusterpb holds the protocol-buffer messages of the cluster: the rows of the directory store,
// the administration service, and the exchange by which a node joins. Generated from the .proto files
// beside it with protoc-gen-go and protoc-gen-go-grpc.
package clusterpb
