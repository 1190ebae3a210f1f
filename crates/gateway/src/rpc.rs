//! Methods of plugins: resolve, map the JSON by the plugin's own contract, call, map the reply.

use std::{sync::Arc, time::Instant};

use mortise_host::{CallOptions, Host};
use mortise_runtime::{CallError, CallErrorKind};
use mortise_wire::Header;

use crate::{
    error::{Detail, FailedCall, RpcError},
    jsonrpc::{Methods, Request},
    trace::Trace,
    transcode,
};

/// Answers `plugin.{name}.{method}` and `package.Service/Method`.
pub(crate) struct PluginMethods {
    pub(crate) host: Host,
    pub(crate) detail: Detail,
}

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
            .map_err(|error| failed(error, None, None))?;
        let pool = route.contract().pool();
        let failed = |error: CallError| failed(error, Some(route.plugin()), Some(pool));
        let method = route.method().ok_or_else(|| {
            failed(CallError::new(
                CallErrorKind::HostBug,
                format!("the route to `{}` leads to no method", request.method),
            ))
        })?;

        let payload = transcode::request(&method.input(), request.params)?;
        let options = CallOptions {
            deadline: caller.deadline,
            headers: caller.headers.clone(),
            traceparent: Some(caller.trace.span()),
        };
        let reply = self
            .host
            .call_route(&route, payload, options)
            .await
            .map_err(failed)?;
        tracing::trace_span!("reply")
            .in_scope(|| transcode::reply(&method.output(), reply, out))
            .map_err(failed)
    }
}

impl PluginMethods {
    pub(crate) fn new(host: Host, detail: Detail) -> Arc<Self> {
        Arc::new(Self { host, detail })
    }
}
