use std::{
    pin::pin,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

use mortise_wire::plugin::LoadStateReply;

use super::*;

/// A guest that remembers what it was asked and answers as it was told.
struct Guest {
    reserved: ReservedMethods,
    asked: Mutex<Vec<(u32, Bytes)>>,
    answer: Vec<u8>,
}

impl Guest {
    fn new(methods: &[Reserved], answer: &impl Message) -> Self {
        let metadata = Metadata {
            methods: methods.iter().map(|it| it.row()).collect(),
            ..Metadata::default()
        };
        Self {
            reserved: ReservedMethods::of(&metadata),
            asked: Mutex::default(),
            answer: answer.encode_to_vec(),
        }
    }
}

impl Call for Guest {
    fn call<'a>(
        &'a self,
        _cx: &'a CallContext,
        method: MethodIndex,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        self.asked.lock().unwrap().push((method.0, payload));
        Box::pin(std::future::ready(Ok(self.answer.clone().into())))
    }
}

impl ReservedCalls for Guest {
    fn reserved(&self) -> &ReservedMethods {
        &self.reserved
    }
}

/// The guest answers at once.
fn done<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it answers at once"),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        schema: "a.v1.S".to_owned(),
        wire_hash: vec![1; 32],
        version: "1.0.0".to_owned(),
        bytes: vec![8, 7],
    }
}

#[test]
fn a_snapshot_comes_and_goes_whole() {
    let Snapshot {
        schema,
        wire_hash,
        version,
        bytes,
    } = snapshot();
    let wire = WireState {
        schema,
        wire_hash,
        version,
        bytes,
    };
    let guest = Guest::new(&Reserved::ALL, &wire);
    let cx = CallContext::default();
    assert_eq!(done(guest.save(&cx)).unwrap(), snapshot());
    let guest = Guest::new(&Reserved::ALL, &LoadStateReply {});
    done(guest.load(&cx, &snapshot(), true)).unwrap();
    let asked = guest.asked.lock().unwrap();
    let request = LoadStateRequest::decode(&*asked[0].1).unwrap();
    assert_eq!(
        (asked[0].0, request.state, request.migrate),
        (1, Some(wire), true)
    );
}

#[test]
fn a_refusal_is_a_text_and_an_empty_answer_is_a_yes() {
    let cx = CallContext::default();
    let successor = Successor {
        version: &semver::Version::new(2, 0, 0),
        digest: Digest([7; 32]),
    };
    let busy = MayReplaceReply {
        refusal: "busy".to_owned(),
    };
    let guest = Guest::new(&[Reserved::MayReplace], &busy);
    assert_eq!(
        done(guest.may_replace(&cx, Some(successor))).unwrap().as_deref(),
        Some("busy")
    );
    let asked = MayReplaceRequest::decode(&*guest.asked.lock().unwrap()[0].1).unwrap();
    assert_eq!((asked.version.as_str(), asked.digest.len()), ("2.0.0", 64));
    let guest = Guest::new(&[Reserved::MayReplace], &MayReplaceReply::default());
    assert_eq!(done(guest.may_replace(&cx, None)).unwrap(), None);
}

#[test]
fn what_a_plugin_does_not_have_is_not_called() {
    let guest = Guest::new(&[Reserved::PostLoad], &LoadStateReply {});
    let cx = CallContext::default();
    assert!(!guest.carries_state());
    assert_eq!(done(guest.may_replace(&cx, None)).unwrap(), None);
    done(guest.pre_unload(&cx)).unwrap();
    let error = done(guest.save(&cx)).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Incompatible);
    assert!(guest.asked.lock().unwrap().is_empty());
    done(guest.post_load(&cx, Origin::Snapshot)).unwrap();
    assert_eq!(guest.asked.lock().unwrap().len(), 1);
}

#[test]
fn a_new_configuration_is_taken_refused_or_left_for_the_next_start() {
    let cx = CallContext::default();
    let answered = |reply: ConfigureReply| {
        let guest = Guest::new(&[Reserved::Configure], &reply);
        let outcome = done(Configure::configure(&guest, &cx, "{}")).unwrap();
        let asked = ConfigureRequest::decode(&*guest.asked.lock().unwrap()[0].1).unwrap();
        assert_eq!(asked.json, "{}");
        outcome
    };
    assert_eq!(answered(ConfigureReply::default()), Configured::Applied);
    let reply = ConfigureReply {
        needs_restart: true,
        ..ConfigureReply::default()
    };
    assert_eq!(answered(reply), Configured::NeedsRestart);
    let reply = ConfigureReply {
        refusal: "too large".to_owned(),
        ..ConfigureReply::default()
    };
    assert_eq!(answered(reply), Configured::Refused("too large".to_owned()));
    let without = Guest::new(&[Reserved::PostLoad], &LoadStateReply {});
    let outcome = done(Configure::configure(&without, &cx, "{}")).unwrap();
    assert_eq!(outcome, Configured::NeedsRestart, "it is not asked");
    assert!(without.asked.lock().unwrap().is_empty());
}
