//! `mortise events`: what is published, who is behind, and what nobody could be called with.

use std::{collections::BTreeMap, fmt::Write as _};

use mortise_gateway::control::{self, Client, DeadLetter, EventEntry};
use serde_json::value::RawValue;

use crate::{
    args::{DeadTask, EventsPublish, EventsTail, EventsTask, SomeLetters},
    commands::remote::{ask, socket},
    exit::{Failure, Fault},
    output::{Output, bytes, table},
};

/// Longest question; after it, the next one is asked.
const WAIT_MS: u64 = 30_000;

pub(crate) fn events(task: EventsTask, output: &Output) -> anyhow::Result<()> {
    match task {
        EventsTask::Topics(remote) => output.answer(&ask(&remote, &control::Topics {})?, |all| {
            let row = |it: &control::Topic| {
                vec![
                    it.topic.clone(),
                    it.r#type.clone(),
                    it.events.to_string(),
                    bytes(it.bytes),
                ]
            };
            match all.as_slice() {
                [] => "no topics; a plugin that publishes makes one".to_owned(),
                all => table(
                    &["TOPIC", "TYPE", "EVENTS", "SIZE"],
                    &all.iter().map(row).collect::<Vec<_>>(),
                ),
            }
        }),
        EventsTask::Subscriptions(remote) => {
            output.answer(&ask(&remote, &control::Subscriptions {})?, |all| {
                let row = |it: &control::Subscription| {
                    vec![
                        it.name.clone(),
                        it.topic.clone(),
                        if it.active { "yes" } else { "no" }.to_owned(),
                        it.behind.to_string(),
                        it.pending.to_string(),
                        it.dead.to_string(),
                    ]
                };
                match all.as_slice() {
                    [] => "no subscriptions; `[[subscribe]]` in a plugin's manifest makes one".to_owned(),
                    all => table(
                        &["SUBSCRIPTION", "TOPIC", "ACTIVE", "BEHIND", "PENDING", "DEAD"],
                        &all.iter().map(row).collect::<Vec<_>>(),
                    ),
                }
            })
        }
        EventsTask::Tail(args) => tail(args, output),
        EventsTask::Publish(args) => publish(args, output),
        EventsTask::Dead(dead_args) => dead(dead_args.task, output),
        EventsTask::Forget(args) => {
            let subscription = args.subscription;
            let forget = control::ForgetSubscription {
                subscription: subscription.clone(),
            };
            output.answer(&ask(&args.remote, &forget)?, |_| {
                format!("`{subscription}` is forgotten; if its plugin comes again, it begins anew")
            })
        }
    }
}

fn tail(args: EventsTail, output: &Output) -> anyhow::Result<()> {
    // What is followed begins after what is there now, found or not: everything older was looked at.
    let end = match (args.follow, args.after) {
        (true, None) => {
            let newest = control::ReadEvents {
                limit: Some(1),
                ..control::ReadEvents::default()
            };
            ask(&args.remote, &newest)?.pop().map(|it| it.id)
        }
        (_, after) => after,
    };
    let first = control::ReadEvents {
        topic: args.topic.clone(),
        after: args.after,
        limit: Some(args.limit),
        wait_ms: None,
    };
    let events = ask(&args.remote, &first)?;
    if !args.follow {
        return output.answer(&events, |all| match all.as_slice() {
            [] => "no events".to_owned(),
            all => all.iter().map(line).collect::<Vec<_>>().join("\n"),
        });
    }
    let client = Client::new(socket(&args.remote)?);
    super::block_on(async {
        let (mut events, mut after) = (events, end.unwrap_or(0));
        loop {
            for event in &events {
                after = after.max(event.id);
                if !output.line(event, line)? {
                    return Ok(());
                }
            }
            let next = control::ReadEvents {
                topic: args.topic.clone(),
                after: Some(after),
                limit: None,
                wait_ms: Some(WAIT_MS),
            };
            events = client
                .ask(&next)
                .await
                .map_err(|error| Failure::of_client(&error))?;
        }
    })
}

fn publish(args: EventsPublish, output: &Output) -> anyhow::Result<()> {
    let mut headers = BTreeMap::new();
    for header in &args.header {
        let Some((name, value)) = header.split_once('=') else {
            let fault = Fault::new(format!("`{header}` is no header"));
            return Err(Failure::usage(fault.hint("write NAME=VALUE")).into());
        };
        headers.insert(name.to_owned(), value.to_owned());
    }
    let json = args.json.as_deref().unwrap_or("{}");
    let message = RawValue::from_string(json.to_owned()).map_err(|error| {
        let fault = Fault::new(format!("`--json` is no JSON: {error}"));
        Failure::usage(fault.hint("write an object, such as '{\"number\": 7}'"))
    })?;
    let publish = control::Publish {
        topic: args.topic,
        message: Some(message),
        key: args.key,
        headers,
    };
    output.answer(&ask(&args.remote, &publish)?, |it| match it.duplicate {
        false => format!("event {} is kept", it.id),
        true => format!("event {} has this key already; nothing was added", it.id),
    })
}

fn dead(task: DeadTask, output: &Output) -> anyhow::Result<()> {
    match task {
        DeadTask::List(args) => {
            let query = control::DeadLetters {
                subscription: args.subscription,
                letter: None,
                limit: Some(args.limit),
            };
            output.answer(&ask(&args.remote, &query)?, |all| {
                let row = |it: &DeadLetter| {
                    vec![
                        it.subscription.clone(),
                        it.letter.to_string(),
                        it.event.topic.clone(),
                        it.attempts.to_string(),
                        it.why.lines().next().unwrap_or_default().to_owned(),
                    ]
                };
                match all.as_slice() {
                    [] => "no dead letters".to_owned(),
                    all => table(
                        &["SUBSCRIPTION", "LETTER", "TOPIC", "ATTEMPTS", "WHY"],
                        &all.iter().map(row).collect::<Vec<_>>(),
                    ),
                }
            })
        }
        DeadTask::Show(args) => {
            let query = control::DeadLetters {
                subscription: Some(args.subscription.clone()),
                letter: Some(args.letter),
                limit: Some(1),
            };
            let found = ask(&args.remote, &query)?.pop().ok_or_else(|| {
                let fault = Fault::new(format!(
                    "`{}` has no dead letter {}",
                    args.subscription, args.letter
                ));
                Failure::new(fault.hint("`mortise events dead list` shows what there is"))
            })?;
            output.answer(&found, |it| {
                format!(
                    "{}: letter {}, {} attempts\nwhy: {}\n{}",
                    it.subscription,
                    it.letter,
                    it.attempts,
                    it.why,
                    line(&it.event)
                )
            })
        }
        DeadTask::Replay(args) => {
            let (subscription, letters) = some(&args)?;
            let done = ask(
                &args.remote,
                &control::ReplayDead {
                    subscription,
                    letters,
                },
            )?;
            output.answer(&done, |it| format!("{} are delivered again", count(it)))
        }
        DeadTask::Drop(args) => {
            let (subscription, letters) = some(&args)?;
            let done = ask(
                &args.remote,
                &control::DropDead {
                    subscription,
                    letters,
                },
            )?;
            output.answer(&done, |it| format!("{} are dropped", count(it)))
        }
    }
}

fn some(args: &SomeLetters) -> Result<(String, Vec<u64>), Failure> {
    if args.letter.is_empty() && !args.all {
        let fault = Fault::new("no dead letter is named");
        return Err(Failure::usage(fault.hint("name some, or write `--all`")));
    }
    Ok((args.subscription.clone(), args.letter.clone()))
}

fn count(it: &control::Letters) -> String {
    match it.letters.len() {
        1 => "1 dead letter".to_owned(),
        count => format!("{count} dead letters"),
    }
}

// === for people ===

fn line(it: &EventEntry) -> String {
    let mut text = format!("{}  {}  {}", it.id, it.topic, it.publisher);
    if let Some(key) = &it.key {
        let _ = write!(text, "  key {key}");
    }
    match (&it.message, &it.payload_base64) {
        (Some(message), _) => {
            let _ = write!(text, "  {message}");
        }
        (None, Some(payload)) => {
            let _ = write!(text, "  base64 {payload}");
        }
        (None, None) => {}
    }
    text
}
