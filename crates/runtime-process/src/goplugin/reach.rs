//! From an executable to a connection, and what the plugin says of itself: the part that a start and an interview have in common.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mortise_contract::{
    Contract,
    compat::{self, Verdict},
};
use mortise_goplugin::{
    AddressPolicy, ConnectOptions, Connection, Cookie, Handshake, HandshakeError, Identity, Offer, PeerCheck,
    descriptors::Reflected, environment,
};
use mortise_jail::Policy;
use mortise_manifest::GoPlugin;
use mortise_runtime::{EndCause, HostServices, RuntimeError, RuntimeErrorKind as Kind};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::output::{self, NoHandshake};
use crate::{
    ProcessConfig,
    runtime::{proxy_variables, refused},
    spawner::{Input, Plan, Spawned, Spawner},
    watched::{OwnedTask, Watched},
};

/// A plugin that closed its standard output has so long to exit by itself.
const EXIT_WAIT: Duration = Duration::from_millis(500);
/// Pieces of output between the protocol's stream and the log.
const OUTPUT_MAX: usize = 16;

/// What is started, and how it is spoken to.
pub(super) struct Reach<'a> {
    pub(super) config: &'a ProcessConfig,
    /// For messages.
    pub(super) name: &'a str,
    pub(super) path: &'a Path,
    pub(super) spoken: &'a GoPlugin,
    /// What the jail lets it do.
    pub(super) policy: Policy,
    /// How long all of this may take.
    pub(super) limit: Duration,
    pub(super) services: &'a Arc<dyn HostServices>,
}

/// A plugin that answers.
pub(super) struct Reached {
    pub(super) connection: Connection,
    pub(super) child: Watched,
    /// What it says that it serves, if it says that.
    pub(super) reflected: Option<Reflected>,
}

/// Why a go-plugin executable is no plugin that can be talked to. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoPluginError {
    /// It was never started; the reason comes with its own advice.
    #[error(transparent)]
    NotStarted(RuntimeError),
    /// It ended, or closed its standard output, before it said where it listens. The usual reason is a cookie that is not its own.
    #[error("{what}")]
    Silent {
        /// How it ended; `None` if it went on.
        cause: Option<EndCause>,
        /// In words.
        what: String,
    },
    /// It took too long.
    #[error("it was not ready after {limit:?}{last_words}")]
    Late {
        /// How long it had.
        limit: Duration,
        /// What it wrote last.
        last_words: String,
    },
    /// No version in common.
    #[error("{what}")]
    Version {
        /// The one that it offers.
        offered: u32,
        /// In words.
        what: String,
    },
    /// One side proves who it is and the other does not.
    #[error("{what}")]
    Identity {
        /// In words.
        what: String,
    },
    /// What it said is no handshake, or nobody answers where it says that it listens, or it tells nonsense of its services.
    #[error("{0}")]
    Said(String),
    /// It serves something else than the contract.
    #[error("{0}")]
    Differs(String),
}

/// What was wrong, before it is known how the process ended.
enum Wrong {
    Handshake(HandshakeError),
    Said(String),
    /// It ended, or closed its output; with what stood there without an end of line.
    Closed(String),
    Late,
}

// === impl Reach ===

impl Reach<'_> {
    /// Starts it, connects, and asks what it serves. On `Err` nothing is left.
    pub(super) async fn run(self, spawner: &Spawner) -> Result<Reached, GoPluginError> {
        let begun = Instant::now();
        let not_started = |why: String| {
            let why = format!("plugin `{}` did not start: {why}", self.name);
            GoPluginError::NotStarted(RuntimeError::new(Kind::Loader, why, "see the system's log"))
        };
        let identity = self.spoken.auto_mtls.then(Identity::generate).transpose();
        let identity = identity.map_err(|error| not_started(error.to_string()))?;
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
        let spawned = spawner.spawn(self.plan(&offer)).await;
        let spawned =
            spawned.map_err(|error| GoPluginError::NotStarted(refused(self.name, self.path, error)))?;
        spawned.process.dir().clone_into(&mut offer.directory);
        let (child, answer) =
            listen(spawned, self.services).map_err(|error| not_started(error.to_string()))?;
        let left = self.limit.saturating_sub(begun.elapsed());
        let wrong = match timeout(left, self.connect(&offer, identity, answer, &child)).await {
            Ok(Ok((connection, reflected))) => {
                return Ok(Reached {
                    connection,
                    child,
                    reflected,
                });
            }
            Ok(Err(wrong)) => wrong,
            Err(_) => Wrong::Late,
        };
        Err(self.bury(child, wrong).await)
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
            program: self.path.to_owned(),
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

    async fn connect(
        &self,
        offer: &Offer,
        identity: Option<Identity>,
        answer: oneshot::Receiver<Result<Handshake, NoHandshake>>,
        child: &Watched,
    ) -> Result<(Connection, Option<Reflected>), Wrong> {
        let handshake = match answer.await {
            Ok(Ok(handshake)) => handshake,
            Ok(Err(NoHandshake::Wrong(error))) => return Err(Wrong::Handshake(error)),
            Ok(Err(NoHandshake::Closed(said))) => return Err(Wrong::Closed(said)),
            Err(_) => return Err(Wrong::Closed(String::new())),
        };
        let agreed = offer.accept(handshake).map_err(Wrong::Handshake)?;
        let pid = child.process.pid().as_raw_nonzero().get().cast_unsigned();
        let (output, chunks) = mpsc::channel(OUTPUT_MAX);
        tokio::spawn(output::read_stream(chunks, self.services.clone()));
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
        let opened = Connection::open(&agreed, options).await;
        let connection = opened.map_err(|error| Wrong::Said(error.to_string()))?;
        let reflected = connection.reflect().await;
        let reflected = reflected.map_err(|error| Wrong::Said(error.to_string()))?;
        Ok((connection, reflected))
    }

    /// Ends what was started, and says what was wrong with it.
    async fn bury(&self, mut child: Watched, wrong: Wrong) -> GoPluginError {
        let wait = if matches!(wrong, Wrong::Closed(_)) {
            EXIT_WAIT
        } else {
            Duration::ZERO
        };
        let exited = child.exits_within(wait).await;
        if !exited {
            child.kill().await;
        }
        let cause = Some(child.end().await).filter(|_| exited);
        let last_words = child.tail.last_words();
        let words = |why: &dyn std::fmt::Display| format!("{why}{last_words}");
        match wrong {
            Wrong::Late => GoPluginError::Late {
                limit: self.limit,
                last_words,
            },
            Wrong::Said(why) => GoPluginError::Said(words(&why)),
            Wrong::Handshake(error) => {
                let what = words(&error);
                match error {
                    HandshakeError::NoCommonVersion { plugin: offered, .. } => {
                        GoPluginError::Version { offered, what }
                    }
                    HandshakeError::NoCertificate | HandshakeError::UnaskedCertificate => {
                        GoPluginError::Identity { what }
                    }
                    _ => GoPluginError::Said(what),
                }
            }
            Wrong::Closed(said) => {
                let how = match &cause {
                    Some(cause @ EndCause::Exited(_)) => format!("{cause} before it said where it listens"),
                    Some(cause) => cause.to_string(),
                    None => "it closed its standard output before it said where it listens".to_owned(),
                };
                let said = if said.is_empty() {
                    said
                } else {
                    format!("; it said `{said}`")
                };
                let what = words(&format_args!("{how}{said}"));
                GoPluginError::Silent { cause, what }
            }
        }
    }
}

// === impl Reached ===

impl Reached {
    /// What the running plugin says that it serves must be the contract that callers were checked against.
    ///
    /// # Errors
    /// What it serves instead.
    pub(super) fn compare(&self, contract: &Contract) -> Result<(), GoPluginError> {
        // Plugins before go-plugin 1.2 do not say; then the folder's word counts.
        let Some(reflected) = &self.reflected else {
            return Ok(());
        };
        let differs = |why: String| Err(GoPluginError::Differs(why));
        let provides = contract.services();
        if let Some(service) = provides.iter().find(|it| !reflected.services.contains(it)) {
            let served = list(&reflected.services);
            return differs(format!("its contract names `{service}`, and it serves {served}"));
        }
        let served = match Contract::from_descriptor_set(&reflected.encode(provides), provides) {
            Ok(served) => served,
            Err(error) => {
                return differs(format!("what it says of its services is no contract: {error}"));
            }
        };
        match compat::bind(contract, &served, compat::Level::Wire).verdict {
            Verdict::Exact | Verdict::WireCompatible => Ok(()),
            Verdict::Adaptable(_) => differs(
                "it serves another version of its contract, and nothing adapts calls on the way to it"
                    .to_owned(),
            ),
            Verdict::Incompatible(violations) => {
                let first = violations.first().map_or_else(String::new, |it| {
                    let (path, old, new) = (&it.path, &it.old, &it.new);
                    format!(": `{path}` is {old} in its contract, and {new} there")
                });
                let places = violations.len();
                differs(format!(
                    "what it serves is not its contract, in {places} places{first}"
                ))
            }
        }
    }

    /// Asks it to end, and ends it if it does not.
    pub(super) async fn end(mut self, grace: Duration) -> EndCause {
        let asked = timeout(grace, async {
            self.connection.shutdown().await;
            self.child.exit.exited().await;
        });
        if asked.await.is_err() {
            self.child.kill().await;
        }
        self.child.end().await
    }
}

/// Listens to a process that was just started.
fn listen(
    spawned: Spawned,
    services: &Arc<dyn HostServices>,
) -> std::io::Result<(Watched, oneshot::Receiver<Result<Handshake, NoHandshake>>)> {
    let (tell, answer) = oneshot::channel();
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
