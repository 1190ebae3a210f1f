//! What the control socket's methods do.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use mortise_host::{CanaryRequest, Host, LoadRequest, Source};
use mortise_manifest::{Jail, LimitsOverride, Permissions, Restart, RuntimeName};
use mortise_runtime::{BoxFuture, CallError, CallErrorKind};
use mortise_wire::Header;
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    configuration::Config,
    events,
    types::{
        Ask, Call, Canaries, CanaryAnalysis, Changes, Diff, Doctor, DoctorReport, Explain, Explained, Grant,
        Graph, History, Inspect, Limits, List, Load, LoadAll, METHODS, Reload, Reloaded, RemoveRoute,
        Resolve, Resolved, Rollback, Routes, SetRoute, Shutdown, StartCanary, Stopping, Supports, TellCanary,
        Unload, Unloaded,
    },
};
use crate::{
    error::{Detail, FailedCall, RpcError, code},
    jsonrpc::{Methods, Request},
    rpc::{Caller, PluginMethods},
    trace::Trace,
};

/// What `doctor` says about the host beside what the host knows itself.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// The version of the program.
    pub version: String,
    /// When it started.
    pub started: Instant,
    /// Its data directory.
    pub data_dir: Option<PathBuf>,
    /// Where HTTP is served.
    pub listen: Option<String>,
    /// What `reload` does; `None` if the program has no configuration that it could read again.
    pub reload: Option<Reloader>,
}

/// Reads the program's configuration again and applies it. Only the program knows where it is.
#[derive(Clone)]
pub struct Reloader(Arc<Reloads>);

/// Gets the names of plugins whose entries count although somebody had a word since.
type Reloads = dyn Fn(Vec<String>) -> BoxFuture<'static, Result<Reloaded, RpcError>> + Send + Sync;

impl Reloader {
    /// `reload` either applies the whole configuration, or refuses it with every fault ([`RpcError::refused`]) and changes nothing. It gets the names of
    /// plugins whose entries count although somebody had a word since.
    pub fn new<F>(reload: impl Fn(Vec<String>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reloaded, RpcError>> + Send + 'static,
    {
        Self(Arc::new(move |taking| Box::pin(reload(taking))))
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloader").finish_non_exhaustive()
    }
}

/// Who asks, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: Option<i32>,
}

impl Peer {
    /// As the history names whoever asked for a change.
    fn actor(self) -> String {
        format!("uid:{}", self.uid)
    }
}

pub(crate) struct ControlMethods {
    pub(crate) host: Host,
    pub(crate) plugins: Arc<PluginMethods>,
    pub(crate) facts: HostFacts,
    pub(crate) stop: CancellationToken,
}

impl ControlMethods {
    pub(crate) fn new(host: Host, facts: HostFacts, stop: CancellationToken) -> Self {
        Self {
            plugins: PluginMethods::new(host.clone(), Detail::Full),
            host,
            facts,
            stop,
        }
    }

    fn doctor(&self) -> DoctorReport {
        let mut plugins = BTreeMap::new();
        for plugin in self.host.list() {
            *plugins.entry(plugin.state.to_string()).or_default() += 1;
        }
        DoctorReport {
            version: self.facts.version.clone(),
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            uptime_ms: u64::try_from(self.facts.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            data_dir: self.facts.data_dir.as_ref().map(|it| it.display().to_string()),
            listen: self.facts.listen.clone(),
            plugins,
            overruled: self.host.overruled().into_iter().map(Into::into).collect(),
            runtimes: super::RuntimeSupport::all_of(&self.host),
        }
    }

    async fn unload(host: &Host, plugin: &str, cascade: bool) -> Result<Unloaded, RpcError> {
        let of_host = |error| RpcError::from(&error);
        if !cascade {
            return Ok(host.unload(plugin).await.map_err(of_host)?.into());
        }
        let mut reports = host.unload_cascade(plugin).await.map_err(of_host)?;
        let own = reports.pop().map(Unloaded::from).ok_or_else(|| {
            let why = format!("nothing was unloaded for `{plugin}`");
            RpcError::protocol(code::INTERNAL, "host_bug", why, "report it")
        })?;
        Ok(Unloaded {
            before: reports.into_iter().map(Unloaded::from).collect(),
            ..own
        })
    }

    fn resolve(&self, asked: Resolve) -> Result<Resolved, RpcError> {
        let caller = caller(asked.headers, None);
        let call = FailedCall {
            plugin: None,
            trace: None,
            detail: Detail::Full,
        };
        let failed = |error: &CallError| RpcError::from_call(error, &call, Vec::new());
        let route = self
            .host
            .resolve(&asked.target, &caller.headers)
            .map_err(|error| failed(&error))?;
        let method = route.method().ok_or_else(|| {
            let why = format!("the route to `{}` leads to no method", asked.target);
            failed(&CallError::new(CallErrorKind::HostBug, why))
        })?;
        Ok(Resolved {
            plugin: route.plugin().to_owned(),
            version: route.version().to_string(),
            service: method.service().to_owned(),
            method: method.name().to_owned(),
            client_streaming: method.client_streaming(),
            server_streaming: method.server_streaming(),
        })
    }

    async fn call_plugin(&self, call: Call, out: &mut Vec<u8>) -> Result<(), RpcError> {
        let caller = caller(call.headers, call.timeout_ms);
        let params = call.params.as_ref().map(|it| it.get());
        let request = Request {
            id: None,
            method: call.target.into(),
            params,
        };
        self.plugins.call(&caller, &request, out).await
    }
}

/// Has a change go on to its end, and into the history, although whoever asked for it has gone: with a client's connection everything is dropped that it
/// waits for.
async fn to_its_end<T, E>(change: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, RpcError>
where
    T: Send + 'static,
    E: Into<RpcError> + Send + 'static,
{
    match tokio::spawn(change.in_current_span()).await {
        Ok(done) => done.map_err(Into::into),
        Err(error) => {
            let why = format!("the change was given up: {error}");
            Err(RpcError::protocol(
                code::INTERNAL,
                "host_bug",
                why,
                "report it, with the host's log",
            ))
        }
    }
}

/// A caller who names headers and a deadline.
pub(crate) fn caller(headers: BTreeMap<String, String>, timeout_ms: Option<u64>) -> Caller {
    let headers = headers.into_iter().map(|(name, value)| Header {
        name: name.to_ascii_lowercase(),
        value,
    });
    let headers: Vec<Header> = headers.collect();
    let traceparent = headers.iter().find(|it| it.name == "traceparent");
    Caller {
        trace: Trace::of(traceparent.map(|it| it.value.as_bytes())),
        deadline: timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
        headers,
    }
}

impl Methods for ControlMethods {
    type Caller = Peer;

    async fn call(&self, peer: &Peer, request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), RpcError> {
        let host = &self.host.acting_as(format!("uid:{}", peer.uid));
        let of_host = |error| RpcError::from(&error);
        match &*request.method {
            Load::METHOD => {
                let load = params::<Load>(request)?;
                tracing::info!(source = %load.source, uid = peer.uid, pid = peer.pid, "load asked for over the control socket");
                let (host, request) = (host.clone(), load_request(load)?);
                write(out, &to_its_end(async move { host.load(request).await }).await?)
            }
            LoadAll::METHOD => {
                let LoadAll { plugins } = params(request)?;
                tracing::info!(
                    count = plugins.len(),
                    uid = peer.uid,
                    pid = peer.pid,
                    "load of several plugins asked for over the control socket"
                );
                let requests: Vec<_> = plugins.into_iter().map(load_request).collect::<Result<_, _>>()?;
                write(out, &host.load_all(requests).await.map_err(of_host)?)
            }
            Unload::METHOD => {
                let Unload { plugin, cascade } = params(request)?;
                tracing::info!(%plugin, cascade, uid = peer.uid, pid = peer.pid, "unload asked for over the control socket");
                let host = host.clone();
                write(
                    out,
                    &to_its_end(async move { Self::unload(&host, &plugin, cascade).await }).await?,
                )
            }
            Graph::METHOD => {
                params::<Graph>(request)?;
                write(out, &host.graph())
            }
            List::METHOD => {
                params::<List>(request)?;
                write(out, &host.list())
            }
            Inspect::METHOD => {
                let Inspect { plugin } = params(request)?;
                write(out, &host.inspect(&plugin).map_err(of_host)?)
            }
            History::METHOD => {
                let History { plugin } = params(request)?;
                write(out, &host.inspect(&plugin).map_err(of_host)?.history)
            }
            Changes::METHOD => {
                let Changes {
                    plugin,
                    before,
                    limit,
                } = params(request)?;
                let limit = limit.unwrap_or(CHANGES_DEFAULT).min(CHANGES_MAX);
                let changes = host.changes(plugin.as_deref(), before, limit).await;
                write(out, &changes.map_err(of_host)?)
            }
            Rollback::METHOD => {
                let Rollback { plugin, to } = params(request)?;
                tracing::info!(%plugin, to, uid = peer.uid, pid = peer.pid, "rollback asked for over the control socket");
                let host = host.clone();
                write(
                    out,
                    &to_its_end(async move { host.rollback(&plugin, to).await }).await?,
                )
            }
            Diff::METHOD => {
                let Diff { from, to } = params(request)?;
                write(out, &host.diff(from, to).await.map_err(of_host)?)
            }
            Config::METHOD => {
                let Config { plugin } = params(request)?;
                write(out, &host.config(&plugin).map_err(of_host)?)
            }
            Call::METHOD => self.call_plugin(params(request)?, out).await,
            Routes::METHOD => {
                params::<Routes>(request)?;
                write(out, &host.routes())
            }
            SetRoute::METHOD => {
                let SetRoute { route, first } = params(request)?;
                let (host, actor) = (host.clone(), peer.actor());
                let set = async move { host.set_route(&actor, route, first).await };
                write(out, &to_its_end(set).await?)
            }
            RemoveRoute::METHOD => {
                let RemoveRoute { name } = params(request)?;
                let (host, actor) = (host.clone(), peer.actor());
                let removed = async move { host.remove_route(&actor, &name).await };
                write(out, &to_its_end(removed).await?)
            }
            StartCanary::METHOD => {
                let request = canary_request(params(request)?)?;
                let (host, actor) = (host.clone(), peer.actor());
                let started = async move { host.start_canary(&actor, request).await };
                write(out, &to_its_end(started).await?)
            }
            Canaries::METHOD => {
                params::<Canaries>(request)?;
                write(out, &host.canaries())
            }
            TellCanary::METHOD => {
                let TellCanary { plugin, word, why } = params(request)?;
                let (host, actor) = (host.clone(), peer.actor());
                let told = async move {
                    let told = match word.as_str() {
                        "pause" => host.pause_canary(&actor, &plugin).await,
                        "resume" => host.resume_canary(&actor, &plugin).await,
                        "promote" => host.promote_canary(&actor, &plugin).await,
                        "abort" => {
                            host.abort_canary(&actor, &plugin, why.as_deref().unwrap_or_default())
                                .await
                        }
                        other => {
                            return Err(RpcError::invalid_params(
                                format!("a canary knows no word `{other}`"),
                                "choose one of pause, resume, promote, abort",
                            ));
                        }
                    };
                    told.map_err(RpcError::from)
                };
                write(out, &to_its_end(told).await?)
            }
            Explain::METHOD => {
                let Explain { target, headers } = params(request)?;
                let caller = caller(headers, None);
                write(
                    out,
                    &Explained::from(host.explain_route(&target, &caller.headers)),
                )
            }
            Resolve::METHOD => write(out, &self.resolve(params(request)?)?),
            Supports::METHOD => {
                params::<Supports>(request)?;
                write(out, &super::RuntimeSupport::all_of(host))
            }
            Doctor::METHOD => {
                params::<Doctor>(request)?;
                write(out, &self.doctor())
            }
            Reload::METHOD => {
                let Reload { taking } = params(request)?;
                tracing::info!(
                    ?taking,
                    uid = peer.uid,
                    pid = peer.pid,
                    "reload asked for over the control socket"
                );
                let Some(Reloader(reload)) = &self.facts.reload else {
                    let message = "this host has no configuration to read again";
                    return Err(RpcError::refused(
                        message,
                        "load and unload its plugins one by one",
                        &[],
                    ));
                };
                write(out, &reload(taking).await?)
            }
            Shutdown::METHOD => {
                params::<Shutdown>(request)?;
                tracing::info!(
                    uid = peer.uid,
                    pid = peer.pid,
                    "shutdown asked for over the control socket"
                );
                self.stop.cancel();
                write(out, &Stopping { stopping: true })
            }
            other if events::METHODS.contains(&other) => events::answer(host, request, &self.stop, out).await,
            other => Err(RpcError::protocol(
                code::METHOD_NOT_FOUND,
                "not_found",
                format!("the control socket has no method `{other}`"),
                format!(
                    "it has {}; methods of plugins go through `{}`",
                    [METHODS, events::METHODS].concat().join(", "),
                    Call::METHOD
                ),
            )),
        }
    }
}

/// Changes that are told at once, if nobody says how many.
const CHANGES_DEFAULT: u32 = 100;
/// Most changes that are told at once.
const CHANGES_MAX: u32 = 1000;

pub(super) fn params<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, RpcError> {
    serde_json::from_str(request.params.unwrap_or("{}")).map_err(|error| {
        let hint = format!(
            "see the parameters of `{}` in the documentation of the control socket",
            request.method
        );
        RpcError::invalid_params(format!("`params` do not fit `{}`: {error}", request.method), hint)
    })
}

pub(super) fn write(out: &mut Vec<u8>, answer: &impl Serialize) -> Result<(), RpcError> {
    serde_json::to_writer(out, answer).map_err(|error| {
        RpcError::protocol(
            code::INTERNAL,
            "host_bug",
            format!("the answer cannot be written: {error}"),
            "report it",
        )
    })
}

fn load_request(load: Load) -> Result<LoadRequest, RpcError> {
    let source = Source::parse(&load.source);
    if let Source::Folder(folder) = &source
        && !Path::is_absolute(folder)
    {
        let message = format!(
            "`source` is the relative path `{}`, and the host has another working directory",
            load.source
        );
        return Err(RpcError::invalid_params(message, "give the absolute path"));
    }
    let runtime = load.runtime.as_deref().map(|name| {
        RuntimeName::parse(name).ok_or_else(|| {
            let known = RuntimeName::ALL.map(RuntimeName::as_str).join(", ");
            RpcError::invalid_params(
                format!("there is no runtime `{name}`"),
                format!("choose one of {known}"),
            )
        })
    });
    let jail = word("jail", load.jail.as_deref(), &Jail::ALL, Jail::as_str)?;
    let restart = word("restart", load.restart.as_deref(), &Restart::ALL, Restart::as_str)?;
    let limits = limits(&load.limits)?;
    Ok(LoadRequest {
        name: load.name,
        runtime: runtime.transpose()?,
        grant: mortise_manifest::Grant {
            permissions: permissions(load.grant),
            jail,
            trust_adapter: load.trust_adapter,
        },
        restart,
        limits,
        config_json: load.config.map(|it| it.get().to_owned()),
        beside: load.beside,
        force: load.force,
        ..LoadRequest::new(source)
    })
}

fn canary_request(start: StartCanary) -> Result<CanaryRequest, RpcError> {
    let mut request = CanaryRequest::new(load_request(start.load)?);
    if !start.steps.is_empty() {
        let steps = start.steps.iter().map(|it| it.parse());
        request.plan.steps =
            steps
                .collect::<Result<_, _>>()
                .map_err(|error: mortise_host::CanaryStepError| {
                    RpcError::invalid_params(
                        error.to_string(),
                        "see the steps in the documentation of the control socket",
                    )
                })?;
    }
    request.sticky = start.sticky.map(|it| it.to_ascii_lowercase());
    let CanaryAnalysis {
        window_ms,
        requests_min,
        error_ratio_floor,
        error_ratio_factor,
        p95_step_ms,
        p95_factor,
        p95_rise_min_ms,
        bad_healths_max,
    } = start.analysis;
    let ms = |it: f64| Duration::from_secs_f64(it / 1e3);
    for (name, value) in [
        ("error_ratio_floor", error_ratio_floor),
        ("error_ratio_factor", error_ratio_factor),
        ("p95_step_ms", p95_step_ms),
        ("p95_factor", p95_factor),
        ("p95_rise_min_ms", p95_rise_min_ms),
    ] {
        if value.is_some_and(|it| !(0.0..=1e9).contains(&it)) {
            return Err(RpcError::invalid_params(
                format!("`analysis.{name}` is {}", value.unwrap_or_default()),
                "give a number from 0 to 1 000 000 000, or leave it out",
            ));
        }
    }
    let analysis = &mut request.plan.analysis;
    analysis.window = window_ms.map_or(analysis.window, Duration::from_millis);
    analysis.requests_min = requests_min.unwrap_or(analysis.requests_min);
    analysis.error_ratio_floor = error_ratio_floor.unwrap_or(analysis.error_ratio_floor);
    analysis.error_ratio_factor = error_ratio_factor.unwrap_or(analysis.error_ratio_factor);
    analysis.p95_step = p95_step_ms.map_or(analysis.p95_step, ms);
    analysis.p95_factor = p95_factor.unwrap_or(analysis.p95_factor);
    analysis.p95_rise_min = p95_rise_min_ms.map_or(analysis.p95_rise_min, ms);
    analysis.bad_healths_max = bad_healths_max.unwrap_or(analysis.bad_healths_max).max(1);
    Ok(request)
}

/// One of a few words, or the default if there is none.
fn word<T: Copy + Default>(
    key: &str,
    given: Option<&str>,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, RpcError> {
    let Some(given) = given else {
        return Ok(T::default());
    };
    all.iter().copied().find(|it| name(*it) == given).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|it| name(*it)).collect();
        RpcError::invalid_params(
            format!("`{key}` can't be `{given}`"),
            format!("choose one of {}", known.join(", ")),
        )
    })
}

fn limits(limits: &Limits) -> Result<LimitsOverride, RpcError> {
    let set = serde_json::to_value(limits).unwrap_or_default();
    if let Some((key, _)) = set
        .as_object()
        .into_iter()
        .flatten()
        .find(|(_, value)| value.as_u64() == Some(0))
    {
        return Err(RpcError::invalid_params(
            format!("`limits.{key}` is 0"),
            "give at least 1, or leave it out",
        ));
    }
    let bytes = |mib: u64| mib.saturating_mul(1 << 20);
    Ok(LimitsOverride {
        memory_bytes_max: limits.memory_mib.map(bytes),
        deadline: limits.deadline_ms.map(Duration::from_millis),
        concurrency: limits.concurrency,
        payload_bytes_max: limits
            .payload_mib
            .map(|mib| usize::try_from(bytes(mib)).unwrap_or(usize::MAX)),
        stream_messages_max: None,
        stream_bytes_max: None,
        start: limits.start_ms.map(Duration::from_millis),
        stop: limits.stop_ms.map(Duration::from_millis),
        term: limits.term_ms.map(Duration::from_millis),
        swap: limits.swap_ms.map(Duration::from_millis),
        cpu_percent: limits.cpu_percent,
        log_lines_per_second: None,
    })
}

fn permissions(grant: Grant) -> Permissions {
    Permissions {
        net_connect: grant.net_connect,
        fs_read: grant.fs_read,
        fs_write: grant.fs_write,
        kv: grant.kv,
        events_publish: grant.events_publish,
        events_subscribe: grant.events_subscribe,
    }
}
