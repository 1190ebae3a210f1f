//! `cargo xtask bench`: every figure beside its anchor, in one run.

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use mortise::manifest::RuntimeName;
use mortise_bench::{
    events, evolve, greedy, lanes, loading, native, routing, rpc, soak, subject, swap, table, wasm, watching,
};

/// Measures Mortise beside its anchors.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Every row
    Table {
        /// Seconds per server, number of connections and round: twelve times this in all
        #[arg(long, default_value_t = 6)]
        seconds: u64,
        /// Only rows of this group
        #[arg(long, value_parser = ["native", "routing", "evolve", "wasm", "lanes", "starting", "loading", "watching", "events", "swap", "greedy", "rpc"])]
        only: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Calls over one process lane and nothing else: something for a profiler to look at
    Lane {
        #[arg(value_parser = ["grpc", "call-stream", "raw", "shm", "go"])]
        lane: String,
        /// Bytes of the message that is echoed
        #[arg(long, default_value_t = 64)]
        bytes: usize,
        #[arg(long, default_value_t = 20_000)]
        calls: u32,
    },
    /// Swaps by the thousand under load, with every call accounted for
    Soak {
        /// Swaps per in-process runtime; a tenth of them for processes
        #[arg(long, default_value_t = 20_000)]
        swaps: u64,
        /// Only this runtime
        #[arg(long)]
        runtime: Option<String>,
        /// Only this variant
        #[arg(long, value_parser = ["steady", "together", "crashing", "killed"])]
        variant: Option<String>,
    },
    #[command(hide = true)]
    SoakVictim {
        runtime: String,
        data: std::path::PathBuf,
    },
    #[command(hide = true)]
    ServeAxum,
    #[command(hide = true)]
    ServeMortise,
    #[command(hide = true)]
    ServeTonic { socket: std::path::PathBuf },
    #[command(hide = true)]
    Measure { runtime: String },
    #[command(hide = true)]
    Idle,
    #[command(hide = true)]
    IdleBare,
}

#[tokio::main]
async fn main() -> Result<()> {
    let data = tempfile::tempdir()?;
    let data = data.path();
    match Arguments::parse().task {
        Task::Lane { lane, bytes, calls } => lanes::alone(data, &executables()?, &lane, bytes, calls).await,
        Task::ServeAxum => rpc::serve_axum().await,
        Task::ServeTonic { socket } => lanes::serve_tonic(&socket).await,
        Task::ServeMortise => rpc::serve_mortise(data).await,
        Task::Measure { runtime } => {
            let runtime = RuntimeName::parse(&runtime).context("no such runtime")?;
            loading::measure(runtime, data).await
        }
        Task::Idle => loading::idle(data).await,
        Task::IdleBare => loading::idle_bare(),
        Task::SoakVictim { runtime, data } => {
            let runtime = RuntimeName::parse(&runtime).context("no such runtime")?;
            soak::victim(runtime, data).await
        }
        Task::Soak {
            swaps,
            runtime,
            variant,
        } => {
            let only = runtime
                .map(|it| RuntimeName::parse(&it).context("no such runtime"))
                .transpose()?;
            soak::run(swaps, only, variant.as_deref(), data).await
        }
        Task::Table { seconds, only, json } => {
            let wanted = |group| only.as_deref().is_none_or(|only| only == group);
            let mut groups = Vec::new();
            if wanted("native") {
                groups.push(("Native calls", native::rows(&data.join("native")).await?));
            }
            if wanted("evolve") {
                groups.push(("Evolution", evolve::rows(&data.join("evolve")).await?));
            }
            if wanted("routing") {
                groups.push(("Routing", routing::rows(&data.join("routing")).await?));
            }
            if wanted("wasm") {
                groups.push((
                    "WebAssembly calls and loads",
                    wasm::rows(&data.join("wasm")).await?,
                ));
            }
            if wanted("lanes") {
                let mut anchor = std::process::Command::new(std::env::current_exe()?);
                anchor.arg("serve-tonic");
                groups.push((
                    "Process lanes",
                    lanes::rows(&data.join("lanes"), &executables()?, anchor).await?,
                ));
            }
            #[cfg(target_os = "linux")]
            if wanted("starting") {
                let plugin = subject::package("echo")?.join("echo");
                let rows = mortise_bench::starting::rows(&data.join("starting"), &plugin).await?;
                groups.push(("Starting a process", rows));
            }
            if wanted("loading") {
                groups.push(("Loading and memory", loading::rows()?));
            }
            if wanted("watching") {
                groups.push((
                    "Watching a directory",
                    watching::rows(&data.join("watching")).await?,
                ));
            }
            if wanted("events") {
                groups.push(("Events", events::rows(&data.join("events")).await?));
            }
            if wanted("greedy") {
                let rows = greedy::rows(&data.join("greedy"), greedy::WATCH).await?;
                groups.push(("Greedy neighbours", rows));
            }
            if wanted("swap") {
                groups.push((
                    "Swaps of a plugin with state",
                    swap::rows(&data.join("swap")).await?,
                ));
            }
            if wanted("rpc") {
                groups.push(("JSON-RPC over HTTP", rpc::rows(seconds).await?));
            }
            if json {
                println!("{}", serde_json::to_string_pretty(&groups)?);
            } else {
                groups.iter().for_each(|(title, rows)| table::print(title, rows));
            }
            Ok(())
        }
    }
}

fn executables() -> Result<lanes::Executables> {
    Ok(lanes::Executables {
        echo: subject::package("echo")?.join("echo"),
        echo_grpc: subject::package("echo-grpc")?.join("echo"),
        go: lanes::go_programs(),
    })
}
