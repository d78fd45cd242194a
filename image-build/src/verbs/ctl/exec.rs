//! `kedge ctl exec`: a command in a container of the device.

use crate::exec::{self, End};
use crate::verbs::Scene;
use anyhow::Result;
use clap::Args;
use kedge_revision::Name;
use serde_json::{Value, json};
use std::path::Path;

/// What a command that was executed ends this one with.
#[derive(Debug)]
pub(in crate::verbs) struct Ended(pub(in crate::verbs) u8);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the command ended with {}", self.0)
    }
}

impl std::error::Error for Ended {}

/// The exit code for a command that was refused, or whose connection broke off.
const NOT_RUN: u8 = 125;

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Give the command this command's input.
    #[arg(short)]
    input: bool,
    /// Give the command a terminal: with its size and its keys, Ctrl-C too.
    #[arg(short)]
    terminal: bool,
    /// As this user and group in the container, in numbers: UID or UID:GID.
    #[arg(long, value_name = "USER", value_parser = user)]
    user: Option<(u16, u16)>,
    /// In this folder of the container.
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// With a further variable; more than once.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// The container.
    container: Name,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn user(text: &str) -> Result<(u16, u16), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => Err("numbers are wanted, as 1000 or 1000:1000".to_owned()),
    }
}

impl Exec {
    pub(super) fn run(&self, scene: &Scene, socket: &Path) -> Result<()> {
        let kind = std::env::var("TERM").ok();
        let asked = self.asked(self.terminal.then(exec::own_size), kind.as_deref());
        let reads = self.input || self.terminal;
        match exec::run(socket, self.container.as_str(), &asked, reads) {
            Ok(End { code: 0, .. }) => Ok(()),
            Ok(End { code, sentence }) => {
                if !sentence.is_empty() {
                    scene.output.say(format!("kedge: {sentence}"));
                }
                Err(Ended(code).into())
            }
            Err(error) => {
                scene.output.failure(&error);
                Err(Ended(NOT_RUN).into())
            }
        }
    }

    /// The request's body.
    fn asked(&self, size: Option<(u16, u16)>, kind: Option<&str>) -> Value {
        let mut environment = self.environment.clone();
        if let Some(kind) = kind.filter(|_| size.is_some()) {
            // In front: one that was named takes its place.
            environment.insert(0, format!("TERM={kind}"));
        }
        let user = self.user.map(|(uid, gid)| json!({"uid": uid, "gid": gid}));
        let all = [
            ("arguments", Some(json!(self.command))),
            ("environment", Some(json!(environment))),
            ("input", Some(json!(self.input))),
            (
                "working-directory",
                self.workdir.as_ref().map(|to| json!(to)),
            ),
            ("user", user),
            (
                "terminal",
                size.map(|(rows, columns)| json!([rows, columns])),
            ),
        ];
        let named = all.into_iter();
        let named = named.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(named.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        exec: Exec,
    }

    fn asked(line: &str) -> Value {
        let words = format!("exec {line}");
        let Line { exec } = Line::try_parse_from(words.split(' ')).unwrap();
        exec.asked(exec.terminal.then_some((24, 80)), Some("vt100"))
    }

    #[test]
    fn what_is_asked_for_is_what_was_said() {
        let least = json!({"arguments": ["id"], "environment": [], "input": false});
        assert_eq!(asked("web id"), least);
        let all = "-it --user 1000:7 --workdir /srv --env A=b web ls -l --user x";
        let expected = json!({
            "arguments": ["ls", "-l", "--user", "x"],
            "environment": ["TERM=vt100", "A=b"],
            "input": true,
            "user": {"uid": 1000, "gid": 7},
            "working-directory": "/srv",
            "terminal": [24, 80],
        });
        assert_eq!(asked(all), expected);
        for bad in ["", "web", "--user root web id", "--user 70000 web id"] {
            let words = format!("exec {bad}");
            assert!(Line::try_parse_from(words.split(' ')).is_err(), "{bad}");
        }
    }
}
