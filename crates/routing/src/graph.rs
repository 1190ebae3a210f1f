//! Who calls whom, checked before anything starts.
//!
//! Two graphs are made from what plugins provide and require:
//! - The **call graph**: a node per plugin and method, an edge wherever one may call another. A cycle in it can recurse without end.
//! - The **start graph**: the same with all methods of a plugin drawn together. A cycle in it leaves nobody to start first.
//!
//! Not everything that is required is an edge:
//! - A *lazy* requirement: its plugin starts before the provider and calls it when it is there.
//! - An *optional* one: its plugin does without.
//! - One that the plugin itself meets: whether it calls itself is its own affair.
//!
//! Calls over these can come back to where they began; the host bounds how deep calls nest. So a cycle is broken by marking one
//! requirement lazy, and reports say which ones could be.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    fmt,
    sync::Arc,
};

use petgraph::{
    algo::tarjan_scc,
    graph::{DiGraph, EdgeIndex, NodeIndex},
    visit::EdgeRef,
};
use semver::{Version, VersionReq};

use crate::table::Method;

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
    /// Methods call each other in a circle; the shortest such path.
    #[error("calls go in a circle: {}; mark one of these requirements `lazy = true`, or remove it", path(.hops))]
    CallCycle {
        /// The path; the last hop leads to the first.
        hops: Vec<Hop>,
    },
    /// Plugins need each other to be started first; the shortest such path.
    #[error("each waits for the next to start: {}; mark one of these requirements `lazy = true`", path(.hops))]
    StartCycle {
        /// The path; the last hop leads to the first.
        hops: Vec<Hop>,
    },
}

/// Checks that `participants` can run together and says in which order they start: each inner list may start in parallel once the
/// lists before it have started. Indices are those of `participants`; stopping goes the other way round.
///
/// # Errors
/// Every missing provider, and one shortest path for every group of plugins that depend on each other in a circle.
pub fn check_dependencies(participants: &[Participant]) -> Result<Vec<Vec<usize>>, Vec<DependencyFault>> {
    let graphs = Graphs::new(participants);
    let mut faults = graphs.missing.clone();
    let mut in_call_cycle = BTreeSet::new();
    for (nodes, cycle) in cycles(&graphs.calls) {
        in_call_cycle.extend(nodes.iter().map(|node| graphs.calls[*node].participant));
        faults.push(DependencyFault::CallCycle {
            hops: graphs.hops(&graphs.calls, &cycle),
        });
    }
    for (nodes, cycle) in cycles(&graphs.starts) {
        // A circle of calls is also one of starts; it is reported once, with the methods.
        if !nodes
            .iter()
            .any(|node| in_call_cycle.contains(&graphs.starts[*node].participant))
        {
            faults.push(DependencyFault::StartCycle {
                hops: graphs.hops(&graphs.starts, &cycle),
            });
        }
    }
    if faults.is_empty() {
        Ok(levels(&graphs.starts))
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
#[derive(Clone, Copy)]
struct Cause {
    participant: usize,
    need: usize,
}

type Graph = DiGraph<Node, Cause>;

struct Graphs<'p> {
    participants: &'p [Participant],
    calls: Graph,
    starts: Graph,
    missing: Vec<DependencyFault>,
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
                if met.is_empty() && !need.optional {
                    missing.push(it.missing(need, unmet));
                }
                if need.lazy || need.optional {
                    continue;
                }
                for provider in met.into_iter().filter(|provider| *provider != participant) {
                    starts.update_edge(start_nodes[participant], start_nodes[provider], cause);
                    let callers = call_nodes[participant]
                        .iter()
                        .filter(|(method, _)| need.is_from(method));
                    let callers: Vec<NodeIndex> = callers.map(|(_, node)| *node).collect();
                    for (_, called) in call_nodes[provider]
                        .iter()
                        .filter(|(method, _)| need.calls(method))
                    {
                        for caller in &callers {
                            calls.update_edge(*caller, *called, cause);
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

    fn hops(&self, graph: &Graph, cycle: &[EdgeIndex]) -> Vec<Hop> {
        let hop = |edge: &EdgeIndex| {
            let (from, _) = graph
                .edge_endpoints(*edge)
                .expect("the cycle is made of this graph's edges");
            let cause = graph[*edge];
            let need = &self.participants[cause.participant].requires[cause.need];
            let from = match &graph[from].method {
                Some(method) => format!("{} {method}", self.participants[cause.participant].address()),
                None => self.participants[cause.participant].address(),
            };
            Hop {
                from,
                service: Arc::clone(&need.service),
                range: need.range.clone(),
                place: need.place.clone(),
            }
        };
        cycle.iter().map(hop).collect()
    }
}

// === impl Participant and Need ===

impl Participant {
    fn address(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    fn missing(&self, need: &Need, provided: Vec<String>) -> DependencyFault {
        let service = match &need.method {
            Some(method) => format!("{}/{method}", need.service),
            None => need.service.to_string(),
        };
        DependencyFault::Missing {
            plugin: self.address(),
            service,
            range: need.range.clone(),
            place: need.place.clone(),
            provided,
        }
    }
}

impl Need {
    fn is_from(&self, method: &Method) -> bool {
        self.from.as_ref().is_none_or(|from| from == method)
    }

    fn calls(&self, method: &Method) -> bool {
        method.service == self.service && self.method.as_ref().is_none_or(|name| *name == method.name)
    }
}

/// Who provides what is needed in an accepted version, and the addresses of those in another.
fn providers(participants: &[Participant], need: &Need) -> (Vec<usize>, Vec<String>) {
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

// === algorithms ===

/// For every set of nodes that reach each other, the set and the edges of a shortest cycle in it.
fn cycles(graph: &Graph) -> Vec<(Vec<NodeIndex>, Vec<EdgeIndex>)> {
    let mut found: Vec<(Vec<NodeIndex>, Vec<EdgeIndex>)> = Vec::new();
    for mut group in tarjan_scc(graph) {
        // In the order of the participants, so that the same plugins always give the same report.
        group.sort();
        let inside: BTreeSet<NodeIndex> = group.iter().copied().collect();
        let shortest = group
            .iter()
            .filter_map(|start| cycle_through(graph, *start, &inside))
            .min_by_key(Vec::len);
        found.extend(shortest.map(|cycle| (group, cycle)));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// A shortest cycle through `start` that stays inside: breadth first until an edge leads back.
fn cycle_through(graph: &Graph, start: NodeIndex, inside: &BTreeSet<NodeIndex>) -> Option<Vec<EdgeIndex>> {
    let mut came_by: BTreeMap<NodeIndex, EdgeIndex> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for edge in graph.edges(node).filter(|edge| inside.contains(&edge.target())) {
            if edge.target() == start {
                let mut cycle = vec![edge.id()];
                let mut at = node;
                while at != start {
                    let by = came_by[&at];
                    cycle.push(by);
                    at = graph.edge_endpoints(by)?.0;
                }
                cycle.reverse();
                return Some(cycle);
            }
            if let Entry::Vacant(first) = came_by.entry(edge.target()) {
                first.insert(edge.id());
                queue.push_back(edge.target());
            }
        }
    }
    None
}

/// Kahn's levels: first those that need nobody. The graph has no cycle.
fn levels(graph: &Graph) -> Vec<Vec<usize>> {
    let mut waiting: BTreeMap<NodeIndex, usize> = graph
        .node_indices()
        .map(|node| (node, graph.neighbors(node).count()))
        .collect();
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
            for dependent in graph.neighbors_directed(*node, petgraph::Direction::Incoming) {
                if let Some(needs) = waiting.get_mut(&dependent) {
                    *needs -= 1;
                }
            }
        }
        levels.push(ready.iter().map(|node| graph[*node].participant).collect());
    }
    levels
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
