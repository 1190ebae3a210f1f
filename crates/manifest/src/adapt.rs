//! `[[adapt]]`: what became of an older version of a contract, for callers that were built against it.
//!
//! ```toml
//! [[adapt]]
//! from = "1.0.0"                      # an older version
//! contract = "contract-1.0.0.binpb"   # the `contract.binpb` of its package, kept beside plugin.toml
//! to = "2.0.0"                        # the `from` of another `[[adapt]]`; left out: this version
//! [[adapt.message]]
//! name = "acme.image.v1.Resize"
//! becomes = "acme.image.v1.Fit"       # only if it has another name now
//! fields = { width = "box.width" }    # where a field went; converted if its type is another
//! defaults = { unit = "px" }          # what callers of the old version mean in a field that they do not know
//! drop = ["hint"]                     # not to be sent on: its number means something else now
//! [[adapt.message]]
//! name = "acme.image.v1.Picture"      # where rules are not enough, functions: methods of this or another plugin
//! up = "acme.image.adapt.v1.Picture/Up"      # takes the old message and returns the new one
//! down = "acme.image.adapt.v1.Picture/Down"  # takes the new message and returns the old one
//! ```
//!
//! The rules are read in both directions: a plugin that calls with the new version finds an old provider by the same table. Whether they fit the
//! contracts is checked when a package is read; here it is only what can be said of the text.

use semver::Version;

use crate::{
    Line,
    manifest::{Toml, file_name, service_name},
    name::clip,
    reader::{Faults, Fields, Text},
};

/// `[[adapt]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapt {
    /// The older version.
    pub from: Version,
    /// File name of its descriptor set inside the package's folder; never a path.
    pub contract: String,
    /// The newer version; `None`: the one of the manifest.
    pub to: Option<Version>,
    /// What became of messages.
    pub messages: Vec<AdaptMessage>,
    /// Where it is written.
    pub line: Line,
}

/// `[[adapt.message]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptMessage {
    /// Full name of the message in the older version.
    pub name: String,
    /// Full name in the newer version, if it is another.
    pub becomes: Option<String>,
    /// Paths of fields, in the older message and in the newer.
    pub fields: Vec<(String, String)>,
    /// Names of fields of the newer message, and values.
    pub defaults: Vec<(String, String)>,
    /// Names of fields of the older message.
    pub drop: Vec<String>,
    /// The function from the older message to the newer, as `package.Service/Method`.
    pub up: Option<String>,
    /// The function from the newer message to the older.
    pub down: Option<String>,
}

/// Reads all `[[adapt]]`s of the manifest of `version`.
pub(crate) fn read_all(
    tables: Vec<Fields<'_>>,
    version: Option<&Version>,
    faults: &mut Faults,
) -> Vec<Adapt> {
    let mut all: Vec<Adapt> = Vec::new();
    for fields in tables {
        let span = fields.span.clone();
        let Some(adapt) = read_one(fields, version, faults) else {
            continue;
        };
        if let Some(first) = all.iter().find(|it| it.from == adapt.from && it.to == adapt.to) {
            let message = format!(
                "there are two ways from {} to the same version, the first in line {}",
                adapt.from, first.line.0
            );
            faults.add(
                span,
                message,
                Some("put their rules into one `[[adapt]]`".to_owned()),
            );
        }
        all.push(adapt);
    }
    all
}

/// Writes them as they are read.
pub(crate) fn write_all(all: &[Adapt], out: &mut Toml) {
    for adapt in all {
        out.header("[[adapt]]");
        out.string("from", &adapt.from.to_string());
        out.string("contract", &adapt.contract);
        if let Some(to) = &adapt.to {
            out.string("to", &to.to_string());
        }
        for message in &adapt.messages {
            out.header("[[adapt.message]]");
            out.string("name", &message.name);
            if let Some(becomes) = &message.becomes {
                out.string("becomes", becomes);
            }
            for (key, pairs) in [("fields", &message.fields), ("defaults", &message.defaults)] {
                if !pairs.is_empty() {
                    out.pairs(key, pairs);
                }
            }
            if !message.drop.is_empty() {
                out.strings("drop", &message.drop);
            }
            for (key, target) in [("up", &message.up), ("down", &message.down)] {
                if let Some(target) = target {
                    out.string(key, target);
                }
            }
        }
    }
}

fn read_one(mut fields: Fields<'_>, own: Option<&Version>, faults: &mut Faults) -> Option<Adapt> {
    let line = Line(faults.line_of(&fields.span));
    let from = fields.required_string("from", "from = \"1.0.0\"", faults);
    let from = from.and_then(|text| version(&text, faults));
    let contract = fields.required_string("contract", "contract = \"contract-1.0.0.binpb\"", faults);
    let contract = contract.and_then(|text| file_name(&text, faults));
    let to = match fields.string("to", faults) {
        None => Some(None),
        Some(text) => version(&text, faults).map(Some),
    };
    let to_span = fields.span_of("to");
    let messages = fields.tables("message", faults);
    let messages = messages
        .into_iter()
        .filter_map(|it| read_message(it, faults))
        .collect();
    fields.finish(faults);
    let (from, to) = (from?, to?);
    // The plugin's own version is the one that everything leads to; to name it is the same as to name none.
    let to = to.filter(|it| Some(it) != own);
    let target = to.as_ref().or(own);
    if target == Some(&from) {
        faults.add(to_span, format!("version {from} is to become itself"), None);
        return None;
    }
    Some(Adapt {
        from,
        contract: contract?,
        to,
        messages,
        line,
    })
}

fn read_message(mut fields: Fields<'_>, faults: &mut Faults) -> Option<AdaptMessage> {
    let name = fields.required_string("name", "name = \"acme.image.v1.Resize\"", faults);
    let name = name.and_then(|text| service_name(&text, faults));
    let becomes = match fields.string("becomes", faults) {
        None => Some(None),
        Some(text) => service_name(&text, faults).map(Some),
    };
    let moved = fields.table("fields", faults);
    let moved = moved.map(|it| read_pairs(it, true, faults)).unwrap_or_default();
    let defaults = fields.table("defaults", faults);
    let defaults = defaults
        .map(|it| read_pairs(it, false, faults))
        .unwrap_or_default();
    let drop = fields.strings("drop", faults, |text, faults| {
        path(text, faults);
    });
    let mut function = |key: &'static str, faults: &mut Faults| match fields.string(key, faults) {
        None => Some(None),
        Some(text) => target(&text, faults).map(Some),
    };
    let up = function("up", faults);
    let down = function("down", faults);
    fields.finish(faults);
    Some(AdaptMessage {
        name: name?,
        becomes: becomes?,
        fields: moved,
        defaults,
        drop,
        up: up?,
        down: down?,
    })
}

fn read_pairs(fields: Fields<'_>, to_paths: bool, faults: &mut Faults) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for entry in fields.into_entries() {
        let expected = match to_paths {
            true => "a string, the path of a field; put quotes around a path with dots to its left",
            false => "a string, as protobuf writes a value as text",
        };
        let Some(value) = entry.string(expected, faults) else {
            continue;
        };
        let value_text = Text {
            value,
            span: entry.span(),
        };
        let sound = path(&entry.key, faults) && (!to_paths || path(&value_text, faults));
        if sound {
            pairs.push((entry.key.value.to_owned(), value.to_owned()));
        }
    }
    pairs
}

fn version(text: &Text<'_>, faults: &mut Faults) -> Option<Version> {
    let parsed = Version::parse(text.value);
    if let Err(error) = &parsed {
        let message = format!("`{}` is not a version: {error}", clip(text.value));
        let hint = "write three numbers, such as `1.2.0`";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
    parsed.ok()
}

/// Names of fields with dots between them.
fn path(text: &Text<'_>, faults: &mut Faults) -> bool {
    let sound = text.value.len() <= 512 && text.value.split('.').all(is_name);
    if !sound {
        let message = format!("`{}` is not the path of a field", clip(text.value));
        let hint = "write names of fields with dots between them, such as `address.zip`";
        faults.add(text.span.clone(), message, Some(hint.to_owned()));
    }
    sound
}

fn target(text: &Text<'_>, faults: &mut Faults) -> Option<String> {
    let parts = text.value.split_once('/');
    let sound = parts.is_some_and(|(service, method)| service.split('.').all(is_name) && is_name(method));
    if !sound || text.value.len() > 512 {
        let message = format!("`{}` is not a method", clip(text.value));
        faults.add(
            text.span.clone(),
            message,
            Some("write `package.Service/Method`".to_owned()),
        );
        return None;
    }
    Some(text.value.to_owned())
}

/// As protobuf has it: a letter or `_`, then letters, digits and `_`.
fn is_name(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
