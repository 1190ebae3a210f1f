//! A process that is killed in the middle of calls: each gets one clear error at once, and only an idempotent one is to be tried again.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use mortise_e2e::{Daemon, package};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::go;

/// Kills the plugin's process once two calls are in it: what both callers are told.
fn cut_off(daemon: &Daemon, plugin: &str, calls: [(String, Value); 2]) -> [Value; 2] {
    let look = || daemon.ask(&["inspect", plugin]).unwrap();
    let pid = look()["usage"]["pid"].as_i64().unwrap();
    std::thread::scope(|scope| {
        let calls = calls.map(|(method, params)| scope.spawn(move || daemon.rpc(&method, &params).unwrap()));
        let patience = Instant::now() + Duration::from_secs(30);
        while look()["in_flight"] != json!(2) {
            assert!(Instant::now() < patience, "the calls do not get in: {}", look());
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        // Their deadlines are ten minutes away.
        calls.map(|it| it.join().unwrap())
    })
}

fn assert_told(answers: &[Value; 2], plugin: &str) {
    for (answer, retryable) in answers.iter().zip([false, true]) {
        let error = &answer["error"];
        assert_eq!(
            (&error["data"]["kind"], &error["data"]["retryable"]),
            (&json!("guest_fault"), &json!(retryable)),
            "{answer}"
        );
        assert_eq!(error["data"]["plugin"], plugin, "{answer}");
        assert!(error["message"].as_str().unwrap().contains(plugin), "{answer}");
    }
}

#[test]
fn calls_in_a_process_that_is_killed() {
    let source = package("bad-process").unwrap();
    let entry = format!(
        "[[plugin]]\nname = \"hostile\"\nsource = {source:?}\nruntime = \"process\"\nlimits = {{ deadline_ms = 600000 }}\n"
    );
    let daemon = Daemon::start(&entry).unwrap();
    let calls = ["Wait", "WaitSafely"].map(|it| (format!("plugin.hostile.{it}"), json!({})));
    assert_told(&cut_off(&daemon, "hostile", calls), "hostile");

    // The same over the control socket and its command, whose readers may see everything: what the process died of.
    let command = |method: &str| {
        daemon
            .run(&["call", "hostile", method, "--output", "json"])
            .unwrap()
    };
    let patience = Instant::now() + Duration::from_secs(30);
    let pid = loop {
        let detail = daemon.ask(&["inspect", "hostile"]).unwrap();
        if let Some(pid) = detail["usage"]["pid"].as_i64() {
            break pid;
        }
        assert!(Instant::now() < patience, "it does not come back: {detail}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let outputs = std::thread::scope(|scope| {
        let calls = ["Wait", "WaitSafely"].map(|method| scope.spawn(move || command(method)));
        while daemon.ask(&["inspect", "hostile"]).unwrap()["in_flight"] != json!(2) {
            assert!(Instant::now() < patience, "the calls do not get in");
            std::thread::sleep(Duration::from_millis(10));
        }
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        calls.map(|it| it.join().unwrap())
    });
    for (output, retryable) in outputs.iter().zip([false, true]) {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(told["error"]["retryable"], json!(retryable), "{told}");
        assert!(told.to_string().contains("ended by signal 9"), "{told}");
    }
}

#[test]
fn calls_in_a_go_plugin_that_is_killed() {
    let Some(program) = go::program("plugins/go-kv") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // A contract may say more than the plugin's own: the bytes are the same.
    let entries: String = [("once", ""), ("again", " { option (mortise.idempotent) = true; }")]
        .map(|(name, option)| {
            let package = folder.path().join(name);
            write_package(&package, name, option, &program);
            format!("[[plugin]]\nname = \"{name}\"\nsource = {package:?}\nruntime = \"process\"\nlimits = {{ deadline_ms = 600000 }}\n")
        })
        .concat();
    let daemon = Daemon::start(&entries).unwrap();
    for (plugin, retryable) in [("once", false), ("again", true)] {
        let sleep = || {
            (
                format!("plugin.{plugin}.PrintKV"),
                json!({"Key": "sleep", "ValueInt": 600_000}),
            )
        };
        for answer in cut_off(&daemon, plugin, [sleep(), sleep()]) {
            let data = &answer["error"]["data"];
            assert_eq!(
                (&data["kind"], &data["retryable"]),
                (&json!("guest_fault"), &json!(retryable)),
                "{answer}"
            );
        }
    }
}

/// The Go plugin's package, as an import would make it, with an option on the method that sleeps.
fn write_package(folder: &Path, name: &str, option: &str, program: &Path) {
    fs::create_dir_all(folder).unwrap();
    let proto = format!(
        "syntax = \"proto3\";\npackage grpctest;\nimport \"mortise/options.proto\";\n\
         service Test {{ rpc Double(TestRequest) returns (TestResponse); rpc PrintKV(PrintKVRequest) returns (PrintKVResponse){option}{end}\n}}\n\
         message TestRequest {{ int32 Input = 1; }}\nmessage TestResponse {{ int32 Output = 2; }}\n\
         message PrintKVRequest {{ string Key = 1; oneof Value {{ string ValueString = 2; int32 ValueInt = 3; }} }}\nmessage PrintKVResponse {{}}\n",
        end = if option.is_empty() { ";" } else { "" },
    );
    let file = folder.join("test.proto");
    fs::write(&file, proto).unwrap();
    let options = mortise_e2e::root().join("proto");
    let mut compiler = protox::Compiler::new([folder, options.as_path()]).unwrap();
    compiler.include_imports(true).open_file(&file).unwrap();
    // As bytes: as a message of `prost` it would have lost the option.
    fs::write(
        folder.join("contract.binpb"),
        compiler.encode_file_descriptor_set(),
    )
    .unwrap();
    fs::copy(program, folder.join(name)).unwrap();
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    let manifest = format!(
        "[plugin]\nname = \"{name}\"\nversion = \"1.0.0\"\napi = 1\n[contract]\nprovides = [\"grpctest.Test\"]\n\
         [[variant]]\nruntime = \"process\"\nfile = \"{name}\"\n\
         [variant.go_plugin]\ncookie_key = \"BASIC_PLUGIN\"\ncookie_value = \"hello\"\nversions = [1]\n\
         [limits]\nmemory_mib = 256\nstart_ms = 60000\n"
    );
    fs::write(folder.join("plugin.toml"), manifest).unwrap();
}
