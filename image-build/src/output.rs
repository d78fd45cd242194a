//! What `kedge` prints: results on standard output (text, or one JSON object with `--json`), everything else on standard error.
//!
//! With `--json` nothing but the one object goes to standard output, also when a verb fails
//! (`{"error": {"message": …, "causes": […]}}`). What goes on without end (`run`, `ctl logs`) is one object a line. Field names are stable: they are kebab-case and are only ever added.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

/// Where a verb's words go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Failure {
    error: FailureText,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct FailureText {
    message: String,
    causes: Vec<String>,
}

impl Output {
    /// Words for a person, or one JSON object for a program.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a program reads.
    #[must_use]
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// A verb's result: the object with `--json`, else the text, both with a final newline.
    pub fn result(self, text: impl Display, object: &impl Serialize) {
        if self.json {
            match serde_json::to_string(object) {
                Ok(line) => write_out(&line),
                // No result type holds a map with keys that are no strings, the one thing that JSON cannot write.
                Err(error) => self.say(format_args!("cannot write the result as JSON: {error}")),
            }
        } else {
            write_out(&text.to_string());
        }
    }

    /// One line of news for whoever waits.
    #[allow(
        clippy::unused_self,
        reason = "news belong to an output, wherever it sends them"
    )]
    pub fn say(self, line: impl Display) {
        crate::progress::say(line);
    }

    /// A moving line while something takes long: hidden if standard error is no terminal, or a program reads.
    #[must_use]
    pub fn spinner(self, text: &str) -> ProgressBar {
        let bar = ProgressBar::new_spinner();
        if self.json {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    /// A bar of bytes while something large is moved: hidden as [`Output::spinner`] is.
    #[must_use]
    pub fn bytes(self, text: &str, total: u64) -> ProgressBar {
        let bar = ProgressBar::new(total);
        if self.json {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(text.to_owned());
        bar
    }

    /// Says why a verb failed.
    pub fn failure(self, error: &anyhow::Error) {
        if self.json {
            let causes = error.chain().skip(1).map(ToString::to_string).collect();
            let failure = Failure {
                error: FailureText {
                    message: error.to_string(),
                    causes,
                },
            };
            self.result("", &failure);
        } else {
            self.say(format_args!("error: {error}"));
            for cause in error.chain().skip(1) {
                self.say(format_args!("  because: {cause}"));
            }
        }
    }
}

fn write_out(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away (`kedge … | head`) wants no more; that is no failure of the verb.
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .ok();
}
