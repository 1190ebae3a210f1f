//! Deadlines and cancellation.

use std::time::{Duration, Instant};

use echo::contract::{HostInfoReply, HostInfoRequest, SleepRequest};
use mortise::{CallErrorKind, CallOptions};
use prost::Message as _;

use crate::World;

fn within(time: Duration) -> CallOptions {
    CallOptions {
        deadline: Some(Instant::now() + time),
        ..CallOptions::default()
    }
}

pub(crate) async fn deadline(world: &World) {
    let payload = SleepRequest { ms: 60_000 }.encode_to_vec();
    let call = world.host.call(
        "plugin.echo.Sleep",
        payload.into(),
        within(Duration::from_millis(200)),
    );
    let error = call.await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline, "{error}");
    assert!(
        error.to_string().contains("Sleep"),
        "the error names the method: {error}"
    );
    world.serves("echo").await;
}

pub(crate) async fn deadline_is_visible(world: &World) {
    let payload = HostInfoRequest {}.encode_to_vec();
    let options = within(Duration::from_secs(3600));
    let reply = world
        .host
        .call("plugin.echo.HostInfo", payload.into(), options)
        .await
        .unwrap();
    let info = HostInfoReply::decode(reply).unwrap();
    assert!(info.has_deadline);
    let left = Duration::from_nanos(info.deadline_left_ns);
    assert!(
        left > Duration::from_secs(1800) && left <= Duration::from_secs(3600),
        "{left:?} left of an hour"
    );
}

pub(crate) async fn cancel(world: &World) {
    world
        .load("narrow", |request| request.limits.concurrency = Some(1))
        .await;
    let payload = SleepRequest { ms: 60_000 }.encode_to_vec();
    let running = {
        let host = world.host.clone();
        let options = within(Duration::from_secs(120));
        tokio::spawn(async move { host.call("plugin.narrow.Sleep", payload.into(), options).await })
    };
    let in_flight = || world.host.inspect("narrow").unwrap().counters.in_flight;
    world
        .until("the call is in the plugin", async || in_flight() == 1)
        .await;
    running.abort();
    world
        .until("the cancelled call has left the plugin", async || {
            in_flight() == 0
        })
        .await;
    // The only place is free again: another call gets it long before the sleep would have ended.
    world.serves("narrow").await;
}
