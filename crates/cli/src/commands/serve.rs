//! `mortise serve`: a host with its edges.
//!
//! SIGTERM, SIGINT and `mortise shutdown` stop it gracefully: no new requests, requests in flight are answered, plugins are drained and
//! stopped. A second signal ends it at once. SIGHUP and `mortise reload` read the configuration again: new plugins are loaded, changed ones
//! swapped, and those that it names no more unloaded; a file with a fault is refused whole, and everything serves on.

use std::{sync::Arc, time::Instant};

use mortise::manifest::HostConfig;
use mortise_gateway::{
    CancellationToken, Gateway, Options,
    control::{ControlSocket, HostFacts, Reloader},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tracing_subscriber::EnvFilter;

use crate::{
    args::Serve,
    config::{ConfigFile, Live, control_socket, data_dir},
    exit::{Failure, Fault},
    output::Format,
    runtimes,
};

/// Chooses what is logged.
const LOG: &str = "MORTISE_LOG";
/// Open files that connections leave for everything else.
#[cfg(unix)]
const FILES_OF_THE_HOST: usize = 512;

pub(crate) fn serve(args: &Serve) -> anyhow::Result<()> {
    log_to_stderr(args.log)?;
    let file = ConfigFile::of(args.config.as_deref());
    let config = file.read()?;
    super::block_on(run(args, file, config))
}

/// Takes as many open files as the system gives, and lets connections have no more of them than leaves some for plugins, databases and the control
/// socket: whoever opens connections and sends nothing must not lock the operator out.
#[cfg(unix)]
fn leave_files_for_the_host(options: &mut Options) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    let highest = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if setrlimit(Resource::Nofile, highest).is_ok() {
        limit = highest;
    }
    let Some(files) = limit.current.map(|it| usize::try_from(it).unwrap_or(usize::MAX)) else {
        return;
    };
    let left = files.saturating_sub(FILES_OF_THE_HOST).max(files / 4);
    if left < options.connections_max {
        tracing::warn!(
            files,
            connections = left,
            "this process may open few files; connections beyond this number wait (raise the hard limit, `ulimit -Hn`)"
        );
        options.connections_max = left;
    }
}

async fn run(args: &Serve, file: ConfigFile, config: HostConfig) -> anyhow::Result<()> {
    let started = Instant::now();
    let data_dir = args.data_dir.clone().unwrap_or_else(|| data_dir(&config.host));
    let socket_path = control_socket(&config.host, args.socket.as_deref(), Some(&data_dir));
    let listen = args.listen.or(config.gateway.map(|it| it.listen));
    let mut options = Options::default();
    options.headers.clone_from(&config.routing.propagate);
    #[cfg(unix)]
    leave_files_for_the_host(&mut options);

    // First of all: a signal must find its handler from here on.
    let stop = CancellationToken::new();
    let hangup = Arc::new(Notify::new());
    let signals = tokio::spawn(watch_signals(stop.clone(), hangup.clone())?);

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

    let begun = HostConfig {
        plugins: Vec::new(),
        watch: None,
        routes: Vec::new(),
        ..config.clone()
    };
    let starting = runtimes::host(&data_dir, config)?.remember_loads().start();
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

    let live = Arc::new(Live {
        host: host.clone(),
        file,
        begun,
    });
    let reloader = {
        let live = live.clone();
        Reloader::new(move |taking| {
            let live = live.clone();
            async move { live.reload_for_client(&taking).await }
        })
    };
    let reloads = tokio::spawn(async move {
        loop {
            hangup.notified().await;
            tracing::info!("SIGHUP: reading the configuration again");
            live.reload_for_log().await;
        }
    });

    let facts = HostFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        data_dir: Some(data_dir),
        listen: bound.map(|it| it.to_string()),
        reload: Some(reloader),
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
    reloads.abort();
    signals.abort();
    tracing::info!("stopped");
    Ok(())
}

/// A task that turns the first signal into a graceful stop, the second into an end, and SIGHUP into a word to `hangup`, which keeps one until
/// there is a host to hear it.
fn watch_signals(stop: CancellationToken, hangup: Arc<Notify>) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hung_up.recv() => {
                    hangup.notify_one();
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
