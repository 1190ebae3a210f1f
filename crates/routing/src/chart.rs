//! Who requires what of whom, to look at: as text, for `dot`, and as a drawing.
//!
//! A [`Chart`] is plain data that travels as JSON; whoever has it can draw it, with nothing installed.

mod svg;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::graph::{Need, Participant, plan, providers};

/// All plugins of a host and what they require of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chart {
    /// The plugins, by address.
    pub plugins: Vec<ChartPlugin>,
    /// What they require: one for each requirement and each plugin that meets it, or one that leads to nobody.
    pub requires: Vec<ChartEdge>,
}

/// One plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChartPlugin {
    /// The address it is registered under: `name`, or `name@version` for a version beside another.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The runtime it runs in, if it was ever started.
    pub runtime: Option<String>,
    /// Where it stands in its life.
    pub state: String,
    /// Services it provides.
    pub provides: Vec<String>,
    /// Plugins of one level start in parallel, after those of the levels before; `None` for one that cannot start.
    pub level: Option<usize>,
    /// Why it does not serve, or why it could not be started again.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChartEdge {
    /// Address of the plugin that requires it.
    pub from: String,
    /// Address of a plugin that meets it; `None` if nobody does.
    pub to: Option<String>,
    /// `package.Service`, or `package.Service/Method`.
    pub target: String,
    /// The range of versions it may have.
    pub range: String,
    /// How strong it is.
    pub tie: Tie,
    /// Where it is written, such as `plugin.toml:14`.
    #[serde(default)]
    pub place: Option<String>,
}

/// How strong a requirement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tie {
    /// Its plugin starts after a provider.
    Hard,
    /// Its plugin starts before a provider.
    Lazy,
    /// Its plugin does without.
    Optional,
}

// === impl Tie ===

impl Tie {
    fn of(need: &Need) -> Self {
        match (need.optional, need.lazy) {
            (true, _) => Self::Optional,
            (false, true) => Self::Lazy,
            (false, false) => Self::Hard,
        }
    }

    /// The word that people and machines see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Lazy => "lazy",
            Self::Optional => "optional",
        }
    }
}

// === impl Chart ===

impl Chart {
    /// The chart of `participants`. `about` says what the graph does not know of each: address, runtime, state and reasons.
    #[must_use]
    pub fn of(participants: &[Participant], about: impl Fn(usize) -> ChartPlugin) -> Self {
        let planned = plan(participants);
        let level = |index: usize| planned.levels.iter().position(|level| level.contains(&index));
        let plugins: Vec<ChartPlugin> = participants
            .iter()
            .enumerate()
            .map(|(index, it)| {
                let mut services: Vec<String> = it
                    .provides
                    .iter()
                    .map(|method| method.service.to_string())
                    .collect();
                services.sort();
                services.dedup();
                let mut plugin = about(index);
                let faults = planned.held.get(&index).into_iter().flatten();
                for why in faults.map(ToString::to_string) {
                    if !plugin.reasons.contains(&why) {
                        plugin.reasons.push(why);
                    }
                }
                ChartPlugin {
                    version: it.version.to_string(),
                    provides: services,
                    level: level(index),
                    ..plugin
                }
            })
            .collect();
        let mut requires = Vec::new();
        for (index, it) in participants.iter().enumerate() {
            for need in &it.requires {
                let edge = |to: Option<usize>| ChartEdge {
                    from: plugins[index].name.clone(),
                    to: to.map(|to| plugins[to].name.clone()),
                    target: need.target(),
                    range: need.range.to_string(),
                    tie: Tie::of(need),
                    place: need.place.clone(),
                };
                let (met, _) = providers(participants, need);
                if met.is_empty() {
                    requires.push(edge(None));
                }
                requires.extend(met.into_iter().map(|to| edge(Some(to))));
            }
        }
        Self { plugins, requires }
    }

    /// Level by level, with what each plugin requires.
    #[must_use]
    pub fn to_text(&self) -> String {
        if self.plugins.is_empty() {
            return "no plugins\n".to_owned();
        }
        let mut text = String::new();
        for (level, plugins) in self.by_level() {
            match level {
                Some(0) => text += "level 0: needs nobody to start\n",
                Some(level) => {
                    let _ = writeln!(text, "level {level}: after level {}", level - 1);
                }
                None => text += "cannot start\n",
            }
            for plugin in plugins {
                let runtime = plugin.runtime.as_deref().unwrap_or("-");
                let ChartPlugin {
                    name, version, state, ..
                } = plugin;
                let _ = writeln!(text, "  {name} {version} ({runtime}, {state})");
                for edge in self.requires.iter().filter(|it| it.from == *name) {
                    let to = edge.to.as_deref().unwrap_or("nobody");
                    let ChartEdge { target, range, .. } = edge;
                    let tie = match edge.tie {
                        Tie::Hard => String::new(),
                        tie => format!(" ({})", tie.as_str()),
                    };
                    let _ = writeln!(text, "    {target} {range}{tie} -> {to}");
                }
                for reason in &plugin.reasons {
                    let _ = writeln!(text, "    ! {reason}");
                }
            }
        }
        text
    }

    /// For `dot` of Graphviz. Providers stand below those who require them.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut text =
            "digraph mortise {\n  rankdir=TB;\n  node [shape=box, fontname=\"sans-serif\"];\n".to_owned();
        for it in &self.plugins {
            let runtime = it.runtime.as_deref().unwrap_or("-");
            let label = quoted(&format!("{} {}\n{runtime}, {}", it.name, it.version, it.state));
            let style = if it.level.is_some() { "" } else { ", color=red" };
            let _ = writeln!(text, "  {} [label={label}{style}];", quoted(&it.name));
        }
        let mut nobody = Vec::new();
        for edge in &self.requires {
            let style = match edge.tie {
                Tie::Hard => "solid",
                Tie::Lazy => "dashed",
                Tie::Optional => "dotted",
            };
            let to = match &edge.to {
                Some(to) => quoted(to),
                None => {
                    let missing = quoted(&format!("nobody: {}", edge.target));
                    if !nobody.contains(&missing) {
                        let _ = writeln!(text, "  {missing} [shape=plaintext];");
                        nobody.push(missing.clone());
                    }
                    missing
                }
            };
            let label = quoted(&format!("{} {}", edge.target, edge.range));
            let _ = writeln!(
                text,
                "  {} -> {to} [label={label}, style={style}];",
                quoted(&edge.from)
            );
        }
        for (level, plugins) in self.by_level() {
            if level.is_some() && plugins.len() > 1 {
                let names: Vec<_> = plugins.iter().map(|it| quoted(&it.name)).collect();
                let _ = writeln!(text, "  {{ rank=same; {}; }}", names.join("; "));
            }
        }
        text + "}\n"
    }

    /// A drawing that any browser shows. Providers stand below those who require them.
    #[must_use]
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }

    /// The plugins of each level, and at the end those that cannot start.
    fn by_level(&self) -> Vec<(Option<usize>, Vec<&ChartPlugin>)> {
        let mut levels: Vec<Option<usize>> = self.plugins.iter().map(|it| it.level).collect();
        levels.sort_by_key(|level| level.unwrap_or(usize::MAX));
        levels.dedup();
        let of = |level| self.plugins.iter().filter(|it| it.level == level).collect();
        levels.into_iter().map(|level| (level, of(level))).collect()
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
