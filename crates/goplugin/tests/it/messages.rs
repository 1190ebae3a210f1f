//! Messages of go-plugin's own test services, in package `grpctest`.

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct TestRequest {
    #[prost(int32, tag = "1")]
    pub(crate) input: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct TestResponse {
    #[prost(int32, tag = "2")]
    pub(crate) output: i32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PrintKvRequest {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(oneof = "KvValue", tags = "2, 3")]
    pub(crate) value: Option<KvValue>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(crate) enum KvValue {
    #[prost(string, tag = "2")]
    Text(String),
    #[prost(int32, tag = "3")]
    Number(i32),
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Bidirectional {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PongResponse {
    #[prost(string, tag = "1")]
    pub(crate) msg: String,
}

pub(crate) const DOUBLE: &str = "grpctest.Test/Double";
pub(crate) const PRINT_KV: &str = "grpctest.Test/PrintKV";
pub(crate) const BIDIRECTIONAL: &str = "grpctest.Test/Bidirectional";
pub(crate) const STREAM: &str = "grpctest.Test/Stream";
pub(crate) const PING: &str = "grpctest.PingPong/Ping";
