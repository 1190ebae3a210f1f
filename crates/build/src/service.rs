//! What is generated for a service: a trait to implement and a client to call.

use std::{collections::HashMap, fmt::Write as _};

use mortise_wire::{MethodKind, plugin};
use prost_build::{Method, Service, ServiceGenerator};

/// A provided method: its number on every boundary, and the metadata's row.
pub(crate) type Numbered = HashMap<(String, String), (u32, plugin::Method)>;

/// Writes the Rust of services, for prost-build.
pub(crate) struct Generator {
    /// Path of the crate that the generated code leans on: `::mortise_sdk` or `::mortise`.
    pub(crate) runtime: String,
    pub(crate) provided: Numbered,
    pub(crate) client_only: bool,
    /// By the service's full name.
    pub(crate) contracts: HashMap<String, Described>,
    /// What is declared of older versions, by file.
    pub(crate) adapts: Adapts,
}

/// A manifest with nothing but `[[adapt]]`s, and the descriptor sets that it names; empty without any.
pub(crate) type Adapts = Vec<(String, Vec<u8>)>;

/// What the client of a service was built against.
pub(crate) struct Described {
    pub(crate) fingerprint: [u8; 32],
    pub(crate) descriptor_set: Vec<u8>,
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, text: &mut String) {
        let full = full_name(&service);
        if !self.client_only {
            self.server(&service, &full, text);
        }
        self.client(&service, &full, text);
    }
}

impl Generator {
    fn server(&self, service: &Service, full: &str, text: &mut String) {
        let Service { name, .. } = service;
        let rt = &self.runtime;
        let methods: Vec<_> = sorted_methods(service);
        doc(
            text,
            0,
            &service.comments,
            &format!("Service `{full}`. Put `#[mortise_sdk::plugin]` on the `impl` of it."),
        );
        let mut body = String::new();
        for Method {
            name,
            input_type,
            output_type,
            comments,
            proto_name,
            client_streaming,
            server_streaming,
            ..
        } in methods.iter().copied()
        {
            doc(&mut body, 1, comments, &format!("Method `{proto_name}`."));
            let requests = if *client_streaming {
                format!("requests: &mut {rt}::Requests<'_, {input_type}>")
            } else {
                format!("request: {input_type}")
            };
            let (replies, output) = if *server_streaming {
                (format!(", replies: &mut {rt}::Replies<'_, {output_type}>"), "()")
            } else {
                (String::new(), output_type.as_str())
            };
            line(
                &mut body,
                format_args!(
                    "    fn {name}(&self, cx: &{rt}::Cx, {requests}{replies}) -> {rt}::Result<{output}>;"
                ),
            );
        }
        let first = methods
            .iter()
            .filter_map(|it| self.provided.get(&(full.to_owned(), it.proto_name.clone())))
            .map(|(number, _)| *number)
            .min()
            .map_or_else(|| "::core::primitive::u32::MAX".to_owned(), |it| it.to_string());
        let rows: Vec<_> = methods
            .iter()
            .map(|it| {
                let of = if kind(it).streams() { "of_stream" } else { "of" };
                format!("{rt}::guest::Method::{of}::<{}>()", marker(name, it))
            })
            .collect();
        line(
            text,
            format_args!(
                "pub trait {name}: ::core::marker::Sized + ::core::marker::Send + ::core::marker::Sync + 'static {{\n\
             {body}    #[doc(hidden)]\n    const SERVICE: {rt}::guest::Service<Self> = {rt}::guest::Service {{\n        \
             name: {full:?}, first: {first}, methods: &[{}],\n    }};\n}}",
                rows.join(", ")
            ),
        );
        for method in methods {
            self.marker(service, full, method, text);
        }
    }

    /// A type per method, so that each runtime's entry is compiled for that one method, without a branch on a number.
    fn marker(&self, service: &Service, full: &str, method: &Method, text: &mut String) {
        let rt = &self.runtime;
        let Method {
            name,
            proto_name,
            input_type,
            output_type,
            ..
        } = method;
        let row = self.provided.get(&(full.to_owned(), proto_name.clone()));
        let (flags, hash) = row.map_or((0, &[0; 32][..]), |(_, it)| (it.flags, &it.wire_hash[..]));
        let (marker, service) = (marker(&service.name, method), &service.name);
        let kind = kind(method);
        let flags = flags | kind.flags();
        let of = if kind.streams() { "StreamOf" } else { "MethodOf" };
        line(
            text,
            format_args!(
                "#[doc(hidden)]\npub enum {marker} {{}}\n\
             impl<P: {service}> {rt}::guest::{of}<P> for {marker} {{\n    \
             const SERVICE: &'static str = {full:?};\n    const NAME: &'static str = {proto_name:?};\n    \
             const FLAGS: u32 = {flags};\n    const WIRE_HASH: [u8; 32] = {hash:?};"
            ),
        );
        let (run, arguments) = match kind {
            MethodKind::Unary => {
                line(
                    text,
                    format_args!(
                        "    type Request = {input_type};\n    type Reply = {output_type};\n    \
                     fn call(plugin: &P, cx: &{rt}::Cx, request: Self::Request) -> {rt}::Result<Self::Reply> {{\n        \
                     <P as {service}>::{name}(plugin, cx, request)\n    }}\n}}"
                    ),
                );
                return;
            }
            MethodKind::ServerStreaming => ("server", "request, replies"),
            MethodKind::ClientStreaming => ("client", "requests"),
            MethodKind::Bidi => ("bidi", "requests, replies"),
        };
        let target = format!("{full}/{proto_name}");
        line(
            text,
            format_args!(
                "    fn run(plugin: &P, cx: &{rt}::Cx, link: &dyn {rt}::StreamLink) -> {rt}::Result<()> {{\n        \
             {rt}::stream::{run}({target:?}, link, |{arguments}| <P as {service}>::{name}(plugin, cx, {arguments}))\n    }}\n}}"
            ),
        );
    }

    fn client(&self, service: &Service, full: &str, text: &mut String) {
        let Service { name, .. } = service;
        let rt = &self.runtime;
        let Described {
            fingerprint,
            descriptor_set,
        } = &self.contracts[full];
        let adapts: Vec<String> = self
            .adapts
            .iter()
            .map(|(file, bytes)| format!("({file:?}, b\"{}\")", bytes.escape_ascii()))
            .collect();
        line(
            text,
            format_args!(
                "/// Calls service `{full}`: `async` with a `Caller` (a host), blocking with a `BlockingCaller` (another plugin's `Cx`).\n\
             #[derive(Clone, Debug)]\npub struct {name}Client<C> {{\n    caller: C,\n}}\n\
             impl<C> {name}Client<C> {{\n    /// What it was built against. A host adapts its calls to plugins of other versions by it.\n    \
             pub const CONTRACT: {rt}::client::ClientContract = {rt}::client::ClientContract {{\n        \
             service: {full:?},\n        fingerprint: {fingerprint:?},\n        descriptor_set: b\"{}\",\n        adapts: &[{}],\n    }};\n\n    \
             /// A client that calls through `caller`.\n    \
             pub fn new(caller: C) -> Self {{\n        Self {{ caller }}\n    }}\n\n    \
             fn __as_built(&self) -> {rt}::client::As<'_, C> {{\n        \
             {rt}::client::As {{ caller: &self.caller, contract: &Self::CONTRACT }}\n    }}\n}}",
                descriptor_set.escape_ascii(),
                adapts.join(", ")
            ),
        );
        let (mut calls, mut blocking, mut streams) = (String::new(), String::new(), String::new());
        for Method {
            name,
            proto_name,
            input_type,
            output_type,
            comments,
            client_streaming,
            server_streaming,
            ..
        } in sorted_methods(service)
        {
            let target = format!("{full}/{proto_name}");
            let kind = MethodKind::of(*client_streaming, *server_streaming);
            if kind.streams() {
                doc(&mut streams, 1, comments, &format!("Opens a call of `{target}`."));
                let (request, output, open) = match kind {
                    MethodKind::ClientStreaming => (
                        String::new(),
                        format!("{rt}::client::Upload<C::Sender, C::Receiver, {input_type}, {output_type}>"),
                        format!("client_stream(&self.__as_built(), {target:?})"),
                    ),
                    MethodKind::Bidi => (
                        String::new(),
                        format!(
                            "({rt}::client::Requests<C::Sender, {input_type}>, {rt}::client::Replies<C::Receiver, {output_type}>)"
                        ),
                        format!("bidi_stream(&self.__as_built(), {target:?})"),
                    ),
                    MethodKind::Unary | MethodKind::ServerStreaming => (
                        format!(", request: &{input_type}"),
                        format!("{rt}::client::Replies<C::Receiver, {output_type}>"),
                        format!("server_stream(&self.__as_built(), {target:?}, request)"),
                    ),
                };
                line(
                    &mut streams,
                    format_args!(
                        "    pub async fn {name}(&self{request}) -> ::core::result::Result<{output}, {rt}::Status> {{\n        \
                     {rt}::client::{open}.await\n    }}"
                    ),
                );
                continue;
            }
            doc(&mut calls, 1, comments, &format!("Calls `{target}`."));
            line(
                &mut calls,
                format_args!(
                    "    pub async fn {name}(&self, request: &{input_type}) -> ::core::result::Result<{output_type}, {rt}::Status> {{\n        \
                 {rt}::client::unary(&self.__as_built(), {target:?}, request).await\n    }}"
                ),
            );
            doc(
                &mut blocking,
                1,
                comments,
                &format!("Calls `{target}` and waits for the reply."),
            );
            let name = name.trim_start_matches("r#");
            line(
                &mut blocking,
                format_args!(
                    "    pub fn {name}_blocking(&self, request: &{input_type}) -> ::core::result::Result<{output_type}, {rt}::Status> {{\n        \
                 {rt}::client::unary_blocking(&self.caller, {target:?}, request)\n    }}"
                ),
            );
        }
        line(
            text,
            format_args!("impl<C: {rt}::client::Caller> {name}Client<C> {{\n{calls}}}"),
        );
        line(
            text,
            format_args!("impl<C: {rt}::client::BlockingCaller> {name}Client<C> {{\n{blocking}}}"),
        );
        if !streams.is_empty() {
            line(
                text,
                format_args!("impl<C: {rt}::client::StreamCaller> {name}Client<C> {{\n{streams}}}"),
            );
        }
    }
}

pub(crate) fn full_name(service: &Service) -> String {
    let dot = if service.package.is_empty() { "" } else { "." };
    format!("{}{dot}{}", service.package, service.proto_name)
}

fn kind(method: &Method) -> MethodKind {
    MethodKind::of(method.client_streaming, method.server_streaming)
}

/// The order of `Metadata.methods` within a service.
fn sorted_methods(service: &Service) -> Vec<&Method> {
    let mut methods: Vec<_> = service.methods.iter().collect();
    methods.sort_by(|a, b| a.proto_name.cmp(&b.proto_name));
    methods
}

fn marker(service: &str, method: &Method) -> String {
    format!("{service}{}Method", method.proto_name)
}

fn doc(text: &mut String, indent: u8, comments: &prost_build::Comments, last: &str) {
    let before = text.len();
    comments.append_with_indent(indent, text);
    let pad = "    ".repeat(usize::from(indent));
    if text[before..].contains("///") {
        line(text, format_args!("{pad}///"));
    }
    line(text, format_args!("{pad}/// {last}"));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a string takes everything");
    text.push('\n');
}
