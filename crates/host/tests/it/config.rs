//! Configuration from a directory: in force without a load, refused whole, remembered, and never with a secret where it can be seen.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
};

use mortise_host::{ChangeInfo, Host, HostBuilder, State};
use mortise_manifest::{ConfigSettings, HostConfig, PackageSource, PluginEntry};
use serde_json::{Value, json};

use crate::closures::{Program, World, call, info, request, state, until};

const HOT: &str = "[config]\nhot = true\n";
const SCHEMA: &str = "[config]\nmessage = \"test.v1.Ledger\"\nhot = true\n";
const STATEFUL: &str = "[state]\nschema = \"test.v1.Blob\"\n";

/// A world with a directory of configuration.
struct Configured {
    world: World,
    dir: PathBuf,
}

impl Configured {
    fn new() -> Self {
        let world = World::new();
        let dir = world.dir.path().join("conf");
        fs::create_dir(&dir).unwrap();
        Self { world, dir }
    }

    fn builder(&self) -> HostBuilder {
        self.builder_with(Vec::new(), Vec::new())
    }

    fn builder_with(&self, secrets: Vec<String>, plugins: Vec<PluginEntry>) -> HostBuilder {
        let config = ConfigSettings {
            dir: Some(self.dir.to_string_lossy().into_owned()),
            secrets,
            ..ConfigSettings::default()
        };
        self.world.builder().remember_loads().config(HostConfig {
            config,
            plugins,
            ..HostConfig::default()
        })
    }

    /// As an editor saves: whole or not at all.
    fn put(&self, file: &str, text: &str) {
        let fresh = self.dir.join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.dir.join(file)).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.dir.join(file)).unwrap();
    }

    async fn load(&self, host: &Host, more: &str, own: &str) -> Arc<Program> {
        let (folder, program) = self.world.package("echo", "1.0.0", more);
        host.load(request(&folder).config_json(own)).await.unwrap();
        program
    }
}

/// What the instance that serves reads of the host.
async fn seen(host: &Host) -> Value {
    let reply = call(host, "plugin.echo.Relay", "mortise.host.v1.Config/Get ")
        .await
        .unwrap();
    // A string field of number 1.
    let bytes = reply.as_bytes();
    let text = reply.get(if bytes[1] < 0x80 { 2.. } else { 3.. }).unwrap();
    serde_json::from_str(text).unwrap()
}

async fn changes(host: &Host) -> Vec<ChangeInfo> {
    let all = host.changes(Some("echo"), None, 100).await.unwrap();
    all.into_iter().filter(|it| it.action == "config").collect()
}

/// The rows, when there are so many and all are concluded.
async fn written(host: &Host, rows: usize) -> Vec<ChangeInfo> {
    for _ in 0..2000 {
        let all = changes(host).await;
        if all.len() == rows && all.iter().all(|it| it.outcome != "begun") {
            return all;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("never written down: {:?}", changes(host).await);
}

fn configures(program: &Program) -> Vec<String> {
    let asked = program.asked.lock().unwrap();
    let configures = asked.iter().filter_map(|it| it.strip_prefix("configure "));
    configures.map(str::to_owned).collect()
}

fn in_force(host: &Host, path: &str) -> Option<String> {
    let values = host.config("echo").unwrap().values;
    values.into_iter().find(|it| it.path == path).map(|it| it.value)
}

async fn comes(host: &Host, path: &str, value: &str) {
    until(&format!("{path} is {value}"), || {
        in_force(host, path).as_deref() == Some(value)
    })
    .await;
}

async fn trouble(host: &Host, part: &str) {
    until(&format!("trouble with {part}"), || {
        info(host, "echo").reasons.iter().any(|it| it.contains(part))
    })
    .await;
}

#[tokio::test]
async fn a_change_reaches_a_plugin_that_runs() {
    let configured = Configured::new();
    configured.put("echo.toml", "colour = \"red\"\n[limits]\nrate = 1\n");
    let host = configured.builder().start().await.unwrap();
    let program = configured
        .load(&host, HOT, r#"{"colour": "grey", "own": true}"#)
        .await;
    assert_eq!(
        seen(&host).await,
        json!({"colour": "red", "limits": {"rate": 1}, "own": true})
    );
    configured.put("echo.toml", "colour = \"blue\"\n");
    comes(&host, "colour", "\"blue\"").await;
    assert_eq!(seen(&host).await, json!({"colour": "blue", "own": true}));
    assert_eq!(configures(&program), [r#"{"colour":"blue","own":true}"#]);
    assert_eq!(info(&host, "echo").generation, 1, "no swap");
    assert_eq!(program.started.load(Ordering::SeqCst), 1);
    let told = host.config("echo").unwrap();
    assert_eq!((&*told.how, told.hot), ("hot", true));
    assert!(told.revision.starts_with("files:"), "{told:?}");
    let origins: Vec<_> = told.values.iter().map(|it| it.origin.as_str()).collect();
    assert!(
        origins[0].ends_with("conf/echo.toml") && origins[1] == "own",
        "{origins:?}"
    );
    // Gone is gone.
    configured.remove("echo.toml");
    comes(&host, "colour", "\"grey\"").await;
    let rows = written(&host, 2).await;
    let blue = &rows[1];
    assert!(blue.actor.starts_with("files:"), "{blue:?}");
    assert_eq!(
        (&*blue.outcome, &*blue.detail),
        ("done", "taken over by the running instance")
    );
    let diff: Vec<_> = blue.diff.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(diff, ["config.colour", "config.limits.rate"]);
    let report = host.diff(None, blue.seq).await.unwrap();
    assert_eq!(report.differences, blue.diff);
}

#[tokio::test]
async fn a_plugin_that_cannot_take_it_is_replaced_and_keeps_its_state() {
    for (more, config) in [
        (STATEFUL.to_owned(), "a = 1"),
        (format!("{STATEFUL}{HOT}"), "a = \"needs restart\""),
    ] {
        let configured = Configured::new();
        let host = configured.builder().start().await.unwrap();
        let program = configured.load(&host, &more, "{}").await;
        assert_eq!(call(&host, "plugin.echo.Count", "").await.unwrap(), "1");
        configured.put("echo.toml", config);
        until("another instance serves", || info(&host, "echo").generation == 2).await;
        assert_eq!(
            call(&host, "plugin.echo.Count", "").await.unwrap(),
            "2",
            "its state is carried"
        );
        assert_eq!(program.configs.lock().unwrap().len(), 2);
        assert_eq!(host.config("echo").unwrap().how, "swap");
        let rows = written(&host, 1).await;
        assert_eq!(rows[0].detail, "by a new instance");
        // What the journal has of the load is still what a rollback goes by.
        assert!(
            host.rollback("echo", Some(rows[0].seq))
                .await
                .unwrap_err()
                .to_string()
                .contains("no load")
        );
    }
}

#[tokio::test]
async fn one_that_was_loaded_by_force_may_still_object_to_another_configuration() {
    let configured = Configured::new();
    let host = configured.builder().start().await.unwrap();
    let (folder, program) = configured.world.package("echo", "1.0.0", STATEFUL);
    host.load(request(&folder).force()).await.unwrap();
    program.lifecycle.lock().unwrap().veto = Some("a payment is under way".to_owned());
    configured.put("echo.toml", "a = 1");
    trouble(&host, "a payment is under way").await;
    assert_eq!(info(&host, "echo").generation, 1);
}

#[tokio::test]
async fn what_is_refused_changes_nothing_and_is_listed_until_it_is_corrected() {
    let configured = Configured::new();
    configured.put("echo.toml", "a = 1\n");
    let host = configured.builder().start().await.unwrap();
    let program = configured.load(&host, HOT, "{}").await;
    for (text, part) in [
        ("a = \"no good\"\n", "the plugin refuses it"),
        ("a = \n", "line 1"),
        ("[a]\nsecret = \"nowhere\"\n", "does not say where the secret is"),
    ] {
        configured.put("echo.toml", text);
        trouble(&host, part).await;
        assert_eq!(seen(&host).await, json!({"a": 1}));
        assert!(host.config("echo").unwrap().trouble.unwrap().contains(part));
    }
    assert_eq!(
        configures(&program),
        [r#"{"a":"no good"}"#],
        "what the checks refuse is not asked"
    );
    assert_eq!(info(&host, "echo").generation, 1);
    configured.put("echo.toml", "a = 2\n");
    comes(&host, "a", "2").await;
    until("nothing is listed", || info(&host, "echo").reasons.is_empty()).await;
    let rows = written(&host, 4).await;
    let outcomes: Vec<_> = rows.iter().map(|it| it.outcome.as_str()).collect();
    assert_eq!(outcomes, ["done", "failed", "failed", "failed"]);
}

#[tokio::test]
async fn the_message_of_the_contract_is_what_a_configuration_looks_like() {
    let configured = Configured::new();
    configured.put("echo.json", r#"{"number": 1}"#);
    let host = configured.builder().start().await.unwrap();
    let program = configured.load(&host, SCHEMA, "{}").await;
    configured.put("echo.json", r#"{"numbr": 2, "number": "many"}"#);
    trouble(&host, "did you mean `number`?").await;
    trouble(&host, "`number` is text, and it must be a whole number").await;
    assert!(configures(&program).is_empty());
    configured.put("echo.json", r#"{"number": 3}"#);
    comes(&host, "number", "3").await;
    // And for a load, with every fault at once.
    let (folder, _) = configured.world.package("other", "1.0.0", SCHEMA);
    let refused = host
        .load(request(&folder).config_json(r#"{"a": 1, "b": 2}"#))
        .await
        .unwrap_err();
    assert_eq!(refused.reasons().len(), 2);
    assert!(
        refused.reasons().iter().all(|it| it.what == "configuration"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_host_starts_with_what_was_good_last() {
    let configured = Configured::new();
    configured.put("echo.toml", "a = 1\n");
    let policy = mortise_host::ProbationPolicy {
        time: std::time::Duration::ZERO,
        ..mortise_host::ProbationPolicy::default()
    };
    let host = configured
        .builder()
        .probation(policy.clone())
        .start()
        .await
        .unwrap();
    configured.load(&host, HOT, "{}").await;
    configured.put("echo.toml", "a = 2\n");
    comes(&host, "a", "2").await;
    until("it has proved itself", || host.config("echo").unwrap().proven).await;
    host.shutdown().await;
    drop(host);
    // The plugin declines it, in its start.
    configured.put("echo.toml", "a = \"no start\"\n");
    let again = || configured.builder().probation(policy.clone());
    let host = crate::closures::start_again(again).await;
    assert_eq!(seen(&host).await, json!({"a": 2}));
    trouble(&host, "it declined").await;
    host.shutdown().await;
    drop(host);
    // Nothing is heard of the source.
    fs::rename(&configured.dir, configured.world.dir.path().join("away")).unwrap();
    let again = || {
        configured
            .builder()
            .config_wait(std::time::Duration::from_millis(50))
    };
    let host = crate::closures::start_again(again).await;
    assert_eq!(seen(&host).await, json!({"a": 2}));
    until("it says so", || host.config_sources()[0].out.is_some()).await;
    fs::rename(configured.world.dir.path().join("away"), &configured.dir).unwrap();
    configured.put("echo.toml", "a = 3\n");
    comes(&host, "a", "3").await;
    assert!(host.config_sources()[0].out.is_none());
}

#[tokio::test]
async fn a_plugin_waits_for_a_configuration_that_fits() {
    let configured = Configured::new();
    configured.put("echo.json", r#"{"numbr": 1}"#);
    let (folder, _) = configured.world.package("echo", "1.0.0", SCHEMA);
    let entry = PluginEntry {
        name: None,
        source: PackageSource::Folder(folder.to_string_lossy().into_owned()),
        runtime: None,
        grant: mortise_manifest::Grant::default(),
        restart: mortise_manifest::Restart::default(),
        limits: mortise_manifest::LimitsOverride::default(),
        config_json: None,
        canary: None,
    };
    let host = configured
        .builder_with(Vec::new(), vec![entry])
        .start()
        .await
        .unwrap();
    assert_eq!(state(&host, "echo"), State::Rejected);
    assert!(info(&host, "echo").reasons[0].contains("did you mean `number`?"));
    configured.put("echo.json", r#"{"number": 1}"#);
    until("it serves", || state(&host, "echo").is_routed()).await;
    assert_eq!(seen(&host).await, json!({"number": 1}));
}

#[tokio::test]
async fn a_configuration_that_makes_it_ill_is_taken_back_and_its_artifact_is_innocent() {
    let configured = Configured::new();
    configured.put("echo.toml", "a = 1\n");
    let host = configured.builder().start().await.unwrap();
    let program = configured.load(&host, "", "{}").await;
    configured.put("echo.toml", "a = 2\n");
    until("another instance serves", || info(&host, "echo").generation == 2).await;
    program.healthy.store(false, Ordering::SeqCst);
    until("it is taken back", || info(&host, "echo").generation == 1).await;
    program.healthy.store(true, Ordering::SeqCst);
    assert_eq!(seen(&host).await, json!({"a": 1}));
    trouble(&host, "failed its probation").await;
    let listed = info(&host, "echo").reasons;
    assert!(listed[0].contains("the configuration before"), "{listed:?}");
    let rows = written(&host, 2).await;
    assert_eq!(&*rows[0].actor, "probation");
    // It is not tried again, and another one is.
    configured.put("echo.toml", "a = 3\n");
    comes(&host, "a", "3").await;
    let starts = program.configs.lock().unwrap().clone();
    assert_eq!(
        starts.iter().filter(|it| it.contains('2')).count(),
        1,
        "{starts:?}"
    );
    let (folder, _) = configured.world.package("echo", "1.0.0", "");
    host.load(request(&folder)).await.unwrap();
}

/// Everything that is logged, from everywhere.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_secret_reaches_the_plugin_and_nobody_else() {
    const SECRET: &str = "correct horse battery staple";
    const NEXT: &str = "incorrect horse";
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let configured = Configured::new();
    let secrets = configured.world.dir.path().join("secrets/echo");
    fs::create_dir_all(&secrets).unwrap();
    fs::write(secrets.join("key"), format!("{SECRET}\n")).unwrap();
    fs::write(secrets.join("next"), NEXT).unwrap();
    let place = |name: &str| format!("key = {{ secret = \"file:{}\" }}\n", secrets.join(name).display());
    configured.put("echo.toml", &place("key"));
    let allowed = vec![format!(
        "file:{}/{{plugin}}/",
        secrets.parent().unwrap().display()
    )];
    let host = configured
        .builder_with(allowed, Vec::new())
        .start()
        .await
        .unwrap();
    let program = configured.load(&host, HOT, "{}").await;
    assert_eq!(seen(&host).await, json!({"key": SECRET}));
    configured.put("echo.toml", &place("next"));
    until("it has the next", || configures(&program).len() == 1).await;
    until("and the host knows", || host.config("echo").unwrap().how == "hot").await;
    assert_eq!(seen(&host).await, json!({"key": NEXT}));
    // Refused by the plugin, in words that have the secret; and in its start.
    configured.put("echo.toml", &format!("{}a = \"no good\"\n", place("key")));
    trouble(&host, "the plugin refuses it").await;
    configured.put(
        "echo.toml",
        &format!("{}a = \"needs restart\"\nb = \"no start\"\n", place("key")),
    );
    trouble(&host, "it declined").await;
    // One that nobody allowed, and one that is not there.
    configured.put("echo.toml", "key = { secret = \"env:HOME\" }\n");
    trouble(&host, "`secrets` in `[config]`").await;
    configured.put("echo.toml", &place("gone"));
    trouble(&host, "No such file").await;
    let told = host.config("echo").unwrap();
    assert_eq!(
        (told.values[0].secret, told.values[0].value.ends_with("/next")),
        (true, true),
        "{told:?}"
    );
    let shown = [
        format!("{told:?} {:?}", host.inspect("echo").unwrap()),
        serde_json::to_string(&host.inspect("echo").unwrap()).unwrap(),
        format!("{:?}", host.changes(None, None, 100).await.unwrap()),
        String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned(),
    ];
    assert!(shown[3].contains("configured with"), "the plugin logged it");
    host.shutdown().await;
    let mut disk = Vec::new();
    for entry in fs::read_dir(configured.world.dir.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            disk.extend(fs::read(path).unwrap());
        }
    }
    assert!(disk.len() > 1000, "the journal is there");
    let contains = |bytes: &[u8], secret: &str| bytes.windows(secret.len()).any(|it| it == secret.as_bytes());
    for secret in [SECRET, NEXT] {
        for text in &shown {
            assert!(!contains(text.as_bytes(), secret), "{text}");
        }
        assert!(!contains(&disk, secret), "on the disk");
    }
}

#[tokio::test]
async fn a_secret_that_is_written_out_is_neither_on_record_nor_on_the_disk() {
    const WRITTEN: &str = "hunter2-written-out";
    let configured = Configured::new();
    configured.put(
        "echo.json",
        &json!({"user": "a", "password": WRITTEN}).to_string(),
    );
    let host = configured.builder().start().await.unwrap();
    // Once before the plugin is there, so that nobody knows what it is.
    let manifest = "[config]\nmessage = \"test.v1.Login\"\nhot = true\n";
    let (folder, _) = configured.world.package("echo", "1.0.0", manifest);
    let refused = host.load(request(&folder)).await.unwrap_err();
    assert!(
        refused.to_string().contains("must not be written out"),
        "{refused}"
    );
    configured.put("echo.json", r#"{"user": "a"}"#);
    for _ in 0..2000 {
        if host.load(request(&folder)).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(seen(&host).await, json!({"user": "a"}));
    // And once while it serves.
    configured.put(
        "echo.json",
        &json!({"user": "b", "password": WRITTEN}).to_string(),
    );
    trouble(&host, "must not be written out").await;
    let rows = written(&host, 1).await;
    assert_eq!(rows[0].outcome, "failed");
    assert_eq!(seen(&host).await, json!({"user": "a"}));
    let shown = format!(
        "{rows:?} {:?} {:?}",
        host.config("echo").unwrap(),
        host.inspect("echo").unwrap()
    );
    assert!(!shown.contains(WRITTEN), "{shown}");
    host.shutdown().await;
    for entry in fs::read_dir(configured.world.dir.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let has = bytes.windows(WRITTEN.len()).any(|it| it == WRITTEN.as_bytes());
            assert!(!has, "{} has it", path.display());
        }
    }
}

#[tokio::test]
async fn what_is_tried_again_in_vain_is_on_record_once() {
    let configured = Configured::new();
    configured.put("echo.toml", "a = 1\n");
    let host = configured.builder().start().await.unwrap();
    let program = configured.load(&host, STATEFUL, "{}").await;
    let vetoes = || {
        program
            .asked
            .lock()
            .unwrap()
            .iter()
            .filter(|it| *it == "may_replace")
            .count()
    };
    program.lifecycle.lock().unwrap().veto = Some("in the middle of something".to_owned());
    configured.put("echo.toml", "a = 2\n");
    trouble(&host, "in the middle of something").await;
    for asked in 2..5 {
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(16)).await;
        tokio::time::resume();
        until("it is tried again", || vetoes() == asked).await;
        trouble(&host, "in the middle of something").await;
    }
    assert_eq!(written(&host, 1).await[0].outcome, "failed");
    program.lifecycle.lock().unwrap().veto = None;
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(16)).await;
    tokio::time::resume();
    comes(&host, "a", "2").await;
    let rows = written(&host, 2).await;
    assert_eq!([&*rows[0].outcome, &*rows[1].outcome], ["done", "failed"]);
}

#[tokio::test]
async fn one_that_is_slow_to_start_holds_up_nobody_else() {
    let configured = Configured::new();
    configured.put("echo.toml", "a = 1\n");
    configured.put("slow.toml", "a = 1\n");
    let host = configured.builder().start().await.unwrap();
    configured.load(&host, HOT, "{}").await;
    let (folder, slow) = configured.world.package("slow", "1.0.0", "");
    host.load(request(&folder)).await.unwrap();
    slow.held.send_replace(true);
    configured.put("slow.toml", "a = 2\n");
    until("a new instance is being started", || {
        slow.starting.load(Ordering::SeqCst) == 1
    })
    .await;
    configured.put("echo.toml", "a = 2\n");
    comes(&host, "a", "2").await;
    assert_eq!(slow.starting.load(Ordering::SeqCst), 1, "it is still at it");
    slow.held.send_replace(false);
    until("it is in force there, too", || {
        let values = host.config("slow").unwrap().values;
        values.iter().any(|it| it.value == "2")
    })
    .await;
}

#[tokio::test]
async fn what_was_taken_over_is_not_good_before_it_has_lasted() {
    let configured = Configured::new();
    configured.put("echo.toml", "a = 1\n");
    let lasting = |time| mortise_host::ProbationPolicy {
        time,
        calls: 1,
        calls_min: 1,
        ..mortise_host::ProbationPolicy::default()
    };
    let host = configured
        .builder()
        .probation(lasting(std::time::Duration::ZERO))
        .start()
        .await
        .unwrap();
    let program = configured.load(&host, HOT, "{}").await;
    until("it has proved itself", || host.config("echo").unwrap().proven).await;
    host.shutdown().await;
    drop(host);
    let hour = std::time::Duration::from_secs(3600);
    let host = crate::closures::start_again(|| configured.builder().probation(lasting(hour))).await;
    for _ in 0..2000 {
        if state(&host, "echo") == State::Active {
            break;
        }
        call(&host, "plugin.echo.Call", "x").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(state(&host, "echo"), State::Active);
    // It takes it over, and nothing can be started with it.
    configured.put("echo.toml", "a = \"no start\"\n");
    comes(&host, "a", "\"no start\"").await;
    written(&host, 1).await;
    assert!(!host.config("echo").unwrap().proven);
    program.crash();
    comes(&host, "a", "1").await;
    assert_eq!(seen(&host).await, json!({"a": 1}));
}

#[tokio::test]
async fn a_large_configuration_is_remembered() {
    let configured = Configured::new();
    let large = "x".repeat(700 << 10);
    configured.put("echo.json", &json!({ "a": large }).to_string());
    let again = || {
        let policy = mortise_host::ProbationPolicy {
            time: std::time::Duration::ZERO,
            ..mortise_host::ProbationPolicy::default()
        };
        configured
            .builder()
            .probation(policy)
            .config_wait(std::time::Duration::from_millis(50))
    };
    let host = again().start().await.unwrap();
    configured.load(&host, HOT, "{}").await;
    // What it said and what was good: twice as much as a plugin may keep under one key.
    until("it has proved itself", || host.config("echo").unwrap().proven).await;
    host.shutdown().await;
    drop(host);
    fs::rename(&configured.dir, configured.world.dir.path().join("away")).unwrap();
    let host = crate::closures::start_again(again).await;
    assert_eq!(in_force(&host, "a"), Some(format!("\"{large}\"")));
}

/// Waits until the plugin has this key.
async fn has_key(host: &Host, key: &str) {
    for _ in 0..4000 {
        if seen(host).await == json!({ "key": key }) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it never has {key}, but {}", seen(host).await);
}

#[tokio::test]
async fn a_secret_that_changes_where_it_is_is_in_force_without_a_restart() {
    for (more, how) in [(HOT, "hot"), ("", "swap")] {
        let world = World::new();
        // Without any source: the plugin's own terms refer to it.
        let host = world.host().await;
        let place = world.dir.path().join("key");
        let rotate = |key: &str| {
            let fresh = world.dir.path().join("fresh");
            fs::write(&fresh, format!("{key}\n")).unwrap();
            fs::rename(fresh, &place).unwrap();
        };
        rotate("first-of-all");
        let (folder, program) = world.package("echo", "1.0.0", more);
        let own = json!({"key": {"secret": format!("file:{}", place.display())}});
        host.load(request(&folder).config_json(own.to_string()))
            .await
            .unwrap();
        assert_eq!(seen(&host).await, json!({"key": "first-of-all"}));
        rotate("second-of-all");
        has_key(&host, "second-of-all").await;
        assert_eq!(host.config("echo").unwrap().how, how);
        assert_eq!(
            program.started.load(Ordering::SeqCst),
            if how == "hot" { 1 } else { 2 }
        );
        // Gone, or not text: what was handed over holds.
        fs::write(&place, b"\xff\xff").unwrap();
        fs::remove_file(&place).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
        assert_eq!(seen(&host).await, json!({"key": "second-of-all"}));
        rotate("third-of-all");
        has_key(&host, "third-of-all").await;
        let rows = written(&host, 2).await;
        for row in &rows {
            assert_eq!((&*row.actor, &*row.outcome), ("secrets", "done"), "{row:?}");
        }
        let told = format!("{rows:?} {:?} {:?}", host.config("echo"), info(&host, "echo"));
        assert!(!told.contains("-of-all"), "{told}");
        host.shutdown().await;
    }
}

#[tokio::test]
async fn a_secret_that_the_plugin_refuses_is_listed_until_it_is_another() {
    let configured = Configured::new();
    let place = configured.world.dir.path().join("key");
    let rotate = |key: &str| fs::write(&place, key).unwrap();
    rotate("first-of-all");
    configured.put(
        "echo.json",
        &json!({"key": {"secret": format!("file:{}", place.display())}}).to_string(),
    );
    let allowed = vec![format!("file:{}/", configured.world.dir.path().display())];
    let host = configured
        .builder_with(allowed, Vec::new())
        .start()
        .await
        .unwrap();
    let program = configured.load(&host, HOT, "{}").await;
    assert_eq!(seen(&host).await, json!({"key": "first-of-all"}));
    rotate("no good at all");
    trouble(&host, "the plugin refuses it").await;
    assert_eq!(seen(&host).await, json!({"key": "first-of-all"}));
    // It is asked once, and nobody is told what was refused.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(configures(&program).len(), 1);
    let rows = written(&host, 1).await;
    assert_eq!((&*rows[0].actor, &*rows[0].outcome), ("secrets", "failed"));
    let told = format!("{rows:?} {:?}", info(&host, "echo"));
    assert!(!told.contains("at all"), "{told}");
    // Taken back, nothing is wrong any more; and another one is in force.
    rotate("first-of-all");
    until("nothing is listed", || info(&host, "echo").reasons.is_empty()).await;
    assert_eq!(configures(&program).len(), 1, "it has that already");
    rotate("second-of-all");
    has_key(&host, "second-of-all").await;
    host.shutdown().await;
}
