//! A command in a container, as the control interface speaks of it: the request's body, and the frames that follow.
//!
//! A good answer to `POST /v1/containers/NAME/exec` is 101, and from then on both sides send frames until the command
//! has ended: a letter, the length of the rest as two bytes, the higher first, and the rest.
//!
//! | frame | from | rest |
//! |---|---|---|
//! | `i` | client | what the command reads; nothing at all: its input ends |
//! | `w` | client | rows and columns of the terminal, two bytes each |
//! | `o`, `e` | device | what it wrote as output, as errors; a terminal has output alone |
//! | `x` | device | one byte, the exit code; then, if there is something to say about it, a sentence |
//!
//! No frame begins as a request does: on a serial port, what the next client sends ends its predecessor's command.

use super::refusal::Refusal;
use kedge_revision::container::User;
use serde::{Deserialize, Serialize};

/// What the client's frames begin with.
pub const INPUT: u8 = b'i';
/// See [`INPUT`].
pub const WINDOW: u8 = b'w';
/// What the device's frames begin with.
pub const OUTPUT: u8 = b'o';
/// See [`OUTPUT`].
pub const ERRORS: u8 = b'e';
/// See [`OUTPUT`].
pub const EXIT: u8 = b'x';
/// Bytes before a frame's rest.
pub const FRAME_HEAD: usize = 3;
/// Most bytes of a frame's rest that PID 1 sends; a client may send more.
pub const FRAME_FILL: usize = 2048;

/// What is executed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Exec {
    /// Program and arguments; a program without `/` is looked up in PATH.
    pub arguments: Vec<String>,
    /// `NAME=value`, beside or in place of the container's own variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// As whom, if not as the container's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Where, if not where the container's process was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Whether it gets input. A terminal does in any case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub input: bool,
    /// Rows and columns of the terminal that it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<[u16; 2]>,
}

impl Exec {
    /// From a request's body.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let exec: Self = kedge_revision::json::read(body)
            .map_err(|_| Refusal::Malformed("the body is no command"))?;
        if exec.arguments.is_empty() {
            return Err(Refusal::Malformed("the command names no program"));
        }
        let path = exec.working_directory.as_ref();
        if path.is_some_and(|path| !path.starts_with('/')) {
            return Err(Refusal::Malformed(
                "the working directory does not begin with /",
            ));
        }
        let variable = |text: &String| text.find('=').is_some_and(|at| at > 0);
        if !exec.environment.iter().all(variable) {
            return Err(Refusal::Malformed("a variable is not NAME=value"));
        }
        Ok(exec)
    }
}

/// A frame's head.
#[must_use]
pub fn frame_head(kind: u8, length: usize) -> [u8; FRAME_HEAD] {
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [kind, high, low]
}

/// What the client has sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// Nothing more for now.
    Nothing,
    /// For the command; say how much was taken.
    Input(&'a [u8]),
    /// The input ends.
    End,
    /// The terminal has this size.
    Window {
        /// Its height.
        rows: u16,
        /// Its width.
        columns: u16,
    },
    /// No frame.
    Nonsense,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_executed_is_judged() {
        let least = Exec::parse(br#"{"arguments":["id"]}"#).unwrap();
        assert_eq!(least.arguments, ["id"]);
        let all = Exec {
            arguments: vec!["sh".to_owned(), "-c".to_owned(), "\u{1}\"".to_owned()],
            environment: vec!["A=".to_owned()],
            user: Some(User {
                uid: 1000,
                gid: 1001,
                groups: vec![7],
            }),
            working_directory: Some("/srv".to_owned()),
            input: true,
            terminal: Some([24, 80]),
        };
        let body = serde_json::to_vec(&all).unwrap();
        assert_eq!(Exec::parse(&body), Ok(all));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"arguments":[]}"#,
            r#"{"arguments":"id"}"#,
            r#"{"arguments":["id"],"privileged":true}"#,
            r#"{"arguments":["id"],"working-directory":"srv"}"#,
            r#"{"arguments":["id"],"environment":["A"]}"#,
            r#"{"arguments":["id"],"environment":["=A"]}"#,
            r#"{"arguments":["id"],"user":{"uid":65536,"gid":0}}"#,
            r#"{"arguments":["id"],"terminal":[24]}"#,
            r#"{"arguments":["id"],"terminal":[24,65536]}"#,
        ] {
            assert!(Exec::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_frame_begins_as_a_request_does() {
        for begins in *b"\r\nGPDOHT" {
            assert!(![INPUT, WINDOW].contains(&begins));
        }
    }
}
