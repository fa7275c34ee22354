//! `cargo run -- bench net`, which hands on its command line: the network beside a Linux guest.

use std::process::ExitCode;

use clap::Parser;
use iso::cli::{Cli, Command};

fn main() -> ExitCode {
    // Cargo adds a word of its own.
    let words = std::env::args_os().filter(|word| word != "--bench");
    let Command::Bench(options) = Cli::parse_from(words).command() else {
        eprintln!("this is started by `cargo run -- bench net`");
        return ExitCode::FAILURE;
    };
    match tests::bench::command(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            iso::say::error(&error);
            ExitCode::FAILURE
        }
    }
}
