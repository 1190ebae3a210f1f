//! Pages that cannot lie: their tables are compared with what the code says.

use std::{collections::BTreeMap, fs, time::Duration};

use mortise::{
    Limits, ProbationPolicy, RestartPolicy, RuntimeName, Support,
    port::{Enforcement, Interrupt, Isolation},
    runtime::native::Generations,
};
use mortise_e2e::root;
use mortise_gateway::Options;
use mortise_store::{KvLimits, PackageLimits};

/// The cells of every table row of a page, headings and rules left out.
fn rows(page: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let rows = text
        .lines()
        .filter(|it| it.starts_with('|') && !it.starts_with("|--"));
    rows.map(|row| {
        row.trim_matches('|')
            .split('|')
            .map(|it| it.trim().to_owned())
            .collect()
    })
    .collect()
}

#[test]
fn defaults_are_as_documented() {
    const MIB: usize = 1 << 20;
    let ms = |it: Duration| it.as_millis().to_string();
    let s = |it: Duration| it.as_secs_f64().to_string();
    let mib = |bytes: u64| (bytes / MIB as u64).to_string();
    let limits = Limits::default();
    let edge = Options::default();
    let probation = ProbationPolicy::default();
    let restarts = RestartPolicy::default();
    let kv = KvLimits::default();
    let package = PackageLimits::default();
    let budget = Generations::default();
    let code = [
        ("`limits.memory_mib`", mib(limits.memory_bytes_max)),
        (
            "`limits.deadline_ms`, for a call that brings none",
            ms(limits.deadline),
        ),
        ("`limits.concurrency`", limits.concurrency.to_string()),
        (
            "`limits.payload_mib`, each way",
            mib(limits.payload_bytes_max as u64),
        ),
        ("`limits.start_ms`", ms(limits.start)),
        ("`limits.stop_ms`", ms(limits.stop)),
        ("`limits.term_ms`, of a process", ms(limits.term)),
        ("`limits.swap_ms`, of a plugin with state", ms(limits.swap)),
        (
            "`limits.cpu_percent`, of a process",
            limits
                .cpu_percent
                .map_or_else(|| "no bound".to_owned(), |it| it.to_string()),
        ),
        (
            "`limits.log_lines_per_second`",
            limits.log_lines_per_second.to_string(),
        ),
        (
            "largest body of `POST /rpc`, MiB",
            mib(edge.body_bytes_max as u64),
        ),
        (
            "entries of one JSON-RPC batch",
            edge.batch_entries_max.to_string(),
        ),
        ("entries of one batch at once", edge.batch_concurrency.to_string()),
        ("HTTP connections at once", edge.connections_max.to_string()),
        ("time for a request's head, s", s(edge.head_read)),
        ("time for a request's body, s", s(edge.body_read)),
        (
            "time for requests in flight when the host stops, s",
            s(edge.drain),
        ),
        (
            "longest deadline that a caller may ask for, s",
            s(edge.deadline_max),
        ),
        ("probation after a swap, s", s(probation.time)),
        ("probation after a swap, calls", probation.calls.to_string()),
        (
            "wait before the first restart after a crash, ms",
            ms(restarts.first),
        ),
        ("longest wait before a restart, s", s(restarts.longest)),
        ("longest key, bytes", kv.key_bytes_max.to_string()),
        (
            "largest value of a key, MiB",
            (kv.value_bytes_max / MIB).to_string(),
        ),
        ("keys of one plugin", kv.keys_max.to_string()),
        ("key-value data of one plugin, MiB", mib(kv.bytes_max)),
        ("largest `plugin.toml`, MiB", mib(package.manifest_bytes_max)),
        (
            "largest contract of a package, MiB",
            mib(package.contract_bytes_max),
        ),
        ("largest artifact, MiB", mib(package.artifact_bytes_max)),
        ("libraries mapped before a warning", budget.warn.to_string()),
        (
            "libraries mapped before new ones are refused",
            budget.max.to_string(),
        ),
    ];
    let code = code.map(|(name, value)| (name.to_owned(), value));
    let page = rows("docs/spec/limits.md").into_iter();
    let page = page.filter(|row| {
        row.last()
            .is_some_and(|it| it.contains("defaults_are_as_documented"))
    });
    let page: BTreeMap<_, _> = page.map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(page, BTreeMap::from(code));
}

/// What `Support` says of a runtime, in the words of docs/platforms.md.
fn words(support: &Support) -> Vec<String> {
    let isolation = match support.isolation {
        Isolation::None => "none",
        Isolation::Sandbox => "sandbox",
        Isolation::Process => "process",
    };
    let interrupt = match support.interrupt {
        Interrupt::Never => "caller only",
        Interrupt::Trap => "trap",
        Interrupt::Kill => "kill",
    };
    let enforced = |it: &Enforcement| match it {
        Enforcement::Enforced => "enforced".to_owned(),
        Enforcement::NotEnforced(_) => "no".to_owned(),
    };
    let lacks: Vec<_> = support.lacks.iter().map(|it| it.what).collect();
    let lacks = if lacks.is_empty() {
        "nothing".to_owned()
    } else {
        lacks.join(", ")
    };
    vec![
        format!("`{}`", support.runtime),
        isolation.into(),
        interrupt.into(),
        enforced(&support.memory_limit),
        enforced(&support.cpu_limit),
        enforced(&support.purity),
        lacks,
    ]
}

#[tokio::test]
async fn the_page_about_platforms_says_what_support_says() {
    let host = mortise::host()
        .runtime(mortise::runtime::builtin::BuiltinRuntime::new([]).unwrap())
        .start()
        .await
        .unwrap();
    let supports = host.supports();
    host.shutdown().await;
    let page = rows("docs/platforms.md");
    let (column, system) = match std::env::consts::OS {
        "linux" => (1, "Linux"),
        "windows" => (2, "Windows"),
        "macos" => (3, "macOS"),
        other => panic!("the page has no column for {other}"),
    };
    assert!(page[0][column].starts_with(system), "{page:?}");
    for runtime in RuntimeName::ALL {
        let support = supports.iter().find(|it| it.runtime == runtime).unwrap();
        let row = page
            .iter()
            .find(|row| row[0] == format!("`{runtime}`") && row.len() == 4)
            .unwrap();
        assert_eq!(
            support.available,
            !row[column].starts_with("not available"),
            "{runtime}: {row:?}"
        );
        // The details are those of Linux; on other systems more may be lacking.
        if system == "Linux" {
            let row = page
                .iter()
                .find(|row| row[0] == format!("`{runtime}`") && row.len() == 7);
            assert_eq!(row, Some(&words(support)), "docs/platforms.md, second table");
        }
    }
}
