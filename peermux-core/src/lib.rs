//! peermux/1 as a pure state machine.
#![no_std]
extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

pub mod code;
pub mod codec;
mod config;
pub mod connection;
pub mod crypto;
#[cfg(feature = "driver")]
pub mod driver;
mod early;
pub mod error;
#[cfg(feature = "std")]
mod error_io;
mod handshake;
mod id;
mod mux;
mod record;
pub mod time;
pub mod varint;
#[cfg(test)]
mod vectors;
mod wakers;
pub mod wire;

pub use config::{Config, ConfigError, Identity, Remote, ResponderKeys};
pub use connection::{Connection, EarlyOffer, Event, Mode, PeerInfo, RecvStream, SendStream, Transmit};
pub use early::{Refusal, StrikeRegister};
pub use id::{Role, StreamId};

/// The largest input buffer, in bytes, with which the memory bound of a connection holds.
pub const MAX_INPUT_BUFFER: usize = 32 * 1024;
