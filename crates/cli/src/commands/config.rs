//! `mortise config`: what plugins are configured with.

use std::fmt::Write as _;

use mortise_gateway::control::{self, Configuration};

use crate::{
    args::ConfigTask,
    commands::{remote::ask, show::now_ms},
    output::{Output, ago, table},
};

pub(crate) fn config(task: ConfigTask, output: &Output) -> anyhow::Result<()> {
    match task {
        ConfigTask::Show(args) => {
            let config = control::Config { plugin: args.plugin };
            output.answer(&ask(&args.remote, &config)?, shown)
        }
    }
}

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
