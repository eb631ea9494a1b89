//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use peermux_tokio::PublicKey;

use crate::target::{Forward, Target};

/// Forwards TCP ports through one peermux connection, with a priority for each.
#[derive(Parser, Debug)]
#[command(name = "tunnel", max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Add the secrets of connections to this file, for tools/peermux.lua: whoever has it reads everything
    #[arg(long, value_name = "FILE", global = true)]
    pub key_log: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// The far side: connects to targets for those who dial
    Listen(Listen),
    /// The near side: listens on local ports
    Dial(Dial),
}

#[derive(Args, Debug)]
#[group(id = "limits", required = true, multiple = true, args = ["allow", "peer"])]
pub struct Listen {
    /// Where to listen, as ADDRESS:PORT
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// This side's secret key; created if it is not there
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// A target that dialers may reach, by the very name that they give; may be given several times [default: every
    /// target, if --peer says who dials]
    #[arg(long, value_name = "HOST:PORT")]
    pub allow: Vec<Target>,
    /// Who may dial, by public key; may be given several times [default: whoever knows this side's public key, if --allow says
    /// what they reach]
    #[arg(long, value_name = "KEY")]
    pub peer: Vec<PublicKey>,
}

#[derive(Args, Debug)]
pub struct Dial {
    /// The far side, as KEY@ADDRESS:PORT, which it prints when it starts
    #[arg(value_name = "KEY@ADDR")]
    pub remote: Peer,
    /// A local port, and the target that it leads to. URGENCY is from 0, which goes first, to 7, which goes last; 3 by default. A LOCALPORT of 0 is any free one
    #[arg(short = 'L', required = true, value_name = "LOCALPORT:HOST:PORT[@URGENCY]")]
    pub forwards: Vec<Forward>,
    /// This side's secret key, for a far side that asks who dials; created if it is not there [default: anonymous]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// How often in a row to dial again when the connection is lost
    #[arg(long, value_name = "TIMES", default_value = "20")]
    pub retries: u32,
}

/// Somebody to dial: a public key, and where its holder is.
#[derive(Clone, Debug)]
pub struct Peer {
    pub key: PublicKey,
    /// HOST:PORT, where HOST may be a name.
    pub addr: String,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, addr) = text.split_once('@').ok_or("the far side is given as KEY@ADDRESS:PORT")?;
        let key = key.parse().map_err(|error| format!("{error}"))?;
        // What can be a target can be dialled.
        addr.parse::<Target>().map_err(|error| format!("the far side is given as KEY@ADDRESS:PORT; {error}"))?;
        Ok(Self { key, addr: addr.into() })
    }
}
