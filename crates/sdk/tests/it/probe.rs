//! The plugin that these tests drive by hand: an ordinary one, from a contract of its own (`tests/probe`).

use std::{collections::BTreeMap, path::Path, time::Duration};

use mortise_sdk::{prelude::*, prost_types::Struct};

mortise_sdk::contract!("tests/probe/generated");
use contract::{act_request::Act, *};

pub(crate) struct Plugin {
    refused: bool,
}

#[mortise_sdk::plugin(
    start = Self::open,
    health = Self::health,
    also(Admin),
    generated = "tests/probe/generated",
    export = false
)]
impl Probe for Plugin {
    fn act(&self, cx: &Cx, request: ActRequest) -> Result<ActReply> {
        match request
            .act
            .ok_or_else(|| Status::invalid_argument("`act` is not set"))?
        {
            Act::Echo(bytes) => Ok(ActReply {
                bytes,
                ..ActReply::default()
            }),
            Act::Fail(code) => {
                let status = Status {
                    code,
                    ..Status::new(Code::Unknown, "as wished")
                };
                Err(status.with_detail("type.test/detail", vec![1, 2, 3]))
            }
            Act::Panic(message) => panic!("{message}"),
            Act::SleepMs(ms) => cx
                .sleep(Duration::from_millis(ms.into()))
                .map(|()| ActReply::default()),
            Act::AskElsewhere(text) => {
                let request = ActRequest {
                    act: Some(Act::Echo(text.into_bytes())),
                };
                ElsewhereClient::new(cx).ask_blocking(&request)
            }
            Act::Inspect(_) => {
                warn!(cx, { call = cx.call_id(), depth = cx.depth() }, "inspected by {:?}", cx.caller());
                Ok(ActReply {
                    seen: seen(cx),
                    ..ActReply::default()
                })
            }
            Act::Fill(bytes) => Ok(ActReply {
                bytes: vec![7; bytes as usize],
                ..ActReply::default()
            }),
        }
    }

    fn act_inline(&self, cx: &Cx, request: ActRequest) -> Result<ActReply> {
        self.act(cx, request)
    }

    fn free(&self, _: &Cx, request: Struct) -> Result<Struct> {
        Ok(request)
    }
}

impl Admin for Plugin {
    fn keys(&self, cx: &Cx, request: KeysRequest) -> Result<KeysReply> {
        Ok(KeysReply {
            keys: cx.kv().list(&request.prefix, 10)?,
        })
    }
}

impl Plugin {
    /// Asks the host for something, because a start may: a runtime that cannot answer during start hangs here.
    fn open(cx: &Cx) -> Result<Self> {
        if cx.config_json().contains("\"ask\"") {
            cx.kv().get("at-start")?;
        }
        if cx.config_json().contains("\"refuse\"") {
            return Err(Status::failed_precondition("it was told to refuse"));
        }
        if cx.config_json().contains("\"panic\"") {
            panic!("in start");
        }
        Ok(Self {
            refused: cx.config_json().contains("\"sick\""),
        })
    }

    fn health(&self) -> Result<()> {
        if self.refused {
            Err(Status::unavailable("it was told to be sick"))
        } else {
            Ok(())
        }
    }
}

fn seen(cx: &Cx) -> BTreeMap<String, String> {
    let left = cx
        .remaining()
        .map_or("none".to_owned(), |it| (!it.is_zero()).to_string());
    let fixed = [
        ("call_id", cx.call_id().to_string()),
        ("traceparent", cx.traceparent().to_owned()),
        ("caller", cx.caller().unwrap_or("nobody").to_owned()),
        ("depth", cx.depth().to_string()),
        ("time left", left),
        ("plugin", cx.plugin().to_owned()),
        ("version", cx.version().to_owned()),
        ("instance", cx.instance().to_owned()),
        ("config", cx.config_json().to_owned()),
        ("cancelled", cx.is_cancelled().to_string()),
    ];
    let headers = cx
        .metadata()
        .iter()
        .map(|it| (format!("header {}", it.name), it.value.clone()));
    fixed
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(headers)
        .collect()
}

/// Numbers of the methods, as the metadata sorts them.
pub(crate) mod number {
    pub(crate) const KEYS: u32 = 0;
    pub(crate) const ACT: u32 = 1;
    pub(crate) const ACT_INLINE: u32 = 2;
    pub(crate) const FREE: u32 = 3;
    pub(crate) const END: u32 = 4;
}

/// `BLESS=1 cargo test -p mortise-sdk` rewrites it.
#[test]
fn generated_code_is_current() {
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe");
    let fresh = tempfile::tempdir().expect("a directory for the fresh code");
    mortise_build::Builder::new()
        .manifest(probe.join("plugin.toml"))
        .contract_dir(probe.join("contract"))
        .out_dir(fresh.path())
        .compile()
        .expect("it compiles");
    for name in ["mortise.rs", "mortise.meta", "mortise_metadata.rs"] {
        let generated = probe.join("generated").join(name);
        let fresh = std::fs::read(fresh.path().join(name)).expect("it was written");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&generated, &fresh).expect("writes the blessed code");
        }
        let current = std::fs::read(&generated).unwrap_or_default();
        assert!(
            current == fresh,
            "{name} is stale: run `BLESS=1 cargo test -p mortise-sdk` and commit it"
        );
    }
}
