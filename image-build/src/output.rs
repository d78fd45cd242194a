//! What `kedge` prints: results on standard output (text, or one JSON object with `--json`), everything else on standard error.
//!
//! With `--json` nothing but the one object goes to standard output, also when a verb fails
//! (`{"error": {"message": …, "causes": […]}}`, with `path`, `line` and `column` of a mistake in a file) or is used wrongly. What goes
//! on without end (`run`, `ctl logs`) is one object a line. Field names are stable: they are kebab-case and are only ever added.
//! A result that cannot be written is a failure.

use crate::project::source::Mistake;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
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
    #[serde(flatten)]
    place: Option<Place>,
}

/// Where in a project's file a mistake is.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Place {
    path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

impl Place {
    fn of(error: &anyhow::Error) -> Option<Self> {
        // As a context, or as the error itself, boxed by the parser or not.
        let boxed = error.downcast_ref::<Box<Mistake>>().map(Box::as_ref);
        let mistake = boxed.or_else(|| error.downcast_ref())?;
        Some(Self {
            path: mistake.path.clone(),
            line: mistake.place.map(|(line, _)| line),
            column: mistake.place.map(|(_, column)| column),
        })
    }
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
    ///
    /// # Errors
    /// It cannot be written. A reader that went away (`kedge … | head`) wants no more: that is none.
    pub fn result(self, text: impl Display, object: &impl Serialize) -> Result<()> {
        let text = if self.json {
            serde_json::to_string(object).context("cannot write the result as JSON")?
        } else {
            text.to_string()
        };
        write_out(&text)
    }

    /// One line of news for whoever waits.
    #[allow(
        clippy::unused_self,
        reason = "news belong to an output, wherever it sends them"
    )]
    pub fn say(self, line: impl Display) {
        crate::progress::say(line);
    }

    /// Says what may be a mistake; a program finds it in the result.
    pub fn warn(self, warnings: &[&str]) {
        if !self.json {
            for warning in warnings {
                self.say(format_args!("warning: {warning}"));
            }
        }
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

    /// Says that, and how, the command was used wrongly.
    pub fn wrong_usage(self, error: &clap::Error) {
        let text = error.render().to_string();
        let plain = text.replace("invalid digit found in string", "this is no number");
        if !self.json {
            if plain == text {
                // Nobody is there to read it.
                error.print().ok();
            } else {
                self.say(plain.trim_end());
            }
            return;
        }
        let message = plain.trim().trim_start_matches("error: ").to_owned();
        let error = FailureText {
            message,
            causes: Vec::new(),
            place: None,
        };
        self.told(&Failure { error });
    }

    fn told(self, failure: &Failure) {
        if let Err(error) = self.result("", failure) {
            self.say(format_args!("error: {}", failure.error.message));
            self.say(format_args!("{error:#}"));
        }
    }

    /// Says why a verb failed.
    pub fn failure(self, error: &anyhow::Error) {
        if self.json {
            let causes = error.chain().skip(1).map(ToString::to_string).collect();
            let failure = Failure {
                error: FailureText {
                    message: error.to_string(),
                    causes,
                    place: Place::of(error),
                },
            };
            self.told(&failure);
        } else {
            self.say(format_args!("error: {error}"));
            for cause in error.chain().skip(1) {
                self.say(format_args!("  because: {cause}"));
            }
        }
    }
}

fn write_out(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::source::Source;
    use std::path::Path;

    #[test]
    fn a_mistake_has_its_place_however_deep_it_is() {
        let source = Source::new(Path::new("web.toml"), "a = 1\nb = 2\n".to_owned());
        let mistake = source.mistake(&["b"], "is wrong", None);
        for error in [
            anyhow::Error::new(mistake.clone()),
            anyhow::Error::new(Box::new(mistake.clone())).context("outer"),
            anyhow::anyhow!("inner").context(mistake),
        ] {
            let place = Place::of(&error).unwrap();
            assert_eq!((place.line, place.column), (Some(2), Some(5)), "{error:#}");
        }
        assert!(Place::of(&anyhow::anyhow!("other")).is_none());
    }
}
