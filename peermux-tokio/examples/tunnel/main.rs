//! Forwards local TCP ports through one peermux connection, as `ssh -L` does, with a priority for each port.
//!
//! On the machine that can reach the targets:
//!
//! ```text
//! cargo run --release -p peermux-tokio --example tunnel -- listen --listen 0.0.0.0:9983 --key tunnel.key \
//!     --allow localhost:80 --allow localhost:22
//! ```
//!
//! It prints its KEY@ADDRESS. On the other machine, with the shell before the downloads:
//!
//! ```text
//! cargo run --release -p peermux-tokio --example tunnel -- dial KEY@ADDRESS:9983 \
//!     -L 8080:localhost:80@5 -L 2222:localhost:22@0
//! curl http://localhost:8080/
//! ```
//!
//! Each TCP connection is a stream. Its first bytes name the target (`target.rs`), then it carries what the TCP
//! connections carry, each direction with its own end (`pipe.rs`). What goes wrong at the far side comes back as the code of a
//! RESET (`codes.rs`), and resets the TCP connection here. When the peermux connection is lost, the connections through it are too; another one
//! is dialled, and those that come meanwhile wait for it.
//!
//! `--key-log FILE` adds the secrets of the connections to FILE, so that `tools/peermux.lua` reads captures of them.
//!
//! Exit codes: 0 after an interrupt (Ctrl-C), 1 for what failed while it ran, 2 for a wrong command line.

#![allow(unreachable_pub, reason = "an example's modules have nobody outside")]

/// Prints a line, except in tests. A reader that has gone away (`| head`) is no reason to panic.
macro_rules! say {
    ($($line:tt)*) => {{
        if cfg!(not(test)) {
            use std::io::Write;
            let _ = writeln!(std::io::stdout(), $($line)*);
        }
    }};
}

/// The same for what is not the program's result.
macro_rules! warn {
    ($($line:tt)*) => {{
        if cfg!(not(test)) {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), $($line)*);
        }
    }};
}

mod cli;
mod codes;
mod dial;
#[path = "../shared/key_log.rs"]
mod key_log;
mod keys;
mod listen;
mod pipe;
mod target;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Parser;

/// What ends the program: a sentence.
pub type Failure = String;

async fn run(cli: cli::Cli) -> Result<(), Failure> {
    let key_log = key_log::open(cli.key_log.as_deref()).map_err(|error| error.to_string())?;
    match cli.command {
        cli::Command::Listen(args) => listen::run(args, key_log).await,
        cli::Command::Dial(args) => dial::run(args, key_log).await,
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(cli::Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            warn!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
