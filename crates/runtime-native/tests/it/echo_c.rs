//! The example plugin in plain C, through the same contract as the one in Rust.

use std::{path::PathBuf, process::Command, sync::Arc};

use bytes::Bytes;
use mortise_contract::Contract;
use mortise_manifest::{Grant, Limits, Manifest, RuntimeName};
use mortise_runtime::{
    Artifact, CallContext, CallErrorKind as Kind, Digest, Instance, InstanceId, MethodIndex, PluginId,
    Runtime, Start,
};
use mortise_wire::{Code, Metadata};
use prost::Message;

use crate::bench::{Bench, LONG, context, has_compiler, root};

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct EchoMessage {
    #[prost(bytes = "vec", tag = "1")]
    message: Vec<u8>,
    #[prost(string, tag = "2")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct FailRequest {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
    #[prost(bool, tag = "4")]
    retryable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Numbers {
    #[prost(uint64, tag = "1")]
    first: u64,
}

#[derive(Clone, PartialEq, Message)]
struct LogRequest {
    #[prost(uint32, tag = "1")]
    lines: u32,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct CallRequest {
    #[prost(string, tag = "1")]
    target: String,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct HostInfo {
    #[prost(bool, tag = "1")]
    has_deadline: bool,
    #[prost(string, tag = "3")]
    traceparent: String,
    #[prost(map = "string, string", tag = "4")]
    metadata: std::collections::HashMap<String, String>,
    #[prost(string, tag = "9")]
    version: String,
    #[prost(string, tag = "11")]
    config_json: String,
}

struct EchoC {
    bench: Bench,
    metadata: Metadata,
    artifact: Artifact,
}

fn folder() -> PathBuf {
    root().join("plugins/echo-c")
}

impl EchoC {
    fn build() -> Self {
        let bench = Bench::new();
        let toml = std::fs::read_to_string(folder().join("plugin.toml")).unwrap();
        let manifest = Manifest::parse(&toml, "plugin.toml").unwrap();
        let descriptors = mortise_build::compile_protos(&folder().join("contract"))
            .unwrap()
            .descriptor_set;
        let metadata = mortise_build::metadata(&toml, &descriptors).unwrap();
        let contract = Contract::from_descriptor_set(&descriptors, &manifest.provides).unwrap();
        std::fs::write(
            bench.dir.path().join("metadata.h"),
            mortise_build::write_c(&metadata),
        )
        .unwrap();
        let library = bench.dir.path().join("libecho_c.so");
        let compiled = Command::new("gcc")
            .args([
                "-std=c11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
                "-shared",
                "-fPIC",
                "-I",
            ])
            .arg(root().join("include"))
            .arg("-I")
            .arg(bench.dir.path())
            .arg(folder().join("echo.c"))
            .arg("-o")
            .arg(&library)
            .output()
            .unwrap();
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let bytes = Bytes::from(std::fs::read(library).unwrap());
        let artifact = Artifact {
            plugin: PluginId {
                name: manifest.name.into(),
                version: manifest.version,
            },
            runtime: RuntimeName::Native,
            digest: Digest::of(&bytes),
            bytes,
            path: None,
            dialect: None,
            contract: Arc::new(contract),
        };
        Self {
            bench,
            metadata,
            artifact,
        }
    }

    async fn start(&self, config_json: &str) -> Result<Box<dyn Instance>, mortise_runtime::RuntimeError> {
        let runtime = &self.bench.runtime;
        let found = runtime.read_metadata(&self.artifact).unwrap();
        assert_eq!(found, self.metadata, "the section holds what was generated");
        let verified = self.artifact.clone().verify(found).unwrap();
        let prepared = runtime.prepare(&verified, &Grant::default()).await.unwrap();
        let start = Start {
            instance: InstanceId("echo-c@1.0.0#1".into()),
            limits: Limits::default(),
            config_json: config_json.into(),
            services: self.bench.host.clone(),
            pure: false,
        };
        runtime.start(prepared, start).await
    }

    fn method(&self, name: &str) -> MethodIndex {
        let index = self
            .metadata
            .methods
            .iter()
            .position(|it| it.name == name)
            .unwrap();
        MethodIndex(u32::try_from(index).unwrap())
    }

    async fn raw(
        &self,
        echo: &dyn Instance,
        cx: &CallContext,
        method: &str,
        request: Vec<u8>,
    ) -> Result<Bytes, mortise_runtime::CallError> {
        echo.call()
            .unwrap()
            .call(cx, self.method(method), request.into())
            .await
    }

    async fn call<R: Message + Default>(
        &self,
        echo: &dyn Instance,
        method: &str,
        request: &impl Message,
    ) -> Result<R, mortise_runtime::CallError> {
        let reply = self
            .raw(echo, &context(LONG), method, request.encode_to_vec())
            .await?;
        Ok(R::decode(reply).unwrap())
    }
}

#[test]
fn the_contract_is_the_one_of_the_rust_guest() {
    let read = |folder: &str| {
        std::fs::read_to_string(root().join("plugins").join(folder).join("contract/echo.proto")).unwrap()
    };
    assert_eq!(read("echo-c"), read("echo"));
}

#[tokio::test]
async fn a_plugin_in_c_answers_every_kind_of_call() {
    if !has_compiler() {
        return;
    }
    let c = EchoC::build();
    let echo = c.start(r#"{"quality": 80}"#).await.unwrap();
    let echo = &*echo;

    let sent = EchoMessage {
        message: vec![0, 1, 255],
        text: "grüß dich".to_owned(),
    };
    assert_eq!(c.call::<EchoMessage>(echo, "Echo", &sent).await.unwrap(), sent);
    for (text, reversed) in [("", ""), ("abc", "cba"), ("añ😀z", "z😀ña")] {
        let reply: Text = c
            .call(
                echo,
                "Reverse",
                &Text {
                    text: text.to_owned(),
                },
            )
            .await
            .unwrap();
        assert_eq!(reply.text, reversed);
    }
    let detail = prost_types::Any {
        type_url: "type.googleapis.com/a.B".to_owned(),
        value: vec![1],
    };
    let request = FailRequest {
        code: 5,
        message: "no cat".to_owned(),
        details: vec![detail],
        retryable: true,
    };
    let error = c.call::<Text>(echo, "Fail", &request).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.status().kind(), error.to_string().as_str()),
        (Kind::Returned, Code::NotFound, "no cat")
    );
    assert_eq!(
        (&error.status().details, error.status().retryable),
        (&request.details, true)
    );

    for number in 1..=3 {
        assert_eq!(
            c.call::<Numbers>(echo, "Count", &Text::default())
                .await
                .unwrap()
                .first,
            number
        );
    }
    assert_eq!(
        c.call::<Numbers>(echo, "Allocate", &Numbers { first: 3 })
            .await
            .unwrap()
            .first,
        3 << 20
    );
    assert_eq!(
        c.call::<Text>(echo, "Version", &Text::default())
            .await
            .unwrap()
            .text,
        "1.0.0"
    );

    let mut cx = context(LONG);
    cx.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    cx.metadata = Arc::new([mortise_wire::Header {
        name: "x-canary".to_owned(),
        value: "1".to_owned(),
    }]);
    let info = HostInfo::decode(c.raw(echo, &cx, "HostInfo", Vec::new()).await.unwrap()).unwrap();
    assert_eq!(
        (info.has_deadline, &*info.traceparent, &*info.version),
        (true, &*cx.traceparent, "1.0.0")
    );
    assert_eq!(
        (info.metadata["x-canary"].as_str(), &*info.config_json),
        ("1", r#"{"quality": 80}"#)
    );

    let health = echo.health().await.unwrap();
    assert!(health.serving);
    assert_eq!(echo.stop(LONG).await.forced, None);
}

#[tokio::test]
async fn a_plugin_in_c_uses_its_host() {
    if !has_compiler() {
        return;
    }
    let c = EchoC::build();
    let echo = c.start("{}").await.unwrap();
    let echo = &*echo;
    let request = LogRequest {
        lines: 2,
        message: "from C".to_owned(),
    };
    c.call::<Text>(echo, "Log", &request).await.unwrap();
    assert_eq!(
        *c.bench.host.lines.lock().unwrap(),
        [(); 2].map(|()| ("from C".to_owned(), 4711, Some(4711)))
    );
    let request = CallRequest {
        target: "echo".to_owned(),
        payload: b"there and back".to_vec(),
    };
    let reply: EchoMessage = c.call(echo, "CallPlugin", &request).await.unwrap();
    assert_eq!(reply.message, request.payload);
    let error = c
        .call::<Text>(
            echo,
            "KvRoundTrip",
            &Text {
                text: "key".to_owned(),
            },
        )
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.status().kind()),
        (Kind::Returned, Code::Unimplemented),
        "the host's status is passed on"
    );
}

#[tokio::test]
async fn a_plugin_in_c_refuses_what_does_not_parse() {
    if !has_compiler() {
        return;
    }
    let c = EchoC::build();
    let echo = c.start("{}").await.unwrap();
    let cases: &[&[u8]] = &[
        b"\xff\xff\xff",
        b"\x0a\x05abc",
        b"\x08\x01",
        b"\x12\x01a",
        b"\x0a\x02\xc3\x28",
        b"\x1a\x02\x0a\x05",
        b"\x0a\x03\xed\xa0\x80",
        b"\x0a\x02\xc0\x80",
        b"\x00",
        b"\x0b",
    ];
    for bytes in cases {
        let error = c
            .raw(&*echo, &context(LONG), "Malformed", bytes.to_vec())
            .await
            .unwrap_err();
        assert_eq!(error.status().kind(), Code::InvalidArgument, "{bytes:x?}");
    }
    let fine: &[u8] = b"\x0a\x02\xc3\xa4\x11\x01\x02\x03\x04\x05\x06\x07\x08\x1a\x03\x0a\x01a";
    c.raw(&*echo, &context(LONG), "Malformed", fine.to_vec())
        .await
        .unwrap();
    let error = c
        .start(r#"{"refuse": "no license"}"#)
        .await
        .map(|_| ())
        .expect_err("refuses");
    assert!(error.to_string().contains("no license"), "{error}");
}
