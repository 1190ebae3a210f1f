//! Faults in a text, with their place, and how they are printed.
//!
//! The output is plain text, the same on a terminal, in a log and in a test:
//! ```text
//! error: unknown key `nam` in `[plugin]`
//!   --> plugin.toml:2:1
//!    |
//!  2 | nam = "thumbnailer"
//!    | ^^^
//! hint: did you mean `name`?
//! ```

use std::{error::Error, fmt, ops::Range};

use serde::Serialize;

use crate::{permissions::Permission, reader::span_of_permission};

/// Source lines longer than this are cut around the fault when they are printed, in characters.
const LINE_CHARS_MAX: usize = 120;

/// One fault in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The file, as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong, with the values.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The source line and how many of its characters are meant.
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

/// All faults of one text, in the order of the text; never empty when it is returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    /// Characters before the mark; differs from the column when the line was cut.
    before: usize,
    width: usize,
}

// === impl Diagnostic ===

impl Diagnostic {
    /// A fault that has a file but no better place than its start, such as a file that cannot be read.
    #[must_use]
    pub fn of_file(file: impl Into<String>, message: impl Into<String>, hint: Option<String>) -> Self {
        Self {
            file: file.into(),
            line: 1,
            column: 1,
            message: message.into(),
            hint,
            excerpt: None,
        }
    }

    /// The same without the line that it is about.
    pub(crate) fn without_excerpt(self) -> Self {
        Self {
            excerpt: None,
            ..self
        }
    }

    /// A fault with what `text`, a `plugin.toml`, asks for: it points at the line that declares `permission`, or at the
    /// start of the file if none does.
    #[must_use]
    pub fn of_permission(
        text: &str,
        file: &str,
        permission: &Permission,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        let span = span_of_permission(text, permission).unwrap_or(0..0);
        Source::new(file, text).diagnostic(span, message.into(), hint)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        write!(f, "  --> {}:{}:{}", self.file, self.line, self.column)?;
        if let Some(Excerpt { line, before, width }) = &self.excerpt {
            let number = self.line.to_string();
            let gutter = " ".repeat(number.len() + 2);
            // Tabs stay tabs below the line, so that the mark stands under what it means.
            let indent: String = line
                .chars()
                .take(*before)
                .map(|c| if c == '\t' { c } else { ' ' })
                .collect();
            write!(
                f,
                "\n{gutter}|\n {number} | {line}\n{gutter}| {indent}{}",
                "^".repeat((*width).max(1))
            )?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl Error for Diagnostic {}

// === impl Diagnostics ===

impl Diagnostics {
    /// The faults.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A text with its name; turns byte ranges into diagnostics.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    file: String,
    text: String,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
}

impl Source {
    pub(crate) fn new(file: &str, text: &str) -> Self {
        let starts = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            lines: std::iter::once(0).chain(starts).collect(),
        }
    }

    /// A fault at `span`. A span that is outside the text or inside a character is moved to the next place before it.
    pub(crate) fn diagnostic(&self, span: Range<usize>, message: String, hint: Option<String>) -> Diagnostic {
        let start = self.boundary(span.start);
        let line_index = self.lines.partition_point(|line| *line <= start) - 1;
        let line_start = self.lines[line_index];
        let line_end = self
            .lines
            .get(line_index + 1)
            .map_or(self.text.len(), |next| next - 1);
        let line = self.text[line_start..line_end].trim_end_matches('\r');
        let start = start.min(line_start + line.len());
        let end = self.boundary(span.end).clamp(start, line_start + line.len());
        let column = self.text[line_start..start].chars().count();
        let width = self.text[start..end].chars().count();
        Diagnostic {
            file: self.file.clone(),
            line: u32::try_from(line_index + 1).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
            message,
            hint,
            excerpt: Some(Excerpt::cut(line, column, width)),
        }
    }

    fn boundary(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        (0..=offset)
            .rev()
            .find(|at| self.text.is_char_boundary(*at))
            .unwrap_or(0)
    }
}

impl Excerpt {
    /// The part of `line` that is worth printing: all of it, or a window around the mark.
    fn cut(line: &str, column: usize, width: usize) -> Self {
        let visible = |c: char| {
            if c == '\t' || !c.is_control() {
                c
            } else {
                '\u{fffd}'
            }
        };
        if line.chars().count() <= LINE_CHARS_MAX {
            return Self {
                line: line.chars().map(visible).collect(),
                before: column,
                width,
            };
        }
        let first = column.saturating_sub(LINE_CHARS_MAX / 2);
        let part: String = line
            .chars()
            .skip(first)
            .take(LINE_CHARS_MAX)
            .map(visible)
            .collect();
        let before = column - first;
        Self {
            width: width.min(part.chars().count().saturating_sub(before)),
            line: part,
            before,
        }
    }
}
