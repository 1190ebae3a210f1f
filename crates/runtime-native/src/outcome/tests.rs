use mortise_runtime::Blame;

use super::*;

fn error(status: MtStatus, said: &[u8]) -> CallError {
    match read("a.B/C", status, Ok(said.to_vec())) {
        Outcome::Failed(error) => error,
        Outcome::Reply(_) | Outcome::Panicked(_) => panic!("not a plain failure"),
    }
}

/// Every status a plugin can return has a kind, and nothing it says is lost.
#[test]
fn every_status_has_a_kind() {
    let said = Status::new(Code::Internal, "because").encode_to_vec();
    for status in 1..=16 {
        let error = error(status, &said);
        assert_eq!(error.kind(), CallErrorKind::Returned);
        assert_eq!(
            (error.status().code, error.to_string().as_str()),
            (status, "because"),
            "the returned number wins"
        );
    }
    for (status, kind, blame) in [
        (MT_E_UNKNOWN_METHOD, CallErrorKind::GuestFault, Blame::Guest),
        (MT_E_BAD_ARG, CallErrorKind::Malformed, Blame::Caller),
        (MT_E_NOMEM, CallErrorKind::Exhausted, Blame::Machine),
        (MT_E_DRAINING, CallErrorKind::Draining, Blame::Host),
        (MT_PENDING, CallErrorKind::GuestFault, Blame::Guest),
        (MT_E_ABI, CallErrorKind::GuestFault, Blame::Guest),
        (17, CallErrorKind::GuestFault, Blame::Guest),
        (-99, CallErrorKind::GuestFault, Blame::Guest),
        (i32::MIN, CallErrorKind::GuestFault, Blame::Guest),
    ] {
        let error = error(status, &said);
        assert_eq!((error.kind(), error.blame()), (kind, blame), "{status}");
        assert!(error.to_string().contains("a.B/C"), "{error}");
    }
}

#[test]
fn a_silent_status_gets_words() {
    assert_eq!(
        error(5, b"").to_string(),
        "the plugin answered NOT_FOUND and did not say why"
    );
    assert_eq!(
        error(MT_E_BAD_ARG, b"").to_string(),
        "`a.B/C`: it answered MT_E_BAD_ARG (-2) and did not say why"
    );
}

#[test]
fn a_status_that_does_not_parse_is_the_plugins_fault() {
    let error = error(5, b"\xff\xff");
    assert_eq!(error.kind(), CallErrorKind::GuestFault);
    assert_eq!(
        error.to_string(),
        "`a.B/C` answered with status NOT_FOUND and 2 bytes that are no encoded Status"
    );
}

#[test]
fn a_panic_is_told_apart() {
    let said = Status::new(Code::Internal, "index out of bounds").encode_to_vec();
    assert!(
        matches!(read("a.B/C", MT_E_PANIC, Ok(said)), Outcome::Panicked(it) if it.contains("index out of bounds"))
    );
}
