//! `mortise call`, and what it shares with `mortise run`.

use std::io::Read;

use mortise_gateway::control;
use serde_json::value::RawValue;

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
    let mut headers = std::collections::BTreeMap::new();
    for header in &args.header {
        let Some((name, value)) = header.split_once('=') else {
            return Err(Failure::usage(
                Fault::new(format!("`{header}` is no header")).hint("write it as NAME=VALUE"),
            )
            .into());
        };
        headers.insert(name.to_owned(), value.to_owned());
    }
    let call = control::Call {
        target,
        params: Some(json(&args.payload)?),
        timeout_ms: args.payload.timeout_ms,
        headers,
    };
    let reply = remote::ask(&args.remote, &call)?;
    output.raw(format!("{reply}\n").as_bytes())
}

/// The target that leads to one plugin only.
pub(crate) fn target(plugin: &str, method: &str) -> String {
    format!("plugin.{plugin}.{method}")
}

/// The request's JSON, from wherever the argument says.
pub(crate) fn json(payload: &Payload) -> Result<Box<RawValue>, Failure> {
    let (text, from) = match payload.json.as_str() {
        "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| Failure::new(Fault::new(format!("cannot read standard input: {error}"))))?;
            (text, "standard input")
        }
        text => (at_file(text)?, text.strip_prefix('@').unwrap_or("--json")),
    };
    RawValue::from_string(text.trim().to_owned()).map_err(|error| not_json(from, &error))
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
