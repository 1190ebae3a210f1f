//! Methods of plugins: resolve, map the JSON by the plugin's own contract, call, map the reply.

use std::{sync::Arc, time::Instant};

use mortise_host::{CallOptions, CallerContract, Host, Route};
use mortise_runtime::{CallError, CallErrorKind};
use mortise_wire::{Code, Header};

use crate::{
    error::{Detail, FailedCall, RpcError, code},
    jsonrpc::{Methods, Request},
    trace::Trace,
    transcode::{self, Transcoder},
};

/// Answers `plugin.{name}.{method}` and `package.Service/Method`.
pub(crate) struct PluginMethods {
    pub(crate) host: Host,
    pub(crate) detail: Detail,
}

/// Names the version of the plugin whose contract the caller was built against: its JSON is read and written by that.
pub(crate) const CONTRACT_HEADER: &str = "x-mortise-contract";

/// What came beside the body.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) headers: Vec<Header>,
    pub(crate) trace: Trace,
    pub(crate) deadline: Option<Instant>,
}

impl Methods for PluginMethods {
    type Caller = Caller;

    async fn call(&self, caller: &Caller, request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), RpcError> {
        let failed =
            |error: CallError, plugin: Option<&str>, pool: Option<&prost_reflect::DescriptorPool>| {
                let call = FailedCall {
                    plugin,
                    trace: Some(caller.trace.id()),
                    detail: self.detail,
                };
                RpcError::from_call(&error, &call, transcode::details(pool, error.status()))
            };
        let route = self
            .host
            .resolve(&request.method, &caller.headers)
            .map_err(|error| {
                let mut answer = failed(error, None, None);
                // Whatever is wrong with the name of a method: there is none of that name.
                answer.code = code::METHOD_NOT_FOUND;
                answer
            })?;
        let pool = route.contract().pool();
        let failed = |error: CallError| failed(error, Some(route.plugin()), Some(pool));
        let older = older(&route, caller).map_err(failed)?;
        let transcoder = older.as_ref().map(|it| &it.transcoder);
        let transcoder = transcoder.or_else(|| route.memo(transcoder_of)).ok_or_else(|| {
            failed(CallError::new(
                CallErrorKind::HostBug,
                format!("the route to `{}` leads to no method", request.method),
            ))
        })?;

        let payload = transcoder.request(request.params).map_err(|mut error| {
            if let Some(data) = &mut error.data {
                data.plugin = Some(route.plugin().to_owned());
                data.status = Some(Code::InvalidArgument.as_str().to_owned());
                data.trace = Some(caller.trace.id().to_owned());
            }
            error
        })?;
        let options = CallOptions {
            deadline: caller.deadline,
            headers: caller.headers.clone(),
            traceparent: Some(caller.trace.span()),
            contract: older.as_ref().map(|it| it.contract.clone()),
        };
        let reply = self
            .host
            .call_route(&route, payload, options)
            .await
            .map_err(failed)?;
        tracing::trace_span!("reply")
            .in_scope(|| transcoder.reply(reply, out))
            .map_err(failed)
    }
}

impl PluginMethods {
    pub(crate) fn new(host: Host, detail: Detail) -> Arc<Self> {
        Arc::new(Self { host, detail })
    }
}

pub(crate) fn transcoder_of(route: &Route) -> Option<Transcoder> {
    let method = route.method()?;
    Some(Transcoder::new(method.input(), method.output()))
}

/// How to speak with a caller who was built against another version.
pub(crate) struct Older {
    pub(crate) contract: CallerContract,
    pub(crate) transcoder: Transcoder,
}

/// What the caller's version means; `None` for a caller who names none. It is compiled for each call: some microseconds, which callers of the
/// current version do not pay.
pub(crate) fn older(route: &Route, caller: &Caller) -> Result<Option<Older>, CallError> {
    let Some(header) = caller.headers.iter().find(|it| it.name == CONTRACT_HEADER) else {
        return Ok(None);
    };
    let contract = route.contract_of(&header.value)?;
    let Some(method) = contract.method(route.service(), route.method_name()) else {
        let (version, target) = (&header.value, route.target());
        return Err(CallError::new(
            CallErrorKind::Incompatible,
            format!("the contract of version `{version}` has no method `{target}`"),
        )
        .with_hint(format!(
            "leave the header `{CONTRACT_HEADER}` out, or name a version that has it"
        )));
    };
    Ok(Some(Older {
        contract: CallerContract::version(&header.value),
        transcoder: Transcoder::new(method.input(), method.output()),
    }))
}

/// Calls one method with a request in JSON and brings the reply in JSON, as `POST /rpc` would, with everything that is known about a
/// failure. For programs that hold a host themselves, as `mortise run` does.
///
/// # Errors
/// What the answer's `error` member would be.
///
/// # Cancel safety
/// Dropping the future cancels the call.
pub async fn call_json(
    host: &Host,
    target: &str,
    params: &str,
    deadline: Option<Instant>,
) -> Result<String, RpcError> {
    let methods = PluginMethods {
        host: host.clone(),
        detail: Detail::Full,
    };
    let caller = Caller {
        headers: Vec::new(),
        trace: Trace::of(None),
        deadline,
    };
    let mut out = Vec::new();
    methods
        .call(
            &caller,
            &Request {
                id: None,
                method: target.into(),
                params: Some(params.trim()),
            },
            &mut out,
        )
        .await?;
    Ok(String::from_utf8(out).expect("serde_json writes UTF-8"))
}
