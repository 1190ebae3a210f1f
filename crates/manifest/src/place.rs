//! Where a value stands in a text, by the way to it: faults that are found later than the text is read still have a line and a column.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One step of the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The member of an object, or a table, with this name.
    Member(String),
    /// The item of a list, from 0.
    Item(usize),
}

impl Step {
    /// The steps of `limits.rates[2].name`. A name with a dot in it is taken for two, and leads nowhere.
    #[must_use]
    pub fn all_of(path: &str) -> Vec<Self> {
        let mut steps = Vec::new();
        for part in path.split('.').filter(|it| !it.is_empty()) {
            let (name, items) = part.split_at(part.find('[').unwrap_or(part.len()));
            if !name.is_empty() {
                steps.push(Self::Member(name.to_owned()));
            }
            let items = items.split(['[', ']']).filter_map(|it| it.parse().ok());
            steps.extend(items.map(Self::Item));
        }
        steps
    }
}

/// Line and column, both from 1, of a value in a TOML text; as near as the way leads. `None` if it leads nowhere at all.
#[must_use]
pub fn place_in_toml(text: &str, way: &[Step]) -> Option<(u32, u32)> {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut found: Option<Range<usize>> = None;
    let mut table = Some(root.get_ref());
    let mut value: Option<&Spanned<DeValue<'_>>> = None;
    for step in way {
        let next = match step {
            Step::Member(name) => {
                let member = table.and_then(|it| it.iter().find(|(key, _)| key.get_ref() == name));
                member.map(|(key, value)| (key.span(), value))
            }
            Step::Item(number) => {
                let items = value.and_then(|it| it.get_ref().as_array());
                items.and_then(|it| it.get(*number)).map(|it| (it.span(), it))
            }
        };
        let Some((span, next)) = next else { break };
        found = Some(span);
        value = Some(next);
        table = next.get_ref().as_table();
    }
    found.map(|span| line_and_column(text, span.start))
}

/// The same in a JSON text.
#[must_use]
pub fn place_in_json(text: &str, way: &[Step]) -> Option<(u32, u32)> {
    let mut json = Json {
        bytes: text.as_bytes(),
        at: 0,
    };
    let mut found = None;
    for step in way {
        json.skip_space();
        let Some(at) = json.enter(step) else { break };
        found = Some(at);
    }
    found.map(|at| line_and_column(text, at))
}

fn line_and_column(text: &str, at: usize) -> (u32, u32) {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let number = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
    (number(line), number(column))
}

/// A walk through a JSON text that another reader found sound: of one that is not it finds nothing, or something near.
struct Json<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Json<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|it| it.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Goes to the value that a step leads to. Where that begins: a member with its name.
    fn enter(&mut self, step: &Step) -> Option<usize> {
        let opens = match step {
            Step::Member(_) => b'{',
            Step::Item(_) => b'[',
        };
        if self.peek()? != opens {
            return None;
        }
        self.at += 1;
        for number in 0.. {
            self.skip_space();
            let begins = self.at;
            match (step, self.peek()?) {
                (_, b'}' | b']') => return None,
                (Step::Member(wanted), _) => {
                    let name = self.text()?;
                    self.skip_space();
                    // The colon.
                    self.at += 1;
                    self.skip_space();
                    if name == *wanted {
                        return Some(begins);
                    }
                }
                (Step::Item(wanted), _) if number == *wanted => return Some(begins),
                (Step::Item(_), _) => {}
            }
            self.skip_value()?;
            self.skip_space();
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
        None
    }

    /// A text in its quotes.
    fn text(&mut self) -> Option<String> {
        let begins = self.at;
        if self.peek()? != b'"' {
            return None;
        }
        self.at += 1;
        loop {
            match self.peek()? {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        serde_json::from_slice(self.bytes.get(begins..self.at)?).ok()
    }

    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.text()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b'}' | b']' if depth == 0 => return Some(()),
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_steps() {
        let member = |it: &str| Step::Member(it.to_owned());
        assert_eq!(
            Step::all_of("limits.rates[2][0].name"),
            [
                member("limits"),
                member("rates"),
                Step::Item(2),
                Step::Item(0),
                member("name")
            ]
        );
        assert_eq!(Step::all_of(""), []);
    }

    #[test]
    fn values_are_found_in_toml() {
        let text = "a = 1\n[limits]\nrate = \"x\"\n[[plugin]]\nname = \"p\"\n[[plugin]]\nconfig = { b = [1, { c = 2 }] }\n";
        let place = |path: &str| place_in_toml(text, &Step::all_of(path));
        assert_eq!(place("a"), Some((1, 1)));
        assert_eq!(place("limits.rate"), Some((3, 1)));
        assert_eq!(place("limits.none"), Some((2, 2)), "as near as the way leads");
        assert_eq!(place("plugin[1].config.b[1].c"), Some((7, 22)));
        assert_eq!(place("none"), None);
    }

    #[test]
    fn values_are_found_in_json() {
        let text = "{\n \"a\": {\"x,}\": \"\\\"]\", \"b\": [1, [2],\n  {\"c\": true}]},\n \"d\": null\n}";
        let place = |path: &str| place_in_json(text, &Step::all_of(path));
        assert_eq!(place("a"), Some((2, 2)));
        assert_eq!(place("a.b"), Some((2, 22)));
        assert_eq!(place("a.b[1][0]"), Some((2, 32)));
        assert_eq!(place("a.b[2].c"), Some((3, 4)));
        assert_eq!(place("a.b[7]"), Some((2, 22)), "as near as the way leads");
        assert_eq!(place("d"), Some((4, 2)));
        assert_eq!(place("e"), None);
        for broken in ["", "{", "{\"a", "{\"a\":", "[1,", "{\"b\": [", "\u{e4}"] {
            let _ = place_in_json(broken, &Step::all_of("b[0].c"));
        }
    }
}
