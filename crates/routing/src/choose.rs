//! Header rules, and weight by a sticky key.

use std::{fmt, sync::Arc};

use semver::Version;

/// Sends calls with certain headers to one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How explanations call it.
    pub name: Arc<str>,
    /// All of these must match. A rule without any matches every call.
    pub headers: Vec<HeaderMatch>,
    /// Name of the provider it sends to.
    pub provider: Arc<str>,
    /// Version of the provider; `None` takes the newest.
    pub version: Option<Version>,
}

/// What one header must be. Names are compared without case, values byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderMatch {
    /// The header has this value.
    Exact {
        /// The header's name.
        name: Arc<str>,
        /// Its whole value.
        value: Arc<str>,
    },
    /// The header's value begins with this.
    Prefix {
        /// The header's name.
        name: Arc<str>,
        /// The beginning of its value.
        prefix: Arc<str>,
    },
}

/// What spreads calls over providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'k> {
    /// Calls with the same bytes stay together, across hosts and restarts: a user's id, a session.
    Sticky(&'k [u8]),
    /// Any number that differs from call to call: a counter will do.
    Spread(u64),
}

/// Why a provider was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It was the only candidate.
    Only,
    /// This rule matched.
    Rule(Arc<str>),
    /// The key fell to it, at `weight` of `total`.
    Weight {
        /// The provider's weight.
        weight: u32,
        /// The sum over all candidates.
        total: u64,
    },
}

// === impl Rule ===

impl Rule {
    /// Whether a call with `headers` is meant.
    #[must_use]
    pub fn matches(&self, headers: &[(&str, &str)]) -> bool {
        self.headers.iter().all(|wanted| wanted.matches(headers))
    }
}

// === impl HeaderMatch ===

impl HeaderMatch {
    /// Whether one of `headers` is what is wanted.
    #[must_use]
    pub fn matches(&self, headers: &[(&str, &str)]) -> bool {
        let (name, value_matches): (_, &dyn Fn(&str) -> bool) = match self {
            Self::Exact { name, value } => (name, &|found| found == &**value),
            Self::Prefix { name, prefix } => (name, &|found| found.starts_with(&**prefix)),
        };
        headers
            .iter()
            .any(|(found, value)| found.eq_ignore_ascii_case(name) && value_matches(value))
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { name, value } => write!(f, "`{name}` is `{value}`"),
            Self::Prefix { name, prefix } => write!(f, "`{name}` begins with `{prefix}`"),
        }
    }
}

// === impl Key ===

impl Key<'_> {
    /// A number for this key and one provider, spread evenly. It must never change: sticky keys would move on every upgrade.
    pub(crate) fn hash_with(self, salt: &str, version: &Version) -> u64 {
        let mut hash = Fnv::default();
        match self {
            Self::Sticky(bytes) => {
                hash.bytes(b"k");
                hash.bytes(bytes);
            }
            Self::Spread(number) => {
                hash.bytes(b"n");
                hash.bytes(&number.to_le_bytes());
            }
        }
        hash.bytes(b"\0");
        hash.bytes(salt.as_bytes());
        for part in [version.major, version.minor, version.patch] {
            hash.bytes(&part.to_le_bytes());
        }
        hash.bytes(version.pre.as_bytes());
        hash.finish()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("it is the only candidate"),
            Self::Rule(name) => write!(f, "rule `{name}` sends these headers there"),
            Self::Weight { weight, total } => {
                write!(f, "the call's key fell to it, at weight {weight} of {total}")
            }
        }
    }
}

/// The candidate a key falls to: weighted rendezvous. Each gets `weight / -ln(u)` for its own `u` in (0, 1); the highest wins, so a
/// candidate that comes, goes or changes its weight moves only the keys that it wins or loses.
pub(crate) fn by_weight<C>(candidates: impl IntoIterator<Item = (C, u32, u64)>) -> Option<C> {
    let mut best: Option<(f64, C)> = None;
    for (candidate, weight, hash) in candidates {
        if weight == 0 {
            continue;
        }
        let score = f64::from(weight) / -unit_interval(hash).ln();
        if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `hash` as a number strictly between 0 and 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64's mantissa exactly")]
fn unit_interval(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// FNV-1a with the finalizer of SplitMix64: tiny, the same everywhere, and even in the high bits.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
