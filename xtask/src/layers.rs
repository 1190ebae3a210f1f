//! Subcommand: cargo xtask layers
//!
//! The rings of ARCHITECTURE.md as a table, checked three ways:
//! - every dependency line between our crates points where its ring may look (`dev-dependencies` are free: tests may use anything),
//! - no crate of the inner rings pulls in, however far down, a crate that waits: executors, sockets, files,
//! - no source of the pure ring mentions the parts of std that do so.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail};

use crate::{
    faults::{Fault, report},
    tidy::{is_test_code, rust_files},
    workspace::{Dependency, Package, Workspace},
};

/// Checks the rings.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Crates that may look at the same others.
struct Ring {
    name: &'static str,
    crates: &'static [&'static str],
    /// Names of the rings they may depend on; their own only if it is listed.
    looks_at: &'static [&'static str],
    /// Crates that may not be anywhere below them.
    bans: &'static [&'static str],
    /// Whether their sources may use the parts of std that wait.
    pure: bool,
}

/// Crates that wait for something: an executor, a socket, a file, a process.
const WAITING: &[&str] = &[
    "async-std",
    "crossbeam-channel",
    "fs-err",
    "hyper",
    "libc",
    "mio",
    "nix",
    "notify",
    "polling",
    "reqwest",
    "rusqlite",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-util",
    "walkdir",
    "wasmtime",
    "windows-sys",
];

/// Crates that would drag a host into every plugin.
const HOST_SIDE: &[&str] = &["axum", "hyper", "reqwest", "rusqlite", "tokio", "wasmtime"];

const RINGS: &[Ring] = &[
    Ring {
        name: "words",
        crates: &[
            "mortise-abi",
            "mortise-contract",
            "mortise-lifecycle",
            "mortise-manifest",
            "mortise-routing",
            "mortise-section",
            "mortise-wire",
        ],
        looks_at: &["words"],
        bans: WAITING,
        pure: true,
    },
    // Of the port's ring, but the barrier that makes a call cheap is a system call.
    Ring {
        name: "hazard",
        crates: &["mortise-hazard"],
        looks_at: &[],
        bans: HOST_SIDE,
        pure: false,
    },
    // For both sides of a process boundary, and nothing but the system below it.
    Ring {
        name: "shm",
        crates: &["mortise-shm"],
        looks_at: &[],
        bans: HOST_SIDE,
        pure: false,
    },
    // Knows programs, paths and system calls, and nothing of plugins.
    Ring {
        name: "jail",
        crates: &["mortise-jail"],
        looks_at: &[],
        bans: HOST_SIDE,
        pure: false,
    },
    Ring {
        name: "port",
        crates: &["mortise-events", "mortise-runtime"],
        looks_at: &["words", "hazard"],
        bans: WAITING,
        pure: false,
    },
    // Another port: where configuration comes from. It knows no plugin but by its name.
    Ring {
        name: "config",
        crates: &["mortise-config"],
        looks_at: &[],
        bans: WAITING,
        pure: false,
    },
    // One technology that configuration comes from.
    Ring {
        name: "config sources",
        crates: &["mortise-config-etcd"],
        looks_at: &["words", "config"],
        bans: &["axum", "reqwest", "rusqlite", "wasmtime"],
        pure: false,
    },
    // One technology that keeps events. Of configuration it knows how secrets are referred to.
    Ring {
        name: "event brokers",
        crates: &["mortise-events-nats"],
        looks_at: &["words", "port", "config"],
        bans: &["axum", "reqwest", "rusqlite", "wasmtime"],
        pure: false,
    },
    // What two sides of a process boundary speak: the adapter on the host's side, the SDK's optional part on the plugin's.
    Ring {
        name: "protocols",
        crates: &["mortise-goplugin"],
        looks_at: &["words"],
        bans: &["axum", "reqwest", "rusqlite", "wasmtime"],
        pure: false,
    },
    Ring {
        name: "adapters",
        crates: &[
            "mortise-runtime-builtin",
            "mortise-runtime-native",
            "mortise-runtime-process",
            "mortise-runtime-wasm",
        ],
        looks_at: &["words", "hazard", "jail", "shm", "port", "protocols"],
        bans: &[],
        pure: false,
    },
    Ring {
        name: "store",
        crates: &["mortise-store"],
        looks_at: &["words", "port"],
        bans: &["tokio"],
        pure: false,
    },
    // Knows folders, files and times, and nothing of what they mean.
    Ring {
        name: "watch",
        crates: &["mortise-watch"],
        looks_at: &[],
        bans: HOST_SIDE,
        pure: false,
    },
    Ring {
        name: "host",
        crates: &["mortise-host"],
        looks_at: &["words", "hazard", "port", "config", "store", "watch"],
        bans: &["wasmtime"],
        pure: false,
    },
    Ring {
        name: "facade",
        crates: &["mortise"],
        looks_at: &[
            "words",
            "port",
            "adapters",
            "config sources",
            "event brokers",
            "store",
            "host",
        ],
        bans: &[],
        pure: false,
    },
    Ring {
        name: "edges",
        crates: &["mortise-gateway", "mortise-cli"],
        looks_at: &[
            "words",
            "port",
            "adapters",
            "store",
            "host",
            "facade",
            "edges",
            "guest side",
        ],
        bans: &[],
        pure: false,
    },
    Ring {
        name: "guest side",
        crates: &["mortise-sdk", "mortise-sdk-macros", "mortise-build"],
        looks_at: &["words", "shm", "guest side"],
        bans: HOST_SIDE,
        pure: false,
    },
    // A plugin author's first `cargo test` compiles it, so it has no more than a host needs.
    Ring {
        name: "test host",
        crates: &["mortise-testkit"],
        looks_at: &["words", "port", "adapters", "host", "guest side"],
        bans: &["aws-lc-rs", "axum", "reqwest", "wasmtime"],
        pure: false,
    },
    // The part of the guest side that is allowed sockets; no plugin has it unless it asks.
    Ring {
        name: "guest side with sockets",
        crates: &["mortise-sdk-go-plugin"],
        looks_at: &["words", "guest side", "protocols"],
        bans: &["axum", "reqwest", "rusqlite", "wasmtime"],
        pure: false,
    },
    Ring {
        name: "testing",
        crates: &["mortise-conformance", "mortise-e2e", "mortise-bench", "xtask"],
        looks_at: &[
            "words",
            "hazard",
            "jail",
            "port",
            "adapters",
            "store",
            "host",
            "facade",
            "edges",
            "guest side",
            "test host",
            "testing",
        ],
        bans: &[],
        pure: false,
    },
];

/// Parts of std that the pure ring does without, and what to do instead.
const WAITING_STD: &[(&str, &str)] = &[
    ("std::fs", "let the caller read the file and hand in its text"),
    ("std::thread", "let the host own every thread"),
    ("std::process::", "let the host own every process"),
    ("env::var", "let the caller hand the value in"),
    ("env::current", "let the caller hand the value in"),
    ("std::net::Tcp", "let an adapter own the socket"),
    ("std::net::Udp", "let an adapter own the socket"),
    ("std::os::", "say it in a crate that is about one system"),
    ("Instant::now", "let the caller hand the time in"),
    ("SystemTime::now", "let the caller hand the time in"),
];

pub(crate) fn run(_: &Args, workspace: &Workspace) -> Result<()> {
    let mut faults = Vec::new();
    for package in workspace.packages() {
        let Some(ring) = RINGS
            .iter()
            .find(|ring| ring.crates.contains(&package.name.as_str()))
        else {
            faults.push(Fault {
                rule: "every crate is in a ring",
                place: workspace.relative(package.manifest()).into_owned(),
                message: format!("`{}` is in no ring", package.name),
                fix: "add it to RINGS in xtask/src/layers.rs and to the table in ARCHITECTURE.md".to_owned(),
            });
            continue;
        };
        faults.extend(arrows(workspace, package, ring));
        faults.extend(banned_crates(workspace, package, ring)?);
        if ring.pure {
            faults.extend(waiting_std(workspace, package)?);
        }
    }
    report(
        "layers",
        &format!("{} crates in {} rings", workspace.packages().count(), RINGS.len()),
        faults,
    )
}

fn arrows(workspace: &Workspace, package: &Package, ring: &Ring) -> Vec<Fault> {
    let ours =
        |dependency: &&Dependency| dependency.path.is_some() && dependency.kind.as_deref() != Some("dev");
    let ring_of = |name: &str| RINGS.iter().find(|ring| ring.crates.contains(&name));
    // Plugins are users of ours, not parts; only tests, demos and the command that ships some may have them compiled in.
    let is_plugin = |dependency: &&Dependency| {
        dependency
            .path
            .as_ref()
            .is_some_and(|path| path.starts_with(workspace.root().join("plugins")))
    };
    let may_hold_plugins = ring.name == "testing" || package.name == "mortise-cli";
    let outward = |name: &str| ring_of(name).is_none_or(|other| !ring.looks_at.contains(&other.name));
    let dependencies = package
        .dependencies
        .iter()
        .filter(ours)
        .filter(|dependency| !(may_hold_plugins && is_plugin(dependency)))
        .filter(|dependency| outward(&dependency.name));
    let fault = |dependency: &Dependency| Fault {
        rule: "arrows between rings",
        place: workspace.relative(package.manifest()).into_owned(),
        message: format!(
            "`{}` (ring {}) depends on `{}` (ring {})",
            package.name,
            ring.name,
            dependency.name,
            ring_of(&dependency.name).map_or("none", |ring| ring.name),
        ),
        fix: match ring.looks_at {
            [] => "move what is needed inward; this ring depends on none of ours".to_owned(),
            rings => format!(
                "depend on a trait further in, or move what is needed; this ring may look at: {}",
                rings.join(", ")
            ),
        },
    };
    dependencies.map(fault).collect()
}

fn banned_crates(workspace: &Workspace, package: &Package, ring: &Ring) -> Result<Vec<Fault>> {
    if ring.bans.is_empty() {
        return Ok(Vec::new());
    }
    let below = crates_below(workspace, &package.name)?;
    let fault = |banned: &&str| Fault {
        rule: "crates that a ring does without",
        place: workspace.relative(package.manifest()).into_owned(),
        message: format!("`{}` (ring {}) pulls in `{banned}`", package.name, ring.name),
        fix: format!(
            "`cargo tree -e normal -p {} -i {banned}` shows the way; switch off the feature or move the code outward",
            package.name
        ),
    };
    Ok(ring
        .bans
        .iter()
        .filter(|banned| below.contains(**banned))
        .map(fault)
        .collect())
}

/// Every crate that is compiled into `package`, on any system.
fn crates_below(workspace: &Workspace, package: &str) -> Result<BTreeSet<String>> {
    let output = workspace
        .cargo()
        .args([
            "tree",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            package,
        ])
        .output()
        .context("cannot run `cargo tree`")?;
    if !output.status.success() {
        bail!(
            "`cargo tree -p {package}` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect())
}

fn waiting_std(workspace: &Workspace, package: &Package) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for path in rust_files(&package.folder().join("src"))? {
        if is_test_code(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        faults.extend(waiting_std_in(&workspace.relative(&path), &text));
    }
    Ok(faults)
}

fn waiting_std_in(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        for (word, fix) in WAITING_STD.iter().filter(|(word, _)| code.contains(word)) {
            faults.push(Fault {
                rule: "the pure ring waits for nothing",
                place: format!("{path}:{}", number + 1),
                message: format!("`{word}` in a crate of the ring of words"),
                fix: (*fix).to_owned(),
            });
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_crate_is_in_one_ring_and_rings_name_rings() {
        let names: Vec<&str> = RINGS.iter().map(|ring| ring.name).collect();
        let mut seen = BTreeSet::new();
        for ring in RINGS {
            assert!(
                ring.crates.iter().all(|name| seen.insert(*name)),
                "{} repeats a crate",
                ring.name
            );
            assert!(
                ring.looks_at.iter().all(|name| names.contains(name)),
                "{} looks at an unknown ring",
                ring.name
            );
        }
    }

    #[test]
    fn no_ring_reaches_itself_through_another() {
        // "Inward only" means that the rings have an order: whoever looks at a ring is not looked at by it.
        for ring in RINGS {
            let mut reached: Vec<&str> = ring
                .looks_at
                .iter()
                .copied()
                .filter(|name| *name != ring.name)
                .collect();
            let mut at = 0;
            while at < reached.len() {
                let next = RINGS
                    .iter()
                    .find(|other| other.name == reached[at])
                    .expect("the test above");
                assert!(
                    !next.looks_at.contains(&ring.name),
                    "{} and {} look at each other",
                    ring.name,
                    next.name
                );
                for name in next.looks_at {
                    if !reached.contains(name) {
                        reached.push(name);
                    }
                }
                at += 1;
            }
        }
    }

    #[test]
    fn finds_what_waits_and_skips_comments_and_tests() {
        let text = "use std::fs;\n// std::fs is fine here\nlet now = std::time::Instant::now();\n#[cfg(test)]\nuse std::thread;\n";
        let faults = waiting_std_in("lib.rs", text);
        let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
        assert_eq!(places, ["lib.rs:1", "lib.rs:3"]);
    }

    #[test]
    fn test_code_is_known_by_its_path() {
        assert!(is_test_code(Path::new("crates/x/src/tests.rs")));
        assert!(is_test_code(Path::new("crates/x/src/tests/a.rs")));
        assert!(!is_test_code(Path::new("crates/x/src/testsuite.rs")));
    }
}
