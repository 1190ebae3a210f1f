use proptest::prelude::*;

use super::*;
use crate::environment::Cookie;

/// What a Go plugin of version 1.0.1 wrote.
const GO: &str = "1|3|unix|/run/x/plugin2805729839|grpc|\n";

fn offer() -> Offer {
    Offer {
        cookie: Cookie::parse("A=b").unwrap(),
        versions: vec![1, 2, 3],
        certificate_pem: None,
        multiplex: false,
        directory: "/run/x".into(),
    }
}

fn unix() -> NetAddress {
    NetAddress::Unix("/run/x/plugin2805729839".into())
}

#[test]
fn a_line_of_a_go_plugin() {
    let parsed = Handshake::parse(GO).unwrap();
    let expected = Handshake {
        app: 3,
        address: unix(),
        protocol: "grpc".to_owned(),
        certificate: None,
        multiplex: None,
    };
    assert_eq!(parsed, expected);
    // And it is written to the byte as Go writes it.
    assert_eq!(format!("{parsed}\n"), GO);
}

#[test]
fn four_to_seven_fields() {
    let parse = |line| Handshake::parse(line).unwrap();
    assert_eq!(parse("1|1|unix|/a").protocol, "netrpc");
    assert_eq!(parse("1|1|unix|/a|grpc").protocol, "grpc");
    assert_eq!(parse("1|1|unix|/a|grpc|").certificate, None);
    // Junk of old plugins.
    assert_eq!(parse("1|1|unix|/a|grpc|eyJzdGRvdXQiOiIifQ==").certificate, None);
    assert_eq!(parse("1|1|unix|/a|grpc||true").multiplex, Some(true));
    assert_eq!(parse("1|1|unix|/a|grpc||0").multiplex, Some(false));
    assert_eq!(parse("1|1|unix|/a|grpc||true|more|still").multiplex, Some(true));
    let der = vec![0xa5; 600];
    let with = Handshake {
        certificate: Some(der.clone()),
        multiplex: Some(true),
        ..parse("1|1|tcp|127.0.0.1:1234|grpc")
    };
    let line = with.to_string();
    assert!(line.ends_with("|true") && !line.contains('='), "{line}");
    assert_eq!(parse(&line), with);
    // Padding is not Go's, and is no reason to refuse.
    let padded = format!(
        "1|1|unix|/a|grpc|{}",
        base64::engine::general_purpose::STANDARD.encode([1; 61])
    );
    assert_eq!(parse(&padded).certificate, Some(vec![1; 61]));
}

#[test]
fn what_is_wrong_is_named() {
    let error = |line: &str| Handshake::parse(line).unwrap_err().to_string();
    for (line, expected) in [
        (
            "hello",
            "`hello` is no handshake: it must have at least the fields `CORE|APP|NET|ADDR`",
        ),
        (
            "2|1|unix|/a",
            "the plugin speaks version `2` of the go-plugin protocol, and this host speaks 1; rebuild the plugin",
        ),
        ("1|x|unix|/a", "`x` is no version of a protocol"),
        (
            "1|1|vsock|3:4",
            "the plugin listens on `vsock` `3:4`, and that is no address: it must be `unix` or `tcp`",
        ),
        (
            "1|1|unix|a",
            "the plugin listens on `unix` `a`, and that is no address: the path must begin at the root",
        ),
        (
            "1|1|tcp|localhost:1",
            "the plugin listens on `tcp` `localhost:1`, and that is no address: write it as `127.0.0.1:1234`; names are not looked up",
        ),
        (
            "1|1|unix|/a|grpc||maybe",
            "`maybe` is not a boolean, and the seventh field says whether the plugin multiplexes",
        ),
    ] {
        assert_eq!(error(line), expected);
    }
    let junk = format!("1|1|unix|/a|grpc|{}", "*".repeat(60));
    assert!(error(&junk).starts_with("the plugin's certificate (60 characters) is no base64"));
}

#[test]
fn an_answer_must_fit_the_offer() {
    let parse = |line| Handshake::parse(line).unwrap();
    let agreed = offer().accept(parse(GO)).unwrap();
    assert_eq!((agreed.version, agreed.address), (3, unix()));
    let refused = |offer: &Offer, line| offer.accept(parse(line)).unwrap_err();
    assert_eq!(
        refused(&offer(), "1|9|unix|/a|grpc"),
        HandshakeError::NoCommonVersion {
            plugin: 9,
            host: vec![1, 2, 3]
        }
    );
    assert_eq!(
        refused(&offer(), "1|1|unix|/a"),
        HandshakeError::Protocol("netrpc".to_owned())
    );
    let secret = Offer {
        certificate_pem: Some("pem".to_owned()),
        ..offer()
    };
    assert_eq!(refused(&secret, GO), HandshakeError::NoCertificate);
    let with_certificate = Handshake {
        certificate: Some(vec![1; 80]),
        ..parse(GO)
    };
    assert_eq!(
        offer().accept(with_certificate),
        Err(HandshakeError::UnaskedCertificate)
    );
    let mux = Offer {
        multiplex: true,
        ..offer()
    };
    assert_eq!(refused(&mux, GO), HandshakeError::NoMultiplex);
    assert_eq!(
        refused(&mux, "1|1|unix|/a|grpc||false"),
        HandshakeError::NoMultiplex
    );
    assert!(mux.accept(parse("1|1|unix|/a|grpc||true")).unwrap().multiplex);
}

#[test]
fn lines_before_it_are_passed_over_and_reported() {
    let mut scanner = Scanner::default();
    let text = format!("loading..\n\n| a table | of | a | plugin |\n{GO}more output");
    // Byte by byte, as a pipe may give it.
    let mut found = None;
    let mut taken = 0;
    for byte in text.as_bytes().chunks(1) {
        taken += 1;
        if let Some((handshake, in_chunk)) = scanner.push(byte).unwrap() {
            assert_eq!(in_chunk, 1);
            found = Some(handshake);
            break;
        }
    }
    assert_eq!(found.unwrap().app, 3);
    assert_eq!(&text[taken..], "more output");
    assert_eq!(
        scanner.take_stray(),
        ["loading..", "| a table | of | a | plugin |"]
    );
    // In one piece the rest is told too.
    let (_, taken) = Scanner::default().push(text.as_bytes()).unwrap().unwrap();
    assert_eq!(&text[taken..], "more output");
}

#[test]
fn a_flood_before_it_is_an_error() {
    let mut scanner = Scanner::default();
    assert_eq!(
        scanner.push(&vec![b'x'; LINE_BYTES_MAX + 1]),
        Err(HandshakeError::TooLong)
    );
    let mut scanner = Scanner::default();
    assert_eq!(
        scanner.push("noise\n".repeat(STRAY_LINES_MAX).as_bytes()),
        Err(HandshakeError::TooManyStrayLines {
            first: "noise".to_owned()
        })
    );
    // What looks like one and is none is not waited past.
    assert!(matches!(
        Scanner::default().push(b"2|1|unix|/a|grpc\n"),
        Err(HandshakeError::Core(_))
    ));
}

fn address() -> impl Strategy<Value = NetAddress> {
    prop_oneof![
        "/[a-zA-Z0-9/._-]{0,100}".prop_map(|path| NetAddress::Unix(path.into())),
        any::<(std::net::Ipv4Addr, u16)>().prop_map(|at| NetAddress::Tcp(at.into())),
        any::<(std::net::Ipv6Addr, u16)>().prop_map(|at| NetAddress::Tcp(at.into())),
    ]
}

proptest! {
    #[test]
    fn any_handshake_survives_its_line(
        app: u32,
        address in address(),
        certificate in proptest::option::of(proptest::collection::vec(any::<u8>(), 60..900)),
        multiplex: Option<bool>,
    ) {
        let handshake = Handshake { app, address, protocol: "grpc".to_owned(), certificate, multiplex };
        prop_assert_eq!(Handshake::parse(&format!("{handshake}\n")).unwrap(), handshake);
    }

    #[test]
    fn any_bytes_are_safe_to_scan(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40)) {
        let mut scanner = Scanner::default();
        for chunk in &chunks {
            match scanner.push(chunk) {
                Ok(None) => {}
                Ok(Some((_, taken))) => { prop_assert!(taken <= chunk.len()); break }
                Err(error) => { prop_assert!(error.to_string().len() < 4096); break }
            }
            prop_assert!(scanner.line.len() <= LINE_BYTES_MAX && scanner.stray.len() < STRAY_LINES_MAX);
        }
    }

    #[test]
    fn any_line_like_a_handshake_is_safe_to_parse(line in "[0-9]{0,3}(\\|[^\n]{0,30}){3,8}") {
        if let Err(error) = Handshake::parse(&line) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
