//! `mortise config`: what plugins are configured with.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use mortise::{
    ConfigFault, LoadRequest,
    manifest::{HostConfig, Step, place_in_json, place_in_toml, table_to_json},
};
use mortise_gateway::control::{self, Configuration};
use serde::Serialize;

use crate::{
    args::{ConfigCheck, ConfigTask},
    commands::{remote::ask, show::now_ms},
    config::ConfigFile,
    exit::{Exit, Failure, Fault},
    output::{Output, ago, table},
    runtimes::{self, TemporaryHost},
};

pub(crate) fn config(task: ConfigTask, output: &Output) -> anyhow::Result<()> {
    match task {
        ConfigTask::Show(args) => {
            let config = control::Config { plugin: args.plugin };
            output.answer(&ask(&args.remote, &config)?, shown)
        }
        ConfigTask::Check(args) => check(&args, output),
    }
}

// === before anything is started ===

/// What is wrong with configurations of hosts.
#[derive(Serialize)]
struct Report {
    files: Vec<PathBuf>,
    /// Plugins whose configuration was looked at.
    plugins: usize,
    faults: Vec<Fault>,
}

fn check(args: &ConfigCheck, output: &Output) -> anyhow::Result<()> {
    let report = super::block_on(report(args))?;
    let failed = !report.faults.is_empty();
    output.answer(&report, |it| {
        let mut parts: Vec<_> = it
            .faults
            .iter()
            .map(|it| output.render(it, "error", "31"))
            .collect();
        let faults = match it.faults.len() {
            0 => "no faults".to_owned(),
            1 => "1 fault".to_owned(),
            many => format!("{many} faults"),
        };
        let plugins = match it.plugins {
            1 => "1 plugin".to_owned(),
            many => format!("{many} plugins"),
        };
        parts.push(format!("{plugins}: {faults}"));
        parts.join("\n\n")
    })?;
    if failed {
        // The report was the answer: nothing more to say than the code.
        std::process::exit(Exit::Failed.code().into());
    }
    Ok(())
}

async fn report(args: &ConfigCheck) -> anyhow::Result<Report> {
    let mut report = Report {
        files: args.file.clone(),
        plugins: 0,
        faults: Vec::new(),
    };
    let host = runtimes::temporary_host().await?;
    for file in &args.file {
        match ConfigFile::of(Some(file)).read() {
            // Every fault of the file itself, with its place.
            Err(error) => report.faults.extend(Failure::of_any(error).faults),
            Ok(config) => {
                report.plugins += config.plugins.len();
                report.faults.extend(of_plugins(&host, file, &config).await);
            }
        }
    }
    host.shutdown().await;
    Ok(report)
}

/// What is wrong with what the plugins of a host would be configured with.
async fn of_plugins(host: &TemporaryHost, file: &Path, config: &HostConfig) -> Vec<Fault> {
    let mut faults = Vec::new();
    let text = fs::read_to_string(file).unwrap_or_default();
    // Those that name a source are all in `config`, in this order.
    let entries = text.parse::<toml::Table>().ok();
    let entries = entries
        .as_ref()
        .and_then(|it| it.get("plugin")?.as_array())
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, it)| it.get("source").is_some())
        .map(|(number, _)| number);
    for (plugin, entry) in config.plugins.iter().zip(entries) {
        let own = [Step::Member("plugin".to_owned()), Step::Item(entry)];
        let name = plugin.name.clone().unwrap_or_else(|| {
            let source = plugin.source.to_string();
            source.rsplit('/').next().unwrap_or_default().to_owned()
        });
        let at = |fault: Fault, steps: &[Step]| match place_in_toml(&text, steps) {
            Some((line, column)) => fault.at(format_args!("{}:{line}:{column}", file.display())),
            None => fault.at(file.display()),
        };
        match host
            .check_config(&config.config, &LoadRequest::from(plugin.clone()))
            .await
        {
            Err(error) => {
                let steps = [&own[..], &[Step::Member("source".to_owned())]].concat();
                let failure = Failure::of_host(&error);
                faults.extend(failure.faults.into_iter().map(|it| at(it, &steps)));
            }
            Ok(found) => {
                for it in found {
                    if it.origin == "own" {
                        let config = [Step::Member("config".to_owned())];
                        let steps = [&own[..], &config, &Step::all_of(&it.path)].concat();
                        faults.push(at(told(&name, &it), &steps));
                    } else {
                        faults.extend(of_file(&name, &it));
                    }
                }
            }
        }
    }
    faults
}

fn told(plugin: &str, it: &ConfigFault) -> Fault {
    let what = match &*it.path {
        "" => it.why.clone(),
        path => format!("`{path}` {}", it.why),
    };
    Fault::new(format!("configuration of `{plugin}`: {what}")).hint(it.hint.clone())
}

/// A fault in a file of the directory of configurations, where it stands in it.
fn of_file(plugin: &str, it: &ConfigFault) -> Vec<Fault> {
    let path = Path::new(&it.origin);
    let text = fs::read_to_string(path).unwrap_or_default();
    let is_toml = path.extension().is_some_and(|it| it == "toml");
    let steps = Step::all_of(&it.path);
    if it.path.is_empty() {
        // It does not read: the reader of the text knows where.
        if is_toml && let Err(all) = table_to_json(&text, &it.origin) {
            let mut faults = Failure::of_diagnostics(&all).faults;
            for fault in &mut faults {
                // A secret may stand there.
                fault.excerpt = None;
            }
            return faults;
        }
        if !is_toml && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            let place = format!("{}:{}:{}", it.origin, error.line(), error.column());
            return vec![told(plugin, it).at(place)];
        }
    }
    let place = match is_toml {
        true => place_in_toml(&text, &steps),
        false => place_in_json(&text, &steps),
    };
    let (line, column) = place.unwrap_or((1, 1));
    vec![told(plugin, it).at(format_args!("{}:{line}:{column}", it.origin))]
}

// === of a host that runs ===

fn shown(it: &Configuration) -> String {
    let mut text = it.name.clone();
    let mut line = |name: &str, value: String| {
        let _ = write!(text, "\n  {name:<9} {value}");
    };
    line(
        "message",
        it.message.clone().unwrap_or_else(|| "any object".to_owned()),
    );
    let since = ago(now_ms().saturating_sub(it.since_unix_ms));
    let how = match &*it.how {
        "start" => format!("since the start of its instance, {since} ago"),
        "hot" => format!("for {since}, taken over by the running instance"),
        "swap" => format!("for {since}, by a new instance"),
        _ => "nothing: it does not serve".to_owned(),
    };
    let trial = if it.proven || it.how == "none" {
        ""
    } else {
        ", on trial"
    };
    line("in force", how + trial);
    if !it.revision.is_empty() {
        line("revision", it.revision.clone());
    }
    line(
        "a change",
        if it.hot {
            "is offered to the running instance".to_owned()
        } else {
            "starts a new instance".to_owned()
        },
    );
    if let Some(trouble) = &it.trouble {
        line("trouble", trouble.clone());
    }
    for source in &it.sources {
        let how = match (&source.out, source.out_since_unix_ms) {
            (Some(why), Some(since)) => {
                format!("out for {}: {why}", ago(now_ms().saturating_sub(since)))
            }
            _ => format!("at revision {}", source.revision),
        };
        line("source", format!("{}, {how}", source.name));
    }
    if it.values.is_empty() {
        return text + "\nno values";
    }
    let row = |it: &control::ConfiguredValue| {
        let value = if it.secret {
            format!("secret {}", it.value)
        } else {
            it.value.clone()
        };
        vec![it.path.clone(), value, it.origin.clone()]
    };
    let rows: Vec<_> = it.values.iter().map(row).collect();
    text + "\n" + &table(&["SETTING", "VALUE", "FROM"], &rows)
}
