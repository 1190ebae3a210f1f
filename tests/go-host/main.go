// A go-plugin host for the tests, as anybody would write it. It starts a plugin that serves grpctest.Test, calls
// everything, ends it, and says what came of each step: `ok <step> <value>` or `failed <step> <why>`.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/golang/protobuf/proto"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	grpctest "github.com/hashicorp/go-plugin/test/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

var (
	path      = flag.String("plugin", "", "the plugin's executable")
	cookie    = flag.String("cookie", "BASIC_PLUGIN=hello", "KEY=value")
	mtls      = flag.Bool("mtls", false, "with AutoMTLS")
	versions  = flag.String("versions", "1,2,3", "versions to offer")
	steps     = flag.String("steps", "ping,double,stream,broker,invoke,kill", "what to do")
	messages  = flag.Int("messages", 5000, "messages of the stream")
	failed    = false
	begun     time.Time
	rpcClient *client
	stdout    kept
	stderr    kept
)

// kept is what the plugin printed.
type kept struct {
	sync.Mutex
	text bytes.Buffer
}

func (k *kept) Write(text []byte) (int, error) {
	k.Lock()
	defer k.Unlock()
	return k.text.Write(text)
}

// holds waits until a text was printed.
func (k *kept) holds(text string) error {
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		k.Lock()
		found := strings.Contains(k.text.String(), text)
		k.Unlock()
		if found {
			return nil
		}
	}
	return fmt.Errorf("%q did not come", text)
}

// client is what the plugin set dispenses.
type client struct {
	broker *plugin.GRPCBroker
	conn   *grpc.ClientConn
	test   grpctest.TestClient
}

type kv struct {
	plugin.NetRPCUnsupportedPlugin
}

func (kv) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

func (kv) GRPCClient(_ context.Context, broker *plugin.GRPCBroker, conn *grpc.ClientConn) (interface{}, error) {
	return &client{broker: broker, conn: conn, test: grpctest.NewTestClient(conn)}, nil
}

// InvokeRequest and InvokeReply are those of mortise.goplugin.v1.PluginService.
type InvokeRequest struct {
	Method  string `protobuf:"bytes,1,opt,name=method,proto3"`
	Payload []byte `protobuf:"bytes,2,opt,name=payload,proto3"`
}

type InvokeReply struct {
	Payload []byte `protobuf:"bytes,1,opt,name=payload,proto3"`
}

func (m *InvokeRequest) Reset()         { *m = InvokeRequest{} }
func (m *InvokeRequest) String() string { return proto.CompactTextString(m) }
func (*InvokeRequest) ProtoMessage()    {}
func (m *InvokeReply) Reset()           { *m = InvokeReply{} }
func (m *InvokeReply) String() string   { return proto.CompactTextString(m) }
func (*InvokeReply) ProtoMessage()      {}

type ponger struct{}

func (ponger) Ping(context.Context, *grpctest.PingRequest) (*grpctest.PongResponse, error) {
	return &grpctest.PongResponse{Msg: "pong from the Go host"}, nil
}

func double(ctx context.Context) (string, error) {
	reply, err := rpcClient.test.Double(ctx, &grpctest.TestRequest{Input: 21})
	return fmt.Sprint(reply.GetOutput()), err
}

func stream(ctx context.Context) (string, error) {
	stream, err := rpcClient.test.Stream(ctx)
	if err != nil {
		return "", err
	}
	go func() {
		for i := 0; i < *messages; i++ {
			if stream.Send(&grpctest.TestRequest{Input: int32(i)}) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	for i := 0; ; i++ {
		reply, err := stream.Recv()
		if err == io.EOF {
			return fmt.Sprint(i), nil
		}
		if err != nil {
			return "", err
		}
		if reply.Output != int32(i) {
			return "", fmt.Errorf("message %d is %d", i, reply.Output)
		}
	}
}

// open calls a method that go-plugin's own test service has not.
func open(ctx context.Context, method string) (grpc.ClientStream, error) {
	description := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	return rpcClient.conn.NewStream(ctx, description, "/grpctest.Test/"+method)
}

// count takes what Count(input) sends, and says how much that was and how it ended.
func count(ctx context.Context, input, most int) (string, error) {
	stream, err := open(ctx, "Count")
	if err != nil {
		return "", err
	}
	if err := stream.SendMsg(&grpctest.TestRequest{Input: int32(input)}); err != nil {
		return "", err
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	for i := 0; i < most; i++ {
		reply := new(grpctest.TestResponse)
		if err := stream.RecvMsg(reply); err != nil {
			return fmt.Sprintf("%d %v", i, err), nil
		}
		if reply.Output != int32(i) {
			return "", fmt.Errorf("message %d is %d", i, reply.Output)
		}
	}
	return fmt.Sprintf("%d and more", most), nil
}

// sum sends 1 so many times, then what else is given, and says what came back.
func sum(ctx context.Context, ones int, last ...int32) (string, error) {
	stream, err := open(ctx, "Sum")
	if err != nil {
		return "", err
	}
	for i := 0; i < ones+len(last); i++ {
		request := &grpctest.TestRequest{Input: 1}
		if i >= ones {
			request.Input = last[i-ones]
		}
		if err := stream.SendMsg(request); err != nil {
			return "", err
		}
	}
	if len(last) == 0 {
		if err := stream.CloseSend(); err != nil {
			return "", err
		}
	}
	reply := new(grpctest.TestResponse)
	if err := stream.RecvMsg(reply); err != nil {
		return "", err
	}
	end := stream.RecvMsg(new(grpctest.TestResponse))
	return fmt.Sprintf("%d %v", reply.Output, end), nil
}

// middle has a stream that ends with an error after three messages.
func middle(ctx context.Context) (string, error) {
	stream, err := rpcClient.test.Stream(ctx)
	if err != nil {
		return "", err
	}
	for _, input := range []int32{0, 1, 2, -7} {
		if err := stream.Send(&grpctest.TestRequest{Input: input}); err != nil {
			return "", err
		}
	}
	for i := 0; ; i++ {
		if _, err := stream.Recv(); err != nil {
			return fmt.Sprintf("%d %v", i, err), nil
		}
	}
}

// cut has an open stream whose context ends, by itself or by us.
func cut(ctx context.Context, end func(context.Context) (context.Context, context.CancelFunc)) (string, error) {
	ctx, cancel := end(ctx)
	defer cancel()
	stream, err := rpcClient.test.Stream(ctx)
	if err != nil {
		return "", err
	}
	if err := stream.Send(&grpctest.TestRequest{Input: 1}); err != nil {
		return "", err
	}
	if _, err := stream.Recv(); err != nil {
		return "", err
	}
	if _, timed := ctx.Deadline(); !timed || time.Until(deadline(ctx)) > time.Second {
		cancel()
	}
	_, err = stream.Recv()
	return fmt.Sprint(err), nil
}

func deadline(ctx context.Context) time.Time {
	at, _ := ctx.Deadline()
	return at
}

func broker(ctx context.Context) (string, error) {
	id := rpcClient.broker.NextId()
	go rpcClient.broker.AcceptAndServe(id, func(options []grpc.ServerOption) *grpc.Server {
		server := grpc.NewServer(options...)
		grpctest.RegisterPingPongServer(server, ponger{})
		return server
	})
	reply, err := rpcClient.test.Bidirectional(ctx, &grpctest.BidirectionalRequest{Id: id})
	if err != nil {
		return "", err
	}
	conn, err := rpcClient.broker.Dial(reply.Id)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	pong, err := grpctest.NewPingPongClient(conn).Ping(ctx, &grpctest.PingRequest{})
	return pong.GetMsg(), err
}

// invoke calls Double by its name.
func invoke(ctx context.Context) (string, error) {
	payload, err := proto.Marshal(&grpctest.TestRequest{Input: 4})
	if err != nil {
		return "", err
	}
	reply := new(InvokeReply)
	request := &InvokeRequest{Method: "grpctest.Test/Double", Payload: payload}
	if err := rpcClient.conn.Invoke(ctx, "/mortise.goplugin.v1.PluginService/Invoke", request, reply); err != nil {
		return "", err
	}
	response := new(grpctest.TestResponse)
	err = proto.Unmarshal(reply.Payload, response)
	return fmt.Sprint(response.Output), err
}

// refuse calls with a key that no plugin knows, to see its status.
func refuse(ctx context.Context) (string, error) {
	_, err := rpcClient.test.PrintKV(ctx, &grpctest.PrintKVRequest{Key: "nonsense"})
	return fmt.Sprint(err), nil
}

// brokers goes through the broker several times at once, both ways.
func brokers(ctx context.Context) (string, error) {
	const callers = 16
	outcomes := make(chan error)
	for i := 0; i < callers; i++ {
		go func() {
			pong, err := broker(ctx)
			if err == nil && pong != "pong from the plugin" {
				err = fmt.Errorf("%q", pong)
			}
			outcomes <- err
		}()
	}
	var err error
	for i := 0; i < callers; i++ {
		if failed := <-outcomes; failed != nil {
			err = failed
		}
	}
	return fmt.Sprint(callers), err
}

// print has the plugin write to its standard output and error, and sees both come.
func print(ctx context.Context) (string, error) {
	for _, channel := range []struct {
		key  string
		kept *kept
	}{{"print", &stdout}, {"eprint", &stderr}} {
		text := &grpctest.PrintKVRequest_ValueString{ValueString: "printed by " + channel.key}
		if _, err := rpcClient.test.PrintKV(ctx, &grpctest.PrintKVRequest{Key: channel.key, Value: text}); err != nil {
			return "", err
		}
		if err := channel.kept.holds("printed by " + channel.key + "\n"); err != nil {
			return "", err
		}
	}
	return "", nil
}

// slay kills the plugin's process during a call.
func slay(ctx context.Context, started *plugin.Client) (string, error) {
	outcome := make(chan error)
	go func() {
		_, err := rpcClient.test.PrintKV(ctx, &grpctest.PrintKVRequest{Key: "sleep"})
		outcome <- err
	}()
	// Another call on the same connection comes through, so the first has been sent.
	if _, err := double(ctx); err != nil {
		return "", err
	}
	if err := syscall.Kill(started.ReattachConfig().Pid, syscall.SIGKILL); err != nil {
		return "", err
	}
	err := <-outcome
	for !started.Exited() {
		if ctx.Err() != nil {
			return "", fmt.Errorf("nobody saw that it has ended")
		}
		time.Sleep(5 * time.Millisecond)
	}
	return status.Code(err).String(), nil
}

// reattach makes a second client for the process that runs, and calls through it.
func reattach(ctx context.Context, started *plugin.Client, sets map[int]plugin.PluginSet) (string, error) {
	second := plugin.NewClient(&plugin.ClientConfig{
		Plugins:          sets[started.NegotiatedVersion()],
		Reattach:         started.ReattachConfig(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
	})
	protocol, err := second.Client()
	if err != nil {
		return "", err
	}
	raw, err := protocol.Dispense("test")
	if err != nil {
		return "", err
	}
	reply, err := raw.(*client).test.Double(ctx, &grpctest.TestRequest{Input: 5})
	return fmt.Sprint(reply.GetOutput()), err
}

// socket tells who may connect to the plugin: the mode and the group of its socket.
func socket(started *plugin.Client) (string, error) {
	address, is := started.ReattachConfig().Addr.(*net.UnixAddr)
	if !is {
		return "", fmt.Errorf("it listens at %v", started.ReattachConfig().Addr)
	}
	info, err := os.Stat(address.Name)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%o %d %s", info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Gid, address.Name), nil
}

// environment names the variables that the plugin was started with.
func environment(started *plugin.Client) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", started.ReattachConfig().Pid))
	var names []string
	for _, variable := range strings.Split(strings.Trim(string(text), "\x00"), "\x00") {
		names = append(names, strings.SplitN(variable, "=", 2)[0])
	}
	sort.Strings(names)
	return strings.Join(names, ","), err
}

func say(step string, value interface{}, err error) {
	if err != nil {
		failed = true
		fmt.Printf("failed %s %v\n", step, err)
		return
	}
	fmt.Printf("ok %s %v\n", step, value)
}

func main() {
	flag.Parse()
	pair := strings.SplitN(*cookie, "=", 2)
	sets := map[int]plugin.PluginSet{}
	for _, version := range strings.Split(*versions, ",") {
		var number int
		fmt.Sscan(version, &number)
		sets[number] = plugin.PluginSet{"test": kv{}}
	}
	begun = time.Now()
	config := &plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pair[0], MagicCookieValue: pair[1]},
		VersionedPlugins: sets,
		Cmd:              exec.Command(*path),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         *mtls,
		StartTimeout:     20 * time.Second,
		SyncStdout:       &stdout,
		SyncStderr:       &stderr,
		Logger:           hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: os.Stderr, JSONFormat: true}),
	}
	configure(config)
	started := plugin.NewClient(config)
	protocol, err := started.Client()
	say("start", started.NegotiatedVersion(), err)
	if err == nil {
		raw, err := protocol.Dispense("test")
		say("dispense", "", err)
		rpcClient, _ = raw.(*client)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, step := range strings.Split(*steps, ",") {
		if rpcClient == nil {
			break
		}
		var value string
		var err error
		switch step {
		case "ping":
			err = protocol.Ping()
		case "double":
			value, err = double(ctx)
		case "stream":
			value, err = stream(ctx)
		case "count":
			value, err = count(ctx, *messages, *messages+1)
		case "sum":
			value, err = sum(ctx, *messages)
		case "early":
			// The plugin answers although more could come.
			value, err = sum(ctx, 3, -1)
		case "middle":
			value, err = middle(ctx)
		case "cancel":
			value, err = cut(ctx, context.WithCancel)
		case "late":
			value, err = cut(ctx, func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 300*time.Millisecond)
			})
		case "leave":
			// Counts for ever, and is left alone.
			ctx, cancel := context.WithCancel(ctx)
			value, err = count(ctx, -1, 100)
			cancel()
		case "broker":
			value, err = broker(ctx)
		case "brokers":
			value, err = brokers(ctx)
		case "print":
			value, err = print(ctx)
		case "slay":
			value, err = slay(ctx, started)
		case "reattach":
			value, err = reattach(ctx, started, sets)
		case "socket":
			value, err = socket(started)
		case "environment":
			value, err = environment(started)
		case "reflect":
			value, err = reflect(ctx)
		case "invoke":
			value, err = invoke(ctx)
		case "refuse":
			value, err = refuse(ctx)
		case "measure":
			value, err = measure(ctx)
		case "bench":
			value, err = bench(ctx)
		case "wait":
			// Until the test kills this host.
			fmt.Printf("ok wait %d\n", started.ReattachConfig().Pid)
			time.Sleep(time.Minute)
		case "kill":
			begun := time.Now()
			started.Kill()
			if !started.Exited() {
				err = fmt.Errorf("the plugin did not exit")
			}
			// go-plugin kills what does not exit by itself within two seconds.
			value = fmt.Sprint(time.Since(begun) < 2*time.Second)
		default:
			err = fmt.Errorf("no such step")
		}
		say(step, value, err)
	}
	started.Kill()
	if failed {
		os.Exit(1)
	}
}

// upper has the plugin give a payload back.
func upper(ctx context.Context, payload []byte) error {
	reply := new(InvokeReply)
	request := &InvokeRequest{Method: "upper", Payload: payload}
	if err := rpcClient.conn.Invoke(ctx, "/mortise.goplugin.v1.PluginService/Invoke", request, reply); err != nil {
		return err
	}
	if len(reply.Payload) != len(payload) {
		return fmt.Errorf("a reply of %d bytes", len(reply.Payload))
	}
	return nil
}

// measure prints what the benchmarks compare with: the time from the start to the first reply, then of each size the
// times of so many calls, then of each number of callers the calls in 400 ms; all in nanoseconds, as `name=a,b,c`.
func measure(ctx context.Context) (string, error) {
	if err := upper(ctx, []byte("first")); err != nil {
		return "", err
	}
	said := []string{fmt.Sprintf("start=%d", time.Since(begun).Nanoseconds())}
	for _, size := range []struct{ bytes, calls int }{{64, 2000}, {64 << 10, 400}, {1 << 20, 60}} {
		payload := make([]byte, size.bytes)
		times := make([]string, 0, size.calls)
		for i := 0; i < size.calls; i++ {
			begun := time.Now()
			if err := upper(ctx, payload); err != nil {
				return "", err
			}
			times = append(times, fmt.Sprint(time.Since(begun).Nanoseconds()))
		}
		said = append(said, fmt.Sprintf("%d=%s", size.bytes, strings.Join(times, ",")))
	}
	for _, callers := range []int{1, 8, 64} {
		const window = 400 * time.Millisecond
		begun := time.Now()
		done := make(chan int)
		for i := 0; i < callers; i++ {
			go func() {
				calls, payload := 0, make([]byte, 64)
				for time.Since(begun) < window && upper(ctx, payload) == nil {
					calls++
				}
				done <- calls
			}()
		}
		calls := 0
		for i := 0; i < callers; i++ {
			calls += <-done
		}
		said = append(said, fmt.Sprintf("callers%d=%d", callers, int64(float64(calls)/time.Since(begun).Seconds())))
	}
	return strings.Join(said, " "), nil
}

// bench prints the median of many unary calls, in nanoseconds.
func bench(ctx context.Context) (string, error) {
	const rounds = 5000
	times := make([]time.Duration, 0, rounds)
	for i := 0; i < rounds; i++ {
		begun := time.Now()
		if _, err := double(ctx); err != nil {
			return "", err
		}
		times = append(times, time.Since(begun))
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	return fmt.Sprint(times[rounds/2].Nanoseconds()), nil
}
