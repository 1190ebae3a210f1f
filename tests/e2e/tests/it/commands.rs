//! Commands that need no host.

use std::{
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
};

use mortise_e2e::{mortise, package, root};

fn run(arguments: &[&str]) -> Output {
    Command::new(mortise().unwrap())
        .args(arguments)
        .stdin(Stdio::null())
        .current_dir(root())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn run_calls_a_package_once_on_every_runtime() {
    let package = package("thumbnailer").unwrap();
    for runtime in ["native", "wasm", "process"] {
        let request = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(request.path(), r#"{"image": "bm90IGFuIGltYWdl"}"#).unwrap();
        let json = format!("@{}", request.path().display());
        let arguments = [
            "run",
            package.to_str().unwrap(),
            "Thumbnail",
            "--json",
            &json,
            "--runtime",
            runtime,
        ];
        let output = run(&arguments);
        // The plugin answers with an error of its own, because these bytes are no image: exit code 4.
        assert_eq!(
            output.status.code(),
            Some(4),
            "{runtime}: {}",
            text(&output.stderr)
        );
        assert!(
            text(&output.stderr).contains("image"),
            "{runtime}: {}",
            text(&output.stderr)
        );
    }
}

/// Compiled WebAssembly stays in the user's cache folder, and where that cannot be used the call is answered all the same.
#[test]
fn run_keeps_compiled_code_in_the_users_cache() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let sum = |cache: &std::path::Path| {
        let mut command = Command::new(mortise().unwrap());
        let arguments = [
            "run",
            "embedded:checksum",
            "Crc32",
            "--json",
            r#"{"data": "MTIzNDU2Nzg5"}"#,
        ];
        let command = command
            .args(arguments)
            .env("XDG_CACHE_HOME", cache)
            .current_dir(home.path());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(
            text(&output.stdout),
            "{\"crc32\":3421780262}\n",
            "{}",
            text(&output.stderr)
        );
    };
    // One sealed file per piece of code; the key is another.
    let files = || {
        let files = std::fs::read_dir(cache.join("mortise/wasm")).unwrap();
        let about = |it: std::io::Result<std::fs::DirEntry>| {
            let it = it.unwrap();
            (it.file_name(), it.metadata().unwrap().modified().unwrap())
        };
        files.map(about).collect::<std::collections::BTreeSet<_>>()
    };
    sum(&cache);
    let first = files();
    assert!(first.len() > 1, "{first:?}");
    sum(&cache);
    assert_eq!(files(), first, "the second call compiles nothing");

    let mode = |it: &str| std::fs::metadata(cache.join(it)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("mortise"), mode("mortise/wasm")), (0o700, 0o700));
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    sum(&file);
    std::fs::set_permissions(cache.join("mortise"), std::fs::Permissions::from_mode(0o777)).unwrap();
    sum(&cache);
    assert_eq!(files(), first, "a folder that others may write to is left alone");
}

#[test]
fn check_finds_every_fault_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("contract")).unwrap();
    let manifest = "[plugin]\nname = \"Bad Name\"\nversion = \"1.x\"\napi = 1\n\n[contract]\nprovides = [\"acme.v1.Missing\"]\n\n[limits]\nmemry_mib = 3\n";
    std::fs::write(folder.path().join("plugin.toml"), manifest).unwrap();
    let output = run(&["check", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout) + &text(&output.stderr);
    for expected in [
        "plugin.toml:2:",
        "plugin.toml:3:",
        "plugin.toml:10:",
        "memory_mib",
        "hint:",
    ] {
        assert!(said.contains(expected), "`{expected}` is missing in:\n{said}");
    }
}

#[test]
fn nobody_home_is_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let output = run(&["list", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("hint"), "{}", text(&output.stderr));
}

#[test]
fn completions_and_man_page() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(
            output.status.success() && text(&output.stdout).contains("mortise"),
            "{shell}"
        );
    }
    assert!(text(&run(&["man"]).stdout).contains(".TH"));
}

#[test]
fn configuration_is_checked_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let source = package("ping").unwrap();
    let host = file(
        "mortise.toml",
        &format!(
            "[config]\ndir = \"conf\"\n\n[[plugin]]\nname = \"one\"\nsource = {source:?}\nconfig = {{ txt = \"a\" }}\n\n\
             [[plugin]]\nname = \"two\"\nsource = {source:?}\n\n[[plugin]]\nname = \"three\"\nsource = {source:?}\n\n\
             [[plugin]]\nname = \"four\"\nsource = \"no/such/package\"\n\n[[plugin]]\nname = \"five\"\nsource = {source:?}\n"
        ),
    );
    file("conf/two.json", "{\n  \"text\":\n    7\n}\n");
    file("conf/three.toml", "text = \"hunter2\nmore = 1\n");
    file("conf/five.toml", "text = { secret = \"file:/etc/shadow\" }\n");
    let broken = file(
        "broken.toml",
        "[config.etcd]\nendpoints = [\"https://m:hunter2@etcd:2379\"]\nprefx = \"/m\"\n",
    );
    let output = run(&["--output", "json", "config", "check", &host, &broken]);
    let told = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["plugins"], 5, "{report:#}");
    let faults = report["faults"].as_array().unwrap();
    let at = |place: &str| {
        let wanted = folder.path().join(place).to_str().unwrap().to_owned();
        let found = faults.iter().find(|it| it["place"] == wanted.as_str());
        let fault = found.unwrap_or_else(|| panic!("nothing at {place}: {report:#}"));
        assert!(fault["hint"].is_string(), "{fault}");
        fault["message"].as_str().unwrap().to_owned()
    };
    let message = at("mortise.toml:7:12");
    assert!(
        message.contains("`one`") && message.contains("did you mean `text`"),
        "{message}"
    );
    let message = at("conf/two.json:2:3");
    assert!(message.contains("`text` is a number"), "{message}");
    assert!(at("mortise.toml:19:1").contains("no/such/package"));
    let message = at("conf/five.toml:1:1");
    assert!(message.contains("refers to file:/etc/shadow"), "{message}");
    assert!(at("broken.toml:2:14").contains("who we are"));
    assert!(at("broken.toml:3:1").contains("prefx"));
    let of_three = faults
        .iter()
        .filter(|it| it["place"].as_str().unwrap().contains("three.toml:1:"));
    assert!(of_three.count() >= 1, "{report:#}");
    // Corrected.
    let sound = file(
        "sound.toml",
        &format!("[[plugin]]\nname = \"one\"\nsource = {source:?}\nconfig = {{ text = \"a\" }}\n"),
    );
    let output = run(&["config", "check", &sound]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "1 plugin: no faults\n");
}
