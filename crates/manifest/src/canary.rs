//! `canary` of a `[[plugin]]` and of `[watch.defaults]`: how a new version comes in, in place of a swap.
//!
//! ```toml
//! [[plugin]]
//! name = "thumbnailer"
//! source = "plugins/thumbnailer"
//! [plugin.canary]                        # or canary = { steps = ["10%", "promote"] }; {} is all defaults
//! steps = ["header x-canary=1", "5%", "pause 10m", "50%", "promote"]  # default: 5%, 25%, 50%, promote
//! sticky = "x-user-id"                   # the header whose value keeps a caller with the canary or away from it
//! window_ms = 60000                      # how long a step is looked at, at least
//! requests_min = 50                      # calls before a number means anything, and before a step may pass
//! error_ratio = 0.01                     # errors per call that are always forgiven
//! error_factor = 2                       # multiple of the other version's error ratio that is forgiven
//! p95_step_ms = 15                       # how far its 95th percentile of latency may be above the other version's
//! p95_factor = 3                         # how many times that it may be; the smaller of the two counts
//! p95_rise_min_ms = 1                    # a rise below this never counts
//! bad_healths_max = 2                    # bad health checks in a row that are too many
//! ```

use crate::{
    name::clip,
    reader::{Faults, Fields, Text},
    route::is_header_name,
};

/// How a new version of a plugin comes in: beside the one that serves, with a growing part of its calls. What is `None` is the host's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CanaryEntry {
    /// Its steps, in order: `25%`, `header NAME=VALUE`, `pause`, `pause 30s`, `promote`. None: 5%, 25%, 50%, promote.
    pub steps: Vec<String>,
    /// The header whose value keeps a caller with the canary or away from it; lower case.
    pub sticky: Option<String>,
    /// How long each step is looked at, at least.
    pub window_ms: Option<u64>,
    /// Calls before a number means anything, and before a step may pass.
    pub requests_min: Option<u64>,
    /// Errors per call that are always forgiven, 0 to 1.
    pub error_ratio: Option<f64>,
    /// Multiple of the other version's error ratio that is forgiven.
    pub error_factor: Option<f64>,
    /// How far its 95th percentile of latency may be above the other version's, in milliseconds.
    pub p95_step_ms: Option<f64>,
    /// How many times the other version's it may be; the smaller of the two counts.
    pub p95_factor: Option<f64>,
    /// A rise of the percentile below this never counts, in milliseconds.
    pub p95_rise_min_ms: Option<f64>,
    /// Bad health checks in a row that are too many.
    pub bad_healths_max: Option<u32>,
}

/// Most steps of one canary.
const STEPS_MAX: usize = 100;
/// Longest window, and longest wait, of a step: 30 days.
const MS_MAX: u64 = 30 * 24 * 3_600_000;

pub(crate) fn read_canary(mut fields: Fields<'_>, faults: &mut Faults) -> CanaryEntry {
    let steps = read_steps(&mut fields, faults);
    let sticky = fields.string("sticky", faults).and_then(|text| {
        let good = is_header_name(text.value);
        if !good {
            let message = format!("`{}` is not a header's name", clip(text.value));
            faults.add(text.span, message, None);
        }
        good.then(|| text.value.to_ascii_lowercase())
    });
    let entry = CanaryEntry {
        steps,
        sticky,
        window_ms: fields.integer("window_ms", 1..=MS_MAX, faults),
        requests_min: fields.integer("requests_min", 0..=1_000_000_000, faults),
        error_ratio: fields.number("error_ratio", 0.0..=1.0, faults),
        error_factor: fields.number("error_factor", 0.0..=1e6, faults),
        p95_step_ms: fields.number("p95_step_ms", 0.0..=1e9, faults),
        p95_factor: fields.number("p95_factor", 1.0..=1e6, faults),
        p95_rise_min_ms: fields.number("p95_rise_min_ms", 0.0..=1e9, faults),
        bad_healths_max: fields.integer("bad_healths_max", 1..=1000, faults),
    };
    fields.finish(faults);
    entry
}

fn read_steps(fields: &mut Fields<'_>, faults: &mut Faults) -> Vec<String> {
    if fields.is_empty_list("steps") {
        let hint = "name at least one, such as `10%`, or leave `steps` out for 5%, 25%, 50% and promotion";
        faults.add(
            fields.span_of("steps"),
            "a canary without a step gets no calls".to_owned(),
            Some(hint.to_owned()),
        );
    }
    let steps = fields.texts("steps", faults);
    if steps.len() > STEPS_MAX {
        let message = format!("{} steps, and the most are {STEPS_MAX}", steps.len());
        faults.add(fields.span_of("steps"), message, None);
    }
    for (index, text) in steps.iter().enumerate() {
        check_step(text, faults);
        if text.value.trim() == "promote" && index + 1 < steps.len() {
            let message = "what stands behind `promote` never comes".to_owned();
            let hint = "a promoted canary is the version that serves; move `promote` to the end";
            faults.add(steps[index + 1].span.clone(), message, Some(hint.to_owned()));
            break;
        }
    }
    steps.into_iter().map(|it| it.value.to_owned()).collect()
}

#[cfg(feature = "patterns")]
fn check_step(text: &Text<'_>, faults: &mut Faults) {
    let Err(error) = text.value.parse::<mortise_lifecycle::CanaryStep>() else {
        return;
    };
    let trimmed = text.value.trim();
    let word = trimmed.split(' ').next().unwrap_or_default();
    let number = !word.is_empty() && word.chars().all(|it| it.is_ascii_digit());
    let near = crate::suggest::nearest(word, ["header", "pause", "promote"]).filter(|it| *it != word);
    let hint = match (number, near) {
        (true, _) => Some(format!("did you mean `{word}%`?")),
        (false, Some(near)) => Some(format!("did you mean `{near}{}`?", &trimmed[word.len()..])),
        (false, None) => None,
    };
    faults.add(text.span.clone(), error.to_string(), hint);
}

/// Without the feature nobody follows a plan that was read; a host has it.
#[cfg(not(feature = "patterns"))]
fn check_step(_: &Text<'_>, _: &mut Faults) {}
