//! peermux/1 as a pure state machine.
#![no_std]
extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

pub mod code;
pub mod codec;
pub mod error;
mod id;
mod mux;
pub mod time;
pub mod varint;
mod wakers;
pub mod wire;

pub use id::{Role, StreamId};
/// The largest buffer that bounds hold for.
pub const MAX_INPUT_BUFFER: usize = 32 * 1024;
