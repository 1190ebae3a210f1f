//! `mortise doctor`: what works on this machine, what does not, and what to do about it.

use mortise_gateway::control::{self, Client, ClientError, DoctorReport, Overruled, RuntimeSupport};
use serde::Serialize;

use crate::{
    args::Doctor,
    commands::{remote, show},
    exit::Failure,
    output::{Output, ago},
    runtimes,
    shipped::{self, Shipped},
    toolchain,
};

#[derive(Serialize)]
struct Report {
    version: &'static str,
    /// What this command itself could run; a host may be of another build.
    runtimes: Vec<RuntimeSupport>,
    /// What comes with this command: plugins compiled in, and packages embedded.
    shipped: Vec<Shipped>,
    tools: Vec<Tool>,
    host: HostState,
}

#[derive(Serialize)]
struct Tool {
    name: &'static str,
    needed_for: &'static str,
    found: Option<String>,
    hint: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum HostState {
    NotAsked,
    NotRunning {
        socket: String,
    },
    Refused {
        socket: String,
        why: String,
    },
    Running {
        socket: String,
        report: Box<DoctorReport>,
    },
}

pub(crate) fn doctor(args: &Doctor, output: &Output) -> anyhow::Result<()> {
    let socket = remote::socket(&args.remote)?;
    let (runtimes, host) = super::block_on(async {
        let local = runtimes::temporary_host().await?;
        let runtimes = RuntimeSupport::all_of(&local);
        local.shutdown().await;
        let name = socket.display().to_string();
        if args.offline {
            return Ok((runtimes, HostState::NotAsked));
        }
        let state = match Client::new(&socket).ask(&control::Doctor {}).await {
            Ok(report) => HostState::Running {
                socket: name,
                report: Box::new(report),
            },
            Err(ClientError::Unreachable { .. }) => HostState::NotRunning { socket: name },
            Err(error) => HostState::Refused {
                socket: name,
                why: Failure::of_client(&error).to_string(),
            },
        };
        Ok((runtimes, state))
    })?;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        runtimes,
        shipped: shipped::list()?,
        tools: tools(),
        host,
    };
    output.answer(&report, text)
}

fn tools() -> Vec<Tool> {
    let program = |name: &'static str, variable: &str, needed_for, hint: &str| {
        let command = std::env::var_os(variable).unwrap_or_else(|| name.into());
        let found = Some(toolchain::version(command.as_ref())).filter(|it| !it.is_empty());
        let hint = found.is_none().then(|| hint.to_owned());
        Tool {
            name,
            needed_for,
            found,
            hint,
        }
    };
    let wasm = toolchain::wasm(std::path::Path::new("."));
    let (found, hint) = match wasm {
        Ok(wasm) => (Some(wasm.found), None),
        Err(failure) => (None, failure.faults.into_iter().next().and_then(|it| it.hint)),
    };
    vec![
        program(
            "cargo",
            "CARGO",
            "building plugins in Rust",
            "install Rust from https://rustup.rs",
        ),
        program(
            "cc",
            "CC",
            "building plugins in C",
            "install a C compiler (Debian: `apt install gcc`)",
        ),
        Tool {
            name: toolchain::WASM_TARGET,
            needed_for: "building plugins for WebAssembly",
            found,
            hint,
        },
    ]
}

fn text(report: &Report) -> String {
    let mut parts = vec![
        format!("mortise {}", report.version),
        show::runtimes(&report.runtimes),
        show::shipped(&report.shipped),
    ];
    let tools: Vec<_> = report
        .tools
        .iter()
        .map(|it| match (&it.found, &it.hint) {
            (Some(found), _) => format!("{}: {found}", it.name),
            (None, hint) => {
                let hint = hint
                    .as_ref()
                    .map(|it| format!("\n  hint: {it}"))
                    .unwrap_or_default();
                format!("{}: not found (for {}){hint}", it.name, it.needed_for)
            }
        })
        .collect();
    parts.push(tools.join("\n"));
    match &report.host {
        HostState::NotAsked => {}
        HostState::NotRunning { socket } => parts.push(format!(
            "no host runs at {socket}\n  hint: start one with `mortise serve`"
        )),
        HostState::Refused { socket, why } => {
            parts.push(format!("the host at {socket} did not answer: {why}"))
        }
        HostState::Running { socket, report } => {
            let plugins: Vec<_> = report
                .plugins
                .iter()
                .map(|(state, count)| format!("{count} {state}"))
                .collect();
            let mut text = format!(
                "a host {} runs at {socket}: pid {}, user {}, for {}",
                report.version,
                report.pid,
                report.uid,
                ago(report.uptime_ms)
            );
            if let Some(listen) = &report.listen {
                text += &format!("\n  HTTP on {listen}");
            }
            if let Some(dir) = &report.data_dir {
                text += &format!("\n  data in {dir}");
            }
            text += &format!(
                "\n  plugins: {}",
                if plugins.is_empty() {
                    "none".to_owned()
                } else {
                    plugins.join(", ")
                }
            );
            for Overruled { name, why } in &report.overruled {
                text += &format!("\n  {name}: {why}");
            }
            parts.push(text);
        }
    }
    parts.join("\n\n")
}
