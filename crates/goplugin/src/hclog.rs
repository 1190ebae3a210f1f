//! What a plugin writes to its standard error, as structured events.
//!
//! Go plugins log with hclog: a JSON object per line, with `@level`, `@message`, `@timestamp`, `@module`, `@caller` and fields of the plugin's own. What is no such
//! object is text; `[WARN]` and its like at its beginning say how serious it is, and from `panic: ` or `fatal error: ` on every line is an error, because a
//! stack trace follows. Go's own host trusts the types of the JSON and ends with a panic of its own where they are others; here a plugin can write anything.
//!
//! Bounds: a line of [`LINE_BYTES_MAX`], [`FIELDS_MAX`] fields of [`FIELD_CHARS_MAX`]. A longer line comes in pieces, at level debug.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

/// Longer lines come in pieces of this size.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// More fields of one event are counted, not kept.
pub const FIELDS_MAX: usize = 64;
/// Longer values are cut.
pub const FIELD_CHARS_MAX: usize = 4096;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Steps inside the plugin.
    Trace,
    /// For its author.
    Debug,
    /// For its operator.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

/// One line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// How serious it is.
    pub level: LogLevel,
    /// The text.
    pub message: String,
    /// The plugin's name for the part of it that logged; empty if it has none.
    pub module: String,
    /// Everything else: name, and the value as text (JSON for what is no string). `timestamp` and `caller` are among them.
    pub fields: Vec<(String, String)>,
}

/// Cuts what is read into lines and takes them apart.
#[derive(Debug, Default)]
pub struct LogParser {
    line: Vec<u8>,
    /// The line goes on, its beginning is told already.
    continued: bool,
    panicking: bool,
}

// === impl LogParser ===

impl LogParser {
    /// Takes what was read and tells every line that is complete.
    pub fn push(&mut self, mut bytes: &[u8], mut tell: impl FnMut(LogEvent)) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.line.len();
            let (part, ended) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) if end <= room => (end, true),
                _ => (bytes.len().min(room), false),
            };
            self.line.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part + usize::from(ended)..];
            if ended {
                self.end_line(&mut tell);
            } else if self.line.len() == LINE_BYTES_MAX {
                self.continued = true;
                self.tell_piece(&mut tell);
            }
        }
    }

    /// Tells what came after the last end of line.
    pub fn finish(&mut self, mut tell: impl FnMut(LogEvent)) {
        self.end_line(&mut tell);
    }

    fn end_line(&mut self, tell: &mut impl FnMut(LogEvent)) {
        if std::mem::take(&mut self.continued) {
            return self.tell_piece(tell);
        }
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\r');
        if !text.is_empty() {
            tell(self.take_apart(text));
        }
    }

    fn tell_piece(&mut self, tell: &mut impl FnMut(LogEvent)) {
        let piece = std::mem::take(&mut self.line);
        if !piece.is_empty() {
            tell(LogEvent::plain(LogLevel::Debug, &String::from_utf8_lossy(&piece)));
        }
    }

    fn take_apart(&mut self, line: &str) -> LogEvent {
        if line.starts_with('{')
            && let Ok(Value::Object(object)) = serde_json::from_str(line)
            && let Some(event) = from_hclog(object)
        {
            return event;
        }
        if let Some(level) = prefix(line) {
            return LogEvent::plain(level, line);
        }
        self.panicking |= line.starts_with("panic: ") || line.starts_with("fatal error: ");
        let level = if self.panicking {
            LogLevel::Error
        } else {
            LogLevel::Debug
        };
        LogEvent::plain(level, line)
    }
}

// === impl LogEvent ===

impl LogEvent {
    fn plain(level: LogLevel, text: &str) -> Self {
        Self {
            level,
            message: text.to_owned(),
            module: String::new(),
            fields: Vec::new(),
        }
    }
}

impl LogEvent {
    /// The line by which hclog would log it at that time, with its end.
    #[must_use]
    pub fn to_hclog(&self, at: SystemTime) -> String {
        let mut object = Map::new();
        for (name, value) in &self.fields {
            // A field may not pass for one of hclog's own.
            object.insert(
                name.trim_start_matches('@').to_owned(),
                Value::from(value.as_str()),
            );
        }
        object.insert("@level".to_owned(), self.level.as_str().into());
        object.insert("@message".to_owned(), self.message.as_str().into());
        if !self.module.is_empty() {
            object.insert("@module".to_owned(), self.module.as_str().into());
        }
        object.insert("@timestamp".to_owned(), timestamp(at).into());
        format!("{}\n", Value::Object(object))
    }
}

// === impl LogLevel ===

impl LogLevel {
    fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "trace" => Some(Self::Trace),
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" | "warning" => Some(Self::Warn),
            "error" => Some(Self::Error),
            _ => None,
        }
    }

    /// The name that hclog gives it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `None` if it is JSON of something else: then the line itself is the message.
fn from_hclog(mut object: Map<String, Value>) -> Option<LogEvent> {
    let level = LogLevel::from_name(object.get("@level")?.as_str()?)?;
    object.remove("@level");
    let mut text = |key: &str| object.remove(key).map(as_text).unwrap_or_default();
    let (message, module) = (text("@message"), text("@module"));
    let mut fields = Vec::new();
    for (key, renamed) in [("@timestamp", "timestamp"), ("@caller", "caller")] {
        let value = text(key);
        if !value.is_empty() {
            fields.push((renamed.to_owned(), value));
        }
    }
    let surplus = (fields.len() + object.len()).saturating_sub(FIELDS_MAX);
    let room = FIELDS_MAX - fields.len();
    let rest = object.into_iter().take(room);
    fields.extend(rest.map(|(key, value)| (cut(key), as_text(value))));
    if surplus > 0 {
        fields.push(("fields_dropped".to_owned(), surplus.to_string()));
    }
    Some(LogEvent {
        level,
        message,
        module,
        fields,
    })
}

fn as_text(value: Value) -> String {
    cut(match value {
        Value::String(text) => text,
        other => other.to_string(),
    })
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(FIELD_CHARS_MAX) {
        text.truncate(end);
    }
    text
}

/// Go's `2006-01-02T15:04:05.000000Z`, in UTC.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0; then years begin with March, and leap days are last. Howard Hinnant, "chrono-compatible low-level date algorithms".
    let days = days + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3600, in_day % 3600 / 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

fn prefix(line: &str) -> Option<LogLevel> {
    let (name, _) = line.strip_prefix('[')?.split_once(']')?;
    let upper = name.bytes().all(|byte| byte.is_ascii_uppercase());
    if upper { LogLevel::from_name(name) } else { None }
}

#[cfg(test)]
mod tests;
