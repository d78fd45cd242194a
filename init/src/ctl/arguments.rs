//! The command line of `ctl`. Pure.

use crate::control::{Action, SOCKET};
use core::fmt;
use kedge_revision::Name;
use lexopt::{Arg, Parser, ValueExt};
use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "\
Ask the device's PID 1, or tell it.

usage: ctl [--socket PATH] COMMAND

  status [--json]                       what runs, and what is missing
  logs [-f] [--since SEQ] [-n N] [NAME] what a container, `kernel` or `kedge` said
  start NAME                            start a container
  stop NAME                             stop it until it is started or the device boots
  restart NAME                          stop and start it
  apply FILE                            try the revision in a bundle (.kedge)
  rollback                              end the trial that is running
  history                               what was tried, kept and given up, as JSON lines
  reboot                                restart the device in order
  poweroff                              end it in order

  --socket PATH    default /run/kedge/control.sock
";

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// Where to connect.
    pub socket: PathBuf,
    /// What to do.
    pub ask: Ask,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Print [`USAGE`].
    Help,
    /// Print the status.
    Status {
        /// As it came.
        json: bool,
    },
    /// Print logs.
    Logs {
        /// Of whom; all if absent.
        source: Option<Name>,
        /// Go on with what comes.
        follow: bool,
        /// From this sequence number on.
        since: Option<u64>,
        /// Only so many of what is there, the last.
        limit: Option<u64>,
    },
    /// Do something with a container.
    Container {
        /// Which.
        name: Name,
        /// What.
        action: Action,
    },
    /// Try a bundle's revision.
    Apply {
        /// The bundle.
        file: PathBuf,
    },
    /// End the trial that is running.
    Rollback,
    /// Print what was tried.
    History,
    /// Restart the device.
    Reboot,
    /// Switch the device off.
    PowerOff,
}

/// A command line that cannot be understood.
#[derive(Debug)]
pub enum UsageError {
    /// An option is unknown, lacks its value, or has one that is no number.
    Option(lexopt::Error),
    /// No command.
    Missing,
    /// Not a command.
    Command(String),
    /// The command needs the name of a container.
    NeedsName,
    /// Not a name.
    Name(OsString),
    /// The command needs a file.
    NeedsFile,
    /// The command takes nothing behind it.
    TooMuch,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(error) => error.fmt(f),
            Self::Missing => f.write_str("no command"),
            Self::Command(text) => write!(f, "no such command: {text}"),
            Self::NeedsName => f.write_str("the command needs the name of a container"),
            Self::Name(text) => write!(f, "{text:?} is no name of a container"),
            Self::NeedsFile => f.write_str("the command needs a file"),
            Self::TooMuch => f.write_str("the command takes nothing behind it"),
        }
    }
}

impl core::error::Error for UsageError {}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self::Option(error)
    }
}

/// All options and words, before they are given a meaning.
#[derive(Default)]
struct Words {
    socket: Option<PathBuf>,
    json: bool,
    follow: bool,
    since: Option<u64>,
    limit: Option<u64>,
    help: bool,
    command: Option<String>,
    /// What stands behind the command: a name or a file.
    operand: Option<OsString>,
}

impl Arguments {
    /// Parses the arguments behind the program's name.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let words = Words::read(Parser::from_args(arguments))?;
        let ask = words.ask()?;
        let socket = words.socket.unwrap_or_else(|| PathBuf::from(SOCKET));
        Ok(Self { socket, ask })
    }
}

impl Words {
    fn read(mut parser: Parser) -> Result<Self, UsageError> {
        let mut words = Self::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("help") | Arg::Short('h') => words.help = true,
                Arg::Long("socket") => words.socket = Some(parser.value()?.into()),
                Arg::Long("json") => words.json = true,
                Arg::Long("follow") | Arg::Short('f') => words.follow = true,
                Arg::Long("since") => words.since = Some(parser.value()?.parse()?),
                Arg::Long("limit") | Arg::Short('n') => {
                    words.limit = Some(parser.value()?.parse()?);
                }
                Arg::Value(text) if words.command.is_none() => {
                    words.command = Some(text.string()?);
                }
                Arg::Value(text) if words.operand.is_none() => words.operand = Some(text),
                Arg::Value(_) | Arg::Long(_) | Arg::Short(_) => {
                    return Err(argument.unexpected().into());
                }
            }
        }
        Ok(words)
    }

    fn ask(&self) -> Result<Ask, UsageError> {
        if self.help {
            return Ok(Ask::Help);
        }
        let command = self.command.as_deref().ok_or(UsageError::Missing)?;
        let container = |action| {
            let name = self.name()?.ok_or(UsageError::NeedsName)?;
            Ok(Ask::Container { name, action })
        };
        let takes = ["logs", "start", "stop", "restart", "apply"];
        if self.operand.is_some() && !takes.contains(&command) {
            return Err(UsageError::TooMuch);
        }
        match command {
            "help" => Ok(Ask::Help),
            "status" => Ok(Ask::Status { json: self.json }),
            "logs" => Ok(Ask::Logs {
                source: self.name()?,
                follow: self.follow,
                since: self.since,
                limit: self.limit,
            }),
            "apply" => Ok(Ask::Apply {
                file: self.operand.clone().ok_or(UsageError::NeedsFile)?.into(),
            }),
            "rollback" => Ok(Ask::Rollback),
            "history" => Ok(Ask::History),
            "start" => container(Action::Start),
            "stop" => container(Action::Stop),
            "restart" => container(Action::Restart),
            "reboot" => Ok(Ask::Reboot),
            "poweroff" => Ok(Ask::PowerOff),
            other => Err(UsageError::Command(other.to_owned())),
        }
    }

    fn name(&self) -> Result<Option<Name>, UsageError> {
        let Some(text) = &self.operand else {
            return Ok(None);
        };
        let name = text.to_str().and_then(|text| text.parse().ok());
        name.map(Some).ok_or_else(|| UsageError::Name(text.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, UsageError> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_is_understood() {
        let arguments = parse("logs -f web --since 7 -n 3 --socket /tmp/x").unwrap();
        assert_eq!(arguments.socket, PathBuf::from("/tmp/x"));
        assert_eq!(
            arguments.ask,
            Ask::Logs {
                source: Some("web".parse().unwrap()),
                follow: true,
                since: Some(7),
                limit: Some(3),
            }
        );
        let arguments = parse("status --json").unwrap();
        assert_eq!(arguments.socket, PathBuf::from(SOCKET));
        assert_eq!(arguments.ask, Ask::Status { json: true });
        assert_eq!(parse("start --help").unwrap().ask, Ask::Help);
        let file = PathBuf::from("/media/x.kedge");
        let arguments = parse("apply /media/x.kedge").unwrap();
        assert_eq!(arguments.ask, Ask::Apply { file });
        assert_eq!(parse("history").unwrap().ask, Ask::History);
    }

    #[test]
    fn what_is_not() {
        for bad in [
            "",
            "fly",
            "start",
            "start A/b",
            "logs --since x",
            "status a b",
            "status a",
            "apply",
            "rollback x",
            "--colour",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
