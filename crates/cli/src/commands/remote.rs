//! Commands that ask a running host over its control socket.

use std::path::PathBuf;

use mortise::{
    Source,
    manifest::{HostConfig, RuntimeName},
};
use mortise_gateway::control::{self, Ask, Client};
use serde_json::value::RawValue;

use crate::{
    args::{
        Diff, Drawing, Graph, History, Jail, Load, OnePlugin, Reload, Remote, Restart, Rollback, Terms,
        Unload,
    },
    commands::{call, show},
    config,
    exit::{Exit, Failure, Fault},
    output::Output,
};

pub(crate) fn load(args: Load, output: &Output) -> anyhow::Result<()> {
    let plugins = args.source.iter().map(|it| load_of(&args, it));
    let mut plugins: Vec<_> = plugins.collect::<Result<_, _>>()?;
    if args.together {
        let loaded = ask(&args.remote, &control::LoadAll { plugins })?;
        for it in &loaded {
            warn_of_jail(&args.terms, &it.name, it.runtime.as_deref());
        }
        return output.answer(&loaded, |all| {
            let lines: Vec<_> = all.iter().map(loaded_line).collect();
            lines.join("\n")
        });
    }
    let (Some(load), true) = (plugins.pop(), plugins.is_empty()) else {
        let fault = Fault::new(format!("{} packages are named", args.source.len()));
        let hint = "load them one by one, or as one change with `--together`";
        return Err(Failure::usage(fault.hint(hint)).into());
    };
    let loaded = ask(&args.remote, &load)?;
    warn_of_jail(&args.terms, &loaded.name, loaded.runtime.as_deref());
    output.answer(&loaded, loaded_line)
}

fn load_of(args: &Load, source: &str) -> Result<control::Load, Failure> {
    Ok(control::Load {
        source: absolute(source)?,
        name: args.name.clone(),
        runtime: args.terms.runtime.clone(),
        grant: grant(&args.terms)?,
        jail: (args.terms.jail == Jail::Off).then(|| "off".to_owned()),
        trust_adapter: args.terms.trust_adapter,
        restart: match args.restart {
            Restart::OnFailure => None,
            Restart::Never => Some("never".to_owned()),
            Restart::Always => Some("always".to_owned()),
        },
        limits: limits(&args.terms),
        config: plugin_config(&args.terms)?,
        beside: args.beside,
        force: args.force,
    })
}

fn loaded_line(it: &control::Plugin) -> String {
    let runtime = it.runtime.as_deref().unwrap_or("no runtime");
    format!(
        "loaded `{}`: {} in {runtime}, generation {}, {}",
        it.name, it.plugin, it.generation, it.state
    )
}

pub(crate) fn unload(args: Unload, output: &Output) -> anyhow::Result<()> {
    let Unload {
        plugin,
        cascade,
        remote,
    } = args;
    let gone = ask(&remote, &control::Unload { plugin, cascade })?;
    output.answer(&gone, |it| {
        let all: Vec<_> = it.before.iter().chain([it]).map(unloaded_lines).collect();
        all.join("\n")
    })
}

fn unloaded_lines(it: &control::Unloaded) -> String {
    let mut text = format!("unloaded `{}`", it.name);
    if it.cancelled > 0 {
        text += &format!("; {} calls did not end in time and were cancelled", it.cancelled);
    }
    for (word, why) in [("force was needed", &it.forced), ("left on purpose", &it.left)] {
        if let Some(why) = why {
            text += &format!("\n{word}: {why}");
        }
    }
    text
}

pub(crate) fn graph(args: &Graph, output: &Output) -> anyhow::Result<()> {
    output.answer(&ask(&args.remote, &control::Graph {})?, |chart| {
        match args.format {
            Drawing::Text => chart.to_text(),
            Drawing::Dot => chart.to_dot(),
            Drawing::Svg => chart.to_svg(),
        }
    })
}

pub(crate) fn list(args: &Remote, output: &Output) -> anyhow::Result<()> {
    output.answer(&ask(args, &control::List {})?, |all| show::plugins(all))
}

pub(crate) fn inspect(args: OnePlugin, output: &Output) -> anyhow::Result<()> {
    output.answer(
        &ask(&args.remote, &control::Inspect { plugin: args.plugin })?,
        show::plugin,
    )
}

pub(crate) fn history(args: History, output: &Output) -> anyhow::Result<()> {
    if let (true, Some(plugin)) = (args.moves, &args.plugin) {
        let plugin = plugin.clone();
        let moves = ask(&args.remote, &control::History { plugin })?;
        return output.answer(&moves, |all| show::moves(all));
    }
    let changes = control::Changes {
        plugin: args.plugin,
        before: args.before,
        limit: Some(args.limit),
    };
    output.answer(&ask(&args.remote, &changes)?, |all| show::changes(all))
}

pub(crate) fn rollback(args: Rollback, output: &Output) -> anyhow::Result<()> {
    let (plugin, to) = (args.plugin, args.to);
    let loaded = ask(&args.remote, &control::Rollback { plugin, to })?;
    output.answer(&loaded, |it| {
        format!("`{}` is {} again, {}", it.name, it.plugin, it.state)
    })
}

pub(crate) fn diff(args: &Diff, output: &Output) -> anyhow::Result<()> {
    let diff = match args.to {
        Some(to) => control::Diff {
            from: Some(args.from),
            to,
        },
        None => control::Diff {
            from: None,
            to: args.from,
        },
    };
    output.answer(&ask(&args.remote, &diff)?, show::differences)
}

pub(crate) fn reload(args: Reload, output: &Output) -> anyhow::Result<()> {
    let taking = args.plugins;
    let reloaded = ask(&args.remote, &control::Reload { taking })?;
    output.answer(&reloaded, show::reloaded)?;
    if !reloaded.failed.is_empty() {
        // What could not be loaded stands in the answer.
        std::process::exit(Exit::Failed.code().into());
    }
    Ok(())
}

pub(crate) fn shutdown(args: &Remote, output: &Output) -> anyhow::Result<()> {
    output.answer(&ask(args, &control::Shutdown {})?, |_| {
        "the host finishes its calls and stops".to_owned()
    })
}

/// Asks the host and waits for its answer.
pub(crate) fn ask<A: Ask>(remote: &Remote, ask: &A) -> anyhow::Result<A::Answer> {
    let client = Client::new(socket(remote)?);
    super::block_on(async {
        client
            .ask(ask)
            .await
            .map_err(|error| Failure::of_client(&error).into())
    })
}

/// Where the host's control socket is: as told, as in ./mortise.toml, else where a host of this user puts it.
pub(crate) fn socket(remote: &Remote) -> Result<PathBuf, Failure> {
    if let Some(socket) = &remote.socket {
        return Ok(socket.clone());
    }
    let settings = match std::fs::read_to_string(config::FILE) {
        Ok(text) => {
            HostConfig::parse(&text, config::FILE)
                .map_err(|all| Failure::of_diagnostics(&all))?
                .host
        }
        Err(_) => HostConfig::default().host,
    };
    Ok(config::control_socket(&settings, None, None))
}

// === what a plugin is loaded with ===

/// A folder as the host, which has another working directory, has to be told of it.
pub(crate) fn absolute(source: &str) -> Result<String, Failure> {
    let Source::Folder(folder) = Source::parse(source) else {
        return Ok(source.to_owned());
    };
    let folder = std::fs::canonicalize(&folder).map_err(|error| {
        let hint = "name a package folder, as `mortise build` writes it";
        Failure::new(Fault::new(format!("cannot find `{source}`: {error}")).hint(hint))
    })?;
    folder.into_os_string().into_string().map_err(|path| {
        Failure::new(Fault::new(format!(
            "`{}` is not UTF-8, and the control socket speaks JSON",
            path.display()
        )))
    })
}

pub(crate) fn grant(terms: &Terms) -> Result<control::Grant, Failure> {
    let mut grant = control::Grant::default();
    for permission in &terms.grant {
        match permission.split_once('=') {
            None if permission == "kv" => grant.kv = true,
            Some(("net.connect", value)) => grant.net_connect.push(value.to_owned()),
            Some(("fs.read", value)) => grant.fs_read.push(value.to_owned()),
            Some(("fs.write", value)) => grant.fs_write.push(value.to_owned()),
            Some(("events.publish", value)) => grant.events_publish.push(value.to_owned()),
            Some(("events.subscribe", value)) => grant.events_subscribe.push(value.to_owned()),
            _ => {
                let fault = Fault::new(format!("`{permission}` is no permission"));
                let hint = "write `kv`, `net.connect=HOST:PORT`, `fs.read=PATH`, `fs.write=PATH`, `events.publish=TOPIC` or `events.subscribe=TOPIC`";
                return Err(Failure::usage(fault.hint(hint)));
            }
        }
    }
    Ok(grant)
}

pub(crate) fn limits(terms: &Terms) -> control::Limits {
    control::Limits {
        memory_mib: terms.memory_mib,
        deadline_ms: terms.deadline_ms,
        concurrency: terms.concurrency,
        cpu_percent: terms.cpu_percent,
        ..control::Limits::default()
    }
}

/// Says on standard error what an operator should not do by accident.
pub(crate) fn warn_of_jail(terms: &Terms, plugin: &str, runtime: Option<&str>) {
    if terms.jail == Jail::On {
        return;
    }
    if runtime == Some(RuntimeName::Process.as_str()) {
        eprintln!(
            "warning: plugin `{plugin}` runs without a jail: it may do whatever the host's user may\n  hint: grant it what it needs instead, and leave `--jail off` out"
        );
    } else {
        eprintln!(
            "note: `--jail off` changes nothing for plugin `{plugin}`, which does not run as a process"
        );
    }
}

pub(crate) fn plugin_config(terms: &Terms) -> Result<Option<Box<RawValue>>, Failure> {
    let Some(config) = &terms.config else {
        return Ok(None);
    };
    let text = call::at_file(config)?;
    let from = config.strip_prefix('@').unwrap_or("--config");
    RawValue::from_string(text.trim().to_owned())
        .map(Some)
        .map_err(|error| call::not_json(from, &error))
}
