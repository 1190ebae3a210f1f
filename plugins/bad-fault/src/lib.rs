//! The ways in which a plugin misbehaves in tests: one enum for the guest that does it and the test that looks on.
//!
//! This crate refuses to have dependencies: `bad-guest` speaks every ABI by hand, and this is half of it.
//!
//! A fault is chosen in one of three places:
//! - by the plugin's configuration, `{"fault": "answers-twice"}`, which a guest sees when it is started;
//! - in the artifact itself, where it must strike before that: [`MARKER_PREFIX`] stands in it once, followed by the fault's name;
//! - by damaging the artifact, where no code of the guest is to run at all.
//!
//! The last two are `mortise_conformance::bad`'s business.
#![forbid(unsafe_code)]

/// What stands in front of the fault's name in an artifact of `bad-guest`.
pub const MARKER_PREFIX: &[u8] = b"MORTISE-BAD-FAULT:";
/// Length of the marker, zeros at its end included.
pub const MARKER_BYTES: usize = 64;

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// None: gives back what it gets, and is the control in every test.
    None,
    /// Ends before it says a word; as a library or a module, fails to start.
    ExitsAtOnce,
    /// Was built for an ABI, or speaks a version of the lane, that no host knows.
    WrongAbi,
    /// Was built for another processor.
    WrongArchitecture,
    /// Ends in the middle of the file.
    Truncated,
    /// Is a text.
    NotAPlugin,
    /// Is a sound library, executable or module without metadata.
    NoMetadata,
    /// Says another version in its metadata than in plugin.toml beside it.
    LiesToItsFolder,
    /// Says another version once it runs than in its metadata.
    LiesWhenItRuns,
    /// Writes [`FLOOD_LINES`] long lines of log in every call, and then answers.
    FloodsItsLog,
    /// Takes a call and does not answer; a module loops.
    NeverAnswers,
    /// Answers each call twice.
    AnswersTwice,
    /// Answers a call that nobody made, and then the right one.
    AnswersAnotherCall,
    /// Answers with a message of another type.
    AnswersWithTheWrongType,
    /// Announces a frame of 4 GiB instead of an answer.
    AnnouncesAHugeFrame,
    /// Ends in the middle of a call; a module traps.
    ExitsInACall,
}

/// Lines that [`Fault::FloodsItsLog`] writes per call.
pub const FLOOD_LINES: usize = 20_000;
/// Bytes of each of these lines.
pub const FLOOD_LINE_BYTES: usize = 512;
/// What [`Fault::AnswersWithTheWrongType`] answers: field 1 is a number, and the contract says text.
pub const WRONG_TYPE: &[u8] = &[0x08, 0x2a];
/// Code of a process that ends by [`Fault::ExitsAtOnce`] or [`Fault::ExitsInACall`].
pub const EXIT_CODE: i32 = 3;

/// When a host can notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strikes {
    /// Never.
    Never,
    /// Before it runs anything: the file is wrong.
    Check,
    /// When it starts it.
    Start,
    /// When it is called.
    Call,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::None,
        Self::ExitsAtOnce,
        Self::WrongAbi,
        Self::WrongArchitecture,
        Self::Truncated,
        Self::NotAPlugin,
        Self::NoMetadata,
        Self::LiesToItsFolder,
        Self::LiesWhenItRuns,
        Self::FloodsItsLog,
        Self::NeverAnswers,
        Self::AnswersTwice,
        Self::AnswersAnotherCall,
        Self::AnswersWithTheWrongType,
        Self::AnnouncesAHugeFrame,
        Self::ExitsInACall,
    ];

    /// Its name in a configuration and in a marker.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ExitsAtOnce => "exits-at-once",
            Self::WrongAbi => "wrong-abi",
            Self::WrongArchitecture => "wrong-architecture",
            Self::Truncated => "truncated",
            Self::NotAPlugin => "not-a-plugin",
            Self::NoMetadata => "no-metadata",
            Self::LiesToItsFolder => "lies-to-its-folder",
            Self::LiesWhenItRuns => "lies-when-it-runs",
            Self::FloodsItsLog => "floods-its-log",
            Self::NeverAnswers => "never-answers",
            Self::AnswersTwice => "answers-twice",
            Self::AnswersAnotherCall => "answers-another-call",
            Self::AnswersWithTheWrongType => "answers-with-the-wrong-type",
            Self::AnnouncesAHugeFrame => "announces-a-huge-frame",
            Self::ExitsInACall => "exits-in-a-call",
        }
    }

    /// When a host can notice it.
    #[must_use]
    pub fn strikes(self) -> Strikes {
        match self {
            Self::None => Strikes::Never,
            Self::WrongArchitecture
            | Self::Truncated
            | Self::NotAPlugin
            | Self::NoMetadata
            | Self::LiesToItsFolder => Strikes::Check,
            Self::ExitsAtOnce | Self::WrongAbi | Self::LiesWhenItRuns => Strikes::Start,
            Self::FloodsItsLog
            | Self::NeverAnswers
            | Self::AnswersTwice
            | Self::AnswersAnotherCall
            | Self::AnswersWithTheWrongType
            | Self::AnnouncesAHugeFrame
            | Self::ExitsInACall => Strikes::Call,
        }
    }

    /// Whether a plugin of this runtime (`native`, `wasm`, `process`) can misbehave so. A module returns once per call and has neither
    /// entry struct nor processor; a library has no frames, and if it ends, so does the host: that is what SECURITY.md says about `native`.
    #[must_use]
    pub fn exists_on(self, runtime: &str) -> bool {
        match self {
            Self::None
            | Self::ExitsAtOnce
            | Self::Truncated
            | Self::NotAPlugin
            | Self::NoMetadata
            | Self::LiesToItsFolder
            | Self::FloodsItsLog
            | Self::NeverAnswers
            | Self::AnswersWithTheWrongType => true,
            Self::WrongAbi | Self::WrongArchitecture | Self::LiesWhenItRuns | Self::AnswersTwice => {
                runtime != "wasm"
            }
            Self::ExitsInACall => runtime != "native",
            Self::AnswersAnotherCall | Self::AnnouncesAHugeFrame => runtime == "process",
        }
    }

    /// The plugin's configuration that chooses this fault.
    #[must_use]
    pub fn config_json(self) -> String {
        format!("{{\"fault\":\"{}\"}}", self.name())
    }

    /// The fault that a configuration names, if it names one.
    #[must_use]
    pub fn from_config(json: &str) -> Option<Self> {
        let value = json
            .split_once("\"fault\"")?
            .1
            .trim_start()
            .strip_prefix(':')?
            .trim_start();
        Self::from_name(value.strip_prefix('"')?.split_once('"')?.0)
    }

    /// The fault that a marker names.
    #[must_use]
    pub fn from_marker(marker: &[u8; MARKER_BYTES]) -> Self {
        let name = &marker[MARKER_PREFIX.len()..];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        str::from_utf8(&name[..end])
            .ok()
            .and_then(Self::from_name)
            .unwrap_or(Self::None)
    }

    /// The marker that names this fault.
    #[must_use]
    pub const fn marker(name: &str) -> [u8; MARKER_BYTES] {
        let mut marker = [0; MARKER_BYTES];
        let mut at = 0;
        while at < MARKER_PREFIX.len() {
            marker[at] = MARKER_PREFIX[at];
            at += 1;
        }
        while at < MARKER_PREFIX.len() + name.len() {
            marker[at] = name.as_bytes()[at - MARKER_PREFIX.len()];
            at += 1;
        }
        marker
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_survives_configuration_and_marker() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_config(&fault.config_json()), Some(fault));
            assert_eq!(Fault::from_marker(&Fault::marker(fault.name())), fault);
            assert!(
                ["native", "wasm", "process"].iter().any(|it| fault.exists_on(it)),
                "{fault:?} exists nowhere"
            );
        }
        assert_eq!(
            Fault::from_config(r#"{ "x": 1, "fault" : "answers-twice" }"#),
            Some(Fault::AnswersTwice)
        );
        assert_eq!(Fault::from_config("{}"), None);
        assert_eq!(Fault::from_config(r#"{"fault":"unheard-of"}"#), None);
    }
}
