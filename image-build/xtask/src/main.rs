//! The developer's verbs: `cargo xtask VERB`, a file a verb. Continuous integration runs the same ones.
//!
//! This is the first program that a newcomer compiles, so it depends on little. What a verb does in earnest is in
//! `kedge-image-build`; here are only command lines and order.

mod cargo;
mod demo;
mod device;
mod fuzz;
mod hub;
mod image;
mod kedge;
mod lint;
mod measure;
mod mutate;
mod project;
mod run;
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
    Demo(demo::Arguments),
    Run(run::Arguments),
    Image(image::Arguments),
    Lint(lint::Arguments),
    Measure(measure::Arguments),
    Mutate(mutate::Arguments),
    Test(test::Arguments),
}

fn main() -> ExitCode {
    if kedge::is_called() {
        return kedge_image_build::verbs::main();
    }
    let result = match Arguments::parse().verb {
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Image(arguments) => image::run(&arguments),
        Verb::Lint(arguments) => lint::run(&arguments),
        Verb::Measure(arguments) => measure::run(&arguments),
        Verb::Mutate(arguments) => mutate::run(&arguments),
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
