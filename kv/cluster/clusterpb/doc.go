// Package clusterpb holds the protocol-buffer messages of the cluster: the rows of the directory store,
// the administration service, and the exchange by which a node joins. Generated from the .proto files
// beside it, in the root of the repository, with
//
//	protoc -I . --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative kv/cluster/clusterpb/*.proto
package clusterpb
