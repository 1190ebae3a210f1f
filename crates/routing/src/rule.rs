//! Rules: which calls, by their headers, and where to.
//!
//! Rules are tried in their order, and the first that matches decides. What a call pays for them does not grow with the number of rules that
//! want an exact value: those are found by the values that the call brings ([`RuleSet`]). Rules with a prefix or a pattern only are
//! tried one by one.

use std::{fmt, sync::Arc};

use rustc_hash::FxHashMap;
use semver::Version;

use crate::table::Method;

/// Sends some calls to one provider, or splits them over several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How explanations call it.
    pub name: Arc<str>,
    /// Which calls it is about at all.
    pub scope: Scope,
    /// All of these must match. A rule without any matches every call of its scope.
    pub headers: Vec<HeaderMatch>,
    /// Where they go: to the only one, or by weight to one of those that are there.
    pub to: Vec<Share>,
    /// The header whose value keeps calls of a split together; a call without it goes by its own key.
    pub sticky: Option<Arc<str>>,
}

/// Which calls a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// All.
    #[default]
    All,
    /// Those of one service.
    Service(Arc<str>),
    /// Those of one method.
    Method(Method),
    /// Those that one plugin answers, whatever they name: the rule chooses among its versions, after it is settled which plugin answers.
    Plugin(Arc<str>),
}

/// A provider and its part of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Name of the provider.
    pub provider: Arc<str>,
    /// Its version. `None` is the one that has the plain name, or the newest if none has; of a rule that is not the plugin's own, the plugin's
    /// own rules then choose the version.
    pub version: Option<Version>,
    /// Its part. 0 gets nothing.
    pub weight: u32,
}

/// What one header must be. Names are compared without case, values byte by byte. Of several headers of one name, one is enough.
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
    /// The header's whole value is what a pattern describes.
    Regex {
        /// The header's name.
        name: Arc<str>,
        /// The pattern.
        pattern: Pattern,
    },
    /// The header is there, whatever its value.
    Present {
        /// The header's name.
        name: Arc<str>,
    },
    /// The other does not match; also true of a call without that header.
    Not(Box<HeaderMatch>),
}

/// A regular expression over a whole header value, in the syntax of the crate `regex`, over bytes: `.` and classes are ASCII's. Its time is linear in
/// the value's length, whatever the pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    regex: regex::bytes::Regex,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no pattern: {why}")]
pub struct PatternError {
    text: String,
    why: String,
}

/// Numbers of rules, rising, by the value that they want.
type ByValue = FxHashMap<Arc<str>, Vec<usize>>;

/// Rules of one scope, in their order, found by what a call brings.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    rules: Vec<Arc<Rule>>,
    /// By header, then by value: the numbers of rules that want exactly that, rising.
    exact: Vec<(Arc<str>, ByValue)>,
    /// Numbers of the others, rising.
    rest: Vec<usize>,
}

// === impl Rule ===

impl Rule {
    /// Whether a call of `method` (the name without its service) with `headers` is meant, by a rule whose scope has its service or plugin.
    #[must_use]
    pub fn matches(&self, method: &str, headers: &[(&str, &str)]) -> bool {
        let in_scope = match &self.scope {
            Scope::Method(wanted) => &*wanted.name == method,
            Scope::All | Scope::Service(_) | Scope::Plugin(_) => true,
        };
        in_scope && self.headers.iter().all(|wanted| wanted.matches(headers))
    }

    /// The headers that it looks at.
    pub fn header_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.headers
            .iter()
            .map(HeaderMatch::header)
            .chain(self.sticky.as_ref())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.scope)?;
        for (index, wanted) in self.headers.iter().enumerate() {
            write!(f, "{}{wanted}", if index == 0 { " where " } else { " and " })?;
        }
        for (index, share) in self.to.iter().enumerate() {
            let before = if index == 0 { " to " } else { ", " };
            match self.to.len() {
                1 => write!(f, "{before}{share}")?,
                _ => write!(f, "{before}{share} {}", share.weight)?,
            }
        }
        match &self.sticky {
            Some(header) => write!(f, ", sticky by `{header}`"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all calls"),
            Self::Service(service) => write!(f, "calls of `{service}`"),
            Self::Method(method) => write!(f, "calls of `{method}`"),
            Self::Plugin(name) => write!(f, "calls of plugin `{name}`"),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.provider),
            None => f.write_str(&self.provider),
        }
    }
}

// === impl HeaderMatch ===

impl HeaderMatch {
    /// Whether one of `headers` is what is wanted.
    #[must_use]
    pub fn matches(&self, headers: &[(&str, &str)]) -> bool {
        let any = |name: &str, good: &dyn Fn(&str) -> bool| {
            headers
                .iter()
                .any(|(found, value)| found.eq_ignore_ascii_case(name) && good(value))
        };
        match self {
            Self::Exact { name, value } => any(name, &|found| found == &**value),
            Self::Prefix { name, prefix } => any(name, &|found| found.starts_with(&**prefix)),
            Self::Regex { name, pattern } => any(name, &|found| pattern.matches(found)),
            Self::Present { name } => any(name, &|_| true),
            Self::Not(inner) => !inner.matches(headers),
        }
    }

    /// The header that it looks at.
    #[must_use]
    pub fn header(&self) -> &Arc<str> {
        match self {
            Self::Exact { name, .. }
            | Self::Prefix { name, .. }
            | Self::Regex { name, .. }
            | Self::Present { name } => name,
            Self::Not(inner) => inner.header(),
        }
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { name, value } => write!(f, "`{name}` is `{value}`"),
            Self::Prefix { name, prefix } => write!(f, "`{name}` begins with `{prefix}`"),
            Self::Regex { name, pattern } => write!(f, "`{name}` matches `{}`", pattern.as_str()),
            Self::Present { name } => write!(f, "`{name}` is there"),
            Self::Not(inner) => write!(f, "not ({inner})"),
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// Longest text of a pattern, in bytes.
    pub const TEXT_BYTES_MAX: usize = 1024;
    /// Most memory that a compiled pattern may take, and its cache of states beside it, in bytes.
    const COMPILED_BYTES_MAX: usize = 64 << 10;

    /// Reads a pattern.
    ///
    /// # Errors
    /// If it is too long or none, or would take too much memory.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let fault = |why: String| PatternError {
            text: text.chars().take(80).flat_map(char::escape_debug).collect(),
            why,
        };
        if text.len() > Self::TEXT_BYTES_MAX {
            let (bytes, most) = (text.len(), Self::TEXT_BYTES_MAX);
            return Err(fault(format!("it has {bytes} bytes, and the most are {most}")));
        }
        let build = |text: &str| {
            regex::bytes::RegexBuilder::new(text)
                .unicode(false)
                .size_limit(Self::COMPILED_BYTES_MAX)
                .dfa_size_limit(Self::COMPILED_BYTES_MAX)
                .build()
        };
        // Alone first: what closes a group that it did not open must not close ours.
        match build(text).and_then(|_| build(&format!("^(?:{text})$"))) {
            Ok(regex) => Ok(Self {
                text: text.into(),
                regex,
            }),
            Err(regex::Error::CompiledTooBig(most)) => Err(fault(format!(
                "it would take more than {most} bytes of memory; repeat less"
            ))),
            Err(error) => {
                // The last line has the reason; those before it draw the pattern.
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                Err(fault(last.trim_start_matches("error: ").to_owned()))
            }
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it describes all of `value`.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value.as_bytes())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

// === impl RuleSet ===

impl RuleSet {
    pub(crate) fn of(rules: impl IntoIterator<Item = Arc<Rule>>) -> Self {
        let mut set = Self::default();
        for (number, rule) in rules.into_iter().enumerate() {
            let anchor = rule.headers.iter().find_map(|it| match it {
                HeaderMatch::Exact { name, value } => Some((name, value)),
                _ => None,
            });
            match anchor {
                None => set.rest.push(number),
                Some((name, value)) => {
                    let same = |it: &(Arc<str>, _)| it.0.eq_ignore_ascii_case(name);
                    let place = set.exact.iter().position(same).unwrap_or_else(|| {
                        set.exact.push((Arc::clone(name), FxHashMap::default()));
                        set.exact.len() - 1
                    });
                    let values = &mut set.exact[place].1;
                    values.entry(Arc::clone(value)).or_default().push(number);
                }
            }
            set.rules.push(rule);
        }
        set
    }

    pub(crate) fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The number of the first rule, from `from` on, that matches.
    pub(crate) fn first(&self, from: usize, method: &str, headers: &[(&str, &str)]) -> Option<usize> {
        let mut best = usize::MAX;
        let mut look_at = |numbers: &[usize]| {
            for &number in numbers.iter().filter(|it| **it >= from) {
                if number >= best {
                    break;
                }
                if self.rules[number].matches(method, headers) {
                    best = number;
                    break;
                }
            }
        };
        for (name, values) in &self.exact {
            for (_, value) in headers.iter().filter(|it| it.0.eq_ignore_ascii_case(name)) {
                if let Some(numbers) = values.get(*value) {
                    look_at(numbers);
                }
            }
        }
        look_at(&self.rest);
        (best != usize::MAX).then_some(best)
    }
}
