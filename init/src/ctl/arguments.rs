//! The command line of `ctl`. Pure.

use crate::control::{Action, Exec, SOCKET};
use core::fmt;
use kedge_revision::Name;
use kedge_revision::container::User;
use lexopt::{Arg, Parser, ValueExt};
use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "\
Ask the device's PID 1, or tell it.

usage: ctl [--socket PATH] COMMAND

  status [--json]                       what runs, and what is missing
  logs [-f] [--since WHEN] [-n N] [--boot -B] [NAME]
                                        what a container, `kernel` or `kedge` said; from
                                        10m ago, 2026-11-30T16:50:00Z or a number on; of
                                        B boots before this one (-1), from the disk
  inspect [--json] NAME                 what a container is
  top [--json]                          what containers use and have used
  exec [-i] [-t] [--user UID[:GID]] [--workdir DIR] [--env NAME=VALUE] NAME COMMAND...
                                        run a command in a container; -i gives it input,
                                        -t a terminal. The exit code is its own
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
    Logs(Logs),
    /// Print what a container is.
    Inspect {
        /// Which.
        container: Name,
        /// As it came.
        json: bool,
    },
    /// Print what containers use.
    Top {
        /// As it came.
        json: bool,
    },
    /// Run a command in a container.
    Exec(Executed),
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

/// Which logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    /// Of whom; all if absent.
    pub source: Option<Name>,
    /// Go on with what comes.
    pub follow: bool,
    /// From then on, as the device understands it.
    pub since: Option<String>,
    /// Only so many of what is there, the last.
    pub limit: Option<u64>,
    /// Of so many boots before this one, from the disk.
    pub boot: Option<u32>,
}

impl Logs {
    /// What is asked for.
    pub(super) fn path(&self) -> String {
        let mut path = format!("/v1/logs?follow={}", u8::from(self.follow));
        if let Some(source) = &self.source {
            path.push_str("&container=");
            path.push_str(source.as_str());
        }
        if let Some(since) = &self.since {
            path.push_str("&since=");
            path.push_str(since);
        }
        if let Some(limit) = self.limit {
            path.push_str(&format!("&limit={limit}"));
        }
        path
    }
}

/// How many boots before this one, of `-2` or `0`.
fn boots_back(text: &OsString) -> Result<u32, UsageError> {
    let wrong = || UsageError::Boot(text.clone());
    let text = text.to_str().ok_or_else(wrong)?;
    let digits = if text == "0" {
        Some(text)
    } else {
        text.strip_prefix('-')
    };
    let is_number = |digits: &&str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits
        .filter(is_number)
        .and_then(|digits| digits.parse().ok());
    number.ok_or_else(wrong)
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// In which container.
    pub container: Name,
    /// What; without the size of its terminal.
    pub exec: Exec,
    /// Whether it gets a terminal.
    pub has_terminal: bool,
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
    /// A command that is to be executed needs a container and a program.
    NeedsProgram,
    /// Not a user.
    User(String),
    /// No text.
    Text(OsString),
    /// Not a boot.
    Boot(OsString),
    /// The logs of a boot from the disk, and what only those in memory know.
    BootOrSince,
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
            Self::NeedsProgram => f.write_str("exec needs a container and a program"),
            Self::User(text) => write!(f, "{text} is no UID and no UID:GID, as 1000:1000"),
            Self::Text(text) => write!(f, "{text:?} is no text"),
            Self::Boot(text) => write!(
                f,
                "{text:?} is no boot: -1 is the one before this one, 0 this one"
            ),
            Self::BootOrSince => f.write_str("--boot goes without --follow and --since"),
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
    since: Option<String>,
    limit: Option<u64>,
    boot: Option<u32>,
    has_terminal: bool,
    exec: Exec,
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
                Arg::Long("since") => words.since = Some(parser.value()?.string()?),
                Arg::Long("boot") => words.boot = Some(boots_back(&parser.value()?)?),
                Arg::Short('i') => words.exec.input = true,
                Arg::Short('t') => words.has_terminal = true,
                Arg::Long("user") => words.exec.user = Some(user(parser.value()?.string()?)?),
                Arg::Long("workdir") => {
                    words.exec.working_directory = Some(parser.value()?.string()?);
                }
                Arg::Long("env") => words.exec.environment.push(parser.value()?.string()?),
                Arg::Long("limit") | Arg::Short('n') => {
                    words.limit = Some(parser.value()?.parse()?);
                }
                Arg::Value(text) if words.command.is_none() => {
                    words.command = Some(text.string()?);
                }
                Arg::Value(text) if words.operand.is_none() => {
                    words.operand = Some(text);
                    if words.command.as_deref() == Some("exec") {
                        // The rest is the command's own, options too.
                        for argument in parser.raw_args()? {
                            let text = argument.into_string().map_err(UsageError::Text)?;
                            words.exec.arguments.push(text);
                        }
                    }
                }
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
        let takes = [
            "logs", "start", "stop", "restart", "apply", "inspect", "exec",
        ];
        if self.operand.is_some() && !takes.contains(&command) {
            return Err(UsageError::TooMuch);
        }
        match command {
            "help" => Ok(Ask::Help),
            "status" => Ok(Ask::Status { json: self.json }),
            "logs" if self.boot.is_some() && (self.follow || self.since.is_some()) => {
                Err(UsageError::BootOrSince)
            }
            "logs" => Ok(Ask::Logs(Logs {
                source: self.name()?,
                follow: self.follow,
                since: self.since.clone(),
                limit: self.limit,
                boot: self.boot,
            })),
            "inspect" => Ok(Ask::Inspect {
                container: self.name()?.ok_or(UsageError::NeedsName)?,
                json: self.json,
            }),
            "top" => Ok(Ask::Top { json: self.json }),
            "exec" if self.exec.arguments.is_empty() => Err(UsageError::NeedsProgram),
            "exec" => Ok(Ask::Exec(Executed {
                container: self.name()?.ok_or(UsageError::NeedsProgram)?,
                exec: self.exec.clone(),
                has_terminal: self.has_terminal,
            })),
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

/// `UID` or `UID:GID`; names are known to images alone, and nothing here reads those.
fn user(text: String) -> Result<User, UsageError> {
    let (uid, gid) = text.split_once(':').unwrap_or((&text, "0"));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok(User {
            uid,
            gid,
            groups: Vec::new(),
        }),
        _ => Err(UsageError::User(text)),
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
        let Ask::Logs(logs) = arguments.ask else {
            panic!("logs are asked for")
        };
        let path = "/v1/logs?follow=1&container=web&since=7&limit=3";
        assert_eq!(logs.path(), path);
        let of_boot = |line| {
            let Ask::Logs(logs) = parse(line).unwrap().ask else {
                panic!("logs are asked for")
            };
            logs.boot
        };
        assert_eq!(of_boot("logs --boot -1 web"), Some(1));
        assert_eq!(of_boot("logs -n 3 --boot 0"), Some(0));
        assert_eq!(of_boot("logs"), None);
        let arguments = parse("status --json").unwrap();
        assert_eq!(arguments.socket, PathBuf::from(SOCKET));
        assert_eq!(arguments.ask, Ask::Status { json: true });
        assert_eq!(parse("start --help").unwrap().ask, Ask::Help);
        let file = PathBuf::from("/media/x.kedge");
        let arguments = parse("apply /media/x.kedge").unwrap();
        assert_eq!(arguments.ask, Ask::Apply { file });
        assert_eq!(parse("history").unwrap().ask, Ask::History);
        assert_eq!(parse("top").unwrap().ask, Ask::Top { json: false });
    }

    #[test]
    fn what_is_executed_has_options_of_its_own() {
        let line = "exec -it --user 1000:7 --workdir /srv --env A=b web ls -l --user x -- -t";
        let Ask::Exec(executed) = parse(line).unwrap().ask else {
            panic!("it is executed")
        };
        assert_eq!(executed.container.as_str(), "web");
        assert!(executed.has_terminal && executed.exec.input);
        let arguments = ["ls", "-l", "--user", "x", "--", "-t"];
        assert_eq!(executed.exec.arguments, arguments);
        assert_eq!(executed.exec.environment, ["A=b"]);
        assert_eq!(executed.exec.working_directory.as_deref(), Some("/srv"));
        let user = User {
            uid: 1000,
            gid: 7,
            groups: Vec::new(),
        };
        assert_eq!(executed.exec.user, Some(user));
    }

    #[test]
    fn what_is_not() {
        for bad in [
            "",
            "fly",
            "start",
            "start A/b",
            "logs --since",
            "logs --boot",
            "logs --boot 1",
            "logs --boot --1",
            "logs --boot -x",
            "logs --boot -1 -f",
            "logs --boot -1 --since 10m",
            "exec",
            "exec web",
            "exec --user root web id",
            "exec --user 70000 web id",
            "inspect",
            "top web",
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
