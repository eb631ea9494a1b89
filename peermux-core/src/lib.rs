//! peermux/1 as a pure state machine: many streams over one encrypted connection, without any I/O.
//!
//! A [`Connection`] is one end of a peermux connection. It consumes bytes and emits bytes. It has no socket, no thread, no clock and no
//! source of randomness, so the same code runs under Tokio, under blocking threads, on a microcontroller, and in a simulator. The crate is
//! `no_std` with `alloc`, and has no unsafe code. The protocol is specified in [spec]; most public items name their section.
//!
//! Most applications use [peermux-tokio](https://docs.rs/peermux-tokio) or [peermux-std](https://docs.rs/peermux-std) instead
//! of this crate. To write an adapter, read on here, then [the example `two_peers`][two_peers], then [the guide][adapters].
//!
//! [two_peers]: https://github.com/peermux/peermux/blob/main/peermux-core/examples/two_peers.rs
//! [adapters]: https://github.com/peermux/peermux/blob/main/docs/adapters.md
//!
//! ```text
//!      application                                                       the transport
//!
//!   open, accept, release          +-----------------------+
//!   send(id).write, finish ------->|                       |<------- handle_input, handle_slice
//!   recv(id).read, stop            |       Connection      |<------- handle_eof
//!                                  |                       |
//!   accept_peer, drain, close ---->|  streams: mux         |<------- handle_timeout(now)
//!                                  |  records: seal, open  |
//!   poll_event  <------------------|  handshake            |-------> poll_transmit
//!                                  +-----------------------+-------> poll_timeout
//! ```
//!
//! # The contract
//!
//! There are four kinds of methods.
//!
//! - **Inputs**, `handle_*`: bytes, the end of the transport, and times come in. They never fail. What is wrong with them becomes an
//!   [`Event::Closed`], bytes to send, and a state.
//! - **Outputs**, `poll_*`: bytes to send, events, the next timer. After any input or command, poll until there is nothing more:
//!   [`Connection::poll_event`] until `None`, [`Connection::poll_transmit`] until [`Transmit::Idle`] or [`Transmit::Finished`].
//! - **Commands**: what the application wants of the connection and its streams.
//! - **Getters**.
//!
//! The rest of the contract:
//!
//! - **Output is late.** Call [`Connection::poll_transmit`] only when the transport can take more. What goes into a record is decided in
//!   that call, so what is urgent goes first even if it came last.
//! - **Input is never held back.** Read from the transport whatever the application does. Credit limits what a peer may send.
//! - **Events follow questions.** [`Event::Readable`] and [`Event::Writable`] come once, after a call on that half has said that it
//!   is blocked. So try first, and wait then. An event can be older than the command that let go of its stream.
//! - **Time is an argument**: a [`time::Instant`], in microseconds from an epoch that the caller picks. Time that stands still or jumps back
//!   does no harm. [`Connection::poll_timeout`] says when [`Connection::handle_timeout`] is to be called; early and late calls do no harm either.
//! - **Randomness comes in once**, at construction, and seeds an internal generator. The same seed, calls and times give the same bytes. A generator
//!   that fails is an error there.
//! - **The end is told from a cut.** [`Connection::handle_eof`] before the peer's last record is an error, [`error::ConnectionError::Truncated`], for the
//!   connection and for each stream that had not finished. It never looks like the end of a stream.
//! - **Panics are bugs of this crate.** No input of a peer and no order of calls causes one.
//!
//! # Two peers in memory
//!
//! The transport is a function here, and time is virtual. Everything else is what an adapter does.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use peermux_core::code::Code;
//! use peermux_core::crypto::{Rng, StaticSecret};
//! use peermux_core::time::Instant;
//! use peermux_core::wire::Priority;
//! use peermux_core::{Config, Connection, Event, Identity, Remote, ResponderKeys, Transmit};
//!
//! /// Moves all that one side has to say to the other. Whether there was anything.
//! fn carry(from: &mut Connection, to: &mut Connection, now: Instant) -> bool {
//!     let mut buffer = [0; 16 * 1408];
//!     let mut moved = false;
//!     loop {
//!         match from.poll_transmit(now, &mut buffer).expect("the largest record fits") {
//!             Transmit::Bytes(len) => moved |= to.handle_slice(now, &mut buffer[..len]) == len,
//!             Transmit::Idle => return moved,
//!             Transmit::Finished => {
//!                 to.handle_eof(now);
//!                 return moved;
//!             }
//!         }
//!     }
//! }
//!
//! // Fixed keys and seeds are for examples: a real program takes them from the operating system or the hardware.
//! let (dialer_key, host_key) = (StaticSecret::from_bytes(&[1; 32]), StaticSecret::from_bytes(&[2; 32]));
//! let (mut dialer_rng, mut host_rng) = (Rng::from_seed(&[3; 32]), Rng::from_seed(&[4; 32]));
//! let mut now = Instant::ZERO;
//! let config = Arc::new(Config::default());
//! let remote = Remote::Key(host_key.public_key());
//! let mut dialer =
//!     Connection::initiator(config.clone(), Identity::Known(dialer_key), remote, now, &mut dialer_rng)?;
//! let mut host = Connection::responder(config, ResponderKeys::from(host_key), now, &mut host_rng)?;
//!
//! let mut answer = Vec::new();
//! while !(dialer.is_closed() && host.is_closed()) {
//!     // Output of one side is input of the other.
//!     let moved = carry(&mut dialer, &mut host, now) | carry(&mut host, &mut dialer, now);
//!
//!     while let Some(event) = dialer.poll_event() {
//!         match event {
//!             Event::Established(_) => {
//!                 let id = dialer.open(Some("example/greeting"), Priority::default())?;
//!                 dialer.send(id).write(b"hello")?;
//!                 dialer.send(id).finish()?;
//!                 // There is nothing to read yet. From here on an event will tell.
//!                 assert!(dialer.recv(id).read(&mut [0; 64]).is_err());
//!             }
//!             Event::Readable(id) => {
//!                 let mut buffer = [0; 64];
//!                 while let Ok(len @ 1..) = dialer.recv(id).read(&mut buffer) {
//!                     answer.extend_from_slice(&buffer[..len]);
//!                 }
//!                 dialer.release(id);
//!                 dialer.close(Code::NO_ERROR, "done");
//!             }
//!             _ => {}
//!         }
//!     }
//!
//!     while let Some(event) = host.poll_event() {
//!         if event == Event::StreamOpened {
//!             while let Some(id) = host.accept() {
//!                 let mut buffer = [0; 64];
//!                 // All of so short a request came in one record.
//!                 let len = host.recv(id).read(&mut buffer)?;
//!                 host.send(id).write(&buffer[..len].to_ascii_uppercase())?;
//!                 host.send(id).finish()?;
//!                 host.release(id);
//!             }
//!         }
//!     }
//!
//!     // Nothing moves at this moment: go to the next at which a timer expires.
//!     if !moved && let Some(next) = [dialer.poll_timeout(), host.poll_timeout()].into_iter().flatten().min() {
//!         now = now.max(next);
//!         dialer.handle_timeout(now);
//!         host.handle_timeout(now);
//!     }
//! }
//! assert_eq!(answer, b"HELLO");
//! assert!(now < Instant::ZERO + Duration::from_secs(1), "no timer was needed");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! - `ring`: AEADs in assembly, several times as fast as the portable ones, and AES-256-GCM where the processor computes it.
//! - `aws-lc-rs`: the same with the AEADs of AWS-LC, X25519 in assembly, and ML-KEM-768 in vector instructions: the fastest handshake. It needs a C compiler and Rust 1.95 to build. With both
//!   features the default is this one.
//! - `std`: errors become `std::io::Error`s, the hardware is looked at for AES, and new X25519 keys come from tables of 30 KB.
//! - `getrandom`: keys from the operating system's randomness, [`StaticSecret::generate`](crypto::StaticSecret).
//! - `serde`: public keys, priorities and statistics in the formats of the crate `serde`: keys are 64 hexadecimal digits where people read, and 32 bytes elsewhere.
//! - `ed25519`: attestations of scheme 1, which bind an Ed25519 key to a static key.
//! - `driver`: the modules `driver`, a connection behind a lock with wakers, `endpoint`, the connections of one key by their peers, and `dialing`, several addresses of one peer; for adapters. It includes `std`.
//! - `tracing`: the module `trace`, which is there with `driver` too, tells subscribers of that crate what becomes of connections. It includes `driver`.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod approval;
pub mod attestation;
pub mod code;
pub mod codec;
mod config;
pub mod connection;
pub mod crypto;
#[cfg(feature = "driver")]
pub mod dialing;
#[cfg(feature = "driver")]
pub mod driver;
mod early;
#[cfg(feature = "driver")]
pub mod endpoint;
pub mod error;
#[cfg(feature = "std")]
mod error_io;
mod handshake;
mod id;
mod key_log;
mod mux;
mod peers;
mod record;
mod retry;
mod shape;
/// The specification of the protocol, as it is shipped with this crate. The test vectors that it names are in the folder
/// `vectors` of the package.
#[cfg_attr(not(doctest), doc = "", doc = include_str!("../spec.md"))]
#[allow(rustdoc::invalid_rust_codeblocks, rustdoc::broken_intra_doc_links)]
pub mod spec {}
mod stats;
pub mod time;
#[cfg(feature = "driver")]
pub mod trace;
pub mod varint;
#[cfg(test)]
mod vectors;
mod wakers;
pub mod wire;

pub use approval::Approval;
pub use config::{Config, ConfigError, Identity, Remote, ResponderKeys};
pub use connection::{Connection, EarlyOffer, Event, PeerInfo, RecvStream, SendStream, Transmit};
pub use early::{Refusal, StrikeRegister};
pub use id::{Mode, Role, StreamId};
pub use key_log::{KeyLog, TrafficSecrets};
pub use peers::{PeerTable, Verdict};
#[cfg(feature = "std")]
pub use retry::is_retryable;
pub use stats::{FrameCounts, Stats, StreamStats, WaitTimes};

/// The largest input buffer, in bytes, with which the memory bound of a connection holds: that of one record of the largest size. A reader that
/// reads [`Connection::next_input_len`] bytes of a long record moves no part of the next one.
pub const MAX_INPUT_BUFFER: usize = wire::MAX_RECORD as usize * wire::QUANTUM;
