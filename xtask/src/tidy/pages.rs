//! Rules about pages: numbers that users rely on are shown by tests that exist, and changes are told in files that a release can put together.

use std::path::{Path, PathBuf};

use super::{Tree, is_test_code};
use crate::faults::Fault;

const LIMITS: &str = "docs/spec/limits.md";
const CHANGES: &str = "changelog.d";
/// What a change is to a user.
const KINDS: [&str; 5] = ["added", "changed", "fixed", "removed", "security"];
/// Longest text of one change; what needs more belongs into the documentation.
const FRAGMENT_CHARS_MAX: usize = 1000;

/// Every row of the page about limits ends with the test that shows it: `` `crate module::test` ``.
pub(super) fn limits_name_their_tests(tree: &Tree<'_>) -> Vec<Fault> {
    let Some(text) = tree.texts.get(Path::new(LIMITS)) else {
        return Vec::new();
    };
    let fault = |number: usize, message: String| {
        Fault {
        rule: "numbers are shown by tests",
        place: format!("{LIMITS}:{number}"),
        message,
        fix: "end the row with the crate and the path of a test that fails if it is not so, or take the row out".to_owned(),
    }
    };
    let mut faults = Vec::new();
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some((number, line)) = lines.next() {
        let is_heading = lines.peek().is_some_and(|(_, next)| next.starts_with("|--"));
        if !line.starts_with("| ") || is_heading {
            continue;
        }
        let last = line
            .trim_end_matches([' ', '|'])
            .rsplit('|')
            .next()
            .unwrap_or_default()
            .trim();
        let named = last
            .strip_prefix('`')
            .and_then(|it| it.strip_suffix('`')?.split_once(' '));
        match named {
            None => faults.push(fault(
                number,
                format!("`{last}` does not name a crate and a test"),
            )),
            Some((package, test)) if !has_test(tree, package, test) => {
                faults.push(fault(number, format!("`{package}` has no test `{test}`")));
            }
            Some(_) => {}
        }
    }
    faults
}

/// Whether a crate has a function of this name among its tests, or among the cases of the conformance suite, in a file that its path names.
fn has_test(tree: &Tree<'_>, package: &str, test: &str) -> bool {
    let Some(found) = tree.workspace.packages().find(|it| it.name == package) else {
        return false;
    };
    let manifest = tree.workspace.relative(found.manifest()).into_owned();
    let folder = Path::new(&manifest)
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    let mut modules: Vec<&str> = test.split("::").collect();
    let name = modules.pop().unwrap_or_default();
    let is_there = |path: &PathBuf, text: &String| {
        let is_test =
            is_test_code(path) || path.starts_with(folder.join("src/cases")) || text.contains("mod tests {");
        // `http::redirects` is in a file `http.rs`, or below a folder `http`.
        let in_module = |module: &&str| {
            *module == "tests"
                || path
                    .iter()
                    .any(|part| part.to_string_lossy().trim_end_matches(".rs") == *module)
        };
        path.starts_with(&folder)
            && is_test
            && modules.iter().all(in_module)
            && text.contains(&format!("fn {name}("))
    };
    tree.rust().any(|(path, text)| is_there(path, text))
}

/// `changelog.d/<slug>.<kind>.md`, in sentences.
pub(super) fn changes_are_told(tree: &Tree<'_>) -> Vec<Fault> {
    let fault = |path: &Path, message: String| Fault {
        rule: "changes are told",
        place: path.display().to_string(),
        message,
        fix: format!(
            "name it `<slug>.<kind>.md` with a kind of {}, and write a few sentences in the user's words",
            KINDS.join(", ")
        ),
    };
    let fragments = tree.texts.iter().filter(|(path, _)| {
        path.starts_with(CHANGES) && path.file_name().is_some_and(|name| name != "README.md")
    });
    let mut faults = Vec::new();
    for (path, text) in fragments {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_slug = |it: &str| {
            !it.is_empty()
                && it
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        let is_named = match name.split('.').collect::<Vec<_>>()[..] {
            [slug, kind, "md"] => is_slug(slug) && KINDS.contains(&kind),
            _ => false,
        };
        if !is_named {
            faults.push(fault(path, format!("`{name}` says no slug or no kind")));
        }
        let text = text.trim();
        if !text.ends_with('.') || text.starts_with('#') || text.chars().count() > FRAGMENT_CHARS_MAX {
            let message =
                format!("it is not one to {FRAGMENT_CHARS_MAX} characters of sentences without a heading");
            faults.push(fault(path, message));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{super::tests::faults, *};

    #[test]
    fn finds_numbers_that_no_test_shows() {
        let page = "| what | shown by |\n|---|---|\n| a | `xtask tidy::pages::finds_numbers_that_no_test_shows` |\n| b | soon |\n\
                    | c | `nobody a::b` |\n";
        let places = faults(limits_name_their_tests, LIMITS, page);
        assert_eq!(
            places,
            [3, 4, 5].map(|line| format!("{LIMITS}:{line}")),
            "of the tree there is only the page"
        );
        let workspace = crate::workspace::Workspace::find().expect("the tests run in the workspace");
        let texts = workspace.texts().expect("they can be listed");
        let tree = Tree {
            workspace: &workspace,
            texts,
        };
        for (package, test, expected) in [
            ("mortise-host", "http::redirects_end_after_ten", true),
            ("mortise-conformance", "fault::memory_bomb", true),
            ("mortise-host", "crash::redirects_end_after_ten", false),
            ("mortise-store", "http::redirects_end_after_ten", false),
            ("mortise-host", "http::redirects_end_after", false),
        ] {
            assert_eq!(has_test(&tree, package, test), expected, "{package} {test}");
        }
    }

    #[test]
    fn finds_changes_that_are_not_told() {
        let good = "You can now do it.\n";
        for (name, text, expected) in [
            ("one-thing.added.md", good, 0),
            ("README.md", "# Anything", 0),
            ("one-thing.md", good, 1),
            ("One.added.md", good, 1),
            ("one.improved.md", good, 1),
            ("one.fixed.md", "# Heading\nText.", 1),
            ("one.fixed.md", "", 1),
        ] {
            let found = faults(changes_are_told, &format!("{CHANGES}/{name}"), text);
            assert_eq!(found.len(), expected, "{name}");
        }
    }
}
