//! One of two plugins that call each other, to any depth, and depend on versions of one crate that do not fit each other: `left` is its counterpart.
#![forbid(unsafe_code)]

use std::hash::Hasher as _;

use mortise_sdk::prelude::*;

mortise_sdk::contract!();
use contract::{
    HashReply, HashRequest, Right, PassReply, PassRequest, LeftClient, Stop,
};

#[derive(Default)]
struct Counterpart;

#[mortise_sdk::plugin]
impl Right for Counterpart {
    fn hash(&self, _: &Cx, request: HashRequest) -> Result<HashReply> {
        Ok(HashReply {
            hash: hash(&request.text),
        })
    }

    fn pass(&self, cx: &Cx, request: PassRequest) -> Result<PassReply> {
        let headers = cx.metadata().iter();
        let own = Stop {
            instance: cx.instance().to_owned(),
            hash: hash("mortise"),
            caller: cx.caller().unwrap_or_default().to_owned(),
            depth: cx.depth(),
            traceparent: cx.traceparent().to_owned(),
            headers: headers.map(|it| (it.name.clone(), it.value.clone())).collect(),
            deadline_left_us: cx.remaining().map(|it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX)),
        };
        let mut stops = vec![own];
        if let Some(hops) = request.hops.checked_sub(1) {
            let next = LeftClient::new(cx).pass_blocking(&PassRequest { hops })?;
            stops.extend(next.stops);
        }
        Ok(PassReply { stops })
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}
