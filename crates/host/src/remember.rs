//! What operators loaded, kept in the journal's list of what should run, so that a daemon that starts again comes back to it.
//!
//! The store does not look into the text; its form is this file's own, and a text that no longer reads is told and skipped rather than kept from
//! starting the host.

use std::path::PathBuf;

use mortise_manifest::{Grant, Jail, LimitsOverride, Permissions, Restart, RuntimeName};
use mortise_store::Desired;
use serde::{Deserialize, Serialize};

use crate::{HostError, LoadRequest, Source, host::Shared};

/// Version of [`Remembered`]'s meaning.
const FORMAT: u32 = 1;

/// A load, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    format: u32,
    pub(crate) source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    runtime: Option<String>,
    #[serde(default)]
    net_connect: Vec<String>,
    #[serde(default)]
    fs_read: Vec<String>,
    #[serde(default)]
    fs_write: Vec<String>,
    #[serde(default)]
    kv: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    events_publish: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    events_subscribe: Vec<String>,
    #[serde(default)]
    jail_off: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    trust_adapter: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restart: Option<String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config_json: Option<String>,
    #[serde(default)]
    beside: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Limits {
    memory_bytes_max: Option<u64>,
    deadline_ms: Option<u64>,
    concurrency: Option<u32>,
    payload_bytes_max: Option<usize>,
    stream_messages_max: Option<u32>,
    stream_bytes_max: Option<usize>,
    start_ms: Option<u64>,
    stop_ms: Option<u64>,
    term_ms: Option<u64>,
    swap_ms: Option<u64>,
    cpu_percent: Option<u32>,
    log_lines_per_second: Option<u32>,
}

/// A load, as text for the host's next life.
pub(crate) fn to_text(request: LoadRequest) -> String {
    serde_json::to_string(&Remembered::from(request)).expect("strings and numbers serialize")
}

/// Reads what [`to_text`] wrote.
pub(crate) fn from_text(text: &str) -> Result<LoadRequest, serde_json::Error> {
    serde_json::from_str::<Remembered>(text).map(LoadRequest::from)
}

/// Everything that was loaded and not unloaded; plain names before versions beside them.
pub(crate) async fn recall(shared: &Shared) -> Result<Vec<LoadRequest>, HostError> {
    let mut desired = shared.with_journal(mortise_store::Journal::desired).await?;
    desired.sort_by_key(|it| it.name.contains('@'));
    let read = |it: Desired| match serde_json::from_str::<Remembered>(&it.request_json) {
        Ok(kept) if kept.format == FORMAT => Some(LoadRequest::from(kept)),
        Ok(kept) => {
            tracing::warn!(target: "mortise::life", plugin = it.name, format = kept.format, "a newer host remembered this load");
            None
        }
        Err(error) => {
            tracing::warn!(target: "mortise::life", plugin = it.name, %error, "what is remembered of this load does not read");
            None
        }
    };
    Ok(desired.into_iter().filter_map(read).collect())
}

// === impl Remembered ===

impl Remembered {
    /// The same, wherever the package comes from and under whatever name.
    pub(crate) fn anywhere(&self) -> Self {
        Self {
            source: String::new(),
            name: None,
            ..self.clone()
        }
    }
}

impl From<LoadRequest> for Remembered {
    fn from(request: LoadRequest) -> Self {
        // The host may be started from another directory next time.
        let source = match request.source {
            Source::Folder(path) => Source::Folder(std::path::absolute(&path).unwrap_or(path)),
            other => other,
        };
        let Permissions {
            net_connect,
            fs_read,
            fs_write,
            kv,
            events_publish,
            events_subscribe,
        } = request.grant.permissions;
        let jail_off = request.grant.jail == Jail::Off;
        let limits = request.limits;
        let ms = |it: std::time::Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
        Self {
            format: FORMAT,
            source: source.to_string(),
            name: request.name,
            runtime: request.runtime.map(|it| it.to_string()),
            net_connect,
            fs_read,
            fs_write,
            kv,
            events_publish,
            events_subscribe,
            jail_off,
            trust_adapter: request.grant.trust_adapter,
            restart: Some(request.restart)
                .filter(|it| *it != Restart::default())
                .map(|it| it.to_string()),
            limits: Limits {
                memory_bytes_max: limits.memory_bytes_max,
                deadline_ms: limits.deadline.map(ms),
                concurrency: limits.concurrency,
                payload_bytes_max: limits.payload_bytes_max,
                stream_messages_max: limits.stream_messages_max,
                stream_bytes_max: limits.stream_bytes_max,
                start_ms: limits.start.map(ms),
                stop_ms: limits.stop.map(ms),
                term_ms: limits.term.map(ms),
                swap_ms: limits.swap.map(ms),
                cpu_percent: limits.cpu_percent,
                log_lines_per_second: limits.log_lines_per_second,
            },
            config_json: request.config_json,
            beside: request.beside,
        }
    }
}

impl From<Remembered> for LoadRequest {
    fn from(kept: Remembered) -> Self {
        let ms = std::time::Duration::from_millis;
        let limits = LimitsOverride {
            memory_bytes_max: kept.limits.memory_bytes_max,
            deadline: kept.limits.deadline_ms.map(ms),
            concurrency: kept.limits.concurrency,
            payload_bytes_max: kept.limits.payload_bytes_max,
            stream_messages_max: kept.limits.stream_messages_max,
            stream_bytes_max: kept.limits.stream_bytes_max,
            start: kept.limits.start_ms.map(ms),
            stop: kept.limits.stop_ms.map(ms),
            term: kept.limits.term_ms.map(ms),
            swap: kept.limits.swap_ms.map(ms),
            cpu_percent: kept.limits.cpu_percent,
            log_lines_per_second: kept.limits.log_lines_per_second,
        };
        let Remembered {
            net_connect,
            fs_read,
            fs_write,
            kv,
            events_publish,
            events_subscribe,
            jail_off,
            ..
        } = kept;
        Self {
            name: kept.name,
            runtime: kept.runtime.as_deref().and_then(RuntimeName::parse),
            grant: Grant {
                permissions: Permissions {
                    net_connect,
                    fs_read,
                    fs_write,
                    kv,
                    events_publish,
                    events_subscribe,
                },
                jail: if jail_off { Jail::Off } else { Jail::On },
                trust_adapter: kept.trust_adapter,
            },
            restart: kept
                .restart
                .as_deref()
                .and_then(Restart::parse)
                .unwrap_or_default(),
            limits,
            config_json: kept.config_json,
            beside: kept.beside,
            ..Self::new(parse_source(&kept.source))
        }
    }
}

/// A path may begin with `builtin:` only if it is absolute, and then it does not.
fn parse_source(text: &str) -> Source {
    if text.starts_with('/') {
        Source::Folder(PathBuf::from(text))
    } else {
        Source::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_comes_back_as_it_was() {
        let permissions = Permissions {
            net_connect: vec!["a.org:1".to_owned()],
            fs_read: vec!["/r".to_owned()],
            fs_write: vec!["/w".to_owned()],
            kv: true,
            events_publish: vec!["a.>".to_owned()],
            events_subscribe: vec!["b.*".to_owned()],
        };
        let limits = LimitsOverride {
            memory_bytes_max: Some(1),
            deadline: Some(std::time::Duration::from_millis(2)),
            concurrency: Some(3),
            payload_bytes_max: Some(4),
            stream_messages_max: Some(8),
            stream_bytes_max: Some(9),
            start: Some(std::time::Duration::from_millis(5)),
            stop: Some(std::time::Duration::from_millis(6)),
            term: Some(std::time::Duration::from_millis(10)),
            swap: Some(std::time::Duration::from_millis(12)),
            cpu_percent: Some(11),
            log_lines_per_second: Some(7),
        };
        let request = LoadRequest {
            name: Some("n".to_owned()),
            runtime: Some(RuntimeName::Process),
            grant: Grant {
                permissions,
                jail: Jail::Off,
                trust_adapter: true,
            },
            restart: Restart::Always,
            limits,
            config_json: Some("{}".to_owned()),
            beside: true,
            ..LoadRequest::new(Source::Folder("/p/q".into()))
        };
        let text = serde_json::to_string(&Remembered::from(request.clone())).expect("serializes");
        let back = LoadRequest::from(serde_json::from_str::<Remembered>(&text).expect("reads"));
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
        for source in ["builtin:a", "embedded:b", "kept:c"] {
            let kept = Remembered::from(LoadRequest::new(Source::parse(source)));
            assert_eq!(LoadRequest::from(kept).source, Source::parse(source));
        }
    }
}
