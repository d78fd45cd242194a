//! The developer's verbs: `cargo xtask VERB`, a file a verb. Continuous integration runs the same ones.
//!
//! This is the first program that a newcomer compiles, so it depends on little. What a verb does in earnest is in
//! `kedge-image-build`; here are only command lines and order.

mod cargo;
mod image;
mod lint;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Build, test and try Kedge.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
#[command(
    after_help = "Downloads, kernels and tools are kept in $KEDGE_CACHE (default: ~/.cache/kedge); it may be deleted at any time."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Image(image::Arguments),
    Lint(lint::Arguments),
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Image(arguments) => image::run(&arguments),
        Verb::Lint(arguments) => lint::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            kedge_image_build::progress::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
