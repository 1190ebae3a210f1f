//! Every rule against a pair of contracts that keeps it and a pair that breaks it.
//!
//! `tests/data/<RULE_ID>/{pass,fail}/{old,new}.proto`; `fail/expect.txt` is every violation of the pair, as a user reads it. Write it
//! anew with `BLESS=1` and read the difference.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use mortise_contract::{
    Contract,
    compat::{Report, Rule, Verdict, check},
};

use crate::support::contract;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn read(folder: &Path, file: &str) -> String {
    let path = folder.join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compare(rule: Rule, folder: &Path) -> Report {
    let side = |file| -> Contract { contract(&read(folder, file)) };
    check(&side("old.proto"), &side("new.proto"), rule.level())
}

#[test]
fn every_rule_has_data_and_all_data_has_a_rule() {
    let folders: BTreeSet<String> = fs::read_dir(data())
        .expect("tests/data exists")
        .map(|entry| {
            entry
                .expect("tests/data can be listed")
                .file_name()
                .into_string()
                .expect("names are ASCII")
        })
        .collect();
    let rules: BTreeSet<String> = Rule::ALL.iter().map(|rule| rule.id().to_owned()).collect();
    assert_eq!(rules.len(), Rule::ALL.len(), "two rules share a name");
    assert_eq!(folders, rules);
}

#[test]
fn a_pair_that_keeps_the_rule_is_compatible() {
    for rule in Rule::ALL {
        let folder = data().join(rule.id()).join("pass");
        assert_ne!(
            read(&folder, "old.proto"),
            read(&folder, "new.proto"),
            "{rule}: the pair must differ"
        );
        let report = compare(rule, &folder);
        assert!(
            matches!(report.verdict, Verdict::Exact | Verdict::WireCompatible),
            "{rule}/pass: {}",
            report.verdict
        );
    }
}

#[test]
fn a_pair_that_breaks_the_rule_says_where_and_what_to_do() {
    for rule in Rule::ALL {
        let folder = data().join(rule.id()).join("fail");
        let Verdict::Incompatible(violations) = compare(rule, &folder).verdict else {
            panic!("{rule}/fail is compatible");
        };
        assert!(
            violations.iter().any(|it| it.rule == rule),
            "{rule}/fail breaks only {violations:?}"
        );
        let found: String = violations.iter().map(|it| format!("{it}\n")).collect();
        if env::var_os("BLESS").is_some() {
            fs::write(folder.join("expect.txt"), found).expect("expect.txt can be written");
        } else {
            assert_eq!(found, read(&folder, "expect.txt"), "{rule}/fail");
        }
    }
}

#[test]
fn a_json_rule_does_not_exist_at_the_wire_level() {
    use mortise_contract::compat::Level;
    let json_only = Rule::ALL
        .into_iter()
        .filter(|rule| rule.level() == Level::WireJson);
    for rule in json_only {
        let folder = data().join(rule.id()).join("fail");
        let side = |file| contract(&read(&folder, file));
        let report = check(&side("old.proto"), &side("new.proto"), Level::Wire);
        if let Verdict::Incompatible(violations) = report.verdict {
            assert!(
                violations.iter().all(|it| it.rule.applies(Level::Wire)),
                "{violations:?}"
            );
        }
    }
}

#[test]
fn levels_have_the_rules_that_buf_gives_them() {
    use mortise_contract::compat::Level;
    let count = |level| Rule::ALL.into_iter().filter(|rule| rule.applies(level)).count();
    // buf's 15 and 22, and RPC_NO_DELETE, which buf has at PACKAGE and FILE only: a caller cannot call what is gone.
    assert_eq!((count(Level::Wire), count(Level::WireJson)), (16, 23));
}
