//! What goes in comes out.

use echo::contract::{EchoReply, EchoRequest, HostInfoRequest, ReverseRequest, VersionRequest};

use crate::World;

pub(crate) async fn echo(world: &World) {
    let request = EchoRequest {
        message: (0..=255).collect(),
        text: "two fields".to_owned(),
    };
    let reply = world.client("echo").echo(&request).await.unwrap();
    assert_eq!(
        reply,
        EchoReply {
            message: request.message,
            text: request.text
        }
    );
}

pub(crate) async fn empty(world: &World) {
    let reply = world.client("echo").echo(&EchoRequest::default()).await.unwrap();
    assert_eq!(reply, EchoReply::default());
    let version = world.client("echo").version(&VersionRequest {}).await.unwrap();
    assert_eq!(version.version, "1.0.0");
    let info = world.client("echo").host_info(&HostInfoRequest {}).await.unwrap();
    assert_eq!(info.plugin, "echo");
}

pub(crate) async fn sixteen_mib(world: &World) {
    // Not all zeros, so that a page mapped and not copied shows.
    let message: Vec<u8> = (0..16_usize << 20).map(|at| (at ^ (at >> 8)) as u8).collect();
    // A guest needs room for the request, its decoded form and the reply at once.
    world
        .load("roomy", |request| {
            request.limits.memory_bytes_max = Some(256 << 20)
        })
        .await;
    let reply = world
        .client("roomy")
        .echo(&EchoRequest {
            message: message.clone(),
            ..Default::default()
        })
        .await;
    assert!(reply.unwrap().message == message, "16 MiB came back changed");
}

pub(crate) async fn unicode(world: &World) {
    for text in ["", "a", "日本語", "🦀e\u{301}\u{200f}שלום", "\u{0}\u{10ffff}"] {
        let reply = world
            .client("echo")
            .reverse(&ReverseRequest {
                text: text.to_owned(),
            })
            .await
            .unwrap();
        assert_eq!(reply.text, text.chars().rev().collect::<String>());
    }
}
