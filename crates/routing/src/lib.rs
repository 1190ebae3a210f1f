//! Which provider answers a call: the method table, and the graph of who calls whom.
//!
//! This crate decides and never acts: it knows no plugin, no clock and no randomness. The host builds a [`RoutingTable`] whenever
//! the set of plugins changes, publishes it, and asks it once per call (or once per `bind`). A table never changes.
//!
//! **How a call finds its provider** ([`RoutingTable::lookup`]):
//! 1. The target names the candidates: `package.Service/Method` all that provide the method, `plugin.{name}.{method}` those with
//!    that name, `plugin.{name@version}.{method}` exactly one ([`Target`]).
//! 2. A range of versions, if the caller brings one, takes some of them away. If one is left, it answers.
//! 3. The first [`Rule`] about all calls, the service or the method whose headers match, and whose provider is among them, decides.
//! 4. Otherwise weight decides, by the call's key: the same key stays with the same provider, and raising one provider's weight
//!    moves keys only to it ([`Key`]).
//! 5. Of a plugin that was chosen without a version, the first rule of its own ([`Scope::Plugin`]) chooses the version.
//!
//! A rule that names several providers splits its calls by weight again, by the value of its sticky header or by the call's key.
//!
//! [`RoutingTable::explain`] runs the same steps and says what each of them did.
//!
//! **Who may call whom** ([`plan`]): the order to start in, providers that are missing, and cycles as their shortest path with the
//! smallest set of requirements that breaks them. [`Chart`] draws it: as text, for `dot`, as SVG.
#![forbid(unsafe_code)]

mod chart;
mod choose;
mod explain;
mod graph;
mod rule;
mod table;
mod target;

pub use chart::{Chart, ChartEdge, ChartPlugin, Tie};
pub use choose::{Key, Reason};
pub use explain::{Candidate, Explanation, Step};
pub use graph::{Cut, DependencyFault, Hop, Need, Participant, Plan, check_dependencies, plan};
pub use rule::{HeaderMatch, Pattern, PatternError, Rule, Scope, Share};
pub use table::{
    BuildError, Choice, LookupError, Method, Provider, Query, RoutingTable, RoutingTableBuilder,
};
pub use target::{Address, Target, TargetError};

#[cfg(test)]
mod tests;
