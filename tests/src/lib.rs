//! What the tests of peermux share: two connections in virtual time, without any I/O, and a peer that can say anything.

pub mod hostile;
mod pair;

pub use pair::{Pair, PairBuilder, Side, initiator_key, responder_key, rng};
