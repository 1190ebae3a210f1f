//! A small layered layout: a row per level, level 0 at the bottom, lines from who requires down to who provides.
//!
//! 1. Each plugin goes into the row of its level; what cannot start goes into a row of its own at the top, and what nobody provides is drawn
//!    at the bottom.
//! 2. A line over several rows gets a *bend* in each row between, so that it runs between boxes and not through them.
//! 3. A few sweeps up and down put everything near the middle of what it hangs on ([`SWEEPS`]), which also uncrosses most lines.
//!
//! A lazy line may lead up or sideways; it is drawn around the right of both boxes. All sizes are in pixels.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Chart, ChartPlugin, Tie};

const BOX_WIDTH: i32 = 190;
const BOX_HEIGHT: i32 = 46;
/// What a line needs to pass between two boxes.
const BEND_WIDTH: i32 = 16;
const GAP_X: i32 = 28;
const GAP_Y: i32 = 74;
const MARGIN: i32 = 30;
/// Room at the right for lines that go around.
const AROUND: i32 = 40;
const SWEEPS: usize = 6;
/// Characters that fit into a box.
const NAME_CHARS_MAX: usize = 24;

/// What stands in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    Plugin(usize),
    /// What nobody provides, by its place in `Layout::missing`.
    Missing(usize),
    /// Where line `edge` passes.
    Bend {
        edge: usize,
    },
}

struct Layout<'c> {
    chart: &'c Chart,
    missing: Vec<&'c str>,
    /// From the top.
    rows: Vec<Vec<Item>>,
    /// Left edge of each item, as `rows`.
    x: Vec<Vec<i32>>,
    /// Of each line its ends and bends: row, place in the row. Empty for one that goes around.
    lines: Vec<Vec<Item>>,
}

pub(super) fn draw(chart: &Chart) -> String {
    let mut layout = Layout::new(chart);
    for sweep in 0..SWEEPS {
        layout.sweep(sweep % 2 == 0);
    }
    layout.write()
}

// === impl Layout ===

impl<'c> Layout<'c> {
    fn new(chart: &'c Chart) -> Self {
        let levels = chart
            .plugins
            .iter()
            .filter_map(|it| it.level)
            .max()
            .map_or(0, |it| it + 1);
        let is_held = |it: &ChartPlugin| it.level.is_none();
        let held = usize::from(chart.plugins.iter().any(is_held));
        let mut missing: Vec<&str> = Vec::new();
        for edge in chart.requires.iter().filter(|it| it.to.is_none()) {
            if !missing.contains(&edge.target.as_str()) {
                missing.push(&edge.target);
            }
        }
        let count = held + levels + usize::from(!missing.is_empty());
        let mut layout = Self {
            chart,
            missing,
            rows: vec![Vec::new(); count.max(1)],
            x: Vec::new(),
            lines: Vec::new(),
        };
        for (index, plugin) in chart.plugins.iter().enumerate() {
            let row = plugin.level.map_or(0, |level| held + levels - 1 - level);
            layout.rows[row].push(Item::Plugin(index));
        }
        for index in 0..layout.missing.len() {
            layout.rows[count - 1].push(Item::Missing(index));
        }
        for edge in 0..chart.requires.len() {
            let line = layout.line(edge);
            layout.lines.push(line);
        }
        layout.place();
        layout
    }

    /// The ends of a line, with a bend in every row between; nothing for one that does not lead down.
    fn line(&mut self, edge: usize) -> Vec<Item> {
        let (Some(from), Some(to)) = self.ends(edge) else {
            return Vec::new();
        };
        let (Some((top, _)), Some((bottom, _))) = (self.find(from), self.find(to)) else {
            return Vec::new();
        };
        if top >= bottom {
            return Vec::new();
        }
        let bend = Item::Bend { edge };
        for row in &mut self.rows[top + 1..bottom] {
            row.push(bend);
        }
        let mut line = vec![from];
        line.extend((top + 1..bottom).map(|_| bend));
        line.push(to);
        line
    }

    fn ends(&self, edge: usize) -> (Option<Item>, Option<Item>) {
        let edge = &self.chart.requires[edge];
        let plugin = |name: &str| {
            let found = self.chart.plugins.iter().position(|it| it.name == name);
            found.map(Item::Plugin)
        };
        let missing = || {
            let found = self.missing.iter().position(|it| *it == edge.target);
            found.map(Item::Missing)
        };
        (
            plugin(&edge.from),
            edge.to.as_deref().map_or_else(missing, plugin),
        )
    }

    /// Row and place of an item. Bends of one line are in several rows: this finds the first.
    fn find(&self, item: Item) -> Option<(usize, usize)> {
        self.rows.iter().enumerate().find_map(|(row, items)| {
            let place = items.iter().position(|it| *it == item)?;
            Some((row, place))
        })
    }

    /// Lays the rows out as they are ordered now, each in the middle.
    fn place(&mut self) {
        let width = |row: &Vec<Item>| row.iter().map(|it| it.width() + GAP_X).sum::<i32>() - GAP_X;
        let widest = self.rows.iter().map(width).max().unwrap_or_default().max(0);
        self.x = self
            .rows
            .iter()
            .map(|row| {
                let mut at = MARGIN + (widest - width(row)) / 2;
                let mut place = |it: &Item| {
                    let left = at;
                    at += it.width() + GAP_X;
                    left
                };
                row.iter().map(&mut place).collect()
            })
            .collect();
    }

    /// Orders each row by where the other ends of its lines are: those above it on the way down, those below it on the way up.
    fn sweep(&mut self, down: bool) {
        let rows = self.rows.len();
        let order: Vec<usize> = if down {
            (1..rows).collect()
        } else {
            (0..rows.saturating_sub(1)).rev().collect()
        };
        for row in order {
            let other = if down { row - 1 } else { row + 1 };
            let mut pulls: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
            for line in self.lines.iter().filter(|it| !it.is_empty()) {
                let Some((top, _)) = self.find(line[0]) else {
                    continue;
                };
                let at = |row: usize| {
                    let item = line.get(row.checked_sub(top)?)?;
                    self.rows[row].iter().position(|it| it == item)
                };
                if let (Some(place), Some(pulled_to)) = (at(row), at(other)) {
                    let (sum, count) = pulls.entry(place).or_default();
                    *sum += i64::from(self.x[other][pulled_to] + self.rows[other][pulled_to].width() / 2);
                    *count += 1;
                }
            }
            let wish = |place: usize| match pulls.get(&place) {
                Some((sum, count)) => sum / count,
                None => i64::from(self.x[row][place] + self.rows[row][place].width() / 2),
            };
            let mut places: Vec<usize> = (0..self.rows[row].len()).collect();
            places.sort_by_key(|place| (wish(*place), *place));
            self.rows[row] = places.iter().map(|place| self.rows[row][*place]).collect();
            self.place();
        }
    }

    // --- drawing ---

    fn write(&self) -> String {
        let right = |(row, lefts): (&Vec<Item>, &Vec<i32>)| match (row.last(), lefts.last()) {
            (Some(item), Some(left)) => left + item.width(),
            _ => 0,
        };
        let boxes = self.rows.iter().zip(&self.x).map(right).max().unwrap_or_default();
        let width = boxes.max(320) + MARGIN + AROUND;
        let height = 2 * MARGIN + y(self.rows.len()) - GAP_Y + 26;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<title>plugins and what they require</title>\n\
             <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
             <path d=\"M0 0L8 4L0 8z\" fill=\"#555\"/></marker></defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        for edge in 0..self.lines.len() {
            self.write_line(edge, boxes, &mut svg);
        }
        for (row, items) in self.rows.iter().enumerate() {
            for (place, item) in items.iter().enumerate() {
                let (left, top) = (self.x[row][place], MARGIN + y(row));
                match item {
                    Item::Plugin(index) => write_plugin(&self.chart.plugins[*index], left, top, &mut svg),
                    Item::Missing(index) => write_missing(self.missing[*index], left, top, &mut svg),
                    Item::Bend { .. } => {}
                }
            }
        }
        let _ = writeln!(
            svg,
            "<text x=\"{MARGIN}\" y=\"{}\" fill=\"#555\">solid: starts after; dashed: lazy; dotted: optional</text>\n</svg>",
            height - 12
        );
        svg
    }

    fn write_line(&self, edge: usize, boxes: i32, svg: &mut String) {
        let it = &self.chart.requires[edge];
        let dash = match it.tie {
            Tie::Hard => "",
            Tie::Lazy => " stroke-dasharray=\"7 4\"",
            Tie::Optional => " stroke-dasharray=\"2 4\"",
        };
        let path = if self.lines[edge].is_empty() {
            self.around(edge, boxes)
        } else {
            self.down(edge)
        };
        let Some(path) = path else { return };
        let place = it
            .place
            .as_deref()
            .map(|it| format!(" ({it})"))
            .unwrap_or_default();
        let to = it.to.as_deref().unwrap_or("nobody");
        let told = escaped(&format!(
            "{} requires {} {} of {to}, {}{place}",
            it.from,
            it.target,
            it.range,
            it.tie.as_str()
        ));
        let _ = writeln!(
            svg,
            "<path class=\"requires\" d=\"{path}\" fill=\"none\" stroke=\"#555\" stroke-width=\"1.4\"{dash} marker-end=\"url(#tip)\"><title>{told}</title></path>"
        );
    }

    /// From the bottom of one box over the bends to the top of the other.
    fn down(&self, edge: usize) -> Option<String> {
        let line = &self.lines[edge];
        let (top, _) = self.find(line[0])?;
        let mut path = String::new();
        let mut from = (0, 0);
        for (step, item) in line.iter().enumerate() {
            let row = top + step;
            let place = self.rows[row].iter().position(|it| it == item)?;
            let x = self.x[row][place] + item.width() / 2;
            let upper = MARGIN + y(row);
            if step == 0 {
                let _ = write!(path, "M{x} {}", upper + BOX_HEIGHT);
            } else {
                let half = (from.1 + upper) / 2;
                let _ = write!(path, " C{} {half} {x} {half} {x} {upper}", from.0);
                if matches!(item, Item::Bend { .. }) {
                    let _ = write!(path, " L{x} {}", upper + BOX_HEIGHT);
                }
            }
            from = (x, upper + BOX_HEIGHT);
        }
        Some(path)
    }

    /// From the right of one box, around everything, to the right of the other.
    fn around(&self, edge: usize, boxes: i32) -> Option<String> {
        let (from, to) = self.ends(edge);
        let ((from_row, from_place), (to_row, to_place)) = (self.find(from?)?, self.find(to?)?);
        let right = |row: usize, place: usize| self.x[row][place] + BOX_WIDTH;
        let out = boxes + AROUND;
        let (a, b) = (right(from_row, from_place), right(to_row, to_place));
        let (above, below) = (
            MARGIN + y(from_row) + BOX_HEIGHT / 3,
            MARGIN + y(to_row) + 2 * BOX_HEIGHT / 3,
        );
        Some(format!("M{a} {above} C{out} {above} {out} {below} {b} {below}"))
    }
}

impl Item {
    fn width(self) -> i32 {
        match self {
            Self::Plugin(_) | Self::Missing(_) => BOX_WIDTH,
            Self::Bend { .. } => BEND_WIDTH,
        }
    }
}

/// Top of a row, below the margin.
fn y(row: usize) -> i32 {
    i32::try_from(row).unwrap_or(i32::MAX / (BOX_HEIGHT + GAP_Y)) * (BOX_HEIGHT + GAP_Y)
}

fn write_plugin(it: &ChartPlugin, left: i32, top: i32, svg: &mut String) {
    let (fill, stroke) = match (it.state.as_str(), it.level) {
        ("ACTIVE", Some(_)) => ("#eaf6ec", "#2e7d32"),
        ("PROBATION", Some(_)) => ("#fff8e1", "#b26a00"),
        _ => ("#fdecea", "#c62828"),
    };
    let runtime = it.runtime.as_deref().unwrap_or("-");
    let name = escaped(&clipped(&format!("{} {}", it.name, it.version)));
    let told = escaped(&[&it.provides[..], &it.reasons[..]].concat().join("\n"));
    let state = escaped(&it.state);
    let (middle, first, second) = (left + BOX_WIDTH / 2, top + 19, top + 36);
    let _ = writeln!(
        svg,
        "<g class=\"plugin\"><title>{told}</title><rect x=\"{left}\" y=\"{top}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"{fill}\" stroke=\"{stroke}\"/>\
         <text x=\"{middle}\" y=\"{first}\" text-anchor=\"middle\" font-weight=\"600\">{name}</text>\
         <text x=\"{middle}\" y=\"{second}\" text-anchor=\"middle\" fill=\"#555\">{runtime}, {state}</text></g>"
    );
}

fn write_missing(target: &str, left: i32, top: i32, svg: &mut String) {
    let name = target.rsplit('.').next().unwrap_or(target);
    let (middle, first, second) = (left + BOX_WIDTH / 2, top + 19, top + 36);
    let _ = writeln!(
        svg,
        "<g class=\"missing\"><title>{}</title><rect x=\"{left}\" y=\"{top}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"none\" stroke=\"#c62828\" stroke-dasharray=\"4 3\"/>\
         <text x=\"{middle}\" y=\"{first}\" text-anchor=\"middle\">{}</text>\
         <text x=\"{middle}\" y=\"{second}\" text-anchor=\"middle\" fill=\"#c62828\">nobody provides it</text></g>",
        escaped(target),
        escaped(&clipped(name)),
    );
}

fn clipped(text: &str) -> String {
    if text.chars().count() <= NAME_CHARS_MAX {
        return text.to_owned();
    }
    let kept: String = text.chars().take(NAME_CHARS_MAX - 1).collect();
    kept + "…"
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
