//! What the control socket answers, for people.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use mortise_gateway::control::{
    Adapted, CarriedState, Change, Difference, Differences, Layer, Move, Overruled, Plugin, PluginDetail,
    Reloaded, RuntimeSupport,
};
use serde_json::Value;

use crate::{
    output::{ago, table},
    shipped::Shipped,
};

pub(crate) fn plugins(all: &[Plugin]) -> String {
    if all.is_empty() {
        return "no plugins; load one with `mortise load FOLDER`".to_owned();
    }
    let now = now_ms();
    let rows: Vec<_> = all
        .iter()
        .map(|it| {
            vec![
                it.name.clone(),
                it.plugin.rsplit(' ').next().unwrap_or_default().to_owned(),
                it.runtime.clone().unwrap_or_else(|| "-".to_owned()),
                it.state.clone(),
                ago(now.saturating_sub(it.since_unix_ms)),
                it.calls.to_string(),
                it.errors.to_string(),
            ]
        })
        .collect();
    let mut text = table(
        &["NAME", "VERSION", "RUNTIME", "STATE", "FOR", "CALLS", "ERRORS"],
        &rows,
    );
    for plugin in all.iter().filter(|it| !it.reasons.is_empty()) {
        let _ = write!(text, "\n\n{}:", plugin.name);
        for reason in &plugin.reasons {
            let _ = write!(text, "\n  {reason}");
        }
    }
    text
}

pub(crate) fn plugin(detail: &PluginDetail) -> String {
    let it = &detail.plugin;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let list = |all: &[String]| {
        if all.is_empty() {
            "-".to_owned()
        } else {
            all.join(", ")
        }
    };
    let state = format!(
        "{} for {}, generation {}",
        it.state,
        ago(now_ms().saturating_sub(it.since_unix_ms)),
        it.generation
    );
    let mut rows = vec![
        ("plugin", it.plugin.clone()),
        ("source", it.source.clone()),
        ("runtime", or_dash(&it.runtime)),
        ("state", state),
        ("digest", or_dash(&it.digest)),
        ("instance", or_dash(&detail.instance)),
        ("requires", list(&detail.requires)),
        ("declared", permissions(&detail.declared)),
        ("granted", permissions(&detail.granted)),
        ("restart", or_dash(&detail.restart)),
        ("limits", pairs(&detail.limits)),
        ("counters", pairs(&detail.counters)),
        ("usage", pairs(&detail.usage)),
    ];
    rows.extend(detail.adapts.iter().map(|step| ("adapts", step.clone())));
    rows.extend(detail.adapted.iter().filter(|it| it.way != "same").map(adapted));
    if let Some(state) = &detail.carried_state {
        rows.push(("carries", carried(state)));
    }
    rows.extend(unenforced(detail).map(|why| ("note", why)));
    rows.extend(it.reasons.iter().map(|reason| ("reason", reason.clone())));
    let mut text = it.name.clone();
    for (name, value) in rows {
        let _ = write!(text, "\n  {name:<9} {value}");
    }
    text += &layers(&detail.layers);
    if !detail.denied.is_empty() {
        text += "\ndenied, the last ones";
    }
    for it in &detail.denied {
        let when = ago(now_ms().saturating_sub(it.at_unix_ms));
        let _ = write!(
            text,
            "\n  {} {} ({}), {when} ago",
            it.capability, it.target, it.how
        );
    }
    text += "\nmethods";
    for method in &detail.methods {
        let _ = write!(text, "\n  {}/{}", method.service, method.name);
        for (flag, word) in [
            (method.idempotent, "idempotent"),
            (method.nonblocking, "nonblocking"),
        ] {
            if flag {
                let _ = write!(text, " ({word})");
            }
        }
    }
    text
}

/// What is done to calls of one caller.
fn adapted(it: &Adapted) -> (&'static str, String) {
    let via = match it.via.is_empty() {
        true => String::new(),
        false => format!(" via {}", it.via.join(" -> ")),
    };
    let mut text = format!("{}, {}: {}{via}", it.caller, it.method, it.way);
    for change in &it.changes {
        let _ = write!(text, "\n            {change}");
    }
    ("called by", text)
}

/// What it began with.
fn carried(state: &CarriedState) -> String {
    let version = state.from_version.as_deref().unwrap_or("?");
    let mut text = match &*state.origin {
        "predecessor" => format!("{} bytes from {version}, which served until then", state.bytes),
        "snapshot" => format!("{} bytes, as {version} saved it last", state.bytes),
        _ => "state, and began without any".to_owned(),
    };
    if let Some(us) = state.pause_us {
        let _ = write!(text, "; callers waited for {:.1} ms", us as f64 / 1000.0);
    }
    if let Some(why) = &state.left_behind {
        let _ = write!(text, "; left behind: {why}");
    }
    text
}

/// The limits that are set and that its runtime does not enforce here.
fn unenforced(detail: &PluginDetail) -> impl Iterator<Item = String> {
    let set = |limit: &str| detail.limits.get(limit).is_some_and(|it| !it.is_null());
    let said = |name: &str| Some(detail.support.as_ref()?.get(name)?.as_str()?.to_owned());
    [("cpu_percent", "cpu_limit"), ("memory_bytes_max", "memory_limit")]
        .into_iter()
        .filter(move |(limit, _)| set(limit))
        .filter_map(move |(limit, name)| Some((limit, said(name)?)))
        .filter(|(_, said)| said != "enforced")
        .map(|(limit, said)| format!("{limit} is {said}"))
}

pub(crate) fn moves(all: &[Move]) -> String {
    let now = now_ms();
    let rows: Vec<_> = all
        .iter()
        .map(|it| {
            vec![
                format!("{} ago", ago(now.saturating_sub(it.at_unix_ms))),
                it.generation.to_string(),
                format!("{} -> {}", it.from, it.to),
                it.event.clone(),
                it.detail.clone(),
            ]
        })
        .collect();
    table(&["WHEN", "GENERATION", "MOVE", "BECAUSE", "DETAIL"], &rows)
}

pub(crate) fn changes(all: &[Change]) -> String {
    if all.is_empty() {
        return "nothing was changed".to_owned();
    }
    let now = now_ms();
    let rows: Vec<_> = all
        .iter()
        .map(|it| {
            let what = |difference: &Difference| arrow(difference);
            let changed: Vec<_> = it
                .diff
                .iter()
                .filter(|it| it.what != "package")
                .map(what)
                .collect();
            let why = [changed.join(", "), it.detail.clone()];
            let why: Vec<_> = why.into_iter().filter(|it| !it.is_empty()).collect();
            vec![
                it.seq.to_string(),
                format!("{} ago", ago(now.saturating_sub(it.at_unix_ms))),
                it.actor.clone(),
                it.name.clone(),
                it.action.clone(),
                if it.kept { "yes" } else { "-" }.to_owned(),
                it.outcome.clone(),
                why.join("; "),
            ]
        })
        .collect();
    table(
        &[
            "NUMBER", "WHEN", "WHO", "PLUGIN", "WHAT", "KEPT", "OUTCOME", "CHANGED",
        ],
        &rows,
    )
}

pub(crate) fn differences(it: &Differences) -> String {
    let mut text = match it.from {
        Some(from) => format!("from the end of change {from} to that of {}", it.to),
        None => format!("what change {} was about", it.to),
    };
    for difference in &it.differences {
        let _ = write!(text, "\n  {}", arrow(difference));
    }
    if it.differences.is_empty() {
        text += "\n  nothing differs";
    }
    match &it.contract {
        Some(verdict) => {
            let _ = write!(text, "\n  contract: {verdict}");
        }
        None if it.differences.iter().any(|it| it.what.starts_with("canary.")) => {}
        None => text += "\n  contract: not compared, because one of the packages is not kept any more",
    }
    for violation in &it.violations {
        let _ = write!(text, "\n    {violation}");
    }
    text
}

fn arrow(it: &Difference) -> String {
    let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".to_owned());
    format!(
        "{} {} -> {}",
        it.what,
        or_nothing(&it.before),
        or_nothing(&it.after)
    )
}

pub(crate) fn runtimes(all: &[RuntimeSupport]) -> String {
    let mut text = String::new();
    for it in all {
        let word = if it.available { "ready" } else { "not available" };
        let _ = write!(text, "\n{}: {word}", it.runtime);
        let _ = write!(
            text,
            "\n  isolation     {}\n  interrupt     {}\n  memory limit  {}\n  cpu limit     {}\n  pure plugins  {}",
            it.isolation, it.interrupt, it.memory_limit, it.cpu_limit, it.purity
        );
        for lack in &it.lacks {
            let _ = write!(text, "\n  lacks {}: {}", lack.what, lack.why);
        }
        text += &layers(&it.layers);
    }
    text.trim_start().to_owned()
}

/// The layers of a jail, one per line; nothing if there are none to speak of.
fn layers(all: &[Layer]) -> String {
    let mut text = String::new();
    if !all.is_empty() {
        text += "\n  layers of the jail";
    }
    for it in all {
        let mark = if it.present { "yes" } else { "no " };
        let _ = write!(text, "\n    {mark} {:<18} {}", it.name, it.what);
        if !it.detail.is_empty() {
            let _ = write!(text, " ({})", it.detail);
        }
    }
    text
}

pub(crate) fn reloaded(it: &Reloaded) -> String {
    let mut text = String::new();
    for (word, names) in [
        ("loaded", &it.loaded),
        ("swapped", &it.swapped),
        ("unloaded", &it.unloaded),
        ("unchanged", &it.unchanged),
        ("canary", &it.canaries),
    ] {
        if !names.is_empty() {
            let _ = writeln!(text, "{word}: {}", names.join(", "));
        }
    }
    for Overruled { name, why } in &it.kept {
        let _ = writeln!(text, "kept: {name}\n  {why}");
    }
    for plugin in &it.failed {
        let _ = writeln!(text, "failed: {}", plugin.name);
        for reason in &plugin.reasons {
            let _ = writeln!(text, "  {}", reason.why);
            if !reason.hint.is_empty() {
                let _ = writeln!(text, "  hint: {}", reason.hint);
            }
        }
    }
    if !it.needs_restart.is_empty() {
        let _ = writeln!(
            text,
            "waits for the next start of the host: {}",
            it.needs_restart.join(", ")
        );
    }
    if text.is_empty() {
        text = "the configuration names no plugins".to_owned();
    }
    text
}

pub(crate) fn shipped(all: &[Shipped]) -> String {
    let mut text = "comes with this command:".to_owned();
    for it in all {
        let (source, version) = (&it.source, &it.version);
        let _ = write!(
            text,
            "\n  {source} {version}, {}: {}",
            it.runtimes.join(", "),
            it.provides.join(", ")
        );
        if let Some(description) = &it.description {
            let _ = write!(text, "\n    {description}");
        }
    }
    text
}

fn permissions(grant: &mortise_gateway::control::Grant) -> String {
    let named = |name: &str, all: &[String]| all.iter().map(|it| format!("{name}={it}")).collect::<Vec<_>>();
    let mut all = [
        named("net.connect", &grant.net_connect),
        named("fs.read", &grant.fs_read),
        named("fs.write", &grant.fs_write),
        named("events.publish", &grant.events_publish),
        named("events.subscribe", &grant.events_subscribe),
    ]
    .concat();
    if grant.kv {
        all.push("kv".to_owned());
    }
    if all.is_empty() {
        "nothing".to_owned()
    } else {
        all.join(", ")
    }
}

fn pairs(all: &BTreeMap<String, Value>) -> String {
    let known = all.iter().filter(|(_, value)| !value.is_null());
    known
        .map(|(name, value)| format!("{name} {value}"))
        .collect::<Vec<_>>()
        .join(", ")
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
