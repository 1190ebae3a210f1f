//! The source against a real etcd: killed, compacted, emptied, guarded, behind TLS.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../../../tests/etcd.rs"]
mod etcd;

use std::time::Duration;

use etcd::Etcd;
use mortise_config::{ConfigSource as _, Update};
use mortise_config_etcd::EtcdSource;
use mortise_manifest::EtcdSettings;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// Far longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn settings(etcd: &Etcd) -> EtcdSettings {
    EtcdSettings {
        endpoints: vec![etcd.endpoint.clone()],
        prefix: "/mortise".to_owned(),
        user: None,
        password: None,
        ca_file: None,
        start: EtcdSettings::START,
    }
}

/// The next update that tells of a plugin, or is complete. Outages are passed over, as the host does.
async fn next(source: &mut EtcdSource) -> Update {
    let telling = async {
        loop {
            match source.next().await {
                Ok(update) if update.complete || !update.plugins.is_empty() => return update,
                Ok(_) | Err(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, telling).await.unwrap()
}

/// Places and values of a plugin.
fn told(update: &Update, plugin: &str) -> Value {
    let settings = update.plugins.get(plugin);
    let settings = settings.into_iter().flatten();
    settings
        .map(|(place, it)| (place.clone(), it.value.clone().unwrap()))
        .collect()
}

#[tokio::test]
async fn a_listing_and_then_every_change() {
    let Some(etcd) = Etcd::start() else { return };
    etcd.put("/mortise/echo/colour", "\"blue\"");
    etcd.put("/mortise/other/secret-of-theirs", "1");
    etcd.put("/mortise-2/echo/colour", "\"not ours\"");
    etcd.put("/elsewhere", "\"not ours\"");
    let mut source = EtcdSource::new(settings(&etcd));
    let all = next(&mut source).await;
    assert!(all.complete);
    assert_eq!(all.revision, etcd.revision());
    assert_eq!(all.plugins.keys().collect::<Vec<_>>(), ["echo", "other"]);
    assert_eq!(told(&all, "echo"), json!({"colour": "blue"}));
    assert_eq!(all.plugins["echo"]["colour"].origin, "etcd /mortise/echo/colour");
    // Between the listing and the watch.
    etcd.put("/mortise/echo/limits/rate", "5");
    let update = next(&mut source).await;
    assert!(!update.complete);
    assert_eq!(
        update.plugins.keys().collect::<Vec<_>>(),
        ["echo"],
        "nothing of another plugin"
    );
    assert_eq!(told(&update, "echo"), json!({"colour": "blue", "limits/rate": 5}));
    assert_eq!(update.revision, etcd.revision());
    etcd.put("/elsewhere", "2");
    etcd.delete("/mortise/echo/colour");
    let update = next(&mut source).await;
    assert_eq!(told(&update, "echo"), json!({"limits/rate": 5}));
    etcd.delete("/mortise/echo/limits/rate");
    let update = next(&mut source).await;
    assert!(update.plugins["echo"].is_empty(), "told as empty");
}

#[tokio::test]
async fn after_a_kill_it_goes_on_where_it_was() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.put("/mortise/echo/a", "1");
    etcd.put("/mortise/other/a", "1");
    let mut source = EtcdSource::new(settings(&etcd));
    assert!(next(&mut source).await.complete);
    etcd.put("/mortise/echo/a", "2");
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 2}));
    etcd.kill();
    let outage = tokio::time::timeout(PATIENCE, source.next()).await.unwrap();
    assert!(outage.is_err(), "{outage:?}");
    etcd.resume();
    // Nobody listens now.
    etcd.put("/mortise/echo/a", "3");
    etcd.put("/mortise/echo/b", "4");
    etcd.delete("/mortise/other/a");
    let (mut last, mut gone) = (json!({}), false);
    while last != json!({"a": 3, "b": 4}) || !gone {
        let update = next(&mut source).await;
        assert!(!update.complete, "it was not listed again: nothing was missed");
        if update.plugins.contains_key("echo") {
            last = told(&update, "echo");
        }
        gone |= update.plugins.get("other").is_some_and(|it| it.is_empty());
    }
}

#[tokio::test]
async fn what_was_compacted_meanwhile_is_listed_again() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.put("/mortise/echo/a", "1");
    etcd.put("/mortise/gone/a", "1");
    let mut source = EtcdSource::new(settings(&etcd));
    assert!(next(&mut source).await.complete);
    // It stands in the middle of its watch when etcd goes.
    let waiting = tokio::time::timeout(Duration::from_millis(300), source.next()).await;
    assert!(waiting.is_err(), "there was nothing to tell");
    etcd.kill();
    assert!(
        tokio::time::timeout(PATIENCE, source.next())
            .await
            .unwrap()
            .is_err()
    );
    etcd.resume();
    for number in 2..10 {
        etcd.put("/mortise/echo/a", &number.to_string());
    }
    etcd.delete("/mortise/gone/a");
    etcd.compact();
    let update = next(&mut source).await;
    assert!(update.complete, "{update:?}");
    assert_eq!(told(&update, "echo"), json!({"a": 9}));
    assert!(!update.plugins.contains_key("gone"));
    etcd.put("/mortise/echo/a", "10");
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 10}));
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_is_listed_again() {
    let Some(mut etcd) = Etcd::start() else { return };
    for number in 0..20 {
        etcd.put("/mortise/echo/a", &number.to_string());
    }
    let mut source = EtcdSource::new(settings(&etcd));
    assert!(next(&mut source).await.complete);
    etcd.lose_data();
    etcd.put("/mortise/echo/b", "1");
    let update = next(&mut source).await;
    assert!(update.complete, "its revisions begin anew: {update:?}");
    assert_eq!(told(&update, "echo"), json!({"b": 1}));
}

#[tokio::test]
async fn many_keys_come_in_pages_of_one_moment() {
    let Some(etcd) = Etcd::start() else { return };
    for number in 0..1203 {
        etcd.put(
            &format!("/mortise/p{}/key{number}", number % 7),
            &number.to_string(),
        );
    }
    let mut source = EtcdSource::new(settings(&etcd));
    let update = next(&mut source).await;
    let keys: usize = update.plugins.values().map(|it| it.len()).sum();
    assert_eq!((update.plugins.len(), keys), (7, 1203));
    assert_eq!(told(&update, "p6")["key6"], 6);
}

#[tokio::test]
async fn a_guarded_etcd_lets_in_whoever_has_the_password() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.put("/mortise/echo/a", "1");
    etcd.guard("mortise", "correct horse", "/mortise/");
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    let with = |prefix: &str| EtcdSettings {
        user: Some("mortise".to_owned()),
        password: Some(format!("file:{}", password.display())),
        prefix: prefix.to_owned(),
        ..settings(&etcd)
    };
    let mut source = EtcdSource::new(with("/mortise"));
    let outage = source.next().await.unwrap_err().to_string();
    assert!(outage.contains("No such file"), "{outage}");
    std::fs::write(&password, "wrong horse\n").unwrap();
    let outage = source.next().await.unwrap_err().to_string();
    assert!(
        outage.contains("`mortise` is not let in") && !outage.contains("horse"),
        "{outage}"
    );
    std::fs::write(&password, "correct horse\n").unwrap();
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 1}));
    etcd.put("/mortise/echo/a", "2");
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 2}));
    // What its role may not read it does not get.
    let mut elsewhere = EtcdSource::new(with("/elsewhere"));
    let outage = elsewhere.next().await.unwrap_err().to_string();
    assert!(outage.contains("permission denied"), "{outage}");
    let mut nobody = EtcdSource::new(settings(&etcd));
    let outage = nobody.next().await.unwrap_err().to_string();
    assert!(outage.contains("user name is empty"), "{outage}");
    assert!(!format!("{source:?}").contains("horse"));
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_fails() {
    let Some(etcd) = Etcd::start() else { return };
    etcd.put("/mortise/echo/a", "1");
    // Port 1 is nobody's.
    let mut source = EtcdSource::new(EtcdSettings {
        endpoints: vec!["http://127.0.0.1:1".to_owned(), etcd.endpoint.clone()],
        ..settings(&etcd)
    });
    let outage = source.next().await.unwrap_err().to_string();
    assert!(outage.starts_with("http://127.0.0.1:1:"), "{outage}");
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 1}));
}

/// Whoever signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// A server's certificate and its key, for this address.
    fn certificate(&self, address: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![address.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        (signed.pem(), key.serialize_pem())
    }

    /// Has etcd answer with a certificate from here, from now on. Where.
    fn certify(&self, etcd: &mut Etcd, address: &str) -> String {
        let (certificate, key) = self.certificate(address);
        etcd.kill();
        let endpoint = etcd.secure(&certificate, &key);
        etcd.resume();
        endpoint
    }
}

/// What stands in the way the first time.
async fn outage(settings: EtcdSettings) -> String {
    let mut source = EtcdSource::new(settings);
    let next = tokio::time::timeout(PATIENCE, source.next()).await.unwrap();
    next.unwrap_err().to_string()
}

#[tokio::test]
async fn over_tls_an_etcd_has_to_be_who_it_should_be() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.put("/mortise/echo/a", "1");
    etcd.guard("mortise", "correct horse", "/mortise/");
    let ours = Authority::new("ours");
    let endpoint = ours.certify(&mut etcd, "127.0.0.1");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let password = file("password", "correct horse\n");
    let with = |ca_file: Option<String>| EtcdSettings {
        endpoints: vec![endpoint.clone()],
        user: Some("mortise".to_owned()),
        password: Some(format!("file:{password}")),
        ca_file,
        ..settings(&etcd)
    };
    let trusting = with(Some(file("ours.pem", &ours.pem)));
    let mut source = EtcdSource::new(trusting.clone());
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 1}));
    etcd.put("/mortise/echo/a", "2");
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 2}));
    // Signed by somebody whom nobody named, by somebody else, and by what is no authority.
    let said = outage(with(None)).await;
    assert!(said.contains(&endpoint), "{said}");
    let theirs = file("theirs.pem", &Authority::new("theirs").pem);
    let said = outage(with(Some(theirs))).await;
    assert!(
        said.contains(&endpoint) && said.contains("UnknownIssuer"),
        "{said}"
    );
    let said = outage(with(Some(file("empty.pem", "")))).await;
    assert!(said.contains(&endpoint), "{said}");
    let said = outage(with(Some("/no/such/ca.pem".to_owned()))).await;
    assert!(
        said.contains("`ca_file` /no/such/ca.pem") && said.contains("No such file"),
        "{said}"
    );
    // The password goes to nobody before that, and what is wrong with it is told without it.
    file("password", "wrong horse");
    let said = outage(trusting.clone()).await;
    assert!(
        said.contains("is not let in") && !said.contains("horse"),
        "{said}"
    );
    file("password", "correct horse");
    // Signed by ours, for another machine.
    ours.certify(&mut etcd, "etcd.example.com");
    let said = outage(trusting).await;
    assert!(said.contains("not valid for name"), "{said}");
}

#[tokio::test]
async fn a_password_and_an_authority_are_changed_where_they_are() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.put("/mortise/echo/a", "1");
    etcd.guard("mortise", "correct horse", "/mortise/");
    let endpoint = Authority::new("old").certify(&mut etcd, "127.0.0.1");
    let new = Authority::new("new");
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // It is not there at all in the beginning.
    let mut source = EtcdSource::new(EtcdSettings {
        endpoints: vec![endpoint],
        user: Some("mortise".to_owned()),
        password: Some(format!("file:{}", place("password"))),
        ca_file: Some(place("ca.pem")),
        ..settings(&etcd)
    });
    assert!(source.next().await.is_err());
    new.certify(&mut etcd, "127.0.0.1");
    std::fs::write(place("ca.pem"), &new.pem).unwrap();
    std::fs::write(place("password"), "correct horse").unwrap();
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 1}));
    // Another authority, and another password; the source is the same.
    let newest = Authority::new("newest");
    newest.certify(&mut etcd, "127.0.0.1");
    etcd.change_password("mortise", "battery staple");
    etcd.put("/mortise/echo/a", "2");
    let refused = async |source: &mut EtcdSource, part: &str| {
        let hearing = async {
            loop {
                if let Err(error) = source.next().await
                    && error.to_string().contains(part)
                {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, hearing).await.unwrap();
    };
    refused(&mut source, "UnknownIssuer").await;
    std::fs::write(place("ca.pem"), &newest.pem).unwrap();
    refused(&mut source, "is not let in").await;
    std::fs::write(place("password"), "battery staple").unwrap();
    assert_eq!(told(&next(&mut source).await, "echo"), json!({"a": 2}));
}
