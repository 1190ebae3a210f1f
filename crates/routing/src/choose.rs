//! Weight by a sticky key.

use std::{fmt, sync::Arc};

use semver::Version;

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
    /// This rule matched and names it alone.
    Rule(Arc<str>),
    /// This rule matched, and the key fell to it.
    Split {
        /// The rule.
        rule: Arc<str>,
        /// Its share.
        weight: u32,
        /// The sum over all shares that are there.
        total: u64,
        /// The header whose value was the key, if the call had it.
        sticky: Option<Arc<str>>,
    },
    /// The key fell to it, at `weight` of `total`.
    Weight {
        /// The provider's weight.
        weight: u32,
        /// The sum over all candidates.
        total: u64,
    },
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
            Self::Rule(name) => write!(f, "rule `{name}` sends this call there"),
            Self::Split {
                rule,
                weight,
                total,
                sticky: Some(header),
            } => write!(
                f,
                "rule `{rule}` splits these calls, and the value of `{header}` fell to it, at {weight} of {total}"
            ),
            Self::Split {
                rule, weight, total, ..
            } => write!(
                f,
                "rule `{rule}` splits these calls, and this one fell to it, at {weight} of {total}"
            ),
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
