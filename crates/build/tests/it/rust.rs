//! The generated Rust. That it compiles and works is proved where it runs (mortise-sdk's own tests); here is what it offers.

use std::fs;

use crate::{CONTRACT, MANIFEST, builder, source};

/// The generated code with every run of blanks as one.
fn rust(build: impl FnOnce(mortise_build::Builder) -> mortise_build::Builder) -> String {
    let source = source(MANIFEST, CONTRACT);
    build(builder(source.path())).compile().expect("a good plugin");
    let text = fs::read_to_string(source.path().join("out/mortise.rs")).expect("it was written");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn has(text: &str, part: &str) {
    assert!(
        text.contains(part),
        "`{part}` is not in the generated code:\n{text}"
    );
}

#[test]
fn a_service_becomes_a_trait_and_a_client() {
    let text = rust(|it| it);
    has(&text, "/// Greets. /// /// Service `acme.v1.Greeter`.");
    has(
        &text,
        "fn greet( &self, cx: &::mortise_sdk::Cx, request: GreetRequest, ) -> ::mortise_sdk::Result<GreetReply>;",
    );
    has(&text, "pub async fn greet( &self, request: &GreetRequest, )");
    has(&text, "pub fn greet_blocking( &self, request: &GreetRequest, )");
    has(
        &text,
        "fn bye( &self, cx: &::mortise_sdk::Cx, request: super::r#type::Name, )",
    );
    has(&text, "pub mod r#type {");
    has(&text, "::mortise_sdk::prost_types::Timestamp");
    has(&text, "pub use self::acme::v1::*;");
}

#[test]
fn methods_stand_in_the_order_of_the_metadata() {
    let text = rust(|it| it);
    has(
        &text,
        "name: \"acme.v1.Greeter\", first: 0, methods: &[ ::mortise_sdk::guest::Method::of::<GreeterByeMethod>(), ::mortise_sdk::guest::Method::of::<GreeterGreetMethod>(),",
    );
    has(
        &text,
        "name: \"acme.v1.Watcher\", first: ::core::primitive::u32::MAX,",
    );
}

#[test]
fn streams_go_where_the_contract_has_the_word() {
    let text = rust(|it| it);
    has(
        &text,
        "fn watch( &self, cx: &::mortise_sdk::Cx, request: GreetRequest, replies: &mut ::mortise_sdk::Replies<'_, GreetReply>, ) -> ::mortise_sdk::Result<()>;",
    );
    has(
        &text,
        "fn count( &self, cx: &::mortise_sdk::Cx, requests: &mut ::mortise_sdk::Requests<'_, GreetRequest>, ) -> ::mortise_sdk::Result<GreetReply>;",
    );
    has(
        &text,
        "fn chat( &self, cx: &::mortise_sdk::Cx, requests: &mut ::mortise_sdk::Requests<'_, GreetRequest>, replies: &mut ::mortise_sdk::Replies<'_, GreetReply>, ) -> ::mortise_sdk::Result<()>;",
    );
    has(&text, "pub async fn look(");
    has(
        &text,
        "pub async fn watch( &self, request: &GreetRequest, ) -> ::core::result::Result< ::mortise_sdk::client::Replies<C::Receiver, GreetReply>, ::mortise_sdk::Status, >",
    );
    has(
        &text,
        "::mortise_sdk::client::Upload<C::Sender, C::Receiver, GreetRequest, GreetReply>",
    );
    has(
        &text,
        "::mortise_sdk::client::bidi_stream(&self.__as_built(), \"acme.v1.Watcher/Chat\")",
    );
}

#[test]
fn a_service_that_embeds_the_host_gets_clients_only() {
    let source = source("this is no manifest, and nobody reads it", CONTRACT);
    let build = builder(source.path()).client_only().runtime_path("::mortise");
    build.compile().expect("a good contract");
    let text = fs::read_to_string(source.path().join("out/mortise.rs")).expect("it was written");
    has(&text, "::mortise::client::unary(");
    has(&text, "#[prost(prost_path = \"::mortise::prost\")]");
    assert!(
        !text.contains("mortise_sdk") && !text.contains("pub trait"),
        "{text}"
    );
    assert!(!source.path().join("out/mortise.meta").exists());
}

#[test]
fn an_unchanged_file_is_left_alone() {
    let source = source(MANIFEST, CONTRACT);
    builder(source.path()).compile().expect("a good plugin");
    let file = source.path().join("out/mortise.rs");
    let mut permissions = fs::metadata(&file).expect("it was written").permissions();
    permissions.set_readonly(true);
    let written = fs::metadata(&file).and_then(|it| it.modified()).expect("a time");
    fs::set_permissions(&file, permissions).expect("mine");
    builder(source.path()).compile().expect("nothing to write");
    assert_eq!(
        fs::metadata(&file).and_then(|it| it.modified()).expect("a time"),
        written
    );
}

#[test]
fn maps_are_ordered_so_that_equal_messages_are_equal_bytes() {
    let contract = CONTRACT.replace(
        "message GreetReply { string text = 1; }",
        "message GreetReply { string text = 1; map<string, GreetReply> by = 2; }",
    );
    let source = source(MANIFEST, &contract);
    builder(source.path()).compile().expect("a good plugin");
    let text = fs::read_to_string(source.path().join("out/mortise.rs")).expect("it was written");
    has(&text, "btree_map = \"string, message\"");
    assert_eq!(
        text.matches("#[prost(skip_debug)]").count(),
        1,
        "of the one message that has a map"
    );
}
