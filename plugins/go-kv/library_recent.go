//go:build recent

package main

import (
	"fmt"
	"os"

	grpctest "github.com/hashicorp/go-plugin/test/grpc"
	"google.golang.org/grpc"
)

// newest is what later versions of go-plugin's test service have beside what is served here.
type newest = grpctest.UnimplementedTestServer

// go-plugin 1.2 and later does it for every plugin, asked or not.
func reflect(*grpc.Server) {}

func init() {
	if reflects != "yes" {
		fmt.Fprintln(os.Stderr, "[ERROR] this go-plugin leaves a plugin no choice but to have reflection")
		os.Exit(1)
	}
}
