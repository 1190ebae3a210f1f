//! `mortise contract`: what differs between two versions of a contract, and what becomes of calls between them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use mortise::{
    Package,
    contract::{
        Contract,
        compat::{self, Level, Verdict, Violation},
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

/// What differs between two versions, and what becomes of calls between them.
#[derive(Serialize)]
pub(crate) struct Report {
    old: PathBuf,
    new: PathBuf,
    /// Whether every method of either can be called in both directions.
    pub(crate) fits: bool,
    /// Every rule that the newer one breaks, and whether that is taken care of.
    rules: Vec<RuleRow>,
    methods: Vec<Row>,
}

/// One broken rule at one place.
#[derive(Serialize)]
struct RuleRow {
    /// `refused`, `adapted`, or `passes`: no byte of a call means something else.
    verdict: &'static str,
    #[serde(flatten)]
    violation: ViolationRow,
    /// What is done about it at run time, or why nothing has to be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    how: Vec<String>,
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
    /// Methods of plugins that adapt messages whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    functions: Vec<String>,
    /// The fields that `changes` are about, in its order.
    #[serde(skip)]
    fields: Vec<String>,
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
    let report = compare(&args.old, &args.new)?;
    output.answer(&report, text)?;
    if !report.fits {
        std::process::exit(Exit::Failed.code().into());
    }
    Ok(())
}

/// Compares what is at two paths.
///
/// # Errors
/// If there is no contract at one of them.
pub(crate) fn compare(old_path: &Path, new_path: &Path) -> Result<Report, Failure> {
    let (old, new) = (read(old_path)?, read(new_path)?);
    let mut methods = rows("old", &old, &new);
    methods.extend(rows("new", &new, &old));
    methods.sort_by(|a, b| (&a.method, b.caller).cmp(&(&b.method, a.caller)));
    Ok(Report {
        old: old_path.to_owned(),
        new: new_path.to_owned(),
        fits: methods.iter().all(|it| it.way != REFUSED),
        rules: rules(&old.contract, &new.contract, &methods),
        methods,
    })
}

/// Every rule that is broken, with what the methods' plans do about it.
fn rules(old: &Contract, new: &Contract, methods: &[Row]) -> Vec<RuleRow> {
    let report = compat::check(old, new, Level::WireJson);
    let broken: BTreeSet<Violation> = report
        .methods
        .into_iter()
        .filter_map(|it| match it.verdict {
            Verdict::Incompatible(violations) => Some(violations),
            Verdict::Exact | Verdict::WireCompatible | Verdict::Adaptable(_) => None,
        })
        .flatten()
        .collect();
    let row = |violation: Violation| {
        let (verdict, how) = verdict(&violation, methods);
        RuleRow {
            verdict,
            how,
            violation: violation.into(),
        }
    };
    broken.into_iter().map(row).collect()
}

fn verdict(violation: &Violation, methods: &[Row]) -> (&'static str, Vec<String>) {
    let path = &violation.path;
    if methods.iter().any(|it| {
        it.way == REFUSED && (it.method == *path || it.violations.iter().any(|it| it.path == *path))
    }) {
        return (REFUSED, Vec::new());
    }
    let done: BTreeSet<String> = methods
        .iter()
        .flat_map(|it| it.fields.iter().zip(&it.changes))
        .filter(|(field, _)| *field == path)
        .map(|(_, change)| change.clone())
        .collect();
    if !done.is_empty() {
        return ("adapted", done.into_iter().collect());
    }
    if !violation.rule.touches_calls() {
        return (
            "passes",
            vec!["no call is touched; it guards versions to come".to_owned()],
        );
    }
    if violation.rule.level() == Level::WireJson {
        return ("passes", vec!["bytes are the same; JSON is another".to_owned()]);
    }
    let functions: BTreeSet<String> = methods
        .iter()
        .flat_map(|it| &it.functions)
        .map(|it| format!("adapted whole by `{it}`"))
        .collect();
    match functions.is_empty() {
        true => ("passes", Vec::new()),
        false => ("adapted", functions.into_iter().collect()),
    }
}

impl From<Violation> for ViolationRow {
    fn from(it: Violation) -> Self {
        Self {
            rule: it.rule.id(),
            path: it.path,
            was: it.old,
            is: it.new,
            advice: it.advice,
        }
    }
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
            functions: Vec::new(),
            fields: Vec::new(),
            violations: Vec::new(),
            faults: Vec::new(),
        };
        match Plan::between(&from.contract, method, &to.contract, &lineages) {
            Ok(plan) => {
                row.way = plan.way().to_string();
                row.via = plan.via().to_vec();
                row.changes = plan.changes().iter().map(ToString::to_string).collect();
                row.fields = plan.changes().iter().map(|it| it.field.clone()).collect();
                row.functions = plan.functions().map(ToString::to_string).collect();
                // `passes` and `same` say all there is.
                debug_assert!(plan.way() > Way::Passes || row.changes.is_empty());
            }
            Err(refusal) => {
                row.faults = refusal.faults;
                row.violations = refusal.violations.into_iter().map(ViolationRow::from).collect();
            }
        }
        row
    };
    from.contract.methods().iter().map(row).collect()
}

/// The report for people.
pub(crate) fn text(report: &Report) -> String {
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
    let mut parts = Vec::new();
    if !report.rules.is_empty() {
        let rows: Vec<_> = report.rules.iter().map(rule_cells).collect();
        parts.push(table(&["RULE", "AT", "VERDICT", "HOW"], &rows));
    }
    parts.push(table(&["METHOD", "DIRECTION", "CALLS"], &rows));
    for it in &report.methods {
        let mut lines: Vec<String> = it.changes.iter().map(|line| format!("  {line}")).collect();
        lines.extend(
            it.functions
                .iter()
                .map(|function| format!("  adapted whole by `{function}`")),
        );
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

fn rule_cells(it: &RuleRow) -> Vec<String> {
    let how = match it.how.is_empty() {
        true => "-".to_owned(),
        false => it.how.join("; "),
    };
    vec![
        it.violation.rule.to_owned(),
        it.violation.path.clone(),
        it.verdict.to_owned(),
        how,
    ]
}

/// A package folder, a plugin's source folder, a .proto file, or a file with a descriptor set.
fn read(path: &Path) -> Result<Side, Failure> {
    let failed =
        |what: String| {
            Failure::new(Fault::new(format!("`{}`: {what}", path.display())).hint(
                "name a package folder, a plugin's source folder, a `contract.binpb`, or a .proto file",
            ))
        };
    let plain = |bytes: &[u8]| {
        let contract =
            Contract::from_descriptor_set(bytes, &[]).map_err(|error| failed(error.to_string()))?;
        Ok(Side {
            contract,
            lineage: Lineage::empty(),
        })
    };
    if path.is_file() && path.extension().is_some_and(|it| it == "proto") {
        let protos = mortise_build::compile_proto(path, &[]).map_err(|error| failed(error.to_string()))?;
        return plain(&protos.descriptor_set);
    }
    if path.is_file() {
        return plain(&fs::read(path).map_err(|error| failed(error.to_string()))?);
    }
    let (text, manifest) = project::read_manifest(path)?;
    if manifest.variants.is_empty() {
        let metadata = project::metadata(path, &text)?;
        let contract = Contract::from_descriptor_set(&metadata.descriptor_set, &manifest.provides)
            .map_err(|error| failed(error.to_string()))?;
        let lineage = project::lineage(path, &manifest, &contract)?;
        return Ok(Side { contract, lineage });
    }
    let package = Package::open(path).map_err(|error| failed(error.to_string()))?;
    Ok(Side {
        contract: (**package.contract()).clone(),
        lineage: (**package.lineage()).clone(),
    })
}
