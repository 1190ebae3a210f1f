//! What a topic's events are.
//!
//! The first publisher says it, with the descriptors of his contract; that is kept beside the log. Whoever publishes later must write what can be read
//! under it, and whoever subscribes must be able to read what was written under it: the same full name, and the rules of the contract check that
//! touch what is read. Both hear at once what does not fit, the publisher with his publish, the subscriber when it is loaded.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use mortise_contract::{
    Contract,
    compat::{Level, check_message},
};
use mortise_events::{EventError, EventErrorKind, TopicSchema};
use mortise_manifest::{Manifest, SubscribeEntry};
use mortise_runtime::{Digest, Refusal};

use super::{contract_of, refusal};
use crate::{call, host::Shared};

/// Publications of the program that were found to fit.
#[derive(Debug, Default)]
pub(super) struct Types(Mutex<HashSet<(String, String, Digest)>>);

/// Most of them that are remembered.
const REMEMBERED_MAX: usize = 4096;

/// Whether a plugin with this contract may publish this type to a topic.
///
/// # Errors
/// `Conflict` with every field that stands in the way, `Invalid` if the contract has no such message.
pub(super) async fn of_plugin(
    shared: &Shared,
    topic: &str,
    type_name: &str,
    contract: &Contract,
) -> Result<(), EventError> {
    let Some(hash) = contract.message_wire_hash(type_name) else {
        return Err(EventError::new(
            EventErrorKind::Invalid,
            format!("the publisher's contract declares no message `{type_name}`"),
            "declare it, and build the plugin again",
        ));
    };
    let broker = &shared.events.broker;
    let known = match broker.schema(topic).await? {
        Some(known) => known,
        None => {
            of_readers(shared, topic, type_name, contract)?;
            let own = TopicSchema {
                type_name: type_name.to_owned(),
                descriptor_set: contract.descriptor_set_bytes().clone(),
            };
            broker.set_schema(topic, own).await?
        }
    };
    if known.type_name != type_name {
        return Err(EventError::new(
            EventErrorKind::Conflict,
            format!(
                "topic `{topic}` carries `{}`, and `{type_name}` was published",
                known.type_name
            ),
            "publish it to another topic",
        ));
    }
    if known.descriptor_set == *contract.descriptor_set_bytes() {
        return Ok(());
    }
    let reader = contract_of(&known)?;
    if reader.message_wire_hash(type_name) == Some(hash) {
        return Ok(());
    }
    match misfits(contract, &reader, type_name) {
        None => Ok(()),
        Some(all) => Err(EventError::new(
            EventErrorKind::Conflict,
            format!("`{type_name}` is not what topic `{topic}` carries: {all}"),
            "change the message compatibly, or publish it to another topic",
        )),
    }
}

/// The type of what the program publishes.
///
/// # Errors
/// As [`of_plugin`]; `Invalid` if nobody said what the topic's events are.
pub(super) async fn of_publication(
    shared: &Shared,
    topic: &str,
    type_name: Option<String>,
    descriptor_set: Option<Bytes>,
) -> Result<String, EventError> {
    let Some(descriptor_set) = descriptor_set else {
        let known = shared.events.broker.schema(topic).await?;
        return match (known, type_name) {
            (Some(known), Some(said)) if known.type_name != said => Err(EventError::new(
                EventErrorKind::Conflict,
                format!(
                    "topic `{topic}` carries `{}`, and `{said}` was published",
                    known.type_name
                ),
                "publish it to another topic",
            )),
            (Some(known), _) => Ok(known.type_name),
            (None, _) => Err(EventError::new(
                EventErrorKind::Invalid,
                format!("nobody said what the events of topic `{topic}` are"),
                "have a plugin publish the first one, or give its descriptors",
            )),
        };
    };
    let Some(type_name) = type_name else {
        return Err(EventError::new(
            EventErrorKind::Invalid,
            "descriptors, and no name of a message",
            "name the message that the payload is",
        ));
    };
    let key = (topic.to_owned(), type_name.clone(), Digest::of(&descriptor_set));
    let types = &shared.events.types.0;
    if types
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(&key)
    {
        return Ok(type_name);
    }
    let contract = contract_of(&TopicSchema {
        type_name: type_name.clone(),
        descriptor_set,
    })?;
    of_plugin(shared, topic, &type_name, &contract).await?;
    let mut known = types.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    known.insert(key);
    Ok(type_name)
}

/// Whether everybody who subscribes to a topic that has no type yet can read this one.
fn of_readers(shared: &Shared, topic: &str, type_name: &str, contract: &Contract) -> Result<(), EventError> {
    for address in shared.all() {
        let Ok(generation) = call::serving(&address) else {
            continue;
        };
        let entries = generation.manifest.subscribes.iter();
        for entry in entries.filter(|it| it.pattern().is_some_and(|it| it.matches(topic))) {
            let read = input(entry, &generation.contract);
            let why = match read {
                Some(read) if read == type_name => misfits(contract, &generation.contract, type_name),
                Some(read) => Some(format!("it reads `{read}`")),
                None => None,
            };
            if let Some(why) = why {
                return Err(EventError::new(
                    EventErrorKind::Conflict,
                    format!(
                        "plugin `{}` subscribes to `{}` and cannot read `{type_name}`: {why}",
                        address.name, entry.topic
                    ),
                    "publish it to another topic, or load a subscriber that can",
                ));
            }
        }
    }
    Ok(())
}

/// Why a plugin's subscriptions cannot work.
pub(crate) async fn refusals(shared: &Shared, manifest: &Manifest, contract: &Contract) -> Vec<Refusal> {
    let mut all = Vec::new();
    if manifest.subscribes.is_empty() {
        return all;
    }
    let mut readable = Vec::new();
    for entry in &manifest.subscribes {
        match input(entry, contract) {
            Some(read) => readable.push((entry, read)),
            None => all.push(refusal(
                format!(
                    "it subscribes to `{}` with `{}`, and its contract has no such method with one request and one reply",
                    entry.topic, entry.method
                ),
                "name a method of a service that it provides, without `stream`",
            )),
        }
    }
    let topics = match shared.events.broker.topics().await {
        Ok(topics) => topics,
        Err(error) => {
            tracing::warn!(target: "mortise::events", plugin = %manifest.name, %error, "whether its subscriptions fit is not known");
            return all;
        }
    };
    for topic in topics.iter().filter(|it| !it.type_name.is_empty()) {
        for (entry, read) in &readable {
            if !entry.pattern().is_some_and(|it| it.matches(&topic.topic)) {
                continue;
            }
            let why = if *read == topic.type_name {
                let schema = shared.events.broker.schema(&topic.topic).await;
                let writer = schema.ok().flatten().and_then(|it| contract_of(&it).ok());
                writer.and_then(|it| misfits(&it, contract, read))
            } else {
                Some(format!("`{}` reads `{read}`", entry.method))
            };
            if let Some(why) = why {
                all.push(refusal(
                    format!(
                        "it subscribes to `{}`, and topic `{}` carries `{}`: {why}",
                        entry.topic, topic.topic, topic.type_name
                    ),
                    "have the method take what the topic carries, or subscribe to another topic",
                ));
            }
        }
    }
    all
}

/// The message that a subscription's method takes.
fn input(entry: &SubscribeEntry, contract: &Contract) -> Option<String> {
    let (service, method) = entry.method.split_once('/')?;
    let method = contract.method(service, method)?;
    let streams = method.client_streaming() || method.server_streaming();
    (!streams).then(|| method.input().full_name().to_owned())
}

/// Why what is written under one contract cannot be read under the other.
fn misfits(writer: &Contract, reader: &Contract, message: &str) -> Option<String> {
    let violations = match check_message(writer, reader, message, Level::Wire) {
        None => return Some("one of them does not declare it".to_owned()),
        Some(violations) if violations.is_empty() => return None,
        Some(violations) => violations,
    };
    let all: Vec<_> = violations
        .iter()
        .map(|it| format!("{} {}: {} -> {}", it.rule, it.path, it.old, it.new))
        .collect();
    Some(all.join("; "))
}
