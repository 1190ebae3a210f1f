//! Calls of the lane `grpc`: gRPC's own, one HTTP/2 stream each, with the frames beside them.
//!
//! A call is open in [`Calls`](crate::calls) like any other: its number goes with it as a header, and the plugin's own calls and log lines name it. The table
//! also keeps its slot until its method has returned. A reply says that it has. Where nobody waits for one, the HTTP/2 stream is reset, which frees what gRPC
//! has of the call, and Cancel is sent among the frames, which the plugin answers with End when the method is through.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mortise_goplugin::{CallHeaders, Client};
use mortise_runtime::{CallContext, CallError, MethodIndex, StreamHandle, pipe};
use mortise_wire::frame::{Kind, transport};

use crate::{
    dialect::Plugin as _,
    grpc::{self, EndedBy, Peer, Streamed},
    lane::Held,
    shared::Shared,
};

/// When the instance ends, replies that have arrived already are read for so long.
const ARRIVED_WAIT: Duration = Duration::from_millis(100);

impl Shared {
    /// Dropped at the deadline: then, and whenever else its caller goes, [`Waiting`](crate::shared::Waiting) tells the plugin.
    pub(crate) async fn call_over(
        &self,
        client: &Client,
        cx: &CallContext,
        method: MethodIndex,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let slot = self.slot().await?;
        let (id, over) = self.calls.open(cx, method, slot)?;
        let mut waiting = self.waiting(id, deadline);
        let path = self.path(method);
        let headers = headers(cx, deadline, id);
        let mut exchange = std::pin::pin!(client.call(&path, &headers, payload));
        let outcome = tokio::select! {
            biased;
            outcome = &mut exchange => outcome,
            closed = over => {
                // The plugin's last answers may be here, and not yet with us.
                let closed = closed.unwrap_or_else(|_| Err(self.over()));
                match tokio::time::timeout(ARRIVED_WAIT, &mut exchange).await {
                    Ok(Ok(reply)) => Ok(reply),
                    _ => {
                        waiting.over = true;
                        return closed;
                    }
                }
            }
        };
        let reply = match outcome {
            Ok(reply) => Ok(reply),
            Err(status) if !grpc::is_answer(&status, deadline) => {
                return Err(grpc::error(self, status, &path, deadline).await);
            }
            Err(status) => Err(grpc::error(self, status, &path, deadline).await),
        };
        waiting.over = true;
        self.calls.finish(id);
        let (reply, max) = (reply?, self.limits.payload_bytes_max);
        if reply.len() > max {
            return Err(grpc::reply_too_large(self, reply.len(), max));
        }
        Ok(reply)
    }

    /// Dropped while it waits, it has opened nothing.
    pub(crate) async fn open_over(
        self: &Arc<Self>,
        client: &Client,
        cx: &CallContext,
        method: MethodIndex,
        deadline: Instant,
    ) -> Result<StreamHandle, CallError> {
        let slot = self.slot().await?;
        let (id, _over) = self.calls.open(cx, method, slot)?;
        let (requests, to_send) = pipe((&self.limits).into());
        let (received, replies) = pipe((&self.limits).into());
        let call = Streamed {
            client: client.clone(),
            path: self.path(method),
            headers: headers(cx, deadline, id),
            deadline,
            bytes_max: self.limits.payload_bytes_max,
            requests: to_send,
            replies: received,
        };
        let shared = self.clone();
        // It ends with the call: at the latest at its deadline.
        tokio::spawn(async move {
            match grpc::run_stream(shared.clone(), call).await {
                EndedBy::Plugin => shared.calls.finish(id),
                EndedBy::Host if shared.calls.abandon(id, deadline) => {
                    shared.lane.send(Kind::Cancel, id, &[], Held::default());
                }
                EndedBy::Host => {}
            }
        });
        Ok(StreamHandle {
            requests: Box::new(requests),
            replies: Box::new(replies),
        })
    }

    fn path(&self, method: MethodIndex) -> String {
        format!("/{}", self.method_name(method))
    }
}

impl Peer for Shared {
    fn plugin_name(&self) -> &str {
        self.name()
    }

    async fn is_over(&self) -> CallError {
        self.calls.until_closed().await
    }
}

fn headers(cx: &CallContext, deadline: Instant, id: u64) -> CallHeaders {
    let mut headers = grpc::headers(cx, deadline);
    // These names are ours.
    headers.metadata.retain(|(name, _)| !name.starts_with("mortise-"));
    let mut add = |name: &str, value: String| headers.metadata.push((name.to_owned(), value));
    add(transport::CALL_ID, id.to_string());
    if cx.depth != 0 {
        add(transport::DEPTH, cx.depth.to_string());
    }
    if !cx.caller.is_empty() {
        add(transport::CALLER, cx.caller.to_string());
    }
    headers
}
