//! A storage renter and its host over one connection. `--help` tells what it can do.

#![allow(unreachable_pub, reason = "an example's modules have nobody outside")]

/// Prints a line. A reader that has gone away (`| head`) is no reason to panic.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

/// The same for what is not the program's result.
macro_rules! warn {
    ($($line:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($line)*);
    }};
}

mod cli;
mod demo;
mod error;
mod fields;
mod gossip;
mod host;
mod job;
mod keys;
mod link;
mod plan;
mod player;
mod relay;
mod report;
mod rpc;
mod serve;
mod store;
mod tool;
mod transfer;
mod window;

use std::process::ExitCode;

use clap::Parser;

use cli::Command;
use error::Error;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let done = match cli.command {
        // The temporary files go with the story, so it has to end here and not with the process.
        None => tokio::select! {
            done = demo::run(cli.demo) => done,
            _ = tokio::signal::ctrl_c() => Err(Error::new("interrupted")),
        },
        Some(Command::Host { listen, dir, key, allow }) => tool::host(listen, &dir, key, allow).await,
        Some(Command::Put { host, files, renter }) => tool::put(host, files, renter).await,
        Some(Command::Get { host, name, output, force, id, renter }) => {
            tool::get(host, name, output, force, id, renter).await
        }
        Some(Command::List { host, renter }) => tool::list(host, renter).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            warn!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
