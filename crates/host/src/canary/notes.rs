//! What an operator should know of a canary before its numbers say it.

use std::collections::BTreeSet;

use mortise_lifecycle::CanaryStep;
use mortise_store::Package;

use super::CanaryRequest;
use crate::{
    depend::{self, Known},
    host::Shared,
};

/// Everything that is known when it begins.
pub(super) fn about(
    shared: &Shared,
    plugin: &str,
    package: &Package,
    request: &CanaryRequest,
) -> Vec<String> {
    let mut notes = Vec::new();
    let of_steps = request.plan.steps.iter().filter_map(|step| match step {
        CanaryStep::Header { name, .. } => Some(name.as_str()),
        _ => None,
    });
    let names: BTreeSet<&str> = of_steps.chain(request.sticky.as_deref()).collect();
    for name in names {
        if !shared.parts.propagate.iter().any(|it| it == name) {
            notes.push(format!(
                "calls that plugins make for a caller with `{name}` are routed without it, because `routing.propagate` does not name that header"
            ));
        }
    }
    if package.manifest().state_schema.is_some() {
        notes.push("it has state, and while it runs beside the other version each has its own".to_owned());
    }
    if request.plan.steps.contains(&CanaryStep::Promote) {
        let promoted = Known::of_package(plugin, package);
        let refusals = depend::refusals(&shared.known(), &[promoted], 0);
        notes.extend(
            refusals
                .into_iter()
                .map(|it| format!("as things are, it cannot be promoted: {}", it.why)),
        );
    }
    notes
}
