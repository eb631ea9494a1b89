//! peermux over blocking std threads: many prioritised streams on one encrypted TCP connection.
//!
//! [`connect`] dials, [`Listener`] accepts; both give a [`Connection`], which opens and accepts any number of [`Stream`]s. A stream is
//! [`Read`](std::io::Read) and [`Write`](std::io::Write), also by reference, so that one thread can read it and another write it; it has timeouts, and a
//! priority. Calls wait for what they need; handles can be dropped, and streams shut down, at any time.
//!
//! ```
//! # use peermux_std::{Config, Listener, Priority, Remote, StaticSecret, connect};
//! # use std::io::{Read, Write};
//! # use std::net::Shutdown;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host_key = StaticSecret::generate()?;
//! let host = host_key.public_key();
//! let listener = Listener::bind("127.0.0.1:0", host_key, Config::default())?;
//! let address = listener.local_addr();
//!
//! std::thread::spawn(move || {
//!     let connection = listener.accept().expect("a renter dials");
//!     while let Ok(mut stream) = connection.accept() {
//!         let mut request = Vec::new();
//!         stream.read_to_end(&mut request).expect("the renter finishes");
//!         stream.write_all(&request).expect("the renter reads");
//!         stream.shutdown(Shutdown::Write).expect("the renter reads");
//!     }
//! });
//!
//! let renter_key = StaticSecret::generate()?;
//! let connection = connect(address, renter_key, Remote::Key(host), Config::default())?;
//! let mut stream = connection.open("example/echo", Priority::default())?;
//! stream.write_all(b"hello")?;
//! stream.shutdown(Shutdown::Write)?;
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer)?;
//! assert_eq!(answer, b"hello");
//! connection.close(0, "done");
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | by default | what |
//! | --- | --- | --- |
//! | `ring` | yes | AEADs in assembly, several times the speed of the portable ones |
//! | `aws-lc-rs` | no | AEADs and X25519 in assembly, from AWS-LC: the fastest handshake; goes before `ring`, and needs a C compiler and Rust 1.95 |
//! | `serde` | no | [`PublicKey`], [`Priority`] and statistics in the formats of the crate `serde` |
//! | `tracing` | no | a span for each connection, and events of its life: see below |
//!
//! # Tracing
//!
//! With the feature `tracing` each connection has a span `connection`, with the fields `id` (a number of this process's), `role`, `address` and, once it is proved,
//! `peer` (its public key). All spans and events have the target `peermux`. No event has a secret in it, or data of a stream.
//!
//! | event | level | fields |
//! | --- | --- | --- |
//! | `dialing`, `accepted` | debug | |
//! | `established` | info | `version`, `suite`, `mode` and `anonymous`, as in [`PeerInfo`] |
//! | `stream opened`, `stream accepted` | trace | `stream`, `protocol`, `urgency`, `incremental` |
//! | `draining` | debug | `by`: `local` or `peer`; `code`, which is DUPLICATE where an [`Endpoint`] drops one of two connections with a peer |
//! | `closed` | info; warn where neither side wanted it; debug if a dialer has failed to get in, since everybody can | `reason`: the [`ConnectionError`] |
//! | `used again`, `closed as a duplicate` | debug | of an [`Endpoint`]: [`Endpoint::connect`] gave a connection that there was; one connection too many with a peer is closed |
//! | `stream refused` | debug | of an [`Endpoint`]: `protocol`, `code` |
//! | `refused while draining` | debug | of an [`Endpoint`]: a connection that was confirmed too late is closed with REFUSED |
//!
//! The protocol is in [spec](peermux_core::spec), and all of its logic in [`peermux_core`]; here are two threads for each connection and trait impls.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod connection;
mod endpoint;
mod listener;
mod pump;
mod reach;
mod signal;
mod stream;

pub use connection::{Connection, connect, connect_over, connect_with};
pub use endpoint::{Acceptor, Endpoint};
pub use listener::{AcceptError, Listener, accept_over};
pub use stream::Stream;

pub use peermux_core::code::{Code, ProtocolCode};
pub use peermux_core::crypto::{ParseKeyError, ParseSecretError, PublicKey, RandomnessError, StaticSecret, Zeroizing};
pub use peermux_core::dialing::ConnectError;
pub use peermux_core::endpoint::{EndpointLimits, RegisterError};
pub use peermux_core::error::{ConnectionError, OpenError, ReadError, WriteError};
pub use peermux_core::wire::Priority;
pub use peermux_core::{
    Approval, Config, ConfigError, Identity, KeyLog, Mode, PeerInfo, Remote, ResponderKeys, Stats, StreamStats,
    TrafficSecrets, is_retryable,
};
