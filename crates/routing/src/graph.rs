//! Who calls whom, checked before anything starts.
//!
//! Two graphs are made from what plugins provide and require:
//! - The **call graph**: a node per plugin and method, an edge wherever one may call another. A cycle in it can recurse without end.
//! - The **start graph**: the same with all methods of a plugin drawn together. A cycle in it leaves nobody to start first. Every cycle
//!   of calls between plugins is one of starts, too.
//!
//! Not everything that is required is an edge:
//! - A *lazy* requirement: its plugin starts before the provider and calls it when it is there.
//! - An *optional* one: its plugin does without.
//! - One that the plugin itself meets: whether it calls itself is its own affair.
//!
//! Calls over these can come back to where they began; the host bounds how deep calls nest. So a cycle is broken by marking some
//! requirements lazy, and reports say which ones ([`Cut`]).
//!
//! [`plan`] starts what can start and says of the rest why it is held; [`check_dependencies`] is the same question where one fault is
//! one too many.

mod cut;

use std::{collections::BTreeMap, fmt, sync::Arc};

use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use semver::{Version, VersionReq};

use crate::table::Method;
use cut::{cycles, smallest_cut};

/// A plugin as the graph knows it.
#[derive(Clone, Debug)]
pub struct Participant {
    /// The name it is registered under.
    pub name: Arc<str>,
    /// Its version.
    pub version: Version,
    /// The methods it provides.
    pub provides: Vec<Method>,
    /// The methods it calls.
    pub requires: Vec<Need>,
}

/// What a plugin calls.
#[derive(Clone, Debug)]
pub struct Need {
    /// Which of its own methods makes the call; `None`: any of them.
    pub from: Option<Method>,
    /// Full name of the service it calls.
    pub service: Arc<str>,
    /// The method it calls; `None`: any of the service.
    pub method: Option<Arc<str>>,
    /// Which versions of the provider will do.
    pub range: VersionReq,
    /// It starts without a provider.
    pub optional: bool,
    /// It starts before the provider.
    pub lazy: bool,
    /// Where this is written, such as `plugin.toml:14`.
    pub place: Option<String>,
}

/// One edge of a cycle: who calls, and what makes it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Who calls: `name@version`, and the method if it is known.
    pub from: String,
    /// The service it requires.
    pub service: Arc<str>,
    /// The range it requires.
    pub range: VersionReq,
    /// Where that is written.
    pub place: Option<String>,
}

/// Requirements to mark lazy, or to remove, so that no cycle is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The requirements.
    pub requirements: Vec<Hop>,
    /// Whether it is known that no smaller set will do. Large knots are cut greedily: no requirement of such a set can be left out, but another set
    /// may be smaller.
    pub smallest: bool,
}

/// Why a set of plugins cannot run together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DependencyFault {
    /// Nobody provides what is required.
    #[error("{plugin} requires `{service}` {range}{}, and {}", at(.place), who_provides(.provided))]
    Missing {
        /// Who requires it: `name@version`.
        plugin: String,
        /// The service, or the method of it.
        service: String,
        /// The versions that would do.
        range: VersionReq,
        /// Where it is written.
        place: Option<String>,
        /// Providers whose version is not in the range: `name@version`.
        provided: Vec<String>,
    },
    /// Methods call each other in a circle.
    #[error("calls go in a circle: {}; {cut}", path(.hops))]
    CallCycle {
        /// The shortest such path; the last hop leads to the first.
        hops: Vec<Hop>,
        /// What breaks this cycle and all that hang together with it.
        cut: Cut,
    },
    /// Plugins need each other to be started first.
    #[error("each waits for the next to start: {}; {cut}", path(.hops))]
    StartCycle {
        /// The shortest such path; the last hop leads to the first.
        hops: Vec<Hop>,
        /// What breaks this cycle and all that hang together with it.
        cut: Cut,
    },
    /// All who provide what is required are held themselves.
    #[error("{plugin} requires `{service}` {range}{}, and {} cannot start", at(.place), .providers.join(", "))]
    Held {
        /// Who requires it: `name@version`.
        plugin: String,
        /// The service, or the method of it.
        service: String,
        /// The versions that would do.
        range: VersionReq,
        /// Where it is written.
        place: Option<String>,
        /// Who would provide it: `name@version`.
        providers: Vec<String>,
    },
}

/// In which order plugins start, and which of them cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each inner list may start in parallel once the lists before it have started. Indices are those of the participants; stopping goes the other
    /// way round.
    pub levels: Vec<Vec<usize>>,
    /// The others, with all reasons.
    pub held: BTreeMap<usize, Vec<DependencyFault>>,
}

/// Plans the start of `participants`: whatever can start does, whoever stands in the way of itself or others.
#[must_use]
pub fn plan(participants: &[Participant]) -> Plan {
    let graphs = Graphs::new(participants);
    let mut held: BTreeMap<usize, Vec<DependencyFault>> = BTreeMap::new();
    for (participant, fault) in &graphs.missing {
        held.entry(*participant).or_default().push(fault.clone());
    }
    for (group, fault) in graphs.knots() {
        for participant in group {
            held.entry(participant).or_default().push(fault.clone());
        }
    }
    loop {
        let more = graphs.held_by(&held);
        if more.is_empty() {
            break;
        }
        held.extend(more);
    }
    Plan {
        levels: graphs.levels(&held),
        held,
    }
}

/// Checks that `participants` can run together and says in which order they start, as [`Plan::levels`].
///
/// # Errors
/// Every missing provider, and one shortest path for every group of plugins that depend on each other in a circle.
pub fn check_dependencies(participants: &[Participant]) -> Result<Vec<Vec<usize>>, Vec<DependencyFault>> {
    let graphs = Graphs::new(participants);
    let missing = graphs.missing.iter().map(|(_, fault)| fault.clone());
    let faults: Vec<_> = missing
        .chain(graphs.knots().into_iter().map(|(_, fault)| fault))
        .collect();
    if faults.is_empty() {
        Ok(graphs.levels(&BTreeMap::new()))
    } else {
        Err(faults)
    }
}

/// A plugin, and in the call graph one of its methods.
struct Node {
    participant: usize,
    method: Option<Method>,
}

/// Which requirement of which participant made an edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    participant: usize,
    need: usize,
}

type Graph = DiGraph<Node, Cause>;

struct Graphs<'p> {
    participants: &'p [Participant],
    calls: Graph,
    starts: Graph,
    missing: Vec<(usize, DependencyFault)>,
}

// === impl Graphs ===

impl<'p> Graphs<'p> {
    fn new(participants: &'p [Participant]) -> Self {
        let (mut calls, mut starts) = (Graph::new(), Graph::new());
        let mut start_nodes = Vec::new();
        let mut call_nodes: Vec<BTreeMap<&Method, NodeIndex>> = Vec::new();
        for (participant, it) in participants.iter().enumerate() {
            start_nodes.push(starts.add_node(Node {
                participant,
                method: None,
            }));
            let mut add = |method: &'p Method| {
                (
                    method,
                    calls.add_node(Node {
                        participant,
                        method: Some(method.clone()),
                    }),
                )
            };
            call_nodes.push(it.provides.iter().map(&mut add).collect());
        }
        let mut missing = Vec::new();
        for (participant, it) in participants.iter().enumerate() {
            for (index, need) in it.requires.iter().enumerate() {
                let cause = Cause {
                    participant,
                    need: index,
                };
                let (met, unmet) = providers(participants, need);
                if met.is_empty() && need.is_hard() {
                    missing.push((participant, it.missing(need, unmet)));
                }
                if !need.is_hard() {
                    continue;
                }
                for provider in met.into_iter().filter(|provider| *provider != participant) {
                    // Two requirements may lead to the same plugin, and cutting one leaves the other.
                    starts.add_edge(start_nodes[participant], start_nodes[provider], cause);
                    let callers = call_nodes[participant]
                        .iter()
                        .filter(|(method, _)| need.is_from(method));
                    let callers: Vec<NodeIndex> = callers.map(|(_, node)| *node).collect();
                    for (_, called) in call_nodes[provider]
                        .iter()
                        .filter(|(method, _)| need.calls(method))
                    {
                        for caller in &callers {
                            calls.add_edge(*caller, *called, cause);
                        }
                    }
                }
            }
        }
        Self {
            participants,
            calls,
            starts,
            missing,
        }
    }

    /// Every group of plugins that wait for each other, and what is wrong with it. Where their calls go in a circle, that is what is
    /// told: it has the methods.
    fn knots(&self) -> Vec<(Vec<usize>, DependencyFault)> {
        let calls = cycles(&self.calls);
        let knot = |(group, start_cycle): (Vec<NodeIndex>, Vec<_>)| {
            let members: Vec<usize> = group.iter().map(|it| self.starts[*it].participant).collect();
            let inside = |nodes: &[NodeIndex]| members.contains(&self.calls[nodes[0]].participant);
            let shortest = calls
                .iter()
                .filter(|(nodes, _)| inside(nodes))
                .min_by_key(|(_, cycle)| cycle.len());
            let (causes, smallest) = smallest_cut(&self.starts, &group);
            let cut = Cut {
                requirements: causes.iter().map(|cause| self.hop(None, *cause)).collect(),
                smallest,
            };
            let fault = match shortest {
                Some((_, cycle)) => DependencyFault::CallCycle {
                    hops: self.hops(&self.calls, cycle),
                    cut,
                },
                None => DependencyFault::StartCycle {
                    hops: self.hops(&self.starts, &start_cycle),
                    cut,
                },
            };
            (members, fault)
        };
        cycles(&self.starts).into_iter().map(knot).collect()
    }

    /// Who is held because everybody who provides for it is.
    fn held_by(&self, held: &BTreeMap<usize, Vec<DependencyFault>>) -> BTreeMap<usize, Vec<DependencyFault>> {
        let mut more: BTreeMap<usize, Vec<DependencyFault>> = BTreeMap::new();
        for (index, it) in self.participants.iter().enumerate() {
            if held.contains_key(&index) {
                continue;
            }
            for need in it.requires.iter().filter(|it| it.is_hard()) {
                let (met, _) = providers(self.participants, need);
                if !met.is_empty() && met.iter().all(|it| held.contains_key(it)) {
                    let providers = met.iter().map(|it| self.participants[*it].address());
                    more.entry(index).or_default().push(DependencyFault::Held {
                        plugin: it.address(),
                        service: need.target(),
                        range: need.range.clone(),
                        place: need.place.clone(),
                        providers: providers.collect(),
                    });
                }
            }
        }
        more
    }

    /// Kahn's levels: first those that need nobody. What is held is left out, and so is whatever depends on it alone.
    fn levels(&self, held: &BTreeMap<usize, Vec<DependencyFault>>) -> Vec<Vec<usize>> {
        let starts = |node: &NodeIndex| !held.contains_key(&self.starts[*node].participant);
        let needs = |node: NodeIndex| self.starts.neighbors(node).filter(starts).count();
        let nodes = self.starts.node_indices().filter(starts);
        let mut waiting: BTreeMap<NodeIndex, usize> = nodes.map(|node| (node, needs(node))).collect();
        let mut levels = Vec::new();
        while !waiting.is_empty() {
            let ready: Vec<NodeIndex> = waiting
                .iter()
                .filter(|(_, needs)| **needs == 0)
                .map(|(node, _)| *node)
                .collect();
            assert!(
                !ready.is_empty(),
                "a graph without cycles has a node that needs nobody"
            );
            for node in &ready {
                waiting.remove(node);
                for dependent in self
                    .starts
                    .neighbors_directed(*node, petgraph::Direction::Incoming)
                {
                    if let Some(needs) = waiting.get_mut(&dependent) {
                        *needs -= 1;
                    }
                }
            }
            levels.push(ready.iter().map(|node| self.starts[*node].participant).collect());
        }
        levels
    }

    fn hops(&self, graph: &Graph, cycle: &[EdgeIndex]) -> Vec<Hop> {
        let hop = |edge: &EdgeIndex| {
            let (from, _) = graph
                .edge_endpoints(*edge)
                .expect("the cycle is made of this graph's edges");
            self.hop(graph[from].method.as_ref(), graph[*edge])
        };
        cycle.iter().map(hop).collect()
    }

    fn hop(&self, method: Option<&Method>, cause: Cause) -> Hop {
        let participant = &self.participants[cause.participant];
        let need = &participant.requires[cause.need];
        let from = match method {
            Some(method) => format!("{} {method}", participant.address()),
            None => participant.address(),
        };
        Hop {
            from,
            service: Arc::clone(&need.service),
            range: need.range.clone(),
            place: need.place.clone(),
        }
    }
}

// === impl Participant and Need ===

impl Participant {
    /// `name@version`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Whether it provides what is needed, in an accepted version.
    #[must_use]
    pub fn meets(&self, need: &Need) -> bool {
        need.range.matches(&self.version) && self.provides.iter().any(|method| need.calls(method))
    }

    fn missing(&self, need: &Need, provided: Vec<String>) -> DependencyFault {
        DependencyFault::Missing {
            plugin: self.address(),
            service: need.target(),
            range: need.range.clone(),
            place: need.place.clone(),
            provided,
        }
    }
}

impl Need {
    /// Whether its plugin cannot start before a provider serves.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        !self.optional && !self.lazy
    }

    /// `package.Service`, or `package.Service/Method` of one method.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.method {
            Some(method) => format!("{}/{method}", self.service),
            None => self.service.to_string(),
        }
    }

    /// Whether `method` is one of those it calls.
    #[must_use]
    pub fn calls(&self, method: &Method) -> bool {
        method.service == self.service && self.method.as_ref().is_none_or(|name| *name == method.name)
    }

    fn is_from(&self, method: &Method) -> bool {
        self.from.as_ref().is_none_or(|from| from == method)
    }
}

/// Who provides what is needed in an accepted version, and the addresses of those in another.
pub(crate) fn providers(participants: &[Participant], need: &Need) -> (Vec<usize>, Vec<String>) {
    let (mut met, mut unmet) = (Vec::new(), Vec::new());
    for (index, it) in participants.iter().enumerate() {
        if it.provides.iter().any(|method| need.calls(method)) {
            if need.range.matches(&it.version) {
                met.push(index);
            } else {
                unmet.push(it.address());
            }
        }
    }
    (met, unmet)
}

// === messages ===

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} -> `{}` {}{}",
            self.from,
            self.service,
            self.range,
            at(&self.place)
        )
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.requirements.len() == 1;
        let what = match (one, self.smallest) {
            (true, _) => "mark this requirement `lazy = true`, or remove it",
            (false, true) => "mark these requirements `lazy = true`, or remove them; no smaller set will do",
            (false, false) => "mark these requirements `lazy = true`, or remove them; a smaller set may do",
        };
        write!(f, "{what}: ")?;
        for (index, hop) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{hop}")?;
        }
        Ok(())
    }
}

fn at(place: &Option<String>) -> String {
    place
        .as_ref()
        .map(|place| format!(" ({place})"))
        .unwrap_or_default()
}

fn who_provides(providers: &[String]) -> String {
    if providers.is_empty() {
        "no plugin provides it".to_owned()
    } else {
        format!("only {} provides it", providers.join(", "))
    }
}

fn path(hops: &[Hop]) -> String {
    let mut text: String = hops.iter().map(|hop| format!("{hop}, provided by ")).collect();
    text.push_str(hops.first().map_or("", |first| &first.from));
    text
}
