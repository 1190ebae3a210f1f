//! Log lines for a go-plugin host: hclog JSON on the standard error that the process was started with.

use std::{
    fs::File,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use mortise_goplugin::{LogEvent, LogLevel};
use mortise_sdk::{Level, LogRecord};

/// Writes whole lines. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Logger(Arc<Mutex<File>>);

// === impl Logger ===

impl Logger {
    pub(crate) fn new(out: File) -> Self {
        Self(Arc::new(out.into()))
    }

    pub(crate) fn record(&self, record: &LogRecord) {
        let level = match record.level() {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Unspecified | Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        self.event(&LogEvent {
            level,
            message: record.message.clone(),
            module: record.target.clone(),
            fields: record
                .fields
                .iter()
                .map(|it| (it.name.clone(), it.value.clone()))
                .collect(),
        });
    }

    pub(crate) fn event(&self, event: &LogEvent) {
        let line = event.to_hclog(SystemTime::now());
        // A host that no longer reads is about to end this process.
        let _ = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes());
    }
}
