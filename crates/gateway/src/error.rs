//! One table from the kinds of the core to the codes of the protocols, and the words that go with them.
//!
//! JSON-RPC answers are always sent with HTTP status 200, because the spec's clients read the body only then; the table's HTTP
//! column is for everything that is not a JSON-RPC answer (health, refusals before the body is read).

use http::StatusCode;
use mortise_host::{HostError, HostErrorKind};
use mortise_runtime::{Blame, CallError, CallErrorKind, Refusal};
use mortise_wire::Code;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Codes that JSON-RPC 2.0 itself defines.
pub mod code {
    /// The body is not JSON.
    pub const PARSE_ERROR: i32 = -32700;
    /// The JSON is not a request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// No such method, or no plugin that provides it.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The parameters do not fit the method's contract.
    pub const INVALID_PARAMS: i32 = -32602;
    /// Broken on our side.
    pub const INTERNAL: i32 = -32603;
}

/// What one kind of error is called in each protocol.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The kind.
    pub kind: CallErrorKind,
    /// JSON-RPC's code for it.
    pub json_rpc: i32,
    /// HTTP's.
    pub http: StatusCode,
    /// gRPC's; `None` = the plugin's own.
    pub grpc: Option<Code>,
}

const fn row(kind: CallErrorKind, json_rpc: i32, http: StatusCode, grpc: Option<Code>) -> Row {
    Row {
        kind,
        json_rpc,
        http,
        grpc,
    }
}

/// The table. -32000 to -32099 is the range that JSON-RPC leaves to servers.
pub const TABLE: [Row; 12] = {
    use CallErrorKind as K;
    [
        row(K::Returned, -32000, StatusCode::UNPROCESSABLE_ENTITY, None),
        row(
            K::NotFound,
            code::METHOD_NOT_FOUND,
            StatusCode::NOT_FOUND,
            Some(Code::Unimplemented),
        ),
        row(
            K::Malformed,
            code::INVALID_PARAMS,
            StatusCode::BAD_REQUEST,
            Some(Code::InvalidArgument),
        ),
        row(
            K::Denied,
            -32001,
            StatusCode::FORBIDDEN,
            Some(Code::PermissionDenied),
        ),
        row(
            K::Deadline,
            -32002,
            StatusCode::GATEWAY_TIMEOUT,
            Some(Code::DeadlineExceeded),
        ),
        row(
            K::Cancelled,
            -32003,
            StatusCode::REQUEST_TIMEOUT,
            Some(Code::Cancelled),
        ),
        row(
            K::Exhausted,
            -32004,
            StatusCode::TOO_MANY_REQUESTS,
            Some(Code::ResourceExhausted),
        ),
        row(
            K::GuestFault,
            -32005,
            StatusCode::BAD_GATEWAY,
            Some(Code::Internal),
        ),
        row(
            K::Incompatible,
            -32006,
            StatusCode::CONFLICT,
            Some(Code::FailedPrecondition),
        ),
        row(
            K::Draining,
            -32007,
            StatusCode::SERVICE_UNAVAILABLE,
            Some(Code::Unavailable),
        ),
        row(
            K::Unavailable,
            -32008,
            StatusCode::SERVICE_UNAVAILABLE,
            Some(Code::Unavailable),
        ),
        row(
            K::HostBug,
            code::INTERNAL,
            StatusCode::INTERNAL_SERVER_ERROR,
            Some(Code::Internal),
        ),
    ]
};

/// The row of `kind`.
#[must_use]
pub fn lookup(kind: CallErrorKind) -> &'static Row {
    // `HostBug` is the last row: a kind that is missing here is our own fault.
    TABLE
        .iter()
        .find(|row| row.kind == kind)
        .unwrap_or(&TABLE[TABLE.len() - 1])
}

/// JSON-RPC's code for what the control socket could not do to a plugin.
#[must_use]
pub fn host_code(kind: HostErrorKind) -> i32 {
    match kind {
        HostErrorKind::Invalid => code::INVALID_PARAMS,
        HostErrorKind::NotFound => -32010,
        HostErrorKind::Refused => -32011,
        HostErrorKind::Quarantined => -32012,
        HostErrorKind::StartFailed => -32013,
        HostErrorKind::Conflict => -32014,
        HostErrorKind::Storage => -32015,
        HostErrorKind::ShuttingDown => -32016,
        _ => code::INTERNAL,
    }
}

/// How much an answer tells about faults that are not the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// The text of guest faults and host bugs stays in the host's log; the caller gets the trace id to find it by. The default for
    /// the network: panic messages quote data.
    #[default]
    Public,
    /// Everything. For the control socket, whose callers could read the log anyway.
    Full,
}

/// The `error` object of a JSON-RPC answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RpcError {
    /// See [`TABLE`] and [`code`].
    pub code: i32,
    /// What failed and why.
    pub message: String,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<ErrorData>>,
}

/// The `error.data` object of a JSON-RPC answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ErrorData {
    /// The kind: `CallErrorKind::as_str`, or `parse_error`, `invalid_request`.
    pub kind: String,
    /// The plugin, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whose fault it is: `caller`, `guest`, `host`, `machine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blame: Option<String>,
    /// gRPC's name of the status, `INVALID_ARGUMENT` say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Whether to try again: it may succeed and does no harm, because the method is idempotent, the plugin had not begun, or it said so itself.
    #[serde(default)]
    pub retryable: bool,
    /// Trace id under which the host's log has more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// What the plugin attached: objects with `@type`, mapped by its contract or, where that does not know the type, with its bytes in
    /// `value` as base64. For refusals of the host: one object per reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Box<RawValue>>,
}

impl RpcError {
    /// An error of JSON-RPC itself.
    pub(crate) fn protocol(
        code: i32,
        kind: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let data = ErrorData {
            kind: kind.to_owned(),
            hint: Some(hint.into()),
            blame: Some("caller".to_owned()),
            ..ErrorData::default()
        };
        Self {
            code,
            message: message.into(),
            data: Some(Box::new(data)),
        }
    }

    /// The JSON is no request.
    pub(crate) fn invalid_request(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::protocol(code::INVALID_REQUEST, "invalid_request", message, hint)
    }

    /// The parameters do not fit.
    pub(crate) fn invalid_params(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::protocol(
            code::INVALID_PARAMS,
            CallErrorKind::Malformed.as_str(),
            message,
            hint,
        )
    }

    /// A call that failed, in the words of this edge. `details` are the status's details, already as JSON.
    pub(crate) fn from_call(error: &CallError, call: &FailedCall<'_>, details: Vec<Box<RawValue>>) -> Self {
        let kind = error.kind();
        let inside = matches!(kind, CallErrorKind::GuestFault | CallErrorKind::HostBug);
        let hidden = inside && call.detail == Detail::Public;
        if hidden {
            tracing::warn!(plugin = call.plugin, trace = call.trace, kind = kind.as_str(), %error, hint = error.hint(), "a call failed");
        }
        let (message, hint) = if hidden {
            let what = match (kind, call.plugin) {
                (CallErrorKind::GuestFault, Some(plugin)) => {
                    format!("plugin `{plugin}` failed while it worked on the call")
                }
                (CallErrorKind::GuestFault, None) => {
                    "the plugin failed while it worked on the call".to_owned()
                }
                _ => "the host failed while it worked on the call".to_owned(),
            };
            (
                what,
                Some("the host's log has the cause under the same trace id".to_owned()),
            )
        } else {
            (error.to_string(), error.hint().map(str::to_owned))
        };
        let status = lookup(kind).grpc.unwrap_or_else(|| error.status().kind());
        let data = ErrorData {
            kind: kind.as_str().to_owned(),
            plugin: call.plugin.map(str::to_owned),
            hint,
            blame: Some(blame(error).to_owned()),
            status: Some(status.as_str().to_owned()),
            retryable: error.status().retryable,
            trace: call.trace.map(str::to_owned),
            details: if hidden { Vec::new() } else { details },
        };
        Self {
            code: lookup(kind).json_rpc,
            message,
            data: Some(Box::new(data)),
        }
    }

    /// What was asked for is refused, for all these reasons.
    #[must_use]
    pub fn refused(message: impl Into<String>, hint: impl Into<String>, reasons: &[Reason]) -> Self {
        let kind = HostErrorKind::Refused;
        let mut error = Self::protocol(host_code(kind), kind.as_str(), message, hint);
        if let Some(data) = &mut error.data {
            data.details = reasons
                .iter()
                .filter_map(|it| serde_json::value::to_raw_value(it).ok())
                .collect();
        }
        error
    }

    /// Every reason of a refusal.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        let details = self.data.as_ref().map_or(&[][..], |data| &data.details);
        details
            .iter()
            .filter_map(|it| serde_json::from_str(it.get()).ok())
            .collect()
    }

    /// The word for its kind, `internal` if it brought none.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.data.as_ref().map_or("internal", |data| &data.kind)
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.data.as_ref()?.hint.as_deref()
    }
}

/// What could not be done to a plugin, with every reason and every cause.
impl From<&HostError> for RpcError {
    fn from(error: &HostError) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            // Some errors say their cause themselves.
            let text = error.to_string();
            if !message.contains(&text) {
                message += &format!(": {text}");
            }
            cause = error.source();
        }
        let reason = |it: &Refusal| serde_json::value::to_raw_value(&Reason::from(it.clone()));
        let data = ErrorData {
            kind: error.kind().as_str().to_owned(),
            plugin: error.plugin().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            details: error.reasons().iter().filter_map(|it| reason(it).ok()).collect(),
            ..ErrorData::default()
        };
        Self {
            code: host_code(error.kind()),
            message,
            data: Some(Box::new(data)),
        }
    }
}

/// One reason of a refusal, as it stands in `error.data.details`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What was looked at.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

impl From<HostError> for RpcError {
    fn from(error: HostError) -> Self {
        Self::from(&error)
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self {
            what: refusal.what,
            why: refusal.why,
            hint: refusal.hint,
        }
    }
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}

/// What this edge knows about a call that failed.
pub(crate) struct FailedCall<'a> {
    pub(crate) plugin: Option<&'a str>,
    pub(crate) trace: Option<&'a str>,
    pub(crate) detail: Detail,
}

fn blame(error: &CallError) -> &'static str {
    match error.blame() {
        Blame::Caller => "caller",
        Blame::Guest => "guest",
        Blame::Host => "host",
        Blame::Machine => "machine",
    }
}

#[cfg(test)]
mod tests;
