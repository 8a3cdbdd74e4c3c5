//! Arguments and exit codes.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use restante::cli::{Arguments, Command};

/// Exit code for wrong arguments and wrong configuration.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Config(arguments) => match arguments.run(&mut io::stdout().lock()) {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Ok(Err(error)) => fail(&error, 1),
            Err(error) => fail(&error, MISCONFIGURED),
        },
        Command::Serve(_) | Command::Demo => fail(&"not part of this build", MISCONFIGURED),
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("restante: {error}");
    ExitCode::from(code)
}
