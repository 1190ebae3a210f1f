// A go-plugin plugin for the tests: go-plugin's own test service, a service that takes any method's name, and reflection.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	grpctest "github.com/hashicorp/go-plugin/test/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Set by the linker, so that one source gives the plugins that tests need: go build -ldflags "-X main.release=1.1.0 -X main.reflects=no"
var (
	// release is what Invoke answers to `release`.
	release = "1.0.0"
	// reflects says whether the server tells of its services; many plugins' do not.
	reflects = "yes"
	// begins is `well`; `badly`, with a panic before the handshake; or `never`, without a handshake.
	begins = "well"
)

var logger = hclog.New(&hclog.LoggerOptions{Name: "go-kv", JSONFormat: true, Level: hclog.Trace, Output: os.Stderr})

// kv is the plugin.
type kv struct {
	plugin.NetRPCUnsupportedPlugin
}

func (kv) GRPCServer(broker *plugin.GRPCBroker, server *grpc.Server) error {
	grpctest.RegisterTestServer(server, &test{broker: broker})
	server.RegisterService(&pluginService, invoker{})
	if reflects == "yes" {
		reflect(server)
	}
	return nil
}

func (kv) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (interface{}, error) {
	return nil, nil
}

// test serves grpctest.Test.
type test struct {
	newest
	broker *plugin.GRPCBroker
}

func (*test) Double(_ context.Context, request *grpctest.TestRequest) (*grpctest.TestResponse, error) {
	return &grpctest.TestResponse{Output: 2 * request.Input}, nil
}

// What `eat` keeps.
var eaten [][]byte

// PrintKV obeys a few keys, so that a test can have what it needs of a plugin.
func (*test) PrintKV(ctx context.Context, request *grpctest.PrintKVRequest) (*grpctest.PrintKVResponse, error) {
	number := request.GetValueInt()
	text := request.GetValueString()
	switch request.Key {
	case "log":
		logger.Warn(text, "number", 7, "nested", map[string]interface{}{"a": []int{1, 2}}, "nothing", nil)
	case "stdout":
		fmt.Println(text)
	case "stderr":
		fmt.Fprintln(os.Stderr, text)
	case "sleep":
		select {
		case <-time.After(time.Duration(number) * time.Millisecond):
		case <-ctx.Done():
			logger.Info("sleep was cancelled")
		}
	case "exit":
		os.Exit(int(number))
	case "panic":
		go panic(text)
		time.Sleep(time.Hour)
	case "eat":
		// Mebibytes, and it touches them.
		eaten = append(eaten, bytes.Repeat([]byte{1}, int(number)<<20))
		time.Sleep(time.Hour)
	case "fill":
		// Mebibytes, of the directory it was given.
		file, err := os.CreateTemp("", "fill")
		if err != nil {
			return nil, err
		}
		if _, err := file.Write(bytes.Repeat([]byte{1}, int(number)<<20)); err != nil {
			return nil, err
		}
		time.Sleep(time.Hour)
	case "env":
		// Answers as an error's text: PrintKVResponse has no field.
		return nil, status.Error(codes.NotFound, strings.Join(os.Environ(), "\n"))
	case "header":
		md, _ := metadata.FromIncomingContext(ctx)
		return nil, status.Error(codes.NotFound, strings.Join(md.Get(text), ","))
	default:
		return nil, status.Errorf(codes.InvalidArgument, "`%s` is no key of this plugin", request.Key)
	}
	return &grpctest.PrintKVResponse{}, nil
}

// Bidirectional calls the host's service `id` through the broker, then offers one of its own.
func (t *test) Bidirectional(ctx context.Context, request *grpctest.BidirectionalRequest) (*grpctest.BidirectionalResponse, error) {
	conn, err := t.broker.Dial(request.Id)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	pong, err := grpctest.NewPingPongClient(conn).Ping(ctx, &grpctest.PingRequest{})
	if err != nil {
		return nil, err
	}
	logger.Info("the host answered", "msg", pong.Msg)
	id := t.broker.NextId()
	go t.broker.AcceptAndServe(id, func(options []grpc.ServerOption) *grpc.Server {
		server := grpc.NewServer(options...)
		grpctest.RegisterPingPongServer(server, pinger{})
		return server
	})
	return &grpctest.BidirectionalResponse{Id: id}, nil
}

func (*test) Stream(stream grpctest.Test_StreamServer) error {
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&grpctest.TestResponse{Output: request.Input}); err != nil {
			return err
		}
	}
}

// pinger is what the plugin offers through the broker.
type pinger struct{}

func (pinger) Ping(context.Context, *grpctest.PingRequest) (*grpctest.PongResponse, error) {
	return &grpctest.PongResponse{Msg: "pong from the plugin"}, nil
}

func main() {
	fmt.Fprintln(os.Stderr, "[INFO] go-kv starts")
	switch begins {
	case "badly":
		panic("no fuel to start with")
	case "never":
		time.Sleep(time.Hour)
	}
	plugins := plugin.PluginSet{"test": kv{}}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			ProtocolVersion:  1,
			MagicCookieKey:   "BASIC_PLUGIN",
			MagicCookieValue: "hello",
		},
		Plugins:          plugins,
		VersionedPlugins: map[int]plugin.PluginSet{2: plugins, 3: plugins},
		GRPCServer:       plugin.DefaultGRPCServer,
		Logger:           logger,
	})
}
