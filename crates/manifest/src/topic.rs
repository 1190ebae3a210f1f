//! Topics of events, and patterns over them.
//!
//! A topic is 1 to 16 words with dots between them: `orders.eu.placed`. In a pattern the word `*` stands for any one word, and `>` at the end for
//! one word or more. It is the language of NATS subjects, so that a pattern means the same wherever events are kept.

use std::{fmt, str::FromStr};

use crate::{
    name::clip,
    reader::{Faults, Text},
};

/// Most bytes of a topic or a pattern.
const TOPIC_BYTES_MAX: usize = 200;
/// Most words of a topic or a pattern.
const WORDS_MAX: usize = 16;

/// Which topics are meant. The order is that of its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPattern(String);

/// Why a text is no topic, or no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: {why}")]
pub struct TopicError {
    text: String,
    what: &'static str,
    why: String,
}

impl TopicError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "write words of letters, digits, `-` and `_` with dots between them, such as `orders.eu.placed`; in a pattern `*` is any one word, and `>` at \
         the end all that follow"
    }
}

/// Accepts a topic: something to publish to, without `*` and `>`.
///
/// # Errors
/// What is wrong with it.
pub fn check_topic(text: &str) -> Result<(), TopicError> {
    check(text, "a topic", |word, _| is_word(word))
}

impl TopicPattern {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it means this topic.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.covers_words(topic)
    }

    /// Whether it means every topic that `other` means.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.covers_words(&other.0)
    }

    /// Whether it is one topic.
    #[must_use]
    pub fn is_topic(&self) -> bool {
        !self.0.split('.').any(|word| matches!(word, "*" | ">"))
    }

    /// `other` is a topic or a pattern: to a pattern, `*` and `>` of another one are words like any other, but that `*` does not cover `>`.
    fn covers_words(&self, other: &str) -> bool {
        let mut others = other.split('.');
        for word in self.0.split('.') {
            match (word, others.next()) {
                (">", Some(_)) => return true,
                ("*", Some(other)) if other != ">" => {}
                (word, Some(other)) if word == other => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }
}

impl FromStr for TopicPattern {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check(text, "a pattern of topics", |word, is_last| {
            is_word(word) || word == "*" || (word == ">" && is_last)
        })?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether one of `patterns` covers `asked`. Text that does not parse covers nothing, and is covered by nothing.
pub(crate) fn covered(patterns: &[String], asked: &str) -> bool {
    let Ok(asked) = asked.parse::<TopicPattern>() else {
        return false;
    };
    patterns
        .iter()
        .filter_map(|own| own.parse::<TopicPattern>().ok())
        .any(|own| own.covers(&asked))
}

/// Reports what is no pattern.
pub(crate) fn check_pattern(text: &Text<'_>, faults: &mut Faults) {
    if let Err(error) = text.value.parse::<TopicPattern>() {
        let hint = error.hint().to_owned();
        faults.add(text.span.clone(), error.to_string(), Some(hint));
    }
}

fn check(text: &str, what: &'static str, is_good: impl Fn(&str, bool) -> bool) -> Result<(), TopicError> {
    let words: Vec<&str> = text.split('.').collect();
    let bad = words
        .iter()
        .enumerate()
        .find(|(at, word)| !is_good(word, at + 1 == words.len()));
    let why = if text.len() > TOPIC_BYTES_MAX {
        format!("it has {} bytes, and the most are {TOPIC_BYTES_MAX}", text.len())
    } else if words.len() > WORDS_MAX {
        format!("it has {} words, and the most are {WORDS_MAX}", words.len())
    } else if let Some((_, word)) = bad {
        match *word {
            "" => "a word of it is empty".to_owned(),
            ">" => "`>` stands at the end of a pattern only".to_owned(),
            word => format!("`{}` is not one of its words", clip(word)),
        }
    } else {
        return Ok(());
    };
    Err(TopicError {
        text: clip(text),
        what,
        why,
    })
}

fn is_word(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        text.parse().expect("a pattern")
    }

    #[test]
    fn a_pattern_means_what_a_nats_subject_means() {
        for (text, topic, expected) in [
            ("orders.placed", "orders.placed", true),
            ("orders.placed", "orders.placed.eu", false),
            ("orders.*", "orders.placed", true),
            ("orders.*", "orders", false),
            ("orders.*", "orders.eu.placed", false),
            ("orders.>", "orders.eu.placed", true),
            ("orders.>", "orders", false),
            ("*.placed", "orders.placed", true),
            (">", "orders", true),
        ] {
            assert_eq!(pattern(text).matches(topic), expected, "{text} and {topic}");
        }
    }

    #[test]
    fn a_pattern_covers_what_means_no_more() {
        for (wide, narrow, expected) in [
            ("orders.>", "orders.*", true),
            ("orders.*", "orders.>", false),
            ("orders.*", "orders.*", true),
            ("orders.placed", "orders.*", false),
            ("*.*", "orders.placed", true),
            (">", ">", true),
            ("orders.>", "orders.eu.>", true),
        ] {
            assert_eq!(
                pattern(wide).covers(&pattern(narrow)),
                expected,
                "{wide} and {narrow}"
            );
        }
    }

    #[test]
    fn what_is_no_topic_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "a word of it is empty"),
            ("a..b", "a word of it is empty"),
            ("a.*", "`*` is not one of its words"),
            ("a b", "`a b` is not one of its words"),
        ] {
            let error = check_topic(text).expect_err(text);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(check_topic(&["a"; 17].join(".")).is_err());
        assert!("a.>.b".parse::<TopicPattern>().is_err());
        assert_eq!(check_topic("orders.eu-1.placed_late"), Ok(()));
    }
}
