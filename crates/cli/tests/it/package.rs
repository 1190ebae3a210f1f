//! Packages: built from C, checked, called once.

use std::fs;

use crate::command::Place;

const PACKAGE: &str = "upper/target/mortise/upper-1.0.0";

fn built() -> Place {
    let place = Place::new();
    place.upper();
    place.ok(&["build", "upper"]);
    place
}

#[test]
fn c_becomes_a_package_that_runs() {
    let place = built();
    let files: Vec<_> = fs::read_dir(place.path().join(PACKAGE))
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
    assert_eq!(
        place
            .ok(&["check", PACKAGE, "--color", "never"])
            .lines()
            .last()
            .unwrap(),
        "upper 1.0.0: no faults"
    );
    for method in ["Upper", "test.upper.v1.Upper/Upper"] {
        let reply = place.ok(&["run", PACKAGE, method, "--json", r#"{"text": "größe"}"#]);
        assert_eq!(reply, "{\"text\":\"GRößE\"}\n");
    }
    place.write("request.json", r#"{"text":"from a file"}"#);
    assert_eq!(
        place.ok(&["run", PACKAGE, "Upper", "--json", "@request.json"]),
        "{\"text\":\"FROM A FILE\"}\n"
    );
}

#[test]
fn what_a_call_ends_with() {
    let place = built();
    let mut text = String::new();
    for rest in [
        "Upper --json {\"text\":\"fail\"}",
        "Lower",
        "Upper --json {\"txt\":1}",
        "Upper --runtime wasm",
        "Upper --runtime jvm",
        "Upper --grant kv",
    ] {
        text += &format!(
            "$ mortise run PACKAGE {rest}\n{}\n",
            place.run(&format!("run {PACKAGE} {rest}"))
        );
    }
    insta::assert_snapshot!(text);
}

#[test]
fn building_again_replaces_the_package_and_nothing_else() {
    let place = built();
    place.write("precious/file", "data");
    place.ok(&["build", "upper"]);
    let refused = place.run("build upper --out precious");
    assert!(
        refused.starts_with("exit 1\n") && refused.contains("is not empty and is no package"),
        "{refused}"
    );
    assert_eq!(
        fs::read_to_string(place.path().join("precious/file")).unwrap(),
        "data"
    );
    let left: Vec<_> = fs::read_dir(place.path().join("upper/target/mortise"))
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert!(left.iter().all(|it| it == "c" || it == "upper-1.0.0"), "{left:?}");
}

#[test]
fn what_cannot_be_built() {
    let place = Place::new();
    place.upper();
    let mut text = String::new();
    for rest in [
        "--runtime wasm",
        "--runtime process",
        "--c missing.c",
        "--module upper.c",
    ] {
        let told = place.run(&format!("build upper {rest}"));
        // What a C compiler says is its own affair.
        let own = told
            .lines()
            .filter(|line| !line.contains("missing.c") && !line.contains("compilation terminated"));
        text += &format!(
            "$ mortise build upper {rest}\n{}\n",
            own.collect::<Vec<_>>().join("\n")
        );
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_finished_module_gets_its_metadata() {
    let place = Place::new();
    place.upper();
    // The smallest module there is: enough to be packaged; a host would miss its exports.
    fs::write(place.path().join("empty.wasm"), b"\0asm\x01\0\0\0").unwrap();
    place.ok(&["build", "upper", "--module", "empty.wasm", "--out", "packaged"]);
    let wasm = fs::read(place.path().join("packaged/upper.wasm")).unwrap();
    assert_eq!(&wasm[8..9], [0], "a custom section");
    assert!(wasm.windows(7).any(|it| it == b"mortise"));
    fs::copy(
        place.path().join("packaged/upper.wasm"),
        place.path().join("again.wasm"),
    )
    .unwrap();
    let again = place.run("build upper --module again.wasm --out packaged");
    assert!(again.contains("it has metadata already"), "{again}");

    let faults = place.run("check packaged");
    assert!(
        faults.starts_with("exit 1\n") && faults.contains("wasm"),
        "{faults}"
    );
}

#[test]
fn json_for_programs() {
    let place = built();
    let report: serde_json::Value =
        serde_json::from_str(&place.ok(&["check", PACKAGE, "--output", "json"])).unwrap();
    assert_eq!(
        (&report["kind"], &report["plugin"]),
        (&"package".into(), &"upper 1.0.0".into())
    );
    assert_eq!(report["faults"].as_array().unwrap().len(), 0);
    let refused = place
        .mortise(["run", PACKAGE, "Lower", "--output", "json"])
        .output()
        .unwrap();
    let error: serde_json::Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "not_found");
    assert_eq!(error["error"]["exit"], 1);
}
