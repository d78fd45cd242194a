//! `kedge-hub`: the command.

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kedge_hub::{Contents, Settings};
use kedge_revision::product::Mode as ProductMode;
use std::io::Write;
use std::path::PathBuf;

/// A hub that a fleet of Kedge devices pulls its updates from.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "First steps:\n  \
    kedge-hub serve --data /var/lib/kedge-hub --name hub.example\n  \
    Keep the token that the first start prints, once: operators need it.\n  \
    kedge login https://hub.example:8443, which shows the authority that each start prints.\n  \
    kedge new gateway --production --hub hub.example, or `kedge key trust-hub` in a project that exists: devices trust it.\n  \
    cd gateway, and kedge add IMAGE --name NAME: what they run.\n  \
    kedge publish, which makes the product known.\n\n\
    Projects of `kedge new` without --production are for a hub of --mode development."
)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the hub until SIGTERM or SIGINT.
    Serve(Serve),
    /// Write everything into one file; the hub may run meanwhile.
    Backup(Backup),
    /// Make the hub of a backup in a new directory.
    Restore(Restore),
    /// Operators' tokens, made on this machine.
    Token(Token),
}

#[derive(Debug, Args)]
#[command(after_help = "The file holds the hub's keys and devices' secrets: keep it like them.")]
struct Backup {
    /// The hub's directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Leave the objects out: revisions are published again after a restore.
    #[arg(long)]
    without_objects: bool,
    /// Where to write it; replaced whole or not at all.
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Restore {
    /// The new hub's directory, which is empty or not there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A backup of this or an older version.
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Token {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make a token and print it: for a new operator, or for whoever has lost theirs. The hub may run meanwhile.
    New {
        /// The hub's directory.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// How long it lasts, as in 12h or 30d; until it is deleted if absent.
        #[arg(long = "for", value_name = "SPAN", value_parser = span)]
        lasts_s: Option<u32>,
        /// Whose it is.
        name: String,
    },
    /// List the tokens: id, end and owner. Their secrets nobody knows.
    List {
        /// The hub's directory.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
    /// End a token: who has it is refused from now on, also by a hub that runs.
    Delete {
        /// The hub's directory.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Which, by its id, as `list` shows it.
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "The directory holds everything: the database, the objects, and in keys/ the hub's own keys. \
    Whoever has those keys can choose which of the signed revisions devices run, so back them up like a secret.\n\
    Devices know the hub by its own certificate authority; no public certificate is needed."
)]
struct Serve {
    /// Where everything is kept; made at the first start.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address and port; port 0 takes a free one and prints it.
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: String,
    /// Names and addresses under which devices and operators reach the hub, the first one its own.
    #[arg(
        long = "name",
        value_name = "NAME[,NAME|IP…]",
        value_delimiter = ',',
        required = true
    )]
    names: Vec<String>,
    /// Production refuses roots of development products.
    #[arg(long, value_enum, default_value = "production")]
    mode: Mode,
    /// Most connections at a time; each device that polls holds one.
    #[arg(long, default_value_t = 20_000)]
    connections: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Production,
    Development,
}

impl From<Mode> for ProductMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Production => Self::Production,
            Mode::Development => Self::Development,
        }
    }
}

/// Lines on standard error, for whatever collects a service's output.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!(
                "{}: {}\n",
                record.level().as_str().to_lowercase(),
                record.args()
            );
            // There is nowhere to say that nothing can be said.
            drop(std::io::stderr().write_all(line.as_bytes()));
        }
    }

    fn flush(&self) {}
}

fn main() -> Result<()> {
    let command = Command::parse();
    log::set_max_level(log::LevelFilter::Info);
    log::set_logger(&Lines).map_err(|error| anyhow::anyhow!("{error}"))?;
    match command.verb {
        Verb::Serve(arguments) => serve(arguments),
        Verb::Backup(arguments) => {
            let contents = if arguments.without_objects {
                Contents::WithoutObjects
            } else {
                Contents::Everything
            };
            Ok(kedge_hub::backup(
                &arguments.data,
                &arguments.file,
                contents,
            )?)
        }
        Verb::Restore(arguments) => {
            kedge_hub::restore(&arguments.file, &arguments.data)?;
            say(RESTORED)
        }
        Verb::Token(Token { verb }) => token(verb),
    }
}

/// What comes back with a backup, and is not what whoever restores it wants.
const RESTORED: &str = "restored; all is as it was when the backup was made:\n  \
    devices are told the revisions and values of then: assign again what came later, before they connect if you can\n  \
    devices that were revoked or removed later are good again: `kedge device revoke`, `remove`\n  \
    tokens of operators that were ended later are good again: `kedge-hub token list`, `token delete`\n  \
    join tokens that were spent or deleted later are good again: `kedge join-token list`, `delete`\n";

fn token(verb: TokenVerb) -> Result<()> {
    match verb {
        TokenVerb::New {
            data,
            lasts_s,
            name,
        } => say(&format!(
            "{}\n",
            kedge_hub::new_token(&data, &name, lasts_s)?
        )),
        TokenVerb::List { data } => {
            let mut lines = String::new();
            for token in kedge_hub::list_tokens(&data)? {
                let until = token.until.map(|until| until.to_string());
                let until = until.unwrap_or_else(|| "until it is deleted".to_owned());
                // A name may hold anything that was typed.
                let name = token.name.escape_debug();
                lines.push_str(&format!("{}  {until:<20}  {name}\n", token.id));
            }
            say(&lines)
        }
        TokenVerb::Delete { data, id } => match kedge_hub::end_token(&data, &id)? {
            Some(name) => say(&format!("ended token {id} of {}\n", name.escape_debug())),
            None => anyhow::bail!("there is no token {id}: `kedge-hub token list` shows them"),
        },
    }
}

/// `12h`: at least a second.
fn span(text: &str) -> Result<u32, String> {
    let wrong = || "write a number with s, min, h or d, as in 90min, 12h, 30d".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let unit: u32 = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit).filter(|seconds| *seconds > 0);
    seconds.ok_or_else(wrong)
}

fn serve(arguments: Serve) -> Result<()> {
    let settings = Settings {
        data: arguments.data,
        listen: arguments.listen,
        names: arguments.names,
        mode: arguments.mode.into(),
        connections: arguments.connections,
    };
    kedge_hub::run(&settings, |ready| {
        let mut lines = format!("listening on {}\n", ready.address);
        if let Some(token) = ready.first_token {
            lines.push_str(&format!("first token: {token}\n"));
        }
        let fingerprint = ready.fingerprint;
        lines.push_str(&format!("authority (SHA-256): {fingerprint}\n"));
        // Whoever started it without an output does not want to read it.
        drop(say(&lines));
    })?;
    Ok(())
}

fn say(lines: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(lines.as_bytes())?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn a_span_is_a_number_with_its_unit() {
        let spans = [
            ("1s", 1),
            ("90s", 90),
            ("10min", 600),
            ("10m", 600),
            ("12h", 43_200),
            ("30d", 2_592_000),
        ];
        for (text, seconds) in spans {
            assert_eq!(span(text), Ok(seconds), "{text}");
        }
        for wrong in [
            "", "s", "10", "0s", "-1h", "+1h", "1.5h", "1 h", "10ms", "1w", "99999d", "1ß",
        ] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
