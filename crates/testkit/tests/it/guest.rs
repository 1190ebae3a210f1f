//! A plugin as `mortise-build` and `#[mortise_sdk::plugin]` would put it together.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mortise_sdk::{
    Cx, Result, Status,
    guest::{Build, Lifecycle, Method, MethodOf, Plugin, Service},
    prost,
};

/// Checked by `the_metadata_is_current`.
pub(crate) const METADATA: &[u8] = include_bytes!("../guest.meta");

/// Set when a `Wait` heard that nobody waits any more.
pub(crate) static WAITED: AtomicBool = AtomicBool::new(false);

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

pub(crate) struct Guest;

impl Plugin for Guest {
    const BUILD: Build = Build {
        name: "guest",
        version: "1.0.0",
        methods: 5,
        concurrency: 4,
        contract_hash: [0; 32],
        lifecycle: Lifecycle::NONE,
    };
    const METADATA: &'static [u8] = METADATA;
    const SERVICES: &'static [Service<Self>] = &[Service {
        name: "testkit.v1.Guest",
        first: 0,
        methods: &[
            Method::of::<Count>(),
            Method::of::<Header>(),
            Method::of::<Hurry>(),
            Method::of::<Panic>(),
            Method::of::<Wait>(),
        ],
    }];

    fn start(cx: &Cx) -> Result<Self> {
        if cx.config_json().contains("refuse") {
            return Err(Status::failed_precondition("refuse is set"));
        }
        Ok(Self)
    }
}

macro_rules! method {
    ($name:ident, $flags:expr, |$cx:ident, $text:ident| $body:expr) => {
        enum $name {}

        impl MethodOf<Guest> for $name {
            const SERVICE: &'static str = "testkit.v1.Guest";
            const NAME: &'static str = stringify!($name);
            const FLAGS: u32 = $flags;
            const WIRE_HASH: [u8; 32] = [0; 32];
            type Request = Text;
            type Reply = Text;

            fn call(_: &Guest, $cx: &Cx, Text { text: $text }: Text) -> Result<Text> {
                Ok(Text { text: $body })
            }
        }
    };
}

method!(Count, 0, |cx, key| {
    let before = cx.kv().get(&key)?.map_or(0, |it| it[0]);
    cx.kv().set(&key, [before + 1])?;
    (before + 1).to_string()
});
method!(Header, 0, |cx, name| cx
    .header(&name)
    .unwrap_or_default()
    .to_owned());
method!(Hurry, mortise_wire::METHOD_NONBLOCKING, |cx, key| {
    cx.kv().get(&key)?;
    key
});
method!(Panic, 0, |_cx, text| fall(&text)?);
method!(Wait, 0, |cx, text| {
    if let Err(status) = cx.sleep(Duration::from_secs(600)) {
        WAITED.store(true, Ordering::SeqCst);
        return Err(status);
    }
    text
});

fn fall(text: &str) -> Result<String> {
    panic!("{text}")
}
