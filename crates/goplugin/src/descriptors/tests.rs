use proptest::prelude::*;

use super::*;
use crate::proto::ReflectionRequest;

/// Three files in a row of imports.
fn set() -> FileDescriptorSet {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "c.proto",
        "syntax = \"proto3\"; package t; message C { message In { int32 x = 1; } }",
    );
    write(
        "b.proto",
        "syntax = \"proto3\"; package t; import \"c.proto\"; message B { C c = 1; }",
    );
    write(
        "a.proto",
        "syntax = \"proto3\"; package t.v1; import \"b.proto\"; service S { rpc M(t.B) returns (t.B); } service Other { rpc N(t.B) returns (t.B); }",
    );
    protox::compile([dir.path().join("a.proto")], [dir.path()]).unwrap()
}

/// Runs the conversation to its end. Returns what was asked, too.
fn converse(
    mut answer: impl FnMut(&ReflectionAsk) -> Option<ReflectionAnswer>,
) -> Result<(Reflected, Vec<ReflectionAsk>), ReflectError> {
    let (mut collector, mut asked) = (Collector::default(), Vec::new());
    while let Some(ask) = collector.next_ask() {
        let response = ReflectionResponse {
            answer: answer(&ask),
            ..ReflectionResponse::default()
        };
        collector.answer(&ask, response)?;
        asked.push(ask);
    }
    Ok((collector.finish()?, asked))
}

#[test]
fn a_mirror_is_collected_whole_and_in_order() {
    let services = [
        "t.v1.S",
        "t.v1.Other",
        "plugin.GRPCBroker",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    let mirror = Mirror::new(&set(), services.map(str::to_owned));
    let (reflected, asked) = converse(|ask| Some(mirror.answer(Some(ask)))).unwrap();
    assert_eq!(reflected.services, ["t.v1.Other", "t.v1.S"]);
    let names: Vec<_> = reflected.files.file.iter().map(|it| it.name()).collect();
    assert_eq!(names, ["c.proto", "b.proto", "a.proto"]);
    // The list, one file by symbol (it declares both services), two imports by name.
    assert_eq!(asked.len(), 4, "{asked:?}");
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(reflected.files).unwrap();
    assert!(pool.get_service_by_name("t.v1.S").is_some());
}

#[test]
fn what_some_services_need_is_kept_byte_for_byte() {
    let mut set = set();
    let lonely = |name: &str, service: &str, dependency: &[&str]| FileDescriptorProto {
        name: Some(name.to_owned()),
        dependency: dependency.iter().map(ToString::to_string).collect(),
        service: vec![prost_types::ServiceDescriptorProto {
            name: Some(service.to_owned()),
            ..Default::default()
        }],
        ..FileDescriptorProto::default()
    };
    set.file.push(lonely("d.proto", "Lonely", &[]));
    let mirror = Mirror::new(&set, ["t.v1.S", "Lonely"].map(str::to_owned));
    // An option that nobody here knows: field 50 of a file.
    let unknown = b"\x92\x03\x02hi";
    let with_option = |answer| match answer {
        ReflectionAnswer::Files(FileDescriptors { files }) => {
            let longer = files.into_iter().map(|it| [&it[..], unknown].concat().into());
            ReflectionAnswer::Files(FileDescriptors {
                files: longer.collect(),
            })
        }
        other => other,
    };
    let (reflected, _) = converse(|ask| Some(with_option(mirror.answer(Some(ask))))).unwrap();
    let kept = |service: &str| {
        let encoded = reflected.encode(&[service.to_owned()]);
        let count = encoded.windows(unknown.len()).filter(|it| it == unknown).count();
        let set = FileDescriptorSet::decode(encoded).unwrap();
        assert_eq!(count, set.file.len(), "the option is in every file");
        set.file.iter().map(|it| it.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kept("t.v1.S"), ["c.proto", "b.proto", "a.proto"]);
    assert_eq!(kept("Lonely"), ["d.proto"]);
    assert_eq!(kept("t.v1"), Vec::<String>::new());
}

#[test]
fn symbols_of_every_kind_are_found() {
    let mirror = Mirror::new(&set(), []);
    for symbol in ["t.v1.S", "t.v1.S.M", "t.B", "t.C.In"] {
        let answer = mirror.answer(Some(&ReflectionAsk::FileContaining(symbol.to_owned())));
        assert!(
            matches!(answer, ReflectionAnswer::Files(_)),
            "{symbol}: {answer:?}"
        );
    }
    let answer = mirror.answer(Some(&ReflectionAsk::FileContaining("t.D".to_owned())));
    assert!(matches!(
        answer,
        ReflectionAnswer::Error(ReflectionError { code: 5, .. })
    ));
    assert!(matches!(mirror.answer(None), ReflectionAnswer::Error(_)));
}

#[test]
fn a_server_that_is_wrong_is_told_so() {
    let files = |files: Vec<Bytes>| Some(ReflectionAnswer::Files(FileDescriptors { files }));
    let listed = || {
        Some(
            Mirror::new(&FileDescriptorSet::default(), ["t.S".to_owned()])
                .answer(Some(&ReflectionAsk::ListServices(String::new()))),
        )
    };
    let file = |name: &str, imports: &[&str]| -> Bytes {
        FileDescriptorProto {
            name: Some(name.to_owned()),
            dependency: imports.iter().map(ToString::to_string).collect(),
            ..FileDescriptorProto::default()
        }
        .encode_to_vec()
        .into()
    };
    let error = |second: Option<ReflectionAnswer>| {
        let mut second = second;
        converse(|ask| {
            if matches!(ask, ReflectionAsk::ListServices(_)) {
                listed()
            } else {
                second.take()
            }
        })
        .unwrap_err()
    };
    assert_eq!(
        error(None),
        ReflectError::Unexpected("the file of `t.S`".to_owned())
    );
    assert!(matches!(
        error(files(vec![Bytes::from_static(b"\xff\xff")])),
        ReflectError::Malformed { bytes: 2, .. }
    ));
    assert_eq!(
        error(files(vec![file("a", &[]), file("a", &["b"])])),
        ReflectError::Contradiction("a".to_owned())
    );
    assert_eq!(
        error(files(vec![file("a", &["b"]), file("b", &["a"])])),
        ReflectError::Circle("a".to_owned())
    );
    let refused = ReflectionAnswer::Error(ReflectionError {
        code: 5,
        message: "no".to_owned(),
    });
    assert_eq!(
        error(Some(refused)).to_string(),
        "the plugin's reflection can't tell the file of `t.S`: no (code 5)"
    );
    let many = ReflectionAnswer::Services(ServiceList {
        services: vec![ServiceName::default(); SERVICES_MAX + 1],
    });
    assert!(matches!(
        converse(|_| Some(many.clone())),
        Err(ReflectError::TooMuch(_))
    ));
}

#[test]
fn a_server_without_end_is_cut_off() {
    // Every file imports one that was not seen yet.
    let mut number = 0;
    let outcome = converse(|ask| match ask {
        ReflectionAsk::ListServices(_) => Some(ReflectionAnswer::Services(ServiceList {
            services: vec![ServiceName {
                name: "t.S".to_owned(),
            }],
        })),
        _ => {
            number += 1;
            let name = match ask {
                ReflectionAsk::FileByName(name) => name.clone(),
                _ => "f0".to_owned(),
            };
            let file = FileDescriptorProto {
                name: Some(name),
                dependency: vec![format!("f{number}")],
                ..FileDescriptorProto::default()
            };
            Some(ReflectionAnswer::Files(FileDescriptors {
                files: vec![file.encode_to_vec().into()],
            }))
        }
    });
    assert_eq!(
        outcome.unwrap_err(),
        ReflectError::TooMuch(format!("{FILES_MAX} files"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_answer_is_safe(answers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..12)) {
        let mut collector = Collector::default();
        for bytes in answers {
            let Some(ask) = collector.next_ask() else { break };
            let Ok(response) = ReflectionResponse::decode(&*bytes) else { continue };
            if collector.answer(&ask, response).is_err() { break }
        }
        let _ = collector.finish();
    }

    #[test]
    fn any_mangled_file_is_safe(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mirror = Mirror::new(&set(), ["t.v1.S".to_owned()]);
        let _ = converse(|ask| {
            let response = ReflectionResponse {
                answer: Some(mirror.answer(Some(ask))),
                original_request: Some(ReflectionRequest { host: String::new(), ask: Some(ask.clone()) }),
                ..ReflectionResponse::default()
            };
            let mut bytes = response.encode_to_vec();
            for (index, value) in &flips { let at = index.index(bytes.len()); bytes[at] ^= value; }
            ReflectionResponse::decode(&*bytes).ok()?.answer
        });
    }
}
