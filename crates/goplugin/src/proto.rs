//! The protocol's own messages, written from its wire format.
//!
//! They are the few that a host or a plugin must understand itself: health, the controller, standard output, the broker and reflection. The two versions of
//! reflection have the same messages under different names.

/// Paths of the protocol's methods.
pub mod path {
    /// Health, which go-plugin uses as its ping.
    pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
    /// Ends the plugin.
    pub const SHUTDOWN: &str = "/plugin.GRPCController/Shutdown";
    /// The plugin's standard output and error.
    pub const STDIO: &str = "/plugin.GRPCStdio/StreamStdio";
    /// The broker's messages.
    pub const BROKER: &str = "/plugin.GRPCBroker/StartStream";
    /// Reflection.
    pub const REFLECTION_V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    /// Reflection, as it was called until 2022.
    pub const REFLECTION_V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
}

/// The name under which a plugin's health is asked.
pub const HEALTH_SERVICE: &str = "plugin";

/// `google.protobuf.Empty`, `plugin.Empty`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthCheckRequest {
    /// Whose health.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HealthCheckResponse {
    /// See [`Serving`].
    #[prost(enumeration = "Serving", tag = "1")]
    pub status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Serving {
    /// Not told.
    Unknown = 0,
    /// It serves.
    Serving = 1,
    /// It does not.
    NotServing = 2,
    /// No such service.
    ServiceUnknown = 3,
}

/// `plugin.StdioData`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StdioData {
    /// See [`Channel`].
    #[prost(enumeration = "Channel", tag = "1")]
    pub channel: i32,
    /// What was written.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: bytes::Bytes,
}

/// `plugin.StdioData.Channel`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Channel {
    /// Not told.
    Invalid = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// `plugin.ConnInfo`: where a brokered service listens, or a knock.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnInfo {
    /// The id that the two sides passed each other in a message of their own.
    #[prost(uint32, tag = "1")]
    pub service_id: u32,
    /// `unix` or `tcp`; empty with a knock.
    #[prost(string, tag = "2")]
    pub network: String,
    /// Where it listens.
    #[prost(string, tag = "3")]
    pub address: String,
    /// Only where connections are multiplexed.
    #[prost(message, optional, tag = "4")]
    pub knock: Option<Knock>,
}

/// `plugin.ConnInfo.Knock`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Knock {
    /// Always true.
    #[prost(bool, tag = "1")]
    pub knock: bool,
    /// It is the answer.
    #[prost(bool, tag = "2")]
    pub ack: bool,
    /// Why it is not opened.
    #[prost(string, tag = "3")]
    pub error: String,
}

/// `grpc.reflection.v1.ServerReflectionRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReflectionRequest {
    /// Not used.
    #[prost(string, tag = "1")]
    pub host: String,
    /// What is asked.
    #[prost(oneof = "ReflectionAsk", tags = "3, 4, 5, 6, 7")]
    pub ask: Option<ReflectionAsk>,
}

/// What can be asked of reflection.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum ReflectionAsk {
    /// A file, by its name.
    #[prost(string, tag = "3")]
    FileByName(String),
    /// The file in which a symbol stands.
    #[prost(string, tag = "4")]
    FileContaining(String),
    /// The file of an extension.
    #[prost(message, tag = "5")]
    FileContainingExtension(ExtensionRequest),
    /// Numbers of all extensions of a message.
    #[prost(string, tag = "6")]
    ExtensionNumbers(String),
    /// All services.
    #[prost(string, tag = "7")]
    ListServices(String),
}

/// `grpc.reflection.v1.ExtensionRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExtensionRequest {
    /// The message.
    #[prost(string, tag = "1")]
    pub containing_type: String,
    /// The number.
    #[prost(int32, tag = "2")]
    pub extension_number: i32,
}

/// `grpc.reflection.v1.ServerReflectionResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReflectionResponse {
    /// Of the request.
    #[prost(string, tag = "1")]
    pub valid_host: String,
    /// The request.
    #[prost(message, optional, tag = "2")]
    pub original_request: Option<ReflectionRequest>,
    /// The answer.
    #[prost(oneof = "ReflectionAnswer", tags = "4, 5, 6, 7")]
    pub answer: Option<ReflectionAnswer>,
}

/// What reflection answers.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum ReflectionAnswer {
    /// Encoded `FileDescriptorProto`s.
    #[prost(message, tag = "4")]
    Files(FileDescriptors),
    /// Numbers of extensions.
    #[prost(message, tag = "5")]
    ExtensionNumbers(ExtensionNumbers),
    /// Names of services.
    #[prost(message, tag = "6")]
    Services(ServiceList),
    /// It can't tell.
    #[prost(message, tag = "7")]
    Error(ReflectionError),
}

/// `grpc.reflection.v1.FileDescriptorResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FileDescriptors {
    /// Encoded, one each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub files: Vec<bytes::Bytes>,
}

/// `grpc.reflection.v1.ExtensionNumberResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExtensionNumbers {
    /// The message.
    #[prost(string, tag = "1")]
    pub base_type: String,
    /// Its numbers.
    #[prost(int32, repeated, tag = "2")]
    pub numbers: Vec<i32>,
}

/// `grpc.reflection.v1.ListServiceResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ServiceList {
    /// The services.
    #[prost(message, repeated, tag = "1")]
    pub services: Vec<ServiceName>,
}

/// `grpc.reflection.v1.ServiceResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ServiceName {
    /// `package.Service`
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `grpc.reflection.v1.ErrorResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReflectionError {
    /// A gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `mortise.goplugin.v1.InvokeRequest`: any method by its name, for hosts that were not compiled against its messages.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InvokeRequest {
    /// `package.Service/Method`
    #[prost(string, tag = "1")]
    pub method: String,
    /// The method's request, encoded.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: bytes::Bytes,
}

/// `mortise.goplugin.v1.InvokeReply`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InvokeReply {
    /// The method's reply, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: bytes::Bytes,
}
