//! `mortise check`: every fault at once, and nothing of the plugin runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mortise::{
    Source,
    contract::Contract,
    manifest::{Manifest, RuntimeName},
};
use serde::Serialize;

use crate::{
    args::Check,
    commands::contract,
    exit::{Exit, Failure, Fault},
    output::{Output, table},
    project, runtimes,
};

#[derive(Serialize)]
struct Report {
    path: PathBuf,
    /// `source` or `package`.
    kind: &'static str,
    plugin: Option<String>,
    variants: Vec<VariantRow>,
    faults: Vec<Fault>,
    /// Beside an older version.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<contract::Report>,
}

#[derive(Serialize)]
struct VariantRow {
    runtime: String,
    digest: Option<String>,
    /// Whether this machine can run it.
    available: bool,
    ok: bool,
}

pub(crate) fn check(args: &Check, output: &Output) -> anyhow::Result<()> {
    let mut report = match project::read_manifest(&args.path) {
        Err(failure) => Report {
            path: args.path.clone(),
            kind: "source",
            plugin: None,
            variants: Vec::new(),
            faults: [failure.faults, source_faults(&args.path, None)].concat(),
            against: None,
        },
        Ok((text, manifest)) if manifest.variants.is_empty() => Report {
            path: args.path.clone(),
            kind: "source",
            plugin: Some(format!("{} {}", manifest.name, manifest.version)),
            variants: Vec::new(),
            faults: source_faults(&args.path, Some((&text, &manifest))),
            against: None,
        },
        Ok((_, manifest)) => super::block_on(check_package(&args.path, &manifest))?,
    };
    // What has faults of its own may have no contract to compare.
    if let Some(old) = &args.against
        && report.faults.is_empty()
    {
        report.against = Some(contract::compare(old, &args.path)?);
    }
    let failed = !report.faults.is_empty() || report.against.as_ref().is_some_and(|it| !it.fits);
    output.answer(&report, |report| text(report, output))?;
    if failed {
        // The report was the answer: nothing more to say than the code.
        std::process::exit(Exit::Failed.code().into());
    }
    Ok(())
}

fn text(report: &Report, output: &Output) -> String {
    let mut parts = Vec::new();
    if !report.variants.is_empty() {
        let yes = |it: bool| if it { "yes" } else { "no" }.to_owned();
        let rows: Vec<_> = report
            .variants
            .iter()
            .map(|it| {
                let digest = it.digest.as_deref().map_or("-", |it| &it[..12]);
                vec![
                    it.runtime.clone(),
                    digest.to_owned(),
                    yes(it.available),
                    yes(it.ok),
                ]
            })
            .collect();
        parts.push(table(&["RUNTIME", "DIGEST", "RUNS HERE", "SOUND"], &rows));
    }
    parts.extend(report.faults.iter().map(|it| output.render(it, "error", "31")));
    let faults = match report.faults.len() {
        0 => "no faults".to_owned(),
        1 => "1 fault".to_owned(),
        many => format!("{many} faults"),
    };
    parts.extend(report.against.as_ref().map(contract::text));
    parts.push(match &report.plugin {
        Some(plugin) => format!("{plugin}: {faults}"),
        None => faults,
    });
    parts.join("\n\n")
}

// === package ===

async fn check_package(path: &Path, manifest: &Manifest) -> anyhow::Result<Report> {
    let host = runtimes::temporary_host().await?;
    let checked = host.check(&Source::Folder(fs::canonicalize(path)?)).await;
    host.shutdown().await;
    let checked = checked.map_err(|error| Failure::of_host(&error))?;
    let fault = |prefix: Option<RuntimeName>, it: &mortise::Refusal| {
        let prefix = prefix.map(|it| format!("{it}: ")).unwrap_or_default();
        Fault::new(format!("{prefix}{}: {}", it.what, it.why)).hint(it.hint.clone())
    };
    let mut faults: Vec<Fault> = checked.refusals.iter().map(|it| fault(None, it)).collect();
    for variant in &checked.variants {
        let file = manifest
            .variant(variant.runtime)
            .map(|it| path.join(&it.file).display().to_string());
        let at = |it: Fault| if let Some(file) = &file { it.at(file) } else { it };
        faults.extend(
            variant
                .refusals
                .iter()
                .map(|it| at(fault(Some(variant.runtime), it))),
        );
    }
    let rows = checked.variants.iter().map(|it| VariantRow {
        runtime: it.runtime.to_string(),
        digest: it.digest.map(|it| it.to_string()),
        available: it.available,
        ok: it.refusals.is_empty(),
    });
    Ok(Report {
        path: path.to_owned(),
        kind: "package",
        plugin: checked.plugin.as_ref().map(ToString::to_string),
        variants: rows.collect(),
        faults,
        against: None,
    })
}

// === source ===

/// Everything that can be said about a source folder beside its manifest's own faults.
fn source_faults(dir: &Path, manifest: Option<(&str, &Manifest)>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let contract = project::file_in(dir, "contract");
    if contract.is_dir() {
        match mortise_build::compile_protos(&contract) {
            Err(_) => {
                // Only to say it in the same words as everywhere else.
                faults.extend(
                    project::metadata(dir, "")
                        .err()
                        .into_iter()
                        .flat_map(|it| it.faults),
                );
            }
            Ok(protos) => {
                if let Some((text, manifest)) = manifest {
                    faults.extend(contract_faults(
                        &project::file_in(dir, "plugin.toml"),
                        text,
                        manifest,
                        &protos.descriptor_set,
                        dir,
                    ));
                }
            }
        }
    } else if manifest.is_some() {
        faults.extend(
            project::metadata(dir, "")
                .err()
                .into_iter()
                .flat_map(|it| it.faults),
        );
    }
    if let Some((_, manifest)) = manifest {
        faults.extend(crate_faults(dir, manifest));
    }
    faults
}

/// Where manifest and contract do not fit each other.
fn contract_faults(
    file: &Path,
    text: &str,
    manifest: &Manifest,
    descriptor_set: &[u8],
    dir: &Path,
) -> Vec<Fault> {
    let place = |needle: &str| {
        place_of(text, needle).map(|(line, column)| format!("{}:{line}:{column}", file.display()))
    };
    let at = |fault: Fault, needle: &str| Fault {
        place: place(needle),
        ..fault
    };
    let all = match Contract::from_descriptor_set(descriptor_set, &[]) {
        Ok(all) => all,
        Err(error) => return vec![Fault::new(format!("the contract is not usable: {error}"))],
    };
    let mut faults = Vec::new();
    for service in &manifest.provides {
        if !all.services().contains(service) {
            let known: Vec<_> = all.services().iter().map(|it| format!("`{it}`")).collect();
            let hint = if known.is_empty() {
                "the contract declares no service".to_owned()
            } else {
                format!("the contract declares {}", known.join(", "))
            };
            let fault = Fault::new(format!(
                "`{service}` is provided, and the contract does not declare it"
            ));
            faults.push(at(fault.hint(hint), service));
            continue;
        }
        let streams = all
            .methods()
            .iter()
            .filter(|it| it.service() == service && it.options().nonblocking)
            .filter(|it| it.client_streaming() || it.server_streaming());
        faults.extend(streams.map(|it| {
            let fault = Fault::new(format!(
                "`{}` streams and has the option `mortise.nonblocking`, and a stream waits for its caller",
                it.target()
            ));
            at(fault.hint("take the option away"), service)
        }));
    }
    if let Err(failure) = project::lineage(dir, manifest, &all) {
        faults.extend(failure.faults);
    }
    if let Some(schema) = &manifest.state_schema
        && all.pool().get_message_by_name(schema).is_none()
    {
        let fault = Fault::new(format!(
            "the state's schema is `{schema}`, and the contract has no such message"
        ));
        faults.push(at(
            fault.hint("declare it in contract/, with its full name"),
            schema,
        ));
    }
    faults
}

/// What keeps the crate from becoming the artifacts of its manifest.
fn crate_faults(dir: &Path, manifest: &Manifest) -> Vec<Fault> {
    let path = project::file_in(dir, "Cargo.toml");
    let Ok(text) = fs::read_to_string(&path) else {
        return Vec::new();
    };
    let cargo: toml::Table = match text.parse() {
        Ok(cargo) => cargo,
        Err(error) => {
            let (line, column) = error.span().map_or((1, 1), |span| position(&text, span.start));
            return vec![
                Fault::new(error.message().to_owned()).at(format_args!("{}:{line}:{column}", path.display())),
            ];
        }
    };
    let place = |needle: &str| {
        let (line, column) = place_of(&text, needle).unwrap_or((1, 1));
        format!("{}:{line}:{column}", path.display())
    };
    let mut faults = Vec::new();
    let kinds = cargo
        .get("lib")
        .and_then(|it| it.get("crate-type"))
        .and_then(toml::Value::as_array);
    if !kinds.is_some_and(|it| it.iter().any(|kind| kind.as_str() == Some("cdylib"))) {
        let fault = Fault::new("the crate is not built as a shared library, so no host can load it")
            .at(place("[lib]"));
        faults.push(fault.hint("write `crate-type = [\"cdylib\", \"rlib\"]` below `[lib]`"));
    }
    let version = cargo
        .get("package")
        .and_then(|it| it.get("version"))
        .and_then(toml::Value::as_str);
    if let Some(version) = version.filter(|it| *it != manifest.version.to_string()) {
        let message = format!(
            "Cargo.toml says version {version}, and plugin.toml says {}",
            manifest.version
        );
        faults.push(
            Fault::new(message)
                .at(place("version"))
                .hint("write the same version in both, or callers cannot know which one runs"),
        );
    }
    if !dir.join("build.rs").is_file() {
        let fault = Fault::new("there is no build.rs, so the contract is not compiled").at(path.display());
        faults.push(fault.hint("write `fn main() { mortise_build::plugin(); }` into build.rs"));
    }
    faults
}

/// Line and column of the first `needle`, from 1.
fn place_of(text: &str, needle: &str) -> Option<(usize, usize)> {
    Some(position(text, text.find(needle)?))
}

fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
