//! `mortise contract`: what differs between two versions of a contract, and what becomes of calls between them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mortise::{
    Package,
    contract::{
        Contract,
        evolve::{Lineage, Plan, Way},
    },
};
use serde::Serialize;

use crate::{
    args::ContractTask,
    exit::{Exit, Failure, Fault},
    output::{Output, table},
    project,
};

#[derive(Serialize)]
struct Report {
    old: PathBuf,
    new: PathBuf,
    /// Whether every method of either can be called in both directions.
    fits: bool,
    methods: Vec<Row>,
}

/// One method in one direction.
#[derive(Serialize)]
struct Row {
    method: String,
    /// `old` calls `new`, or `new` calls `old`.
    caller: &'static str,
    /// `same`, `passes`, `defaults`, `converted`, `adapted` or `refused`.
    way: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    via: Vec<String>,
    /// What is done to messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<String>,
    /// What is in the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<ViolationRow>,
    /// Declared steps that cannot be followed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
}

#[derive(Serialize)]
struct ViolationRow {
    rule: &'static str,
    path: String,
    was: String,
    is: String,
    advice: String,
}

/// One side: a contract and what is declared beside it.
struct Side {
    contract: Contract,
    lineage: Lineage,
}

pub(crate) fn contract(task: &ContractTask, output: &Output) -> anyhow::Result<()> {
    let ContractTask::Diff(args) = task;
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let mut methods = rows("old", &old, &new);
    methods.extend(rows("new", &new, &old));
    methods.sort_by(|a, b| (&a.method, b.caller).cmp(&(&b.method, a.caller)));
    let report = Report {
        old: args.old.clone(),
        new: args.new.clone(),
        fits: methods.iter().all(|it| it.way != REFUSED),
        methods,
    };
    output.answer(&report, text)?;
    if !report.fits {
        std::process::exit(Exit::Failed.code().into());
    }
    Ok(())
}

const REFUSED: &str = "refused";

fn rows(caller: &'static str, from: &Side, to: &Side) -> Vec<Row> {
    let lineages = [&from.lineage, &to.lineage];
    let row = |method: &mortise::contract::Method| {
        let mut row = Row {
            method: method.target(),
            caller,
            way: REFUSED.to_owned(),
            via: Vec::new(),
            changes: Vec::new(),
            violations: Vec::new(),
            faults: Vec::new(),
        };
        match Plan::between(&from.contract, method, &to.contract, &lineages) {
            Ok(plan) => {
                row.way = plan.way().to_string();
                row.via = plan.via().to_vec();
                row.changes = plan.changes().iter().map(ToString::to_string).collect();
                // `passes` and `same` say all there is.
                debug_assert!(plan.way() > Way::Passes || row.changes.is_empty());
            }
            Err(refusal) => {
                row.faults = refusal.faults;
                let violations = refusal.violations.into_iter().map(|it| ViolationRow {
                    rule: it.rule.id(),
                    path: it.path,
                    was: it.old,
                    is: it.new,
                    advice: it.advice,
                });
                row.violations = violations.collect();
            }
        }
        row
    };
    from.contract.methods().iter().map(row).collect()
}

fn text(report: &Report) -> String {
    let caller = |it: &Row| match it.caller {
        "old" => "old calls new".to_owned(),
        _ => "new calls old".to_owned(),
    };
    let rows: Vec<_> = report
        .methods
        .iter()
        .map(|it| {
            let way = match it.via.is_empty() {
                true => it.way.clone(),
                false => format!("{} via {}", it.way, it.via.join(" -> ")),
            };
            vec![it.method.clone(), caller(it), way]
        })
        .collect();
    let mut parts = vec![table(&["METHOD", "DIRECTION", "CALLS"], &rows)];
    for it in &report.methods {
        let mut lines: Vec<String> = it.changes.iter().map(|line| format!("  {line}")).collect();
        lines.extend(it.violations.iter().map(|violation| {
            let ViolationRow {
                rule,
                path,
                was,
                is,
                advice,
            } = violation;
            format!("  `{path}` was {was} and is {is} ({rule}): {advice}")
        }));
        lines.extend(it.faults.iter().map(|line| format!("  {line}")));
        if !lines.is_empty() {
            parts.push(format!("{}, {}:\n{}", it.method, caller(it), lines.join("\n")));
        }
    }
    if !report.fits {
        parts.push("say in an `[[adapt]]` of the newer package what became of the older version; docs/evolution.md has examples".to_owned());
    }
    parts.join("\n\n")
}

/// A package folder, a plugin's source folder, or a file with a descriptor set.
fn read(path: &Path) -> Result<Side, Failure> {
    let failed = |what: String| {
        Failure::new(
            Fault::new(format!("`{}`: {what}", path.display()))
                .hint("name a package folder, a plugin's source folder, or a `contract.binpb`"),
        )
    };
    let plain = |bytes: &[u8]| {
        let contract =
            Contract::from_descriptor_set(bytes, &[]).map_err(|error| failed(error.to_string()))?;
        Ok(Side {
            contract,
            lineage: Lineage::empty(),
        })
    };
    if path.is_file() {
        return plain(&fs::read(path).map_err(|error| failed(error.to_string()))?);
    }
    let (text, manifest) = project::read_manifest(path)?;
    if manifest.variants.is_empty() {
        return plain(&project::metadata(path, &text)?.descriptor_set);
    }
    let package = Package::open(path).map_err(|error| failed(error.to_string()))?;
    Ok(Side {
        contract: (**package.contract()).clone(),
        lineage: (**package.lineage()).clone(),
    })
}
