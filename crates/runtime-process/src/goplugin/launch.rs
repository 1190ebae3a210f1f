//! From an executable that was checked to a plugin that answers.

use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use mortise_contract::{
    Contract,
    compat::{self, Verdict},
};
use mortise_goplugin::{
    AddressPolicy, ConnectOptions, Connection, Cookie, Handshake, Identity, Offer, PeerCheck, environment,
};
use mortise_jail::Policy;
use mortise_manifest::GoPlugin;
use mortise_runtime::{EndCause, Instance, RuntimeError, RuntimeErrorKind as Kind, Start};
use mortise_wire::Metadata;
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    calls::{GoConversation, Shared},
    output::{self, NoHandshake},
};
use crate::{
    ProcessConfig,
    instance::ProcessInstance,
    runtime::{proxy_variables, refused},
    spawner::{Input, Plan, Spawned, Spawner},
    watched::{OwnedTask, Watched},
};

/// A plugin that closed its standard output has so long to exit by itself.
const EXIT_WAIT: Duration = Duration::from_millis(500);
/// Pieces of output between the protocol's stream and the log.
const OUTPUT_MAX: usize = 16;

/// What is started.
pub(crate) struct Launch<'a> {
    pub(crate) config: &'a Arc<ProcessConfig>,
    pub(crate) path: PathBuf,
    pub(crate) spoken: &'a GoPlugin,
    pub(crate) contract: &'a Contract,
    pub(crate) metadata: Arc<Metadata>,
    /// What the jail lets it do.
    pub(crate) policy: Policy,
}

/// Why it is no plugin that can be called.
enum Failure {
    /// What it said or did not say.
    Said(String),
    /// It ended, or closed its output, before it said anything.
    Closed(String),
    Differs(Box<RuntimeError>),
}

// === impl Launch ===

impl Launch<'_> {
    /// Starts it. On `Err` nothing is left.
    pub(crate) async fn run(
        self,
        spawner: &Spawner,
        start: &Start,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        let begun = tokio::time::Instant::now();
        let limit = start.limits.start;
        let identity = match self.spoken.auto_mtls.then(Identity::generate).transpose() {
            Ok(identity) => identity,
            Err(error) => return Err(self.failed(Kind::Loader, &error.to_string(), "see the system's log")),
        };
        let mut offer = Offer {
            cookie: Cookie {
                key: self.spoken.cookie_key.clone(),
                value: self.spoken.cookie_value.clone(),
            },
            versions: self.spoken.versions.clone(),
            certificate_pem: identity.as_ref().map(|it| it.pem().to_owned()),
            multiplex: self.spoken.multiplex,
            directory: PathBuf::new(),
        };
        let spawned = spawner
            .spawn(self.plan(&offer))
            .await
            .map_err(|error| refused(&self.metadata.name, &self.path, error))?;
        offer.directory = spawned.process.dir().to_owned();
        let (mut child, answer) = listen(spawned, start)
            .map_err(|source| self.failed(Kind::Loader, &source.to_string(), "see the system's log"))?;
        let left = limit.saturating_sub(begun.elapsed());
        let became = timeout(left, self.become_ready(&offer, identity, answer, &child, start)).await;
        let failure = match became {
            Ok(Ok(connection)) => return Ok(self.supervise(connection, child, start)),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Said(format!("it was not ready after {limit:?}")),
        };
        let wait = if matches!(failure, Failure::Closed(_)) {
            EXIT_WAIT
        } else {
            Duration::ZERO
        };
        let exited = child.exits_within(wait).await;
        if !exited {
            child.kill().await;
        }
        let ended = child.end().await;
        let last_words = child.tail.last_words();
        Err(match failure {
            Failure::Differs(error) => *error,
            Failure::Said(why) => self.failed(
                Kind::StartFailed,
                &format!("{why}{last_words}"),
                "compare `[variant.go_plugin]` in plugin.toml with what the plugin's own hosts use",
            ),
            Failure::Closed(said) => {
                let how = match exited.then_some(ended) {
                    Some(cause @ EndCause::Exited(_)) => format!("{cause} before it said where it listens"),
                    Some(cause) => cause.to_string(),
                    None => "it closed its standard output before it said where it listens".to_owned(),
                };
                let said = if said.is_empty() {
                    said
                } else {
                    format!("; it said `{said}`")
                };
                self.failed(
                    Kind::StartFailed,
                    &format!("{how}{said}{last_words}"),
                    "the cookie may be another's: compare `cookie_key` and `cookie_value` in plugin.toml with what the plugin's own hosts use",
                )
            }
        })
    }

    fn plan(&self, offer: &Offer) -> Plan {
        let kept = self
            .config
            .env_allow
            .iter()
            .filter_map(|name| Some((name.clone(), std::env::var_os(name)?)));
        let of_dir = [environment::SOCKET_DIR, "TMPDIR", "HOME"].map(OsString::from);
        let spoken = offer
            .environment()
            .into_iter()
            .filter(|(name, _)| !of_dir.contains(name));
        Plan {
            program: self.path.clone(),
            args: self.config.args.clone(),
            env: kept
                .chain(self.config.env.iter().cloned())
                .chain(spoken)
                .chain(proxy_variables(&self.policy))
                .collect(),
            env_of_dir: of_dir.to_vec(),
            input: Input::Null,
            policy: self.policy.clone(),
        }
    }

    async fn become_ready(
        &self,
        offer: &Offer,
        identity: Option<Identity>,
        answer: oneshot::Receiver<Result<Handshake, NoHandshake>>,
        child: &Watched,
        start: &Start,
    ) -> Result<Connection, Failure> {
        let handshake = match answer.await {
            Ok(Ok(handshake)) => handshake,
            Ok(Err(NoHandshake::Wrong(error))) => return Err(Failure::Said(error.to_string())),
            Ok(Err(NoHandshake::Closed(said))) => return Err(Failure::Closed(said)),
            Err(_) => return Err(Failure::Closed(String::new())),
        };
        let agreed = offer
            .accept(handshake)
            .map_err(|error| Failure::Said(error.to_string()))?;
        let pid = child.process.pid().as_raw_nonzero().get().cast_unsigned();
        let (output, chunks) = mpsc::channel(OUTPUT_MAX);
        tokio::spawn(output::read_stream(chunks, start.services.clone()));
        let options = ConnectOptions {
            policy: AddressPolicy {
                directory: Some(offer.directory.clone()),
                peer: Some(PeerCheck::group(pid)),
                tcp: identity.is_some(),
            },
            identity,
            directory: offer.directory.clone(),
            output: Some(output),
        };
        let connection = Connection::open(&agreed, options)
            .await
            .map_err(|error| Failure::Said(error.to_string()))?;
        self.compare(&connection).await?;
        Ok(connection)
    }

    /// What the running plugin says that it serves must be the contract that callers were checked against.
    async fn compare(&self, connection: &Connection) -> Result<(), Failure> {
        let reflected = match connection.reflect().await {
            Ok(Some(reflected)) => reflected,
            // Plugins before go-plugin 1.2 do not say; then the folder's word counts.
            Ok(None) => return Ok(()),
            Err(error) => return Err(Failure::Said(error.to_string())),
        };
        let differs = |why: String| {
            Failure::Differs(Box::new(self.failed(
                Kind::Tampered,
                &why,
                "import the plugin again (`mortise import go-plugin`), or use the executable that the contract was made from",
            )))
        };
        let provides = self.contract.services();
        let missing = provides.iter().find(|it| !reflected.services.contains(it));
        if let Some(service) = missing {
            return Err(differs(format!(
                "its contract names `{service}`, and it serves {}",
                list(&reflected.services)
            )));
        }
        let served = Contract::from_descriptor_set(&reflected.files.encode_to_vec(), provides)
            .map_err(|error| differs(format!("what it says of its services is no contract: {error}")))?;
        match compat::bind(self.contract, &served, compat::Level::Wire).verdict {
            Verdict::Exact | Verdict::WireCompatible => Ok(()),
            Verdict::Adaptable(_) => Err(differs(
                "it serves another version of its contract, and nothing adapts calls on the way to it"
                    .to_owned(),
            )),
            Verdict::Incompatible(violations) => {
                let first = violations.first().map_or_else(String::new, |it| {
                    format!(
                        ": `{}` is {} in its contract, and {} there",
                        it.path, it.old, it.new
                    )
                });
                Err(differs(format!(
                    "what it serves is not its contract, in {} places{first}",
                    violations.len()
                )))
            }
        }
    }

    fn supervise(self, connection: Connection, child: Watched, start: &Start) -> Box<dyn Instance> {
        let paths = self.metadata.methods.iter();
        let shared = Arc::new(Shared {
            paths: paths.map(|it| format!("/{}/{}", it.service, it.name)).collect(),
            metadata: self.metadata,
            limits: start.limits.clone(),
            connection,
            over: watch::Sender::new(None),
        });
        let conversation = GoConversation { shared, asking: None };
        let id = start.instance.clone();
        Box::new(ProcessInstance::supervised(
            id,
            conversation,
            child,
            self.config.clone(),
        ))
    }

    fn failed(&self, kind: Kind, why: &str, hint: &str) -> RuntimeError {
        RuntimeError::new(
            kind,
            format!("plugin `{}` did not start: {why}", self.metadata.name),
            hint,
        )
    }
}

/// Listens to a process that was just started.
fn listen(
    spawned: Spawned,
    start: &Start,
) -> std::io::Result<(Watched, oneshot::Receiver<Result<Handshake, NoHandshake>>)> {
    let (tell, answer) = oneshot::channel();
    let services = &start.services;
    let (child, _no_lane) = Watched::new(spawned, services, |stdout, stderr, tail| {
        let stdout = output::read_stdout(stdout, services.clone(), tell);
        let stderr = output::read_stderr(stderr, services.clone(), tail.clone());
        [
            OwnedTask::reading("its standard output", stdout),
            OwnedTask::reading("its standard error", stderr),
        ]
    })?;
    Ok((child, answer))
}

fn list(services: &[String]) -> String {
    match services {
        [] => "none".to_owned(),
        services => services
            .iter()
            .map(|it| format!("`{it}`"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}
