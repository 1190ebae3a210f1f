//! Exit codes and the failures behind them.

use std::process::ExitCode;

use mortise_gateway::{RpcError, control::ClientError};
use serde::Serialize;

/// How the command ends. The table in `mortise --help` is made from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    Unreachable,
    Returned,
}

impl Exit {
    pub(crate) const ALL: [Self; 5] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::Returned,
    ];

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            // clap's own.
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Returned => 4,
        }
    }

    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "refused or failed",
            Self::Usage => "the command line is wrong",
            Self::Unreachable => "no host can be reached",
            Self::Returned => "the plugin was called and answered with an error of its own",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Fault {
    /// What failed and why.
    pub(crate) message: String,
    /// `file:line:column`, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<String>,
    /// The line of the file with a mark under the fault, if there is one.
    #[serde(skip)]
    pub(crate) excerpt: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }

    pub(crate) fn at(mut self, place: impl std::fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<&mortise::manifest::Diagnostic> for Fault {
    fn from(it: &mortise::manifest::Diagnostic) -> Self {
        // The text form has the excerpt, which has no accessor: it stands between the place and the hint.
        let text = it.to_string();
        let excerpt = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with("hint: "))
            .collect::<Vec<_>>()
            .join("\n");
        Self {
            message: it.message.clone(),
            place: Some(format!("{}:{}:{}", it.file, it.line, it.column)),
            excerpt: Some(excerpt).filter(|it| !it.is_empty()),
            hint: it.hint.clone(),
        }
    }
}

/// Why a command failed: one fault or many.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// A word for programs.
    pub(crate) kind: String,
    /// The same call may be tried again: it may succeed and does no harm.
    pub(crate) retryable: bool,
    pub(crate) faults: Vec<Fault>,
}

impl Failure {
    pub(crate) fn new(fault: Fault) -> Self {
        Self::many(vec![fault])
    }

    pub(crate) fn many(faults: Vec<Fault>) -> Self {
        Self {
            exit: Exit::Failed,
            kind: "failed".to_owned(),
            retryable: false,
            faults,
        }
    }

    pub(crate) fn usage(fault: Fault) -> Self {
        Self {
            exit: Exit::Usage,
            kind: "usage".to_owned(),
            retryable: false,
            faults: vec![fault],
        }
    }

    pub(crate) fn of_diagnostics(all: &mortise::manifest::Diagnostics) -> Self {
        Self {
            kind: "malformed".to_owned(),
            ..Self::many(all.iter().map(Fault::from).collect())
        }
    }

    /// An error that is one of these underneath, or of something else.
    pub(crate) fn of_any(error: anyhow::Error) -> Self {
        error
            .downcast()
            .unwrap_or_else(|error| Self::new(Fault::new(format!("{error:#}"))))
    }

    /// What a host or a plugin answered.
    pub(crate) fn of_rpc(error: &RpcError) -> Self {
        let exit = if error.kind() == "returned" {
            Exit::Returned
        } else {
            Exit::Failed
        };
        let mut faults: Vec<Fault> = error
            .reasons()
            .into_iter()
            .map(|it| Fault::new(format!("{}: {}", it.what, it.why)).hint(it.hint))
            .collect();
        if faults.is_empty() {
            faults.push(Fault {
                message: error.message.clone(),
                hint: error.hint().map(str::to_owned),
                ..Fault::default()
            });
        }
        Self {
            exit,
            kind: error.kind().to_owned(),
            retryable: error.data.as_ref().is_some_and(|it| it.retryable),
            faults,
        }
    }

    pub(crate) fn of_host(error: &mortise::HostError) -> Self {
        Self::of_rpc(&RpcError::from(error))
    }

    pub(crate) fn of_client(error: &ClientError) -> Self {
        let fault = Fault::new(error.to_string());
        match error {
            ClientError::Refused(error) => Self::of_rpc(error),
            ClientError::Unreachable { path, source } => {
                let hint = match source.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        "the control socket is for root and the host's own user; run the command as one of them".to_owned()
                    }
                    _ => format!(
                        "start one with `mortise serve`, or name its socket with `--socket` (tried {})",
                        path.display()
                    ),
                };
                let fault = Fault::new(format!("{error}: {source}")).hint(hint);
                Self {
                    exit: Exit::Unreachable,
                    kind: "unreachable".to_owned(),
                    retryable: false,
                    faults: vec![fault],
                }
            }
            ClientError::Broken { .. } => Self {
                exit: Exit::Unreachable,
                kind: "broken".to_owned(),
                retryable: false,
                faults: vec![
                    fault.hint("check that the socket belongs to a host of this version: `mortise doctor`"),
                ],
            },
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let messages: Vec<_> = self.faults.iter().map(|it| it.message.as_str()).collect();
        f.write_str(&messages.join("; "))
    }
}

impl std::error::Error for Failure {}
