//! Subcommand: cargo xtask tidy
//!
//! Rules that no compiler checks. Each is one function from the tracked texts to faults; [`RULES`] lists them all.

mod pages;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    faults::{Fault, report},
    workspace::Workspace,
};

/// Checks the rules.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// What a rule looks at.
struct Tree<'w> {
    workspace: &'w Workspace,
    /// Tracked files by their path from the root.
    texts: BTreeMap<PathBuf, String>,
}

type Rule = fn(&Tree<'_>) -> Vec<Fault>;

const RULES: &[Rule] = &[
    module_docs,
    file_size,
    todo_kinds,
    lints_are_inherited,
    code_map_is_complete,
    allowances_have_reasons,
    unsafe_is_forbidden,
    no_foreign_paths,
    every_task_says_its_name,
    pages::limits_name_their_tests,
    pages::changes_are_told,
];

/// Lines that a file may have without docs: a build script, a `main` that calls its library.
const UNDOCUMENTED_LINES_MAX: usize = 9;

/// Lines of code a file may have without a word about it.
const LINES_MAX: usize = 1000;

/// Crates that need `unsafe`; every other one forbids it.
const MAY_BE_UNSAFE: &[&str] = &[
    "mortise-abi",
    "mortise-bench",
    "mortise-hazard",
    "mortise-runtime-native",
    "mortise-runtime-wasm",
    "mortise-sdk",
    "mortise-shm",
];

pub(crate) fn run(_: &Args, workspace: &Workspace) -> Result<()> {
    let tree = Tree {
        workspace,
        texts: workspace.texts()?,
    };
    let faults: Vec<Fault> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    report(
        "tidy",
        &format!("{} files, {} rules", tree.texts.len(), RULES.len()),
        faults,
    )
}

// === rules ===

/// Every source file opens with what it is about. Tests say it in their names, and a few lines in their code.
fn module_docs(tree: &Tree<'_>) -> Vec<Fault> {
    let is_exempt = |path: &Path| is_generated(path) || is_include(path) || is_test_code(path);
    let undocumented = |text: &str| !text.starts_with("//!") && text.lines().count() > UNDOCUMENTED_LINES_MAX;
    let fault = |(path, _): (&PathBuf, &String)| Fault {
        rule: "module docs",
        place: format!("{}:1", path.display()),
        message: "the file does not open with `//!`".to_owned(),
        fix: "say in a few sentences what the file is about and why it is as it is".to_owned(),
    };
    tree.rust()
        .filter(|(path, text)| !is_exempt(path) && undocumented(text))
        .map(fault)
        .collect()
}

/// A long file says why it is long.
fn file_size(tree: &Tree<'_>) -> Vec<Fault> {
    let long = tree
        .rust()
        .filter(|(path, _)| !is_generated(path) && !is_test_code(path));
    long.filter_map(|(path, text)| {
        let lines = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .count();
        (lines > LINES_MAX && !text.contains("// tidy: size")).then(|| Fault {
            rule: "file size",
            place: path.display().to_string(),
            message: format!("{lines} lines that are no tests, and the most are {LINES_MAX}"),
            fix: "split it by noun, or write `// tidy: size` and why it is better whole".to_owned(),
        })
    })
    .collect()
}

/// What is left to do says of which kind it is, so that each kind can be counted.
fn todo_kinds(tree: &Tree<'_>) -> Vec<Fault> {
    let kinds = ["coverage", "polish", "security"];
    // Put together here, or this file would be the first to break the rule.
    let (todo, others) = (
        concat!("TO", "DO"),
        [concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")],
    );
    let fault = |path: &Path, number: usize, word: &str| Fault {
        rule: "what is left to do",
        place: format!("{}:{number}", path.display()),
        message: format!("`{word}` without a kind that is counted"),
        fix: format!(
            "finish it, or write {}",
            kinds.map(|kind| format!("`{todo}-{kind}`")).join(", ")
        ),
    };
    let mut faults = Vec::new();
    for (path, number, line) in tree.lines_of(|path| is_rust(path) && !is_generated(path)) {
        for (at, _) in line.match_indices(todo) {
            let rest = &line[at + todo.len()..];
            if is_word_start(line, at)
                && !kinds
                    .iter()
                    .any(|kind| rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(kind)))
            {
                faults.push(fault(path, number, todo));
            }
        }
        for word in others {
            let starts = line
                .match_indices(word)
                .any(|(at, _)| is_word_start(line, at) && is_word_end(line, at + word.len()));
            if starts {
                faults.push(fault(path, number, word));
            }
        }
    }
    faults
}

/// Every crate takes the workspace's lints.
fn lints_are_inherited(tree: &Tree<'_>) -> Vec<Fault> {
    let inherits = |text: &str| {
        let parsed: Option<toml::Table> = text.parse().ok();
        let lints = parsed.as_ref().and_then(|table| table.get("lints"));
        lints
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool)
            == Some(true)
    };
    let mut faults = Vec::new();
    for package in tree.workspace.packages() {
        let place = tree.workspace.relative(package.manifest()).into_owned();
        if !tree
            .texts
            .get(Path::new(&place))
            .is_some_and(|text| inherits(text))
        {
            faults.push(Fault {
                rule: "workspace lints",
                place,
                message: format!("`{}` does not take the workspace's lints", package.name),
                fix: "add `[lints]` with `workspace = true`".to_owned(),
            });
        }
    }
    faults
}

/// ARCHITECTURE.md has a paragraph for every crate, and for no other.
fn code_map_is_complete(tree: &Tree<'_>) -> Vec<Fault> {
    const MAP: &str = "ARCHITECTURE.md";
    let text = tree.texts.get(Path::new(MAP)).map_or("", String::as_str);
    let headings: BTreeMap<&str, usize> = text
        .lines()
        .enumerate()
        .filter_map(|(number, line)| Some((line.strip_prefix("### ")?.trim(), number + 1)))
        .collect();
    let crates: BTreeSet<&str> = tree
        .workspace
        .packages()
        .map(|package| package.name.as_str())
        .collect();
    let absent = crates
        .iter()
        .filter(|name| !headings.contains_key(**name))
        .map(|name| Fault {
            rule: "code map",
            place: MAP.to_owned(),
            message: format!("no heading for the crate `{name}`"),
            fix: format!("add `### {name}` with its invariant and its boundary"),
        });
    let ghosts = headings
        .iter()
        .filter(|(name, _)| !crates.contains(**name))
        .map(|(name, number)| Fault {
            rule: "code map",
            place: format!("{MAP}:{number}"),
            message: format!("there is no crate `{name}`"),
            fix: "remove the paragraph, or correct the name".to_owned(),
        });
    absent.chain(ghosts).collect()
}

/// Whoever switches off a lint says why.
fn allowances_have_reasons(tree: &Tree<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| !is_generated(path)) {
        for start in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
            for (at, _) in text.match_indices(start) {
                let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
                let is_attribute = text[line_start..at].trim().is_empty();
                let attribute = text[at..].split(")]").next().unwrap_or_default();
                if is_attribute && !attribute.contains("reason") {
                    faults.push(Fault {
                        rule: "lints are switched off with a reason",
                        place: format!(
                            "{}:{}",
                            path.display(),
                            text[..at].lines().count() + usize::from(line_start == at)
                        ),
                        message: format!(
                            "`{}` without a reason",
                            attribute.lines().next().unwrap_or_default()
                        ),
                        fix: "write `#[expect(lint, reason = \"..\")]`, or do what the lint says".to_owned(),
                    });
                }
            }
        }
    }
    faults
}

/// `unsafe` stays where it is reviewed.
fn unsafe_is_forbidden(tree: &Tree<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for package in tree
        .workspace
        .packages()
        .filter(|package| !MAY_BE_UNSAFE.contains(&package.name.as_str()))
    {
        let Some(path) = package.root_file() else { continue };
        let place = tree.workspace.relative(path).into_owned();
        if !tree
            .texts
            .get(Path::new(&place))
            .is_some_and(|text| text.contains("#![forbid(unsafe_code)]"))
        {
            faults.push(Fault {
                rule: "unsafe stays where it is reviewed",
                place,
                message: format!("`{}` does not forbid unsafe code", package.name),
                fix: "add `#![forbid(unsafe_code)]` below the crate's docs".to_owned(),
            });
        }
    }
    faults
}

/// No text names a folder of the machine it was written on.
fn no_foreign_paths(tree: &Tree<'_>) -> Vec<Fault> {
    // Put together here, or this file would be the first to break the rule.
    let paths = [
        concat!("/wo", "rk/"),
        concat!("/tm", "p/"),
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
    ];
    let mut faults = Vec::new();
    for (path, number, line) in tree.lines_of(|path| !is_generated(path)) {
        if line.contains("tidy: path") {
            continue;
        }
        for found in paths
            .iter()
            .filter(|found| line.match_indices(**found).any(|(at, _)| is_path_start(line, at)))
        {
            faults.push(Fault {
                rule: "no paths of one machine",
                place: format!("{}:{number}", path.display()),
                message: format!("`{found}` is a folder of one machine"),
                fix: "use a relative path or a temporary directory, or write `tidy: path` and why on the same line".to_owned(),
            });
        }
    }
    faults
}

/// A subcommand's file opens with its command line.
fn every_task_says_its_name(tree: &Tree<'_>) -> Vec<Fault> {
    let tasks = tree
        .rust()
        .filter(|(path, _)| path.parent() == Some(Path::new("xtask/src")));
    let tasks = tasks.filter(|(_, text)| text.contains("pub(crate) fn run(") && text.contains("struct Args"));
    tasks
        .filter_map(|(path, text)| {
            let name = path.file_stem()?.to_str()?;
            let wanted = format!("//! Subcommand: cargo xtask {name}");
            (text.lines().next() != Some(wanted.as_str())).then(|| Fault {
                rule: "tasks say their name",
                place: format!("{}:1", path.display()),
                message: "a subcommand's file does not open with its command line".to_owned(),
                fix: format!("begin it with `{wanted}`"),
            })
        })
        .collect()
}

// === what rules look at ===

impl Tree<'_> {
    fn rust(&self) -> impl Iterator<Item = (&PathBuf, &String)> {
        self.texts.iter().filter(|(path, _)| is_rust(path))
    }

    fn lines_of(&self, wanted: impl Fn(&Path) -> bool) -> impl Iterator<Item = (&Path, usize, &str)> {
        let files = self.texts.iter().filter(move |(path, _)| wanted(path));
        files.flat_map(|(path, text)| {
            text.lines()
                .enumerate()
                .map(|(index, line)| (path.as_path(), index + 1, line))
        })
    }
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Written by a program and compared with its source by a test, or by cargo.
fn is_generated(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "gen")
        || path.file_name().is_some_and(|name| name == "Cargo.lock")
}

/// Snippets that a test compiles as a part of another file.
fn is_include(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str() == "fail" || part.as_os_str() == "fixtures")
}

/// `tests.rs` and everything under a folder `tests`.
pub(crate) fn is_test_code(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs")
        || path.components().any(|part| part.as_os_str() == "tests")
}

/// Every Rust file under `folder`.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if is_rust(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_word_start(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn is_word_end(line: &str, at: usize) -> bool {
    !line[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Whether a path begins here, rather than goes on: `/tmp` but not `target/tmp`.
fn is_path_start(line: &str, at: usize) -> bool {
    !line[..at]
        .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '}' | '>' | ')'))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn faults(rule: Rule, path: &str, text: &str) -> Vec<String> {
        let workspace = Workspace::find().expect("the tests run in the workspace");
        let texts = BTreeMap::from([(PathBuf::from(path), text.to_owned())]);
        let mut places: Vec<String> = rule(&Tree {
            workspace: &workspace,
            texts,
        })
        .into_iter()
        .map(|fault| fault.place)
        .collect();
        places.sort();
        places
    }

    #[test]
    fn finds_files_without_docs() {
        let code = "use std::fmt;\n".repeat(20);
        assert_eq!(
            faults(module_docs, "crates/x/src/a.rs", &code),
            ["crates/x/src/a.rs:1"]
        );
        assert!(
            faults(
                module_docs,
                "crates/x/src/a.rs",
                &format!("//! About this.\n{code}")
            )
            .is_empty()
        );
        assert!(faults(module_docs, "crates/x/src/gen/a.rs", &code).is_empty());
        assert!(faults(module_docs, "plugins/x/build.rs", "fn main() {}\n").is_empty());
    }

    #[test]
    fn finds_long_files() {
        let long = format!("//! Long.\n{}", "let a;\n".repeat(LINES_MAX));
        assert_eq!(faults(file_size, "a.rs", &long).len(), 1);
        assert!(
            faults(
                file_size,
                "a.rs",
                &format!("{long}// tidy: size, it is a table\n")
            )
            .is_empty()
        );
        assert!(faults(file_size, "tests.rs", &long).is_empty());
        let tested = format!("//! Short.\n#[cfg(test)]\n{}", "let a;\n".repeat(LINES_MAX));
        assert!(faults(file_size, "a.rs", &tested).is_empty());
    }

    #[test]
    fn finds_vague_work_left() {
        let (todo, fixme) = (concat!("TO", "DO"), concat!("FIX", "ME"));
        let text = format!(
            "// {todo} later\n// {todo}-polish: later\n// {todo}-whatever\n// {fixme}: this\nMA{todo}S\n"
        );
        assert_eq!(faults(todo_kinds, "a.rs", &text), ["a.rs:1", "a.rs:3", "a.rs:4"]);
    }

    #[test]
    fn finds_allowances_without_a_reason() {
        let text = "#![allow(dead_code)]\nfn a() {}\n    #[expect(\n        unused,\n        reason = \"because\"\n    )]\n#[allow(x)]\n// #[allow(y)]\n";
        assert_eq!(
            faults(allowances_have_reasons, "a.rs", text),
            ["a.rs:1", "a.rs:7"]
        );
    }

    #[test]
    fn finds_paths_of_one_machine() {
        let (work, tmp) = (concat!("/wo", "rk/"), concat!("/tm", "p/"));
        let text = format!("a {work}x\ntarget{tmp}x\n\"{tmp}x\"\n{tmp}x tidy: path, of a guest\n");
        assert_eq!(
            faults(no_foreign_paths, "docs/a.md", &text),
            ["docs/a.md:1", "docs/a.md:3"]
        );
    }

    #[test]
    fn compares_the_code_map_with_the_crates() {
        let workspace = Workspace::find().expect("the tests run in the workspace");
        let headings: String = workspace
            .packages()
            .map(|package| format!("### {}\n", package.name))
            .collect();
        assert!(faults(code_map_is_complete, "ARCHITECTURE.md", &headings).is_empty());
        let ghost = format!("{}### ghost\n", headings.replace("### xtask\n", ""));
        assert_eq!(faults(code_map_is_complete, "ARCHITECTURE.md", &ghost).len(), 2);
    }

    #[test]
    fn tasks_open_with_their_command() {
        let text = "//! Subcommand: cargo xtask a\nstruct Args {}\npub(crate) fn run() {}\n";
        assert!(faults(every_task_says_its_name, "xtask/src/a.rs", text).is_empty());
        assert_eq!(
            faults(every_task_says_its_name, "xtask/src/b.rs", text),
            ["xtask/src/b.rs:1"]
        );
    }
}
