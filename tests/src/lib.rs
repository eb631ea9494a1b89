//! What the tests of peermux share: two connections in virtual time, without any I/O.

pub mod bench;
mod drivers;
pub mod hostile;
mod line;
mod pair;
pub mod sim;

pub use drivers::Drivers;
pub use line::{End, Line, Path};
pub use pair::{Pair, PairBuilder, Side, initiator_key, responder_key, rng};
