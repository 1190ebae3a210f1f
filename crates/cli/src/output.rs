//! What people and programs see.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::exit::{Exit, Failure, Fault};

/// Who reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A person.
    #[default]
    Text,
    /// A program: one JSON document per command.
    Json,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    Always,
    Never,
}

/// Where everything is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    color: bool,
}

impl Output {
    pub(crate) fn new(format: Format, color: Color) -> Self {
        let color = match color {
            Color::Auto => {
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
            }
            Color::Always => true,
            Color::Never => false,
        };
        Self { format, color }
    }

    /// Whether to draw progress.
    pub(crate) fn is_interactive(&self) -> bool {
        self.format == Format::Text && io::stderr().is_terminal()
    }

    /// The answer of a command: as JSON, or as the text that `text` makes of it.
    pub(crate) fn answer<T: Serialize>(
        &self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let mut written = match self.format {
            Format::Json => serde_json::to_string(answer)?,
            Format::Text => text(answer),
        };
        if !written.is_empty() && !written.ends_with('\n') {
            written.push('\n');
        }
        self.raw(written.as_bytes())
    }

    /// One of many answers, which come one after another: JSON on a line of its own, or the text that `text` makes of it. False if the reader has
    /// enough.
    pub(crate) fn line<T: Serialize>(
        &self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<bool> {
        let mut written = match self.format {
            Format::Json => serde_json::to_string(answer)?,
            Format::Text => text(answer),
        };
        written.push('\n');
        self.piece(written.as_bytes())
    }

    /// Bytes to standard output. A reader that has enough is no failure.
    pub(crate) fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        self.piece(bytes).map(drop)
    }

    /// A part of what goes to standard output; false if its reader has enough.
    pub(crate) fn piece(&self, bytes: &[u8]) -> anyhow::Result<bool> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            done => Ok(done.map(|()| true)?),
        }
    }

    /// One line about what is going on, for people.
    pub(crate) fn note(&self, line: &str) {
        if self.format == Format::Text {
            eprintln!("{line}");
        }
    }

    /// Prints why a command failed, and says how to exit.
    pub(crate) fn error(&self, error: &anyhow::Error) -> Exit {
        let from_chain;
        let failure = match error.downcast_ref::<Failure>() {
            Some(failure) => failure,
            None => {
                let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
                from_chain = Failure::new(Fault::new(causes.join(": ")));
                &from_chain
            }
        };
        match self.format {
            Format::Json => {
                let document = serde_json::json!({
                    "error": {
                        "kind": failure.kind,
                        "exit": failure.exit.code(),
                        "retryable": failure.retryable,
                        "faults": failure.faults,
                    }
                });
                eprintln!("{document}");
            }
            Format::Text => {
                let all: Vec<_> = failure
                    .faults
                    .iter()
                    .map(|it| self.render(it, "error", "31"))
                    .collect();
                eprintln!("{}", all.join("\n\n"));
                if failure.retryable {
                    eprintln!("{} the same call may be tried again", self.paint("note:", "1;36"));
                }
            }
        }
        failure.exit
    }

    pub(crate) fn render(&self, fault: &Fault, word: &str, color: &str) -> String {
        let mut text = format!(
            "{} {}",
            self.paint(&format!("{word}:"), &format!("1;{color}")),
            fault.message
        );
        if let Some(place) = &fault.place {
            let _ = write!(text, "\n  {} {place}", self.paint("-->", "34"));
        }
        if let Some(excerpt) = &fault.excerpt {
            let _ = write!(text, "\n{excerpt}");
        }
        if let Some(hint) = &fault.hint {
            let _ = write!(text, "\n{} {hint}", self.paint("hint:", "1;36"));
        }
        text
    }

    pub(crate) fn paint(&self, text: &str, code: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Rows under a head, in columns as wide as their widest cell. No trailing blanks.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|at| {
            rows.iter()
                .map(|row| row[at].chars().count())
                .chain([head[at].len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        line.trim_end().to_owned()
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push('\n');
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// `1 KiB`, `3.4 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// `850 ms`, `12 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn ago(ms: u64) -> String {
    match ms / 1000 {
        0 => format!("{ms} ms"),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}
