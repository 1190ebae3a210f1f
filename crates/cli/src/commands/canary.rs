//! `mortise canary`: a new version beside the one that serves.

use std::fmt::Write as _;

use mortise_gateway::control::{self, Canary, CanarySide};

use crate::{
    args::{CanaryStart, CanaryTask, Jail, OneCanary},
    commands::remote::{absolute, ask, grant, limits, plugin_config, warn_of_jail},
    output::Output,
};

pub(crate) fn canary(task: CanaryTask, output: &Output) -> anyhow::Result<()> {
    match task {
        CanaryTask::Start(args) => start(*args, output),
        CanaryTask::Status(remote) => output.answer(&ask(&remote, &control::Canaries {})?, |all| {
            if all.is_empty() {
                return "no canaries; start one with `mortise canary start FOLDER`".to_owned();
            }
            all.iter().map(one).collect::<Vec<_>>().join("\n\n")
        }),
        CanaryTask::Pause(args) => tell(args, "pause", None, output),
        CanaryTask::Resume(args) => tell(args, "resume", None, output),
        CanaryTask::Promote(args) => tell(args, "promote", None, output),
        CanaryTask::Abort(args) => {
            let one = OneCanary {
                plugin: args.plugin,
                remote: args.remote,
            };
            tell(one, "abort", Some(args.why), output)
        }
    }
}

fn start(args: CanaryStart, output: &Output) -> anyhow::Result<()> {
    let load = control::Load {
        source: absolute(&args.source)?,
        name: args.name,
        runtime: args.terms.runtime.clone(),
        grant: grant(&args.terms)?,
        jail: (args.terms.jail == Jail::Off).then(|| "off".to_owned()),
        trust_adapter: args.terms.trust_adapter,
        limits: limits(&args.terms),
        config: plugin_config(&args.terms)?,
        force: args.force,
        ..control::Load::default()
    };
    let start = control::StartCanary {
        load,
        steps: args.step,
        sticky: args.sticky,
        analysis: control::CanaryAnalysis {
            window_ms: args.window_ms,
            requests_min: args.requests_min,
            error_ratio_floor: args.error_ratio,
            error_ratio_factor: args.error_factor,
            p95_step_ms: args.p95_step_ms,
            p95_factor: args.p95_factor,
            ..control::CanaryAnalysis::default()
        },
    };
    let started = ask(&args.remote, &start)?;
    warn_of_jail(&args.terms, &started.address, args.terms.runtime.as_deref());
    output.answer(&started, one)
}

fn tell(args: OneCanary, word: &str, why: Option<String>, output: &Output) -> anyhow::Result<()> {
    let told = control::TellCanary {
        plugin: args.plugin,
        word: word.to_owned(),
        why,
    };
    output.answer(&ask(&args.remote, &told)?, one)
}

// === for people ===

fn one(it: &Canary) -> String {
    let mut text = format!(
        "{}: {} beside {}, {}",
        it.plugin, it.version, it.baseline_version, it.state
    );
    if !it.waits_for.is_empty() {
        let _ = write!(text, ", waits for {}", it.waits_for);
    }
    let steps: Vec<_> = it
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let here = index + 1 == it.step;
            if here { format!("[{step}]") } else { step.clone() }
        })
        .collect();
    let _ = write!(text, "\n  steps     {}", steps.join("  "));
    let _ = write!(text, "\n  gets      {} % of the calls", it.weight);
    for header in &it.headers {
        let _ = write!(text, ", and those with `{header}`");
    }
    let side = |it: &CanarySide| {
        format!(
            "{} calls, {:.1} % errors, p95 {:.2} ms",
            it.calls,
            100.0 * it.error_ratio,
            it.p95_ms
        )
    };
    let _ = write!(text, "\n  {:<9} {}", it.version, side(&it.numbers.canary));
    let _ = write!(
        text,
        "\n  {:<9} {}",
        it.baseline_version,
        side(&it.numbers.baseline)
    );
    for note in &it.notes {
        let _ = write!(text, "\n  note: {note}");
    }
    for decision in &it.decisions {
        let _ = write!(text, "\n  {}: {}", decision.actor, decision.text);
    }
    text
}
