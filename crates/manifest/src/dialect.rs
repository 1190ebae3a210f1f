//! How to speak with an executable that was not made with the SDK: `[variant.go_plugin]`.
//!
//! ```toml
//! [[variant]]
//! runtime = "process"
//! file = "terraform-provider-null"
//! [variant.go_plugin]
//! cookie_key = "TF_PLUGIN_MAGIC_COOKIE"   # what its hosts start it with
//! cookie_value = "d602bf8f.."
//! versions = [5, 6]                       # of its application's protocol
//! auto_mtls = true                        # default; false for plugins before go-plugin 1.0
//! multiplex = false                       # default; true needs go-plugin 1.6
//! sha256 = "9f86d0.."                     # optional: the executable's, checked before it runs
//! ```
//! How long its start may take is `start_ms` in `[limits]`, as for every plugin.

use std::fmt::Write as _;

use crate::{
    name::clip,
    reader::{Faults, Fields, Text},
};

/// A protocol that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// HashiCorp's go-plugin.
    GoPlugin(GoPlugin),
}

/// What a go-plugin plugin's hosts know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoPlugin {
    /// Name of the variable that tells the plugin that a host started it.
    pub cookie_key: String,
    /// Its value.
    pub cookie_value: String,
    /// Versions of its application's protocol that may be spoken; at least one.
    pub versions: Vec<u32>,
    /// Whether both sides prove who they are. Costs some ten milliseconds at the start and a few microseconds a call.
    pub auto_mtls: bool,
    /// Whether connections of the broker share the first one.
    pub multiplex: bool,
    /// SHA-256 of the executable, if it is pinned beside its digest.
    pub sha256: Option<[u8; 32]>,
}

/// More versions are no list of versions.
const VERSIONS_MAX: usize = 64;

// === impl GoPlugin ===

impl GoPlugin {
    pub(crate) fn read(mut fields: Fields<'_>, faults: &mut Faults) -> Option<Self> {
        let key = fields.required_string("cookie_key", "cookie_key = \"BASIC_PLUGIN\"", faults);
        let key = key.and_then(|text| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            checked(
                &text,
                !text.value.is_empty() && text.value.chars().all(plain),
                "a variable's name",
                "write the name that the plugin's own hosts use: letters, digits and `_`",
                faults,
            )
        });
        let value = fields.required_string("cookie_value", "cookie_value = \"hello\"", faults);
        let value = value.and_then(|text| {
            let fits = !text.value.is_empty() && !text.value.contains('\0');
            checked(
                &text,
                fits,
                "a variable's value",
                "write the value that the plugin's own hosts use: at least one character, and no zero byte",
                faults,
            )
        });
        if !fields.contains("versions") {
            fields.missing("versions", "versions = [1]", faults);
        }
        let versions = fields.integers("versions", VERSIONS_MAX, faults);
        let auto_mtls = fields.boolean("auto_mtls", faults).unwrap_or(true);
        let multiplex = fields.boolean("multiplex", faults).unwrap_or(false);
        let sha256 = match fields.string("sha256", faults) {
            None => Some(None),
            Some(text) => {
                let digest = from_hex(text.value);
                checked(
                    &text,
                    digest.is_some(),
                    "64 hexadecimal digits",
                    "`sha256sum FILE` prints them",
                    faults,
                )
                .map(|_| digest)
            }
        };
        fields.finish(faults);
        Some(Self {
            cookie_key: key?,
            cookie_value: value?,
            versions: versions?,
            auto_mtls,
            multiplex,
            sha256: sha256?,
        })
    }

    /// The digest as it is written.
    #[must_use]
    pub fn sha256_hex(&self) -> Option<String> {
        self.sha256.map(|digest| {
            digest.iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").expect("a String takes all text");
                text
            })
        })
    }
}

fn checked(text: &Text<'_>, fits: bool, what: &str, hint: &str, faults: &mut Faults) -> Option<String> {
    if fits {
        return Some(text.value.to_owned());
    }
    faults.add(
        text.span.clone(),
        format!("`{}` is not {what}", clip(text.value)),
        Some(hint.to_owned()),
    );
    None
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    // The parser of numbers would take a sign.
    if text.len() != 64 || !text.bytes().all(|it| it.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
pub(crate) mod tests;
