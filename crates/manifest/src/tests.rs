//! Texts in, manifests or printed faults out.

use std::time::Duration;

use insta::assert_snapshot;
use proptest::prelude::*;
use semver::{Version, VersionReq};

use super::*;

const WHOLE: &str = r#"
[plugin]
name = "thumbnailer"
version = "1.2.0"
api = 1
description = "Small pictures"
[contract]
provides = ["acme.image.v1.Thumbnailer"]
[[requires]]
service = "acme.kv.v1.Store"
version = "^1.1"
[[requires]]
service = "acme.mail.v1.Mailer"
optional = true
lazy = true
[[variant]]
runtime = "wasm"
file = "thumbnailer.wasm"
[[variant]]
runtime = "native"
file = "thumbnailer.so"
[permissions]
kv = true
net.connect = ["api.example.com:443"]
fs.read = ["/var/lib/fonts"]
[limits]
memory_mib = 64
deadline_ms = 500
concurrency = 32
[state]
schema = "acme.image.v1.State"
"#;

fn whole() -> Manifest {
    let own = |text: &str| vec![text.to_owned()];
    Manifest {
        name: "thumbnailer".to_owned(),
        version: Version::new(1, 2, 0),
        api: 1,
        description: Some("Small pictures".to_owned()),
        pure: false,
        provides: own("acme.image.v1.Thumbnailer"),
        requires: vec![
            Requirement {
                service: "acme.kv.v1.Store".to_owned(),
                method: None,
                from: None,
                version: VersionReq::parse("^1.1").expect("a range"),
                optional: false,
                lazy: false,
                line: Line(8),
            },
            Requirement {
                service: "acme.mail.v1.Mailer".to_owned(),
                method: None,
                from: None,
                version: VersionReq::STAR,
                optional: true,
                lazy: true,
                line: Line(11),
            },
        ],
        subscribes: Vec::new(),
        variants: vec![
            Variant {
                runtime: RuntimeName::Wasm,
                file: "thumbnailer.wasm".to_owned(),
                dialect: None,
            },
            Variant {
                runtime: RuntimeName::Native,
                file: "thumbnailer.so".to_owned(),
                dialect: None,
            },
        ],
        adapt: Vec::new(),
        permissions: Permissions {
            net_connect: own("api.example.com:443"),
            fs_read: own("/var/lib/fonts"),
            fs_write: Vec::new(),
            kv: true,
            events_publish: Vec::new(),
            events_subscribe: Vec::new(),
        },
        limits: LimitsOverride {
            memory_bytes_max: Some(64 << 20),
            deadline: Some(Duration::from_millis(500)),
            concurrency: Some(32),
            ..LimitsOverride::default()
        },
        state_schema: Some("acme.image.v1.State".to_owned()),
        hooks: true,
        migrates: false,
        config: ConfigTerms::default(),
    }
}

pub(crate) fn manifest(text: &str) -> Manifest {
    Manifest::parse(text, "plugin.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

pub(crate) fn faults(text: &str) -> String {
    match Manifest::parse(text, "plugin.toml") {
        Ok(manifest) => panic!("no fault found in {manifest:?}"),
        Err(faults) => faults.to_string(),
    }
}

fn host_faults(text: &str) -> String {
    match HostConfig::parse(text, "mortise.toml") {
        Ok(config) => panic!("no fault found in {config:?}"),
        Err(faults) => faults.to_string(),
    }
}

/// The first lines of each fault, without the excerpt.
pub(crate) fn short(faults: &str) -> String {
    let keep = |line: &&str| {
        ["error:", "  -->", "hint:"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    faults.lines().filter(keep).collect::<Vec<_>>().join("\n")
}

#[test]
fn reads_every_key() {
    assert_eq!(manifest(WHOLE), whole());
}

#[test]
fn reads_the_least() {
    let least = manifest(
        "[plugin]\nname = \"echo\"\nversion = \"0.1.0\"\napi = 1\n[contract]\nprovides = [\"a.B\"]\n",
    );
    assert!(least.permissions.is_empty() && least.limits.is_empty() && least.variants.is_empty());
    assert_eq!(least.limits.apply(Limits::default()), Limits::default());
}

#[test]
fn writes_what_it_reads() {
    let text = whole().to_toml();
    assert_eq!(manifest(&text), whole());
    assert_snapshot!(text, @r#"
    [plugin]
    name = "thumbnailer"
    version = "1.2.0"
    api = 1
    description = "Small pictures"

    [contract]
    provides = ["acme.image.v1.Thumbnailer"]

    [[requires]]
    service = "acme.kv.v1.Store"
    version = "^1.1"

    [[requires]]
    service = "acme.mail.v1.Mailer"
    version = "*"
    optional = true
    lazy = true

    [[variant]]
    runtime = "wasm"
    file = "thumbnailer.wasm"

    [[variant]]
    runtime = "native"
    file = "thumbnailer.so"

    [permissions]
    kv = true
    net.connect = ["api.example.com:443"]
    fs.read = ["/var/lib/fonts"]

    [limits]
    memory_mib = 64
    deadline_ms = 500
    concurrency = 32

    [state]
    schema = "acme.image.v1.State"
    "#);
}

#[test]
fn reports_every_fault_at_once() {
    let text = r#"
[plugin]
nmae = "thumbnailer"
version = "1.2"
api = "1"
[contract]
provides = ["Thumbnailer", "acme.image.v1.Thumbnailer/Resize"]
[[requires]]
service = "acme.kv.v1.Store"
version = "one"
[[variant]]
runtime = "wsam"
file = "../thumbnailer.wasm"
[permissions]
net.conect = ["api.example.com"]
fs.read = ["fonts"]
[limits]
memory_mib = 0
deadline_ms = 500.5
"#;
    assert_snapshot!(faults(text), @r#"
    error: `[plugin]` has no `name`
      --> plugin.toml:2:1
       |
     2 | [plugin]
       | ^^^^^^^^
    hint: add `name = "my-plugin"`

    error: unknown key `nmae` in `[plugin]`
      --> plugin.toml:3:1
       |
     3 | nmae = "thumbnailer"
       | ^^^^
    hint: did you mean `name`?

    error: `1.2` is not a version: unexpected end of input while parsing minor version number
      --> plugin.toml:4:11
       |
     4 | version = "1.2"
       |           ^^^^^
    hint: write three numbers, such as `1.2.0`

    error: `api` is a string, and it must be an integer
      --> plugin.toml:5:7
       |
     5 | api = "1"
       |       ^^^

    error: `Thumbnailer` is not a service's full name: it has no package
      --> plugin.toml:7:13
       |
     7 | provides = ["Thumbnailer", "acme.image.v1.Thumbnailer/Resize"]
       |             ^^^^^^^^^^^^^
    hint: write it with its package, such as `acme.image.v1.Thumbnailer`

    error: `acme.image.v1.Thumbnailer/Resize` is not a service's full name: `/` separates a method from its service
      --> plugin.toml:7:28
       |
     7 | provides = ["Thumbnailer", "acme.image.v1.Thumbnailer/Resize"]
       |                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: name the service, `acme.image.v1.Thumbnailer`, without a method

    error: `one` is not a range of versions: unexpected character 'o' while parsing major version number
      --> plugin.toml:10:11
        |
     10 | version = "one"
        |           ^^^^^
    hint: write a range, such as `^1.1` or `>=1.1, <3`

    error: `wsam` is not a runtime here
      --> plugin.toml:12:11
        |
     12 | runtime = "wsam"
        |           ^^^^^^
    hint: did you mean `wasm`?

    error: `../thumbnailer.wasm` is not a plain file name
      --> plugin.toml:13:8
        |
     13 | file = "../thumbnailer.wasm"
        |        ^^^^^^^^^^^^^^^^^^^^^
    hint: name a file that lies beside plugin.toml, of letters, digits, `.`, `-`, `_` and `+`

    error: unknown key `conect` in `permissions.net`
      --> plugin.toml:15:5
        |
     15 | net.conect = ["api.example.com"]
        |     ^^^^^^
    hint: did you mean `connect`?

    error: `fonts` cannot be a permission: it is not absolute
      --> plugin.toml:16:12
        |
     16 | fs.read = ["fonts"]
        |            ^^^^^^^
    hint: write a whole path, such as `/var/lib/fonts`; a folder stands for everything below it

    error: `memory_mib` is 0, and it must be from 1 to 65536
      --> plugin.toml:18:14
        |
     18 | memory_mib = 0
        |              ^

    error: `deadline_ms` is a float, and it must be an integer
      --> plugin.toml:19:15
        |
     19 | deadline_ms = 500.5
        |               ^^^^^
    "#);
}

#[test]
fn an_empty_file_lists_what_must_be_there() {
    assert_snapshot!(faults(""), @r#"
    error: the file has no `[plugin]`
      --> plugin.toml:1:1
       |
     1 | 
       | ^
    hint: add `[plugin]`

    error: the file has no `[contract]`
      --> plugin.toml:1:1
       |
     1 | 
       | ^
    hint: add `[contract]` and `provides = ["acme.image.v1.Thumbnailer"]`
    "#);
}

#[test]
fn broken_syntax_does_not_hide_other_faults_nor_invent_missing_keys() {
    let text =
        "[plugin]\nname = \"thumbnailer\nversion = \"1.2\"\napi = 1\n[contract]\nprovides = [\"a.B\"]\n";
    assert_snapshot!(faults(text), @r#"
    error: invalid basic string, expected `"`
      --> plugin.toml:2:20
       |
     2 | name = "thumbnailer
       |                    ^

    error: `1.2` is not a version: unexpected end of input while parsing minor version number
      --> plugin.toml:3:11
       |
     3 | version = "1.2"
       |           ^^^^^
    hint: write three numbers, such as `1.2.0`
    "#);
}

#[test]
fn duplicates_are_faults() {
    let text = WHOLE
        .replace(
            "name = \"thumbnailer\"",
            "name = \"thumbnailer\"\nname = \"other\"",
        )
        .replace("runtime = \"native\"", "runtime = \"wasm\"")
        .replace("[\"api.example.com:443\"]", "[\"a.org:1\", \"a.org:1\"]");
    assert_snapshot!(short(&faults(&text)), @r"
    error: duplicate key
      --> plugin.toml:4:1
    error: there is already a variant for `wasm`
      --> plugin.toml:21:11
    hint: keep one `[[variant]]` per runtime
    error: `a.org:1` is in `connect` twice
      --> plugin.toml:25:27
    ");
}

#[test]
fn builtin_is_not_a_variant() {
    let text = WHOLE.replace("runtime = \"native\"", "runtime = \"builtin\"");
    assert_snapshot!(short(&faults(&text)), @r"
    error: `builtin` is not a runtime here
      --> plugin.toml:20:11
    hint: write `native`, `wasm` or `process`
    ");
}

#[test]
fn wrong_shapes_are_faults() {
    let text = "plugin = 1\ncontract = []\nrequires = {}\nvariant = [1]\npermissions = \"all\"\nlimits = [[]]\nstate = true\n";
    assert_snapshot!(short(&faults(text)), @r"
    error: `[plugin]` is an integer, and it must be a table
      --> plugin.toml:1:10
    error: `[contract]` is a list, and it must be a table
      --> plugin.toml:2:12
    error: `requires` is a table, and it must be a list; write `[[requires]]` for each
      --> plugin.toml:3:12
    error: `[[variant]]` is an integer, and it must be a table
      --> plugin.toml:4:12
    error: `[permissions]` is a string, and it must be a table
      --> plugin.toml:5:15
    error: `[limits]` is a list, and it must be a table
      --> plugin.toml:6:10
    error: `[state]` is true or false, and it must be a table
      --> plugin.toml:7:9
    ");
}

#[test]
fn marks_stand_under_what_they_mean() {
    let text = WHOLE.replace("name = \"thumbnailer\"", "\tname =\t\"ä✓\" # tabs\r");
    assert_snapshot!(faults(&text).replace('\t', "<TAB>"), @r#"
    error: `ä✓` is not a plugin's name: `\u{e4}` is not one of a-z, 0-9 and `-`
      --> plugin.toml:3:9
       |
     3 | <TAB>name =<TAB>"ä✓" # tabs
       | <TAB>      <TAB>^^^^
    "#);
}

#[test]
fn long_lines_are_cut_around_the_fault() {
    let text = WHOLE.replace(
        "\"api.example.com:443\"",
        &format!(
            "\"{}.org:443\", \"bad\", \"{}.org:1\"",
            "a".repeat(60),
            "b".repeat(90)
        ),
    );
    let printed = faults(&text);
    assert_snapshot!(printed, @r#"
    error: `bad` is not `host:port`: it has no port
      --> plugin.toml:24:88
        |
     24 | aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.org:443", "bad", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
        |                                                             ^^^^^
    hint: add the port, as in `api.example.com:443`

    error: `bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb…` is not `host:port`: `bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb…` is not a part of a DNS name
      --> plugin.toml:24:95
        |
     24 | aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.org:443", "bad", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
        |                                                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: a host is a DNS name (`api.example.com`), `*.` and a name, an IPv4 address, or an IPv6 address in brackets; write a name outside ASCII in its `xn--` form
    "#);
}

#[test]
fn bounds_come_before_parsing() {
    let long = format!("# {}", "x".repeat(1 << 20));
    assert_snapshot!(short(&faults(&long)), @r"
    error: the file has 1048578 bytes, and the most are 1048576
      --> plugin.toml:1:1
    ");
    let dotted = format!("{}b = 1", "a.".repeat(100_000));
    assert_snapshot!(short(&faults(&dotted)), @r"
    error: a key has more than 32 dots
      --> plugin.toml:1:66
    ");
    let quoted = format!("x = {{ {}b = 1 }}", "\"/\" . ".repeat(100_000));
    assert_snapshot!(short(&faults(&quoted)), @r"
    error: a key has more than 32 dots
      --> plugin.toml:1:203
    ");
    let brackets = format!("x = {}", "[".repeat(100_000));
    assert!(
        faults(&brackets).contains("max recursion depth"),
        "{}",
        short(&faults(&brackets))
    );
}

#[test]
fn a_report_has_an_end() {
    let text: String = (0..500).map(|n| format!("k{n} = 1\n")).collect();
    assert_eq!(
        Manifest::parse(&text, "plugin.toml")
            .expect_err("unknown keys")
            .len(),
        50
    );
}

#[test]
fn points_at_a_declared_permission() {
    let permission = Permission::NetConnect("api.example.com:443".to_owned());
    let message = "it declares `net.connect=api.example.com:443`, and no grant allows it";
    let diagnostic = Diagnostic::of_permission(WHOLE, "plugin.toml", &permission, message, None);
    assert_snapshot!(diagnostic.to_string(), @r#"
    error: it declares `net.connect=api.example.com:443`, and no grant allows it
      --> plugin.toml:24:16
        |
     24 | net.connect = ["api.example.com:443"]
        |                ^^^^^^^^^^^^^^^^^^^^^
    "#);
    let kv = Diagnostic::of_permission(WHOLE, "plugin.toml", &Permission::Kv, "no", None);
    assert_eq!((kv.line, kv.column), (23, 6));
    let absent = Diagnostic::of_permission("", "plugin.toml", &Permission::Kv, "no", None);
    assert_eq!((absent.line, absent.column), (1, 1));
}

#[test]
fn a_diagnostic_is_json_for_programs() {
    let diagnostic = Diagnostic::of_file("plugin.toml", "cannot be read", Some("create it".to_owned()));
    let json = serde_json::to_string(&Diagnostics::from(diagnostic)).expect("plain values");
    assert_snapshot!(json, @r#"[{"file":"plugin.toml","line":1,"column":1,"message":"cannot be read","hint":"create it"}]"#);
}

// === mortise.toml ===

const HOST: &str = r#"
[host]
data_dir = "/var/lib/mortise"
control_socket = "/run/mortise/control.sock"
[gateway]
listen = "127.0.0.1:7070"
[runtime]
prefer = ["process", "wasm"]
[routing]
propagate = ["X-Canary-Version", "baggage"]
[[plugin]]
name = "thumbnailer"
source = "plugins/thumbnailer-1.2.0"
runtime = "wasm"
grant = { kv = true, net.connect = ["api.example.com:443"] }
limits = { memory_mib = 64, deadline_ms = 500, concurrency = 32 }
config = { quality = 80, sharpen = 0.5, sizes = [1, 2], since = 2020-01-01, deep = { on = true, text = "\"" } }
[[plugin]]
source = "builtin:echo"
[[plugin]]
source = "embedded:echo"
name = "echo-2"
"#;

#[test]
fn reads_a_host_config() {
    let config = HostConfig::parse(HOST, "mortise.toml").unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(
        config.host.control_socket.as_deref(),
        Some("/run/mortise/control.sock")
    );
    assert_eq!(config.gateway.expect("given").listen.port(), 7070);
    assert_eq!(config.prefer, [RuntimeName::Process, RuntimeName::Wasm]);
    assert_eq!(config.routing.propagate, ["x-canary-version", "baggage"]);
    let [thumbnailer, echo, embedded] = config.plugins.as_slice() else {
        panic!("three plugins")
    };
    assert_eq!(
        thumbnailer.source,
        PackageSource::Folder("plugins/thumbnailer-1.2.0".to_owned())
    );
    assert_eq!(thumbnailer.runtime, Some(RuntimeName::Wasm));
    assert!(thumbnailer.grant.permissions.kv && thumbnailer.grant.allows_connect("API.example.com", 443));
    assert_eq!(thumbnailer.limits.deadline, Some(Duration::from_millis(500)));
    let json = thumbnailer.config_json.as_deref();
    let expected =
        r#"{"deep":{"on":true,"text":"\""},"quality":80,"sharpen":0.5,"since":"2020-01-01","sizes":[1,2]}"#;
    assert_eq!(json, Some(expected));
    assert_eq!(echo.source, PackageSource::Builtin("echo".to_owned()));
    assert_eq!(embedded.source.to_string(), "embedded:echo");
}

#[test]
fn the_jail_is_on_unless_the_operator_says_off() {
    let text = r#"
[runtime.process]
require = ["landlock", "seccomp"]
system = ["/opt/lib"]
[[plugin]]
source = "a"
[[plugin]]
name = "trusted"
source = "b"
jail = "off"
"#;
    let config = HostConfig::parse(text, "mortise.toml").expect("sound");
    assert_eq!(config.process.require, ["landlock", "seccomp"]);
    assert_eq!(config.process.system, ["/opt/lib"]);
    let jails: Vec<Jail> = config.plugins.iter().map(|it| it.grant.jail).collect();
    assert_eq!(jails, [Jail::On, Jail::Off]);
    let faults = host_faults(
        "[runtime.process]\nrequire = [\"secomp\"]\nsystem = [\"lib\"]\n[[plugin]]\nsource = \"a\"\njail = \"maybe\"\n",
    );
    for said in [
        "the jail has no layer `secomp`",
        "did you mean `seccomp`?",
        "`lib` is not a whole path",
        "`maybe` is no word for a jail",
        "write `on`, which is the default, or `off` for a plugin that you trust like the host",
    ] {
        assert!(faults.contains(said), "{said} in {faults}");
    }
}

#[test]
fn a_watched_directory_and_the_terms_of_its_plugins() {
    let text = r#"
[host]
keep_packages = 3
[watch]
dir = "plugins"
quiet_ms = 100
poll_ms = 2000
[watch.defaults]
runtime = "wasm"
jail = "off"
[[plugin]]
name = "thumbnailer"
grant = { kv = true }
config = { quality = 80 }
[[plugin]]
name = "elsewhere"
source = "builtin:ping"
"#;
    let config = HostConfig::parse(text, "mortise.toml").unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((config.host.keep_packages, config.plugins.len()), (Some(3), 1));
    let watch = config.watch.expect("given");
    assert_eq!(
        (&*watch.dir, watch.quiet.as_millis(), watch.poll),
        ("plugins", 100, Some(Duration::from_secs(2)))
    );
    let terms = watch.terms("thumbnailer");
    assert_eq!(
        (terms.runtime, terms.grant.jail, terms.grant.permissions.kv),
        (None, Jail::On, true)
    );
    assert_eq!(terms.config_json.as_deref(), Some("{\"quality\":80}"));
    let others = watch.terms("other");
    assert_eq!(
        (others.runtime, others.grant.jail),
        (Some(RuntimeName::Wasm), Jail::Off)
    );
    let faults =
        host_faults("[watch]\nquiet_ms = 1\n[watch.defaults]\nsource = \"x\"\n[[plugin]]\ngrant = {}\n");
    for said in [
        "`[watch]` has no `dir`",
        "`quiet_ms` is 1",
        "unknown key `source`",
        "`[[plugin]]` has no `source`",
    ] {
        assert!(faults.contains(said), "{said} in {faults}");
    }
    let faults = host_faults("[[plugin]]\nname = \"thumbnailer\"\n");
    assert!(
        faults.contains("`[[plugin]]` has no `source`"),
        "nothing is watched: {faults}"
    );
}

#[test]
fn restarts_and_the_stop_ladder_are_the_operators_to_say() {
    let text = r#"
[[plugin]]
source = "a"
[[plugin]]
name = "job"
source = "b"
restart = "never"
limits = { stop_ms = 100, term_ms = 50, cpu_percent = 250 }
"#;
    let config = HostConfig::parse(text, "mortise.toml").expect("sound");
    let restarts: Vec<Restart> = config.plugins.iter().map(|it| it.restart).collect();
    assert_eq!(restarts, [Restart::OnFailure, Restart::Never]);
    let limits = config.plugins[1].limits.apply(Limits::default());
    assert_eq!(
        (limits.stop, limits.term, limits.cpu_percent),
        (Duration::from_millis(100), Duration::from_millis(50), Some(250))
    );
    for restart in Restart::ALL {
        assert_eq!(Restart::parse(restart.as_str()), Some(restart));
    }
    let faults = host_faults(
        "[[plugin]]\nsource = \"a\"\nrestart = \"sometimes\"\nlimits = { cpu_percent = 0, term_ms = 0 }\n",
    );
    for said in [
        "`sometimes` does not say when to restart",
        "write `never`, `on-failure`, which is the default, or `always`",
        "cpu_percent",
        "term_ms",
    ] {
        assert!(faults.contains(said), "{said} in {faults}");
    }
}

#[test]
fn an_empty_host_config_is_the_default() {
    assert_eq!(HostConfig::parse("", "mortise.toml"), Ok(HostConfig::default()));
}

#[test]
fn reports_every_fault_of_a_host_config() {
    let text = r#"
[host]
data-dir = "/var/lib/mortise"
[gateway]
listen = "7070"
[runtime]
prefer = ["wasm", "docker"]
[routing]
propagate = ["x canary"]
[[plugin]]
name = "Thumbnailer"
source = "embedded:../../etc"
runtime = "builtin"
grant = { net = "all" }
config = [1]
[[plugin]]
source = "builtin:echo"
runtime = "wasm"
config = { weight = inf, big = 99999999999999999999 }
[[plugin]]
source = ""
name = "Thumbnailer"
[[plugins]]
"#;
    assert_snapshot!(host_faults(text), @r#"
    error: unknown key `data-dir` in `[host]`
      --> mortise.toml:3:1
       |
     3 | data-dir = "/var/lib/mortise"
       | ^^^^^^^^
    hint: did you mean `data_dir`?

    error: `7070` is not an address to listen on
      --> mortise.toml:5:10
       |
     5 | listen = "7070"
       |          ^^^^^^
    hint: write an IP address and a port, such as `127.0.0.1:7070` or `[::]:7070`

    error: `docker` is not a runtime here
      --> mortise.toml:7:19
       |
     7 | prefer = ["wasm", "docker"]
       |                   ^^^^^^^^
    hint: write `native`, `wasm` or `process`

    error: `x canary` is not a header's name
      --> mortise.toml:9:14
       |
     9 | propagate = ["x canary"]
       |              ^^^^^^^^^^

    error: `Thumbnailer` is not a plugin's name: `T` is not one of a-z, 0-9 and `-`
      --> mortise.toml:11:8
        |
     11 | name = "Thumbnailer"
        |        ^^^^^^^^^^^^^
    hint: `thumbnailer` would do

    error: `../../etc` is not a plugin's name: `.` is not one of a-z, 0-9 and `-`
      --> mortise.toml:12:10
        |
     12 | source = "embedded:../../etc"
        |          ^^^^^^^^^^^^^^^^^^^^
    hint: `etc` would do

    error: `builtin` is not a runtime here
      --> mortise.toml:13:11
        |
     13 | runtime = "builtin"
        |           ^^^^^^^^^
    hint: write `native`, `wasm` or `process`

    error: `plugin.grant.net` is a string, and it must be a table
      --> mortise.toml:14:17
        |
     14 | grant = { net = "all" }
        |                 ^^^^^

    error: `config` is a list, and it must be a table
      --> mortise.toml:15:10
        |
     15 | config = [1]
        |          ^^^

    error: `wasm` is not a runtime here
      --> mortise.toml:18:11
        |
     18 | runtime = "wasm"
        |           ^^^^^^
    hint: write `builtin`

    error: `inf` has no form in JSON, and a plugin's config is JSON
      --> mortise.toml:19:21
        |
     19 | config = { weight = inf, big = 99999999999999999999 }
        |                     ^^^

    error: 99999999999999999999 does not fit 64 bits
      --> mortise.toml:19:32
        |
     19 | config = { weight = inf, big = 99999999999999999999 }
        |                                ^^^^^^^^^^^^^^^^^^^^

    error: this is not a path
      --> mortise.toml:21:10
        |
     21 | source = ""
        |          ^^

    error: there is already a plugin named `Thumbnailer`
      --> mortise.toml:22:8
        |
     22 | name = "Thumbnailer"
        |        ^^^^^^^^^^^^^
    hint: give each its own `name`; the same package may run under several names

    error: `Thumbnailer` is not a plugin's name: `T` is not one of a-z, 0-9 and `-`
      --> mortise.toml:22:8
        |
     22 | name = "Thumbnailer"
        |        ^^^^^^^^^^^^^
    hint: `thumbnailer` would do

    error: unknown key `plugins` in the file
      --> mortise.toml:23:3
        |
     23 | [[plugins]]
        |   ^^^^^^^
    hint: did you mean `plugin`?
    "#);
}

// === properties ===

fn services() -> impl Strategy<Value = String> {
    "[a-z_]{1,5}(\\.[a-zA-Z_][a-z0-9_]{0,5}){1,3}"
}

prop_compose! {
    fn manifests()(
        name in "[a-z][a-z0-9-]{1,20}",
        version in (0u64..9, 0u64..9, 0u64..9),
        api in 1u32..9,
        description in proptest::option::of("[^\\r\\n]{0,20}"),
        provides in proptest::collection::btree_set(services(), 1..4),
        requires in proptest::collection::btree_map((services(), proptest::option::of("[A-Z][a-z]{1,5}")), (0u64..9, any::<bool>(), any::<bool>()), 0..3),
        runtimes in proptest::sample::subsequence(RuntimeName::BUILT.to_vec(), 0..=3),
        ports in proptest::collection::btree_set(1u16.., 0..3),
        paths in proptest::collection::btree_set("/[^\0/.]{1,8}", 0..3),
        kv: bool,
        limits in (proptest::option::of(1u64..65_536), proptest::option::of(1u64..3_600_000), proptest::option::of(0u32..1000), proptest::option::of(1u32..100_000)),
        state_schema in proptest::option::of(services()),
        hooks: bool,
        migrates: bool,
        config in (proptest::option::of(services()), any::<bool>()),
        dialect in proptest::option::of(dialect::tests::go_plugins()),
        subscribes in proptest::collection::btree_map("[a-z_-]{1,8}", (1u32..=100, 1u64..3_600_000, 1u32..=256, any::<bool>(), any::<bool>()), 0..3),
    ) -> Manifest {
        let method = format!("{}/Take", provides.first().expect("at least one"));
        let dialect = |runtime| dialect.clone().filter(|_| runtime == RuntimeName::Process).map(Dialect::GoPlugin);
        Manifest {
            variants: runtimes.iter().map(|runtime| Variant { runtime: *runtime, file: format!("{name}.{runtime}"), dialect: dialect(*runtime) }).collect(),
            adapt: Vec::new(),
            name,
            version: Version::new(version.0, version.1, version.2),
            api,
            description,
            pure: false,
            provides: provides.into_iter().collect(),
            requires: requires.into_iter().map(|((service, method), (major, optional, lazy))| Requirement {
                service,
                method,
                from: None,
                line: Line(0),
                version: VersionReq::parse(&format!(">={major}, <99")).expect("a range"),
                optional,
                lazy,
            }).collect(),
            subscribes: subscribes.iter().map(|(group, (attempts, ms, concurrency, oldest, ordered))| SubscribeEntry {
                topic: format!("{group}.*.>"),
                method: method.clone(),
                group: group.clone(),
                from: if *oldest { SubscribeFrom::Oldest } else { SubscribeFrom::New },
                attempts: *attempts,
                backoff: Duration::from_millis(*ms),
                backoff_max: Duration::from_millis(*ms * 2),
                concurrency: *concurrency,
                ordered: *ordered,
            }).collect(),
            permissions: Permissions {
                net_connect: ports.into_iter().map(|port| format!("*.a.org:{port}")).collect(),
                fs_read: paths.iter().cloned().collect(),
                fs_write: paths.into_iter().collect(),
                kv,
                events_publish: vec![">".to_owned()],
                events_subscribe: subscribes.keys().map(|it| format!("{it}.>")).collect(),
            },
            limits: LimitsOverride {
                memory_bytes_max: limits.0.map(|mib| mib << 20),
                stop: limits.1.map(|ms| Duration::from_millis(ms.min(600_000))),
                term: limits.1.map(|ms| Duration::from_millis(ms.min(600_000))),
                log_lines_per_second: limits.2,
                cpu_percent: limits.3,
                ..LimitsOverride::default()
            },
            hooks: hooks || state_schema.is_some(),
            migrates: migrates && state_schema.is_some(),
            config: ConfigTerms { message: config.0, hot: config.1 },
            state_schema,
        }
    }
}

#[test]
fn a_plugin_has_state_or_hooks_only_or_neither() {
    let begin =
        "[plugin]\nname = \"abc\"\nversion = \"1.0.0\"\napi = 1\n[contract]\nprovides = [\"a.v1.B\"]\n";
    let read = |state: &str| {
        let it = manifest(&format!("{begin}{state}"));
        (it.state_schema, it.hooks, it.migrates)
    };
    assert_eq!(read(""), (None, false, false));
    assert_eq!(read("[state]\nhooks = true\n"), (None, true, false));
    assert_eq!(
        read("[state]\nschema = \"a.v1.S\"\nmigrates = true\n"),
        (Some("a.v1.S".to_owned()), true, true)
    );
    for (state, fault) in [
        ("[state]\n", "`schema`"),
        (
            "[state]\nhooks = false\nschema = \"a.v1.S\"\n",
            "`hooks` is false",
        ),
        (
            "[state]\nhooks = true\nmigrates = true\n",
            "`migrates` without a `schema`",
        ),
    ] {
        let text = faults(&format!("{begin}{state}"));
        assert!(text.contains(fault), "{state}: {text}");
    }
}

/// Lines that look like a manifest, in any order, so that readers are reached and not only the parser.
fn nearly_manifests() -> impl Strategy<Value = String> {
    let lines = WHOLE
        .lines()
        .chain(HOST.lines())
        .chain(dialect::tests::WHOLE.lines());
    let lines: Vec<&'static str> = lines.collect();
    let line = prop_oneof![
        4 => proptest::sample::select(lines).prop_map(str::to_owned),
        1 => "[a-z.]{1,12} = (-?[0-9]{1,30}|\"[^\"]{0,12}\"|\\[\\]|\\{\\}|inf|0x[0-9a-f]{1,20})",
        1 => ".{0,20}",
    ];
    proptest::collection::vec(line, 0..40).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof![any::<String>(), nearly_manifests()]) {
        for faults in [Manifest::parse(&text, "plugin.toml").err(), HostConfig::parse(&text, "mortise.toml").err()] {
            let Some(faults) = faults else { continue };
            prop_assert!(!faults.is_empty(), "an error has a reason");
            prop_assert!(faults.to_string().contains("error: "));
            let places: Vec<(u32, u32)> = faults.iter().map(|fault| (fault.line, fault.column)).collect();
            prop_assert!(places.is_sorted(), "faults come in the order of the text: {places:?}");
        }
    }

    #[test]
    fn written_manifests_read_the_same(manifest in manifests()) {
        let text = manifest.to_toml();
        prop_assert_eq!(Manifest::parse(&text, "plugin.toml").map_err(|faults| faults.to_string()), Ok(manifest), "{}", text);
    }

    #[test]
    fn an_intersection_is_allowed_by_both(a in manifests(), b in manifests()) {
        let both = a.permissions.intersection(&b.permissions);
        prop_assert!(both.is_subset(&a.permissions) && both.is_subset(&b.permissions));
        prop_assert!(a.permissions.is_subset(&a.permissions.intersection(&a.permissions)));
        prop_assert_eq!(&both, &b.permissions.intersection(&a.permissions));
    }
}

#[test]
fn the_lane_of_processes_is_one_of_a_few_words() {
    let parse = |text: &str| HostConfig::parse(text, "mortise.toml");
    assert_eq!(parse("").unwrap().process.lane, ProcessLane::Auto);
    for lane in ProcessLane::ALL {
        let text = format!("[runtime.process]\nlane = \"{}\"\n", lane.as_str());
        assert_eq!(parse(&text).unwrap().process.lane, lane);
    }
    let faults = parse("[runtime.process]\nlane = \"turbo\"\n")
        .unwrap_err()
        .to_string();
    assert!(faults.contains("`turbo` is no lane"), "{faults}");
}

#[test]
fn requirements_name_methods_and_know_their_lines() {
    let begin = "[plugin]\nname = \"a-b\"\nversion = \"1.0.0\"\napi = 1\n[contract]\nprovides = [\"x.A\"]\n";
    let parse = |more: &str| Manifest::parse(&format!("{begin}{more}"), "plugin.toml");
    let good = parse(
        "\n[[requires]]\nservice = \"x.B\"\nmethod = \"Get\"\nfrom = \"x.A/Do\"\nversion = \"^1\"\n\
         [[requires]]\nservice = \"x.B\"\nlazy = true\n",
    )
    .expect("it is good");
    let lines: Vec<u32> = good.requires.iter().map(|it| it.line.0).collect();
    assert_eq!(lines, [8, 13]);
    let [one, any] = good.requires.as_slice() else {
        panic!("two")
    };
    assert_eq!(
        (one.target(), one.from.as_deref()),
        ("x.B/Get".to_owned(), Some("x.A/Do"))
    );
    assert!(one.allows("x.B", "Get") && !one.allows("x.B", "Set") && any.allows("x.B", "Set"));
    assert!(one.is_hard() && !any.is_hard());
    let again = Manifest::parse(&good.to_toml(), "plugin.toml").expect("it is its own text");
    assert_eq!(again, good, "where it is written is no part of what it says");
    let bad = "[[requires]]\nservice = \"x.B\"\nmethod = \"Get/Set\"\n[[requires]]\nservice = \"x.B\"\nfrom = \"Resize\"\n\
               [[requires]]\nservice = \"x.B\"\nfrom = \"x.C/M\"\n[[requires]]\nservice = \"x.B\"\nmethod = \"Get\"\n\
               [[requires]]\nservice = \"x.B\"\nmethod = \"Get\"\nversion = \"^2\"\n";
    assert_snapshot!(short(&faults(&format!("{begin}{bad}"))), @r"
    error: `Get/Set` is not the name of a method
      --> plugin.toml:9:10
    hint: write its name alone, such as `Get`, and its service into `service`
    error: `Resize` is not a method
      --> plugin.toml:12:8
    hint: write `package.Service/Method`, one that this plugin provides
    error: this plugin does not provide `x.C`
      --> plugin.toml:15:8
    hint: `from` names the method that makes the call, of one of x.A
    error: `x.B/Get` is required twice, first in line 16
      --> plugin.toml:19:1
    hint: keep one `[[requires]]` with the range that both mean
    ");
}

// === routes ===

#[test]
fn reads_routes() {
    let text = r#"
[[route]]
name = "testers"
service = "acme.image.v1.Thumbnailer"
method = "Resize"
headers = { X-Canary = "yes", x-user = { prefix = "t-" }, x-app = { regex = "2\\.\\d+", not = true }, x-bot = { present = true } }
to = "thumbnailer@1.3.0"
[[route]]
plugin = "thumbnailer"
split = { "1.2.0" = 90, "1.3.0" = 10, thumbnailer = 1 }
sticky = "X-User-Id"
"#;
    let routes = HostConfig::parse(text, "mortise.toml").expect("sound").routes;
    let [testers, split] = routes.as_slice() else {
        panic!("{routes:?}")
    };
    assert_eq!(
        serde_json::to_string(testers).expect("serializes"),
        r#"{"name":"testers","service":"acme.image.v1.Thumbnailer","method":"Resize","headers":{"x-app":{"regex":"2\\.\\d+","not":true},"x-bot":{"present":true},"x-canary":"yes","x-user":{"prefix":"t-"}},"to":"thumbnailer@1.3.0"}"#
    );
    for route in &routes {
        let text = serde_json::to_string(route).expect("serializes");
        assert_eq!(serde_json::from_str::<RouteEntry>(&text).expect("reads"), *route);
        assert_eq!(route.faults(), []);
    }
    assert_eq!(split.name, "route-2");
    let shares: Vec<_> = split
        .shares()
        .into_iter()
        .map(|it| (it.plugin, it.version.map(|it| it.to_string()), it.weight))
        .collect();
    let of = |version: Option<&str>, weight| ("thumbnailer".to_owned(), version.map(str::to_owned), weight);
    assert_eq!(
        shares,
        [of(Some("1.2.0"), 90), of(Some("1.3.0"), 10), of(None, 1)]
    );
    assert_eq!(split.sticky.as_deref(), Some("x-user-id"));
}

#[test]
fn reports_every_fault_of_a_route() {
    let text = r#"
[[route]]
name = "two words"
service = "Thumbnailer!"
method = "a/b"
to = "thumb@new"
sticky = "x-user"
[[route]]
method = "Resize"
headers = { "x user" = "a", x-app = { regex = "2(" }, x-b = { prefix = "a", exact = "b" }, x-c = 7, x-d = { prefx = "a" }, x-e = { prefix = 7 } }
[[route]]
name = "a"
plugin = "thumb"
service = "a.B"
split = { "1.2" = 1, other = 2, "1.3.0" = -1, "1.4.0" = "x" }
[[route]]
name = "a"
plugin = "thumb"
to = "thumb"
split = { "1.2.0" = 1 }
[[route]]
plugin = "thumb"
split = { "1.2.0" = 0 }
colour = "red"
[[route]]
split = { "1.2.0" = 1 }
"#;
    assert_snapshot!(host_faults(text), @r#"
    error: `two words` is not a route's name
      --> mortise.toml:3:8
       |
     3 | name = "two words"
       |        ^^^^^^^^^^^
    hint: write at most 64 letters, digits, `.`, `_` and `-`

    error: `Thumbnailer!` is not a service's full name: the part `Thumbnailer!` is not an identifier
      --> mortise.toml:4:11
       |
     4 | service = "Thumbnailer!"
       |           ^^^^^^^^^^^^^^

    error: `a/b` is not a method's name
      --> mortise.toml:5:10
       |
     5 | method = "a/b"
       |          ^^^^^
    hint: write it without its service

    error: `new` is not a version: unexpected character 'n' while parsing major version number
      --> mortise.toml:6:6
       |
     6 | to = "thumb@new"
       |      ^^^^^^^^^^^
    hint: write `name` or `name@1.3.0`

    error: there is no split whose calls could stay together
      --> mortise.toml:7:10
       |
     7 | sticky = "x-user"
       |          ^^^^^^^^
    hint: leave `sticky` out, or write `split` instead of `to`

    error: the route leads nowhere
      --> mortise.toml:8:1
       |
     8 | [[route]]
       | ^^^^^^^^^
    hint: add `to = "name@1.3.0"` or `split = { "1.2.0" = 90, "1.3.0" = 10 }`

    error: a method of which service?
      --> mortise.toml:9:10
       |
     9 | method = "Resize"
       |          ^^^^^^^^
    hint: add `service = "package.Service"`

    error: `x user` is not a header's name
      --> mortise.toml:10:24
        |
     10 | headers = { "x user" = "a", x-app = { regex = "2(" }, x-b = { prefix = "a", exact = "b" }, x-c = 7, x-d = { prefx = "a" 
        |                        ^^^

    error: `2(` is no pattern: unclosed group
      --> mortise.toml:10:37
        |
     10 | headers = { "x user" = "a", x-app = { regex = "2(" }, x-b = { prefix = "a", exact = "b" }, x-c = 7, x-d = { prefx = "a" 
        |                                     ^^^^^^^^^^^^^^^^
    hint: write a regular expression over the whole value, such as `2\.\d+`

    error: `x-b` is tested in no way, or in several
      --> mortise.toml:10:61
        |
     10 | headers = { "x user" = "a", x-app = { regex = "2(" }, x-b = { prefix = "a", exact = "b" }, x-c = 7, x-d = { prefx = "a" 
        |                                                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: write a string, or one of `exact`, `prefix`, `regex` and `present`

    error: `x-c` is an integer, and it must be a string, or a table with one of `exact`, `prefix`, `regex` and `present`
      --> mortise.toml:10:98
        |
     10 |  regex = "2(" }, x-b = { prefix = "a", exact = "b" }, x-c = 7, x-d = { prefx = "a" }, x-e = { prefix = 7 } }
        |                                                             ^

    error: `x-d` is tested in no way, or in several
      --> mortise.toml:10:107
        |
     10 | "2(" }, x-b = { prefix = "a", exact = "b" }, x-c = 7, x-d = { prefx = "a" }, x-e = { prefix = 7 } }
        |                                                             ^^^^^^^^^^^^^^^
    hint: write a string, or one of `exact`, `prefix`, `regex` and `present`

    error: unknown key `prefx` in `route.headers.x-d`
      --> mortise.toml:10:109
        |
     10 | (" }, x-b = { prefix = "a", exact = "b" }, x-c = 7, x-d = { prefx = "a" }, x-e = { prefix = 7 } }
        |                                                             ^^^^^
    hint: did you mean `prefix`?

    error: `prefix` is an integer, and it must be a string
      --> mortise.toml:10:141
        |
     10 | t = "b" }, x-c = 7, x-d = { prefx = "a" }, x-e = { prefix = 7 } }
        |                                                             ^

    error: a route is about a service or about a plugin, not both
      --> mortise.toml:13:10
        |
     13 | plugin = "thumb"
        |          ^^^^^^^
    hint: leave one of them out

    error: `1.2` is not a version: unexpected end of input while parsing minor version number
      --> mortise.toml:15:19
        |
     15 | split = { "1.2" = 1, other = 2, "1.3.0" = -1, "1.4.0" = "x" }
        |                   ^
    hint: write a version of `plugin`, `name` or `name@1.3.0`

    error: the route is about plugin `thumb` and leads to `other`
      --> mortise.toml:15:30
        |
     15 | split = { "1.2" = 1, other = 2, "1.3.0" = -1, "1.4.0" = "x" }
        |                              ^
    hint: write a version of `plugin`, `name` or `name@1.3.0`

    error: `1.3.0` is -1, and it must be from 0 to 1000000
      --> mortise.toml:15:43
        |
     15 | split = { "1.2" = 1, other = 2, "1.3.0" = -1, "1.4.0" = "x" }
        |                                           ^^

    error: `1.4.0` is a string, and it must be an integer
      --> mortise.toml:15:57
        |
     15 | split = { "1.2" = 1, other = 2, "1.3.0" = -1, "1.4.0" = "x" }
        |                                                         ^^^

    error: there is already a route named `a`
      --> mortise.toml:17:8
        |
     17 | name = "a"
        |        ^^^
    hint: give each its own `name`

    error: a route has `to` or `split`, not both
      --> mortise.toml:20:9
        |
     20 | split = { "1.2.0" = 1 }
        |         ^^^^^^^^^^^^^^^
    hint: leave one of them out

    error: all weights are 0
      --> mortise.toml:23:9
        |
     23 | split = { "1.2.0" = 0 }
        |         ^^^^^^^^^^^^^^^
    hint: give at least one part a weight

    error: unknown key `colour` in `[[route]]`
      --> mortise.toml:24:1
        |
     24 | colour = "red"
        | ^^^^^^
    hint: known here: `name`, `service`, `method`, `plugin`, `to`, `sticky`, `headers` or `split`

    error: `1.2.0` is a version of no plugin
      --> mortise.toml:26:21
        |
     26 | split = { "1.2.0" = 1 }
        |                     ^
    hint: write a version of `plugin`, `name` or `name@1.3.0`
    "#);
}

#[test]
fn reads_webhooks_and_shows_no_url_of_a_bad_one() {
    let text = "[[canary.webhook]]\nurl = \"https://hooks.example.com/T0/secret\"\nsecret_file = \"key\"\nform = \"chat\"\n\
                [[canary.webhook]]\nurl = \"http://localhost:1\"\n";
    let webhooks = HostConfig::parse(text, "mortise.toml")
        .expect("sound")
        .canary
        .webhooks;
    assert_eq!(
        (webhooks[0].form, webhooks[0].secret_file.as_deref()),
        (WebhookForm::Chat, Some("key"))
    );
    assert_eq!(
        (webhooks[1].form, &*webhooks[1].url),
        (WebhookForm::Json, "http://localhost:1")
    );
    for url in ["ftp://a", "https://", "https:///path", "https://a b"] {
        assert!(
            HostConfig::parse(&format!("[[canary.webhook]]\nurl = \"{url}\"\n"), "mortise.toml").is_err(),
            "{url}"
        );
    }
    assert_snapshot!(host_faults("[[canary.webhook]]\nform = \"xml\"\n"), @r#"
    error: `[[webhook]]` has no `url`
      --> mortise.toml:1:1
       |
     1 | [[canary.webhook]]
       | ^^^^^^^^^^^^^^^^^^
    hint: add `url = "https://hooks.example.com/mortise"`

    error: `xml` is no form of a webhook
      --> mortise.toml:2:8
       |
     2 | form = "xml"
       |        ^^^^^
    hint: write `json`, which is the default, or `chat` for a robot
    "#);
}

#[test]
fn what_is_wrong_with_an_adapt_is_told_with_its_place() {
    let head =
        "[plugin]\nname = \"shop\"\nversion = \"2.0.0\"\napi = 1\n[contract]\nprovides = [\"a.v1.S\"]\n";
    let cases = [
        ("[[adapt]]\n", "has no `from`"),
        ("[[adapt]]\nfrom = \"1.0.0\"\n", "has no `contract`"),
        (
            "[[adapt]]\nfrom = \"1\"\ncontract = \"c\"\n",
            "`1` is not a version",
        ),
        (
            "[[adapt]]\nfrom = \"1.0.0\"\ncontract = \"../c\"\n",
            "is not a plain file name",
        ),
        (
            "[[adapt]]\nfrom = \"2.0.0\"\ncontract = \"c\"\n",
            "is to become itself",
        ),
        (
            "[[adapt]]\nfrom = \"1.0.0\"\ncontract = \"c\"\n[[adapt]]\nfrom = \"1.0.0\"\ncontract = \"c\"\nto = \"2.0.0\"\n",
            "two ways from 1.0.0",
        ),
        (
            "[[adapt]]\nfrom = \"1.0.0\"\ncontract = \"c\"\n[[adapt.message]]\nname = \"a.v1.M\"\nfields = { a.b = \"c\" }\n",
            "put quotes around a path",
        ),
        (
            "[[adapt]]\nfrom = \"1.0.0\"\ncontract = \"c\"\n[[adapt.message]]\nname = \"a.v1.M\"\nfields = { a = \"c/d\" }\n",
            "`c/d` is not the path of a field",
        ),
        (
            "[[adapt]]\nfrom = \"1.0.0\"\ncontract = \"c\"\n[[adapt.message]]\nname = \"a.v1.M\"\nup = \"S.M\"\n",
            "`S.M` is not a method",
        ),
    ];
    for (text, expected) in cases {
        let found = faults(&format!("{head}{text}"));
        assert!(found.contains(expected), "{text}\n{found}");
    }
}

#[test]
fn an_adapt_is_read_and_written() {
    let own = |text: &str| vec![text.to_owned()];
    let text = format!(
        "{WHOLE}{}",
        r#"
[[adapt]]
from = "1.0.0"
contract = "contract-1.0.0.binpb"
[[adapt.message]]
name = "acme.image.v1.Size"
becomes = "acme.image.v1.Box"
fields = { "a.b" = "c" }
defaults = { unit = "px" }
drop = ["hint"]
[[adapt.message]]
name = "acme.image.v1.Picture"
up = "acme.image.adapt.v1.Picture/Up"
"#
    );
    let read = manifest(&text);
    let expected = vec![Adapt {
        from: Version::new(1, 0, 0),
        contract: "contract-1.0.0.binpb".to_owned(),
        to: None,
        messages: vec![
            AdaptMessage {
                name: "acme.image.v1.Size".to_owned(),
                becomes: Some("acme.image.v1.Box".to_owned()),
                fields: vec![("a.b".to_owned(), "c".to_owned())],
                defaults: vec![("unit".to_owned(), "px".to_owned())],
                drop: own("hint"),
                up: None,
                down: None,
            },
            AdaptMessage {
                name: "acme.image.v1.Picture".to_owned(),
                becomes: None,
                fields: Vec::new(),
                defaults: Vec::new(),
                drop: Vec::new(),
                up: Some("acme.image.adapt.v1.Picture/Up".to_owned()),
                down: None,
            },
        ],
        line: Line(0),
    }];
    assert_eq!(read.adapt, expected);
    assert_eq!(manifest(&read.to_toml()), read);
}

#[test]
fn where_configuration_comes_from_is_read() {
    let text = "[config]\ndir = \"conf\"\nsecrets = [\"file:/run/secrets/{plugin}/\", \"env:{PLUGIN}_\"]\n\
                [config.etcd]\nendpoints = [\"https://a:2379\", \"http://b:2379\"]\nprefix = \"/acme/\"\nuser = \"m\"\n\
                password = { secret = \"env:ETCD\" }\nca_file = \"ca.pem\"\nstart_ms = 500\n";
    let config = HostConfig::parse(text, "mortise.toml").expect("no fault").config;
    assert_eq!(config.dir.as_deref(), Some("conf"));
    assert_eq!(config.secrets.len(), 2);
    let etcd = config.etcd.expect("there is etcd");
    assert_eq!(
        etcd,
        EtcdSettings {
            endpoints: vec!["https://a:2379".to_owned(), "http://b:2379".to_owned()],
            prefix: "/acme".to_owned(),
            user: Some("m".to_owned()),
            password: Some("env:ETCD".to_owned()),
            ca_file: Some("ca.pem".to_owned()),
            start: Duration::from_millis(500),
        }
    );
}

#[test]
fn a_password_in_the_open_is_a_fault_and_is_not_shown() {
    for text in [
        "user = \"m\"\npassword = \"hunter2\"",
        "user = \"m\"\npassword = { secret = \"hunter2\" }",
        "user = \"m\"\npassword = { secret = \"file:../hunter2\" }",
        "user = \"m\"\npassword = {\n  secret = \"hunter2\", x = 1 }",
    ] {
        let text = format!("[config.etcd]\nendpoints = [\"http://a:1\"]\n{text}\n");
        let faults = HostConfig::parse(&text, "mortise.toml").expect_err("a fault");
        assert!(!faults.to_string().contains("hunter2"), "{faults}");
    }
    for endpoints in [
        "\"https://m:hunter2@a:2379\"",
        "\"http://a:1\",\n  \"https://hunter2@a:2379/\"",
        "\"https://m:hunter2@a:1\", \"https://m:hunter2@a:1\"",
        "\"hunter2\"",
    ] {
        let text = format!("[config.etcd]\nendpoints = [{endpoints}]\n");
        let faults = HostConfig::parse(&text, "mortise.toml").expect_err("a fault");
        assert!(!faults.to_string().contains("hunter2"), "{faults}");
        assert!(faults.iter().all(|it| it.line >= 2), "it has its place: {faults}");
    }
    let text = "[config.etcd]\nendpoints = [\"https://m:hunter2@a:2379\"]\n";
    assert_snapshot!(HostConfig::parse(text, "mortise.toml").expect_err("a fault"), @r#"
    error: an endpoint says where etcd is, and this one says who we are, too
      --> mortise.toml:2:14
    hint: write `https://HOST:PORT`, the name as `user`, and `password = { secret = "file:/PATH" }`
    "#);
    let lone = "[config]\nsecrets = [\"/run\"]\n[config.etcd]\nuser = \"m\"\nprefix = \"/\"\n";
    let faults = HostConfig::parse(lone, "mortise.toml")
        .expect_err("faults")
        .to_string();
    for said in [
        "names no place of secrets",
        "belong together",
        "no `endpoints`",
        "no prefix of keys",
    ] {
        assert!(faults.contains(said), "{said}: {faults}");
    }
}

#[test]
fn where_events_are_kept_is_read() {
    let text = "[events]\nlog_mib = 2\n[events.nats]\nendpoints = [\"nats://a:4222\", \"tls://b:4222\"]\nprefix = \"acme\"\n\
                user = \"m\"\npassword = { secret = \"env:NATS\" }\nca_file = \"ca.pem\"\nreplicas = 3\n";
    let events = HostConfig::parse(text, "mortise.toml").expect("no fault").events;
    assert_eq!(events.log_bytes_max, 2 << 20);
    assert_eq!(
        events.nats.expect("there is NATS"),
        NatsSettings {
            endpoints: vec!["nats://a:4222".to_owned(), "tls://b:4222".to_owned()],
            prefix: "acme".to_owned(),
            user: Some("m".to_owned()),
            password: Some("env:NATS".to_owned()),
            token: None,
            ca_file: Some("ca.pem".to_owned()),
            replicas: 3,
        }
    );
    let least = "[events.nats]\nendpoints = [\"nats://a:4222\"]\ntoken = { secret = \"file:/t\" }\n";
    let least = HostConfig::parse(least, "mortise.toml")
        .expect("no fault")
        .events
        .nats
        .expect("it is there");
    assert_eq!(
        (&*least.prefix, least.token.as_deref(), least.replicas),
        ("mortise", Some("file:/t"), 1)
    );
}

#[test]
fn what_is_wrong_with_nats_is_said_without_its_password() {
    for text in [
        "endpoints = [\"nats://m:hunter2@a:4222\"]",
        "endpoints = [\"hunter2\"]",
        "endpoints = [\"nats://a:1\"]\nuser = \"m\"\npassword = \"hunter2\"",
        "endpoints = [\"nats://a:1\"]\ntoken = { secret = \"hunter2\" }",
    ] {
        let text = format!("[events.nats]\n{text}\n");
        let faults = HostConfig::parse(&text, "mortise.toml").expect_err("a fault");
        assert!(!faults.to_string().contains("hunter2"), "{faults}");
    }
    let lone =
        "[events.nats]\nuser = \"m\"\ntoken = { secret = \"env:T\" }\nprefix = \"a.b\"\nreplicas = 9\n";
    let faults = HostConfig::parse(lone, "mortise.toml")
        .expect_err("faults")
        .to_string();
    for said in [
        "no `endpoints`",
        "belong together",
        "two ways to say who we are",
        "no prefix of streams",
        "replicas",
    ] {
        assert!(faults.contains(said), "{said}: {faults}");
    }
}

#[test]
fn a_table_becomes_json() {
    let json = table_to_json("b = 1\n[a]\nc = [\"x\"]\n", "p.toml").expect("no fault");
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value, serde_json::json!({"a": {"c": ["x"]}, "b": 1}));
    let faults = table_to_json("a = \nb = nan\n", "p.toml")
        .expect_err("faults")
        .to_string();
    assert!(faults.contains("p.toml:1"), "{faults}");
}

#[test]
fn reads_how_a_new_version_comes_in() {
    let text = r#"
[watch]
dir = "plugins"
[watch.defaults]
canary = {}
[[plugin]]
name = "small"
source = "small"
canary = { steps = ["header x-canary=1", "pause", "5%", "pause", "promote"], sticky = "X-User", window_ms = 1000, requests_min = 0, error_ratio = 0.05, error_factor = 3, p95_step_ms = 2.5, p95_factor = 1, p95_rise_min_ms = 0, bad_healths_max = 3 }
[[plugin]]
name = "large"
source = "large"
[plugin.canary]
steps = ["10%"]
"#;
    let config = HostConfig::parse(text, "mortise.toml").unwrap_or_else(|faults| panic!("{faults}"));
    let steps = ["header x-canary=1", "pause", "5%", "pause", "promote"];
    let whole = CanaryEntry {
        steps: steps.map(str::to_owned).to_vec(),
        sticky: Some("x-user".to_owned()),
        window_ms: Some(1000),
        requests_min: Some(0),
        error_ratio: Some(0.05),
        error_factor: Some(3.0),
        p95_step_ms: Some(2.5),
        p95_factor: Some(1.0),
        p95_rise_min_ms: Some(0.0),
        bad_healths_max: Some(3),
    };
    assert_eq!(config.plugins[0].canary, Some(whole));
    assert_eq!(
        config.plugins[1].canary.as_ref().map(|it| it.steps.len()),
        Some(1)
    );
    let defaults = config.watch.expect("is there").defaults;
    assert_eq!(defaults.canary, Some(CanaryEntry::default()));
}

#[cfg(feature = "patterns")]
#[test]
fn what_is_wrong_with_a_canary_is_told_with_its_place() {
    let cases = [
        ("steps = [\"5\"]", "did you mean `5%`?", 10),
        ("steps = [\"5%\", \"promot\"]", "did you mean `promote`?", 16),
        ("steps = [\"paus 10m\"]", "did you mean `pause 10m`?", 10),
        ("steps = [\"140%\"]", "`140%` is no step of a canary", 10),
        (
            "steps = [\"promote\", \"5%\"]",
            "what stands behind `promote` never comes",
            21,
        ),
        ("steps = []", "a canary without a step gets no calls", 9),
        ("steps = [5]", "an entry of `steps` is an integer", 10),
        ("step = [\"5%\"]", "did you mean `steps`?", 1),
        ("sticky = \"x user\"", "`x user` is not a header's name", 10),
        (
            "error_ratio = 2",
            "`error_ratio` is 2, and it must be from 0 to 1",
            15,
        ),
        (
            "p95_factor = nan",
            "`p95_factor` is nan, and it must be from 1 to 1000000",
            14,
        ),
        ("p95_step_ms = \"15\"", "and it must be a number", 15),
        ("window_ms = 0", "`window_ms` is 0", 13),
    ];
    for (line, wanted, column) in cases {
        let text = format!("[[plugin]]\nname = \"small\"\nsource = \"small\"\n[plugin.canary]\n{line}\n");
        let told = host_faults(&text);
        assert!(told.contains(wanted), "{line}: {told}");
        let place = format!("mortise.toml:5:{column}\n");
        assert!(told.contains(&place), "{line}: {place} in {told}");
    }
    let told = host_faults("[[plugin]]\nname = \"small\"\nsource = \"small\"\ncanary = \"5%\"\n");
    assert!(told.contains("is a string, and it must be a table"), "{told}");
}

#[test]
fn a_pure_plugin_asks_for_nothing() {
    let begin = "[plugin]\nname = \"abc\"\nversion = \"1.0.0\"\napi = 1\npure = true\n[contract]\nprovides = [\"a.v1.B\"]\n";
    let read = manifest(&format!("{begin}[limits]\nmemory_mib = 8\n"));
    assert!(read.pure);
    assert_eq!(manifest(&read.to_toml()), read);
    for (more, what) in [
        ("[permissions]\nkv = true\n", "[permissions]"),
        ("[[requires]]\nservice = \"x.B\"\nlazy = true\n", "[[requires]]"),
        (
            "[permissions]\nevents.subscribe = [\"a.>\"]\n[[subscribe]]\ntopic = \"a.b\"\nmethod = \"a.v1.B/M\"\n",
            "[[subscribe]]",
        ),
        ("[state]\nhooks = true\n", "[state]"),
        ("[config]\nhot = true\n", "[config]"),
        ("[config]\n", "[config]"),
    ] {
        let found = faults(&format!("{begin}{more}"));
        let told = format!("a pure plugin has no `{what}`");
        assert!(
            found.contains(&told) && found.contains("plugin.toml:5:"),
            "{more}: {found}"
        );
    }
}

#[test]
fn the_word_of_a_pure_plugin_is_taken_where_the_operator_says_so() {
    let config = HostConfig::parse(
        "[[plugin]]\nsource = \"a\"\n[[plugin]]\nsource = \"b\"\ntrust_adapter = true\n",
        "mortise.toml",
    )
    .expect("sound");
    let trusted: Vec<bool> = config.plugins.iter().map(|it| it.grant.trust_adapter).collect();
    assert_eq!(trusted, [false, true]);
}
