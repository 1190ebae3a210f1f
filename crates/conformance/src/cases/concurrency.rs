//! Many calls at once.

use echo::contract::{EchoRequest, SleepRequest};

use crate::World;

pub(crate) async fn calls_256(world: &World) {
    world
        .load("wide", |request| request.limits.concurrency = Some(64))
        .await;
    let calls: Vec<_> = (0..256_u32)
        .map(|number| {
            let client = world.client("wide");
            tokio::spawn(async move {
                // Half of them wait inside, so that calls really overlap and finish out of order.
                if number.is_multiple_of(2) {
                    client.sleep(&SleepRequest { ms: 5 + number % 20 }).await.unwrap();
                }
                let message = number.to_le_bytes().repeat(100);
                let reply = client
                    .echo(&EchoRequest {
                        message: message.clone(),
                        ..Default::default()
                    })
                    .await;
                assert!(
                    reply.unwrap().message == message,
                    "call {number} got another call's answer"
                );
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let counters = world.host.inspect("wide").unwrap().counters;
    assert_eq!(
        (counters.calls, counters.errors, counters.in_flight),
        (256 + 128, 0, 0)
    );
}
