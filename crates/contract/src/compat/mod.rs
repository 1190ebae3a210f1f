//! May the one that calls and the one that answers talk to each other?
//!
//! The consumer's contract is the old one and the provider's the new one: the usual reason for a difference is that the provider moved
//! on. Two questions look alike and are not:
//!
//! - [`check`] asks whether the provider's contract is a proper successor of the consumer's. It applies every rule of the level, also
//!   those that only keep later versions safe. Builds and registries ask it.
//! - [`bind`] asks whether a call between the two can go wrong. It leaves those rules out, and it looks at hashes first: methods
//!   with equal hashes need no walk. Hosts ask it, through [`Verdicts`], which remembers the answers.
//!
//! # Direction
//!
//! A request is written by the consumer and read by the provider; a response is the reverse. A field may widen on the way from its
//! writer to its reader and may not narrow: `int32` to `int64` passes in a request and fails in a response. That is stricter than buf,
//! which knows no direction and accepts both; a change of sign at the same width passes here as it does there, since no bit is lost.
//!
//! # Verdicts
//!
//! Per method, and for the whole contract the worst of its methods. A method that fails is [`Verdict::Adaptable`] if the provider
//! declares a chain of at most [`CHAIN_MAX`] adapters (`(mortise.replaces)`) that ends at a provided method. Whoever runs the chain
//! compares [`Adapter::accepts`] with the version the consumer was built against; descriptors carry no version of their own.

mod adapt;
mod cache;
pub(crate) mod kinds;
mod rule;
pub(crate) mod walk;

use std::fmt;

use prost_reflect::MessageDescriptor;

pub use adapt::{Adapter, CHAIN_MAX};
pub use cache::Verdicts;
pub use rule::{Level, Rule};

use crate::{Contract, Method};
use walk::Walk;

/// What became of one comparison, from best to worst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same contract: equal full hashes.
    Exact,
    /// Different contracts, and every byte that one writes means to the other what it should.
    WireCompatible,
    /// Calls work if they go through these adapters, in this order.
    Adaptable(Vec<Adapter>),
    /// Calls do not work, for these reasons: all of them, not the first.
    Incompatible(Vec<Violation>),
}

/// One broken rule at one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// `package.Message.field`, `package.Enum.VALUE`, `package.Service/Method` or a file's name, as the consumer knows it.
    pub path: String,
    /// What the consumer's contract says.
    pub old: String,
    /// What the provider's contract says.
    pub new: String,
    /// What to do about it.
    pub advice: String,
}

/// The verdict on one method that the consumer calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodReport {
    /// `package.Service/Method`
    pub target: String,
    /// The verdict on it.
    pub verdict: Verdict,
}

/// The verdicts on every method that the consumer calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The worst of `methods`; adapters and violations of all of them, each once.
    pub verdict: Verdict,
    /// In the consumer's order.
    pub methods: Vec<MethodReport>,
}

/// Which way a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// The consumer writes, the provider reads.
    Request,
    /// The provider writes, the consumer reads.
    Response,
}

/// Whether the provider's contract is a proper successor of the consumer's, by every rule of `level`.
#[must_use]
pub fn check(consumer: &Contract, provider: &Contract, level: Level) -> Report {
    report(
        consumer,
        provider,
        level,
        |_| true,
        |method, provided| {
            // Reservations are in no hash, so even equal methods are walked.
            (method.full_hash() == provided.full_hash()).then_some(Shortcut::WalkThenExact)
        },
    )
}

/// Whether a call between the two can go wrong.
#[must_use]
pub fn bind(consumer: &Contract, provider: &Contract, level: Level) -> Report {
    report(
        consumer,
        provider,
        level,
        Rule::touches_calls,
        |method, provided| {
            if method.full_hash() == provided.full_hash() {
                Some(Shortcut::Exact)
            } else if level == Level::Wire && method.wire_hash() == provided.wire_hash() {
                Some(Shortcut::WireCompatible)
            } else {
                None
            }
        },
    )
}

/// Whether a message that was written under `writer`'s contract can be read under `reader`'s, by the rules that touch what is read.
///
/// For state that a plugin saved and its next version loads. `None` if one of them does not declare the message.
#[must_use]
pub fn check_message(
    writer: &Contract,
    reader: &Contract,
    message: &str,
    level: Level,
) -> Option<Vec<Violation>> {
    let find =
        |contract: &Contract| -> Option<MessageDescriptor> { contract.pool().get_message_by_name(message) };
    let (old, new) = (find(writer)?, find(reader)?);
    let mut walk = Walk::new(level);
    walk.message(&old, &new, Direction::Request);
    Some(walk.finish(Rule::touches_calls))
}

// === impl Verdict ===

impl Verdict {
    /// Whether calls work, if need be through adapters.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !matches!(self, Self::Incompatible(_))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Exact => 0,
            Self::WireCompatible => 1,
            Self::Adaptable(_) => 2,
            Self::Incompatible(_) => 3,
        }
    }

    /// The worse of two, with the adapters or violations of both if they are equally bad.
    fn merge(self, other: Self) -> Self {
        fn union<T: Ord>(mut one: Vec<T>, other: Vec<T>) -> Vec<T> {
            one.extend(other);
            one.sort();
            one.dedup();
            one
        }
        match (self, other) {
            (Self::Adaptable(one), Self::Adaptable(other)) => Self::Adaptable(union(one, other)),
            (Self::Incompatible(one), Self::Incompatible(other)) => Self::Incompatible(union(one, other)),
            (one, other) if one.rank() >= other.rank() => one,
            (_, other) => other,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::WireCompatible => f.write_str("wire compatible"),
            Self::Adaptable(chain) => {
                f.write_str("adaptable through ")?;
                separated(f, chain, ", ")
            }
            Self::Incompatible(violations) => {
                f.write_str("incompatible: ")?;
                separated(f, violations, "; ")
            }
        }
    }
}

// === impl Violation ===

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule,
            path,
            old,
            new,
            advice,
        } = self;
        write!(f, "`{path}` was {old} and is {new} ({rule}): {advice}")
    }
}

/// What hashes alone decide.
enum Shortcut {
    Exact,
    WireCompatible,
    WalkThenExact,
}

fn report(
    consumer: &Contract,
    provider: &Contract,
    level: Level,
    counts: fn(Rule) -> bool,
    shortcut: impl Fn(&Method, &Method) -> Option<Shortcut>,
) -> Report {
    let judge = |method: &Method| {
        let provided = provider.method(method.service(), method.name());
        let hint = provided.and_then(|provided| shortcut(method, provided));
        let clean = match hint {
            Some(Shortcut::Exact) => return Verdict::Exact,
            Some(Shortcut::WireCompatible) => return Verdict::WireCompatible,
            Some(Shortcut::WalkThenExact) => Verdict::Exact,
            None => Verdict::WireCompatible,
        };
        let mut walk = Walk::new(level);
        walk.method(method, provided, provider.pool());
        let violations = walk.finish(counts);
        if violations.is_empty() {
            return clean;
        }
        let chain = violations
            .iter()
            .any(|it| it.rule.touches_calls())
            .then(|| adapt::chain(provider, method));
        chain
            .flatten()
            .map_or(Verdict::Incompatible(violations), Verdict::Adaptable)
    };
    let methods: Vec<MethodReport> = consumer
        .methods()
        .iter()
        .map(|method| MethodReport {
            target: method.target(),
            verdict: judge(method),
        })
        .collect();
    let verdict = methods
        .iter()
        .map(|it| it.verdict.clone())
        .fold(Verdict::Exact, Verdict::merge);
    Report { verdict, methods }
}

fn separated<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], separator: &str) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}
