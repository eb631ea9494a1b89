//! Measures a peermux connection, as iperf3 does a TCP connection: throughput up, down and both ways, and how long a small
//! request takes, idle and while the bulk runs.
//!
//! Both sides here, over loopback:
//!
//! ```text
//! cargo run --release -p peermux-tokio --example perf -- local
//! cargo run --release -p peermux-tokio --example perf -- local --streams 8 --time 5 --json
//! ```
//!
//! Or between two machines; the server prints its KEY@ADDRESS:
//!
//! ```text
//! cargo run --release -p peermux-tokio --example perf -- server --listen 0.0.0.0:5202
//! cargo run --release -p peermux-tokio --example perf -- client KEY@ADDRESS:5202 --down --streams 4
//! ```
//!
//! The bulk has urgency 5 and each request is a stream of its own with urgency 0; `--urgency 0` shows what a request takes without that
//! difference. The server lets everybody in and sends as much as it is asked for: run it while you measure.
//!
//! `--key-log FILE` adds the secrets of the connections to FILE, so that `tools/peermux.lua` reads captures of them.
//!
//! Exit codes: 0 when all was measured, or the server was interrupted (Ctrl-C), 1 for what failed, 2 for a wrong command line.

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

mod client;
#[path = "../common/key_log.rs"]
mod key_log;
mod report;
mod server;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use peermux_tokio::{Config, Identity, Listener, PublicKey, Remote, StaticSecret, connect};

/// Measures a peermux connection, as iperf3 does a TCP connection.
#[derive(Parser, Debug)]
#[command(name = "perf", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Add the secrets of connections to this file, for tools/peermux.lua: whoever has it reads everything
    #[arg(long, value_name = "FILE", global = true)]
    key_log: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve clients that measure
    Server {
        /// Where to listen, as ADDRESS:PORT
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5202")]
        listen: SocketAddr,
    },
    /// Measure against a server
    Client {
        /// The server, as KEY@ADDRESS:PORT, which it prints when it starts
        #[arg(value_name = "KEY@ADDR")]
        server: Peer,
        #[command(flatten)]
        plan: Plan,
    },
    /// Run both over loopback
    Local {
        #[command(flatten)]
        plan: Plan,
    },
}

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Measure from here to the server [default: up, down and both]
    #[arg(long)]
    pub up: bool,
    /// Measure from the server to here
    #[arg(long)]
    pub down: bool,
    /// Measure both ways at once
    #[arg(long)]
    pub both: bool,
    /// Streams that carry the bulk, each way
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub streams: u16,
    /// How long each part takes, in s
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub time: Duration,
    /// Bytes of a request, and of its answer
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=server::MAX_REQUEST as i64))]
    pub request_bytes: u32,
    /// Urgency of the bulk
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u8).range(0..=7))]
    pub urgency: u8,
    /// Urgency of the requests
    #[arg(long, value_name = "URGENCY", default_value = "0", value_parser = clap::value_parser!(u8).range(0..=7))]
    pub request_urgency: u8,
    /// Print the result as JSON, and the progress to the standard error
    #[arg(long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a time is 0.1 to 86400 (in s)".into()),
    }
}

/// A server: its public key, and where it is.
#[derive(Clone, Debug)]
struct Peer {
    key: PublicKey,
    addr: String,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, addr) = text.split_once('@').ok_or("a server is given as KEY@ADDRESS:PORT")?;
        if addr.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!("{addr:?} has no port: a server is given as KEY@ADDRESS:PORT"));
        }
        Ok(Self { key: key.parse().map_err(|error| format!("{error}"))?, addr: addr.into() })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command, key_log } = Cli::parse();
    // A server ends in no other way.
    let serves = matches!(command, Command::Server { .. });
    let run = async {
        let config = Config { key_log: key_log::open(key_log.as_deref())?, ..Config::default() };
        match command {
            Command::Server { listen } => serve(listen, config).await,
            Command::Client { server, plan } => measure(&server, &plan, config).await,
            Command::Local { plan } => local(&plan, config).await,
        }
    };
    let done = tokio::select! {
        done = run => done,
        _ = tokio::signal::ctrl_c() => if serves { Ok(()) } else { Err(io::Error::other("interrupted")) },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            warn!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn listen(address: SocketAddr, config: Config) -> io::Result<(Listener, Peer)> {
    let secret = StaticSecret::generate()?;
    let key = secret.public_key();
    let listener = Listener::bind(address, secret, config).await?;
    let addr = listener.local_addr().to_string();
    Ok((listener, Peer { key, addr }))
}

async fn serve(address: SocketAddr, config: Config) -> io::Result<()> {
    let (listener, me) = listen(address, config).await?;
    say!("listening as {}@{}", me.key, me.addr);
    server::run(listener).await
}

async fn local(plan: &Plan, config: Config) -> io::Result<()> {
    let (listener, server) = listen((Ipv4Addr::LOCALHOST, 0).into(), config.clone()).await?;
    tokio::spawn(server::run(listener));
    measure(&server, plan, config).await
}

async fn measure(server: &Peer, plan: &Plan, config: Config) -> io::Result<()> {
    let connection = connect(server.addr.as_str(), Identity::Anonymous, Remote::Key(server.key), config).await?;
    let phases = client::run(&connection, plan).await?;
    connection.close(0, "measured").await;
    if plan.json {
        say!("{}", report::json(plan, &phases));
    } else {
        say!("{}", report::table(plan, &phases));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_that_is_measured_is_reported() {
        let (listener, server) = listen((Ipv4Addr::LOCALHOST, 0).into(), Config::default()).await.unwrap();
        tokio::spawn(server::run(listener));
        let arguments = ["perf", "local", "--streams", "3", "--time", "0.3", "--request-bytes", "5000"];
        let Command::Local { plan } = Cli::parse_from(arguments).command else { unreachable!() };
        let connection =
            connect(server.addr, Identity::Anonymous, Remote::Key(server.key), Config::default()).await.unwrap();
        let phases = client::run(&connection, &plan).await.unwrap();
        let moved: Vec<_> = phases.iter().map(|phase| (phase.name, phase.up > 0, phase.down > 0)).collect();
        assert_eq!(moved, [("idle", false, false), ("up", true, false), ("down", false, true), ("both", true, true)]);
        assert!(phases.iter().all(|phase| !phase.requests.is_empty()));
        assert!(report::table(&plan, &phases).contains("both"));
        let json = report::json(&plan, &phases);
        assert_eq!(json.matches('{').count(), json.matches('}').count(), "{json}");
        assert!(json.contains("\"streams\":3") && json.contains("\"name\":\"both\""), "{json}");
    }
}
