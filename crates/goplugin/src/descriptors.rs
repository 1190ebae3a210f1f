//! What a server's reflection says, put together into a `FileDescriptorSet`; and the other way round.
//!
//! Reflection gives files one by one, in any order, some twice, and a server may be wrong or hostile. [`Collector`] asks for what is missing until every import is there,
//! within bounds: [`FILES_MAX`], [`BYTES_MAX`], [`SERVICES_MAX`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use crate::{
    handshake::clip,
    proto::{
        FileDescriptors, ReflectionAnswer, ReflectionAsk, ReflectionError, ReflectionResponse, ServiceList,
        ServiceName,
    },
};

/// More files are no contract.
pub const FILES_MAX: usize = 4096;
/// All files together.
pub const BYTES_MAX: usize = 16 << 20;
/// More services are no plugin.
pub const SERVICES_MAX: usize = 1024;
/// Imports of one file.
const IMPORTS_MAX: usize = 1024;

/// Why a server's reflection is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReflectError {
    /// It answered something else.
    #[error("the plugin's reflection answered something else when it was asked for {0}")]
    Unexpected(String),
    /// It answered an error.
    #[error("the plugin's reflection can't tell {asked}: {message} (code {code})")]
    Refused {
        /// What was asked.
        asked: String,
        /// A gRPC status code.
        code: i32,
        /// Its words.
        message: String,
    },
    /// A file that does not parse.
    #[error("a file ({bytes} bytes) that the plugin's reflection gave does not parse: {why}")]
    Malformed {
        /// Its length.
        bytes: usize,
        /// What is wrong.
        why: String,
    },
    /// Two files under one name.
    #[error("the plugin's reflection gave two different files `{0}`")]
    Contradiction(String),
    /// Files that import each other.
    #[error("the plugin's reflection gave files that import each other; `{0}` is among them")]
    Circle(String),
    /// More than a contract has.
    #[error("the plugin's reflection gave more than {0}")]
    TooMuch(String),
}

/// Asks until everything is there.
#[derive(Debug, Default)]
pub struct Collector {
    services: BTreeSet<String>,
    files: BTreeMap<String, Bytes>,
    parsed: BTreeMap<String, FileDescriptorProto>,
    /// Services that were not looked at yet.
    unseen: Vec<String>,
    /// Imports that were not asked for yet; some may have come since.
    missing: Vec<String>,
    asked: BTreeSet<String>,
    bytes: usize,
    listed: bool,
}

/// What was collected.
#[derive(Clone, Debug, PartialEq)]
pub struct Reflected {
    /// Names of the application's services, sorted.
    pub services: Vec<String>,
    /// Their files, imports first.
    pub files: FileDescriptorSet,
    /// The same as the server gave them.
    encoded: Vec<Bytes>,
}

/// Whether a service is the protocol's own and no application's.
#[must_use]
pub fn is_infrastructure(service: &str) -> bool {
    service.starts_with("grpc.reflection.")
        || matches!(
            service,
            "grpc.health.v1.Health" | "plugin.GRPCBroker" | "plugin.GRPCController" | "plugin.GRPCStdio"
        )
}

// === impl Collector ===

impl Collector {
    /// What to ask next; `None` once everything is there.
    pub fn next_ask(&mut self) -> Option<ReflectionAsk> {
        if !self.listed {
            return Some(ReflectionAsk::ListServices("*".to_owned()));
        }
        while let Some(service) = self.unseen.pop() {
            // Some file that is here already may declare it.
            if !self.declares(&service) {
                return Some(ReflectionAsk::FileContaining(service));
            }
        }
        while let Some(import) = self.missing.pop() {
            if !self.parsed.contains_key(&import) && self.asked.insert(import.clone()) {
                return Some(ReflectionAsk::FileByName(import));
            }
        }
        None
    }

    /// The answer to what was asked last.
    ///
    /// # Errors
    /// If it is no answer to that, or too much.
    pub fn answer(&mut self, ask: &ReflectionAsk, response: ReflectionResponse) -> Result<(), ReflectError> {
        let what = || match ask {
            ReflectionAsk::ListServices(_) => "its services".to_owned(),
            ReflectionAsk::FileContaining(name) | ReflectionAsk::FileByName(name) => {
                format!("the file of `{}`", clip(name))
            }
            _ => "an extension".to_owned(),
        };
        match (ask, response.answer) {
            (_, Some(ReflectionAnswer::Error(ReflectionError { code, message }))) => {
                Err(ReflectError::Refused {
                    asked: what(),
                    code,
                    message: clip(&message),
                })
            }
            (ReflectionAsk::ListServices(_), Some(ReflectionAnswer::Services(ServiceList { services }))) => {
                if services.len() > SERVICES_MAX {
                    return Err(ReflectError::TooMuch(format!("{SERVICES_MAX} services")));
                }
                let names = services.into_iter().map(|service| service.name);
                self.services = names.filter(|name| !is_infrastructure(name)).collect();
                self.unseen = self.services.iter().rev().cloned().collect();
                self.listed = true;
                Ok(())
            }
            (
                ReflectionAsk::FileContaining(_) | ReflectionAsk::FileByName(_),
                Some(ReflectionAnswer::Files(FileDescriptors { files })),
            ) => files.into_iter().try_for_each(|file| self.add(file)),
            _ => Err(ReflectError::Unexpected(what())),
        }
    }

    /// Everything, imports first. An import that the server could not give is left out: whoever reads the set will miss it by name.
    ///
    /// # Errors
    /// If the files import each other.
    pub fn finish(self) -> Result<Reflected, ReflectError> {
        let mut files = self.files;
        let ordered = imports_first(self.parsed)?;
        let encoded = ordered.iter().filter_map(|it| files.remove(it.name()));
        Ok(Reflected {
            services: self.services.into_iter().collect(),
            encoded: encoded.collect(),
            files: FileDescriptorSet { file: ordered },
        })
    }

    fn add(&mut self, encoded: Bytes) -> Result<(), ReflectError> {
        self.bytes = self.bytes.saturating_add(encoded.len());
        if self.bytes > BYTES_MAX {
            return Err(ReflectError::TooMuch(format!("{BYTES_MAX} bytes")));
        }
        let file = FileDescriptorProto::decode(encoded.clone()).map_err(|error| ReflectError::Malformed {
            bytes: encoded.len(),
            why: error.to_string(),
        })?;
        let name = file.name().to_owned();
        if let Some(known) = self.files.get(&name) {
            return if *known == encoded {
                Ok(())
            } else {
                Err(ReflectError::Contradiction(clip(&name)))
            };
        }
        if self.files.len() >= FILES_MAX {
            return Err(ReflectError::TooMuch(format!("{FILES_MAX} files")));
        }
        if file.dependency.len() > IMPORTS_MAX {
            return Err(ReflectError::TooMuch(format!(
                "{IMPORTS_MAX} imports in one file"
            )));
        }
        self.missing.extend(file.dependency.iter().cloned());
        self.files.insert(name.clone(), encoded);
        self.parsed.insert(name, file);
        Ok(())
    }

    fn declares(&self, service: &str) -> bool {
        self.parsed.values().any(|file| declares(file, service))
    }
}

// === impl Reflected ===

impl Reflected {
    /// An encoded `FileDescriptorSet` of what `services` need, imports first and included, each file byte for byte as the server gave it. So options
    /// that are not known here, which a decoded file has lost, are still in it.
    #[must_use]
    pub fn encode(&self, services: &[String]) -> Bytes {
        let mut needed: BTreeSet<&str> = BTreeSet::new();
        // Whoever imports a file comes after it.
        for file in self.files.file.iter().rev() {
            if needed.contains(file.name()) || services.iter().any(|it| declares(file, it)) {
                needed.insert(file.name());
                needed.extend(file.dependency.iter().map(String::as_str));
            }
        }
        let files = self.files.file.iter().zip(&self.encoded);
        let kept = files.filter(|(file, _)| needed.contains(file.name()));
        EncodedSet {
            files: kept.map(|(_, encoded)| encoded.clone()).collect(),
        }
        .encode_to_vec()
        .into()
    }
}

/// A `FileDescriptorSet` whose files are encoded already.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    files: Vec<Bytes>,
}

fn declares(file: &FileDescriptorProto, service: &str) -> bool {
    let local = match file.package() {
        "" => Some(service),
        package => service.strip_prefix(package).and_then(|it| it.strip_prefix('.')),
    };
    local.is_some_and(|local| file.service.iter().any(|it| it.name() == local))
}

/// Depth first, without recursion: a chain of imports can be as long as there are files.
fn imports_first(
    mut left: BTreeMap<String, FileDescriptorProto>,
) -> Result<Vec<FileDescriptorProto>, ReflectError> {
    let mut ordered = Vec::with_capacity(left.len());
    let mut open: BTreeMap<String, FileDescriptorProto> = BTreeMap::new();
    while let Some((first, _)) = left.first_key_value() {
        let mut path = vec![(first.clone(), 0)];
        while let Some((name, next)) = path.last_mut() {
            if let Some(file) = left.remove(name) {
                open.insert(name.clone(), file);
            }
            let import = open.get(name).and_then(|file| file.dependency.get(*next));
            *next += 1;
            match import {
                Some(import) if open.contains_key(import) => return Err(ReflectError::Circle(clip(import))),
                // What is not left is in order already, or was never given.
                Some(import) if left.contains_key(import) => {
                    let import = import.clone();
                    path.push((import, 0));
                }
                Some(_) => {}
                None => {
                    ordered.extend(open.remove(name));
                    path.pop();
                }
            }
        }
    }
    Ok(ordered)
}

/// Answers of a server that serves these files.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    services: Vec<String>,
    /// By file name.
    files: BTreeMap<String, Bytes>,
    /// File name by symbol.
    symbols: BTreeMap<String, String>,
}

// === impl Mirror ===

impl Mirror {
    /// Serves `files`; lists `services`.
    #[must_use]
    pub fn new(files: &FileDescriptorSet, services: impl IntoIterator<Item = String>) -> Self {
        let mut mirror = Self {
            services: services.into_iter().collect(),
            ..Self::default()
        };
        for file in &files.file {
            let prefix = match file.package() {
                "" => String::new(),
                package => format!("{package}."),
            };
            let mut declare = |name: String| {
                mirror.symbols.insert(name, file.name().to_owned());
            };
            for service in &file.service {
                let name = format!("{prefix}{}", service.name());
                for method in &service.method {
                    declare(format!("{name}.{}", method.name()));
                }
                declare(name);
            }
            file.enum_type
                .iter()
                .for_each(|it| declare(format!("{prefix}{}", it.name())));
            let mut messages: Vec<_> = file.message_type.iter().map(|it| (prefix.clone(), it)).collect();
            while let Some((prefix, message)) = messages.pop() {
                let name = format!("{prefix}{}", message.name());
                let inner = format!("{name}.");
                message
                    .enum_type
                    .iter()
                    .for_each(|it| declare(format!("{inner}{}", it.name())));
                messages.extend(message.nested_type.iter().map(|it| (inner.clone(), it)));
                declare(name);
            }
            mirror
                .files
                .insert(file.name().to_owned(), file.encode_to_vec().into());
        }
        mirror
    }

    /// The answer.
    #[must_use]
    pub fn answer(&self, ask: Option<&ReflectionAsk>) -> ReflectionAnswer {
        let error = |code: tonic::Code, message: String| {
            ReflectionAnswer::Error(ReflectionError {
                code: code as i32,
                message,
            })
        };
        let file = |name: Option<&String>, asked: &str| match name.and_then(|it| self.files.get(it)) {
            Some(file) => ReflectionAnswer::Files(FileDescriptors {
                files: vec![file.clone()],
            }),
            None => error(tonic::Code::NotFound, format!("`{}` is not here", clip(asked))),
        };
        match ask {
            Some(ReflectionAsk::ListServices(_)) => ReflectionAnswer::Services(ServiceList {
                services: self
                    .services
                    .iter()
                    .map(|name| ServiceName { name: name.clone() })
                    .collect(),
            }),
            Some(ReflectionAsk::FileByName(name)) => file(Some(name), name),
            Some(ReflectionAsk::FileContaining(symbol)) => file(self.symbols.get(symbol), symbol),
            _ => error(tonic::Code::Unimplemented, "extensions are not told".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
