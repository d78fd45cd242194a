//! The command `kedge`: a file a verb. Each has its arguments (which teach, with `--help`), does its work through the
//! library, and returns one result that prints as words or, with `--json`, as one object.

mod add;
mod assign;
mod boards;
mod build;
mod bundle;
mod check;
mod completions;
mod composing;
mod ctl;
mod device;
mod devices;
mod diff;
mod disk;
mod events;
mod flash;
mod hub;
mod import;
mod inspect;
mod join_token;
mod key;
mod login;
mod new;
mod publish;
mod push;
mod registry;
mod revisions;
mod run;
mod sbom;
mod sign;
mod verify;

use crate::keys::Passphrase;
use crate::output::Output;
use crate::project::Project;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Turn OCI images into a signed, bootable, updatable edge device image.
///
/// A project folder says what a device runs: `kedge new` makes one, `kedge add` puts containers into it, `kedge build`
/// makes a signed revision and a disk image, `kedge run` boots that in QEMU, and `kedge push` brings a change to the device that
/// runs.
#[derive(Debug, Parser)]
#[command(name = "kedge", version, max_term_width = 100, after_help = FIRST_STEPS)]
pub struct Cli {
    /// The project's folder; a folder below it will do.
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Print one JSON object in place of words.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

const FIRST_STEPS: &str = "First steps:
  kedge new gateway
  cd gateway
  kedge add ../web.tar --name web
  kedge build
  kedge run --port 8080:80
  kedge push                 # in another terminal, after a change

Exit status: 0 done, 1 failed, 2 wrong usage; of `kedge ctl exec` that of its command.";

#[derive(Debug, Subcommand)]
enum Verb {
    New(new::New),
    Add(Box<add::Add>),
    Import(import::Import),
    Check(check::Check),
    Build(build::Build),
    Bundle(bundle::Bundle),
    Push(push::Push),
    Run(run::Run),
    Flash(flash::Flash),
    Ctl(ctl::Ctl),
    Sign(sign::Sign),
    Verify(verify::Verify),
    Inspect(inspect::Inspect),
    Diff(diff::Diff),
    Sbom(sbom::Sbom),
    Key(key::Key),
    Login(login::Login),
    Logout(login::Logout),
    Publish(publish::Publish),
    Assign(assign::AssignVerb),
    Devices(devices::Devices),
    Device(device::DeviceVerb),
    Claim(devices::ClaimVerb),
    Tag(devices::Tag),
    Parameters(devices::Parameters),
    JoinToken(join_token::JoinTokenVerb),
    Revisions(revisions::Revisions),
    Collect(revisions::CollectVerb),
    Events(events::Events),
    Boards(boards::Boards),
    Completions(completions::Completions),
}

/// Where a passphrase comes from. Without any of these it is asked for on the terminal.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
struct PassphraseArguments {
    /// Take the passphrase, or a token's PIN, from the first line of a file.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Take the passphrase from the first line of an open file descriptor.
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
}

impl PassphraseArguments {
    /// The source; a file or descriptor is read now, and once.
    fn source(&self) -> Result<Passphrase> {
        match (&self.passphrase_file, self.passphrase_fd) {
            (Some(path), _) => Passphrase::File(path.clone()).read_once(),
            (None, Some(number)) => Passphrase::Descriptor(number).read_once(),
            (None, None) => Ok(Passphrase::Prompt),
        }
    }
}

/// A failure that the verb's own result has told.
#[derive(Debug)]
struct Told;

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it did not succeed")
    }
}

impl std::error::Error for Told {}

/// What every verb is given.
#[derive(Debug, Clone)]
struct Scene {
    output: Output,
    project: PathBuf,
}

impl Scene {
    /// The project that `--project` or the current folder lies in.
    fn project(&self) -> Result<Project> {
        Project::open(&self.project)
    }
}

/// The whole command: the process's arguments to exit status.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// The whole command with given arguments, the program's name first: for tests that run it in their own process.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // What cannot be parsed may still say who reads; behind `--` are others' words. Help is for people.
            let mut ours = arguments.iter().take_while(|word| *word != "--");
            let json = error.use_stderr() && ours.any(|word| word == "--json");
            Output::new(json).wrong_usage(&error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let scene = Scene {
        output: Output::new(cli.json),
        project: cli.project,
    };
    match dispatch(cli.verb, &scene) {
        Ok(()) => ExitCode::SUCCESS,
        // The result says it all.
        Err(error) if error.is::<Told>() => ExitCode::FAILURE,
        Err(error) => match error.downcast_ref() {
            // So have the command's own words.
            Some(ctl::Ended(code)) => ExitCode::from(*code),
            None => {
                scene.output.failure(&error);
                ExitCode::FAILURE
            }
        },
    }
}

fn dispatch(verb: Verb, scene: &Scene) -> Result<()> {
    match verb {
        Verb::New(verb) => verb.run(scene),
        Verb::Add(verb) => verb.run(scene),
        Verb::Import(verb) => verb.run(scene),
        Verb::Check(verb) => verb.run(scene),
        Verb::Build(verb) => verb.run(scene),
        Verb::Bundle(verb) => verb.run(scene),
        Verb::Push(verb) => verb.run(scene),
        Verb::Run(verb) => verb.run(scene),
        Verb::Flash(verb) => verb.run(scene),
        Verb::Ctl(verb) => verb.run(scene),
        Verb::Sign(verb) => verb.run(scene),
        Verb::Verify(verb) => verb.run(scene),
        Verb::Inspect(verb) => verb.run(scene),
        Verb::Diff(verb) => verb.run(scene),
        Verb::Sbom(verb) => verb.run(scene),
        Verb::Key(verb) => verb.run(scene),
        Verb::Login(verb) => verb.run(scene),
        Verb::Logout(verb) => verb.run(scene),
        Verb::Publish(verb) => verb.run(scene),
        Verb::Assign(verb) => verb.run(scene),
        Verb::Devices(verb) => verb.run(scene),
        Verb::Device(verb) => verb.run(scene),
        Verb::Claim(verb) => verb.run(scene),
        Verb::Tag(verb) => verb.run(scene),
        Verb::Parameters(verb) => verb.run(scene),
        Verb::JoinToken(verb) => verb.run(scene),
        Verb::Revisions(verb) => verb.run(scene),
        Verb::Collect(verb) => verb.run(scene),
        Verb::Events(verb) => verb.run(scene),
        Verb::Boards(verb) => verb.run(scene),
        Verb::Completions(verb) => verb.run(scene),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_argument_teaches() {
        for verb in Cli::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            for argument in verb.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    verb.get_name(),
                    argument.get_id()
                );
            }
        }
    }
}
