//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>) on bytes: envelopes in, answers out.
//!
//! Nothing here knows HTTP or plugins: whoever answers methods implements [`Methods`]. The envelope is read without copying; `params` and
//! `id` stay the text they were. A request is answered on the task that asks, never on a new one; the entries of a batch run concurrently,
//! at most `Bounds::batch_concurrency` at a time.
//!
//! Where the spec leaves a choice: members that it does not name are ignored; an `id` may be any number and comes back digit for digit;
//! `null` is a legal id (and is answered); a notification is run before the empty answer is sent, so a caller cannot outrun the host.

use std::{borrow::Cow, fmt};

use futures_util::stream::{FuturesOrdered, StreamExt};
use mortise_runtime::CallErrorKind;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use crate::error::{RpcError, code, lookup};

/// Bounds on what one body may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Entries of one batch.
    pub(crate) batch_entries_max: usize,
    /// Entries of one batch that run at the same time.
    pub(crate) batch_concurrency: usize,
    /// Bytes of the answers of one batch; from there on no further entry is run.
    pub(crate) batch_answer_bytes_max: usize,
}

/// Answers methods.
pub(crate) trait Methods: Sync {
    /// What came beside the body.
    type Caller: Sync;

    /// Calls one method and appends the result's JSON text to `out`. What was appended when it fails is thrown away.
    fn call(
        &self,
        caller: &Self::Caller,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> impl Future<Output = Result<(), RpcError>> + Send;
}

/// One request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// As text; `None` = a notification.
    pub(crate) id: Option<&'a str>,
    pub(crate) method: Cow<'a, str>,
    /// As text: an object or an array.
    pub(crate) params: Option<&'a str>,
}

/// Answers a whole body; `None` if it holds notifications only.
pub(crate) async fn answer<M: Methods>(
    methods: &M,
    caller: &M::Caller,
    body: &[u8],
    bounds: Bounds,
) -> Option<Vec<u8>> {
    let Ok(body) = std::str::from_utf8(body) else {
        return Some(refused(&parse_error("the body is not UTF-8")));
    };
    // The first byte tells a batch from a single request; whatever else it is, the envelope's parser says so.
    if body.trim_ascii_start().starts_with('[') {
        return answer_batch(methods, caller, body, bounds).await;
    }
    answer_entry(methods, caller, body).await
}

async fn answer_batch<M: Methods>(
    methods: &M,
    caller: &M::Caller,
    body: &str,
    bounds: Bounds,
) -> Option<Vec<u8>> {
    let Entries { first, count } = match Entries::read(body, bounds.batch_entries_max) {
        Ok(entries) => entries,
        Err(error) => return Some(refused(&parse_error(&error.to_string()))),
    };
    if count == 0 {
        return Some(refused(&RpcError::invalid_request(
            "the batch is empty",
            "put at least one request into it",
        )));
    }
    if count > bounds.batch_entries_max {
        let message = format!(
            "the batch has {count} entries, and at most {} are taken",
            bounds.batch_entries_max
        );
        return Some(refused(&RpcError::invalid_request(message, "split it")));
    }

    let mut out = vec![b'['];
    let mut running = FuturesOrdered::new();
    let mut waiting = first.into_iter();
    loop {
        let is_full = out.len() > bounds.batch_answer_bytes_max;
        while !is_full && running.len() < bounds.batch_concurrency.max(1) {
            let Some(entry) = waiting.next() else { break };
            running.push_back(answer_entry(methods, caller, entry.get()));
        }
        let Some(done) = running.next().await else { break };
        if let Some(answer) = done {
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(&answer);
        }
    }
    // What nobody ran any more.
    for entry in waiting {
        refuse_for_room(&mut out, entry.get(), bounds);
    }
    out.push(b']');
    (out.len() > 2).then_some(out)
}

/// Answers an entry for which there is no room.
fn refuse_for_room(out: &mut Vec<u8>, entry: &str, bounds: Bounds) {
    let message = format!(
        "not run: the answers to the entries before it have more than {} bytes",
        bounds.batch_answer_bytes_max
    );
    let (id, error) = match Request::parse(entry) {
        Ok(Request { id: None, .. }) => return,
        Ok(Request { id: Some(id), .. }) => {
            let kind = CallErrorKind::Exhausted;
            let hint = "send it again, in a batch of its own";
            (
                id,
                RpcError::protocol(lookup(kind).json_rpc, kind.as_str(), message, hint),
            )
        }
        Err(fault) => fault,
    };
    if out.len() > 1 {
        out.push(b',');
    }
    write_error(out, id, &error);
}

/// The entries of a batch: the first ones, and how many there are. A long one costs no memory.
struct Entries<'a> {
    first: Vec<&'a RawValue>,
    count: usize,
}

impl<'a> Entries<'a> {
    fn read(body: &'a str, keep: usize) -> serde_json::Result<Self> {
        struct Keeping(usize);

        impl<'de> Visitor<'de> for Keeping {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a batch")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
                let mut first = Vec::new();
                while first.len() < self.0
                    && let Some(entry) = all.next_element()?
                {
                    first.push(entry);
                }
                let mut count = first.len();
                while all.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Entries { first, count })
            }
        }

        let mut reader = serde_json::Deserializer::from_str(body);
        let entries = reader.deserialize_seq(Keeping(keep))?;
        reader.end()?;
        Ok(entries)
    }
}

async fn answer_entry<M: Methods>(methods: &M, caller: &M::Caller, text: &str) -> Option<Vec<u8>> {
    let request = match Request::parse(text) {
        Ok(request) => request,
        Err((id, error)) => {
            let mut out = Vec::with_capacity(256);
            write_error(&mut out, id, &error);
            return Some(out);
        }
    };
    let mut out = Vec::with_capacity(256);
    let id = request.id.unwrap_or("null");
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(br#","result":"#);
    let outcome = methods.call(caller, &request, &mut out).await;
    request.id?;
    match outcome {
        Ok(()) => out.push(b'}'),
        Err(error) => {
            out.clear();
            write_error(&mut out, id, &error);
        }
    }
    Some(out)
}

/// The answer to a body of which not even an id could be read.
pub(crate) fn refused(error: &RpcError) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_error(&mut out, "null", error);
    out
}

/// Appends an error answer.
fn write_error(out: &mut Vec<u8>, id: &str, error: &RpcError) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(br#","error":"#);
    serde_json::to_writer(&mut *out, error)
        .expect("an RpcError is strings and numbers, and a Vec takes every write");
    out.push(b'}');
}

/// A request as it stands in the JSON: every value is the text it was.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
}

/// An `Option` that is `Some` even for `null`: JSON-RPC tells an absent id from a null one.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Request<'a> {
    /// Reads one request; on failure, the id to answer with.
    fn parse(text: &'a str) -> Result<Self, (&'a str, RpcError)> {
        // serde would take an array for a struct, too.
        let envelope = if text.trim_ascii_start().starts_with('[') {
            Err(serde::de::Error::custom("an array"))
        } else {
            serde_json::from_str::<Envelope<'a>>(text)
        };
        let envelope = envelope.map_err(|error| ("null", not_a_request(text, &error)))?;
        let id = match envelope.id.map(RawValue::get) {
            None => None,
            Some(id) if is_id(id) => Some(id),
            Some(id) => {
                let message = format!("`id` is {}", describe(id));
                return Err((
                    "null",
                    RpcError::invalid_request(message, "make it a string, a number or null"),
                ));
            }
        };
        let refuse = |message: String, hint: &str| {
            Err((id.unwrap_or("null"), RpcError::invalid_request(message, hint)))
        };

        match envelope.jsonrpc.map(RawValue::get) {
            Some(r#""2.0""#) => {}
            None => return refuse("`jsonrpc` is missing".to_owned(), r#"add `"jsonrpc": "2.0"`"#),
            Some(other) => {
                return refuse(
                    format!("`jsonrpc` is {}", describe(other)),
                    r#"only version "2.0" is spoken here"#,
                );
            }
        }
        let method = match envelope.method.map(RawValue::get) {
            None => return refuse("`method` is missing".to_owned(), METHOD_FORMS),
            Some(method) => match serde_json::from_str::<Borrowed<'a>>(method) {
                Ok(Borrowed(method)) => method,
                Err(_) => return refuse(format!("`method` is {}", describe(method)), METHOD_FORMS),
            },
        };
        let params = match envelope.params.map(RawValue::get) {
            Some(params) if !params.starts_with(['{', '[']) => {
                return refuse(
                    format!("`params` is {}", describe(params)),
                    "make it an object, or leave it out",
                );
            }
            params => params,
        };
        Ok(Self { id, method, params })
    }
}

const METHOD_FORMS: &str = "make it a string: `plugin.{name}.{method}` or `package.Service/Method`";

/// A string that is copied only if it has escapes.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

fn is_id(text: &str) -> bool {
    text == "null" || text.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

/// The kind of a JSON value, with the value where it is short.
fn describe(text: &str) -> String {
    let kind = match text.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "the string",
        Some(b't' | b'f') => "the boolean",
        Some(b'n') => return "null".to_owned(),
        _ => "the number",
    };
    if text.starts_with(['{', '[']) || text.len() > 40 {
        kind.to_owned()
    } else {
        format!("{kind} {text}")
    }
}

fn not_a_request(text: &str, error: &serde_json::Error) -> RpcError {
    // A fault of meaning may stand before a fault of syntax: only if the whole text is JSON is it an invalid request.
    let syntax = match error.classify() {
        Category::Data => serde_json::from_str::<IgnoredAny>(text).err(),
        Category::Syntax | Category::Eof | Category::Io => return parse_error(&error.to_string()),
    };
    match syntax {
        Some(error) => parse_error(&error.to_string()),
        None if text.trim_ascii_start().starts_with('{') => {
            RpcError::invalid_request(error.to_string(), "name every member once")
        }
        None => RpcError::invalid_request(
            format!(
                "a request is an object, and this is {}",
                describe(text.trim_ascii_start())
            ),
            r#"send `{"jsonrpc": "2.0", "id": 1, "method": "..", "params": {..}}`"#,
        ),
    }
}

fn parse_error(why: &str) -> RpcError {
    RpcError::protocol(
        code::PARSE_ERROR,
        "parse_error",
        format!("the body is not JSON: {why}"),
        "send one JSON-RPC 2.0 request or batch",
    )
}

#[cfg(test)]
mod tests;
