//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::contestant;
use crate::metric::{self, Metric};
use crate::process::{self, Ready};
use crate::run;

/// Measures peermux beside plain TCP, TLS, and other multiplexers, each in processes of its own, in turns.
///
/// Writes tables in Markdown to the standard output. Metrics on links need root, and the commands `ip` and `tc`.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these contestants.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = contestant::NAMES)]
    pub(crate) only: Vec<String>,
    /// Only these metrics.
    #[arg(long, value_name = "NAME", value_delimiter = ',', help = format!("Only these metrics: {}", metrics()))]
    pub(crate) metric: Vec<Metric>,
    /// How often each contestant is measured; what takes long is measured less often.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) rounds: usize,
    /// One round of short measurements, to see that everything works. The figures mean nothing.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where to write all figures as JSON; beside the program as `compare.json` if nothing is said.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// A file whose text between the lines `<!-- results -->` and `<!-- end of results -->` is replaced by the tables.
    #[arg(long, value_name = "FILE")]
    pub(crate) into: Option<PathBuf>,
}

fn metrics() -> String {
    metric::ALL.map(|(name, _)| name).join(", ")
}

/// The parts that run in processes of their own.
#[derive(Subcommand)]
enum Part {
    /// Serves, for `client`.
    #[command(hide = true)]
    Server { name: String, metric: Metric, bind: IpAddr },
    /// Measures.
    #[command(hide = true)]
    Client { name: String, metric: Metric, millis: u64, addr: SocketAddr, control: SocketAddr, identity: String },
}

/// Runs what the command line says. `memory` tells how much is allocated.
#[expect(clippy::print_stderr, reason = "where a command says what went wrong")]
pub fn main(memory: fn() -> usize) -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.part {
        None => run::all(&cli.options),
        Some(Part::Server { name, metric, bind }) => process::server(&name, metric, bind, memory),
        Some(Part::Client { name, metric, millis, addr, control, identity }) => {
            let ready = Ready { addr, control, identity };
            process::client(&name, metric, &ready, Duration::from_millis(millis), memory)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}
