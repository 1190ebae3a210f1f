//! State as an operator meets it: through the command, the control socket and a host that is killed.

use mortise_e2e::{Daemon, package};
use serde_json::{Value, json};

fn add(daemon: &Daemon) -> (u64, String) {
    let answer = daemon.rpc("plugin.counter.Add", &json!({"by": "1"})).unwrap();
    let result = &answer["result"];
    let count = match &result["count"] {
        Value::String(text) => text.parse().unwrap(),
        other => other.as_u64().unwrap_or_else(|| panic!("{answer}")),
    };
    (count, result["version"].as_str().unwrap().to_owned())
}

#[test]
fn a_swap_keeps_the_count_and_so_does_a_host_that_is_killed() {
    for runtime in ["native", "wasm", "process"] {
        let mut daemon = Daemon::start("").unwrap();
        let load = |daemon: &Daemon, folder: &str, more: &[&str]| {
            let folder = package(folder).unwrap();
            let arguments = ["load", folder.to_str().unwrap(), "--runtime", runtime];
            daemon.run(&[&arguments, more].concat()).unwrap()
        };
        assert!(load(&daemon, "counter", &[]).status.success(), "{}", daemon.log());
        assert_eq!(add(&daemon), (1, "1.0.0".to_owned()), "{runtime}");
        assert!(
            load(&daemon, "counter-1.1", &[]).status.success(),
            "{}",
            daemon.log()
        );
        assert_eq!(add(&daemon), (2, "1.1.0".to_owned()), "{runtime}");
        let carried = &daemon.ask(&["inspect", "counter"]).unwrap()["carried_state"];
        assert_eq!(
            (carried["origin"].as_str(), carried["from_version"].as_str()),
            (Some("predecessor"), Some("1.0.0")),
            "{carried}"
        );
        let shown = daemon.run(&["inspect", "counter"]).unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("from 1.0.0, which served until then"), "{shown}");
        // What came after the swap was in memory only.
        daemon.kill().unwrap();
        daemon.start_again().unwrap();
        assert_eq!(add(&daemon), (2, "1.1.0".to_owned()), "{runtime}");
        // And a plugin that does not want to go stays, until the operator insists.
        let veto = r#"{"veto": "a payment is under way"}"#;
        let config = ["--config", veto];
        assert!(
            load(&daemon, "counter", &config).status.success(),
            "{}",
            daemon.log()
        );
        let refused = load(&daemon, "counter-1.1", &[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("a payment is under way"),
            "{said}"
        );
        assert!(load(&daemon, "counter-1.1", &["--force"]).status.success());
        assert_eq!(add(&daemon), (3, "1.1.0".to_owned()), "{runtime}");
    }
}
