//! Dead letters: a stream of their own, whose messages hold the whole event.

use std::time::Duration;

use async_nats::jetstream::{message::PublishMessage, stream::LastRawMessageErrorKind};
use mortise_events::{DeadLetter, DeadQuery, Event, EventError};

use crate::{
    log::Log,
    words::{self, ATTEMPTS, Kept, ONLY, TOPIC, WHY, consumer_name, failed, subscription_name},
};

/// Letters that are looked at, at once, where all are meant.
const PAGE: usize = 64;
/// Characters that are kept of what the last attempt said.
const WHY_CHARS_MAX: usize = 4096;

impl Log {
    /// Keeps a letter. The same event of the same subscription twice within moments is one letter.
    ///
    /// # Errors
    /// `Unavailable`, `Storage`.
    pub(crate) async fn bury(
        &self,
        subscription: &str,
        place: u64,
        event: &Event,
        attempts: u32,
        why: &str,
    ) -> Result<(), EventError> {
        let consumer = consumer_name(subscription);
        let mut headers = words::headers_again(event);
        headers.insert(TOPIC, words::line(&event.content.topic));
        // A header is part of the message, which has a largest size.
        let why: String = why.chars().take(WHY_CHARS_MAX).collect();
        headers.insert(WHY, words::line(&why));
        headers.insert(ATTEMPTS, attempts.to_string());
        let letter = PublishMessage::build()
            .payload(event.content.payload.clone())
            .headers(headers)
            // Its place in the log, which for a replayed event is another one.
            .message_id(format!("{consumer}/{place}"));
        self.send(self.dead_subject(&consumer), letter).await.map(drop)
    }

    /// Letters that a query means, oldest first.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) async fn letters(&self, query: &DeadQuery) -> Result<Vec<DeadLetter>, EventError> {
        let consumer = query.subscription.as_deref().map(consumer_name);
        let limit = query.limit as usize;
        let kept = match query.seq {
            Some(_) if limit == 0 => Vec::new(),
            Some(letter) => Vec::from_iter(self.letter(letter).await?),
            None => {
                let filter = self.dead_subject(consumer.as_deref().unwrap_or("*"));
                self.fetch(&self.dead, filter, 1, limit, Duration::ZERO).await?
            }
        };
        let of_it = |it: &&Kept| {
            consumer
                .as_deref()
                .is_none_or(|consumer| self.topic_of(&it.subject) == consumer)
        };
        Ok(kept.iter().filter(of_it).map(|it| self.read_letter(it)).collect())
    }

    /// Has letters delivered again; none named: all of the subscription. Returns those that were there.
    ///
    /// # Errors
    /// `Full`, `Unavailable`; what was replayed until then is.
    pub(crate) async fn replay(&self, subscription: &str, letters: &[u64]) -> Result<Vec<u64>, EventError> {
        let mut done = Vec::new();
        for letter in self.named(subscription, letters).await? {
            let Some(kept) = self.own_letter(subscription, letter).await? else {
                continue;
            };
            let event = self.read_letter(&kept).event;
            let mut headers = words::headers_again(&event);
            headers.insert(ONLY, words::line(subscription));
            let again = PublishMessage::build()
                .payload(event.content.payload.clone())
                .headers(headers);
            self.append(&event.content.topic, again).await?;
            self.drop_letter(letter).await?;
            done.push(letter);
        }
        Ok(done)
    }

    /// Drops letters; none named: all of the subscription. Returns those that were there.
    ///
    /// # Errors
    /// `Unavailable`; what was dropped until then is.
    pub(crate) async fn drop_letters(
        &self,
        subscription: &str,
        letters: &[u64],
    ) -> Result<Vec<u64>, EventError> {
        let mut done = Vec::new();
        for letter in self.named(subscription, letters).await? {
            if self.own_letter(subscription, letter).await?.is_some() {
                self.drop_letter(letter).await?;
                done.push(letter);
            }
        }
        Ok(done)
    }

    /// Those that are named, or the numbers of all.
    async fn named(&self, subscription: &str, letters: &[u64]) -> Result<Vec<u64>, EventError> {
        if !letters.is_empty() {
            return Ok(letters.to_vec());
        }
        let filter = self.dead_subject(&consumer_name(subscription));
        let mut all: Vec<u64> = Vec::new();
        loop {
            let from = all.last().map_or(1, |it| it + 1);
            let page = self
                .fetch(&self.dead, filter.clone(), from, PAGE, Duration::ZERO)
                .await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page.iter().map(|it| it.seq));
        }
    }

    async fn letter(&self, letter: u64) -> Result<Option<Kept>, EventError> {
        match self.dead.get_raw_message(letter).await {
            Ok(message) => Ok(Some(Kept::of_stream(message))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed("read a dead letter", &error)),
        }
    }

    /// A letter, if it is this subscription's.
    async fn own_letter(&self, subscription: &str, letter: u64) -> Result<Option<Kept>, EventError> {
        let found = self.letter(letter).await?;
        Ok(found.filter(|it| self.topic_of(&it.subject) == consumer_name(subscription)))
    }

    async fn drop_letter(&self, letter: u64) -> Result<(), EventError> {
        let dropped = self.dead.delete_message(letter).await;
        dropped
            .map(drop)
            .map_err(|error| failed("drop a dead letter", &error))
    }

    fn read_letter(&self, kept: &Kept) -> DeadLetter {
        DeadLetter {
            subscription: subscription_name(self.topic_of(&kept.subject)),
            letter: kept.seq,
            event: kept.event(kept.header(TOPIC).unwrap_or_default()),
            attempts: kept.number(ATTEMPTS).unwrap_or(0),
            at_unix_ms: kept.at_ms(),
            why: kept.header(WHY).unwrap_or_default(),
        }
    }
}
