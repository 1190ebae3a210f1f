//! `mortise.toml` as a file: where it is, what its relative paths mean, and what a host that runs makes of a new one.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mortise::{
    Host,
    manifest::{HostConfig, HostSettings, PackageSource},
};
use mortise_gateway::{Reason, RpcError, control::Reloaded};

use crate::exit::{Failure, Fault};

/// The name that is looked for where nobody names a file.
pub(crate) const FILE: &str = "mortise.toml";

/// Where the configuration of a host is.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    /// As people know it.
    name: PathBuf,
    /// Whether it must be there: it was named, or it was there before.
    required: bool,
}

/// The configuration of a host that runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) host: Host,
    pub(crate) file: ConfigFile,
    /// What the host was started with; its plugins are the host's to remember.
    pub(crate) begun: HostConfig,
}

// === impl ConfigFile ===

impl ConfigFile {
    pub(crate) fn of(given: Option<&Path>) -> Self {
        Self {
            name: given.unwrap_or(Path::new(FILE)).to_owned(),
            required: given.is_some() || Path::new(FILE).exists(),
        }
    }

    /// Reads and checks it; relative paths in it become relative to its own folder.
    ///
    /// # Errors
    /// Every fault in it.
    pub(crate) fn read(&self) -> anyhow::Result<HostConfig> {
        let text = match std::fs::read_to_string(&self.name) {
            Ok(text) => text,
            Err(error) if !self.required && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(HostConfig::default());
            }
            Err(error) => {
                let fault = Fault::new(format!("cannot read `{}`: {error}", self.name.display()));
                return Err(Failure::new(fault.hint("name the host's configuration with `--config`")).into());
            }
        };
        let mut config = HostConfig::parse(&text, &self.name.display().to_string())
            .map_err(|all| Failure::of_diagnostics(&all))?;
        let folder = std::path::absolute(&self.name).context("the working directory is gone")?;
        let folder = folder.parent().expect("an absolute path of a file has a parent");
        let resolve = |it: &mut String| *it = folder.join(&*it).to_string_lossy().into_owned();
        config.host.data_dir.iter_mut().for_each(resolve);
        config.host.control_socket.iter_mut().for_each(resolve);
        config.watch.iter_mut().for_each(|it| resolve(&mut it.dir));
        config.config.dir.iter_mut().for_each(resolve);
        if let Some(etcd) = &mut config.config.etcd {
            etcd.ca_file.iter_mut().for_each(resolve);
        }
        if let Some(nats) = &mut config.events.nats {
            nats.ca_file.iter_mut().for_each(resolve);
        }
        for webhook in &mut config.canary.webhooks {
            webhook.secret_file.iter_mut().for_each(resolve);
        }
        for plugin in &mut config.plugins {
            if let PackageSource::Folder(path) = &mut plugin.source {
                resolve(path);
            }
        }
        Ok(config)
    }
}

// === impl Live ===

impl Live {
    /// Reads the file again and brings the plugins to what it says; of those in `taking` whoever had a word since. A file with a fault changes nothing.
    ///
    /// # Errors
    /// Every fault in the file.
    pub(crate) async fn reload(&self, taking: &[String]) -> Result<Reloaded, Failure> {
        let config = self.file.read().map_err(Failure::of_any)?;
        let needs_restart = self.needs_restart(&config);
        // Routes may lead to what is loaded only now; until then they lead nowhere, and calls go where they went.
        self.host
            .configure_routes("reload", config.routes)
            .await
            .map_err(|error| Failure::of_host(&error))?;
        let mut report = self.host.reload_taking(config.plugins, taking).await;
        report.merge(self.host.watch(config.watch).await);
        let mut reloaded = Reloaded::from(report);
        reloaded.needs_restart = needs_restart.into_iter().map(str::to_owned).collect();
        Ok(reloaded)
    }

    /// The same for the control socket.
    pub(crate) async fn reload_for_client(&self, taking: &[String]) -> Result<Reloaded, RpcError> {
        self.reload(taking).await.map_err(|failure| {
            log_refusal(&failure);
            let reason = |it: &Fault| Reason {
                what: it
                    .place
                    .clone()
                    .unwrap_or_else(|| self.file.name.display().to_string()),
                why: it.message.clone(),
                hint: it.hint.clone().unwrap_or_default(),
            };
            let reasons: Vec<_> = failure.faults.iter().map(reason).collect();
            RpcError::refused(
                "the configuration is refused",
                "correct it; nothing was changed",
                &reasons,
            )
        })
    }

    /// The same for SIGHUP, whose sender reads the log.
    pub(crate) async fn reload_for_log(&self) {
        match self.reload(&[]).await {
            Err(failure) => log_refusal(&failure),
            Ok(Reloaded {
                loaded,
                swapped,
                unchanged,
                canaries,
                // Each is told where it is left alone.
                kept: _,
                unloaded,
                failed,
                needs_restart,
            }) => {
                for plugin in failed {
                    let reasons: Vec<_> = plugin.reasons.iter().map(|it| it.why.as_str()).collect();
                    tracing::error!(plugin = %plugin.name, reasons = %reasons.join("; "), "plugin does not serve as configured");
                }
                for setting in needs_restart {
                    tracing::warn!(%setting, "a changed setting waits for the next start of the host");
                }
                tracing::info!(
                    ?loaded,
                    ?swapped,
                    ?canaries,
                    ?unloaded,
                    unchanged = unchanged.len(),
                    "configuration read again"
                );
            }
        }
    }

    /// Settings that differ from those that the host was started with.
    fn needs_restart(&self, new: &HostConfig) -> Vec<&'static str> {
        let old = &self.begun;
        let settings = [
            ("host.data_dir", old.host.data_dir != new.host.data_dir),
            (
                "host.keep_packages",
                old.host.keep_packages != new.host.keep_packages,
            ),
            (
                "host.control_socket",
                old.host.control_socket != new.host.control_socket,
            ),
            ("gateway.listen", old.gateway != new.gateway),
            ("runtime.prefer", old.prefer != new.prefer),
            ("runtime.process", old.process != new.process),
            ("canary.webhook", old.canary != new.canary),
            ("events", old.events != new.events),
            ("routing.propagate", old.routing != new.routing),
            ("config", old.config != new.config),
        ];
        settings.into_iter().filter(|it| it.1).map(|it| it.0).collect()
    }
}

fn log_refusal(failure: &Failure) {
    for fault in &failure.faults {
        let place = fault.place.as_deref().unwrap_or_default();
        let hint = fault.hint.as_deref().unwrap_or_default();
        tracing::error!(%place, %hint, "{}", fault.message);
    }
    tracing::error!("the configuration is refused; nothing was changed");
}

// === where a host is ===

/// Where a host keeps its data if nobody says: the system's place for root, the user's own for others.
pub(crate) fn data_dir(settings: &HostSettings) -> PathBuf {
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
