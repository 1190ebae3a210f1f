use std::fmt::Write as _;

use super::*;

#[test]
fn the_whole_table() {
    let mut text = String::new();
    for row in &TABLE {
        let grpc = row.grpc.map_or("(the plugin's own)", Code::as_str);
        writeln!(
            text,
            "{:<12} {} {} {grpc}",
            row.kind.as_str(),
            row.json_rpc,
            row.http.as_u16()
        )
        .expect("a String takes it");
    }
    insta::assert_snapshot!(text, @r"
    returned     -32000 422 (the plugin's own)
    not_found    -32601 404 UNIMPLEMENTED
    malformed    -32602 400 INVALID_ARGUMENT
    denied       -32001 403 PERMISSION_DENIED
    deadline     -32002 504 DEADLINE_EXCEEDED
    cancelled    -32003 408 CANCELLED
    exhausted    -32004 429 RESOURCE_EXHAUSTED
    guest_fault  -32005 502 INTERNAL
    incompatible -32006 409 FAILED_PRECONDITION
    draining     -32007 503 UNAVAILABLE
    unavailable  -32008 503 UNAVAILABLE
    host_bug     -32603 500 INTERNAL
    ");
}

#[test]
fn every_kind_has_one_row_and_codes_are_unique_and_in_range() {
    for kind in CallErrorKind::ALL {
        assert_eq!(TABLE.iter().filter(|row| row.kind == kind).count(), 1, "{kind:?}");
        let code = lookup(kind).json_rpc;
        assert_eq!(
            TABLE.iter().filter(|row| row.json_rpc == code).count(),
            1,
            "{code}"
        );
        assert!(
            (-32099..=-32000).contains(&code) || (-32603..=-32600).contains(&code),
            "{code}"
        );
    }
}

#[test]
fn the_table_agrees_with_the_codes_of_the_port() {
    for kind in CallErrorKind::ALL
        .into_iter()
        .filter(|kind| *kind != CallErrorKind::Returned)
    {
        assert_eq!(
            lookup(kind).grpc,
            Some(CallError::new(kind, "x").status().kind()),
            "{kind:?}"
        );
    }
}

#[test]
fn faults_behind_the_edge_keep_their_text_to_themselves() {
    let fault = CallError::new(CallErrorKind::GuestFault, "panicked at 'password is hunter2'");
    let public = FailedCall {
        plugin: Some("greet"),
        trace: Some("00ff"),
        detail: Detail::Public,
    };
    let shown = serde_json::to_string(&RpcError::from_call(&fault, &public, Vec::new())).expect("plain data");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        shown.contains("plugin `greet` failed") && shown.contains("00ff"),
        "{shown}"
    );

    let full = FailedCall {
        detail: Detail::Full,
        ..public
    };
    let shown = serde_json::to_string(&RpcError::from_call(&fault, &full, Vec::new())).expect("plain data");
    assert!(shown.contains("hunter2"), "{shown}");
}
