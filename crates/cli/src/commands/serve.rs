//! `mortise serve`: a host with its edges.
//!
//! SIGTERM, SIGINT and `mortise shutdown` stop it gracefully: no new requests, requests in flight are answered, plugins are drained and
//! stopped. A second signal ends it at once. SIGHUP changes nothing and says so: plugins are changed over the control socket, one at a time.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use mortise::manifest::{HostConfig, HostSettings, PackageSource};
use mortise_gateway::{
    CancellationToken, Gateway, Options,
    control::{ControlSocket, HostFacts},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use crate::{
    args::Serve,
    exit::{Failure, Fault},
    output::Format,
    runtimes,
};

/// Chooses what is logged.
const LOG: &str = "MORTISE_LOG";

pub(crate) fn serve(args: &Serve) -> anyhow::Result<()> {
    log_to_stderr(args.log)?;
    let config = read_config(args.config.as_deref())?;
    super::block_on(run(args, config))
}

async fn run(args: &Serve, config: HostConfig) -> anyhow::Result<()> {
    let started = Instant::now();
    let data_dir = args.data_dir.clone().unwrap_or_else(|| data_dir(&config.host));
    let socket_path = control_socket(&config.host, args.socket.as_deref(), Some(&data_dir));
    let listen = args.listen.or(config.gateway.map(|it| it.listen));
    let mut options = Options::default();
    options.headers.clone_from(&config.routing.propagate);

    // First of all: a signal must find its handler from here on.
    let stop = CancellationToken::new();
    let signals = tokio::spawn(watch_signals(stop.clone())?);

    // Everything that another process may hold is taken before a plugin starts.
    let socket = ControlSocket::bind(&socket_path)
        .map_err(|error| Failure::new(Fault::new(error.to_string()).hint(error.hint)))?;
    let listener = match listen {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            let hint = "stop what listens there, or choose another address with `--listen`";
            Failure::new(Fault::new(format!("cannot listen on {address}: {error}")).hint(hint))
        })?),
    };
    let bound = listener.as_ref().map(TcpListener::local_addr).transpose()?;

    let starting = runtimes::host(&data_dir, config)?.start();
    let host = tokio::select! {
        host = starting => host.map_err(|error| Failure::of_host(&error))?,
        // Nothing was served yet, so there is nothing to finish.
        () = stop.cancelled() => return Ok(()),
    };
    for plugin in host.list() {
        let (name, state) = (&plugin.name, plugin.state);
        if plugin.reasons.is_empty() {
            tracing::info!(plugin = %name, %state, version = %plugin.plugin.version, "plugin");
        } else {
            tracing::error!(plugin = %name, %state, reasons = %plugin.reasons.join("; "), "plugin does not serve");
        }
    }
    let http = bound.map_or_else(|| "no HTTP".to_owned(), |it| format!("http://{it}"));
    tracing::info!(%http, control = %socket_path.display(), data = %data_dir.display(), pid = std::process::id(), "serving");

    let facts = HostFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        data_dir: Some(data_dir),
        listen: bound.map(|it| it.to_string()),
    };
    let gateway = Gateway::new(host.clone(), options);
    let edge = async {
        match listener {
            Some(listener) => gateway.serve(listener, stop.clone()).await,
            None => stop.cancelled().await,
        }
    };
    tokio::join!(edge, socket.serve(host.clone(), facts, stop.clone()));
    host.shutdown().await;
    signals.abort();
    tracing::info!("stopped");
    Ok(())
}

/// A task that turns the first signal into a graceful stop and the second into an end.
fn watch_signals(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    tracing::warn!("SIGHUP changes nothing: use `mortise load` and `mortise unload`, or restart the host");
                    continue;
                }
            };
            if stop.is_cancelled() {
                tracing::warn!(signal = name, "second signal: ending at once");
                std::process::exit(128 + if name == "SIGINT" { 2 } else { 15 });
            }
            tracing::info!(
                signal = name,
                "stopping after the calls in flight; once more ends it at once"
            );
            stop.cancel();
        }
    })
}

fn log_to_stderr(format: Format) -> anyhow::Result<()> {
    let levels = std::env::var(LOG).unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&levels).map_err(|error| {
        let hint = "write levels as in `info,mortise_host=debug`";
        Failure::usage(Fault::new(format!("${LOG} is `{levels}`: {error}")).hint(hint))
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        Format::Json => logs.json().init(),
        Format::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            logs.with_ansi(ansi).init();
        }
    }
    Ok(())
}

/// Reads the configuration; relative paths in it become relative to its own folder.
fn read_config(given: Option<&Path>) -> anyhow::Result<HostConfig> {
    let path = given.unwrap_or(Path::new("mortise.toml"));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if given.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(HostConfig::default());
        }
        Err(error) => {
            let fault = Fault::new(format!("cannot read `{}`: {error}", path.display()));
            return Err(Failure::new(fault.hint("name the host's configuration with `--config`")).into());
        }
    };
    let mut config =
        HostConfig::parse(&text, &path.display().to_string()).map_err(|all| Failure::of_diagnostics(&all))?;
    let folder = std::path::absolute(path).context("the working directory is gone")?;
    let folder = folder.parent().expect("an absolute path of a file has a parent");
    let resolve = |it: &mut String| *it = folder.join(&*it).to_string_lossy().into_owned();
    config.host.data_dir.iter_mut().for_each(resolve);
    config.host.control_socket.iter_mut().for_each(resolve);
    for plugin in &mut config.plugins {
        if let PackageSource::Folder(path) = &mut plugin.source {
            resolve(path);
        }
    }
    Ok(config)
}

/// Where a host keeps its data if nobody says: the system's place for root, the user's own for others.
fn data_dir(settings: &HostSettings) -> PathBuf {
    if let Some(dir) = &settings.data_dir {
        return dir.into();
    }
    if rustix::process::geteuid().is_root() {
        return "/var/lib/mortise".into();
    }
    let set = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|it| it.is_absolute())
    };
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|it| it.join(".local/state")));
    state.unwrap_or_else(std::env::temp_dir).join("mortise")
}

/// Where the control socket is.
pub(crate) fn control_socket(settings: &HostSettings, given: Option<&Path>, data: Option<&Path>) -> PathBuf {
    let configured = given
        .map(Path::to_owned)
        .or_else(|| settings.control_socket.as_ref().map(PathBuf::from));
    configured.unwrap_or_else(|| {
        data.map_or_else(|| data_dir(settings), Path::to_owned)
            .join("control.sock")
    })
}
