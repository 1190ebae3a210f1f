//! Key-value data.

use std::collections::BTreeMap;

use mortise_store::{DataDir, Kv, KvLimits, StoreErrorKind};
use proptest::prelude::*;

fn kv(limits: KvLimits) -> (tempfile::TempDir, DataDir, Kv) {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let kv = data.kv(limits).unwrap();
    (dir, data, kv)
}

#[test]
fn values_of_every_kind_come_back_also_after_a_restart() {
    let (dir, data, kv) = kv(KvLimits::default());
    let space = kv.keyspace("a");
    for (key, value) in [
        ("k", &b""[..]),
        ("schlüssel/€", b"\0\xff"),
        ("%_'\"", b"x"),
        ("k\0k", b"nul"),
    ] {
        space.set(key, value).unwrap();
        assert_eq!(space.get(key).unwrap().unwrap(), value);
    }
    drop((space, kv, data));
    let data = DataDir::open(dir.path()).unwrap();
    let space = data.kv(KvLimits::default()).unwrap().keyspace("a");
    assert_eq!(space.get("k\0k").unwrap().unwrap(), &b"nul"[..]);
    assert_eq!(space.get("k").unwrap().unwrap(), &b""[..]);
    assert_eq!(space.get("other").unwrap(), None);
}

#[test]
fn no_plugin_sees_anothers_keys() {
    let (_dir, _data, kv) = kv(KvLimits {
        keys_max: 2,
        ..KvLimits::default()
    });
    // Names and keys that would collide if one were put before the other.
    let (a, ab) = (kv.keyspace("a"), kv.keyspace("ab"));
    a.set("bc", b"a's").unwrap();
    ab.set("c", b"ab's").unwrap();
    assert_eq!(a.get("c").unwrap(), None);
    assert_eq!(ab.get("bc").unwrap(), None);
    assert_eq!(a.list("", 0).unwrap(), ["bc"]);
    assert!(!a.delete("c").unwrap());
    assert_eq!(a.clear().unwrap(), 1);
    assert_eq!(ab.get("c").unwrap().unwrap(), &b"ab's"[..]);
    // And each has its own limits.
    ab.set("d", b"").unwrap();
    assert!(ab.set("e", b"").is_err());
    a.set("e", b"").unwrap();
    a.set("f", b"").unwrap();
}

#[test]
fn limits_refuse_and_change_nothing() {
    let limits = KvLimits {
        key_bytes_max: 4,
        value_bytes_max: 10,
        keys_max: 3,
        bytes_max: 20,
        ..KvLimits::default()
    };
    let (_dir, _data, kv) = kv(limits);
    let space = kv.keyspace("a");
    let refused = |key: &str, value: &[u8]| {
        let before = (space.usage().unwrap(), space.list("", 0).unwrap());
        let error = space.set(key, value).unwrap_err();
        assert_eq!((space.usage().unwrap(), space.list("", 0).unwrap()), before);
        (error.kind(), error.to_string())
    };
    assert_eq!(refused("", b"").0, StoreErrorKind::Malformed);
    assert_eq!(
        refused("12345", b""),
        (
            StoreErrorKind::TooLarge,
            "plugin `a` may not keep that: a key would be 5 bytes, and 4 is the limit".to_owned()
        )
    );
    assert!(refused("k", &[0; 11]).1.contains("a value would be 11 bytes"));
    space.set("a", &[0; 8]).unwrap();
    space.set("b", &[0; 8]).unwrap();
    assert!(
        refused("c", &[0; 2])
            .1
            .contains("the sum of all keys and values would be 21 bytes, and 20 is the limit")
    );
    space.set("c", &[0; 1]).unwrap();
    assert!(refused("d", b"").1.contains("the number of keys would be 4 keys"));
    // A smaller value in place of a larger one is always fine.
    space.set("a", &[0; 2]).unwrap();
    assert_eq!(space.usage().unwrap(), (3, 3 + 2 + 8 + 1));
}

#[test]
fn data_over_a_limit_that_was_lowered_can_shrink() {
    let (_dir, data, kv) = kv(KvLimits::default());
    kv.keyspace("a").set("k", &[0; 100]).unwrap();
    let space = data
        .kv(KvLimits {
            bytes_max: 10,
            ..KvLimits::default()
        })
        .unwrap()
        .keyspace("a");
    space.set("k", &[0; 50]).unwrap();
    assert!(space.set("k", &[0; 51]).is_err());
    assert!(space.delete("k").unwrap());
    assert_eq!(space.usage().unwrap(), (0, 0));
}

#[test]
fn list_is_ordered_prefixed_and_bounded() {
    let (_dir, _data, kv) = kv(KvLimits {
        list_max: 3,
        ..KvLimits::default()
    });
    let space = kv.keyspace("a");
    for key in ["b", "a/2", "a/1", "a/\u{10ffff}", "a", "a0", "a/3"] {
        space.set(key, b"").unwrap();
    }
    assert_eq!(space.list("a/", 2).unwrap(), ["a/1", "a/2"]);
    assert_eq!(space.list("a/", 0).unwrap(), ["a/1", "a/2", "a/3"]);
    assert_eq!(
        space.list("a/", 100).unwrap().len(),
        3,
        "never more than the limit"
    );
    assert_eq!(space.list("a/\u{10ffff}", 0).unwrap(), ["a/\u{10ffff}"]);
    assert!(space.list("c", 0).unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    /// K1 and K2 against a map.
    #[test]
    fn behaves_like_a_map(steps in prop::collection::vec((0..2_u8, 0..3_u8, "[ab%]{1,2}", 0..40_usize), 1..40)) {
        let limits = KvLimits { keys_max: 4, bytes_max: 60, ..KvLimits::default() };
        let (_dir, _data, kv) = kv(limits);
        let mut model: BTreeMap<(u8, String), usize> = BTreeMap::new();
        for (plugin, step, key, length) in steps {
            let space = kv.keyspace(&format!("p{plugin}"));
            let own = |model: &BTreeMap<(u8, String), usize>| model.iter().filter(|((it, _), _)| *it == plugin)
                .fold((0, 0), |(keys, bytes), ((_, key), length)| (keys + 1, bytes + key.len() + length));
            match step {
                0 => {
                    let mut next = model.clone();
                    next.insert((plugin, key.clone()), length);
                    let (keys, bytes) = own(&next);
                    let shrinks = model.get(&(plugin, key.clone())).is_some_and(|old| length <= *old);
                    let allowed = (keys <= 4 && bytes <= 60) || shrinks;
                    prop_assert_eq!(space.set(&key, &vec![7; length]).is_ok(), allowed);
                    if allowed {
                        model = next;
                    }
                }
                1 => prop_assert_eq!(space.delete(&key).unwrap(), model.remove(&(plugin, key)).is_some()),
                _ => prop_assert_eq!(space.get(&key).unwrap().map(|it| it.len()), model.get(&(plugin, key)).copied()),
            }
            let (keys, bytes) = own(&model);
            prop_assert_eq!(space.usage().unwrap(), (keys as u64, bytes as u64));
        }
    }
}
