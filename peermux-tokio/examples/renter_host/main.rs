//! A storage renter and its host over one connection.
//!
//! Without arguments it runs both on this machine with a slow link between them, and does the same jobs
//! three ways: over one plain TCP connection job by job, over a plain TCP connection for every job, and over
//! one peermux connection.
//!
//! ```text
//! cargo run --release --example renter_host
//! cargo run --release --example renter_host -- --rtt 80 --rate 50
//! ```
//!
//! It is also a tool between two machines:
//!
//! ```text
//! cargo run --release --example renter_host -- host --listen 0.0.0.0:9982 --dir store
//! cargo run --release --example renter_host -- put KEY@ADDRESS:9982 film.mkv
//! cargo run --release --example renter_host -- get KEY@ADDRESS:9982 film.mkv
//! ```
//!
//! What is of interest for users of peermux is in `link/peermux.rs` (the renter's side) and `serve.rs` (the
//! host's side); all the rest is the same for any stream.

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
#[path = "../common/key_log.rs"]
mod key_log;
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
        Some(Command::Host { listen, dir, key, allow, key_log }) => tool::host(listen, &dir, key, allow, key_log).await,
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
