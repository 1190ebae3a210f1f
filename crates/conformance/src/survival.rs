//! The host survives every bad plugin: each gives one clear error, and its neighbours are served all the while.

use std::time::{Duration, Instant};

use mortise::{CallErrorKind, CallOptions, LoadRequest, Source, manifest::RuntimeName};

use crate::{
    World,
    bad::{self, Fault, Strikes, TARGET, WRONG_TYPE},
};

/// A request whose field 1 is the text `hello`.
const HELLO: &[u8] = b"\x0a\x05hello";

/// Loads and calls a plugin with `fault`, and asserts what the host says about it.
///
/// # Panics
/// If the host says something else, or a neighbour is not served.
pub async fn of(world: &World, fault: Fault) {
    let folder = tempfile::tempdir().unwrap();
    let good = crate::packages().join(bad::GOOD);
    let package = bad::package(&good, fault, world.runtime, &folder.path().join("bad")).unwrap();
    let mut request = LoadRequest::new(Source::Folder(package));
    request.name = Some("bad".to_owned());
    request.runtime = Some(world.runtime);
    request.limits.log_lines_per_second = Some(100);
    request.limits.start = Some(Duration::from_secs(3));

    let neighbour = async {
        for _ in 0..20 {
            world.serves("echo").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (loaded, ()) = tokio::join!(world.host.load(request.clone()), neighbour);
    match fault.strikes() {
        Strikes::Check | Strikes::Start => {
            let error = loaded.expect_err("a plugin with this fault must not load");
            let said = error.to_string();
            assert!(
                !said.is_empty() && !said.contains('\n') || said.len() < 2000,
                "one clear error: {said}"
            );
            assert!(error.hint().is_some(), "the refusal says what to do: {said}");
            if fault.strikes() == Strikes::Check {
                let report = world.host.check(&request.source).await;
                assert!(
                    report.is_err() || !report.unwrap().is_ok(),
                    "`check` finds it without running it"
                );
            }
            let call = world
                .host
                .call("plugin.bad.Call", HELLO.to_vec().into(), CallOptions::default())
                .await;
            assert!(call.is_err(), "it is not called");
        }
        Strikes::Never | Strikes::Call => {
            loaded.unwrap_or_else(|error| panic!("{fault:?} strikes in a call, not at load: {error:?}"));
            in_a_call(world, fault).await;
        }
    }
    world.serves("echo").await;
    if world.host.inspect("bad").is_ok() {
        world
            .host
            .unload("bad")
            .await
            .unwrap_or_else(|error| panic!("it can be removed: {error:?}"));
    }
    world.serves("echo").await;
}

async fn in_a_call(world: &World, fault: Fault) {
    let options = CallOptions {
        deadline: Some(Instant::now() + Duration::from_millis(1500)),
        ..CallOptions::default()
    };
    let answer = world.host.call(TARGET, HELLO.to_vec().into(), options).await;
    let said = format!("{answer:?}");
    match fault {
        Fault::None => assert_eq!(&answer.unwrap()[..], HELLO),
        // The host never decodes; whoever does gets an error of his own. What matters here is that the bytes are the plugin's.
        Fault::AnswersWithTheWrongType => assert_eq!(&answer.unwrap()[..], WRONG_TYPE),
        Fault::FloodsItsLog => {
            assert!(
                answer.is_ok() || answer.unwrap_err().kind() == CallErrorKind::Deadline,
                "{said}"
            );
            world
                .until("the flood is cut and counted", async || {
                    world
                        .host
                        .inspect("bad")
                        .is_ok_and(|it| it.counters.log_lines_dropped > 1000)
                })
                .await;
        }
        Fault::NeverAnswers => assert_eq!(answer.unwrap_err().kind(), CallErrorKind::Deadline, "{said}"),
        // The first answer may be out before the second shows what it is worth.
        Fault::AnswersTwice | Fault::AnswersAnotherCall => {
            assert!(
                answer.is_ok() || answer.unwrap_err().kind() == CallErrorKind::GuestFault,
                "{said}"
            );
            if world.runtime == RuntimeName::Process {
                world
                    .until("the instance that broke the protocol is gone", async || {
                        world.host.inspect("bad").is_ok_and(|it| it.counters.crashes > 0)
                    })
                    .await;
            }
        }
        Fault::AnnouncesAHugeFrame | Fault::ExitsInACall => {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), CallErrorKind::GuestFault, "{said}");
            assert!(error.to_string().len() > 20, "it says what happened: {error}");
        }
        _ => unreachable!("{fault:?} does not strike in a call"),
    }
}
