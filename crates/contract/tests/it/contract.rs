//! Reading contracts: what is provided, in which order, with which options.

use std::sync::Arc;

use mortise_contract::{Contract, ContractError, Idempotency, NameError, Target};

use crate::support::{compile, contract, contract_of};

const SHOP: &str = r#"
syntax = "proto3";
package acme.v1;
import "mortise/options.proto";

service Shop {
  rpc Order(Request) returns (stream Reply) {
    option (mortise.idempotent) = true;
    option (mortise.timeout_ms) = 250;
    option (mortise.replaces) = "acme.v1.Shop/Buy@1.2";
    option (mortise.fallback) = "acme.v1.Other/Order";
    option (mortise.nonblocking) = true;
  }
  rpc Cancel(Request) returns (Reply);
}

service Audit {
  rpc Cancel(stream Request) returns (Reply);
}

message Request {
  string card = 1 [(mortise.sensitive) = true];
  int32 count = 2 [(mortise.default) = "7"];
}
message Reply {}
message Saved { option (mortise.state_schema) = true; }
"#;

#[test]
fn methods_are_sorted_by_service_and_name() {
    let contract = contract(SHOP);
    let targets: Vec<String> = contract.methods().iter().map(|it| it.target()).collect();
    assert_eq!(
        targets,
        [
            "acme.v1.Audit/Cancel",
            "acme.v1.Shop/Cancel",
            "acme.v1.Shop/Order"
        ]
    );
    assert_eq!(contract.services(), ["acme.v1.Audit", "acme.v1.Shop"]);
    for method in contract.methods() {
        let found = contract
            .method(method.service(), method.name())
            .expect("every method is found by its name");
        assert_eq!(found.target(), method.target());
    }
    assert!(contract.method("acme.v1.Shop", "order").is_none());
    assert!(contract.method("acme.v1", "Shop").is_none());
}

#[test]
fn options_are_read_by_their_numbers() {
    let contract = contract(SHOP);
    let order = contract.method("acme.v1.Shop", "Order").expect("declared above");
    let options = order.options();
    assert_eq!(options.idempotency, Idempotency::Idempotent);
    assert_eq!(options.timeout_ms, Some(250));
    assert_eq!(options.replaces, Target::parse("acme.v1.Shop/Buy@1.2"));
    assert_eq!(
        options.replaces.as_ref().and_then(|it| it.version.as_deref()),
        Some("1.2")
    );
    assert_eq!(options.fallback, Target::parse("acme.v1.Other/Order"));
    assert!(options.nonblocking && options.idempotent());
    assert!(order.server_streaming() && !order.client_streaming());
    assert_eq!(order.input().full_name(), "acme.v1.Request");
    assert_eq!(order.output().full_name(), "acme.v1.Reply");

    let cancel = contract.method("acme.v1.Shop", "Cancel").expect("declared above");
    assert_eq!(cancel.options(), &mortise_contract::MethodOptions::default());
    let fields: Vec<_> = order
        .input()
        .fields()
        .map(|field| contract.field_options(&field))
        .collect();
    assert_eq!((fields[0].sensitive, fields[0].default.as_deref()), (true, None));
    assert_eq!(
        (fields[1].sensitive, fields[1].default.as_deref()),
        (false, Some("7"))
    );
    assert_eq!(contract.state_schemas(), ["acme.v1.Saved"]);
}

#[test]
fn other_services_of_a_linked_set_are_as_if_it_were_linked_for_them() {
    let bytes = compile(&[("acme.proto", SHOP)]);
    let shop = contract_of(&[("acme.proto", SHOP)], &["acme.v1.Shop"]);
    let audit = ["acme.v1.Audit".to_owned()];
    let seen = shop.of_services(&audit).expect("the set declares it");
    let linked = Contract::from_descriptor_set(&bytes, &audit).expect("the set declares it");
    assert_eq!(seen.services(), ["acme.v1.Audit"]);
    assert_eq!(seen.hash(), linked.hash());
    assert_eq!(seen.fingerprint(), linked.fingerprint());
    assert_ne!(seen.hash(), shop.hash());
    shop.of_services(&["acme.v1.Shoop".to_owned()])
        .expect_err("the set declares no such service");
}

#[test]
fn provides_chooses_services() {
    let contract = contract_of(&[("acme.proto", SHOP)], &["acme.v1.Shop", "acme.v1.Shop"]);
    assert_eq!(contract.services(), ["acme.v1.Shop"]);
    assert_eq!(contract.methods().len(), 2);
    assert!(contract.method("acme.v1.Audit", "Cancel").is_none());

    let error =
        Contract::from_descriptor_set(&compile(&[("acme.proto", SHOP)]), &["acme.v1.Shoop".to_owned()]);
    let error = error.expect_err("no such service");
    assert!(matches!(&error, ContractError::UnknownService { service, .. } if service == "acme.v1.Shoop"));
    assert_eq!(
        error.to_string(),
        "`provides` names `acme.v1.Shoop`, and the contract declares `acme.v1.Shop` or `acme.v1.Audit`; \
         correct plugin.toml or add the .proto file"
    );
}

#[test]
fn imported_host_services_are_not_provided() {
    let host =
        "syntax = \"proto3\"; package mortise.host.v1; service Kv { rpc Get(M) returns (M); } message M {}";
    let own = "syntax = \"proto3\"; package acme.v1; import \"mortise/host/v1/host.proto\"; \
               service Shop { rpc Order(mortise.host.v1.M) returns (mortise.host.v1.M); }";
    let contract = contract_of(&[("acme.proto", own), ("mortise/host/v1/host.proto", host)], &[]);
    assert_eq!(contract.services(), ["acme.v1.Shop"]);
}

#[test]
fn bare_names_must_be_unique() {
    let contract = contract(SHOP);
    assert_eq!(
        contract.method_by_name("Order").expect("unique").target(),
        "acme.v1.Shop/Order"
    );
    let ambiguous = contract
        .method_by_name("Cancel")
        .expect_err("two services have it");
    assert_eq!(
        ambiguous.to_string(),
        "method name `Cancel` is ambiguous; say `acme.v1.Audit/Cancel` or `acme.v1.Shop/Cancel`"
    );
    let unknown = contract.method_by_name("Refund").expect_err("nobody has it");
    assert!(matches!(unknown, NameError::Unknown { known, .. } if known.len() == 3));
}

#[test]
fn the_hash_depends_on_what_is_provided() {
    let all = contract(SHOP);
    let shop = contract_of(&[("acme.proto", SHOP)], &["acme.v1.Shop"]);
    let both = contract_of(&[("acme.proto", SHOP)], &["acme.v1.Audit", "acme.v1.Shop"]);
    assert_ne!(all.hash(), shop.hash());
    assert_eq!(all.hash(), both.hash());
    assert_eq!(all.descriptor_set_bytes(), both.descriptor_set_bytes());
}

#[test]
fn odd_options_are_refused_with_their_place() {
    let source = SHOP.replace("acme.v1.Other/Order", "acme.v1.Other.Order");
    let error =
        Contract::from_descriptor_set(&compile(&[("acme.proto", &source)]), &[]).expect_err("no slash");
    assert_eq!(
        error.to_string(),
        "option `mortise.fallback` of `acme.v1.Shop/Order` is `acme.v1.Other.Order`, and it must be \
         `package.Service/Method` or `package.Service/Method@version`"
    );
    let source = SHOP.replace("\"7\"", "\"seven\"");
    let error =
        Contract::from_descriptor_set(&compile(&[("acme.proto", &source)]), &[]).expect_err("no number");
    assert_eq!(
        error.to_string(),
        "option `mortise.default` of `acme.v1.Request.count` is `seven`, and it must be a number that fits the field's type"
    );
}

#[test]
fn targets_are_parsed_strictly() {
    for good in ["a.B/C", "B/C", "a.b.c.D_1/E2", "a.B/C@1.0.0-rc.1"] {
        assert_eq!(
            Target::parse(good).map(|it| it.to_string()).as_deref(),
            Some(good)
        );
    }
    for bad in [
        "", "/", "a.B", "a.B/", "/C", "a..B/C", "a.B/C/D", "a.B/C@", "1a.B/C", "a.B/C D", ".a.B/C",
    ] {
        assert_eq!(Target::parse(bad), None, "{bad}");
    }
}

#[test]
fn an_equal_set_is_linked_once_while_somebody_holds_it() {
    let set = compile(&[("acme.proto", SHOP)]);
    let provides = ["acme.v1.Shop".to_owned()];
    let held = Contract::shared(&set, &provides).expect("it is sound");
    let same = Contract::shared(&set.clone(), &provides).expect("it is sound");
    assert!(Arc::ptr_eq(&held, &same));
    let of_all = Contract::shared(&set, &[]).expect("it is sound");
    assert!(!Arc::ptr_eq(&held, &of_all), "another choice of services");
    let weak = Arc::downgrade(&held);
    drop((held, same));
    assert!(weak.upgrade().is_none(), "nobody else keeps it");
    assert!(Contract::shared(&set, &["acme.v1.Shoop".to_owned()]).is_err());
}
