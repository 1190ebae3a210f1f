//! Streaming methods over HTTP: `POST /stream/{target}`, one JSON message per line in each direction.
//!
//! The body is NDJSON: each line that is not empty is one request, and its end is the end of the requests; a server-streaming method takes one
//! line, or an empty body for an empty request. The answer is NDJSON too (`application/x-ndjson`), or server-sent events if `Accept` asks for
//! `text/event-stream`. Its status is 200 as soon as the call is open; what fails later is the last line, `{"error": ..}` with the error
//! object of JSON-RPC (as an event: `event: error`).
//!
//! Nothing is queued here: a line is read when the plugin has room for it, and a reply is taken when the socket has. A client that goes away
//! drops the call, which cancels it. When the edge stops, a stream may go on for half of `Options::drain`; then its last line says so.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
    stream,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mortise_host::{CallOptions, ReceiveHalf, SendError, SendHalf, StreamHandle};
use mortise_runtime::{CallError, CallErrorKind, stream::not_streaming};
use mortise_wire::MethodKind;

use crate::{
    error::{FailedCall, RpcError, lookup},
    http::json_response,
    jsonrpc,
    rpc::{self, Caller, Older, PluginMethods, transcoder_of},
    transcode,
};

/// How lines are dressed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Events,
}

/// What the answer's body is made from.
struct Answer {
    call: Arc<Target>,
    form: Form,
    /// Reads requests; gone once they are all sent.
    pump: Option<BoxFuture<'static, Result<(), RpcError>>>,
    /// Gone after the last line.
    replies: Option<Box<dyn ReceiveHalf>>,
    /// Resolves when the edge can wait for the stream no longer.
    cut: BoxFuture<'static, ()>,
}

/// Who answers, for messages and for mapping.
struct Target {
    methods: Arc<PluginMethods>,
    route: mortise_host::Route,
    caller: Caller,
    older: Option<Older>,
}

impl Target {
    fn failed(&self, error: &CallError) -> RpcError {
        let call = FailedCall {
            plugin: Some(self.route.plugin()),
            trace: Some(self.caller.trace.id()),
            detail: self.methods.detail,
        };
        let pool = self.route.contract().pool();
        RpcError::from_call(error, &call, transcode::details(Some(pool), error.status()))
    }

    fn transcoder(&self) -> Result<&transcode::Transcoder, RpcError> {
        let older = self.older.as_ref().map(|it| &it.transcoder);
        older.or_else(|| self.route.memo(transcoder_of)).ok_or_else(|| {
            let why = format!("the route to `{}` leads to no method", self.route.target());
            self.failed(&CallError::new(CallErrorKind::HostBug, why))
        })
    }

    fn request(&self, line: &[u8]) -> Result<Bytes, RpcError> {
        let text = std::str::from_utf8(line).map_err(|_| {
            RpcError::invalid_params("a line is not UTF-8", "send JSON, one message per line")
        })?;
        self.transcoder()?.request(Some(text.trim()))
    }
}

/// Opens the call and answers with its replies.
pub(crate) async fn answer(
    methods: Arc<PluginMethods>,
    target: &str,
    caller: Caller,
    headers: &HeaderMap,
    body: Body,
    line_bytes_max: usize,
    cut: impl Future<Output = ()> + Send + 'static,
) -> Response {
    let refused = |kind, error: RpcError| json_response(lookup(kind).http, jsonrpc::refused(&error));
    let route = match methods.host.resolve(target, &caller.headers) {
        Ok(route) => route,
        Err(error) => {
            let call = FailedCall {
                plugin: None,
                trace: Some(caller.trace.id()),
                detail: methods.detail,
            };
            return refused(error.kind(), RpcError::from_call(&error, &call, Vec::new()));
        }
    };
    let older = match rpc::older(&route, &caller) {
        Ok(older) => older,
        Err(error) => {
            let call = FailedCall {
                plugin: Some(route.plugin()),
                trace: Some(caller.trace.id()),
                detail: methods.detail,
            };
            return refused(error.kind(), RpcError::from_call(&error, &call, Vec::new()));
        }
    };
    let options = CallOptions {
        deadline: caller.deadline,
        headers: caller.headers.clone(),
        traceparent: Some(caller.trace.span()),
        contract: older.as_ref().map(|it| it.contract.clone()),
    };
    let kind = route.method().map_or(MethodKind::Unary, |it| {
        MethodKind::of(it.client_streaming(), it.server_streaming())
    });
    let call = Arc::new(Target {
        methods,
        route,
        caller,
        older,
    });
    if !kind.streams() {
        let error = not_streaming(call.route.target());
        return refused(error.kind(), call.failed(&error));
    }
    let opened = call.methods.host.open_stream_route(&call.route, options).await;
    let StreamHandle { requests, replies } = match opened {
        Ok(handle) => handle,
        Err(error) => return refused(error.kind(), call.failed(&error)),
    };
    let form = form(headers);
    let pump = pump(call.clone(), kind, requests, body, line_bytes_max).boxed();
    let answer = Answer {
        call,
        form,
        pump: Some(pump),
        replies: Some(replies),
        cut: cut.boxed(),
    };
    let lines = stream::unfold(answer, |mut answer| async {
        let line = answer.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), answer))
    });
    let mut response = Response::new(Body::from_stream(lines));
    *response.status_mut() = StatusCode::OK;
    let content_type = match form {
        Form::Lines => "application/x-ndjson",
        Form::Events => "text/event-stream",
    };
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn stopping() -> CallError {
    CallError::new(
        CallErrorKind::Draining,
        "the host is stopping, and this stream was still open",
    )
    .with_hint("open the stream again when the host is back, or at another one")
}

fn form(headers: &HeaderMap) -> Form {
    let accept = headers.get_all(header::ACCEPT);
    let asks = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| {
            text.split(',')
                .any(|it| it.trim().starts_with("text/event-stream"))
        })
    };
    if accept.iter().any(asks) {
        Form::Events
    } else {
        Form::Lines
    }
}

impl Answer {
    /// The next piece of the body; `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        let replies = self.replies.as_mut()?;
        let next = loop {
            let pump = OptionFuture::from(self.pump.as_mut());
            tokio::select! {
                biased;
                // A call that is over needs no more requests, whatever becomes of them.
                next = replies.next() => break next.map_err(|error| self.call.failed(&error)),
                Some(pumped) = pump => {
                    self.pump = None;
                    if let Err(error) = pumped {
                        break Err(error);
                    }
                }
                () = &mut self.cut => break Err(self.call.failed(&stopping())),
            }
        };
        let line = next.and_then(|reply| {
            let Some(reply) = reply else { return Ok(None) };
            let mut line = Vec::new();
            let transcoder = self.call.transcoder()?;
            match tracing::trace_span!("reply").in_scope(|| transcoder.reply(reply, &mut line)) {
                Ok(()) => Ok(Some(line)),
                Err(error) => Err(self.call.failed(&error)),
            }
        });
        match line {
            Ok(Some(line)) => Some(self.dress(None, &line)),
            Ok(None) => {
                self.end();
                None
            }
            Err(error) => {
                self.end();
                let error = serde_json::to_vec(&serde_json::json!({ "error": error }))
                    .expect("an RpcError is strings and numbers");
                Some(self.dress(Some("error"), &error))
            }
        }
    }

    fn end(&mut self) {
        self.replies = None;
        self.pump = None;
    }

    fn dress(&self, event: Option<&str>, line: &[u8]) -> Bytes {
        let mut dressed = Vec::with_capacity(line.len() + 24);
        if self.form == Form::Events {
            if let Some(event) = event {
                dressed.extend_from_slice(format!("event: {event}\n").as_bytes());
            }
            dressed.extend_from_slice(b"data: ");
        }
        dressed.extend_from_slice(line);
        dressed.extend_from_slice(if self.form == Form::Events { b"\n\n" } else { b"\n" });
        dressed.into()
    }
}

/// Sends the body's lines as requests.
async fn pump(
    call: Arc<Target>,
    kind: MethodKind,
    mut requests: Box<dyn SendHalf>,
    body: Body,
    line_bytes_max: usize,
) -> Result<(), RpcError> {
    let mut body = body.into_data_stream();
    let mut rest = BytesMut::new();
    // Of `rest`, what has no end of a line in it.
    let mut searched = 0;
    let mut sent = 0_u64;
    let mut over = false;
    while !over {
        match body.next().await {
            Some(Ok(bytes)) => rest.extend_from_slice(&bytes),
            Some(Err(error)) => {
                let message = format!("the body broke off: {error}");
                return Err(RpcError::invalid_request(message, "end it, and every line of it"));
            }
            // The last line may lack its end.
            None => {
                rest.extend_from_slice(b"\n");
                over = true;
            }
        }
        while let Some(end) = rest[searched..].iter().position(|it| *it == b'\n') {
            let line = rest.split_to(searched + end + 1);
            searched = 0;
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            match requests.send(call.request(line)?).await {
                Ok(()) => sent += 1,
                // The replies say how it ended.
                Err(SendError::Over) => return Ok(()),
                Err(SendError::Refused(error)) => return Err(call.failed(&error)),
            }
        }
        searched = rest.len();
        if searched > line_bytes_max {
            let message = format!("a line is longer than {line_bytes_max} bytes");
            return Err(RpcError::invalid_request(message, "send less at once"));
        }
    }
    if sent == 0 && !kind.client_streams() {
        // As a unary method without parameters.
        let _ = requests.send(Bytes::new()).await;
    }
    let _ = requests.finish().await;
    Ok(())
}
