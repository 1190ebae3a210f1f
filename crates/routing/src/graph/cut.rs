//! Cycles, and the smallest set of requirements whose removal leaves none.
//!
//! Finding the smallest set is hard in general (it is the feedback arc set problem), and small in practice. The search takes a shortest
//! cycle that is left, of which at least one requirement must go, and tries each in turn, with one requirement more per round: the
//! first set that it finds is a smallest one. It gives up after [`STEPS_MAX`] steps; then [`greedy_cut`] answers, and says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry};

use petgraph::{
    algo::tarjan_scc,
    graph::{EdgeIndex, NodeIndex},
    visit::EdgeRef,
};

use super::{Cause, Graph};

/// Cycles that the exact search looks at before it gives up. Each costs a walk through the knot: some milliseconds in all.
const STEPS_MAX: usize = 2_000;

/// For every set of nodes that reach each other, the set and the edges of a shortest cycle in it.
pub(super) fn cycles(graph: &Graph) -> Vec<(Vec<NodeIndex>, Vec<EdgeIndex>)> {
    let nothing = BTreeSet::new();
    let mut found: Vec<(Vec<NodeIndex>, Vec<EdgeIndex>)> = Vec::new();
    for mut group in tarjan_scc(graph) {
        // In the order of the participants, so that the same plugins always give the same report.
        group.sort();
        let shortest = shortest_cycle(graph, &group, &nothing);
        found.extend(shortest.map(|cycle| (group, cycle)));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// A shortest cycle among these nodes that needs none of the requirements that were cut.
pub(super) fn shortest_cycle(
    graph: &Graph,
    group: &[NodeIndex],
    cut: &BTreeSet<Cause>,
) -> Option<Vec<EdgeIndex>> {
    let inside: BTreeSet<NodeIndex> = group.iter().copied().collect();
    group
        .iter()
        .filter_map(|start| cycle_through(graph, *start, &inside, cut))
        .min_by_key(Vec::len)
}

/// Requirements without which no cycle is left among these nodes, and whether no smaller set will do.
pub(super) fn smallest_cut(graph: &Graph, group: &[NodeIndex]) -> (Vec<Cause>, bool) {
    let mut steps = STEPS_MAX;
    for size in 1.. {
        let mut cut = BTreeSet::new();
        match search(graph, group, &mut cut, size, &mut steps) {
            Search::Found => return (cut.into_iter().collect(), true),
            Search::NotThere => {}
            Search::GaveUp => break,
        }
    }
    (greedy_cut(graph, group), false)
}

/// How the search for a set of a given size went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    Found,
    NotThere,
    GaveUp,
}

fn search(
    graph: &Graph,
    group: &[NodeIndex],
    cut: &mut BTreeSet<Cause>,
    size: usize,
    steps: &mut usize,
) -> Search {
    if *steps == 0 {
        return Search::GaveUp;
    }
    *steps -= 1;
    let Some(cycle) = shortest_cycle(graph, group, cut) else {
        return Search::Found;
    };
    if cut.len() == size {
        return Search::NotThere;
    }
    for edge in cycle {
        let cause = graph[edge];
        cut.insert(cause);
        match search(graph, group, cut, size, steps) {
            Search::NotThere => {}
            done => return done,
        }
        cut.remove(&cause);
    }
    Search::NotThere
}

/// A set of which no requirement can be left out: of each shortest cycle that is left the requirement goes that makes most edges of
/// the knot; what turns out not to be needed comes back.
pub(super) fn greedy_cut(graph: &Graph, group: &[NodeIndex]) -> Vec<Cause> {
    let inside: BTreeSet<NodeIndex> = group.iter().copied().collect();
    let mut edges: BTreeMap<Cause, usize> = BTreeMap::new();
    for edge in graph.edge_references() {
        if inside.contains(&edge.source()) && inside.contains(&edge.target()) {
            *edges.entry(*edge.weight()).or_default() += 1;
        }
    }
    let mut cut = BTreeSet::new();
    while let Some(cycle) = shortest_cycle(graph, group, &cut) {
        let causes = cycle.iter().map(|edge| graph[*edge]);
        cut.extend(causes.max_by_key(|cause| edges.get(cause).copied().unwrap_or_default()));
    }
    for cause in cut.clone() {
        cut.remove(&cause);
        if shortest_cycle(graph, group, &cut).is_some() {
            cut.insert(cause);
        }
    }
    cut.into_iter().collect()
}

/// A shortest cycle through `start` that stays inside: breadth first until an edge leads back.
fn cycle_through(
    graph: &Graph,
    start: NodeIndex,
    inside: &BTreeSet<NodeIndex>,
    cut: &BTreeSet<Cause>,
) -> Option<Vec<EdgeIndex>> {
    let mut came_by: BTreeMap<NodeIndex, EdgeIndex> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        let edges = graph.edges(node);
        for edge in edges.filter(|edge| inside.contains(&edge.target()) && !cut.contains(edge.weight())) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Node, *};

    /// One requirement per edge.
    fn graph(nodes: usize, edges: &[(usize, usize)]) -> (Graph, Vec<NodeIndex>) {
        let mut graph = Graph::new();
        let nodes: Vec<_> = (0..nodes)
            .map(|participant| {
                graph.add_node(Node {
                    participant,
                    method: None,
                })
            })
            .collect();
        for (need, (from, to)) in edges.iter().enumerate() {
            let cause = Cause {
                participant: *from,
                need,
            };
            graph.add_edge(nodes[*from], nodes[*to], cause);
        }
        (graph, nodes)
    }

    fn smallest_by_trying_all(graph: &Graph, nodes: &[NodeIndex]) -> usize {
        let causes: Vec<Cause> = graph.edge_weights().copied().collect();
        let sets = (0_u32..1 << causes.len()).filter(|set| {
            let chosen = causes
                .iter()
                .enumerate()
                .filter(|(index, _)| set & (1 << index) != 0);
            shortest_cycle(graph, nodes, &chosen.map(|(_, cause)| *cause).collect()).is_none()
        });
        sets.map(u32::count_ones).min().expect("all of them will do") as usize
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_cut_is_one_and_the_exact_one_is_smallest(edges in prop::collection::vec((0_usize..5, 0_usize..5), 1..10)) {
            let edges: Vec<_> = edges.into_iter().filter(|(from, to)| from != to).collect();
            let (graph, nodes) = graph(5, &edges);
            let (exact, smallest) = smallest_cut(&graph, &nodes);
            prop_assert!(smallest, "the search is long enough for these");
            prop_assert_eq!(exact.len(), smallest_by_trying_all(&graph, &nodes));
            for cut in [exact, greedy_cut(&graph, &nodes)] {
                let cut: BTreeSet<Cause> = cut.into_iter().collect();
                prop_assert!(shortest_cycle(&graph, &nodes, &cut).is_none());
                for cause in &cut {
                    let mut less = cut.clone();
                    less.remove(cause);
                    prop_assert!(shortest_cycle(&graph, &nodes, &less).is_some(), "none can be left out");
                }
            }
        }
    }

    #[test]
    fn a_knot_that_is_too_large_is_cut_greedily_and_says_so() {
        // Everybody requires everybody: at least n(n-1)/2 requirements must go.
        let all: Vec<_> = (0..14)
            .flat_map(|a| (0..14).filter(move |b| *b != a).map(move |b| (a, b)))
            .collect();
        let (graph, nodes) = graph(14, &all);
        let (cut, smallest) = smallest_cut(&graph, &nodes);
        assert!(!smallest);
        assert!(cut.len() >= 14 * 13 / 2, "{}", cut.len());
        assert!(shortest_cycle(&graph, &nodes, &cut.into_iter().collect()).is_none());
    }
}
