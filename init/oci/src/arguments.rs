//! The command line, in the shape that podman, containerd and people know from runc.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use lexopt::{Arg, Parser, ValueExt};

use crate::{create, exec, state};

/// What stands before the command.
#[derive(Debug, Clone)]
pub(crate) struct Global {
    /// Where containers are known.
    pub(crate) root: PathBuf,
    /// Where errors are written beside standard error.
    pub(crate) log: Option<PathBuf>,
    /// Whether they are written there as JSON.
    pub(crate) log_json: bool,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Create(create::Options),
    Run {
        create: create::Options,
        detach: bool,
        keep: bool,
    },
    Start {
        id: String,
    },
    State {
        id: String,
    },
    Kill {
        id: String,
        signal: String,
        all: bool,
    },
    Delete {
        id: String,
        force: bool,
    },
    Exec(exec::Options),
    Ps {
        id: String,
        json: bool,
        arguments: Vec<String>,
    },
    Pause {
        id: String,
    },
    Resume {
        id: String,
    },
    Update {
        id: String,
        /// A document of `linux.resources`; `-`: standard input.
        resources: Option<String>,
        /// Words of the command line, as members of that document.
        words: Vec<(&'static str, String)>,
    },
    List {
        json: bool,
        quiet: bool,
    },
    Features,
    Spec {
        bundle: PathBuf,
    },
    Version,
    Help(Option<String>),
}

/// Words of `update`, and the members of the document that they stand for.
const UPDATES: [(&str, &str); 12] = [
    ("memory", "memory.limit"),
    ("memory-reservation", "memory.reservation"),
    ("memory-swap", "memory.swap"),
    ("cpu-share", "cpu.shares"),
    ("cpu-quota", "cpu.quota"),
    ("cpu-period", "cpu.period"),
    ("cpu-burst", "cpu.burst"),
    ("cpu-idle", "cpu.idle"),
    ("cpuset-cpus", "cpu.cpus"),
    ("cpuset-mems", "cpu.mems"),
    ("pids-limit", "pids.limit"),
    ("blkio-weight", "blockIO.weight"),
];

/// Reads the command line: what stands before the command, as far as it was read, and the command, or the word that is unknown
/// or missing.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> (Global, Result<Command>) {
    let mut global = Global {
        root: PathBuf::from(state::ROOT),
        log: None,
        log_json: false,
    };
    let command = read(&mut Parser::from_args(words), &mut global);
    (global, command)
}

fn read(parser: &mut Parser, global: &mut Global) -> Result<Command> {
    let mut systemd = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("root") => global.root = parser.value()?.into(),
            Arg::Long("log") => global.log = Some(parser.value()?.into()),
            Arg::Long("log-format") => {
                let format = parser.value()?.string()?;
                ensure!(
                    format == "json" || format == "text",
                    "--log-format {format}: json and text are known"
                );
                global.log_json = format == "json";
            }
            // What there is to say is said anyway.
            Arg::Long("debug") => {}
            Arg::Long("log-level" | "rootless" | "criu") => drop(parser.value()?),
            Arg::Long("systemd-cgroup") => systemd = true,
            Arg::Long("version") | Arg::Short('v') => return Ok(Command::Version),
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help(None)),
            Arg::Value(word) => {
                // Told only now, when it is known where.
                ensure!(
                    !systemd,
                    "--systemd-cgroup: control groups are not asked of systemd: have your engine manage them itself (podman: --cgroup-manager=cgroupfs)"
                );
                let word = word.string()?;
                return command(&word, parser)
                    .with_context(|| format!("{word} (kedge-oci {word} --help tells more)"));
            }
            other @ (Arg::Short(_) | Arg::Long(_)) => {
                return Err(other.unexpected().into());
            }
        }
    }
    Ok(Command::Help(None))
}

fn command(word: &str, parser: &mut Parser) -> Result<Command> {
    match word {
        "create" => Ok(match creation(parser, false)? {
            Some((options, ..)) => Command::Create(options),
            None => help(word),
        }),
        "run" => Ok(match creation(parser, true)? {
            Some((create, detach, keep)) => Command::Run {
                create,
                detach,
                keep,
            },
            None => help(word),
        }),
        "exec" => execution(parser),
        "update" => update(parser),
        "spec" => {
            let mut bundle = PathBuf::from(".");
            while let Some(argument) = parser.next()? {
                match argument {
                    Arg::Long("bundle") | Arg::Short('b') => bundle = parser.value()?.into(),
                    Arg::Long("help") | Arg::Short('h') => return Ok(help(word)),
                    other @ (Arg::Short(_) | Arg::Long(_) | Arg::Value(_)) => {
                        return Err(other.unexpected().into());
                    }
                }
            }
            Ok(Command::Spec { bundle })
        }
        "start" | "state" | "kill" | "delete" | "ps" | "pause" | "resume" | "list" | "features" => {
            simple(word, parser)
        }
        "help" => Ok(Command::Help(parser.next()?.and_then(
            |argument| match argument {
                Arg::Value(word) => word.into_string().ok(),
                Arg::Short(_) | Arg::Long(_) => None,
            },
        ))),
        _ => bail!("there is no such command"),
    }
}

fn help(word: &str) -> Command {
    Command::Help(Some(word.to_owned()))
}

/// Commands with an id, words without values, and what follows.
fn simple(word: &str, parser: &mut Parser) -> Result<Command> {
    let (mut force, mut all, mut json, mut quiet) = (false, false, false, false);
    let mut values = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(help(word)),
            Arg::Long("force") | Arg::Short('f') if word == "delete" => force = true,
            Arg::Long("all") | Arg::Short('a') if word == "kill" => all = true,
            Arg::Long("quiet") | Arg::Short('q') if word == "list" => quiet = true,
            Arg::Long("format") | Arg::Short('f') if word == "ps" || word == "list" => {
                let format = parser.value()?.string()?;
                ensure!(
                    format == "json" || format == "table",
                    "--format {format}: json and table are known"
                );
                json = format == "json";
            }
            Arg::Long("json") if word == "list" || word == "ps" => json = true,
            // A signal may be written as an option is: `kill ID -9`.
            Arg::Value(value) => {
                values.push(value.string()?);
                if word == "ps" {
                    let rest: Result<Vec<_>, _> =
                        parser.raw_args()?.map(ValueExt::string).collect();
                    values.extend(rest?);
                }
            }
            other @ (Arg::Short(_) | Arg::Long(_)) => {
                return Err(other.unexpected().into());
            }
        }
    }
    if word == "features" || word == "list" {
        ensure!(values.is_empty(), "{:?} is too much", values.concat());
        return Ok(if word == "list" {
            Command::List { json, quiet }
        } else {
            Command::Features
        });
    }
    let mut values = values.into_iter();
    let id = values.next().context("a container's id is missing")?;
    let rest: Vec<_> = values.collect();
    ensure!(
        rest.len() <= usize::from(word == "kill") || word == "ps",
        "{:?} is too much",
        rest.concat()
    );
    Ok(match word {
        "start" => Command::Start { id },
        "state" => Command::State { id },
        "delete" => Command::Delete { id, force },
        "pause" => Command::Pause { id },
        "resume" => Command::Resume { id },
        "ps" => Command::Ps {
            id,
            json,
            arguments: rest,
        },
        _ => Command::Kill {
            id,
            signal: rest
                .into_iter()
                .next()
                .unwrap_or_else(|| "SIGTERM".to_owned()),
            all,
        },
    })
}

/// Of `create` and `run`; none: help is wanted.
fn creation(parser: &mut Parser, run: bool) -> Result<Option<(create::Options, bool, bool)>> {
    let mut options = create::Options {
        bundle: PathBuf::from("."),
        ..create::Options::default()
    };
    let (mut detach, mut keep) = (false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("bundle") | Arg::Short('b') => options.bundle = parser.value()?.into(),
            Arg::Long("console-socket") => options.console_socket = Some(parser.value()?.into()),
            Arg::Long("pid-file") => options.pid_file = Some(parser.value()?.into()),
            Arg::Long("no-pivot") => options.no_pivot = true,
            Arg::Long("no-new-keyring") => options.no_new_keyring = true,
            Arg::Long("preserve-fds") => options.preserve_fds = parser.value()?.parse()?,
            Arg::Long("detach") | Arg::Short('d') if run => detach = true,
            Arg::Long("keep") if run => keep = true,
            Arg::Long("no-subreaper") if run => {}
            Arg::Value(id) if options.id.is_empty() => options.id = id.string()?,
            other @ (Arg::Short(_) | Arg::Long(_) | Arg::Value(_)) => {
                return Err(other.unexpected().into());
            }
        }
    }
    ensure!(!options.id.is_empty(), "a container's id is missing");
    Ok(Some((options, detach, keep)))
}

fn execution(parser: &mut Parser) -> Result<Command> {
    let mut options = exec::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(help("exec")),
            Arg::Long("process") | Arg::Short('p') => {
                options.process = Some(parser.value()?.into());
            }
            Arg::Long("env") | Arg::Short('e') => {
                options.environment.push(parser.value()?.string()?);
            }
            Arg::Long("cwd") => options.directory = Some(parser.value()?.string()?),
            Arg::Long("user") | Arg::Short('u') => options.user = Some(parser.value()?.string()?),
            Arg::Long("additional-gids") | Arg::Short('g') => {
                options.groups.push(parser.value()?.parse()?);
            }
            Arg::Long("cap") | Arg::Short('c') => {
                options.capabilities.push(parser.value()?.string()?);
            }
            Arg::Long("no-new-privs") => options.no_new_privileges = true,
            Arg::Long("tty") | Arg::Short('t') => options.terminal = true,
            Arg::Long("console-socket") => options.console_socket = Some(parser.value()?.into()),
            Arg::Long("pid-file") => options.pid_file = Some(parser.value()?.into()),
            Arg::Long("detach") | Arg::Short('d') => options.detach = true,
            Arg::Long("preserve-fds") => options.preserve_fds = parser.value()?.parse()?,
            Arg::Value(id) => {
                options.id = id.string()?;
                // What follows is the program's, options too.
                let rest: Result<Vec<_>, _> = parser.raw_args()?.map(ValueExt::string).collect();
                options.arguments = rest?;
                if options.arguments.first().is_some_and(|first| first == "--") {
                    options.arguments.remove(0);
                }
            }
            other @ (Arg::Short(_) | Arg::Long(_)) => {
                return Err(other.unexpected().into());
            }
        }
    }
    ensure!(!options.id.is_empty(), "a container's id is missing");
    Ok(Command::Exec(options))
}

fn update(parser: &mut Parser) -> Result<Command> {
    let (mut id, mut resources, mut words) = (None, None, Vec::new());
    while let Some(argument) = parser.next()? {
        let known = match &argument {
            Arg::Long(word) => UPDATES.iter().find(|(known, _)| known == word),
            Arg::Short(_) | Arg::Value(_) => None,
        };
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(help("update")),
            Arg::Long("resources") | Arg::Short('r') => resources = Some(parser.value()?.string()?),
            Arg::Value(value) if id.is_none() => id = Some(value.string()?),
            other @ (Arg::Short(_) | Arg::Long(_) | Arg::Value(_)) => match known {
                Some((_, member)) => words.push((*member, parser.value()?.string()?)),
                None => return Err(other.unexpected().into()),
            },
        }
    }
    ensure!(
        resources.is_some() || !words.is_empty(),
        "nothing is to be changed: --resources FILE or a limit is wanted"
    );
    Ok(Command::Update {
        id: id.context("a container's id is missing")?,
        resources,
        words,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Global, Command)> {
        let (global, command) = parse(line.split_whitespace().map(OsString::from));
        Ok((global, command?))
    }

    #[test]
    fn the_words_of_podman_are_understood() {
        let line = "--root /run/x --log /run/x/log --log-format=json --log-level debug \
                    create --bundle /b --pid-file /p --console-socket /c --no-pivot --preserve-fds 2 abc";
        let (global, command) = parsed(line).unwrap();
        assert_eq!(global.root.to_str(), Some("/run/x"));
        assert!(global.log_json);
        let Command::Create(options) = command else {
            panic!("{command:?}");
        };
        assert_eq!((options.id.as_str(), options.preserve_fds), ("abc", 2));
        assert!(options.no_pivot);
        let line = "exec --pid-file /p --process /q --detach --tty abc";
        assert!(
            matches!(parsed(line).unwrap().1, Command::Exec(options) if options.detach && options.terminal)
        );
        let line = "exec -e A=1 --cwd /x -u 1:2 abc sh -c true --detach";
        let Command::Exec(options) = parsed(line).unwrap().1 else {
            panic!("no exec");
        };
        assert_eq!(options.arguments, ["sh", "-c", "true", "--detach"]);
        let Command::Kill { signal, all, .. } = parsed("kill --all abc KILL").unwrap().1 else {
            panic!("no kill");
        };
        assert_eq!((signal.as_str(), all), ("KILL", true));
        let Command::Update { words, .. } =
            parsed("update --memory 100 --pids-limit=5 abc").unwrap().1
        else {
            panic!("no update");
        };
        assert_eq!(
            words,
            [
                ("memory.limit", "100".to_owned()),
                ("pids.limit", "5".to_owned())
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, word) in [
            ("frobnicate", "frobnicate"),
            ("create", "id is missing"),
            ("create a b", "b"),
            ("start a b", "too much"),
            ("run --what a", "what"),
            ("--systemd-cgroup create a", "cgroupfs"),
            ("--log-format xml state a", "xml"),
            ("update a", "nothing is to be changed"),
            ("features a", "too much"),
        ] {
            let error = format!("{:#}", parsed(line).unwrap_err());
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn every_command_has_help() {
        for word in [
            "create", "run", "exec", "update", "spec", "start", "kill", "list", "features",
        ] {
            let (_, command) = parsed(&format!("{word} --help")).unwrap();
            assert!(
                matches!(&command, Command::Help(Some(of)) if of == word),
                "{command:?}"
            );
        }
        assert!(matches!(parsed("").unwrap().1, Command::Help(None)));
    }
}
