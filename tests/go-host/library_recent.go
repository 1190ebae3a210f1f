//go:build recent

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	v1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

var (
	multiplex = flag.Bool("multiplex", false, "the broker's connections share the first one")
	group     = flag.String("group", "", "a group that may connect to the sockets")
	skipEnv   = flag.Bool("skip-env", false, "the plugin gets nothing of this host's environment")
	byRunner  = flag.Bool("runner", false, "start it through a RunnerFunc, with a directory for sockets")
)

func configure(config *plugin.ClientConfig) {
	config.GRPCBrokerMultiplex = *multiplex
	config.SkipHostEnv = *skipEnv
	if *group != "" {
		config.UnixSocketConfig = &plugin.UnixSocketConfig{Group: *group}
	}
	if *byRunner {
		config.Cmd = nil
		config.RunnerFunc = func(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
			command := exec.Command(*path)
			command.Env = spec.Env
			stdout, err := command.StdoutPipe()
			if err != nil {
				return nil, err
			}
			stderr, err := command.StderrPipe()
			return &process{command: command, stdout: stdout, stderr: stderr}, err
		}
	}
}

// process is the least that a RunnerFunc can give.
type process struct {
	command        *exec.Cmd
	stdout, stderr io.ReadCloser
}

func (p *process) Start(context.Context) error     { return p.command.Start() }
func (p *process) Diagnose(context.Context) string { return "" }
func (p *process) Stdout() io.ReadCloser           { return p.stdout }
func (p *process) Stderr() io.ReadCloser           { return p.stderr }
func (p *process) Name() string                    { return *path }
func (p *process) Wait(context.Context) error      { return p.command.Wait() }
func (p *process) Kill(context.Context) error      { return p.command.Process.Kill() }
func (p *process) ID() string                      { return fmt.Sprint(p.command.Process.Pid) }
func (p *process) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}
func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// reflect asks in both versions what the plugin serves, and for the file of grpctest.Test.
func reflect(ctx context.Context) (string, error) {
	newer, err := v1.NewServerReflectionClient(rpcClient.conn).ServerReflectionInfo(ctx)
	if err != nil {
		return "", err
	}
	if err := newer.Send(&v1.ServerReflectionRequest{MessageRequest: &v1.ServerReflectionRequest_ListServices{}}); err != nil {
		return "", err
	}
	listed, err := newer.Recv()
	if err != nil {
		return "", err
	}
	var names []string
	for _, service := range listed.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	symbol := &v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "grpctest.Test"}
	if err := newer.Send(&v1.ServerReflectionRequest{MessageRequest: symbol}); err != nil {
		return "", err
	}
	file, err := newer.Recv()
	if err != nil {
		return "", err
	}
	older, err := v1alpha.NewServerReflectionClient(rpcClient.conn).ServerReflectionInfo(ctx)
	if err != nil {
		return "", err
	}
	same := &v1alpha.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "grpctest.Test"}
	if err := older.Send(&v1alpha.ServerReflectionRequest{MessageRequest: same}); err != nil {
		return "", err
	}
	again, err := older.Recv()
	if err != nil {
		return "", err
	}
	files, others := file.GetFileDescriptorResponse().GetFileDescriptorProto(), again.GetFileDescriptorResponse().GetFileDescriptorProto()
	return fmt.Sprintf("%s %v %v", strings.Join(names, ","), len(files) > 0, len(files) == len(others)), nil
}
