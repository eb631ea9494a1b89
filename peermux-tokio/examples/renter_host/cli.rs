//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::rpc::{Hash, unhex};

/// A storage renter and its host, and what the connection between them changes.
///
/// Without a command: runs both here, with a slow link between them, and compares three ways to do the
/// same jobs: one plain TCP connection job by job, a plain TCP connection for every job, and
/// one peermux connection. While files go up they are downloaded again, a video is played from the host, and
/// both sides gossip.
///
/// With a command: a tool that stores files on another machine.
#[derive(Parser, Debug)]
#[command(name = "renter_host", args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub demo: Demo,
}

#[derive(Args, Debug)]
pub struct Demo {
    /// Files to upload and download again [default: a set that is made for the occasion]
    pub files: Vec<PathBuf>,
    /// Round trip of the link between renter and host, in ms
    #[arg(long, value_name = "MS", default_value = "20", value_parser = round_trip)]
    pub rtt: Duration,
    /// Rate of the link, each way, in Mbit/s
    #[arg(long, value_name = "MBIT", default_value = "200", value_parser = megabits)]
    pub rate: f64,
    /// No link in between: straight over loopback
    #[arg(long, conflicts_with_all = ["rtt", "rate"])]
    pub direct: bool,
    /// How many sectors may be on their way at once, in each direction
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Bit rate of the video, in Mbit/s
    #[arg(long, value_name = "MBIT", default_value = "40", value_parser = megabits)]
    pub video_rate: f64,
    /// How much to upload when no files are named, in MiB
    #[arg(long, value_name = "MIB", default_value = "48", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub size: u16,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Store files for renters
    Host {
        /// Where to listen, as ADDRESS:PORT
        #[arg(long, value_name = "ADDR")]
        listen: SocketAddr,
        /// Where to keep what is stored; created if it is not there
        #[arg(long)]
        dir: PathBuf,
        /// This host's secret key; created if it is not there [default: DIR/host.key]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Serve this renter only; may be given several times [default: serve everyone]
        #[arg(long, value_name = "KEY", value_parser = public_key)]
        allow: Vec<[u8; 32]>,
        /// Add the secrets of connections to this file, for tools/peermux.lua: whoever has it reads everything
        #[arg(long, value_name = "FILE")]
        key_log: Option<PathBuf>,
    },
    /// Upload files to a host; what it has already is not sent again
    Put {
        /// The host, as KEY@ADDRESS:PORT, which it prints when it starts
        #[arg(value_name = "KEY@ADDR")]
        host: Peer,
        /// What to upload; each file is stored under its name
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        renter: Renter,
    },
    /// Download a file from a host; one that was interrupted continues
    Get {
        /// The host, as KEY@ADDRESS:PORT, which it prints when it starts
        #[arg(value_name = "KEY@ADDR")]
        host: Peer,
        /// The file's name at the host
        name: String,
        /// Where to put it [default: its name, in this directory]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
        /// Refuse any other content than that of this id, which `put` prints
        #[arg(long)]
        id: Option<Hash>,
        #[command(flatten)]
        renter: Renter,
    },
    /// List the files that a host stores
    List {
        /// The host, as KEY@ADDRESS:PORT, which it prints when it starts
        #[arg(value_name = "KEY@ADDR")]
        host: Peer,
        #[command(flatten)]
        renter: Renter,
    },
}

#[derive(Args, Debug)]
pub struct Renter {
    /// This renter's secret key; created if it is not there
    #[arg(long, value_name = "FILE", default_value = "renter.key")]
    pub key: PathBuf,
    /// How many sectors may be on their way at once
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// How often to connect again before giving up
    #[arg(long, value_name = "TIMES", default_value = "5")]
    pub retries: u32,
    /// Add the secrets of connections to this file, for tools/peermux.lua: whoever has it reads everything
    #[arg(long, value_name = "FILE")]
    pub key_log: Option<PathBuf>,
}

/// A host: its public key, and where it is.
#[derive(Clone, Debug)]
pub struct Peer {
    pub key: [u8; 32],
    /// HOST:PORT, where HOST may be a name.
    pub addr: String,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, addr) = text.split_once('@').ok_or("a host is given as KEY@ADDRESS:PORT")?;
        let key = public_key(key)?;
        let port = addr.rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
        if port.parse::<u16>().is_err() {
            return Err(format!("{addr:?} has no port: a host is given as KEY@ADDRESS:PORT"));
        }
        Ok(Self { key, addr: addr.into() })
    }
}

fn public_key(text: &str) -> Result<[u8; 32], String> {
    unhex(text).ok_or_else(|| format!("a public key is 64 hexadecimal digits, not {:?}", text))
}

fn round_trip(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(ms) if (0.0..=2000.0).contains(&ms) => Ok(Duration::from_secs_f64(ms / 1000.0)),
        _ => Err("a round trip is 0 to 2000 (in ms)".into()),
    }
}

/// In bytes per second.
fn megabits(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(megabits) if (0.1..=1000.0).contains(&megabits) => Ok(megabits * 1e6 / 8.0),
        _ => Err("a rate is 0.1 to 1000 (in Mbit/s)".into()),
    }
}
