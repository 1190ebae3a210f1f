//! What a row is and how it is printed.

use serde::Serialize;

/// A figure beside its anchor.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub path: String,
    /// The figure.
    pub ours: f64,
    /// What it was measured against, in the same run.
    pub anchor_name: String,
    /// The anchor's figure.
    pub anchor: f64,
    /// Unit of both.
    pub unit: &'static str,
    /// What is promised, as people say it.
    pub budget: String,
    /// Whether the promise is kept; `None` where none is made.
    pub kept: Option<bool>,
}

impl Row {
    /// A row without a promise.
    #[must_use]
    pub fn new(
        path: impl Into<String>,
        ours: f64,
        anchor_name: impl Into<String>,
        anchor: f64,
        unit: &'static str,
    ) -> Self {
        let (path, anchor_name) = (path.into(), anchor_name.into());
        Self {
            path,
            ours,
            anchor_name,
            anchor,
            unit,
            budget: "-".to_owned(),
            kept: None,
        }
    }

    /// Promises that ours is at most `times` the anchor.
    #[must_use]
    pub fn at_most_times(mut self, times: f64) -> Self {
        self.budget = format!("<= {times} x");
        self.kept = Some(self.ours <= self.anchor * times);
        self
    }

    /// Promises that ours is at least `times` the anchor.
    #[must_use]
    pub fn at_least_times(mut self, times: f64) -> Self {
        self.budget = format!(">= {times} x");
        self.kept = Some(self.ours >= self.anchor * times);
        self
    }

    /// Promises that ours is below `bound`, in the row's unit.
    #[must_use]
    pub fn below(mut self, bound: f64) -> Self {
        self.budget = format!("< {bound} {}", self.unit);
        self.kept = Some(self.ours < bound);
        self
    }
}

/// Prints rows as a table for people.
pub fn print(title: &str, rows: &[Row]) {
    println!("\n{title}");
    println!(
        "{:<48} {:>12} {:>12} {:<6} {:>8}  {:<14} {:<5} anchor",
        "path", "ours", "anchor", "unit", "ratio", "budget", "kept"
    );
    for row in rows {
        let kept = row.kept.map_or("", |kept| if kept { "yes" } else { "NO" });
        println!(
            "{:<48} {:>12} {:>12} {:<6} {:>7.2}x  {:<14} {:<5} {}",
            row.path,
            number(row.ours),
            number(row.anchor),
            row.unit,
            row.ours / row.anchor,
            row.budget,
            kept,
            row.anchor_name
        );
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// The least of `rounds` runs of `work`, each over `calls` calls, in nanoseconds per call.
///
/// The least and not the mean: on a shared machine noise only ever adds.
pub fn best_ns(rounds: u32, calls: u32, mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let started = std::time::Instant::now();
        for _ in 0..calls {
            work();
        }
        best = best.min(started.elapsed().as_nanos() as f64 / f64::from(calls));
    }
    best
}
