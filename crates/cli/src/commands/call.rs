//! `mortise call`, and what it shares with `mortise run`.

use std::{collections::BTreeMap, io::Read, ops::ControlFlow};

use bytes::Bytes;
use mortise_gateway::control::{self, Client};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::{
    args::{Call, Payload},
    commands::remote,
    exit::{Failure, Fault},
    output::Output,
};

pub(crate) fn call(args: Call, output: &Output) -> anyhow::Result<()> {
    let target = match (&args.method, args.plugin.contains('/')) {
        (None, true) => args.plugin.clone(),
        (None, false) => {
            let fault = Fault::new(format!("no method of `{}` is named", args.plugin));
            let hint = format!("`mortise inspect {}` lists them", args.plugin);
            return Err(Failure::usage(fault.hint(hint)).into());
        }
        (Some(method), _) if method.contains('/') => {
            let fault = Fault::new(format!(
                "`{method}` names a service, and routing alone chooses who provides it"
            ));
            let hint = format!("leave out `{}`, or name the method alone", args.plugin);
            return Err(Failure::usage(fault.hint(hint)).into());
        }
        (Some(method), _) => target(&args.plugin, method),
    };
    let headers = headers(&args.header)?;
    // What is wrong with the command line is said before anybody is asked.
    let given = given(&args.payload)?;
    let resolve = control::Resolve {
        target: target.clone(),
        headers: headers.clone(),
    };
    let resolved = remote::ask(&args.remote, &resolve)?;
    let timeout_ms = args.payload.timeout_ms;
    if resolved.client_streaming || resolved.server_streaming {
        let call = control::StreamCall {
            target,
            timeout_ms,
            headers,
        };
        let requests = requests(given, resolved.client_streaming);
        return stream(&args, &call, requests, output);
    }
    let call = control::Call {
        target,
        params: Some(given.one(&args.payload)?),
        timeout_ms,
        headers,
    };
    let reply = remote::ask(&args.remote, &call)?;
    output.raw(format!("{reply}\n").as_bytes())
}

/// Headers as `NAME=VALUE`.
pub(crate) fn headers(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |header: &String| match header.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failure::usage(
            Fault::new(format!("`{header}` is no header")).hint("write it as NAME=VALUE"),
        )),
    };
    given.iter().map(pair).collect()
}

// === streams ===

/// Pieces of standard input that were read and are not sent yet.
const PIECES_MAX: usize = 4;
/// The longest of them.
const PIECE_BYTES_MAX: usize = 64 << 10;

fn stream(
    args: &Call,
    call: &control::StreamCall,
    requests: mpsc::Receiver<Bytes>,
    output: &Output,
) -> anyhow::Result<()> {
    let client = Client::new(remote::socket(&args.remote)?);
    let requests = futures_util::stream::unfold(requests, |mut requests| async {
        requests.recv().await.map(|piece| (piece, requests))
    });
    let mut written = Ok(());
    let reply = |reply: &str| match output.piece(format!("{reply}\n").as_bytes()) {
        Ok(true) => ControlFlow::Continue(()),
        // Whoever reads has enough.
        Ok(false) => ControlFlow::Break(()),
        Err(error) => {
            written = Err(error);
            ControlFlow::Break(())
        }
    };
    let ended = super::block_on(async { Ok(client.stream(call, requests, reply).await) })?;
    written?;
    ended.map_err(|error| Failure::of_client(&error).into())
}

/// Where the requests of a stream come from: standard input, unless they are named or there is to be one only.
fn requests(given: Given, takes_stream: bool) -> mpsc::Receiver<Bytes> {
    let (send, requests) = mpsc::channel(PIECES_MAX);
    let lines = match given {
        Given::Values(values) => Some(values),
        Given::Nothing if !takes_stream => Some(Vec::new()),
        Given::Nothing | Given::StandardInput => None,
    };
    match lines {
        Some(values) => {
            // In valid JSON the end of a line is white space only.
            let lines = values.iter().map(|it| it.get().replace(['\n', '\r'], " ") + "\n");
            let lines: String = lines.collect();
            send.try_send(lines.into())
                .expect("the channel is empty, and its other end is here");
        }
        // A thread of its own, which ends with the command: nothing can interrupt a read of a terminal.
        None => drop(std::thread::spawn(move || pump(&send))),
    }
    requests
}

/// Until there is no more, nobody wants more, or it can't be read: then the requests end there.
fn pump(send: &mpsc::Sender<Bytes>) {
    let mut input = std::io::stdin().lock();
    let mut piece = vec![0; PIECE_BYTES_MAX];
    loop {
        match input.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => {
                if send
                    .blocking_send(Bytes::copy_from_slice(&piece[..read]))
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                eprintln!("warning: standard input ends here: {error}");
                return;
            }
        }
    }
}

// === requests ===

/// The target that leads to one plugin only.
pub(crate) fn target(plugin: &str, method: &str) -> String {
    format!("plugin.{plugin}.{method}")
}

/// The argument `--json`, as far as it can be read before it is known what it is for.
enum Given {
    Nothing,
    StandardInput,
    /// JSON values, one or many.
    Values(Vec<Box<RawValue>>),
}

/// The request's JSON, from wherever the argument says.
pub(crate) fn json(payload: &Payload) -> Result<Box<RawValue>, Failure> {
    given(payload)?.one(payload)
}

fn given(payload: &Payload) -> Result<Given, Failure> {
    match payload.json.as_deref() {
        None => Ok(Given::Nothing),
        Some("-") => Ok(Given::StandardInput),
        Some(text) => values(&at_file(text)?, payload).map(Given::Values),
    }
}

fn values(text: &str, payload: &Payload) -> Result<Vec<Box<RawValue>>, Failure> {
    serde_json::Deserializer::from_str(text.trim())
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| not_json(named(payload), &error))
}

/// How messages name what the request was read from.
fn named(payload: &Payload) -> &str {
    match payload.json.as_deref() {
        Some("-") => "standard input",
        Some(text) => text.strip_prefix('@').unwrap_or("--json"),
        None => "--json",
    }
}

impl Given {
    /// The one request of a method that takes one.
    fn one(self, payload: &Payload) -> Result<Box<RawValue>, Failure> {
        let mut values = match self {
            Self::Nothing => values("{}", payload)?,
            Self::Values(values) => values,
            Self::StandardInput => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.map_err(|error| {
                    Failure::new(Fault::new(format!("cannot read standard input: {error}")))
                })?;
                values(&text, payload)?
            }
        };
        match (values.pop(), values.len()) {
            (Some(one), 0) => Ok(one),
            (found, before) => {
                let count = before + usize::from(found.is_some());
                let fault = Fault::new(format!(
                    "the method takes one request, and {} has {count}",
                    named(payload)
                ));
                Err(Failure::usage(fault.hint("give one JSON object")))
            }
        }
    }
}

/// The text itself, or the content of the file that `@FILE` names.
pub(crate) fn at_file(text: &str) -> Result<String, Failure> {
    let Some(path) = text.strip_prefix('@') else {
        return Ok(text.to_owned());
    };
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Fault::new(format!("cannot read `{path}`: {error}"))))
}

pub(crate) fn not_json(from: &str, error: &serde_json::Error) -> Failure {
    let fault = Fault::new(format!("this is not JSON: {error}")).at(format_args!(
        "{from}:{}:{}",
        error.line(),
        error.column()
    ));
    Failure::usage(fault.hint("strings and names of fields stand in double quotes"))
}
