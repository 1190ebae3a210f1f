//! Tells what reaches a plugin of this host, and fails on purpose when asked to.
//!
//! The command `mortise` has it compiled in (`source = "builtin:ping"`); like every plugin it also builds for the other runtimes, and then
//! shows what reaches a plugin *there*.
#![forbid(unsafe_code)]

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use mortise_sdk::{
    lifecycle::{Configured, NewConfig},
    prelude::*,
};
use serde::Deserialize;

mortise_sdk::contract!();
use contract::{FailReply, FailRequest, Ping, PingReply, PingRequest};

/// The plugin.
#[derive(Debug)]
pub struct Plugin {
    settings: RwLock<Settings>,
}

/// Its configuration in `mortise.toml`: `config = { text = "eu-west-1" }`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// What it answers to a ping that brings no text.
    text: String,
}

#[mortise_sdk::plugin(start = Self::open, configure = Self::configure)]
impl Ping for Plugin {
    fn ping(&self, cx: &Cx, request: PingRequest) -> Result<PingReply> {
        cx.sleep(Duration::from_millis(request.delay_ms.into()))?;
        let since_1970 = cx
            .now()?
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let headers = cx.metadata().iter();
        Ok(PingReply {
            text: if request.text.is_empty() {
                let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
                settings.text.clone()
            } else {
                request.text
            },
            plugin: cx.plugin().to_owned(),
            version: cx.version().to_owned(),
            instance: cx.instance().to_owned(),
            unix_ms: milliseconds(since_1970),
            deadline_left_ms: cx.remaining().map(milliseconds),
            traceparent: cx.traceparent().to_owned(),
            headers: headers.map(|it| (it.name.clone(), it.value.clone())).collect(),
            caller: cx.caller().unwrap_or_default().to_owned(),
            depth: cx.depth(),
        })
    }

    fn fail(&self, _: &Cx, request: FailRequest) -> Result<FailReply> {
        if request.code == 0 {
            return Err(Status::invalid_argument(
                "`code` is 0, which is no failure; give a gRPC code from 1 to 16",
            ));
        }
        Err(Status {
            code: request.code,
            message: request.message,
            retryable: request.retryable,
            ..Status::default()
        })
    }
}

impl Plugin {
    fn open(cx: &Cx) -> Result<Self> {
        Ok(Self {
            settings: RwLock::new(cx.config()?),
        })
    }

    fn configure(&self, _: &Cx, new: &NewConfig<'_>) -> Result<Configured> {
        let new = new.parse()?;
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(Configured::Applied)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
