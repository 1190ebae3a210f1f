//! Reads a TOML table key by key and collects every fault on the way.
//!
//! A reader asks [`Fields`] for the keys it knows and calls [`Fields::finish`] at the end; what was in the table and never
//! asked for is an unknown key. So the list of valid keys is the code that reads them.
//!
//! Bounds: a text has at most [`TEXT_BYTES_MAX`] bytes, a key at most [`KEY_DOTS_MAX`] dots, a report at most [`FAULTS_MAX`]
//! faults. The parser itself bounds how deep values nest.

use std::{fmt::Display, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use toml_parser::lexer::TokenKind;

use crate::{
    diagnostic::{Diagnostic, Diagnostics, Source},
    name::clip,
    permissions::Permission,
    suggest::{nearest, one_of},
};

/// Largest text that is read.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most dots in one key. The parser has no bound of its own for them, and tables are walked and freed recursively.
const KEY_DOTS_MAX: usize = 32;
/// Most faults that are kept; a text with more of them is not helped by reading on.
const FAULTS_MAX: usize = 50;

/// The faults found so far in one text.
pub(crate) struct Faults {
    source: Source,
    found: Vec<Fault>,
    /// Lines that are not shown beside a fault: a secret may stand there.
    hidden: Vec<std::ops::RangeInclusive<u32>>,
    /// Whether the text is not TOML; see [`Faults::missing`].
    broken_syntax: bool,
}

struct Fault {
    /// Byte offset, for the order.
    at: usize,
    diagnostic: Diagnostic,
}

/// One table while it is read.
pub(crate) struct Fields<'a> {
    /// Its dotted path; empty for the whole file.
    path: String,
    /// How messages name it, such as `[plugin]`.
    title: String,
    /// Its header, or all of an inline table.
    pub(crate) span: Range<usize>,
    table: &'a DeTable<'a>,
    asked: Vec<&'static str>,
}

/// A string with its place.
pub(crate) struct Text<'a> {
    pub(crate) value: &'a str,
    pub(crate) span: Range<usize>,
}

/// One pair of a table whose keys are the author's own.
pub(crate) struct Entry<'a> {
    pub(crate) key: Text<'a>,
    path: String,
    value: &'a Spanned<DeValue<'a>>,
}

/// Parses `text` and hands its root table to `read`. The value counts only if no fault was found.
pub(crate) fn read_document<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(Fields<'_>, &mut Faults) -> Option<T>,
) -> Result<T, Diagnostics> {
    let mut faults = Faults {
        source: Source::new(file, text),
        found: Vec::new(),
        hidden: Vec::new(),
        broken_syntax: false,
    };
    if let Err((span, message)) = check_bounds(text) {
        faults.add(span, message, None);
        return Err(faults.into_diagnostics());
    }
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in syntax {
        faults.broken_syntax = true;
        faults.add(error.span().unwrap_or(0..0), error.message().to_owned(), None);
    }
    let fields = Fields {
        path: String::new(),
        title: "the file".to_owned(),
        span: 0..0,
        table: root.get_ref(),
        asked: Vec::new(),
    };
    let value = read(fields, &mut faults);
    match value {
        Some(value) if faults.found.is_empty() => Ok(value),
        _ => Err(faults.into_diagnostics()),
    }
}

/// A whole TOML text as a JSON object. `file` is printed in front of every fault.
///
/// # Errors
/// Every fault in the text, also what JSON has no form for.
pub fn table_to_json(text: &str, file: &str) -> Result<String, Diagnostics> {
    read_document(text, file, |root, faults| {
        let members = root.table.iter();
        let object: serde_json::Map<_, _> = members
            .map(|(key, value)| (key.get_ref().to_string(), to_json(value, faults)))
            .collect();
        Some(serde_json::Value::Object(object).to_string())
    })
}

fn check_bounds(text: &str) -> Result<(), (Range<usize>, String)> {
    if text.len() > TEXT_BYTES_MAX {
        return Err((
            0..0,
            format!(
                "the file has {} bytes, and the most are {TEXT_BYTES_MAX}",
                text.len()
            ),
        ));
    }
    let mut dots = 0;
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Atom | TokenKind::BasicString | TokenKind::LiteralString | TokenKind::Whitespace => {}
            _ => dots = 0,
        }
        if dots > KEY_DOTS_MAX {
            let span = token.span();
            return Err((
                span.start()..span.end(),
                format!("a key has more than {KEY_DOTS_MAX} dots"),
            ));
        }
    }
    Ok(())
}

// === impl Faults ===

impl Faults {
    pub(crate) fn add(&mut self, span: Range<usize>, message: String, hint: Option<String>) {
        if self.found.len() < FAULTS_MAX {
            let at = span.start;
            self.found.push(Fault {
                at,
                diagnostic: self.source.diagnostic(span, message, hint),
            });
        }
    }

    /// The line, from 1, in which `span` begins.
    pub(crate) fn line_of(&self, span: &Range<usize>) -> u32 {
        self.source.diagnostic(span.clone(), String::new(), None).line
    }

    /// Something that should be there is not. Kept back while the text is not TOML: it may well be there, unread.
    fn missing(&mut self, span: Range<usize>, message: String, hint: Option<String>) {
        if !self.broken_syntax {
            self.add(span, message, hint);
        }
    }

    fn into_diagnostics(mut self) -> Diagnostics {
        self.found.sort_by_key(|fault| fault.at);
        let hidden = &self.hidden;
        let shown = |fault: Fault| match hidden.iter().any(|it| it.contains(&fault.diagnostic.line)) {
            true => fault.diagnostic.without_excerpt(),
            false => fault.diagnostic,
        };
        let mut diagnostics: Vec<Diagnostic> = self.found.into_iter().map(shown).collect();
        diagnostics.dedup();
        diagnostics.into_iter().collect()
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// The value of `key`, if it is there. Notes that `key` is a known one.
    fn find(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    pub(crate) fn string(&mut self, key: &'static str, faults: &mut Faults) -> Option<Text<'a>> {
        let value = self.find(key)?;
        as_text(value, &format!("`{key}`"), faults)
    }

    /// A string that must be there; `example` is shown when it is not.
    pub(crate) fn required_string(
        &mut self,
        key: &'static str,
        example: &str,
        faults: &mut Faults,
    ) -> Option<Text<'a>> {
        if !self.contains(key) {
            self.missing(key, example, faults);
        }
        self.string(key, faults)
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether `key` is a list with nothing in it.
    pub(crate) fn is_empty_list(&self, key: &str) -> bool {
        self.table
            .get(key)
            .and_then(|value| value.get_ref().as_array())
            .is_some_and(|array| array.is_empty())
    }

    /// Where the value of `key` stands; the table's own place if it is not there.
    pub(crate) fn span_of(&self, key: &str) -> Range<usize> {
        self.table
            .get(key)
            .map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Has what stands under `key` shown beside no fault: it is a secret, or an author who is wrong about it may have put one there.
    pub(crate) fn hide(&self, key: &str, faults: &mut Faults) {
        if let Some(value) = self.table.get(key) {
            let Range { start, end } = value.span();
            let lines = faults.line_of(&(start..start))..=faults.line_of(&(end..end));
            faults.hidden.push(lines);
        }
    }

    /// Reports that `key` is not there.
    pub(crate) fn missing(&self, key: &str, example: &str, faults: &mut Faults) {
        faults.missing(
            self.span.clone(),
            format!("{} has no `{key}`", self.title),
            Some(format!("add `{example}`")),
        );
    }

    pub(crate) fn boolean(&mut self, key: &'static str, faults: &mut Faults) -> Option<bool> {
        let value = self.find(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            wrong_type(value, &format!("`{key}`"), "true or false", faults);
        }
        boolean
    }

    pub(crate) fn integer<N>(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<N>,
        faults: &mut Faults,
    ) -> Option<N>
    where
        N: TryFrom<i128> + PartialOrd + Copy + Display,
    {
        let value = self.find(key)?;
        as_integer(value, key, range, faults)
    }

    /// A number, whole or not.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<f64>,
        faults: &mut Faults,
    ) -> Option<f64> {
        let value = self.find(key)?;
        let written = match value.get_ref() {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => {
                wrong_type(value, &format!("`{key}`"), "a number", faults);
                return None;
            }
        };
        let number = written.parse().ok().filter(|it| range.contains(it));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            let message = format!("`{key}` is {written}, and it must be from {least} to {most}");
            faults.add(value.span(), message, None);
        }
        number
    }

    /// A list of strings that may repeat, with their places.
    pub(crate) fn texts(&mut self, key: &'static str, faults: &mut Faults) -> Vec<Text<'a>> {
        let Some(value) = self.find(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            wrong_type(value, &format!("`{key}`"), "a list of strings", faults);
            return Vec::new();
        };
        let what = format!("an entry of `{key}`");
        let texts = array.iter();
        texts.filter_map(|item| as_text(item, &what, faults)).collect()
    }

    /// A list of at most `max` numbers, at least one, none twice. `None` if anything is wrong with it, or it is not there.
    pub(crate) fn integers(
        &mut self,
        key: &'static str,
        max: usize,
        faults: &mut Faults,
    ) -> Option<Vec<u32>> {
        let value = self.find(key)?;
        let numbers: Option<Vec<u32>> = value.get_ref().as_array().and_then(|array| {
            let number = |item: &Spanned<DeValue<'_>>| {
                let integer = item.get_ref().as_integer()?;
                u32::from_str_radix(integer.as_str(), integer.radix()).ok()
            };
            array.iter().map(number).collect()
        });
        let numbers = numbers.filter(|numbers| {
            let distinct: std::collections::BTreeSet<_> = numbers.iter().collect();
            (1..=max).contains(&numbers.len()) && distinct.len() == numbers.len()
        });
        if numbers.is_none() {
            let message = format!("`{key}` must be a list of 1 to {max} different numbers, none below 0");
            faults.add(
                value.span(),
                message,
                Some(format!("write a list, such as `{key} = [1, 2]`")),
            );
        }
        numbers
    }

    /// A list of strings, each looked at by `check`, which reports what it finds. Repeated ones are faults.
    pub(crate) fn strings(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
        check: impl Fn(&Text<'a>, &mut Faults),
    ) -> Vec<String> {
        let Some(value) = self.find(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            wrong_type(value, &format!("`{key}`"), "a list of strings", faults);
            return Vec::new();
        };
        let mut strings: Vec<String> = Vec::new();
        for item in array.iter() {
            let Some(text) = as_text(item, &format!("an entry of `{key}`"), faults) else {
                continue;
            };
            let before = faults.found.len();
            check(&text, faults);
            if faults.found.len() > before {
                continue;
            }
            if strings.iter().any(|earlier| earlier == text.value) {
                faults.add(
                    text.span,
                    format!("`{}` is in `{key}` twice", clip(text.value)),
                    None,
                );
                continue;
            }
            strings.push(text.value.to_owned());
        }
        strings
    }

    /// The table under `key`.
    pub(crate) fn table(&mut self, key: &'static str, faults: &mut Faults) -> Option<Fields<'a>> {
        let value = self.find(key)?;
        let path = self.path_of(key);
        let title = if self.path.is_empty() {
            format!("`[{key}]`")
        } else {
            format!("`{path}`")
        };
        Self::enter(value, path, title, faults)
    }

    /// A table that must be there; `example` is shown when it is not.
    pub(crate) fn required_table(
        &mut self,
        key: &'static str,
        example: &str,
        faults: &mut Faults,
    ) -> Option<Fields<'a>> {
        if !self.contains(key) {
            self.missing(&format!("[{key}]"), example, faults);
        }
        self.table(key, faults)
    }

    /// The tables of the list under `key`.
    pub(crate) fn tables(&mut self, key: &'static str, faults: &mut Faults) -> Vec<Fields<'a>> {
        let Some(value) = self.find(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            let what = format!("a list; write `[[{key}]]` for each");
            wrong_type(value, &format!("`{key}`"), &what, faults);
            return Vec::new();
        };
        let enter = |item| Self::enter(item, self.path_of(key), format!("`[[{key}]]`"), faults);
        array.iter().filter_map(enter).collect()
    }

    /// The table under `key` as JSON text.
    pub(crate) fn json(&mut self, key: &'static str, faults: &mut Faults) -> Option<String> {
        let value = self.find(key)?;
        if value.get_ref().as_table().is_none() {
            wrong_type(value, &format!("`{key}`"), "a table", faults);
            return None;
        }
        Some(to_json(value, faults).to_string())
    }

    /// All pairs of a table whose keys are the author's own.
    pub(crate) fn into_entries(self) -> Vec<Entry<'a>> {
        let entry =
            |(key, value): (&'a Spanned<std::borrow::Cow<'a, str>>, &'a Spanned<DeValue<'a>>)| Entry {
                path: self.path_of(key.get_ref()),
                key: Text {
                    value: key.get_ref(),
                    span: key.span(),
                },
                value,
            };
        self.table.iter().map(entry).collect()
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(self, faults: &mut Faults) {
        for key in self.table.keys() {
            if self.asked.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let known = self.asked.iter().copied();
            let hint = match nearest(key.get_ref(), known.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", one_of(known)),
            };
            let message = format!("unknown key `{}` in {}", clip(key.get_ref()), self.title);
            faults.add(key.span(), message, Some(hint));
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn enter(
        value: &'a Spanned<DeValue<'a>>,
        path: String,
        title: String,
        faults: &mut Faults,
    ) -> Option<Fields<'a>> {
        let Some(table) = value.get_ref().as_table() else {
            wrong_type(value, &title, "a table", faults);
            return None;
        };
        Some(Fields {
            path,
            title,
            span: value.span(),
            table,
            asked: Vec::new(),
        })
    }
}

// === impl Entry ===

impl<'a> Entry<'a> {
    /// Where its value stands.
    pub(crate) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// Its value, if that is a table.
    pub(crate) fn table(&self, faults: &mut Faults) -> Option<Fields<'a>> {
        self.value.get_ref().as_table()?;
        Fields::enter(self.value, self.path.clone(), format!("`{}`", self.path), faults)
    }

    /// Its value, which must be a string; `expected` says so.
    pub(crate) fn string(&self, expected: &str, faults: &mut Faults) -> Option<&'a str> {
        let text = self.value.get_ref().as_str();
        if text.is_none() {
            wrong_type(
                self.value,
                &format!("`{}`", clip(self.key.value)),
                expected,
                faults,
            );
        }
        text
    }

    /// Its value, which must be an integer.
    pub(crate) fn integer<N>(&self, range: std::ops::RangeInclusive<N>, faults: &mut Faults) -> Option<N>
    where
        N: TryFrom<i128> + PartialOrd + Copy + Display,
    {
        as_integer(self.value, &clip(self.key.value), range, faults)
    }
}

// === looking up ===

/// Where `text` declares `permission`.
pub(crate) fn span_of_permission(text: &str, permission: &Permission) -> Option<Range<usize>> {
    check_bounds(text).ok()?;
    let (root, _) = DeTable::parse_recoverable(text);
    let mut keys = std::iter::once("permissions").chain(permission.key().split('.'));
    let first = root.get_ref().get(keys.next()?)?;
    let value = keys.try_fold(first, |value, key| value.get_ref().as_table()?.get(key))?;
    match permission.value() {
        None => Some(value.span()),
        Some(wanted) => {
            let mut items = value.get_ref().as_array()?.iter();
            items
                .find(|item| item.get_ref().as_str() == Some(wanted))
                .map(Spanned::span)
        }
    }
}

// === values ===

fn as_text<'a>(value: &'a Spanned<DeValue<'a>>, what: &str, faults: &mut Faults) -> Option<Text<'a>> {
    let text = value.get_ref().as_str();
    if text.is_none() {
        wrong_type(value, what, "a string", faults);
    }
    Some(Text {
        value: text?,
        span: value.span(),
    })
}

fn as_integer<N>(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    range: std::ops::RangeInclusive<N>,
    faults: &mut Faults,
) -> Option<N>
where
    N: TryFrom<i128> + PartialOrd + Copy + Display,
{
    let Some(integer) = value.get_ref().as_integer() else {
        wrong_type(value, &format!("`{key}`"), "an integer", faults);
        return None;
    };
    let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
    let number = number
        .and_then(|number| N::try_from(number).ok())
        .filter(|number| range.contains(number));
    if number.is_none() {
        let message = format!(
            "`{key}` is {}, and it must be from {} to {}",
            integer.as_str(),
            range.start(),
            range.end()
        );
        faults.add(value.span(), message, None);
    }
    number
}

fn wrong_type(value: &Spanned<DeValue<'_>>, what: &str, expected: &str, faults: &mut Faults) {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    faults.add(
        value.span(),
        format!("{what} is {found}, and it must be {expected}"),
        None,
    );
}

/// TOML as JSON: dates become strings; a number that JSON cannot carry is a fault.
fn to_json(value: &Spanned<DeValue<'_>>, faults: &mut Faults) -> serde_json::Value {
    use serde_json::Value;
    match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(boolean) => Value::Bool(*boolean),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(array) => Value::Array(array.iter().map(|item| to_json(item, faults)).collect()),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), to_json(value, faults)))
                .collect(),
        ),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Value::from(number),
            Err(_) => {
                faults.add(
                    value.span(),
                    format!("{} does not fit 64 bits", integer.as_str()),
                    None,
                );
                Value::Null
            }
        },
        DeValue::Float(float) => {
            let number = float
                .as_str()
                .parse::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64);
            number.map_or_else(
                || {
                    let message = format!(
                        "`{}` has no form in JSON, and a plugin's config is JSON",
                        float.as_str()
                    );
                    faults.add(value.span(), message, None);
                    Value::Null
                },
                Value::Number,
            )
        }
    }
}
