//! `mortise import`: a package of a plugin that was made for another host.
//!
//! ```text
//!  executable --copy--> package.new/NAME --interview--> services, descriptors   from the plugin itself
//!                                                       or from --proto          and then it must not say otherwise
//!             plugin.toml, contract.binpb --> package.new --rename--> package
//! ```
//!
//! What is asked is the copy, and its SHA-256 goes into plugin.toml: so the executable whose contract this is, and no other, is what a host starts.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mortise::{
    contract::Contract,
    manifest::{
        Dialect, GoPlugin, HostConfig, Limits, LimitsOverride, Manifest, Permissions, RuntimeName, Variant,
    },
    port::EndCause,
    runtime::process::{GoPluginError, Interview, Interviewed, ProcessConfig, ProcessRuntime},
};
use mortise_build::BuildError;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    args::ImportGoPlugin,
    config,
    exit::{Failure, Fault},
    output::{Output, table},
    project,
};

/// A plugin that is only asked what it serves may use this much: what it needs later is the operator's business.
const INTERVIEW_MEMORY_BYTES: u64 = 4 << 30;
/// Stands where the services will stand, until they are known.
const UNKNOWN_SERVICE: &str = "unknown.v1.Service";

#[derive(Serialize)]
struct Report {
    plugin: String,
    version: String,
    package: PathBuf,
    /// Of its application's protocol, the one that both speak.
    protocol_version: u32,
    /// Whether the plugin tells what it serves.
    reflection: bool,
    sha256: Option<String>,
    methods: Vec<ReportRow>,
    ms: u128,
}

#[derive(Serialize)]
struct ReportRow {
    service: String,
    method: String,
    /// `unary`, `client`, `server` or `bidi`.
    kind: &'static str,
}

/// A package that is being written, beside where it goes. Removed if it does not get there.
struct Draft {
    folder: PathBuf,
    out: PathBuf,
    done: bool,
}

pub(crate) fn go_plugin(args: &ImportGoPlugin, output: &Output) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut manifest = manifest_of(args)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}-{}", manifest.name, manifest.version)));
    check_executable(&args.path)?;
    if fs::symlink_metadata(&out).is_ok() {
        let message = format!("`{}` exists already", out.display());
        let hint = "choose another folder with `--out`, or remove it";
        return Err(Failure::new(Fault::new(message).hint(hint)).into());
    }
    let written = args.proto.as_deref().map(|file| contract_of(file, args));
    let written = written.transpose()?;

    let draft = Draft::begin(out)?;
    let copy = draft.copy(&args.path, &args.name)?;
    let spoken = spoken_mut(&mut manifest);
    spoken.sha256 = Some(sha256(&copy)?);
    let interviewed = interview(args, &copy, spoken, written.as_ref())?;
    let contract = match written {
        Some(contract) => contract,
        None => contract_told(args, &interviewed)?,
    };
    manifest.provides = contract.services().to_vec();
    draft.write("contract.binpb", contract.descriptor_set_bytes())?;
    draft.write("plugin.toml", manifest.to_toml().as_bytes())?;
    let package = draft.finish()?;

    let methods = contract.methods().iter().map(|it| ReportRow {
        service: it.service().to_owned(),
        method: it.name().to_owned(),
        kind: match (it.client_streaming(), it.server_streaming()) {
            (false, false) => "unary",
            (true, false) => "client",
            (false, true) => "server",
            (true, true) => "bidi",
        },
    });
    let report = Report {
        plugin: manifest.name.clone(),
        version: manifest.version.to_string(),
        package,
        protocol_version: interviewed.version,
        reflection: interviewed.told.is_some(),
        sha256: spoken_mut(&mut manifest).sha256_hex(),
        methods: methods.collect(),
        ms: begun.elapsed().as_millis(),
    };
    output.answer(&report, text)
}

fn text(report: &Report) -> String {
    let rows: Vec<_> = report
        .methods
        .iter()
        .map(|it| vec![it.service.clone(), it.method.clone(), it.kind.to_owned()])
        .collect();
    let (plugin, version, package) = (&report.plugin, &report.version, report.package.display());
    let source = if report.reflection {
        "as the plugin tells"
    } else {
        "as --proto says; the plugin does not tell"
    };
    format!(
        "{plugin} {version} is in {package}; its contract is {source}\n{}\n\ntry it:\n  mortise check {package}\n  mortise load {package}",
        table(&["SERVICE", "METHOD", "KIND"], &rows)
    )
}

// === what is known before it is started ===

/// The manifest as far as the command line says it. All its faults at once.
fn manifest_of(args: &ImportGoPlugin) -> Result<Manifest, Failure> {
    let spoken = GoPlugin {
        cookie_key: args.cookie_key.clone(),
        cookie_value: args.cookie_value.clone(),
        versions: args.versions.clone(),
        auto_mtls: args.auto_mtls,
        multiplex: args.multiplex,
        sha256: None,
    };
    // Semver is read where the rest is.
    let placeholder = semver::Version::new(0, 0, 0);
    let manifest = Manifest {
        name: args.name.clone(),
        version: placeholder.clone(),
        api: 1,
        description: None,
        pure: false,
        provides: if args.service.is_empty() {
            vec![UNKNOWN_SERVICE.to_owned()]
        } else {
            args.service.clone()
        },
        requires: Vec::new(),
        subscribes: Vec::new(),
        variants: vec![Variant {
            runtime: RuntimeName::Process,
            file: args.name.clone(),
            dialect: Some(Dialect::GoPlugin(spoken)),
        }],
        adapt: Vec::new(),
        permissions: Permissions::default(),
        limits: LimitsOverride {
            start: Some(Duration::from_millis(args.start_ms)),
            ..LimitsOverride::default()
        },
        state_schema: None,
        hooks: false,
        migrates: false,
        config: mortise::manifest::ConfigTerms::default(),
    };
    let text = manifest.to_toml().replacen(
        &format!("version = \"{placeholder}\""),
        &format!("version = {}", serde_json::Value::from(&*args.release)),
        1,
    );
    Manifest::parse(&text, "plugin.toml").map_err(|all| {
        // The file is not there yet: its places would mislead.
        let mut faults: Vec<Fault> = Vec::new();
        for fault in all.iter() {
            let seen = faults.iter().any(|it| it.message == fault.message);
            // The file's name is the plugin's.
            if !seen && !fault.message.ends_with("is not a plain file name") {
                faults.push(Fault {
                    message: fault.message.clone(),
                    hint: fault.hint.clone(),
                    ..Fault::default()
                });
            }
        }
        Failure {
            faults,
            ..Failure::usage(Fault::default())
        }
    })
}

fn spoken_mut(manifest: &mut Manifest) -> &mut GoPlugin {
    match manifest.variants.first_mut().and_then(|it| it.dialect.as_mut()) {
        Some(Dialect::GoPlugin(spoken)) => spoken,
        _ => unreachable!("`manifest_of` wrote it"),
    }
}

fn check_executable(path: &Path) -> Result<(), Failure> {
    let refuse = |why: String, hint: &str| Err(Failure::new(Fault::new(why).hint(hint)));
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) => {
            return refuse(
                format!("cannot find `{shown}`: {error}"),
                "name the plugin's executable",
            );
        }
    };
    if !found.is_file() {
        return refuse(
            format!("`{shown}` is not a file"),
            "name the plugin's executable itself",
        );
    }
    let mode = found.permissions().mode();
    if mode & 0o111 == 0 {
        return refuse(
            format!("`{shown}` is not executable (mode {:o})", mode & 0o7777),
            &format!("if it is the plugin, `chmod +x {shown}` makes it so"),
        );
    }
    Ok(())
}

/// The contract that the plugin's author wrote.
fn contract_of(file: &Path, args: &ImportGoPlugin) -> Result<Contract, Failure> {
    let protos = mortise_build::compile_proto(file, &args.include).map_err(|error| of_build(file, &error))?;
    let services = chosen(args, &protos.services(), || {
        format!("`{}` declares", file.display())
    })?;
    Contract::from_descriptor_set(&protos.descriptor_set, &services)
        .map_err(|error| Failure::new(Fault::new(error.to_string()).at(file.display())))
}

fn of_build(file: &Path, error: &BuildError) -> Failure {
    let fault = match error {
        BuildError::Proto { report } => match project::split_place(report) {
            // Its name is as imports write it: the end of the path.
            Some((place, why)) => {
                let known = file.display().to_string();
                let place = match place.split_once(':') {
                    Some((name, at)) if known.ends_with(name) => format!("{known}:{at}"),
                    _ => place.to_owned(),
                };
                Fault::new(format!("the contract does not compile: {why}")).at(place)
            }
            None => Fault::new(error.to_string()),
        },
        BuildError::OutsideIncludes { path } => {
            let folder = path.parent().unwrap_or(Path::new("."));
            Fault::new(format!(
                "`{}` lies in none of the folders of `--include`",
                path.display()
            ))
            .hint(format!("add `--include {}`", folder.display()))
        }
        error => Fault::new(error.to_string()),
    };
    let hint = "name the folders that its imports are written from, with `--include`";
    Failure::new(if fault.hint.is_none() {
        fault.hint(hint)
    } else {
        fault
    })
}

/// The services that were asked for, or all. `whose` says who has them.
fn chosen(
    args: &ImportGoPlugin,
    known: &[String],
    whose: impl FnOnce() -> String,
) -> Result<Vec<String>, Failure> {
    let unknown: Vec<&String> = args.service.iter().filter(|it| !known.contains(it)).collect();
    let list = || match known {
        [] => "no service".to_owned(),
        known => known
            .iter()
            .map(|it| format!("`{it}`"))
            .collect::<Vec<_>>()
            .join(", "),
    };
    if known.is_empty() {
        let fault = Fault::new(format!("{} no service", whose()));
        return Err(Failure::new(fault.hint(
            "name the .proto file that declares the plugin's services, with `--proto`",
        )));
    }
    if !unknown.is_empty() {
        let whose = whose();
        let faults = unknown.iter().map(|it| {
            Fault::new(format!("there is no service `{it}`: {whose} {}", list()))
                .hint("correct `--service`, or leave it out for all of them")
        });
        return Err(Failure::many(faults.collect()));
    }
    let chosen = if args.service.is_empty() {
        known
    } else {
        &args.service
    };
    Ok(chosen.to_vec())
}

// === what it says ===

fn interview(
    args: &ImportGoPlugin,
    executable: &Path,
    spoken: &GoPlugin,
    contract: Option<&Contract>,
) -> anyhow::Result<Interviewed> {
    // Where a host of this folder would start it, its libraries are found.
    let settings = match fs::read_to_string(config::FILE) {
        Ok(text) => HostConfig::parse(&text, config::FILE).map_err(|all| Failure::of_diagnostics(&all))?,
        Err(_) => HostConfig::default(),
    };
    let run = tempfile::Builder::new().prefix("mortise-").tempdir()?;
    let process = ProcessConfig::new(run.path().join("run")).with_settings(&settings.process);
    let limits = Limits {
        memory_bytes_max: INTERVIEW_MEMORY_BYTES,
        start: Duration::from_millis(args.start_ms),
        ..Limits::default()
    };
    let executable = fs::canonicalize(executable)?;
    super::block_on(async {
        let runtime = ProcessRuntime::new(process)
            .map_err(|error| Failure::new(Fault::new(error.to_string()).hint(error.hint())))?;
        let interviewed = runtime
            .interview(Interview {
                executable: &executable,
                spoken,
                contract,
                limits: &limits,
            })
            .await;
        interviewed.map_err(|error| refused(args, &error).into())
    })
}

fn refused(args: &ImportGoPlugin, error: &GoPluginError) -> Failure {
    let hint = match error {
        GoPluginError::NotStarted(error) => error.hint().to_owned(),
        // What go-plugin does for a cookie that is not its own, and few others do.
        GoPluginError::Silent {
            cause: Some(EndCause::Exited(1)),
            ..
        } => "compare `--cookie-key` and `--cookie-value` with the `HandshakeConfig` in the source of the plugin's own hosts".to_owned(),
        GoPluginError::Silent { .. } => {
            "it ends before it serves anybody: start it by hand, with the cookie in its environment, to see why".to_owned()
        }
        GoPluginError::Late { .. } => {
            "give it longer with `--start-ms`; if it waits for something that it finds on your machine: it is asked in a jail, without network and without your files".to_owned()
        }
        GoPluginError::Version { offered, .. } => format!("say `--versions {offered}`"),
        GoPluginError::Identity { .. } => "say `--auto-mtls=false` for a plugin that cannot, `--auto-mtls` for one that insists".to_owned(),
        GoPluginError::Differs(_) => {
            "correct the file of `--proto`, or leave it out: this plugin tells what it serves".to_owned()
        }
        _ => "check that it is a go-plugin executable with a gRPC server; if only what it tells of its services is wrong, nothing here can load it".to_owned(),
    };
    let message = format!("cannot import `{}`: {error}", args.path.display());
    Failure::new(Fault::new(message).hint(hint))
}

/// The contract of what the plugin tells.
fn contract_told(args: &ImportGoPlugin, interviewed: &Interviewed) -> Result<Contract, Failure> {
    let shown = args.path.display();
    let Some(told) = &interviewed.told else {
        let fault = Fault::new(format!(
            "`{shown}` starts and answers, and does not tell what it serves: it has no gRPC reflection"
        ));
        let hint =
            "give its contract with `--proto FILE`, and with `--include DIR` where that finds its imports";
        return Err(Failure::new(fault.hint(hint)));
    };
    let services = chosen(args, &told.services, || format!("`{shown}` serves"))?;
    Contract::from_descriptor_set(&told.descriptor_set(&services), &services).map_err(|error| {
        let fault = Fault::new(format!(
            "what `{shown}` tells of its services is no contract: {error}"
        ));
        Failure::new(fault.hint("give its contract with `--proto FILE`"))
    })
}

// === the package ===

impl Draft {
    fn begin(out: PathBuf) -> Result<Self, Failure> {
        // A name alone, so that a folder like `..` is refused and not written beside.
        if out.file_name().is_none() {
            let fault = Fault::new(format!("`{}` is no name for a new folder", out.display()));
            return Err(Failure::usage(fault.hint("name one with `--out`")));
        }
        let folder = project::sibling(&out, "new");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
        Ok(Self {
            folder,
            out,
            done: false,
        })
    }

    fn copy(&self, from: &Path, name: &str) -> Result<PathBuf, Failure> {
        let to = self.folder.join(name);
        let copied =
            fs::copy(from, &to).and_then(|_| fs::set_permissions(&to, fs::Permissions::from_mode(0o755)));
        copied.map_err(|error| cannot_write(&to, &error))?;
        Ok(to)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let to = self.folder.join(name);
        fs::write(&to, bytes).map_err(|error| cannot_write(&to, &error))
    }

    fn finish(mut self) -> Result<PathBuf, Failure> {
        fs::rename(&self.folder, &self.out).map_err(|error| cannot_write(&self.out, &error))?;
        self.done = true;
        Ok(self.out.clone())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let hint = "check the folder's permissions and the space left, or choose another with `--out`";
    Failure::new(Fault::new(format!("cannot write `{}`: {error}", path.display())).hint(hint))
}

fn sha256(path: &Path) -> Result<[u8; 32], Failure> {
    let bytes = fs::read(path)
        .map_err(|error| Failure::new(Fault::new(format!("cannot read `{}`: {error}", path.display()))))?;
    Ok(Sha256::digest(&bytes).into())
}
