//! The port: who knows what is configured elsewhere.

use std::{collections::BTreeMap, fmt, pin::Pin};

use serde_json::Value;

/// A boxed future, so that the port can be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Knows what is configured elsewhere, and hears of changes.
///
/// Its host asks for the next update over and over, from one task, as long as it lives. The first one is complete; later ones may be.
///
/// A source is responsible for isolation: it puts a setting under the name of a plugin only if it stands in that plugin's own place, and whatever
/// stands elsewhere is nobody's.
pub trait ConfigSource: Send + 'static {
    /// One word for people and for the history: `etcd`, `files`.
    fn name(&self) -> &str;

    /// Waits for the next update. Several changes that come together may be one.
    ///
    /// # Errors
    /// If nothing can be heard of it for now. What was told before still holds; the next call tries again, after a pause of the source's own choice.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped: the next call goes on from there.
    fn next(&mut self) -> BoxFuture<'_, Result<Update, Outage>>;
}

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Grows with every change in the source; it is what people see of it in the history.
    pub revision: u64,
    /// Whether `plugins` is all that there is: a plugin that is not in it has no settings there.
    pub complete: bool,
    /// All settings of each plugin that is told of, by its name. Empty settings: it has none any more.
    pub plugins: BTreeMap<String, Settings>,
}

/// What one source has for one plugin, by place: `""` is the whole object, `limits/rate` a member of a member.
pub type Settings = BTreeMap<String, Setting>;

/// What stands at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value, or why it cannot be read: without the value, which may be a secret that stands in the wrong place.
    pub value: Result<Value, String>,
    /// Where it stands, for people: `etcd /mortise/echo/colour`, `conf/echo.toml`.
    pub origin: String,
    /// The source's revision that brought it.
    pub revision: u64,
}

/// Nothing can be heard of a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Outage {
    /// Why, without credentials.
    pub why: String,
}

// === impl Update and Outage ===

impl Update {
    /// Adds a later one.
    pub fn merge(&mut self, later: Self) {
        self.revision = later.revision;
        if later.complete {
            self.complete = true;
            self.plugins = later.plugins;
        } else {
            self.plugins.extend(later.plugins);
        }
    }
}

impl Outage {
    /// For this reason.
    pub fn new(why: impl fmt::Display) -> Self {
        Self { why: why.to_string() }
    }
}
