//! peermux over Tokio: many prioritised streams on one encrypted TCP connection.
//!
//! [`connect`] dials, [`Listener`] accepts; both give a [`Connection`], which opens and accepts any number of [`Stream`]s. A stream is
//! [`AsyncRead`](tokio::io::AsyncRead) and [`AsyncWrite`](tokio::io::AsyncWrite), can be split into halves that live in different tasks, and has a
//! priority.
//!
//! ```
//! # use peermux_tokio::{Config, Listener, Priority, Remote, StaticSecret, connect};
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host_key = StaticSecret::generate()?;
//! let host = host_key.public_key();
//! let mut listener = Listener::bind("127.0.0.1:0", host_key, Config::default()).await?;
//! let address = listener.local_addr();
//!
//! tokio::spawn(async move {
//!     let connection = listener.accept().await.expect("a renter dials");
//!     while let Ok(mut stream) = connection.accept().await {
//!         let mut request = Vec::new();
//!         stream.read_to_end(&mut request).await.expect("the renter finishes");
//!         stream.write_all(&request).await.expect("the renter reads");
//!         stream.shutdown().await.expect("the renter reads");
//!     }
//! });
//!
//! let renter_key = StaticSecret::generate()?;
//! let connection = connect(address, renter_key, Remote::Key(host), Config::default()).await?;
//! let mut stream = connection.open("example/echo", Priority::default())?;
//! stream.write_all(b"hello").await?;
//! stream.shutdown().await?;
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer).await?;
//! assert_eq!(answer, b"hello");
//! connection.close(0, "done").await;
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
//! | `futures-io` | no | [`Stream`], [`ReadHalf`] and [`WriteHalf`] have the traits `AsyncRead` and `AsyncWrite` of the crate `futures-io` as well as Tokio's |
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
//! | `early data accepted` | debug | `claimed`: the key that the dialer claims. A dialer is not told what became of its early data |
//! | `established` | info | `version`, `suite`, `mode` and `anonymous`, as in [`PeerInfo`] |
//! | `stream opened`, `stream accepted` | trace | `stream`, `protocol`, `urgency`, `incremental` |
//! | `draining` | debug | `by`: `local` or `peer`; `code`, which is DUPLICATE where an [`Endpoint`] drops one of two connections with a peer |
//! | `closed` | info; warn where neither side wanted it; debug if a dialer has failed to get in, since everybody can | `reason`: the [`ConnectionError`] |
//! | `used again`, `closed as a duplicate` | debug | of an [`Endpoint`]: [`Endpoint::connect`] gave a connection that there was; one connection too many with a peer is closed |
//! | `stream refused` | debug | of an [`Endpoint`]: `protocol`, `code` |
//! | `refused while draining` | debug | of an [`Endpoint`]: a connection that was confirmed too late is closed with REFUSED |
//!
//! The protocol is in [spec](peermux_core::spec), and all of its logic in [`peermux_core`]; here are one task for each connection and trait impls.
//! Whoever would wait in a read, a write, a flush or a shutdown does that task's work instead, as far as there is any: it reads and writes the socket, opens and seals records, and wakes
//! others. So bulk data needs no switch between tasks. It stops after 1 MiB, or when Tokio's budget is used up.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod connection;
mod endpoint;
#[cfg(feature = "futures-io")]
mod futures;
mod handover;
mod listener;
mod pump;
mod reach;
mod relay;
mod signal;
mod stream;
mod sync;
mod transport;

pub use connection::{Connection, Dialing, connect, connect_over, connect_with};
pub use endpoint::{Acceptor, Endpoint};
pub use listener::{AcceptError, Listener, accept_over};
pub use relay::relay;
pub use stream::{ReadHalf, Stream, WriteHalf};

pub use peermux_core::code::{Code, ProtocolCode};
pub use peermux_core::crypto::{ParseKeyError, ParseSecretError, PublicKey, RandomnessError, StaticSecret, Zeroizing};
pub use peermux_core::dialing::ConnectError;
pub use peermux_core::endpoint::{EndpointLimits, RegisterError};
pub use peermux_core::error::{ConnectionError, OpenError, ReadError, WriteError};
pub use peermux_core::wire::Priority;
pub use peermux_core::{
    Approval, Config, ConfigError, Identity, KeyLog, Mode, PeerInfo, Remote, ResponderKeys, Stats, StreamStats,
    StrikeRegister, TrafficSecrets, is_retryable,
};
