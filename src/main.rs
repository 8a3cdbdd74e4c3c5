//! Arguments and exit codes.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use restante::cli::{Arguments, Command, DemoArguments, OperateError};
use restante::config::Config;
use restante::demo;
use restante::server::{CoreContext, Server};
use restante::shard::core::Core;
use restante::token::Tokens;
use restante::{clock, logging};

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
        Command::Serve(file) => match file.load() {
            Ok(config) => serve(config),
            Err(error) => fail(&error, MISCONFIGURED),
        },
        Command::Demo(arguments) => play(arguments),
        command => match command.operate(&mut io::stdout().lock()) {
            None | Some(Ok(())) => ExitCode::SUCCESS,
            Some(Err(OperateError::Output(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Some(Err(error)) => fail(&error, error.exit_code()),
        },
    }
}

/// Runs until a signal ends it.
fn serve(config: Config) -> ExitCode {
    logging::start(&config.log);
    let core = |context: CoreContext| Core::new(context, Tokens::from_os(), clock::now());
    match Server::run(config, core) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn play(arguments: DemoArguments) -> ExitCode {
    let part = arguments.part();
    match (arguments.elsewhere(), part) {
        (None, _) => demo::run(),
        (Some(elsewhere), None) => demo::run_against(elsewhere),
        (Some(elsewhere), Some(part)) => demo::run_part(elsewhere, part),
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("restante: {error}");
    ExitCode::from(code)
}
