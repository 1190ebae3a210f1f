//! A watched directory: what comes, changes and goes in it, and who else has a word.

use std::{fs, path::PathBuf, time::Duration};

use mortise_host::{Host, ReloadReport, State};
use mortise_manifest::{HostConfig, Restart, RuntimeName, WatchConfig};

use crate::closures::{World, call, info, request, until};

/// A world with a directory that is watched.
struct Watched {
    world: World,
    directory: PathBuf,
}

impl Watched {
    fn new() -> Self {
        let world = World::new();
        let directory = world.dir.path().join("watched");
        fs::create_dir(&directory).unwrap();
        Self { world, directory }
    }

    fn config(&self) -> WatchConfig {
        WatchConfig {
            quiet: Duration::from_millis(40),
            ..WatchConfig::new(self.directory.to_string_lossy())
        }
    }

    async fn host(&self) -> Host {
        self.host_with(HostConfig::default()).await
    }

    async fn host_with(&self, config: HostConfig) -> Host {
        let watch = Some(WatchConfig {
            defaults: config
                .watch
                .as_ref()
                .map(|it| it.defaults.clone())
                .unwrap_or_default(),
            plugins: config
                .watch
                .as_ref()
                .map(|it| it.plugins.clone())
                .unwrap_or_default(),
            ..self.config()
        });
        let config = HostConfig { watch, ..config };
        let builder = self.world.builder().remember_loads().config(config);
        let host = builder.start().await.unwrap();
        // What was written a moment ago is not settled at the first look.
        tokio::time::sleep(Duration::from_millis(1)).await;
        host
    }

    /// Puts a package there in one step, in place of what has the name.
    fn put(&self, folder: &str, name: &str, version: &str) {
        self.put_with(folder, name, version, "");
    }

    fn put_with(&self, folder: &str, name: &str, version: &str, more: &str) {
        let place = self.directory.join(folder);
        let staged = self.directory.join(format!(".staged-{folder}"));
        self.world.package_at(&staged, name, version, more);
        if place.exists() {
            let old = self.world.dir.path().join("old");
            let _ = fs::remove_dir_all(&old);
            fs::rename(&place, old).unwrap();
        }
        fs::rename(staged, place).unwrap();
    }

    fn remove(&self, folder: &str) {
        fs::remove_dir_all(self.directory.join(folder)).unwrap();
    }
}

fn version(host: &Host, name: &str) -> Option<String> {
    let found = host.list().into_iter().find(|it| it.name == name)?;
    found.state.is_routed().then(|| found.plugin.version.to_string())
}

async fn serves(host: &Host, name: &str, wanted: &str) {
    until(&format!("{name} {wanted} serves"), || {
        version(host, name).as_deref() == Some(wanted)
    })
    .await;
    assert_eq!(
        call(host, &format!("plugin.{name}.Call"), "x").await.unwrap(),
        "x"
    );
}

async fn is_gone(host: &Host, name: &str) {
    until(&format!("{name} is gone"), || {
        host.list().iter().all(|it| it.name != name)
    })
    .await;
}

#[tokio::test]
async fn new_changed_renamed_removed() {
    let watched = Watched::new();
    let host = watched.host().await;
    watched.put("a", "echo", "1.0.0");
    serves(&host, "echo", "1.0.0").await;
    watched.put("a", "echo", "1.1.0");
    serves(&host, "echo", "1.1.0").await;
    // Another name for the folder is no change to the plugin.
    let generation = info(&host, "echo").generation;
    fs::rename(watched.directory.join("a"), watched.directory.join("b")).unwrap();
    watched.put("c", "other", "1.0.0");
    serves(&host, "other", "1.0.0").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(info(&host, "echo").generation, generation);
    // Another name for the plugin: the one comes, then the other goes.
    watched.put("b", "renamed", "1.1.0");
    serves(&host, "renamed", "1.1.0").await;
    is_gone(&host, "echo").await;
    watched.remove("b");
    is_gone(&host, "renamed").await;
    assert_eq!(version(&host, "other").as_deref(), Some("1.0.0"));
    let changes = host.changes(None, None, 100).await.unwrap();
    assert!(
        changes
            .iter()
            .all(|it| it.actor == "directory" && it.outcome == "done"),
        "{changes:?}"
    );
}

#[tokio::test]
async fn a_bad_package_is_listed_with_all_reasons_and_the_old_one_serves() {
    let watched = Watched::new();
    let host = watched.host().await;
    watched.put("echo", "echo", "1.0.0");
    serves(&host, "echo", "1.0.0").await;
    // Refused: it asks for what nobody gives, twice.
    watched.put_with(
        "echo",
        "echo",
        "1.1.0",
        "[permissions]\nkv = true\nnet.connect = [\"a.example.com:443\"]\n",
    );
    until("its reasons are listed", || {
        info(&host, "echo").reasons.len() == 2
    })
    .await;
    assert_eq!(call(&host, "plugin.echo.Call", "x").await.unwrap(), "x");
    assert_eq!(version(&host, "echo").as_deref(), Some("1.0.0"));
    // Cannot even be read.
    fs::write(watched.directory.join("echo/plugin.toml"), "[plugin\nname = 1").unwrap();
    until("its fault is listed", || {
        info(&host, "echo")
            .reasons
            .iter()
            .any(|it| it.contains("plugin.toml"))
    })
    .await;
    assert_eq!(call(&host, "plugin.echo.Call", "x").await.unwrap(), "x");
    // Mended.
    watched.put("echo", "echo", "1.2.0");
    serves(&host, "echo", "1.2.0").await;
    assert_eq!(info(&host, "echo").reasons, Vec::<String>::new());
    // One that never was anything is listed under its folder's name, and goes with it.
    fs::create_dir(watched.directory.join("torn")).unwrap();
    fs::write(watched.directory.join("torn/plugin.toml"), "").unwrap();
    until("it is listed", || {
        host.list()
            .iter()
            .any(|it| it.name == "torn" && it.state == State::Rejected)
    })
    .await;
    watched.remove("torn");
    is_gone(&host, "torn").await;
}

#[tokio::test]
async fn of_two_versions_the_higher_one_serves() {
    let watched = Watched::new();
    watched.put("echo-1.0.0", "echo", "1.0.0");
    watched.put("echo-1.10.0", "echo", "1.10.0");
    let host = watched.host().await;
    serves(&host, "echo", "1.10.0").await;
    watched.put("echo-1.9.0", "echo", "1.9.0");
    watched.remove("echo-1.10.0");
    serves(&host, "echo", "1.9.0").await;
    // A higher one that is refused leaves it where it is, also in the host's next life.
    watched.put_with("echo-2.0.0", "echo", "2.0.0", "[permissions]\nkv = true\n");
    until("its reasons are listed", || {
        !info(&host, "echo").reasons.is_empty()
    })
    .await;
    assert_eq!(version(&host, "echo").as_deref(), Some("1.9.0"));
    host.shutdown().await;
    drop(host);
    let host = watched.host().await;
    serves(&host, "echo", "1.9.0").await;
    until("its reasons are listed", || {
        !info(&host, "echo").reasons.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_torn_folder_of_what_serves_brings_no_older_version_back() {
    let watched = Watched::new();
    let host = watched.host().await;
    watched.put("x-1", "echo", "1.0.0");
    serves(&host, "echo", "1.0.0").await;
    watched.put("x-2", "echo", "2.0.0");
    serves(&host, "echo", "2.0.0").await;
    fs::write(watched.directory.join("x-2/plugin.toml"), "").unwrap();
    until("the torn folder is listed", || {
        !info(&host, "echo").reasons.is_empty()
    })
    .await;
    assert_eq!(version(&host, "echo").as_deref(), Some("2.0.0"));
    // Nor when something else changes.
    watched.put("y", "other", "1.0.0");
    serves(&host, "other", "1.0.0").await;
    assert_eq!(version(&host, "echo").as_deref(), Some("2.0.0"));
    watched.put("x-2", "echo", "2.1.0");
    serves(&host, "echo", "2.1.0").await;
    // One that is taken away is no torn one.
    watched.remove("x-2");
    serves(&host, "echo", "1.0.0").await;
}

#[tokio::test]
async fn what_served_last_comes_back_if_its_folder_has_something_bad_by_then() {
    let watched = Watched::new();
    watched.put("echo", "echo", "1.0.0");
    let host = watched.host().await;
    serves(&host, "echo", "1.0.0").await;
    host.shutdown().await;
    drop(host);
    watched.put_with("echo", "echo", "1.1.0", "[permissions]\nkv = true\n");
    let host = watched.host().await;
    serves(&host, "echo", "1.0.0").await;
    until("its reasons are listed", || {
        !info(&host, "echo").reasons.is_empty()
    })
    .await;
    assert!(info(&host, "echo").source.starts_with("kept:"));
}

#[tokio::test]
async fn the_last_word_counts_also_in_the_next_life() {
    let watched = Watched::new();
    watched.put("echo", "echo", "1.0.0");
    watched.put("other", "other", "1.0.0");
    let host = watched.host().await;
    serves(&host, "echo", "1.0.0").await;
    serves(&host, "other", "1.0.0").await;
    let (by_hand, _) = watched.world.package("echo", "0.9.0", "");
    host.load(request(&by_hand)).await.unwrap();
    host.unload("other").await.unwrap();
    // Something else changes, and nothing of that.
    watched.put("third", "third", "1.0.0");
    serves(&host, "third", "1.0.0").await;
    assert_eq!(
        (version(&host, "echo").as_deref(), version(&host, "other")),
        (Some("0.9.0"), None)
    );
    host.shutdown().await;
    drop(host);
    let host = watched.host().await;
    serves(&host, "third", "1.0.0").await;
    assert_eq!(
        (version(&host, "echo").as_deref(), version(&host, "other")),
        (Some("0.9.0"), None)
    );
    // New packages are new words.
    watched.put("echo", "echo", "1.1.0");
    watched.put("other", "other", "1.1.0");
    serves(&host, "echo", "1.1.0").await;
    serves(&host, "other", "1.1.0").await;
    // What an operator put in the place of the directory's stays when that goes.
    host.load(request(&by_hand)).await.unwrap();
    watched.remove("echo");
    watched.remove("other");
    is_gone(&host, "other").await;
    assert_eq!(version(&host, "echo").as_deref(), Some("0.9.0"));
}

#[tokio::test]
async fn the_configuration_wins_and_gives_terms() {
    let watched = Watched::new();
    let (configured, _) = watched.world.package("echo", "3.0.0", "");
    watched.put("echo", "echo", "9.0.0");
    watched.put_with("needy", "needy", "1.0.0", "[permissions]\nkv = true\n");
    watched.put("plain", "plain", "1.0.0");
    let text = format!(
        "[watch]\ndir = \"x\"\n[watch.defaults]\nrestart = \"never\"\n[[plugin]]\nname = \"needy\"\ngrant = {{ kv = true }}\n\
         [[plugin]]\nname = \"echo\"\nsource = {configured:?}\n"
    );
    let config = HostConfig::parse(&text, "mortise.toml").unwrap();
    let host = watched.host_with(config.clone()).await;
    serves(&host, "plain", "1.0.0").await;
    serves(&host, "needy", "1.0.0").await;
    assert_eq!(version(&host, "echo").as_deref(), Some("3.0.0"));
    assert_eq!(host.inspect("plain").unwrap().restart, Restart::Never);
    assert_eq!(
        host.inspect("needy").unwrap().restart,
        Restart::OnFailure,
        "its entry takes the place of the defaults"
    );
    assert_eq!(info(&host, "needy").runtime, Some(RuntimeName::Wasm));
    // The entry goes: the directory's package may have the name now. Other terms are another load.
    host.reload(Vec::new()).await;
    let ReloadReport {
        loaded,
        swapped,
        unchanged,
        ..
    } = host.watch(Some(watched.config_with_grant())).await;
    assert_eq!(
        (loaded, swapped, unchanged),
        (
            vec!["echo".to_owned()],
            vec!["plain".to_owned()],
            vec!["needy".to_owned()]
        )
    );
    serves(&host, "echo", "9.0.0").await;
    assert_eq!(host.inspect("plain").unwrap().restart, Restart::OnFailure);
    // Nothing is watched any more: what it brought goes.
    let report = host.watch(None).await;
    assert_eq!(report.unloaded, ["echo", "needy", "plain"]);
    assert!(host.list().is_empty(), "{:?}", host.list());
}

impl Watched {
    fn config_with_grant(&self) -> WatchConfig {
        let mut config = self.config();
        let mut terms = mortise_manifest::PluginTerms::default();
        terms.grant.permissions.kv = true;
        config.plugins.insert("needy".to_owned(), terms);
        config
    }
}

#[tokio::test]
async fn one_that_needs_another_is_tried_again_when_that_comes() {
    let watched = Watched::new();
    let host = watched.host().await;
    watched.put_with(
        "late",
        "late",
        "1.0.0",
        "[[requires]]\nservice = \"test.v1.Echo\"\nversion = \"^2\"\n",
    );
    until("it is refused", || {
        host.list()
            .iter()
            .any(|it| it.name == "late" && it.state == State::Rejected)
    })
    .await;
    watched.put("early", "early", "2.0.0");
    serves(&host, "late", "1.0.0").await;
}

#[tokio::test]
async fn fifty_at_once_and_a_restart_with_all_of_them() {
    let watched = Watched::new();
    let host = watched.host().await;
    for number in 0..50 {
        watched.put(&format!("p{number}"), &format!("p{number}"), "1.0.0");
    }
    for number in 0..50 {
        serves(&host, &format!("p{number}"), "1.0.0").await;
    }
    host.shutdown().await;
    drop(host);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let host = watched.host().await;
    assert_eq!(
        host.list().iter().filter(|it| it.state.is_routed()).count(),
        50,
        "they serve when the host is ready"
    );
    let changes = host.changes(None, None, 1000).await.unwrap();
    assert_eq!(changes.len(), 50, "coming back is no change");
}

#[tokio::test]
async fn another_package_comes_as_a_canary_if_the_directory_has_a_plan() {
    let watched = Watched::new();
    let text = "[watch]\ndir = \"x\"\n[watch.defaults.canary]\nsteps = [\"50%\", \"pause\", \"promote\"]\nwindow_ms = 100\nrequests_min = 5\np95_rise_min_ms = 60000\n";
    let config = HostConfig::parse(text, "mortise.toml").unwrap();
    watched.put("a", "echo", "1.0.0");
    let host = watched.host_with(config.clone()).await;
    serves(&host, "echo", "1.0.0").await;
    watched.put("a", "echo", "1.1.0");
    until("it has a canary", || !host.canaries().is_empty()).await;
    let state = |host: &Host| host.canaries()[0].state.clone();
    assert_eq!(version(&host, "echo").as_deref(), Some("1.0.0"));
    for _ in 0..400 {
        call(&host, "test.v1.Echo/Call", "x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until("it waits", || state(&host) == "paused").await;
    // What comes beside it does not disturb it.
    watched.put("b", "other", "1.0.0");
    serves(&host, "other", "1.0.0").await;
    assert_eq!(state(&host), "paused");
    host.shutdown().await;
    drop(host);
    let host = watched.host_with(config.clone()).await;
    until("it is found again", || {
        host.canaries().first().is_some_and(|it| it.step == 2)
    })
    .await;
    serves(&host, "echo", "1.0.0").await;
    host.resume_canary("uid:1", "echo").await.unwrap();
    serves(&host, "echo", "1.1.0").await;
    until("it is promoted", || state(&host) == "promoted").await;
    // One that is given up stays away, until there is another package.
    watched.put("a", "echo", "1.2.0");
    until("the next one comes", || host.canaries()[0].version == "1.2.0").await;
    host.abort_canary("uid:1", "echo", "no").await.unwrap();
    watched.put("b", "other", "1.1.0");
    until("another change is seen", || host.canaries().len() == 2).await;
    let of_echo = |host: &Host| {
        host.canaries()
            .into_iter()
            .find(|it| it.plugin == "echo")
            .unwrap()
    };
    assert_eq!(of_echo(&host).state, "rolled-back");
    assert_eq!(version(&host, "echo").as_deref(), Some("1.1.0"));
    watched.put("a", "echo", "1.3.0");
    until("another package comes", || of_echo(&host).version == "1.3.0").await;
    // The directory has what serves again.
    watched.put("a", "echo", "1.1.0");
    until("it is withdrawn", || of_echo(&host).state == "rolled-back").await;
    serves(&host, "echo", "1.1.0").await;
}
