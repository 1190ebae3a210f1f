//! Captures what the host writes to its log, so that a case can look at it.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Mutex, MutexGuard, OnceLock},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// One event, as a map of its fields; the text is under `message`.
pub type Line = BTreeMap<String, String>;

static LINES: OnceLock<Mutex<Vec<Line>>> = OnceLock::new();

/// Starts capturing, once per process.
pub fn install() {
    LINES.get_or_init(|| {
        tracing_subscriber::registry().with(Capture).init();
        Mutex::default()
    });
}

/// The lines so far that `wanted` picks.
pub fn lines(wanted: impl Fn(&Line) -> bool) -> Vec<Line> {
    captured().iter().filter(|line| wanted(line)).cloned().collect()
}

fn captured() -> MutexGuard<'static, Vec<Line>> {
    LINES
        .get()
        .expect("`install` was called")
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Capture;

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::new();
        event.record(&mut Fields(&mut line));
        if let Some(lines) = LINES.get() {
            lines
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(line);
        }
    }
}

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
