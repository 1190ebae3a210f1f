//! A plugin by this crate alone: go-plugin's own test service `grpctest.Test`, with its stream and both directions of the broker.
//!
//! Hosts of the tests, in Go and in Rust, start it. Its cookie and versions are those of `plugins/go-kv`.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a plugin of a test that can't go on should stop"
)]

#[path = "../tests/it/messages.rs"]
mod messages;
#[path = "../tests/it/pinger.rs"]
mod pinger;

use std::{io::Write as _, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};

use mortise_goplugin::{
    BoxFuture, Broker, CallHeaders, Cookie, Invitation, Invoked, Plugin, PluginOptions, Service, Shape,
};
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use tonic::Status;

use crate::{
    messages::{
        BIDIRECTIONAL, Bidirectional, DOUBLE, PING, PRINT_KV, PrintKvRequest, STREAM, TestRequest,
        TestResponse,
    },
    pinger::Pinger,
};

/// The plugin's application.
struct Pong {
    broker: Broker,
}

#[tokio::main]
async fn main() {
    let cookie = Cookie::parse("BASIC_PLUGIN=hello").unwrap();
    let invitation = match Invitation::from_process(&cookie) {
        Ok(invitation) => invitation,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let options = PluginOptions {
        versions: vec![1, 2, 3],
        ..PluginOptions::default()
    };
    let plugin = Plugin::bind(&invitation, &options).unwrap();
    let mut out = std::io::stdout();
    if std::env::var_os("PONG_NOISE").is_some() {
        out.write_all(b"noise before the handshake, as libraries make it\n")
            .unwrap();
    }
    out.write_all(plugin.handshake_line().as_bytes()).unwrap();
    out.flush().unwrap();
    // What it prints from here on goes to the host through the protocol; here it is made up.
    plugin.forward_output(&b"printed by pong\n"[..], false);
    plugin.serve(|broker| Arc::new(Pong { broker })).await.unwrap();
}

impl Service for Pong {
    fn shape(&self, method: &str) -> Option<Shape> {
        match method {
            DOUBLE | PRINT_KV | BIDIRECTIONAL => Some(Shape::Unary),
            STREAM => Some(Shape::Streaming),
            _ => None,
        }
    }

    fn call<'a>(&'a self, invoked: Invoked<'a>, payload: Bytes) -> BoxFuture<'a, Result<Bytes, Status>> {
        Box::pin(async move {
            let malformed = |error: prost::DecodeError| Status::invalid_argument(error.to_string());
            match invoked.method {
                DOUBLE => {
                    let TestRequest { input } = TestRequest::decode(payload).map_err(malformed)?;
                    Ok(TestResponse { output: 2 * input }.encode_to_vec().into())
                }
                PRINT_KV => {
                    let PrintKvRequest { key, .. } = PrintKvRequest::decode(payload).map_err(malformed)?;
                    match &*key {
                        "sleep" => std::future::pending().await,
                        "timeout" => Err(Status::not_found(format!("{:?}", invoked.timeout.is_some()))),
                        _ => Err(Status::invalid_argument(format!(
                            "`{key}` is no key of this plugin"
                        ))),
                    }
                }
                BIDIRECTIONAL => {
                    let Bidirectional { id } = Bidirectional::decode(payload).map_err(malformed)?;
                    let host = self.broker.dial(id).await?;
                    host.call(&format!("/{PING}"), &CallHeaders::default(), Bytes::new())
                        .await?;
                    let id = self.broker.next_id();
                    self.broker
                        .serve(id, Arc::new(Pinger("pong from the plugin")))
                        .await?;
                    Ok(Bidirectional { id }.encode_to_vec().into())
                }
                method => Err(Status::unimplemented(method.to_owned())),
            }
        })
    }

    fn stream<'a>(
        &'a self,
        _: Invoked<'a>,
        messages: BoxStream<'static, Result<Bytes, Status>>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes, Status>>, Status>> {
        let replies = messages.map(|message| {
            let TestRequest { input } =
                TestRequest::decode(message?).map_err(|error| Status::invalid_argument(error.to_string()))?;
            Ok(TestResponse { output: input }.encode_to_vec().into())
        });
        Box::pin(async move { Ok(replies.boxed()) })
    }

    fn descriptors(&self) -> (FileDescriptorSet, Vec<String>) {
        let method = |name: &str| MethodDescriptorProto {
            name: Some(name.to_owned()),
            input_type: Some(".grpctest.Number".to_owned()),
            output_type: Some(".grpctest.Number".to_owned()),
            ..MethodDescriptorProto::default()
        };
        let file = FileDescriptorProto {
            name: Some("pong.proto".to_owned()),
            package: Some("grpctest".to_owned()),
            syntax: Some("proto3".to_owned()),
            service: vec![ServiceDescriptorProto {
                name: Some("Test".to_owned()),
                method: ["Double", "PrintKV"].map(method).to_vec(),
                ..ServiceDescriptorProto::default()
            }],
            ..FileDescriptorProto::default()
        };
        (
            FileDescriptorSet { file: vec![file] },
            vec!["grpctest.Test".to_owned()],
        )
    }
}
