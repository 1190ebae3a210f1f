//! The runtime: from an executable that was checked to a plugin that is ready.

use std::{
    collections::BTreeSet, ffi::OsString, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc,
    time::Duration,
};

use mortise_contract::Contract;
use mortise_jail::{Bounds, Layer, Machine, Mode, Network, PROXY_PORT, Policy, StartError};
use mortise_manifest::{Dialect, Grant, Jail, Limits, RuntimeName};
use mortise_runtime::{
    Artifact, BoxFuture, Enclosure, Enforcement, Instance, Interrupt, Isolation, Lack, Prepared,
    ReservedMethods, Runtime, RuntimeError, RuntimeErrorKind as Kind, Start, Support, Verified,
};
use mortise_wire::{
    Metadata,
    frame::{Decoder, ENV_LANE_FD},
    plugin::log_record::Level,
};
use tokio::{net::UnixStream, sync::Semaphore, time::timeout};

use crate::{
    ProcessConfig,
    calls::Calls,
    conversation::LaneConversation,
    goplugin::{self, GoPluginError, Interview, Interviewed},
    handshake::{self, Failure},
    heard,
    inbox::Inbox,
    inspect,
    instance::ProcessInstance,
    lane, memory,
    output::{self, Tail},
    run_dir::RunDir,
    shared::Shared,
    spawner::{Input, Plan, Spawned, Spawner},
    transport::Inlet,
    watched::{OwnedTask, Watched},
};

/// A plugin that said it can't start, or that closed its lane, has so long to exit by itself.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// Runs plugins as child processes. Cheap to share; plugins outlive it.
#[derive(Debug)]
pub struct ProcessRuntime {
    config: Arc<ProcessConfig>,
    spawner: Spawner,
}

/// An executable that is ready to be started.
struct Executable {
    path: PathBuf,
    grant: Grant,
    /// What it speaks if it does not speak the lane, and the contract that it must then serve.
    other: Option<(Dialect, Arc<Contract>)>,
}

/// A plugin that is ready.
struct Joined {
    shared: Arc<Shared>,
    inbox: Inbox,
    inlet: Inlet,
    decoder: Decoder,
    writer: OwnedTask,
}

// === impl ProcessRuntime ===

impl ProcessRuntime {
    /// Prepares the run directory and starts the thread that starts processes.
    ///
    /// # Errors
    /// `Loader` if the run directory can't be used or is not the user's own.
    pub fn new(config: ProcessConfig) -> Result<Self, RuntimeError> {
        let run_dir = RunDir::open(&config.run_dir)?;
        let spawner = Spawner::start(run_dir).map_err(|source| {
            RuntimeError::new(
                Kind::Loader,
                format!("the thread that starts processes could not be started: {source}"),
                "raise the host's limit of threads",
            )
        })?;
        Ok(Self {
            config: config.into(),
            spawner,
        })
    }

    /// Starts a go-plugin executable once, in the jail of a plugin that was granted nothing, asks it what it serves, and ends it.
    ///
    /// # Errors
    /// Why it is no plugin that can be talked to; with a contract, also that it serves another one.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started.
    pub async fn interview(&self, interview: Interview<'_>) -> Result<Interviewed, GoPluginError> {
        interview.run(&self.config, &self.spawner).await
    }

    async fn launch(&self, prepared: Prepared, start: Start) -> Result<Box<dyn Instance>, RuntimeError> {
        let metadata = prepared.metadata.clone();
        let name = metadata.name.clone();
        let executable: Executable = prepared.into_inner().ok_or_else(|| {
            RuntimeError::new(
                Kind::Loader,
                format!("plugin `{name}` was prepared by another runtime"),
                "report this as a bug of the host",
            )
        })?;
        if let Some((Dialect::GoPlugin(spoken), contract)) = &executable.other {
            let launch = goplugin::Launch {
                config: &self.config,
                path: executable.path.clone(),
                spoken,
                contract,
                metadata,
                policy: policy(&self.config, &executable.grant, &start.limits),
            };
            return launch.run(&self.spawner, &start).await;
        }
        let limit = start.limits.start;
        // Only the waiting is bounded by the limit; ending a process that did not make it comes on top.
        let begun = tokio::time::Instant::now();
        let plan = self.plan(&executable, &start);
        let spawned = self
            .spawner
            .spawn(plan)
            .await
            .map_err(|source| refused(&name, &executable.path, source))?;
        let (mut child, lane) =
            listen(spawned, &start).map_err(|source| not_executed(&name, &executable.path, source))?;
        let became = timeout(
            limit.saturating_sub(begun.elapsed()),
            self.become_ready(lane, metadata, &start),
        )
        .await;
        let why = match became {
            Ok(Ok(Joined {
                shared,
                inbox,
                inlet,
                decoder,
                writer,
            })) => {
                let reserved = ReservedMethods::of(&shared.metadata);
                let conversation = LaneConversation {
                    shared,
                    reader: tokio::spawn(inbox.read(inlet, decoder)),
                    _writer: writer,
                };
                let config = self.config.clone();
                return Ok(Box::new(ProcessInstance::supervised(
                    start.instance,
                    reserved,
                    conversation,
                    child,
                    config,
                )));
            }
            Ok(Err(failure)) => Some(failure),
            Err(_) => None,
        };
        let wait = if why.is_some() { EXIT_WAIT } else { Duration::ZERO };
        let exited_by_itself = child.exits_within(wait).await;
        if !exited_by_itself {
            child.kill().await;
        }
        let cause = child.end().await;
        let how = exited_by_itself.then_some(cause);
        Err(start_failed(&name, why, how, limit, &child.tail))
    }

    fn plan(&self, executable: &Executable, start: &Start) -> Plan {
        let kept = self
            .config
            .env_allow
            .iter()
            .filter_map(|name| Some((name.clone(), std::env::var_os(name)?)));
        let mut ours = vec![(OsString::from(ENV_LANE_FD), OsString::from("0"))];
        let policy = policy(&self.config, &executable.grant, &start.limits);
        ours.extend(proxy_variables(&policy));
        Plan {
            program: executable.path.clone(),
            args: self.config.args.clone(),
            env: kept.chain(self.config.env.iter().cloned()).chain(ours).collect(),
            env_of_dir: ["TMPDIR", "HOME"].map(OsString::from).to_vec(),
            input: Input::Lane,
            policy,
        }
    }

    async fn become_ready(
        &self,
        lane: UnixStream,
        metadata: Arc<Metadata>,
        start: &Start,
    ) -> Result<Joined, Failure> {
        let (reader, writer) = lane.into_split();
        let greeted = handshake::greet(reader, writer, self.config.lane, &metadata, start).await?;
        let streams = greeted.concurrency as usize;
        let items = streams.saturating_mul(start.limits.stream_messages_max as usize);
        let shared = Arc::new(Shared {
            metadata,
            limits: start.limits.clone(),
            services: start.services.clone(),
            calls: Calls::new(self.config.stuck_grace, start.limits.deadline),
            lane: lane::Sender::new(greeted.outlet, greeted.window, items),
            lane_name: greeted.lane,
            slots: Arc::new(Semaphore::new(greeted.concurrency.max(1) as usize)),
            client: greeted.client,
        });
        let left_over = shared.clone();
        let writer = OwnedTask::spawn(async move { left_over.lane.write_left_over().await });
        let mut inbox = Inbox::new(shared.clone());
        let (mut inlet, mut decoder) = (greeted.inlet, greeted.decoder);
        handshake::await_ready(&mut inlet, &mut decoder, &mut inbox).await?;
        Ok(Joined {
            shared,
            inbox,
            inlet,
            decoder,
            writer,
        })
    }
}

impl Runtime for ProcessRuntime {
    fn support(&self) -> Support {
        let layers = Machine::probe().layers();
        let memory_limit = if layers.has(Layer::MemoryCgroup) {
            Enforcement::Enforced
        } else if cfg!(target_os = "linux") {
            Enforcement::NotEnforced(
                "this machine gives no `memory` cgroup controller, so only what each process maps itself is bounded, and not memory files nor children together; `mortise doctor` says why",
            )
        } else {
            Enforcement::NotEnforced("this system can't limit another process's memory")
        };
        let cpu_limit = if layers.has(Layer::CpuCgroup) {
            Enforcement::Enforced
        } else {
            Enforcement::NotEnforced(
                "this machine gives no `cpu` cgroup controller; `mortise doctor` says why",
            )
        };
        let mut lacks = vec![
            Lack {
                what: "direct",
                why: "a call crosses a process boundary, so there is nothing to call on the caller's own thread; use `native` for a trusted plugin"
                    .to_owned(),
            },
        ];
        let missing: Vec<&str> = layers
            .iter()
            .filter(|(_, presence)| !presence.is_present())
            .map(|(layer, _)| layer.as_str())
            .collect();
        if !missing.is_empty() {
            lacks.push(Lack {
                what: "jail",
                why: format!(
                    "this machine does not give {}; `mortise doctor` says why; use `wasm` for code that is not trusted",
                    missing.join(", ")
                ),
            });
        }
        if !cfg!(target_os = "linux") {
            lacks.push(Lack {
                what: "memory limit",
                why: "only Linux can limit the memory of another process; use `wasm`".to_owned(),
            });
        }
        Support {
            runtime: RuntimeName::Process,
            available: true,
            isolation: Isolation::Process,
            interrupt: Interrupt::Kill,
            memory_limit,
            cpu_limit,
            purity: Enforcement::NotEnforced(
                "a process keeps memory between calls, and nobody can take the clock away from it",
            ),
            restartable: true,
            lacks,
        }
    }

    fn enclosure(&self) -> Option<Enclosure> {
        Some(heard::enclosure(&Machine::probe().layers()))
    }

    fn read_metadata(&self, artifact: &Artifact) -> Result<Metadata, RuntimeError> {
        match &artifact.dialect {
            None => inspect::read_metadata(&artifact.bytes),
            Some(Dialect::GoPlugin(spoken)) => goplugin::describe(artifact, spoken),
            Some(_) => Err(unknown_dialect(artifact)),
        }
    }

    fn prepare<'a>(
        &'a self,
        artifact: &'a Verified,
        grant: &'a Grant,
    ) -> BoxFuture<'a, Result<Prepared, RuntimeError>> {
        let metadata = artifact.metadata().clone();
        let artifact = artifact.artifact();
        let checked = check(artifact).and_then(|path| {
            if grant.jail == Jail::On {
                check_layers(&metadata.name, &self.config.require)?;
            }
            let other = artifact.dialect.clone().map(|it| (it, artifact.contract.clone()));
            if other.is_some() {
                goplugin::check(artifact, &path)?;
            }
            let grant = grant.clone();
            Ok(Executable { path, grant, other })
        });
        Box::pin(std::future::ready(
            checked.map(|executable| Prepared::new(metadata, executable)),
        ))
    }

    fn start(
        &self,
        prepared: Prepared,
        start: Start,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, RuntimeError>> {
        Box::pin(self.launch(prepared, start))
    }
}

/// Where a plugin that may connect anywhere finds the host's proxy.
pub(crate) fn proxy_variables(policy: &Policy) -> Vec<(OsString, OsString)> {
    if policy.network != Network::Proxy {
        return Vec::new();
    }
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    let names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    names
        .map(|name| (OsString::from(name), OsString::from(&proxy)))
        .to_vec()
}

/// What the jail lets a plugin do, from what it was granted and what it may use.
pub(crate) fn policy(config: &ProcessConfig, grant: &Grant, limits: &Limits) -> Policy {
    let paths = |texts: &[String]| texts.iter().map(PathBuf::from).collect();
    let permissions = &grant.permissions;
    // The spawner knows the directory.
    let mut policy = Policy::new(PathBuf::new());
    if grant.jail == Jail::Off {
        policy.mode = Mode::Off;
    } else {
        policy.required.clone_from(&config.require);
    }
    policy.read = paths(&permissions.fs_read);
    policy.write = paths(&permissions.fs_write);
    // Only in a network of its own is a listener on its loopback the plugin's alone.
    let own_network = Machine::probe().layers().has(Layer::NetNamespace);
    if !permissions.net_connect.is_empty() && own_network && policy.mode == Mode::On {
        policy.network = Network::Proxy;
    }
    policy.system.extend(config.system.iter().cloned());
    policy.bounds = Bounds {
        memory_bytes_max: Some(memory::group_bytes_max(limits.memory_bytes_max)),
        data_bytes_max: Some(memory::data_bytes_max(
            limits.memory_bytes_max,
            limits.concurrency,
        )),
        cpu_percent: limits.cpu_percent,
        tasks_max: config.tasks_max.saturating_add(limits.concurrency.into()),
        ..Bounds::default()
    };
    policy
}

/// Refuses before anything is started where a layer that the operator requires is not to be had.
fn check_layers(plugin: &str, required: &BTreeSet<Layer>) -> Result<(), RuntimeError> {
    if required.is_empty() {
        return Ok(());
    }
    let layers = Machine::probe().layers();
    match required
        .iter()
        .find_map(|layer| Some((*layer, layers.why_not(*layer)?)))
    {
        None => Ok(()),
        Some((layer, why)) => Err(layer_missing(plugin, layer, why)),
    }
}

fn layer_missing(plugin: &str, layer: Layer, why: &str) -> RuntimeError {
    // The machine may have it: then it is the plugin's entry that asks for no bound.
    let hint = if layer == Layer::CpuCgroup && Machine::probe().layers().has(layer) {
        "set `limits.cpu_percent` in the plugin's entry, such as `limits = { cpu_percent = 100 }` for one core".to_owned()
    } else {
        format!(
            "see `mortise doctor` for what this machine gives; if the plugin may run without `{layer}`, take it out of `require`, or use its `wasm` variant"
        )
    };
    RuntimeError::new(
        Kind::Unsupported,
        format!(
            "plugin `{plugin}` was not started: `runtime.process.require` names the layer `{layer}` ({}), and it is not there: {why}",
            layer.what()
        ),
        hint,
    )
}

fn unknown_dialect(artifact: &Artifact) -> RuntimeError {
    RuntimeError::new(
        Kind::Unsupported,
        format!(
            "plugin `{}` speaks a dialect that this host does not",
            artifact.plugin
        ),
        "use a newer host",
    )
}

/// What can be known about an executable without starting it.
fn check(artifact: &Artifact) -> Result<PathBuf, RuntimeError> {
    let plugin = &artifact.plugin;
    let loader = |why: String, hint: &str| {
        RuntimeError::new(
            Kind::Loader,
            format!("the executable of plugin `{plugin}` can't be started: {why}"),
            hint,
        )
    };
    let Some(path) = &artifact.path else {
        return Err(loader(
            "its bytes are in no file".to_owned(),
            "place the artifact in the host's artifact cache before it is prepared",
        ));
    };
    let found = fs::symlink_metadata(path)
        .map_err(|source| loader(format!("`{}`: {source}", path.display()), "load the plugin again"))?;
    if !found.is_file() || found.permissions().mode() & 0o100 == 0 {
        let why = format!(
            "`{}` is not an executable file (mode {:o})",
            path.display(),
            found.permissions().mode() & 0o7777
        );
        return Err(loader(
            why,
            "load the plugin again, so that the host writes the file anew",
        ));
    }
    Ok(path.clone())
}

/// Listens to a process that was just started.
fn listen(spawned: Spawned, start: &Start) -> std::io::Result<(Watched, UnixStream)> {
    let services = &start.services;
    let (child, lane) = Watched::new(spawned, services, |stdout, stderr, tail| {
        let tail = Some(tail.clone());
        let stdout = output::capture(stdout, "stdout", Level::Info, services.clone(), None);
        let stderr = output::capture(stderr, "stderr", Level::Warn, services.clone(), tail);
        [
            OwnedTask::reading("its standard output", stdout),
            OwnedTask::reading("its standard error", stderr),
        ]
    })?;
    let lane = lane.ok_or_else(|| std::io::Error::other("it was given no lane"))?;
    Ok((child, UnixStream::from_std(lane)?))
}

/// The jail did not start it.
pub(crate) fn refused(name: &str, path: &std::path::Path, error: StartError) -> RuntimeError {
    match error {
        StartError::Missing { layer, why } => layer_missing(name, layer, &why),
        StartError::Execute(source) => not_executed(name, path, source),
        error => {
            let cause = std::error::Error::source(&error)
                .map(|it| format!(": {it}"))
                .unwrap_or_default();
            RuntimeError::new(
                Kind::Loader,
                format!("plugin `{name}` could not be enclosed: {error}{cause}"),
                "see `mortise doctor` for the layers of this machine; with `jail = \"off\"` in its entry the plugin runs without them, with all that the host may do",
            )
        }
    }
}

/// The operating system did not start it.
fn not_executed(name: &str, path: &std::path::Path, source: std::io::Error) -> RuntimeError {
    use std::io::ErrorKind as Io;
    let path = path.display();
    let (kind, why, hint) = match source.kind() {
        Io::NotFound => (
            Kind::Loader,
            "the file, or the dynamic loader that it names, does not exist".to_owned(),
            "build the plugin for this system's C library, or link it statically",
        ),
        Io::PermissionDenied => (
            Kind::Loader,
            "permission denied".to_owned(),
            "check that the data directory is not on a file system mounted with `noexec`",
        ),
        Io::WouldBlock | Io::OutOfMemory => (
            Kind::Exhausted,
            source.to_string(),
            "the machine has no more processes or memory to give: stop something, or raise the limits (`ulimit -u`)",
        ),
        _ => (Kind::Loader, source.to_string(), "see the system's log"),
    };
    RuntimeError::new(
        kind,
        format!("plugin `{name}` could not be started from `{path}`: {why}"),
        hint,
    )
}

/// It was started and did not become ready.
fn start_failed(
    name: &str,
    failure: Option<Failure>,
    ended: Option<mortise_runtime::EndCause>,
    limit: Duration,
    tail: &Tail,
) -> RuntimeError {
    let last_words = tail.last_words();
    let build = "build it again with `mortise build`, with the SDK version of this host";
    let see = "start it by hand to see why, or look at its log lines above";
    let (kind, why, hint) = match (failure, ended) {
        (None, _) => (
            Kind::StartFailed,
            format!("it was not ready after {limit:?}{last_words}"),
            "raise `limits.start_ms`, or make the plugin do less in its start",
        ),
        (Some(Failure::Declined(status)), _) => {
            return RuntimeError::new(
                Kind::StartFailed,
                format!("plugin `{name}` declined to start: {}", status.message),
                "correct its configuration as the message says",
            )
            .with_source(status);
        }
        (Some(Failure::Protocol(how)), _) => (
            Kind::StartFailed,
            format!("it broke the protocol: {how}{last_words}"),
            build,
        ),
        (Some(Failure::Lane(how)), _) => (
            Kind::Unsupported,
            how,
            "set `lane = \"auto\"` in `[runtime.process]`, or build the plugin so that it offers that lane: `mortise_sdk_go_plugin::main!` in its src/main.rs gives it `grpc` and `call-stream`",
        ),
        (Some(Failure::Mismatch(how)), _) => (Kind::Tampered, format!("{how}{last_words}"), build),
        (Some(Failure::OtherLane(how)), _) => (Kind::AbiMismatch, format!("{how}{last_words}"), build),
        (Some(Failure::Ended { waiting_for }), Some(cause)) => (
            Kind::StartFailed,
            format!("{cause} while {waiting_for} was expected{last_words}"),
            see,
        ),
        (Some(Failure::Ended { waiting_for }), None) => (
            Kind::StartFailed,
            format!("it closed its lane while {waiting_for} was expected, and went on running{last_words}"),
            build,
        ),
        (Some(Failure::Io(source)), _) => (
            Kind::Loader,
            format!("its lane failed: {source}"),
            "see the system's log",
        ),
    };
    RuntimeError::new(kind, format!("plugin `{name}` did not start: {why}"), hint)
}
