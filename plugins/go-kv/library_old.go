//go:build !recent

package main

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
)

// newest is what later versions of go-plugin's test service have beside what is served here.
type newest struct{}

func reflect(server *grpc.Server) { reflection.Register(server) }
