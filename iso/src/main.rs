//! `cargo run`: the host tool's command line. It reads the arguments, hands them to the library of
//! this package and turns an error into a message and a failing exit status; everything else is the
//! library's.

use std::process::ExitCode;

use clap::Parser;
use iso::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli.command()) {
        Ok(code) => code,
        Err(error) => {
            iso::say::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Runs one command of the tool.
fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => iso::run::run(&options),
        Command::Build(options) => iso::build::command(&options).map(|()| ExitCode::SUCCESS),
        Command::Image(options) => iso::image::command(&options).map(|()| ExitCode::SUCCESS),
        Command::Inspect(options) => iso::inspect::command(&options).map(|()| ExitCode::SUCCESS),
        Command::Sizes(options) => iso::sizes::command(&options).map(|()| ExitCode::SUCCESS),
        Command::Bench(options) => iso::bench::command(&options).map(|()| ExitCode::SUCCESS),
        Command::Test(options) => iso::test::command(&options).map(|()| ExitCode::SUCCESS),
        Command::Symbolize(options) => {
            iso::symbolize::command(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Clippy => iso::build::clippy().map(|()| ExitCode::SUCCESS),
    }
}
