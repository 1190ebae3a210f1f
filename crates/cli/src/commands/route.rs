//! `mortise route`: which calls go where.

use std::collections::BTreeMap;

use mortise::manifest::{HeaderTest, HeaderWanted, RouteEntry};
use mortise_gateway::control::{self, Explained, RouteList};

use crate::{
    args::{RouteSet, RouteTask},
    commands::{call, remote::ask},
    exit::{Failure, Fault},
    output::{Output, table},
};

pub(crate) fn route(task: RouteTask, output: &Output) -> anyhow::Result<()> {
    match task {
        RouteTask::List(remote) => output.answer(&ask(&remote, &control::Routes {})?, list),
        RouteTask::Set(args) => {
            let route = entry(&args)?;
            let set = control::SetRoute {
                route,
                first: args.first,
            };
            output.answer(&ask(&args.remote, &set)?, list)
        }
        RouteTask::Remove(args) => {
            let remove = control::RemoveRoute { name: args.name };
            output.answer(&ask(&args.remote, &remove)?, list)
        }
        RouteTask::Explain(args) => {
            let explain = control::Explain {
                target: args.target,
                headers: call::headers(&args.header)?,
            };
            output.answer(&ask(&args.remote, &explain)?, explained)
        }
    }
}

// === what is asked for ===

fn entry(args: &RouteSet) -> Result<RouteEntry, Failure> {
    let mut headers = BTreeMap::new();
    for text in &args.header {
        let (name, wanted) = header(text);
        if headers.insert(name.to_ascii_lowercase(), wanted).is_some() {
            let fault = Fault::new(format!("`{name}` is tested twice"));
            return Err(Failure::usage(
                fault.hint("say both with one pattern: `NAME~=REGEX`"),
            ));
        }
    }
    let mut split = BTreeMap::new();
    for part in &args.split {
        let weight = part
            .rsplit_once('=')
            .and_then(|(to, weight)| Some((to.to_owned(), weight.parse().ok()?)));
        let Some((to, weight)) = weight else {
            let fault = Fault::new(format!("`{part}` is no part of a split"));
            return Err(Failure::usage(
                fault.hint("write VERSION=WEIGHT or ADDRESS=WEIGHT, such as `1.3.0=10`"),
            ));
        };
        split.insert(to, weight);
    }
    Ok(RouteEntry {
        name: args.name.clone(),
        service: args.service.clone(),
        method: args.method.clone(),
        plugin: args.plugin.clone(),
        headers,
        to: args.to.clone(),
        split,
        sticky: args.sticky.as_ref().map(|it| it.to_ascii_lowercase()),
    })
}

/// `NAME=VALUE`, `NAME^=PREFIX`, `NAME~=REGEX` or `NAME`, perhaps after `!`.
fn header(text: &str) -> (&str, HeaderWanted) {
    let (not, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut test = HeaderTest {
        not,
        ..HeaderTest::default()
    };
    let Some((name, value)) = text.split_once('=') else {
        test.present = Some(true);
        return (text, HeaderWanted::Test(test));
    };
    let value = value.to_owned();
    // Both signs may end a header's name; a name that does has to be written in mortise.toml.
    if let Some(name) = name.strip_suffix('^') {
        test.prefix = Some(value);
        return (name, HeaderWanted::Test(test));
    }
    if let Some(name) = name.strip_suffix('~') {
        test.regex = Some(value);
        return (name, HeaderWanted::Test(test));
    }
    if not {
        test.exact = Some(value);
        return (name, HeaderWanted::Test(test));
    }
    (name, HeaderWanted::Exact(value))
}

// === for people ===

fn list(all: &RouteList) -> String {
    if all.routes.is_empty() {
        return "no routes: calls go to whoever provides their method".to_owned();
    }
    let row = |it: &control::RouteLine| vec![it.name.clone(), it.origin.clone(), it.does.clone()];
    table(
        &["NAME", "BY", "DOES"],
        &all.routes.iter().map(row).collect::<Vec<_>>(),
    )
}

fn explained(it: &Explained) -> String {
    let mut text = it.target.clone();
    for candidate in &it.candidates {
        let control::RouteCandidate {
            plugin,
            version,
            weight,
        } = candidate;
        text += &format!("\n  candidate {plugin}@{version}, weight {weight}");
    }
    for step in &it.steps {
        text += &format!("\n  {step}");
    }
    text += &match (&it.plugin, &it.version) {
        (Some(plugin), Some(version)) => format!("\n  goes to {plugin}@{version}: {}", it.because),
        _ => format!("\n  goes nowhere: {}", it.because),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_written_as_selectors() {
        let json = |text: &str| {
            let (name, wanted) = header(text);
            format!("{name} {}", serde_json::to_string(&wanted).expect("serializes"))
        };
        assert_eq!(json("x-a=b=c"), r#"x-a "b=c""#);
        assert_eq!(json("x-a^=b"), r#"x-a {"prefix":"b"}"#);
        assert_eq!(json("x-a~=b.*"), r#"x-a {"regex":"b.*"}"#);
        assert_eq!(json("x-a"), r#"x-a {"present":true}"#);
        assert_eq!(json("!x-a"), r#"x-a {"present":true,"not":true}"#);
        assert_eq!(json("!x-a=b"), r#"x-a {"exact":"b","not":true}"#);
    }
}
