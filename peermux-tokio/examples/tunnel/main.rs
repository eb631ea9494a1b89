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
//! What to expect. Measured 2026-11-25 with both sides on two virtual CPUs of an AMD EPYC, Linux 6.18; curl downloads 1 GiB (256 MiB over the slow link) at
//! urgency 5, and 100 bytes are asked for and answered at urgency 0, every 10 ms on an open connection. In ms, median and 99 %:
//!
//! | | idle | during the download | curl |
//! | --- | --- | --- | --- |
//! | loopback, tunnel | 0.39, 2.3 | 0.46, 3.3 | 327 MB/s |
//! | loopback, without | 0.10, 0.26 | 0.06, 0.45 | 424 MB/s |
//! | link of 100 Mbit/s, tunnel | 0.43, 0.65 | 3.1, 4.1 | 11.9 MB/s |
//! | link of 100 Mbit/s, without | 0.12, 0.21 | 4.2, 6.7 | 11.9 MB/s |
//!
//! The SHA-256 of what arrived was that of the file; curl's rate includes its computation. The link is a token bucket (tbf) on a veth pair, without delay of its own: what
//! the urgent answer waits for there is what TCP has already handed to the link.
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
#[path = "../common/key_log.rs"]
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
