//! Tables and graphs as data, lookups as text, and the properties that hold for all of them.

use std::{collections::BTreeMap, sync::Arc};

use insta::assert_snapshot;
use proptest::prelude::*;
use semver::{Version, VersionReq};

use super::*;

const THUMBNAILER: &str = "acme.image.v1.Thumbnailer";

fn version(text: &str) -> Version {
    Version::parse(text).expect("a version")
}

fn range(text: &str) -> VersionReq {
    VersionReq::parse(text).expect("a range")
}

fn methods(service: &str, names: &[&str]) -> Vec<Method> {
    names.iter().map(|name| Method::new(service, *name)).collect()
}

fn provider(name: &str, at: &str, weight: u32, methods: Vec<Method>) -> Provider<String> {
    Provider {
        name: name.into(),
        version: version(at),
        weight,
        beside: false,
        methods,
        handle: format!("{name}@{at}"),
    }
}

/// A rule without headers; `name` or `name@version` with its weight each.
fn rule(name: &str, scope: Scope, to: &[(&str, u32)]) -> Rule {
    let share = |(address, weight): &(&str, u32)| {
        let address = Address::parse(address).expect("an address");
        Share {
            provider: address.name.into(),
            version: address.version,
            weight: *weight,
        }
    };
    Rule {
        name: name.into(),
        scope,
        headers: Vec::new(),
        to: to.iter().map(share).collect(),
        sticky: None,
    }
}

fn exact(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch::Exact {
        name: name.into(),
        value: value.into(),
    }
}

fn prefix(name: &str, prefix: &str) -> HeaderMatch {
    HeaderMatch::Prefix {
        name: name.into(),
        prefix: prefix.into(),
    }
}

fn regex(name: &str, pattern: &str) -> HeaderMatch {
    HeaderMatch::Regex {
        name: name.into(),
        pattern: Pattern::new(pattern).expect("a pattern"),
    }
}

/// Two versions of a thumbnailer side by side, the same package under another name, and an unrelated plugin.
fn table() -> RoutingTable<String> {
    let both = || methods(THUMBNAILER, &["Info", "Resize"]);
    let mut echo = methods("demo.v1.Echo", &["Say"]);
    echo.extend(methods("demo.v1.Admin", &["Say", "Stop"]));
    RoutingTable::builder()
        .provider(provider("thumb", "1.2.0", 90, both()))
        .provider(provider("thumb", "1.3.0", 10, both()))
        .provider(provider("thumb-jailed", "1.3.0", 0, both()))
        .provider(provider("echo", "0.1.0", 1, echo))
        .rule(Rule {
            headers: vec![exact("x-canary", "yes")],
            ..rule("staff", Scope::All, &[("thumb@1.3.0", 1)])
        })
        .rule(Rule {
            headers: vec![prefix("x-user", "guest-")],
            ..rule("jail guests", Scope::All, &[("thumb-jailed", 1)])
        })
        .build()
        .expect("a good table")
}

fn query<'q>(target: &'q str, headers: &'q [(&'q str, &'q str)]) -> Query<'q> {
    Query {
        target,
        plugin: None,
        headers,
        range: None,
        key: Key::Sticky(b"ann"),
    }
}

fn goes_to(target: &str, headers: &[(&str, &str)]) -> String {
    match table().lookup(&query(target, headers)) {
        Ok(choice) => format!(
            "{} method {}: {}",
            choice.provider.handle, choice.method, choice.reason
        ),
        Err(error) => error.to_string(),
    }
}

#[test]
fn finds_methods_by_every_form_of_target() {
    assert_eq!(
        goes_to("demo.v1.Echo/Say", &[]),
        "echo@0.1.0 method 0: it is the only candidate"
    );
    assert_eq!(
        goes_to("plugin.echo.Stop", &[]),
        "echo@0.1.0 method 2: it is the only candidate"
    );
    let pinned = "thumb@1.3.0 method 1: it is the only candidate";
    assert_eq!(goes_to("plugin.thumb@1.3.0.Resize", &[]), pinned);
    let by_name = goes_to("plugin.thumb.Resize", &[]);
    assert!(by_name.ends_with("of 100"), "{by_name}");
}

#[test]
fn rules_come_before_weight_and_the_first_one_wins() {
    let target = "acme.image.v1.Thumbnailer/Resize";
    assert_eq!(
        goes_to(target, &[("X-Canary", "yes")]),
        "thumb@1.3.0 method 1: rule `staff` sends this call there"
    );
    let guest = ("x-user", "guest-7");
    assert_eq!(
        goes_to(target, &[guest]),
        "thumb-jailed@1.3.0 method 1: rule `jail guests` sends this call there"
    );
    assert!(goes_to(target, &[guest, ("x-canary", "yes")]).contains("`staff`"));
    assert!(goes_to(target, &[("x-canary", "YES"), ("x-user", "a guest-")]).contains("weight"));
    // The rule points at a provider that the target leaves out.
    assert!(goes_to("plugin.thumb.Resize", &[guest]).contains("weight"));
}

#[test]
fn says_why_nobody_answers() {
    let targets = [
        "Resize",
        "plugin.thumb",
        "plugin..Resize",
        "plugin.thumb@new.Resize",
        "a/b/c",
        "/Resize",
        "plugin.nobody.Resize",
        "plugin.thumb@9.0.0.Resize",
        "acme.nobody.v1.Service/Method",
        "acme.image.v1.Thumbnailer/Rezise",
        "plugin.thumb.Rezise",
        "plugin.echo.Say",
    ];
    let answers: Vec<String> = targets.iter().map(|target| goes_to(target, &[])).collect();
    assert_snapshot!(answers.join("\n"), @r"
    `Resize` is not a method (`package.Service/Method` or `plugin.{name}.{method}`): it has no `/` and does not begin with `plugin.`
    `plugin.thumb` is not a method (`package.Service/Method` or `plugin.{name}.{method}`): the plugin's name is not followed by a method
    `plugin..Resize` is not a method (`package.Service/Method` or `plugin.{name}.{method}`): a name is not empty and has no `.` and no `/`
    `plugin.thumb@new.Resize` is not a method (`package.Service/Method` or `plugin.{name}.{method}`): `new` is not a version: unexpected character 'n' while parsing major version number
    `a/b/c` is not a method (`package.Service/Method` or `plugin.{name}.{method}`): one service and one method stand around `/`
    `/Resize` is not a method (`package.Service/Method` or `plugin.{name}.{method}`): one service and one method stand around `/`
    no plugin `nobody` is loaded
    plugin `thumb` is not loaded in version 9.0.0, only in `1.3.0` and `1.2.0`
    no loaded plugin provides the service `acme.nobody.v1.Service`
    `acme.image.v1.Thumbnailer` has no method `Rezise`; it has `Info` and `Resize`
    `thumb` has no method `Rezise`; it has `Info` and `Resize`
    plugin `echo` has several methods `Say`; call one of `demo.v1.Admin/Say` and `demo.v1.Echo/Say`
    ");
}

#[test]
fn a_range_takes_versions_away() {
    let table = table();
    let wants = |wanted: &str| {
        let wanted = range(wanted);
        let query = Query {
            range: Some(&wanted),
            ..query("plugin.thumb.Resize", &[])
        };
        table
            .lookup(&query)
            .map(|choice| choice.provider.handle.clone())
            .map_err(|error| error.to_string())
    };
    assert_eq!(wants("^1.3"), Ok("thumb@1.3.0".to_owned()));
    assert_eq!(wants("<1.3"), Ok("thumb@1.2.0".to_owned()));
    let nobody = "`plugin.thumb.Resize` is provided in `1.3.0` and `1.2.0`, and the caller requires ^2";
    assert_eq!(wants("2"), Err(nobody.to_owned()));
}

#[test]
fn explains() {
    let wanted = range(">=1.3.0");
    let headers = [("x-user", "guest-1")];
    let in_range = Query {
        range: Some(&wanted),
        ..query("plugin.thumb.Resize", &headers)
    };
    assert_snapshot!(table().explain(&in_range).to_string(), @r"
    plugin.thumb.Resize
      candidate thumb@1.3.0, weight 10
      candidate thumb@1.2.0, weight 90
      thumb@1.2.0 is not in the range `>=1.3.0`
      goes to thumb@1.3.0: it is the only candidate
    ");
    assert_snapshot!(table().explain(&query("plugin.thumb.Resize", &headers)).to_string(), @r"
    plugin.thumb.Resize
      candidate thumb@1.3.0, weight 10
      candidate thumb@1.2.0, weight 90
      rule `staff` does not match
      rule `jail guests` matches, and its provider thumb-jailed is not a candidate
      goes to thumb@1.2.0: the call's key fell to it, at weight 90 of 100
    ");
}

#[test]
fn weight_zero_is_reached_only_by_name_or_rule() {
    let both = || methods(THUMBNAILER, &["Resize"]);
    let table = RoutingTable::builder()
        .provider(provider("a", "1.0.0", 0, both()))
        .provider(provider("b", "1.0.0", 0, both()))
        .build()
        .expect("a good table");
    let lookup = |target| {
        table
            .lookup(&query(target, &[]))
            .map(|choice| choice.provider.handle.clone())
    };
    assert_eq!(lookup("plugin.b.Resize"), Ok("b@1.0.0".to_owned()));
    let error = lookup("acme.image.v1.Thumbnailer/Resize").expect_err("nobody has weight");
    let text = "every provider of `acme.image.v1.Thumbnailer/Resize` has weight 0: `a@1.0.0` and `b@1.0.0`";
    assert_eq!(error.to_string(), text);
}

#[test]
fn plugins_are_found_by_address() {
    let table = table();
    let find = |text| {
        table
            .plugin(&Address::parse(text).expect("an address"))
            .map(|it| it.handle.clone())
    };
    assert_eq!(find("thumb"), Ok("thumb@1.3.0".to_owned()), "the newest");
    assert_eq!(find("thumb@1.2.0"), Ok("thumb@1.2.0".to_owned()));
    assert_eq!(
        find("nobody").expect_err("absent").to_string(),
        "no plugin `nobody` is loaded"
    );
    let order: Vec<String> = table.providers().iter().map(Provider::address).collect();
    assert_eq!(
        order,
        ["echo@0.1.0", "thumb@1.3.0", "thumb@1.2.0", "thumb-jailed@1.3.0"]
    );
}

#[test]
fn builders_refuse_doubles() {
    let one = || provider("a", "1.0.0", 1, methods("a.B", &["C"]));
    let error = RoutingTable::builder()
        .provider(one())
        .provider(one())
        .build()
        .expect_err("T1");
    assert_eq!(error.to_string(), "two providers are `a@1.0.0`");
    let twice = provider("a", "1.0.0", 1, methods("a.B", &["C", "C"]));
    let error = RoutingTable::builder().provider(twice).build().expect_err("T2");
    assert_eq!(error.to_string(), "`a@1.0.0` lists the method `a.B/C` twice");
}

#[test]
fn sticky_keys_never_move_between_releases() {
    // These are facts about the algorithm: users stay where they are when the host is upgraded.
    let target = "acme.image.v1.Thumbnailer/Resize";
    let table = table();
    let to = |key: Key<'_>| {
        let query = Query {
            key,
            ..query(target, &[])
        };
        table.lookup(&query).expect("a provider").provider.handle.clone()
    };
    let new: Vec<u32> = (0..100u32)
        .filter(|user| to(Key::Sticky(&user.to_le_bytes())) == "thumb@1.3.0")
        .collect();
    assert_snapshot!(format!("{new:?}"), @"[5, 9, 19, 21, 22, 23, 32, 75, 79, 82]");
    let new: Vec<u64> = (0..100)
        .filter(|number| to(Key::Spread(*number)) == "thumb@1.3.0")
        .collect();
    assert_snapshot!(format!("{new:?}"), @"[10, 25, 31, 33, 39, 43, 47, 64, 65, 66, 77, 86, 96, 99]");
}

// === rules ===

/// A thumbnailer under its plain name, 1.3.0 beside it, and somebody else who provides the same.
fn ruled(rules: Vec<Rule>) -> RoutingTable<String> {
    let both = || methods(THUMBNAILER, &["Info", "Resize"]);
    let mut builder = RoutingTable::builder()
        .provider(provider("thumb", "1.2.0", 1, both()))
        .provider(Provider {
            beside: true,
            ..provider("thumb", "1.3.0", 0, both())
        })
        .provider(provider("other", "0.1.0", 1, both()));
    for rule in rules {
        builder = builder.rule(rule);
    }
    builder.build().expect("a good table")
}

/// Where calls with the keys 0 to 999 go, and how many.
fn shares(table: &RoutingTable<String>, target: &str, headers: &[(&str, &str)]) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for number in 0..1000 {
        let query = Query {
            key: Key::Spread(number),
            ..query(target, headers)
        };
        let chosen = table.lookup(&query).expect("a provider").provider.handle.clone();
        *found.entry(chosen).or_default() += 1;
    }
    found
}

#[test]
fn headers_match_exactly_by_prefix_by_pattern_by_being_there_and_by_not() {
    let call = [("X-Version", "1.3.7"), ("x-user", "guest-7"), ("x-user", "ann")];
    let not = |inner| HeaderMatch::Not(Box::new(inner));
    let present = |name: &str| HeaderMatch::Present { name: name.into() };
    for (wanted, expected) in [
        (exact("x-version", "1.3.7"), true),
        (exact("x-version", "1.3"), false),
        (exact("x-user", "ann"), true),
        (prefix("x-user", "guest-"), true),
        (prefix("x-user", "uest-"), false),
        (regex("x-version", r"1\.3\.\d+"), true),
        (regex("x-version", r"3"), false),
        (regex("x-version", r"1|2"), false),
        (regex("x-version", r".*3.*"), true),
        (present("x-VERSION"), true),
        (present("x-canary"), false),
        (not(present("x-canary")), true),
        (not(exact("x-user", "ann")), false),
    ] {
        assert_eq!(wanted.matches(&call), expected, "{wanted}");
    }
}

#[test]
fn patterns_are_bounded_and_say_why_they_are_none() {
    let why = |text: &str| Pattern::new(text).expect_err("no pattern").to_string();
    assert_eq!(why("1\\.(3"), "`1\\\\.(3` is no pattern: unclosed group");
    assert!(why(&"a".repeat(1025)).ends_with("is no pattern: it has 1025 bytes, and the most are 1024"));
    assert!(why("((a{100}){100}){100}").ends_with("repeat less"));
    // What makes other engines take for ever.
    let evil = Pattern::new("(a+)+b").expect("a pattern");
    assert!(!evil.matches(&"a".repeat(100_000)));
}

#[test]
fn a_rule_is_about_its_service_method_or_plugin() {
    let canary = [("thumb@1.3.0", 1)];
    let scopes = [
        (Scope::All, true, true),
        (Scope::Service(THUMBNAILER.into()), true, true),
        (Scope::Service("acme.Other".into()), false, false),
        (Scope::Method(Method::new(THUMBNAILER, "Resize")), true, false),
        (Scope::Plugin("other".into()), false, false),
    ];
    for (scope, resize, info) in scopes {
        let table = ruled(vec![rule("r", scope.clone(), &canary)]);
        for (method, expected) in [("Resize", resize), ("Info", info)] {
            let found = shares(&table, &format!("plugin.thumb.{method}"), &[]);
            let moved = found.get("thumb@1.3.0") == Some(&1000);
            assert_eq!(moved, expected, "{scope}: {method}");
        }
    }
}

#[test]
fn rules_of_a_plugin_choose_its_version_and_nobody_elses_part() {
    let table = ruled(vec![rule(
        "canary",
        Scope::Plugin("thumb".into()),
        &[("thumb", 90), ("thumb@1.3.0", 10)],
    )]);
    let by_name = shares(&table, "plugin.thumb.Resize", &[]);
    assert!((60..140).contains(&by_name["thumb@1.3.0"]), "{by_name:?}");
    assert_eq!(by_name.values().sum::<u32>(), 1000);
    let by_service = shares(&table, "acme.image.v1.Thumbnailer/Resize", &[]);
    let of_thumb = by_service["thumb@1.2.0"] + by_service["thumb@1.3.0"];
    assert!((440..560).contains(&of_thumb), "{by_service:?}");
    assert!((20..85).contains(&by_service["thumb@1.3.0"]), "{by_service:?}");
    let chosen = |number| {
        let query = Query {
            key: Key::Spread(number),
            ..query("acme.image.v1.Thumbnailer/Resize", &[])
        };
        table.lookup(&query).expect("a provider").provider.handle.clone()
    };
    let first = (0..1000)
        .find(|it| chosen(*it) == "thumb@1.3.0")
        .expect("one of them");
    let query = Query {
        key: Key::Spread(first),
        ..query("acme.image.v1.Thumbnailer/Resize", &[])
    };
    assert_snapshot!(table.explain(&query).to_string(), @r#"
    acme.image.v1.Thumbnailer/Resize
      candidate other@0.1.0, weight 1
      candidate thumb@1.3.0, weight 0
      candidate thumb@1.2.0, weight 1
      plugin `thumb` answers, because the call's key fell to it, at weight 1 of 2; its own rules choose the version
      goes to thumb@1.3.0: rule `canary` splits these calls, and this one fell to it, at 10 of 100
    "#);
}

#[test]
fn a_share_of_zero_gets_nothing_and_a_missing_one_leaves_its_part() {
    let scope = || Scope::Plugin("thumb".into());
    let stopped = ruled(vec![rule("r", scope(), &[("thumb", 100), ("thumb@1.3.0", 0)])]);
    assert_eq!(shares(&stopped, "plugin.thumb.Resize", &[])["thumb@1.2.0"], 1000);
    let missing = ruled(vec![rule(
        "r",
        scope(),
        &[("thumb@9.0.0", 90), ("thumb@1.3.0", 10)],
    )]);
    assert_eq!(shares(&missing, "plugin.thumb.Resize", &[])["thumb@1.3.0"], 1000);
    let nobody = ruled(vec![rule(
        "r",
        scope(),
        &[("thumb@9.0.0", 90), ("thumb@8.0.0", 10)],
    )]);
    assert_eq!(shares(&nobody, "plugin.thumb.Resize", &[])["thumb@1.2.0"], 1000);
}

#[test]
fn a_sticky_header_keeps_calls_together_and_more_weight_moves_only_to_it() {
    let with = |weight: u32| {
        ruled(vec![Rule {
            sticky: Some("x-user-id".into()),
            ..rule(
                "r",
                Scope::Plugin("thumb".into()),
                &[("thumb", 100 - weight), ("thumb@1.3.0", weight)],
            )
        }])
    };
    let (ten, half) = (with(10), with(50));
    let mut moved = 0;
    for user in 0..200 {
        let user = format!("user-{user}");
        let headers = [("X-User-Id", user.as_str())];
        let at = |table: &RoutingTable<String>| {
            let found = shares(table, "plugin.thumb.Resize", &headers);
            assert_eq!(found.len(), 1, "{user} stays in one place");
            found.into_keys().next().expect("one")
        };
        let (before, after) = (at(&ten), at(&half));
        assert!(
            before == "thumb@1.2.0" || after == "thumb@1.3.0",
            "{user} moved back"
        );
        moved += u32::from(before != after);
    }
    assert!((50..110).contains(&moved), "{moved}");
    assert_eq!(
        shares(&ten, "plugin.thumb.Resize", &[]).len(),
        2,
        "without the header they spread"
    );
}

#[test]
fn a_caller_who_holds_on_to_a_plugin_gets_its_versions_only() {
    let table = ruled(vec![
        rule("away", Scope::Service(THUMBNAILER.into()), &[("other", 1)]),
        rule(
            "canary",
            Scope::Plugin("thumb".into()),
            &[("thumb", 50), ("thumb@1.3.0", 50)],
        ),
    ]);
    let held = |plugin, number| {
        let query = Query {
            plugin: Some(plugin),
            key: Key::Spread(number),
            ..query("acme.image.v1.Thumbnailer/Resize", &[])
        };
        table.lookup(&query).map(|it| it.provider.handle.clone())
    };
    let found: std::collections::BTreeSet<_> = (0..50).map(|it| held("thumb", it).expect("one")).collect();
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        ["thumb@1.2.0", "thumb@1.3.0"]
    );
    assert_eq!(held("other", 0), Ok("other@0.1.0".to_owned()));
    assert_eq!(
        held("nobody", 0).expect_err("absent").to_string(),
        "`nobody` has no method `Resize`; it has none"
    );
    assert!(table.has_versions("thumb") && !table.has_versions("other") && !table.has_versions("nobody"));
}

#[test]
fn tables_know_which_headers_their_rules_look_at() {
    let table = ruled(vec![Rule {
        headers: vec![
            exact("X-Canary", "yes"),
            HeaderMatch::Not(Box::new(prefix("x-user", "a"))),
        ],
        sticky: Some("X-Session".into()),
        ..rule("a", Scope::All, &[("thumb", 1)])
    }]);
    let names: Vec<&str> = table.header_names().iter().map(|it| &**it).collect();
    assert_eq!(names, ["x-canary", "x-session", "x-user"]);
}

prop_compose! {
    /// Rules over few headers and values, so that many of them match.
    fn some_rules()(
        rules in proptest::collection::vec((
            proptest::collection::vec((0u8..5, 0u8..3, 0u8..3), 0..3),
            0u8..3,
            0u8..3,
        ), 0..12),
    ) -> Vec<Rule> {
        rules.into_iter().enumerate().map(|(number, (headers, scope, to))| {
            let header = |(kind, name, value): (u8, u8, u8)| {
                let (name, value) = (format!("h{name}"), format!("v{value}"));
                match kind {
                    0 | 1 => exact(&name, &value),
                    2 => prefix(&name, &value),
                    3 => regex(&name, &format!("{value}|v0")),
                    _ => HeaderMatch::Not(Box::new(exact(&name, &value))),
                }
            };
            let scope = match scope {
                0 => Scope::All,
                1 => Scope::Service(THUMBNAILER.into()),
                _ => Scope::Method(Method::new(THUMBNAILER, "Info")),
            };
            let to = ["thumb@1.2.0", "thumb@1.3.0", "nobody"][usize::from(to)];
            Rule { headers: headers.into_iter().map(header).collect(), ..rule(&format!("r{number}"), scope, &[(to, 1)]) }
        }).collect()
    }
}

proptest! {
    /// The rules are found by value; that must be the same as trying them one by one.
    #[test]
    fn the_first_rule_that_matches_decides(
        rules in some_rules(),
        call in proptest::collection::vec((0u8..3, 0u8..4), 0..4),
    ) {
        let call: Vec<(String, String)> = call.iter().map(|(n, v)| (format!("H{n}"), format!("v{v}"))).collect();
        let headers: Vec<(&str, &str)> = call.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let expected = rules.iter().find(|rule| {
            rule.matches("Resize", &headers) && &*rule.to[0].provider == "thumb"
        });
        let table = ruled(rules.clone());
        let found = table.lookup(&query("plugin.thumb.Resize", &headers)).expect("a provider");
        match (&found.reason, expected) {
            (Reason::Rule(name), Some(rule)) => prop_assert_eq!(name, &rule.name),
            (Reason::Weight { .. }, None) => {}
            other => prop_assert!(false, "{:?}", other),
        }
        let explained = table.explain(&query("plugin.thumb.Resize", &headers)).outcome.expect("a provider");
        prop_assert_eq!(explained.2, found.reason);
    }
}

// === the graph ===

/// `a -> b/M^1` lines: who requires which method of whom. Every plugin provides `x.{name}/M` and `x.{name}/N`, version 1.0.0.
fn participants(lines: &str) -> Vec<Participant> {
    let mut plugins: BTreeMap<&str, Participant> = BTreeMap::new();
    for (number, line) in lines
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .enumerate()
    {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a plugin");
        let plugin = plugins.entry(name).or_insert_with(|| Participant {
            name: name.into(),
            version: version("1.0.0"),
            provides: methods(&format!("x.{name}"), &["M", "N"]),
            requires: Vec::new(),
        });
        let Some(called) = words.next() else { continue };
        let rest: Vec<&str> = words.collect();
        let value = |key: &str| rest.iter().find_map(|word| word.strip_prefix(key));
        let (called, method) = called
            .split_once('/')
            .map_or((called, None), |(called, method)| (called, Some(method)));
        plugin.requires.push(Need {
            from: value("from=").map(|from| Method::new(format!("x.{name}"), from)),
            service: format!("x.{called}").into(),
            method: method.map(Arc::from),
            range: range(value("range=").unwrap_or("^1")),
            optional: rest.contains(&"optional"),
            lazy: rest.contains(&"lazy"),
            place: Some(format!("{name}/plugin.toml:{}", number + 1)),
        });
    }
    plugins.into_values().collect()
}

fn check(lines: &str) -> String {
    let plugins = participants(lines);
    match check_dependencies(&plugins) {
        Ok(levels) => {
            let names = |level: &Vec<usize>| {
                level
                    .iter()
                    .map(|index| plugins[*index].name.to_string())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            levels.iter().map(names).collect::<Vec<_>>().join(", then ")
        }
        Err(faults) => faults
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

#[test]
fn providers_start_first() {
    assert_eq!(check("a b\na c\nb c\nc\nd"), "c d, then b, then a");
    assert_eq!(check(""), "");
}

#[test]
fn missing_providers_are_all_named() {
    assert_snapshot!(check("a nobody\na b range=^2\na b/Q\na nobody/M optional\nb"), @r"
    a@1.0.0 requires `x.nobody` ^1 (a/plugin.toml:1), and no plugin provides it
    a@1.0.0 requires `x.b` ^2 (a/plugin.toml:2), and only b@1.0.0 provides it
    a@1.0.0 requires `x.b/Q` ^1 (a/plugin.toml:3), and no plugin provides it
    ");
}

#[test]
fn a_circle_of_calls_is_shown_as_its_shortest_path() {
    assert_snapshot!(check("a b\nb c\nc d\nd a\nc b"), @"calls go in a circle: b@1.0.0 x.b/M -> `x.c` ^1 (b/plugin.toml:2), provided by c@1.0.0 x.c/N -> `x.b` ^1 (c/plugin.toml:5), provided by b@1.0.0 x.b/M; mark this requirement `lazy = true`, or remove it: b@1.0.0 -> `x.c` ^1 (b/plugin.toml:2)");
}

#[test]
fn methods_that_only_cross_are_a_circle_of_starts() {
    // a.M calls b.N and b.M calls a.N: no call comes back to itself, but neither can start before the other.
    let crossed = "a b/N from=M\nb a/N from=M";
    assert_snapshot!(check(crossed), @"each waits for the next to start: a@1.0.0 -> `x.b` ^1 (a/plugin.toml:1), provided by b@1.0.0 -> `x.a` ^1 (b/plugin.toml:2), provided by a@1.0.0; mark this requirement `lazy = true`, or remove it: a@1.0.0 -> `x.b` ^1 (a/plugin.toml:1)");
    assert_eq!(check("a b/N from=M lazy\nb a/N from=M"), "a, then b");
}

#[test]
fn a_lazy_requirement_breaks_a_circle() {
    assert_eq!(check("a b lazy\nb a"), "a, then b");
    assert_eq!(check("a b\nb a lazy"), "b, then a");
}

#[test]
fn a_lazy_requirement_may_have_no_provider_yet() {
    assert_eq!(check("a b\nb nobody lazy"), "b, then a");
}

#[test]
fn what_a_plugin_can_do_without_is_no_circle() {
    assert_eq!(check("a b optional\nb a"), "a, then b");
    assert_eq!(check("a a\na a/N from=M"), "a", "a plugin may call itself");
}

#[test]
fn separate_circles_are_reported_separately() {
    let faults = check("a b\nb a\nc d\nd c\ne a");
    assert_eq!(faults.lines().count(), 2, "{faults}");
}

#[test]
fn circles_that_hang_together_are_cut_with_the_fewest_requirements() {
    // Two circles with one plugin in common, and none with one requirement in common.
    let faults = check("a b\nb a\na c\nc a\nc d\nd c");
    let (_, cut) = faults.split_once("; ").expect("a path, then what to cut");
    assert_snapshot!(cut, @"mark these requirements `lazy = true`, or remove them; no smaller set will do: a@1.0.0 -> `x.b` ^1 (a/plugin.toml:1), a@1.0.0 -> `x.c` ^1 (a/plugin.toml:3), c@1.0.0 -> `x.d` ^1 (c/plugin.toml:5)");
}

#[test]
fn a_plan_starts_what_can_start_and_says_why_the_rest_cannot() {
    let plugins = participants("a b\nb c\nc b\nd nobody\ne d\nf g\ng\nh a\nh a optional");
    let planned = plan(&plugins);
    let names = |level: &Vec<usize>| level.iter().map(|it| &*plugins[*it].name).collect::<String>();
    assert_eq!(planned.levels.iter().map(names).collect::<Vec<_>>(), ["g", "f"]);
    let held: Vec<String> = planned
        .held
        .iter()
        .map(|(index, why)| {
            let why: Vec<String> = why.iter().map(ToString::to_string).collect();
            format!("{}: {}", plugins[*index].name, why.join(" AND "))
        })
        .collect();
    assert_snapshot!(held.join("\n"), @r"
    a: a@1.0.0 requires `x.b` ^1 (a/plugin.toml:1), and b@1.0.0 cannot start
    b: calls go in a circle: b@1.0.0 x.b/M -> `x.c` ^1 (b/plugin.toml:2), provided by c@1.0.0 x.c/N -> `x.b` ^1 (c/plugin.toml:3), provided by b@1.0.0 x.b/M; mark this requirement `lazy = true`, or remove it: b@1.0.0 -> `x.c` ^1 (b/plugin.toml:2)
    c: calls go in a circle: b@1.0.0 x.b/M -> `x.c` ^1 (b/plugin.toml:2), provided by c@1.0.0 x.c/N -> `x.b` ^1 (c/plugin.toml:3), provided by b@1.0.0 x.b/M; mark this requirement `lazy = true`, or remove it: b@1.0.0 -> `x.c` ^1 (b/plugin.toml:2)
    d: d@1.0.0 requires `x.nobody` ^1 (d/plugin.toml:4), and no plugin provides it
    e: e@1.0.0 requires `x.d` ^1 (e/plugin.toml:5), and d@1.0.0 cannot start
    h: h@1.0.0 requires `x.a` ^1 (h/plugin.toml:8), and a@1.0.0 cannot start
    ");
    assert_eq!(plan(&[]), Plan::default());
}

#[test]
fn a_chart_is_drawn_with_lines_that_pass_between_boxes() {
    let plugins = participants("a b\na d\nb c\nc d\nd a lazy\nd mail optional\ne d\nf nobody");
    let chart = Chart::of(&plugins, |index| ChartPlugin {
        name: plugins[index].name.to_string(),
        state: "ACTIVE".to_owned(),
        ..ChartPlugin::default()
    });
    assert_snapshot!(chart.to_text(), @r"
    level 0: needs nobody to start
      d 1.0.0 (-, ACTIVE)
        x.a ^1 (lazy) -> a
        x.mail ^1 (optional) -> nobody
    level 1: after level 0
      c 1.0.0 (-, ACTIVE)
        x.d ^1 -> d
      e 1.0.0 (-, ACTIVE)
        x.d ^1 -> d
    level 2: after level 1
      b 1.0.0 (-, ACTIVE)
        x.c ^1 -> c
    level 3: after level 2
      a 1.0.0 (-, ACTIVE)
        x.b ^1 -> b
        x.d ^1 -> d
    cannot start
      f 1.0.0 (-, ACTIVE)
        x.nobody ^1 -> nobody
        ! f@1.0.0 requires `x.nobody` ^1 (f/plugin.toml:8), and no plugin provides it
    ");
    if let Some(path) = std::env::var_os("MORTISE_TEST_SVG") {
        std::fs::write(path, chart.to_svg()).expect("it is written");
    }
    let svg = chart.to_svg();
    // The line from `a` to `d` has two levels between: its path has three curves.
    let line = svg
        .lines()
        .find(|it| it.contains("<title>a requires x.d ^1 of d"))
        .expect("it is drawn");
    assert_eq!(line.matches(" C").count(), 3, "{line}");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    let empty = Chart::default();
    assert_eq!(empty.to_text(), "no plugins\n");
    assert!(empty.to_svg().ends_with("</svg>\n") && empty.to_dot().ends_with("}\n"));
}

// === properties ===

prop_compose! {
    fn weighted_tables()(
        weights in proptest::collection::vec(0u32..1000, 1..6),
    ) -> RoutingTable<String> {
        let builder = weights.iter().enumerate().fold(RoutingTable::builder(), |builder, (index, weight)| {
            builder.provider(provider("p", &format!("1.{index}.0"), *weight, methods("a.B", &["C"])))
        });
        builder.build().expect("versions differ")
    }
}

fn rebuilt(table: &RoutingTable<String>, change: impl Fn(&mut Provider<String>)) -> RoutingTable<String> {
    let builder = table
        .providers()
        .iter()
        .fold(RoutingTable::builder(), |builder, provider| {
            let mut provider = provider.clone();
            change(&mut provider);
            builder.provider(provider)
        });
    builder.build().expect("names and versions stay")
}

fn chosen(table: &RoutingTable<String>, key: u64) -> Option<String> {
    let query = Query {
        key: Key::Spread(key),
        ..query("a.B/C", &[])
    };
    table
        .lookup(&query)
        .ok()
        .map(|choice| choice.provider.handle.clone())
}

/// Up to seven plugins with any requirements between them, as edges.
fn edges() -> impl Strategy<Value = Vec<(usize, usize, bool)>> {
    proptest::collection::vec((0usize..7, 0usize..7, any::<bool>()), 0..14)
}

proptest! {
    #[test]
    fn no_target_panics(target in prop_oneof![any::<String>(), "(plugin\\.)?[a-z@.0-9/]{0,30}"], name in any::<String>()) {
        let table = table();
        let headers = [(name.as_str(), target.as_str())];
        let explained = table.explain(&query(&target, &headers));
        prop_assert!(!explained.to_string().is_empty());
        if let Ok(target) = Target::parse(&target) {
            let text = target.to_string();
            prop_assert_eq!(Target::parse(&text), Ok(target.clone()), "a printed target reads the same");
        }
        let _ = Address::parse(&name);
    }

    #[test]
    fn explaining_agrees_with_deciding(table in weighted_tables(), key: u64) {
        let query = Query { key: Key::Spread(key), ..query("a.B/C", &[]) };
        let looked_up = table.lookup(&query).map(|it| (it.provider.name.clone(), it.provider.version.clone(), it.reason));
        prop_assert_eq!(table.explain(&query).outcome, looked_up);
    }

    #[test]
    fn a_choice_depends_on_nothing_but_the_set(table in weighted_tables(), key: u64) {
        let reversed = table.providers().iter().rev().fold(RoutingTable::builder(), |builder, it| builder.provider(it.clone()));
        prop_assert_eq!(chosen(&table, key), chosen(&reversed.build().expect("the same set"), key));
    }

    #[test]
    fn weight_zero_is_never_drawn(table in weighted_tables(), key: u64) {
        let drawn = chosen(&table, key);
        let positive = |it: &Provider<String>| it.weight > 0;
        let several = table.providers().len() > 1;
        if several {
            let weight = |handle: &String| table.providers().iter().find(|it| it.handle == *handle).map(|it| it.weight);
            prop_assert_eq!(drawn.is_some(), table.providers().iter().any(positive));
            prop_assert!(drawn.as_ref().and_then(weight) != Some(0));
        }
    }

    #[test]
    fn raising_a_weight_moves_keys_only_to_it(table in weighted_tables(), raised in 0usize..6, keys in proptest::collection::vec(any::<u64>(), 50)) {
        let raised = table.providers()[raised % table.providers().len()].handle.clone();
        let after = rebuilt(&table, |it| it.weight += if it.handle == raised { 500 } else { 0 });
        for key in keys {
            let (old, new) = (chosen(&table, key), chosen(&after, key));
            prop_assert!(old == new || new.as_deref() == Some(&raised), "{:?} moved to {:?}, raised {}", old, new, raised);
        }
    }

    #[test]
    fn a_start_order_or_a_real_cycle(edges in edges()) {
        let plugins: Vec<Participant> = (0..7).map(|index| Participant {
            name: format!("p{index}").into(),
            version: version("1.0.0"),
            provides: methods(&format!("x.p{index}"), &["M"]),
            requires: edges.iter().filter(|(from, ..)| *from == index).map(|(_, to, lazy)| Need {
                from: None,
                service: format!("x.p{to}").into(),
                method: None,
                range: VersionReq::STAR,
                optional: false,
                lazy: *lazy,
                place: None,
            }).collect(),
        }).collect();
        match check_dependencies(&plugins) {
            Ok(levels) => {
                let level = |plugin: usize| levels.iter().position(|level| level.contains(&plugin)).expect("all are in");
                prop_assert_eq!(levels.iter().map(Vec::len).sum::<usize>(), plugins.len());
                for (from, to, _) in edges.iter().filter(|(from, to, lazy)| !lazy && from != to) {
                    prop_assert!(level(*to) < level(*from), "p{} starts before p{}", to, from);
                }
            }
            Err(faults) => for fault in faults {
                let planned = plan(&plugins);
                prop_assert_eq!(planned.levels.iter().map(Vec::len).sum::<usize>() + planned.held.len(), plugins.len());
                let DependencyFault::CallCycle { hops, .. } = fault else { panic!("only circles of calls: {fault}") };
                for (index, hop) in hops.iter().enumerate() {
                    let from = hop.from.split('@').next().expect("a name").to_owned();
                    let next = hops[(index + 1) % hops.len()].from.split('@').next().expect("a name").to_owned();
                    prop_assert_eq!(&*hop.service, format!("x.{next}"), "a hop leads to the next");
                    let is_edge = |(a, b, lazy): &(usize, usize, bool)| !lazy && format!("p{a}") == from && format!("p{b}") == next;
                    prop_assert!(edges.iter().any(is_edge), "{} -> {} is not required", from, next);
                }
            }
        }
    }
}
