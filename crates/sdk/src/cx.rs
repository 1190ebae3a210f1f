//! What a plugin sees of the world during one call.
//!
//! A `Cx` is made by the runtime's adapter for one call and lent to the method; it cannot be kept. Everything in it is lazy: a
//! method that asks for nothing pays for nothing (no clock is read, no head is decoded, nothing is allocated).

use std::{
    fmt::Display,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use mortise_wire::{
    CallHead, Header, Level, LogRecord, StartRequest, Status,
    client::{BlockingCaller, unary_blocking},
    host::{HttpReply, HttpRequest, target},
};

use crate::{Code, Kv, Result};

/// One call as the plugin sees it: who calls, how long it may take, and the way to the host.
///
/// The same type is handed to `start`, where there is no call: no deadline, no metadata, nobody to cancel.
///
/// `L` is the runtime's side of it; plugin code writes `&Cx`.
pub struct Cx<L: ?Sized = dyn Link> {
    head: OnceLock<CallHead>,
    link: L,
}

/// A runtime's side of a [`Cx`]. Implemented by the three guest adapters, and by a test that wants to be the host.
pub trait Link: Send + Sync {
    /// What the instance was started with.
    fn started(&self) -> &StartRequest;
    /// The call's head; asked for at most once, and only if the method looks at it.
    fn head(&self) -> CallHead;
    /// Time since the call reached the guest.
    fn elapsed(&self) -> Duration;
    /// Whether the host said that nobody waits for the reply any more.
    fn is_cancelled(&self) -> bool;
    /// Time of day.
    ///
    /// # Errors
    /// Where it has to be asked for and the host does not answer.
    fn now(&self) -> Result<SystemTime>;
    /// Waits that long, or until the call is cancelled.
    fn wait(&self, duration: Duration);
    /// Gives a line to the host. Never fails.
    fn log(&self, record: &LogRecord);
    /// Calls `package.Service/Method` on behalf of this call, which the head identifies.
    ///
    /// # Errors
    /// The callee's status, or the host's own.
    fn call(&self, call_id: u64, target: &str, payload: Vec<u8>) -> Result<Vec<u8>>;
}

/// Outbound HTTP. Needs permission `net.connect` for the host and port of every hop, redirects included.
#[derive(Clone, Copy)]
pub struct Http<'a> {
    cx: &'a Cx,
}

// === impl Cx: made by an adapter ===

impl<L: Link> Cx<L> {
    /// Wraps a runtime's side. `&Cx<L>` coerces to `&Cx`.
    pub const fn new(link: L) -> Self {
        Self {
            head: OnceLock::new(),
            link,
        }
    }
}

// === impl Cx: the call ===

impl Cx {
    /// Time left until the deadline; `None` where the call has none.
    ///
    /// In WebAssembly the clock is the host's, and is read for the first time here: time spent before the first `remaining` of a call
    /// is not seen. The host enforces the deadline either way.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let deadline_ns = self.head().deadline_ns;
        (deadline_ns != 0).then(|| Duration::from_nanos(deadline_ns).saturating_sub(self.link.elapsed()))
    }

    /// The deadline as a time of day; `None` where the call has none, or the time is not to be had.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        let left = self.remaining()?;
        Some(self.now().ok()? + left)
    }

    /// Whether nobody waits for the reply any more: the caller is gone, or the deadline has passed.
    ///
    /// Work that takes long asks now and then and returns early; [`Cx::check`] does both. A native plugin that does not ask keeps its
    /// thread, and the host ends it as stuck.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.link.is_cancelled() || self.remaining().is_some_and(|it| it.is_zero())
    }

    /// Ok while somebody waits for the reply: `cx.check()?` in a loop makes it end in time.
    ///
    /// # Errors
    /// `DeadlineExceeded` or `Cancelled`.
    pub fn check(&self) -> Result<()> {
        if self.remaining().is_some_and(|it| it.is_zero()) {
            return Err(Status::new(
                Code::DeadlineExceeded,
                "the call's deadline passed while the plugin was working",
            ));
        }
        if self.link.is_cancelled() {
            return Err(Status::new(Code::Cancelled, "the caller is gone"));
        }
        Ok(())
    }

    /// Waits that long, or until nobody waits for the reply any more.
    ///
    /// WebAssembly has no way to wait yet: there it asks the host's clock until the time has come, which burns CPU.
    ///
    /// # Errors
    /// As [`Cx::check`].
    pub fn sleep(&self, duration: Duration) -> Result<()> {
        let longest = self.remaining().map_or(duration, |it| it.min(duration));
        self.link.wait(longest);
        self.check()
    }

    /// Time of day.
    ///
    /// # Errors
    /// In WebAssembly, where the host is asked for it, if it does not answer.
    pub fn now(&self) -> Result<SystemTime> {
        self.link.now()
    }

    /// Number of this call within the instance; 0 in `start`. It is in every log line of the call.
    #[must_use]
    pub fn call_id(&self) -> u64 {
        self.head().call_id
    }

    /// W3C traceparent of this call; empty if it is not traced.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        &self.head().traceparent
    }

    /// The caller's headers that the host's `routing.propagate` names. Names are in lower case.
    #[must_use]
    pub fn metadata(&self) -> &[Header] {
        &self.head().metadata
    }

    /// The value of one such header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.metadata()
            .iter()
            .find(|it| it.name.eq_ignore_ascii_case(name))
            .map(|it| &*it.value)
    }

    /// The plugin that makes this call; `None` if it came from outside.
    #[must_use]
    pub fn caller(&self) -> Option<&str> {
        Some(&*self.head().caller).filter(|it| !it.is_empty())
    }

    /// How many plugins called each other to get here; 0 for a call from outside.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.head().depth
    }

    fn head(&self) -> &CallHead {
        self.head.get_or_init(|| self.link.head())
    }
}

// === impl Cx: the instance ===

impl Cx {
    /// Name under which the host runs this plugin.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.link.started().plugin
    }

    /// Version of this plugin.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.link.started().version
    }

    /// Name of this running copy.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.link.started().instance
    }

    /// The operator's configuration of this plugin as it was at start: JSON text, an object.
    #[must_use]
    pub fn config_json(&self) -> &str {
        let text = &*self.link.started().config_json;
        if text.is_empty() { "{}" } else { text }
    }

    /// The operator's configuration of this plugin as it was at start.
    ///
    /// # Errors
    /// `FailedPrecondition` that says where it does not fit `T`; returned from `start`, it refuses the configuration.
    #[cfg(feature = "serde")]
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.config_json()).map_err(|error| {
            Status::failed_precondition(format_args!(
                "the configuration of plugin `{}` does not fit: {error}",
                self.plugin()
            ))
        })
    }
}

// === impl Cx: log ===

impl Cx {
    /// A log line at level `error`.
    pub fn error(&self, message: impl Display) {
        self.log(Level::Error, message, &[]);
    }

    /// A log line at level `warn`.
    pub fn warn(&self, message: impl Display) {
        self.log(Level::Warn, message, &[]);
    }

    /// A log line at level `info`.
    pub fn info(&self, message: impl Display) {
        self.log(Level::Info, message, &[]);
    }

    /// A log line at level `debug`.
    pub fn debug(&self, message: impl Display) {
        self.log(Level::Debug, message, &[]);
    }

    /// A log line at level `trace`.
    pub fn trace(&self, message: impl Display) {
        self.log(Level::Trace, message, &[]);
    }

    /// A log line with fields. The macros [`error!`](crate::error!) to [`trace!`](crate::trace!) write it more shortly.
    pub fn log(&self, level: Level, message: impl Display, fields: &[(&str, &dyn Display)]) {
        self.link.log(&LogRecord {
            level: level as i32,
            target: String::new(),
            message: message.to_string(),
            fields: fields
                .iter()
                .map(|(name, value)| Header {
                    name: (*name).to_owned(),
                    value: value.to_string(),
                })
                .collect(),
            call_id: self.call_id(),
        });
    }
}

// === impl Cx: the host's services and other plugins ===

impl Cx {
    /// This plugin's private key-value data, which survives a swap and a restart. Needs permission `kv`.
    #[must_use]
    pub fn kv(&self) -> Kv<'_> {
        Kv::new(self)
    }

    /// Outbound HTTP.
    #[must_use]
    pub fn http(&self) -> Http<'_> {
        Http { cx: self }
    }
}

impl BlockingCaller for Cx {
    fn call_blocking(&self, target: &str, payload: Vec<u8>) -> Result<Vec<u8>> {
        self.link.call(self.call_id(), target, payload)
    }
}

// === impl Http ===

impl Http<'_> {
    /// Fetches `url`.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub fn get(self, url: &str) -> Result<HttpReply> {
        self.send(&HttpRequest {
            method: "GET".to_owned(),
            url: url.to_owned(),
            ..HttpRequest::default()
        })
    }

    /// Sends a request and waits for the whole reply. A status of 400 or more is a reply, not an error.
    ///
    /// # Errors
    /// `PermissionDenied` that names the missing grant, `DeadlineExceeded`, `Unavailable`.
    pub fn send(self, request: &HttpRequest) -> Result<HttpReply> {
        unary_blocking(self.cx, target::HTTP_SEND, request)
    }
}
