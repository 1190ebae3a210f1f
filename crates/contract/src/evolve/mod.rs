//! Calls between two versions of a contract: what has to be done to the bytes, worked out once, and done without decoding them.
//!
//! [`crate::compat`] says whether two contracts fit. This module goes on where they differ, and ends with a [`Plan`] for one method or with a
//! [`Refusal`] that names every field in the way. In this order:
//!
//! 1. *The same*: the methods' hashes are equal. Bytes pass as they are.
//! 2. *Declared*: of the versions in a [`Lineage`], the caller is nearest to one and the provider to another, and steps lead from the one to the other. Nearest
//!    is the one with the fewest different fields; none, if all is well. What an author said about two versions counts more than what their
//!    descriptors look like: a field that moved looks like one that went and one that came.
//! 3. *Derived*: the contracts fit, or differ in ways that lose nothing. Fields and enum numbers that a reader does not know go through as they are; fields
//!    that a writer does not know get their `(mortise.default)`, also inside embedded messages that are there; numbers and texts that changed
//!    their type are converted, and one that does not fit is an error that names it.
//!
//! From the caller to the version that it is nearest to, and from the last version to the provider, the way is derived.
//!
//! A step is a set of field maps, which a one-pass rewriter follows, or names functions: methods of plugins. Running those is the host's; this
//! module only says where they stand in the chain, which has at most [`CHAIN_MAX`] steps.
//!
//! # What stays as it is
//! - E1: a message for which nothing has to be done is the same bytes, and is not looked at.
//! - E2: in a message that is rewritten, every field that no rule is about keeps its bytes and its order, whether it is known or not.
//! - E3: no value is ever cut off.

mod compile;
mod function;
mod lineage;
mod rewrite;
mod value;
mod wire;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

pub use compile::{Change, Side, What};
pub use function::{Function, Strangers};
pub use lineage::{Lineage, LineageError, MessageMap, Step, VERSIONS_MAX};
pub use rewrite::{AdaptError, DEPTH_MAX, Rewriter};

use crate::{
    Contract, Method, Target,
    compat::{CHAIN_MAX, Rule, Violation},
};
use compile::compile;

/// What has to be done to the calls of one method.
#[derive(Clone, Debug)]
pub struct Plan {
    way: Way,
    request: Vec<Stage>,
    response: Vec<Stage>,
    via: Vec<String>,
    changes: Vec<Change>,
}

/// How a call gets from one contract to the other, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The same contract.
    Same,
    /// Different contracts, and bytes pass as they are.
    Passes,
    /// Defaults are put in front, and nothing else.
    Defaults,
    /// Values are converted, by what the descriptors say alone.
    Converted,
    /// Declared steps are followed.
    Adapted,
}

/// One thing that is done to a message.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Bytes are rewritten.
    Rewrite(Rewriter),
    /// A method of a plugin is called with the bytes, and its reply is what goes on, with what the method did not know of the bytes.
    Function(Function),
}

/// Why there is no plan: everything in the way, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `package.Service/Method`
    pub method: String,
    /// What the contracts have against each other.
    pub violations: Vec<Violation>,
    /// Declared rules and steps that cannot be followed.
    pub faults: Vec<String>,
}

/// The plan for one step, or for none.
#[derive(Default)]
struct Leg {
    request: Vec<Stage>,
    response: Vec<Stage>,
    changes: Vec<Change>,
}

// === impl Plan ===

impl Plan {
    /// How calls of `method`, as `caller` knows it, reach `provider`. `lineages` are what both sides declare.
    ///
    /// It walks over both contracts, which takes from microseconds to milliseconds; a host asks once for each pair.
    ///
    /// # Errors
    /// If they cannot.
    pub fn between(
        caller: &Contract,
        method: &Method,
        provider: &Contract,
        lineages: &[&Lineage],
    ) -> Result<Self, Refusal> {
        let provided = provider.method(method.service(), method.name());
        if provided.is_some_and(|it| it.full_hash() == method.full_hash()) {
            return Ok(Self::of_legs(vec![Leg::default()], Way::Same, Vec::new()));
        }
        let search = Search {
            caller,
            method,
            provider,
            lineages,
        };
        let declared = match search.chain() {
            Some(Ok(plan)) => return Ok(plan),
            Some(Err(refusal)) => refusal.faults,
            None => Vec::new(),
        };
        if declared.is_empty() && provided.is_some_and(|it| it.wire_hash() == method.wire_hash()) {
            // Equal numbers and kinds: no field is missing on either side, so no default is either.
            return Ok(Self::of_legs(vec![Leg::default()], Way::Passes, Vec::new()));
        }
        match direct(caller, method, provider, None) {
            Ok(leg) if declared.is_empty() => {
                let way = leg.way();
                Ok(Self::of_legs(vec![leg], way, Vec::new()))
            }
            // Steps are declared for these two and cannot be followed: what is derived would be less than what the author knows to be necessary.
            Ok(_) => Err(Refusal {
                method: method.target(),
                violations: Vec::new(),
                faults: declared,
            }),
            Err(refusal) => Err(Refusal {
                faults: [refusal.faults, declared].concat(),
                ..refusal
            }),
        }
    }

    fn of_legs(legs: Vec<Leg>, way: Way, via: Vec<String>) -> Self {
        let mut plan = Self {
            way,
            request: Vec::new(),
            response: Vec::new(),
            via,
            changes: Vec::new(),
        };
        for leg in legs {
            plan.request.extend(leg.request);
            // A response comes back the other way.
            plan.response.splice(0..0, leg.response);
            plan.changes.extend(leg.changes);
        }
        plan
    }

    /// How calls get there.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// The versions that calls are taken through, from the caller's on; empty without declared steps.
    #[must_use]
    pub fn via(&self) -> &[String] {
        &self.via
    }

    /// What is done to messages.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether bytes pass as they are, in both directions.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// What is done to requests, in this order.
    #[must_use]
    pub fn request_stages(&self) -> &[Stage] {
        &self.request
    }

    /// What is done to responses, in this order.
    #[must_use]
    pub fn response_stages(&self) -> &[Stage] {
        &self.response
    }

    /// The request as the plugin knows it. Free if nothing is to be done.
    ///
    /// # Errors
    /// What is wrong with it, or which value the plugin's contract cannot hold. Stages that are functions are passed over: whoever has the functions runs the stages himself.
    pub fn request(&self, message: Bytes, bytes_max: usize) -> Result<Bytes, AdaptError> {
        rewritten(&self.request, message, bytes_max)
    }

    /// The response as the caller knows it.
    ///
    /// # Errors
    /// As [`Plan::request`].
    pub fn response(&self, message: Bytes, bytes_max: usize) -> Result<Bytes, AdaptError> {
        rewritten(&self.response, message, bytes_max)
    }

    /// Whether functions of plugins are part of it.
    #[must_use]
    pub fn has_functions(&self) -> bool {
        self.functions().next().is_some()
    }

    /// The functions that are part of it, those for requests first.
    pub fn functions(&self) -> impl Iterator<Item = &Target> {
        let stages = self.request.iter().chain(&self.response);
        stages.filter_map(|it| match it {
            Stage::Function(function) => Some(function.target()),
            Stage::Rewrite(_) => None,
        })
    }
}

/// Every rewriting stage, one after another.
fn rewritten(stages: &[Stage], message: Bytes, bytes_max: usize) -> Result<Bytes, AdaptError> {
    stages.iter().try_fold(message, |message, stage| match stage {
        Stage::Rewrite(rewriter) => rewriter.apply(&message, bytes_max),
        Stage::Function(_) => Ok(message),
    })
}

// === one leg ===

impl Leg {
    fn way(&self) -> Way {
        if self.request.is_empty() && self.response.is_empty() {
            Way::Passes
        } else if self.changes.iter().all(|it| matches!(it.what, What::Default(_))) {
            Way::Defaults
        } else {
            Way::Converted
        }
    }
}

/// From one contract to another without a stop. `step`, with whether the near side is its older version.
fn direct(
    near: &Contract,
    method: &Method,
    far: &Contract,
    step: Option<(&Step, bool)>,
) -> Result<Leg, Refusal> {
    let Some(provided) = far.method(method.service(), method.name()) else {
        return Err(Refusal {
            method: method.target(),
            violations: vec![violation(Rule::RpcNoDelete, method, "a method", "not provided")],
            faults: Vec::new(),
        });
    };
    through(near, method, far, provided, step)
}

/// From one method to another.
fn through(
    near: &Contract,
    method: &Method,
    far: &Contract,
    provided: &Method,
    step: Option<(&Step, bool)>,
) -> Result<Leg, Refusal> {
    let mut violations = Vec::new();
    let streaming = |it| if it { "a stream" } else { "single" };
    for (rule, old, new) in [
        (
            Rule::RpcSameClientStreaming,
            method.client_streaming(),
            provided.client_streaming(),
        ),
        (
            Rule::RpcSameServerStreaming,
            method.server_streaming(),
            provided.server_streaming(),
        ),
    ] {
        if old != new {
            violations.push(violation(rule, method, streaming(old), streaming(new)));
        }
    }
    let mut leg = Leg::default();
    let mut faults = Vec::new();
    let sides = [
        (Side::Request, method.input(), provided.input()),
        (Side::Response, method.output(), provided.output()),
    ];
    for (side, old, new) in sides {
        let stages = match side {
            Side::Request => &mut leg.request,
            Side::Response => &mut leg.response,
        };
        match function(step, side, &old, &new) {
            None => {}
            Some(Ok(target)) if method.client_streaming() || method.server_streaming() => {
                faults.push(format!(
                    "its messages are adapted by the function `{target}`, and functions adapt no messages of streams: a call for each would stand between the two sides; declare field maps in place of the function"
                ));
                continue;
            }
            Some(Ok(target)) => {
                let (writer, reader) = match side {
                    Side::Request => (&old, &new),
                    Side::Response => (&new, &old),
                };
                stages.push(Stage::Function(Function::new(target.clone(), writer, reader)));
                continue;
            }
            Some(Err(fault)) => {
                faults.push(fault);
                continue;
            }
        }
        let maps = step.map(|(step, near_is_older)| (step.messages.as_slice(), near_is_older));
        let paired = old.full_name() == new.full_name()
            || same_shape(&old, &new)
            || maps.is_some_and(|(maps, near_is_older)| {
                let (older, newer) = if near_is_older { (&old, &new) } else { (&new, &old) };
                maps.iter()
                    .any(|it| it.older == older.full_name() && it.newer == newer.full_name())
            });
        if !paired {
            let rule = match side {
                Side::Request => Rule::RpcSameRequestType,
                Side::Response => Rule::RpcSameResponseType,
            };
            let quoted = |name: &str| format!("`{name}`");
            violations.push(violation(
                rule,
                method,
                &quoted(old.full_name()),
                &quoted(new.full_name()),
            ));
            continue;
        }
        let compiled = compile(side, &old, &new, (near, far), maps);
        violations.extend(compiled.violations);
        faults.extend(compiled.faults);
        leg.changes.extend(compiled.changes);
        stages.extend(compiled.rewriter.map(Stage::Rewrite));
    }
    if violations.is_empty() && faults.is_empty() {
        return Ok(leg);
    }
    violations.sort();
    violations.dedup();
    Err(Refusal {
        method: method.target(),
        violations,
        faults,
    })
}

/// The function that turns the message of one side into that of the other, if the step has functions for it.
fn function<'a>(
    step: Option<(&'a Step, bool)>,
    side: Side,
    near: &MessageDescriptor,
    far: &MessageDescriptor,
) -> Option<Result<&'a Target, String>> {
    let (step, near_is_older) = step?;
    let (older, newer) = if near_is_older { (near, far) } else { (far, near) };
    let map = step
        .messages
        .iter()
        .find(|it| it.has_functions() && it.older == older.full_name() && it.newer == newer.full_name())?;
    let writer_is_older = near_is_older == (side == Side::Request);
    let (found, name) = match writer_is_older {
        true => (&map.up, "up"),
        false => (&map.down, "down"),
    };
    Some(found.as_ref().ok_or_else(|| {
        format!(
            "the step {step} has no function `{name}` for `{}`, and the {side} needs one",
            map.older
        )
    }))
}

fn same_shape(one: &MessageDescriptor, other: &MessageDescriptor) -> bool {
    crate::hash::message_wire_hash(one) == crate::hash::message_wire_hash(other)
}

fn violation(rule: Rule, method: &Method, old: &str, new: &str) -> Violation {
    Violation {
        rule,
        path: method.target(),
        old: old.to_owned(),
        new: new.to_owned(),
        advice: rule.advice().to_owned(),
    }
}

// === chains ===

/// A search for declared steps.
struct Search<'a> {
    caller: &'a Contract,
    method: &'a Method,
    provider: &'a Contract,
    lineages: &'a [&'a Lineage],
}

/// A version of one of the lineages.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct At {
    lineage: usize,
    version: usize,
}

/// How far the search came on one way.
struct Trail {
    at: At,
    way: Vec<(usize, At)>,
}

impl Search<'_> {
    /// The shortest chain from the version that the caller is nearest to, to the version that the provider is nearest to. `None` if these are one
    /// and the same, or nothing leads from the one to the other.
    fn chain(&self) -> Option<Result<Plan, Refusal>> {
        let mut refused: Option<Refusal> = None;
        for (lineage, of) in self.lineages.iter().enumerate() {
            if of.is_empty() {
                continue;
            }
            let (Some(start), Some(end)) = (
                self.nearest(lineage, self.caller, true),
                self.nearest(lineage, self.provider, false),
            ) else {
                continue;
            };
            let Some(trail) = self.shortest(start, end) else {
                continue;
            };
            match self.follow(&trail) {
                Ok(plan) => return Some(Ok(plan)),
                Err(refusal) => {
                    refused.get_or_insert(refusal);
                }
            }
        }
        refused.map(Err)
    }

    /// The version of a lineage that differs least from a contract, of those that calls get to (`near`) or from without declared steps.
    fn nearest(&self, lineage: usize, contract: &Contract, near: bool) -> Option<At> {
        let (service, name) = (self.method.service(), self.method.name());
        let own = contract.method(service, name)?;
        let all = 0..self.lineages[lineage].versions.len();
        let mut found: Vec<(usize, At)> = all
            .filter_map(|version| {
                let at = At { lineage, version };
                let there = self.contract(at).1.method(service, name)?;
                Some((distance(own, there), at))
            })
            .collect();
        found.sort_by_key(|it| it.0);
        let reaches = |at: At| {
            let version = self.contract(at).1;
            let Some(there) = version.method(service, name) else {
                return false;
            };
            own.full_hash() == there.full_hash()
                || match near {
                    true => direct(contract, own, version, None).is_ok(),
                    false => direct(version, there, contract, None).is_ok(),
                }
        };
        found.into_iter().map(|it| it.1).find(|at| reaches(*at))
    }

    fn shortest(&self, start: At, end: At) -> Option<Trail> {
        let mut seen = HashSet::from([start]);
        let mut queue = VecDeque::from([Trail {
            at: start,
            way: Vec::new(),
        }]);
        while let Some(trail) = queue.pop_front() {
            if trail.at == end {
                return (!trail.way.is_empty()).then_some(trail);
            }
            if trail.way.len() == CHAIN_MAX {
                continue;
            }
            for (step, next) in self.next(trail.at) {
                if seen.insert(next) {
                    let mut way = trail.way.clone();
                    way.push((step, trail.at));
                    queue.push_back(Trail { at: next, way });
                }
            }
        }
        None
    }

    fn contract(&self, at: At) -> (&str, &Arc<Contract>) {
        let (name, contract) = &self.lineages[at.lineage].versions[at.version];
        (name, contract)
    }

    /// Steps that begin or end at a version; both can be followed.
    fn next(&self, at: At) -> impl Iterator<Item = (usize, At)> {
        let of = self.lineages[at.lineage];
        let here = &of.versions[at.version].0;
        let steps = of.steps.iter().enumerate();
        steps.filter_map(move |(index, step)| {
            let other = match (*step.from == **here, *step.to == **here) {
                (true, _) => &step.to,
                (_, true) => &step.from,
                _ => return None,
            };
            let version = of.versions.iter().position(|it| *it.0 == **other)?;
            let lineage = at.lineage;
            Some((index, At { lineage, version }))
        })
    }

    fn follow(&self, trail: &Trail) -> Result<Plan, Refusal> {
        let first = trail.way.first().map_or(trail.at, |it| it.1);
        let mut legs = vec![direct(self.caller, self.method, self.contract(first).1, None)?];
        let mut via = vec![self.contract(first).0.to_owned()];
        for (index, (step, from)) in trail.way.iter().enumerate() {
            let to = trail.way.get(index + 1).map_or(trail.at, |it| it.1);
            let step = &self.lineages[from.lineage].steps[*step];
            let (name, near) = self.contract(*from);
            let near_is_older = *step.from == *name;
            let method = near
                .method(self.method.service(), self.method.name())
                .ok_or_else(|| self.lost(name))?;
            let (name, far) = self.contract(to);
            let leg = direct(near, method, far, Some((step, near_is_older)));
            legs.push(leg.map_err(|it| Refusal {
                faults: [vec![format!("the step {step} does not lead there")], it.faults].concat(),
                ..it
            })?);
            via.push(name.to_owned());
        }
        let (name, last) = self.contract(trail.at);
        let method = last
            .method(self.method.service(), self.method.name())
            .ok_or_else(|| self.lost(name))?;
        legs.push(direct(last, method, self.provider, None)?);
        Ok(Plan::of_legs(legs, Way::Adapted, via))
    }

    fn lost(&self, version: &str) -> Refusal {
        Refusal {
            method: self.method.target(),
            violations: Vec::new(),
            faults: vec![format!("version `{version}` does not have the method")],
        }
    }
}

/// In how many fields two methods differ: there on one side only, or of another name or type.
fn distance(one: &Method, other: &Method) -> usize {
    if one.full_hash() == other.full_hash() {
        return 0;
    }
    let mut count = 0;
    let mut seen: HashSet<(String, String)> = HashSet::new();
    let mut pending = vec![(one.input(), other.input()), (one.output(), other.output())];
    while let Some((one, other)) = pending.pop() {
        if !seen.insert((one.full_name().to_owned(), other.full_name().to_owned())) {
            continue;
        }
        count += usize::from(one.full_name() != other.full_name());
        count += other
            .fields()
            .filter(|it| one.get_field(it.number()).is_none())
            .count();
        for field in one.fields() {
            let Some(counterpart) = other.get_field(field.number()) else {
                count += 1;
                continue;
            };
            count += usize::from(field.name() != counterpart.name());
            match (field.kind(), counterpart.kind()) {
                (Kind::Message(one), Kind::Message(other)) => pending.push((one, other)),
                (Kind::Enum(one), Kind::Enum(other)) => {
                    count += one.values().len().abs_diff(other.values().len());
                }
                (one, other) => {
                    let same = one == other && same_label(&field, &counterpart);
                    count += usize::from(!same);
                }
            }
        }
    }
    // Options alone differ; it is still not the same.
    count.max(1)
}

fn same_label(one: &FieldDescriptor, other: &FieldDescriptor) -> bool {
    one.is_list() == other.is_list()
}

// === words ===

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "same",
            Self::Passes => "passes",
            Self::Defaults => "defaults",
            Self::Converted => "converted",
            Self::Adapted => "adapted",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.method)?;
        let mut separator = ": ";
        for violation in &self.violations {
            write!(f, "{separator}{violation}")?;
            separator = "; ";
        }
        for fault in &self.faults {
            write!(f, "{separator}{fault}")?;
            separator = "; ";
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
