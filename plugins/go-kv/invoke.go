package main

import (
	"bytes"
	"compress/gzip"
	"context"

	"github.com/golang/protobuf/proto"
	"github.com/golang/protobuf/protoc-gen-go/descriptor"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The service `mortise.goplugin.v1.PluginService`, written by hand so that no protoc is needed:
//
//	service PluginService { rpc Invoke(InvokeRequest) returns (InvokeReply); }
//	message InvokeRequest { string method = 1; bytes payload = 2; }
//	message InvokeReply { bytes payload = 1; }

// InvokeRequest names a method and carries its request.
type InvokeRequest struct {
	Method  string `protobuf:"bytes,1,opt,name=method,proto3"`
	Payload []byte `protobuf:"bytes,2,opt,name=payload,proto3"`
}

// InvokeReply carries the reply.
type InvokeReply struct {
	Payload []byte `protobuf:"bytes,1,opt,name=payload,proto3"`
}

func (m *InvokeRequest) Reset()         { *m = InvokeRequest{} }
func (m *InvokeRequest) String() string { return proto.CompactTextString(m) }
func (*InvokeRequest) ProtoMessage()    {}
func (m *InvokeReply) Reset()           { *m = InvokeReply{} }
func (m *InvokeReply) String() string   { return proto.CompactTextString(m) }
func (*InvokeReply) ProtoMessage()      {}

const protoFile = "mortise/goplugin/v1/plugin.proto"

// invoker serves mortise.goplugin.v1.PluginService.
type invoker struct{}

// invoke knows three methods: `upper` and `reverse`, of bytes, and `release`, which tells which one this is.
func (invoker) invoke(request *InvokeRequest) (*InvokeReply, error) {
	switch request.Method {
	case "upper":
		return &InvokeReply{Payload: bytes.ToUpper(request.Payload)}, nil
	case "release":
		return &InvokeReply{Payload: []byte(release)}, nil
	case "reverse":
		reversed := make([]byte, len(request.Payload))
		for i, b := range request.Payload {
			reversed[len(reversed)-1-i] = b
		}
		return &InvokeReply{Payload: reversed}, nil
	}
	return nil, status.Errorf(codes.Unimplemented, "`%s` is no method of this plugin", request.Method)
}

var pluginService = grpc.ServiceDesc{
	ServiceName: "mortise.goplugin.v1.PluginService",
	HandlerType: (*interface{})(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Invoke",
		Handler: func(server interface{}, _ context.Context, decode func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
			request := new(InvokeRequest)
			if err := decode(request); err != nil {
				return nil, err
			}
			return server.(invoker).invoke(request)
		},
	}},
	Metadata: protoFile,
}

// init makes the service known to reflection.
func init() {
	field := func(name string, number int32, kind descriptor.FieldDescriptorProto_Type) *descriptor.FieldDescriptorProto {
		label := descriptor.FieldDescriptorProto_LABEL_OPTIONAL
		return &descriptor.FieldDescriptorProto{Name: &name, JsonName: &name, Number: &number, Type: &kind, Label: &label}
	}
	payload := descriptor.FieldDescriptorProto_TYPE_BYTES
	file := &descriptor.FileDescriptorProto{
		Name:    proto.String(protoFile),
		Package: proto.String("mortise.goplugin.v1"),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptor.DescriptorProto{
			{Name: proto.String("InvokeRequest"), Field: []*descriptor.FieldDescriptorProto{
				field("method", 1, descriptor.FieldDescriptorProto_TYPE_STRING), field("payload", 2, payload),
			}},
			{Name: proto.String("InvokeReply"), Field: []*descriptor.FieldDescriptorProto{field("payload", 1, payload)}},
		},
		Service: []*descriptor.ServiceDescriptorProto{{
			Name: proto.String("PluginService"),
			Method: []*descriptor.MethodDescriptorProto{{
				Name:       proto.String("Invoke"),
				InputType:  proto.String(".mortise.goplugin.v1.InvokeRequest"),
				OutputType: proto.String(".mortise.goplugin.v1.InvokeReply"),
			}},
		}},
	}
	encoded, err := proto.Marshal(file)
	if err != nil {
		panic(err)
	}
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	writer.Write(encoded)
	writer.Close()
	proto.RegisterFile(protoFile, zipped.Bytes())
}
